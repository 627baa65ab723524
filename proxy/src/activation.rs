//! Sockets that the service manager has opened for us and listens on already (systemd's socket activation, `LISTEN_FDS`).
//!
//! In an ini, they take the place of `listen_addr` and `unix_socket_dir`, as with PgBouncer. In a `sidepool.toml` each is used where one of this
//! address is configured. Not here: binding (`app::bindings`), what the manager is told (`service`).

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use listenfd::ListenFd;
use sidepool_config::model::Listen;

/// Most sockets that are taken.
const MOST: usize = 64;

/// One of them.
#[derive(Debug)]
struct Passed {
    listen: Listen,
    socket: OwnedFd,
}

/// The sockets that nobody has taken yet.
#[derive(Debug, Default)]
pub struct Sockets(Vec<Passed>);

impl Sockets {
    /// Takes what was passed to us. To be called before there is any other thread: it takes the variables out of the environment, so that
    /// nothing that we start believes that they are for it.
    #[must_use]
    pub fn take() -> Self {
        let mut passed = ListenFd::from_env();
        let count = passed.len().min(MOST);
        let take = |at| match passed.take_tcp_listener(at) {
            Ok(found) => tcp(found?),
            Err(_) => unix(passed.take_unix_listener(at).ok()??),
        };
        Self((0..count).filter_map(take).collect())
    }

    /// Where they listen.
    #[must_use]
    pub fn listens(&self) -> Vec<Listen> {
        self.0.iter().map(|passed| passed.listen.clone()).collect()
    }

    /// The one that listens there.
    #[must_use]
    pub fn get(&mut self, listen: &Listen) -> Option<OwnedFd> {
        let at = self.0.iter().position(|passed| passed.listen == *listen)?;
        Some(self.0.swap_remove(at).socket)
    }

    /// Says which ones nobody wants.
    pub fn warn_of_the_rest(self) {
        for Passed { listen, .. } in self.0 {
            tracing::warn!("the service manager listens on {listen}, which is not configured: it is closed");
        }
    }
}

fn tcp(listener: TcpListener) -> Option<Passed> {
    let listen = Listen::Tcp(listener.local_addr().ok()?);
    Some(Passed { listen, socket: listener.into() })
}

fn unix(listener: UnixListener) -> Option<Passed> {
    let address = listener.local_addr().ok()?;
    let path = match address.as_abstract_name() {
        Some(name) => PathBuf::from(std::ffi::OsStr::from_bytes(&[b"@", name].concat())),
        None => address.as_pathname()?.to_owned(),
    };
    Some(Passed { listen: Listen::Unix(path), socket: listener.into() })
}
