//! What the service manager is told, if one listens (systemd's `NOTIFY_SOCKET`): that we are ready, read the configuration again, are alive, or end.
//! Not here: finding out whether we are alive (`admin::liveness`), saying so in time (`app::watchdog`).

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::clock;

/// Names the socket.
const SOCKET: &str = "NOTIFY_SOCKET";

/// How long the manager waits for a sign of life before it starts us anew, in microseconds, and for whose.
const WATCHDOG: [&str; 2] = ["WATCHDOG_USEC", "WATCHDOG_PID"];

/// Clients can connect, with the configuration that was read last.
pub fn ready() {
    notify("READY=1");
}

/// The configuration is being read again.
pub fn reloading() {
    notify(&format!("RELOADING=1\nMONOTONIC_USEC={}", clock::monotonic_micros()));
}

/// All workers answer.
pub fn alive() {
    notify("WATCHDOG=1");
}

/// How long the manager waits for a sign of life, if it does.
#[must_use]
pub fn patience() -> Option<Duration> {
    let [micros, pid] = WATCHDOG.map(|name| std::env::var(name).ok());
    patience_of(micros?.parse().ok()?, pid.as_deref(), std::process::id())
}

/// Of what the variables say. Without a process it is for everybody.
fn patience_of(micros: u64, pid: Option<&str>, own: u32) -> Option<Duration> {
    let meant = pid.is_none_or(|pid| pid.parse() == Ok(own));
    (meant && micros > 0).then(|| Duration::from_micros(micros))
}

/// The end has begun.
pub fn stopping() {
    notify("STOPPING=1");
}

fn notify(state: &str) {
    let Some(socket) = std::env::var_os(SOCKET) else { return };
    if let Err(error) = send(&socket, state) {
        tracing::warn!(%error, "the service manager cannot be told: {state}");
    }
}

fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let datagrams = UnixDatagram::unbound()?;
    datagrams.set_nonblocking(true)?;
    datagrams.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_hears_it_at_a_path_and_at_a_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let name = format!("sidepool-notify-{}", std::process::id());
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        for (manager, socket) in [(UnixDatagram::bind(&path).unwrap(), path.as_os_str().to_owned()), (by_name, format!("@{name}").into())] {
            send(&socket, "READY=1").unwrap();
            let mut heard = [0; 64];
            let length = manager.recv(&mut heard).unwrap();
            assert_eq!(&heard[..length], b"READY=1");
        }
        assert!(send(OsStr::new("/nowhere/at/all"), "READY=1").is_err());
    }

    #[test]
    fn only_who_is_meant_gives_signs_of_life() {
        assert_eq!(patience_of(30_000_000, None, 7), Some(Duration::from_secs(30)));
        assert_eq!(patience_of(30_000_000, Some("7"), 7), Some(Duration::from_secs(30)));
        assert_eq!(patience_of(30_000_000, Some("8"), 7), None);
        assert_eq!(patience_of(0, None, 7), None);
    }
}
