//! What a client did wrong on the wire, in the words that Redis has for it.

use std::fmt;

/// A request that no Redis would take. Redis answers with an error and closes; so do we.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestFault {
    /// The number of arguments is not one.
    MultibulkLength,
    /// More arguments than a stranger may send.
    UnauthenticatedMultibulkLength,
    /// The line with the number of arguments does not end.
    MultibulkLine,
    /// Something else stands where the length of an argument should.
    ExpectedDollar(u8),
    /// The length of an argument is not one, or too much.
    BulkLength,
    /// A longer argument than a stranger may send.
    UnauthenticatedBulkLength,
    /// The line with the length of an argument does not end.
    BulkLine,
    /// An inline request that does not end.
    InlineTooBig,
    /// An inline request with a quote too many.
    UnbalancedQuotes,
    /// A web browser, or somebody who makes one talk to us. Redis closes without a word.
    Http,
}

impl RequestFault {
    /// The error line that Redis answers with, without the leading `-` and the line end; `None`: it says nothing. Not always UTF-8.
    #[must_use]
    pub fn line(&self) -> Option<Vec<u8>> {
        let text = match self {
            Self::MultibulkLength => "invalid multibulk length",
            Self::UnauthenticatedMultibulkLength => "unauthenticated multibulk length",
            Self::MultibulkLine => "too big mbulk count string",
            Self::ExpectedDollar(found) => {
                let shown = if *found == b'\r' || *found == b'\n' { b' ' } else { *found };
                return Some([b"ERR Protocol error: expected '$', got '", &[shown][..], b"'"].concat());
            }
            Self::BulkLength => "invalid bulk length",
            Self::UnauthenticatedBulkLength => "unauthenticated bulk length",
            Self::BulkLine => "too big bulk count string",
            Self::InlineTooBig => "too big inline request",
            Self::UnbalancedQuotes => "unbalanced quotes in request",
            Self::Http => return None,
        };
        Some(format!("ERR Protocol error: {text}").into_bytes())
    }
}

impl fmt::Display for RequestFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line() {
            Some(line) => f.write_str(&String::from_utf8_lossy(&line)),
            None => f.write_str("HTTP on a Redis port"),
        }
    }
}

/// Bytes from a server that are not RESP. The connection cannot be used any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameFault {
    /// No type begins with this byte.
    Type(u8),
    /// A length is not a number, or out of all bounds.
    Length,
    /// A line end is missing.
    LineEnd,
    /// A reply announces more elements than any server can hold.
    Elements,
}

impl fmt::Display for FrameFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Type(byte) => write!(f, "a reply begins with byte {byte:#04x}, which is no RESP type"),
            Self::Length => f.write_str("a reply announces a length that is not a number or out of bounds"),
            Self::LineEnd => f.write_str("a reply lacks a line end"),
            Self::Elements => f.write_str("a reply announces more elements than any server can hold"),
        }
    }
}
