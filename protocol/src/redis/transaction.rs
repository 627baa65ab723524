//! Whether a transaction that a client sent is all there and may ride a shared connection, from its `MULTI` to its `EXEC`.

use super::command::{self, Gates, Handling};
use super::request::{RequestScanner, Scanned};

/// A transaction that is all there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed {
    /// How many bytes it has, `MULTI` and `EXEC` included.
    pub length: usize,
    /// How many replies it gets.
    pub replies: u32,
}

/// Looks at `bytes`, which begin with a `MULTI`. `None`: it is not all there, or something in it must not be sent down a shared connection.
#[must_use]
pub fn closed(bytes: &[u8], denied: Gates) -> Option<Closed> {
    let mut scanner = RequestScanner::default();
    let mut at = 0;
    let mut replies = 0;
    loop {
        let Ok(Scanned::Request(request)) = scanner.scan(&bytes[at..], false) else { return None };
        if !request.canonical {
            return None;
        }
        let known = command::lookup(&bytes[at + request.name.start..at + request.name.end]).filter(|known| !known.is_denied(denied))?;
        at += request.length;
        replies += 1;
        match known.handling {
            // MULTI takes no argument; with one the server refuses it, and what follows would run at once.
            Handling::Multi if replies == 1 && request.arguments == 1 => {}
            Handling::Exec | Handling::Discard if request.arguments == 1 => return Some(Closed { length: at, replies }),
            // A container may hide anything behind its second word; those few take a connection of their own.
            Handling::Share if !command::is_container(known) => {}
            // Inside a transaction nothing waits.
            Handling::ShareUnlessBlock | Handling::Block => {}
            _must_not_share => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::encode;

    fn bytes(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        for line in text.split(';') {
            let words: Vec<&[u8]> = line.split_whitespace().map(str::as_bytes).collect();
            encode::command(&mut out, &words);
        }
        out
    }

    #[test]
    fn a_whole_transaction_is_measured() {
        let all = bytes("MULTI;SET a b;BLPOP x 0;EXEC;GET a");
        let found = closed(&all, Gates::default()).unwrap();
        assert_eq!(found.replies, 4);
        assert!(all[found.length..].starts_with(b"*2\r\n$3\r\nGET"));
        assert!(closed(&bytes("MULTI;SET a b;DISCARD"), Gates::default()).is_some());
    }

    #[test]
    fn what_needs_its_own_connection_is_refused() {
        for text in [
            "MULTI",
            "MULTI;SET a b",
            "MULTI;SELECT 1;EXEC",
            "MULTI;SUBSCRIBE a;EXEC",
            "MULTI;CLIENT REPLY OFF;EXEC",
            "MULTI;FOO;EXEC",
            "MULTI;WATCH a;EXEC",
            "MULTI x;SET a b;EXEC",
            "MULTI;MULTI;EXEC",
            "MULTI;QUIT;EXEC",
            "MULTI;EXEC x",
        ] {
            assert_eq!(closed(&bytes(text), Gates::default()), None, "{text}");
        }
    }

    #[test]
    fn what_is_denied_is_not_let_through_inside() {
        let denied = Gates::default().with(command::Gate::Flush);
        assert!(closed(&bytes("MULTI;FLUSHALL;EXEC"), Gates::default()).is_some());
        assert_eq!(closed(&bytes("MULTI;FLUSHALL;EXEC"), denied), None);
    }
}
