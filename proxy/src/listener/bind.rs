//! Opening the sockets that clients connect to. Done on the control thread, before anything is served, so that a failure is found in time.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sidepool_config::model::{Listen, Postgres};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};

/// Where the names and numbers of groups are.
const GROUPS: &str = "/etc/group";

/// When a silent peer is asked whether it is still there: after a minute, then every 15 s, and given up after four questions.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15)).with_retries(4);

/// How a socket listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How many clients the kernel queues before we accept them (it caps this at `net.core.somaxconn`).
    pub backlog: u32,
    /// Whether other processes may listen on the same address; the kernel then spreads the clients.
    pub reuse_port: bool,
    /// Whether `[::]` takes IPv6 clients alone, because `0.0.0.0` is listened on as well.
    pub only_v6: bool,
    /// Permissions of a Unix socket's file.
    pub unix_mode: u32,
    /// Group of a Unix socket's file, by name or number.
    pub unix_group: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { backlog: 4096, reuse_port: false, only_v6: false, unix_mode: 0o777, unix_group: None }
    }
}

impl From<&Postgres> for Options {
    fn from(postgres: &Postgres) -> Self {
        Self {
            backlog: postgres.listen_backlog,
            reuse_port: postgres.so_reuseport,
            only_v6: listens_on_all_v4(postgres),
            unix_mode: postgres.unix_socket_mode,
            unix_group: postgres.unix_socket_group.clone(),
        }
    }
}

fn listens_on_all_v4(postgres: &Postgres) -> bool {
    postgres.listen.iter().any(|listen| match listen {
        Listen::Tcp(address) => address.ip() == Ipv4Addr::UNSPECIFIED,
        Listen::Unix(_) => false,
    })
}

impl Options {
    /// Whether that listener was asked for only because every address was, on a machine that has no IPv6.
    #[must_use]
    pub fn may_be_without(&self, listen: &Listen, error: &io::Error) -> bool {
        let is_v6 = match listen {
            Listen::Tcp(address) => address.ip() == Ipv6Addr::UNSPECIFIED,
            Listen::Unix(_) => false,
        };
        self.only_v6 && is_v6 && is_without_v6(error)
    }

    fn backlog(&self) -> i32 {
        i32::try_from(self.backlog).unwrap_or(i32::MAX)
    }
}

/// Whether this is how a machine without IPv6 refuses to listen on one of its addresses.
#[must_use]
pub fn is_without_v6(error: &io::Error) -> bool {
    let cannot = [rustix::io::Errno::AFNOSUPPORT, rustix::io::Errno::ADDRNOTAVAIL].map(rustix::io::Errno::raw_os_error);
    error.raw_os_error().is_some_and(|number| cannot.contains(&number))
}

/// A bound and listening socket, not yet on any runtime.
#[derive(Debug)]
pub enum Bound {
    /// TCP.
    Tcp(std::net::TcpListener),
    /// Unix, with the file that goes when the listener does.
    Unix(std::os::unix::net::UnixListener, SocketFile),
}

impl Bound {
    /// Binds and listens.
    pub fn bind(listen: &Listen, options: &Options) -> io::Result<Self> {
        match listen {
            Listen::Tcp(address) => tcp(*address, options).map(Self::Tcp),
            Listen::Unix(path) => unix(path, options).map(|(listener, file)| Self::Unix(listener, file)),
        }
    }

    /// Takes over a socket that another process has bound and listened on.
    pub fn inherit(listen: &Listen, socket: OwnedFd) -> io::Result<Self> {
        match listen {
            Listen::Tcp(_) => {
                let listener = std::net::TcpListener::from(socket);
                listener.set_nonblocking(true)?;
                Ok(Self::Tcp(listener))
            }
            Listen::Unix(path) => {
                let listener = std::os::unix::net::UnixListener::from(socket);
                listener.set_nonblocking(true)?;
                Ok(Self::Unix(listener, SocketFile::of(path)?))
            }
        }
    }

    /// Takes over a socket that the service manager has opened and listens on; a file of it is the manager's.
    pub fn passed(listen: &Listen, socket: OwnedFd) -> io::Result<Self> {
        let mut bound = Self::inherit(listen, socket)?;
        match &mut bound {
            Self::Tcp(listener) => inherited_by_accepted(&SockRef::from(&*listener))?,
            Self::Unix(_, file) => file.give_away(),
        }
        Ok(bound)
    }

    /// The same socket once more, to give to another process.
    pub fn spare(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Tcp(listener) => listener.as_fd().try_clone_to_owned(),
            Self::Unix(listener, _) => listener.as_fd().try_clone_to_owned(),
        }
    }

    /// Where it really listens (the port, if the kernel chose it).
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }
}

/// Accepted connections inherit these from the listening socket (Linux), so that they cost no call per client.
fn inherited_by_accepted(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&KEEPALIVE)
}

/// Whether one could listen there. Nobody does, not even for a moment.
pub fn can_bind(address: SocketAddr, options: &Options) -> io::Result<()> {
    tcp_bound(address, options).map(drop)
}

fn tcp(address: SocketAddr, options: &Options) -> io::Result<std::net::TcpListener> {
    let socket = tcp_bound(address, options)?;
    socket.listen(options.backlog())?;
    Ok(socket.into())
}

fn tcp_bound(address: SocketAddr, options: &Options) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(options.reuse_port)?;
    if address.is_ipv6() && options.only_v6 {
        socket.set_only_v6(true)?;
    }
    inherited_by_accepted(&socket)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}

fn unix(path: &Path, options: &Options) -> io::Result<(std::os::unix::net::UnixListener, SocketFile)> {
    if let Some(name) = path.to_str().and_then(|path| path.strip_prefix('@')) {
        return abstract_unix(path, name, options);
    }
    remove_stale(path)?;
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    let file = SocketFile::of(path)?;
    if let Some(group) = &options.unix_group {
        chown(path, None, Some(group_number(group)?))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(options.unix_mode))?;
    SockRef::from(&listener).listen(options.backlog())?;
    listener.set_nonblocking(true)?;
    Ok((listener, file))
}

/// A socket with a name and no file: it goes with the process.
fn abstract_unix(path: &Path, name: &str, options: &Options) -> io::Result<(std::os::unix::net::UnixListener, SocketFile)> {
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
    let listener = std::os::unix::net::UnixListener::bind_addr(&address)?;
    SockRef::from(&listener).listen(options.backlog())?;
    listener.set_nonblocking(true)?;
    Ok((listener, SocketFile { path: path.to_owned(), device: 0, inode: 0, given_away: Default::default() }))
}

/// The number of a group that is given by name or by number.
fn group_number(group: &str) -> io::Result<u32> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    let groups = fs::read_to_string(GROUPS)?;
    let number = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(group)).then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    number.ok_or_else(|| io::Error::new(ErrorKind::NotFound, format!("unix_socket_group: there is no group \"{group}\" in {GROUPS}")))
}

/// Removes a socket that nobody listens on any more. Anything else at that path is left alone.
fn remove_stale(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(ErrorKind::AlreadyExists, "there is a file at this path which is not a socket"));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(ErrorKind::AddrInUse, "another process listens on this socket")),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}

/// A socket file that we made; removed when this is dropped, unless somebody else's has taken its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
    /// Somebody else listens on the socket from now on.
    given_away: bool,
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), device: metadata.dev(), inode: metadata.ino(), given_away: false })
    }
}

impl SocketFile {
    /// The file stays: another process listens on the socket from now on.
    pub fn give_away(&mut self) {
        self.given_away = true;
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours =
            !self.given_away && fs::symlink_metadata(&self.path).is_ok_and(|now| now.dev() == self.device && now.ino() == self.inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the socket file");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn accepted_connections_inherit_the_options() {
        let Bound::Tcp(listener) = Bound::bind(&Listen::Tcp(([127, 0, 0, 1], 0).into()), &Options::default()).unwrap() else {
            unreachable!()
        };
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let socket = SockRef::from(&accepted);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
    }

    #[test]
    fn a_stale_socket_file_is_replaced_and_a_living_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(".s.PGSQL.6432");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "the standard library leaves the file behind");
        let bound = Bound::bind(&Listen::Unix(path.clone()), &Options::default()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o777);
        UnixStream::connect(&path).unwrap();
        assert_eq!(Bound::bind(&Listen::Unix(path.clone()), &Options::default()).unwrap_err().kind(), ErrorKind::AddrInUse);
        drop(bound);
        assert!(!path.exists(), "removed at the end");
    }

    #[test]
    fn a_unix_socket_has_the_mode_and_the_group_it_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let own = fs::metadata(directory.path()).unwrap().gid();
        let options = Options { unix_mode: 0o640, unix_group: Some(own.to_string()), ..Options::default() };
        let _bound = Bound::bind(&Listen::Unix(path.clone()), &options).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.permissions().mode() & 0o777, metadata.gid()), (0o640, own));
        assert_eq!(group_number("root").unwrap(), 0);
        assert!(group_number("no such group").unwrap_err().to_string().contains("no such group"));
    }

    #[test]
    fn with_reuse_port_two_listen_where_one_does_without() {
        let shared = Options { reuse_port: true, ..Options::default() };
        let first = Bound::bind(&Listen::Tcp(([127, 0, 0, 1], 0).into()), &shared).unwrap();
        let address = Listen::Tcp(first.address().unwrap());
        assert!(Bound::bind(&address, &shared).is_ok());
        assert_eq!(Bound::bind(&address, &Options::default()).unwrap_err().kind(), ErrorKind::AddrInUse);
    }

    #[test]
    fn files_of_others_are_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("precious");
        fs::write(&path, "data").unwrap();
        assert_eq!(Bound::bind(&Listen::Unix(path.clone()), &Options::default()).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "data");

        let socket = directory.path().join("socket");
        let bound = Bound::bind(&Listen::Unix(socket.clone()), &Options::default()).unwrap();
        fs::remove_file(&socket).unwrap();
        let _successor = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        drop(bound);
        assert!(socket.exists(), "the file is the successor's");
    }
}
