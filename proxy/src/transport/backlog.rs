//! What a peer has not taken yet. Empty, and without memory, as long as the peer keeps up.
//!
//! A backlog is bounded by its owner, who stops reading the other side while it is not empty: it then never holds more than one read.

use std::io;
use std::task::{Context, Poll, ready};

use super::stream::Stream;

/// Bytes that wait for the peer.
#[derive(Debug, Default)]
pub struct Backlog {
    bytes: Vec<u8>,
    sent: usize,
    /// Everything was written, but the stream (TLS) still holds some of it.
    unsent: bool,
}

impl Backlog {
    /// Whether the peer has everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty() && !self.unsent
    }

    /// Sends `bytes` behind what already waits, and keeps what the peer does not take now.
    pub fn send(&mut self, stream: &mut Stream, cx: &mut Context<'_>, mut bytes: &[u8]) -> io::Result<()> {
        if self.bytes.is_empty() {
            while !bytes.is_empty() {
                match stream.poll_write(cx, bytes)? {
                    Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Poll::Ready(n) => bytes = &bytes[n..],
                    Poll::Pending => break,
                }
            }
        }
        self.bytes.extend_from_slice(bytes);
        if let Poll::Ready(sent) = stream.poll_sent(cx) {
            self.unsent = false;
            return sent;
        }
        self.unsent = true;
        Ok(())
    }

    /// Adds to what waits, without trying to send.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Sends what waits; gives the memory back when nothing is left.
    pub fn poll_flush(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.bytes.len() {
            match ready!(stream.poll_write(cx, &self.bytes[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.sent += n,
            }
        }
        ready!(stream.poll_sent(cx))?;
        *self = Self::default();
        Poll::Ready(Ok(()))
    }
}
