//! One direction of a connection that is carried as it is: read, written, and read on only when everything was taken.

use std::task::{Context, Poll};

use crate::transport::stream::Stream;

/// How much is on its way at most.
const PIPE_BYTES: usize = 64 * 1024;

/// How much is written before others on the thread have their turn.
const TURN_BYTES: usize = 1024 * 1024;

/// One direction. It holds memory from its first byte on, as a connection that streams would have to get it again at once.
#[derive(Default)]
pub(super) struct Pipe {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    unsent: bool,
}

/// How it stands with a direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// There is nothing to read, or no room to write: the task will be woken.
    Waits,
    /// The reader's end of stream, everything before it delivered.
    Ended,
    /// Reading failed.
    ReaderLost,
    /// Writing failed.
    WriterLost,
}

impl Pipe {
    /// One in which these bytes are on their way.
    pub(super) fn begun(bytes: Vec<u8>) -> Self {
        Self { end: bytes.len(), buffer: bytes, start: 0, unsent: false }
    }

    /// Whether nothing is on its way.
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end && !self.unsent
    }

    /// Carries what can be carried now; `seen` is shown all that is read.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, from: &mut Stream, to: &mut Stream, mut seen: impl FnMut(&[u8])) -> Flow {
        let mut written = 0;
        loop {
            while self.start < self.end {
                match to.poll_write(cx, &self.buffer[self.start..self.end]) {
                    Poll::Pending => return Flow::Waits,
                    Poll::Ready(Ok(0) | Err(_)) => return Flow::WriterLost,
                    Poll::Ready(Ok(bytes)) => {
                        self.start += bytes;
                        self.unsent = true;
                        written += bytes;
                    }
                }
            }
            if self.unsent {
                match to.poll_sent(cx) {
                    Poll::Pending => return Flow::Waits,
                    Poll::Ready(Err(_)) => return Flow::WriterLost,
                    Poll::Ready(Ok(())) => self.unsent = false,
                }
            }
            if written >= TURN_BYTES {
                cx.waker().wake_by_ref();
                return Flow::Waits;
            }
            self.buffer.resize(PIPE_BYTES, 0);
            match from.poll_read(cx, &mut self.buffer) {
                Poll::Pending => return Flow::Waits,
                Poll::Ready(Ok(0)) => return Flow::Ended,
                Poll::Ready(Err(_)) => return Flow::ReaderLost,
                Poll::Ready(Ok(bytes)) => {
                    seen(&self.buffer[..bytes]);
                    (self.start, self.end) = (0, bytes);
                }
            }
        }
    }
}
