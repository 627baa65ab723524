//! Commands whose replies take long, in the log: which command, with how many arguments, and how long; never what they were. Here: those on shared
//! connections. (Those of a client that has a connection of its own: `leased_times`.)
//!
//! Lanes are looked at every hundredth of a second while there is work (`slow`): what is found waiting at one look and still at the next is timed from
//! there. So a command pays nothing, and times are right to about two looks.

use std::cell::Cell;
use std::time::{Duration, Instant};

use sidepool_protocol::redis::command::Command;
use sidepool_protocol::redis::request::parse_integer;

/// The request at the front of a lane, of which the reply is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Waited {
    /// Its command.
    pub command: &'static Command,
    /// How many words there are behind the command's name.
    pub arguments: usize,
    /// Whose it is.
    pub client: u64,
    /// Since when it was seen to be waited for.
    pub since: Instant,
    /// How far the lane was.
    progress: u32,
}

impl Waited {
    /// The request in these bytes, by the client of this number, found now, `progress` being how far the lane is.
    #[must_use]
    pub fn new(command: &'static Command, request: &[u8], client: u64, now: Instant, progress: u32) -> Self {
        Self { command, arguments: arguments(request), client, since: now, progress }
    }
}

/// How many words there are behind the name of the command, of which only the beginning need be there.
#[must_use]
pub fn arguments(request: &[u8]) -> usize {
    let head = request.strip_prefix(b"*").and_then(|rest| rest.split(|byte| *byte == b'\r').next());
    let words = head.and_then(parse_integer).and_then(|words| usize::try_from(words).ok());
    words.unwrap_or_default().saturating_sub(1)
}

/// What one lane has been waiting for.
#[derive(Debug, Default)]
pub struct SlowLog(Cell<Option<Waited>>);

impl SlowLog {
    /// A look at the lane, which is `progress` far: whether the request at its front is news, so that it is to be noted.
    pub fn is_news(&self, progress: u32) -> bool {
        self.0.get().is_none_or(|waited| waited.progress != progress)
    }

    /// Nobody wants to know: nothing is timed.
    pub fn forget(&self) {
        self.0.set(None);
    }

    /// Notes it; answers what was waited for before, and how long, if that was long enough.
    pub fn note(&self, waited: Option<Waited>, now: Instant, limit: Duration) -> Option<(Waited, Duration)> {
        let before = self.0.replace(waited)?;
        let took = now.saturating_duration_since(before.since);
        (took >= limit).then_some((before, took))
    }
}

#[cfg(test)]
mod tests {
    use sidepool_protocol::redis::command;

    use super::*;
    use crate::clock;

    #[test]
    fn what_is_waited_for_is_told_when_it_is_over() {
        let (log, start) = (SlowLog::default(), clock::now());
        let at = |ms| start + Duration::from_millis(ms);
        let eval = command::lookup(b"eval").unwrap();
        let request = b"*3\r\n$4\r\nEVAL\r\n$1\r\nx\r\n$1\r\n0\r\n";
        assert!(log.is_news(7));
        assert!(log.note(Some(Waited::new(eval, request, 3, at(10), 7)), at(10), Duration::from_millis(50)).is_none());
        assert!(!log.is_news(7) && log.is_news(8));
        let (told, took) = log.note(None, at(70), Duration::from_millis(50)).unwrap();
        assert_eq!((told.command.name, told.arguments, told.client, took.as_millis()), ("eval", 2, 3, 60));
        assert!(log.note(Some(Waited::new(eval, request, 3, at(80), 9)), at(80), Duration::from_millis(50)).is_none());
        assert!(log.note(None, at(129), Duration::from_millis(50)).is_none(), "not long enough");
    }

    #[test]
    fn what_was_waited_for_while_nobody_asked_is_not_told_later() {
        let (log, start) = (SlowLog::default(), clock::now());
        let get = command::lookup(b"get").unwrap();
        let request = b"*2\r\n$3\r\nGET\r\n$1\r\nx\r\n";
        assert!(log.note(Some(Waited::new(get, request, 3, start, 7)), start, Duration::from_millis(50)).is_none());
        log.forget();
        assert!(log.is_news(7));
        assert!(log.note(None, start + Duration::from_secs(3600), Duration::from_millis(50)).is_none());
    }
}
