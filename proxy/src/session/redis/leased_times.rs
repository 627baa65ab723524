//! How long the server takes for what a client runs on a connection of its own, for the log of slow commands (`slow_log`).
//!
//! From the moment at which a command is sent, or the one before it was answered, to the first byte of its reply. Not timed: what waits for somebody
//! else (`BLPOP`, `WAIT`), and what a transaction only queues; its `EXEC` is. Where the log does not ask, no clock is read.

use std::rc::Rc;
use std::time::{Duration, Instant};

use sidepool_protocol::redis::command::Command;

use super::blocked::blocks;
use super::group::Group;
use super::relay::What;
use super::slow_log::arguments;
use crate::clock;

/// The name of a command that the table does not have: what a client calls it is not for the log.
const UNLISTED: &str = "unlisted";

/// A command that has been sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked {
    command: &'static str,
    arguments: usize,
    since: Instant,
    /// It is not the server's fault how long it takes.
    waits: bool,
}

impl Asked {
    /// A command that is sent now; `None`: the server only puts it away.
    fn new(what: &What, command: Option<&'static Command>, request: &[u8], now: Instant) -> Option<Self> {
        let waits = blocks(command.map(|command| command.handling), request);
        match what {
            What::Multi | What::Queued(_) | What::Swallow | What::Own(_) => None,
            What::Plain | What::Changed(_) | What::Exec | What::Select(_) | What::Monitor => {
                let name = command.map_or(UNLISTED, |command| command.name);
                Some(Self { command: name, arguments: arguments(request), since: now, waits })
            }
        }
    }

    /// All of it has been sent only now.
    pub(super) fn is_sent(&mut self) {
        self.since = clock::now();
    }
}

/// The times of one lease.
#[derive(Default)]
pub(super) struct Times {
    group: Option<Rc<Group>>,
    /// When the bytes came that are looked at.
    now: Option<Instant>,
    /// When the reply began to come of which a part is there.
    began: Option<Instant>,
    /// When the last reply ended.
    last: Option<Instant>,
}

impl Times {
    /// Those of a connection of this group.
    pub(super) fn of(group: &Rc<Group>) -> Self {
        Self { group: Some(Rc::clone(group)), ..Self::default() }
    }

    /// How long a reply may take; zero: as long as it likes.
    pub(super) fn request_timeout(&self) -> Duration {
        self.group.as_ref().map_or(Duration::ZERO, |group| group.request_timeout())
    }

    /// From how long on the log wants to know.
    fn limit(&self) -> Option<Duration> {
        self.group.as_ref().and_then(|group| group.log_min_duration())
    }

    /// A command is sent; what is to be kept of it until it is answered.
    pub(super) fn ask(&self, what: &What, command: Option<&'static Command>, request: &[u8]) -> Option<Box<Asked>> {
        self.limit().and_then(|_| Asked::new(what, command, request, clock::now())).map(Box::new)
    }

    /// The server has sent something.
    pub(super) fn arrived(&mut self) {
        self.now = self.limit().map(|_| clock::now());
    }

    /// What has come so far ends in the middle of a reply.
    pub(super) fn began(&mut self) {
        self.began = self.began.or(self.now);
    }

    /// What began to come was no reply, and is over.
    pub(super) fn passed(&mut self) {
        self.began = None;
    }

    /// A reply is there, to this.
    pub(super) fn answered(&mut self, asked: Option<Box<Asked>>, client: u64) {
        let began = self.began.take().or(self.now);
        let (Some(asked), Some(began), Some(limit)) = (asked, began, self.limit()) else { return };
        let took = took(&asked, self.last, began);
        self.last = self.now;
        if let (false, Some(group)) = (asked.waits || took < limit, &self.group) {
            group.log_slow(group.leased.name(), client, asked.command, asked.arguments, took);
        }
    }
}

/// A server does one thing after the other.
fn took(asked: &Asked, last: Option<Instant>, began: Instant) -> Duration {
    began.saturating_duration_since(last.map_or(asked.since, |last| last.max(asked.since)))
}

#[cfg(test)]
mod tests {
    use sidepool_protocol::redis::command;

    use super::*;

    #[test]
    fn what_is_only_queued_is_not_timed_and_what_waits_is_nobodys_fault() {
        let now = clock::now();
        let asked = |what: What, name: &str, request: &[u8]| Asked::new(&what, command::lookup(name.as_bytes()), request, now);
        let set = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n";
        assert_eq!(asked(What::Queued(None), "set", set), None);
        assert_eq!(asked(What::Multi, "multi", b"*1\r\n$5\r\nMULTI\r\n"), None);
        let plain = asked(What::Plain, "set", set).unwrap();
        assert_eq!((plain.command, plain.arguments, plain.waits), ("set", 2, false));
        assert!(asked(What::Plain, "blpop", b"*3\r\n$5\r\nBLPOP\r\n$1\r\nk\r\n$1\r\n0\r\n").unwrap().waits);
        assert!(asked(What::Plain, "wait", b"*3\r\n$4\r\nWAIT\r\n$1\r\n1\r\n$1\r\n0\r\n").unwrap().waits);
        let read = b"*4\r\n$5\r\nXREAD\r\n$7\r\nSTREAMS\r\n$1\r\ns\r\n$1\r\n0\r\n";
        assert!(!asked(What::Plain, "xread", read).unwrap().waits);
        assert_eq!(asked(What::Plain, "a-secret", set).unwrap().command, UNLISTED);
    }

    #[test]
    fn a_command_is_not_slow_for_what_was_asked_before_it() {
        let start = clock::now();
        let at = |ms| start + Duration::from_millis(ms);
        let asked = |ms| Asked { command: "get", arguments: 1, since: at(ms), waits: false };
        assert_eq!(took(&asked(10), None, at(60)).as_millis(), 50);
        assert_eq!(took(&asked(10), Some(at(55)), at(60)).as_millis(), 5, "the server had something else to do");
        assert_eq!(took(&asked(10), Some(at(5)), at(60)).as_millis(), 50, "the client had");
    }

    #[test]
    fn a_push_that_came_in_two_parts_is_not_where_the_next_reply_began() {
        let start = clock::now();
        let mut times = Times { now: Some(start), ..Times::default() };
        times.began();
        times.passed();
        times.now = Some(start + Duration::from_millis(5));
        times.began();
        assert_eq!(times.began, times.now);
    }
}
