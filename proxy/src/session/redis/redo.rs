//! What the server did not execute is asked again: a script that it has never seen is loaded first, and a server that is loading, busy or not (yet) the
//! one to write to is given some time (`retry_timeout`). Only for a client that waits for nothing else: its next request waits meanwhile, so that the
//! order holds.

use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use sidepool_protocol::redis::command::{self, Kind, Replay};
use sidepool_protocol::redis::request::Arguments;
use sidepool_protocol::redis::tracker::Work;

use super::client::Redo;
use super::count;
use super::run::Session;
use super::steps::After;
use crate::pool::id::IdentityId;
use crate::pool::lease::Lease;
use crate::pool::reason::Condition;
use crate::upstream::redis::connector::RedisConnector;

/// The first pause; each is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Why something was not executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotExecuted {
    /// The server has not seen this script.
    NoScript,
    /// It may do it in a moment.
    NotNow,
    /// It is not the one to write to; another may be, behind the same name.
    NotHere,
}

/// Whether an error line says that the command was not executed.
pub fn not_executed(line: &[u8]) -> Option<NotExecuted> {
    let word = line.get(1..)?.split(|byte| *byte == b' ' || *byte == b'\r').next()?;
    match word {
        b"NOSCRIPT" => Some(NotExecuted::NoScript),
        b"LOADING" | b"TRYAGAIN" | b"BUSY" | b"MASTERDOWN" | b"CLUSTERDOWN" => Some(NotExecuted::NotNow),
        b"READONLY" => Some(NotExecuted::NotHere),
        _may_have_been => None,
    }
}

impl Session {
    /// Asks again until it is executed, or time is up. The client then hears the server's last word.
    pub(super) async fn redo(&mut self) -> After {
        let started = crate::clock::now();
        let deadline = started.checked_add(self.server.config().retry_timeout).unwrap_or(started);
        let (mut pause, mut loaded) = (FIRST_PAUSE, false);
        while let Some(Redo { request, line, why }) = self.client.take_redo() {
            let again = match why {
                NotExecuted::NoScript => !std::mem::replace(&mut loaded, true) && self.load_script(&request).await,
                NotExecuted::NotNow | NotExecuted::NotHere => self.wait_out(&mut pause, deadline).await,
            };
            if !self.client.is_alive() {
                return After::End;
            }
            if !again {
                self.client.deliver(&line, false);
                break;
            }
            let known = Arguments::new(&request).next().and_then(command::lookup);
            let work = if known.is_some_and(|known| known.replay == Replay::Safe) { Work::Reads } else { Work::Writes };
            let (kind, heavy) = known.map_or((Kind::Write, false), |known| (known.kind, known.heavy));
            // It was admitted when it was sent first, and has been waited for since: no line may keep it from its place.
            if self.attach(heavy).is_none() {
                self.client.deliver(&line, false);
                break;
            }
            self.share_admitted(&request, work, kind);
            if let Some(attached) = &self.attached {
                attached.group.shared.record().add(count::retry(why), 1);
            }
            let client = Rc::clone(&self.client);
            if self.wait_for(std::future::poll_fn(|_cx| client.poll_pending_below(1))).await.is_none() {
                return After::End;
            }
        }
        self.fresh = true;
        After::GoOn
    }

    /// Whether there is time for another try, after a pause.
    async fn wait_out(&mut self, pause: &mut Duration, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(crate::clock::now());
        if left.is_zero() {
            return false;
        }
        let this = (*pause).min(left);
        *pause = (*pause * 2).min(LONGEST_PAUSE);
        let mut sleep = Box::pin(tokio::time::sleep(this));
        self.wait_for(std::future::poll_fn(|cx| if sleep.as_mut().poll(cx).is_ready() { Poll::Ready(()) } else { Poll::Pending }))
            .await
            .is_some()
    }

    /// Loads the script that `EVALSHA` names, and all others that the server has lost; whether it may be there now.
    async fn load_script(&mut self, request: &[u8]) -> bool {
        let known = Arguments::new(request).nth(1).is_some_and(|name| self.server.facts.scripts.source(name).is_some());
        let Some(key) = self.key().filter(|_| known) else { return false };
        let pool = Rc::clone(&self.server.group(&key, &self.worker).leased);
        let Some(Ok(lease)) = self.wait_for(pool.acquire(IdentityId::default())).await else { return false };
        load_scripts(lease).await
    }
}

/// Loads what the server has lost; whether that worked.
pub async fn load_scripts(mut lease: Lease<RedisConnector>) -> bool {
    let connector = lease.pool().connector();
    let brought = connector.bring_scripts(&mut lease).await;
    lease.release(if brought.is_ok() { Condition::Clean } else { Condition::Broken });
    brought.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_surely_not_executed_is_asked_again() {
        assert_eq!(not_executed(b"-NOSCRIPT No matching script.\r\n"), Some(NotExecuted::NoScript));
        assert_eq!(not_executed(b"-LOADING Redis is loading\r\n"), Some(NotExecuted::NotNow));
        assert_eq!(not_executed(b"-READONLY You can't write\r\n"), Some(NotExecuted::NotHere));
        for line in [&b"-ERR unknown command\r\n"[..], b"-BUSYGROUP exists\r\n", b"-OOM no\r\n", b"-WRONGTYPE x\r\n", b"-", b""] {
            assert_eq!(not_executed(line), None);
        }
    }
}
