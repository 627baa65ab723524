//! What a leased connection owes that only others can give (`BLPOP`, `WAIT`): a client that leaves is not waited for then, or the server would keep the
//! connection for it for as long as nobody gives anything, and give what comes to nobody.
//!
//! ```text
//!   GET, BLPOP, the end ──▶ GET is answered ──▶ BLPOP stands in front: what is there at once is given, and nothing else is waited for
//!   BLPOP … the end     ──▶ the connection is closed: whatever comes is somebody else's
//! ```
//! Whether it has left is otherwise seen by reading on. A client that has said more behind the request than is kept of it is looked at now and then; one
//! that has said more than the system keeps, too, hides its end behind that.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use sidepool_protocol::redis::command::Handling;
use sidepool_protocol::redis::request::{Arguments, RequestScanner, Scanned, parse_integer};
use tokio::time::{Sleep, sleep};

use super::client::Client;
use super::requests::has_block;
use crate::clock;
use crate::transport::stream::Stream;
use crate::upstream::redis::facts::Facts;

/// How often a client is looked at of which nothing more is read.
const LOOK: Duration = Duration::from_secs(1);

/// For how long a client that says no more may have said all of it at once, and a server to which it got may need to answer.
const BURST: Duration = Duration::from_millis(100);

/// For whom a request waits at the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Waits {
    /// For nobody.
    #[default]
    No,
    /// For others, and not for ever, and it takes nothing from anybody.
    AWhile,
    /// For others, who give something or do not.
    ForOthers,
}

impl Waits {
    /// What `request` does, of which at least the beginning is there. What the table does not have the server may have told (`facts`).
    pub(super) fn of(handling: Option<Handling>, request: &[u8], facts: &Facts) -> Self {
        let for_others = match handling {
            Some(Handling::Wait) if ends_by_itself(request) => return Self::AWhile,
            Some(Handling::Block | Handling::Wait) => true,
            Some(Handling::ShareUnlessBlock) => has_block(request),
            Some(_) => false,
            None => name(request).and_then(|name| facts.flags(&name.to_ascii_lowercase())).is_some_and(|flags| flags.blocks),
        };
        if for_others { Self::ForOthers } else { Self::No }
    }
}

/// What is asked for, if that much is there.
fn name(request: &[u8]) -> Option<&[u8]> {
    let mut scanner = RequestScanner::default();
    match scanner.scan(request, false) {
        Ok(Scanned::Request(whole)) => request.get(whole.name),
        Ok(Scanned::Incomplete { .. }) => scanner.name(request),
        Ok(Scanned::Nothing { .. } | Scanned::Inline { .. }) | Err(_) => None,
    }
}

/// Whether a `WAIT` or `WAITAOF` has a limit, or nothing to wait for.
fn ends_by_itself(request: &[u8]) -> bool {
    let numbers: Vec<Option<i64>> = Arguments::new(request).skip(1).map(parse_integer).collect();
    let Some((limit, counts)) = numbers.split_last() else { return true };
    limit.is_some_and(|limit| limit > 0) || counts.iter().all(|count| *count == Some(0))
}

/// The moment in which what is answered at once is answered.
pub(super) struct Burst {
    began: Instant,
    over: Option<Pin<Box<Sleep>>>,
}

impl Burst {
    /// It begins now.
    pub(super) fn begins() -> Self {
        Self { began: clock::now(), over: None }
    }

    /// Ready when it is over.
    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let left = BURST.saturating_sub(clock::now().saturating_duration_since(self.began));
        if left.is_zero() {
            return Poll::Ready(());
        }
        self.over.get_or_insert_with(|| Box::pin(sleep(left))).as_mut().poll(cx)
    }
}

/// The request that is answered next, if that is up to others.
#[derive(Default)]
pub(super) struct Blocked {
    burst: Option<Burst>,
    /// The next look at a client of which nothing is read.
    look: Option<Pin<Box<Sleep>>>,
}

impl Blocked {
    /// What is answered next is up to others now, or not.
    pub(super) fn follows(&mut self, is_up_to_others: bool) {
        if !is_up_to_others {
            *self = Self::default();
        } else if self.burst.is_none() {
            self.burst = Some(Burst::begins());
        }
    }

    /// It was answered; another may stand behind it.
    pub(super) fn ends(&mut self) {
        *self = Self::default();
    }

    /// Whether there is such a request, and what can be answered at once would have been.
    pub(super) fn is_past_its_burst(&mut self, cx: &mut Context<'_>) -> bool {
        self.burst.as_mut().is_some_and(|burst| burst.poll_over(cx).is_ready())
    }

    /// Whether `client`, of which nothing is read, has left meanwhile; looks again later.
    pub(super) fn has_left(&mut self, client: &Client, cx: &mut Context<'_>) -> bool {
        if self.burst.is_none() {
            return false;
        }
        loop {
            let look = self.look.get_or_insert_with(|| Box::pin(sleep(LOOK)));
            if look.as_mut().poll(cx) == Poll::Pending {
                return false;
            }
            self.look = None;
            if client.with_stream(Stream::has_hung_up) == Some(true) {
                return true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use sidepool_protocol::redis::command;
    use sidepool_protocol::redis::reply::Reply;

    use super::*;
    use crate::session::redis::requests::anew;

    /// What `words` do at a server that has `MOD.WAIT`, which waits, and `MOD.GET`, which does not.
    fn waits(words: &str) -> Waits {
        let text = |text: &str| Reply::Text(text.into());
        let row = |name, flag| Reply::List(vec![text(name), Reply::Integer(-2), Reply::List(vec![text(flag)])]);
        let facts = Facts::default();
        facts.learn_commands(&Reply::List(vec![row("mod.wait", "blocking"), row("mod.get", "readonly")]));
        let words: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
        Waits::of(command::lookup(words[0]).map(|command| command.handling), &anew(words.into_iter()), &facts)
    }

    #[test]
    fn what_has_a_limit_and_takes_nothing_waits_only_for_a_while() {
        for limited in ["WAIT 1 1000", "WAIT 0 0", "WAITAOF 1 1 10", "WAITAOF 0 0 0", "WAIT"] {
            assert_eq!(waits(limited), Waits::AWhile, "{limited}");
        }
        for others in ["WAIT 1 0", "WAITAOF 1 0 0", "BLPOP list 1", "BLPOP list 0", "XREAD BLOCK 10 STREAMS s $", "Mod.Wait k 0"] {
            assert_eq!(waits(others), Waits::ForOthers, "{others}");
        }
        for nobody in ["GET k", "XREAD STREAMS s 0", "MOD.GET k", "SOMETHING else"] {
            assert_eq!(waits(nobody), Waits::No, "{nobody}");
        }
    }
}
