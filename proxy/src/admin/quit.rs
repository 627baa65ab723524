//! `/quitquitquit`: how the last container of a Job ends the sidecar beside it where Kubernetes does not. Only for who is on this machine, and
//! only where the configuration allows it: everybody else has SIGTERM.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Whether one may ask for the end, and whether somebody has.
#[derive(Debug, Default)]
pub struct Quit {
    allowed: AtomicBool,
    asked: Notify,
}

/// Why nothing came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The configuration does not allow it.
    NotAllowed,
    /// It came from another machine.
    NotLocal,
}

impl Quit {
    /// Whether one may ask, as the configuration says.
    pub fn allow(&self, allowed: bool) {
        self.allowed.store(allowed, Ordering::Relaxed);
    }

    /// Asks for the end.
    pub fn ask(&self, from: SocketAddr) -> Result<(), Refusal> {
        if !from.ip().to_canonical().is_loopback() {
            return Err(Refusal::NotLocal);
        }
        if !self.allowed.load(Ordering::Relaxed) {
            return Err(Refusal::NotAllowed);
        }
        self.asked.notify_one();
        Ok(())
    }

    /// Waits until somebody has asked. May be dropped and called again.
    pub async fn asked(&self) {
        self.asked.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_from_here_and_only_if_it_is_allowed() {
        let quit = Quit::default();
        let [here, mapped, there] = ["127.0.0.9:1", "[::ffff:127.0.0.1]:1", "10.0.0.1:1"].map(|text| text.parse().unwrap());
        assert_eq!(quit.ask(here), Err(Refusal::NotAllowed));
        quit.allow(true);
        assert_eq!(quit.ask(there), Err(Refusal::NotLocal));
        assert_eq!((quit.ask(here), quit.ask(mapped)), (Ok(()), Ok(())));
    }
}
