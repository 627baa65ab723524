//! What a client has said that nobody has looked at yet, while it logs in: read in pieces as large as they come, so that a message costs one system call.
//!
//! What is said too early is kept for whoever is next, and is never more than a piece beyond what a message may have. A piece of each client may be held
//! beyond its turn, too: those who are in, and wait for the first connection to their server. Not here: what messages mean.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

use crate::transport::buffer::Buffers;
use crate::transport::stream::Stream;

/// How much is read at a time: more than clients say before they hear from us.
pub(super) const PIECE_BYTES: usize = 4096;

/// What has been heard of one client.
#[derive(Debug, Default)]
pub(super) struct Heard(Vec<u8>);

impl Heard {
    /// All of it.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Listens until there is something new, of which it takes so much at most. Fails at the end of the stream.
    pub(super) async fn more(&mut self, stream: &mut Stream, buffers: &Buffers, most: usize) -> io::Result<()> {
        poll_fn(|cx| self.poll_more(cx, stream, buffers, most)).await
    }

    pub(super) fn poll_more(&mut self, cx: &mut Context<'_>, stream: &mut Stream, buffers: &Buffers, most: usize) -> Poll<io::Result<()>> {
        let buffer = &mut buffers.read.borrow_mut()[..most];
        let read = ready!(stream.poll_read(cx, buffer))?;
        // Memory follows the bytes that really come, and not the length that is claimed.
        self.0.reserve_exact(read);
        self.0.extend_from_slice(&buffer[..read]);
        Poll::Ready(if read == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) })
    }

    /// Takes so many bytes; the rest is kept.
    pub(super) fn take(&mut self, bytes: usize) -> Vec<u8> {
        let rest = self.0.split_off(bytes);
        std::mem::replace(&mut self.0, rest)
    }

    /// Takes what is left.
    pub(super) fn rest(self) -> Vec<u8> {
        self.0
    }
}
