//! A network of its own between pooler and server, which can be cut: packets vanish, nobody is told. Linux, root and `ip` are needed.
//!
//! Behind the cut a relay (this program, started again inside of the network namespace) passes connections on to the server's Unix socket.
//! The cut is a neighbour table that leads to nobody, on both sides: no firewall is needed, and none is in the way.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sidepool_tests::process::Process;
use tokio::net::TcpListener;

use crate::stage::Connects;

const NOBODY: &str = "02:00:00:00:00:99";

/// A namespace with one cable. Gone with the last of its handles.
#[derive(Clone)]
pub struct Network {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    link: String,
    here: String,
    there: String,
    relay: Mutex<Option<Process>>,
}

impl Network {
    /// The port at which the relay listens.
    pub const PORT: u16 = 7000;

    /// Makes one; the error says what is missing.
    pub fn new() -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (process, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        // Addresses of the range for private networks that hardly anybody uses, others for each network.
        let prefix = format!("10.{}.{}", 200 + number % 50, process % 250);
        let name = format!("sidepool-{process}-{number}");
        ip(&["netns", "add", &name])?;
        let (here, there) = (format!("{prefix}.1"), format!("{prefix}.2"));
        let network = Self { inner: Arc::new(Inner { name, link: format!("sp{process}n{number}"), here, there, relay: Mutex::default() }) };
        let Inner { name, link, here, there, .. } = &*network.inner;
        let inside = format!("{link}i");
        ip(&["link", "add", link, "type", "veth", "peer", "name", &inside, "netns", name])?;
        ip(&["addr", "add", &format!("{here}/30"), "dev", link])?;
        ip(&["link", "set", link, "up"])?;
        ip(&["-n", name, "addr", "add", &format!("{there}/30"), "dev", &inside])?;
        ip(&["-n", name, "link", "set", &inside, "up"])?;
        Ok(network)
    }

    /// Starts the relay in front of a Unix socket, and gives its host.
    pub fn relay_to(&self, socket: &Path) -> String {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.inner.name]).arg(program()).arg("relay");
        command.arg(format!("{}:{}", self.inner.there, Self::PORT)).arg(socket);
        let relay = Process::spawn("relay", command);
        *self.inner.relay.lock().unwrap_or_else(PoisonError::into_inner) = Some(relay);
        self.inner.there.clone()
    }

    /// From now on every packet vanishes.
    pub fn cut(&self) {
        self.neighbours("replace", &["lladdr", NOBODY, "nud", "permanent"]);
    }

    /// From now on packets arrive again.
    pub fn mend(&self) {
        self.neighbours("del", &[]);
    }

    fn neighbours(&self, verb: &str, more: &[&str]) {
        let Inner { name, link, here, there, .. } = &*self.inner;
        ip(&[["neigh", verb, there, "dev", link].as_slice(), more].concat()).expect("it could be made");
        ip(&[["-n", name, "neigh", verb, here, "dev", &format!("{link}i")].as_slice(), more].concat()).expect("it could be made");
    }

    /// What the relay saw: it says the second of each connection.
    pub fn connects(&self) -> Connects {
        let relay = self.inner.relay.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = relay.as_ref().map(|relay| relay.log().lines()).unwrap_or_default();
        let most = lines.chunk_by(|one, next| one == next).map(<[String]>::len).max();
        Connects { total: crate::tally::count(lines.len()), most_per_second: most.map(crate::tally::count) }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.relay.lock().unwrap_or_else(PoisonError::into_inner).take());
        // The cable goes with the namespace.
        let _ = ip(&["netns", "del", &self.name]);
    }
}

/// The relay itself: passes connections to `address` on to a Unix socket, and prints the second of each.
pub async fn relay(address: &str, socket: &Path) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let began = std::time::Instant::now();
    loop {
        let (mut client, _) = listener.accept().await?;
        println!("{}", began.elapsed().as_secs());
        let server = UnixStream::connect(socket).and_then(|server| {
            server.set_nonblocking(true)?;
            tokio::net::UnixStream::from_std(server)
        });
        let Ok(mut server) = server else { continue };
        tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
    }
}

/// The program of the scenarios: ourselves, or beside a test of it.
fn program() -> PathBuf {
    let ourselves = std::env::current_exe().expect("we know where we are");
    let beside = ourselves.ancestors().skip(1).take(2).map(|directory| directory.join("scenarios"));
    beside.into_iter().find(|path| path.is_file()).unwrap_or(ourselves)
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).output().map_err(|error| format!("ip cannot be started: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}
