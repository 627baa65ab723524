//! What a peer has not taken yet. Empty, and without memory, as long as the peer keeps up.
//!
//! A backlog is bounded by its owner, who stops reading the other side while it is not empty: it then never holds more than one read. Who reads on
//! for a while [`reserve`](Backlog::reserve)s the room: all that wait for more than a read together have a [`Pot`] to take it from.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use super::stream::Stream;

/// What may wait for slow peers beyond one read each, all of them together.
#[derive(Debug, Clone)]
pub struct Pot(Rc<Cell<usize>>);

impl Pot {
    /// A pot of so many bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self(Rc::new(Cell::new(bytes)))
    }

    /// What is left in it.
    #[must_use]
    pub fn left(&self) -> usize {
        self.0.get()
    }
}

/// What was taken out of a pot; goes back when it is dropped.
#[derive(Debug)]
struct Share {
    pot: Pot,
    bytes: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.pot.0.set(self.pot.0.get() + self.bytes);
    }
}

/// Bytes that wait for the peer.
#[derive(Debug, Default)]
pub struct Backlog {
    waiting: Option<Box<Waiting>>,
    /// Everything was written, but the stream (TLS) still holds some of it.
    unsent: bool,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    sent: usize,
    share: Option<Share>,
}

impl Backlog {
    /// Whether the peer has everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_none() && !self.unsent
    }

    /// How many bytes wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.as_ref().map_or(0, |waiting| waiting.bytes.len() - waiting.sent)
    }

    /// Takes room for `more` bytes beside what waits out of the pot; false when that would be more than `most`, or than there is. The room is given
    /// back when nothing waits any more.
    pub fn reserve(&mut self, more: usize, most: usize, pot: &Pot) -> bool {
        let wanted = self.len() + more;
        let share = &mut self.waiting.get_or_insert_default().share;
        let missing = wanted.saturating_sub(share.as_ref().map_or(0, |share| share.bytes));
        if wanted > most || missing > pot.left() {
            return false;
        }
        pot.0.set(pot.left() - missing);
        share.get_or_insert_with(|| Share { pot: pot.clone(), bytes: 0 }).bytes += missing;
        true
    }

    /// Sends `bytes` behind what already waits, and keeps what the peer does not take now.
    pub fn send(&mut self, stream: &mut Stream, cx: &mut Context<'_>, mut bytes: &[u8]) -> io::Result<()> {
        if self.waiting.is_none() {
            while !bytes.is_empty() {
                match stream.poll_write(cx, bytes)? {
                    Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Poll::Ready(n) => bytes = &bytes[n..],
                    Poll::Pending => break,
                }
            }
        }
        self.push(bytes);
        if let Poll::Ready(sent) = stream.poll_sent(cx) {
            self.unsent = false;
            return sent;
        }
        self.unsent = true;
        Ok(())
    }

    /// Adds to what waits, without trying to send.
    pub fn push(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let waiting = self.waiting.get_or_insert_default();
        // Moved rarely enough to be cheap, and often enough that what was sent takes no more room than what was not.
        if waiting.sent > waiting.bytes.len() / 2 {
            waiting.bytes.drain(..waiting.sent);
            waiting.sent = 0;
        }
        waiting.bytes.extend_from_slice(bytes);
    }

    /// Sends what waits; gives the memory back when nothing is left.
    pub fn poll_flush(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(waiting) = &mut self.waiting {
            while waiting.sent < waiting.bytes.len() {
                match ready!(stream.poll_write(cx, &waiting.bytes[waiting.sent..]))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    n => waiting.sent += n,
                }
            }
        }
        ready!(stream.poll_sent(cx))?;
        *self = Self::default();
        Poll::Ready(Ok(()))
    }

    /// Sends what waits, and waits until the system has all that was ever sent.
    pub fn poll_drain(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(stream, cx))?;
        stream.poll_drained(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::UnixStream;

    #[tokio::test]
    async fn what_waits_comes_whole_and_its_room_goes_back() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (mut stream, mut backlog, pot) = (Stream::Unix(ours), Backlog::default(), Pot::new(3_000_000));
        let piece: Vec<u8> = (0..1_000_000_u32).map(|at| at as u8).collect();
        poll_fn(|cx| Poll::Ready(backlog.send(&mut stream, cx, &piece))).await.unwrap();
        let waiting = backlog.len();
        assert!(waiting > 0 && waiting < piece.len(), "the socket took some of it: {waiting}");
        assert!(backlog.reserve(piece.len(), 2_000_000, &pot));
        assert_eq!(pot.left(), 3_000_000 - waiting - piece.len());
        assert!(!backlog.reserve(2_000_000, 2_000_000, &pot), "no more than one may");
        backlog.push(&piece);
        let mut other = Backlog::default();
        assert!(!other.reserve(1_900_000, 2_000_000, &pot), "nor than all may together");
        assert!(other.reserve(100_000, 2_000_000, &pot));
        drop(other);
        let mut received = vec![0; 2 * piece.len()];
        let read = async { theirs.read_exact(&mut received).await.unwrap() };
        let (_, flushed) = tokio::join!(read, poll_fn(|cx| backlog.poll_flush(&mut stream, cx)));
        flushed.unwrap();
        assert!(received[..piece.len()] == piece && received[piece.len()..] == piece);
        assert!(backlog.is_empty() && pot.left() == 3_000_000);
    }

    #[tokio::test]
    async fn what_was_sent_is_not_kept() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (mut stream, mut backlog) = (Stream::Unix(ours), Backlog::default());
        let piece = vec![7; 100_000];
        let mut buffer = vec![0; 100_000];
        for _ in 0..3 {
            poll_fn(|cx| Poll::Ready(backlog.send(&mut stream, cx, &piece))).await.unwrap();
        }
        // It never catches up, and never falls further behind.
        for _ in 0..100 {
            let flushing = poll_fn(|cx| {
                let _ = backlog.poll_flush(&mut stream, cx);
                Poll::<()>::Pending
            });
            tokio::select! {
                read = theirs.read_exact(&mut buffer) => assert_eq!(read.unwrap(), piece.len()),
                () = flushing => {}
            }
            poll_fn(|cx| Poll::Ready(backlog.send(&mut stream, cx, &piece))).await.unwrap();
            let kept = backlog.waiting.as_ref().map_or(0, |waiting| waiting.bytes.len());
            assert!(kept <= 800_000, "{kept}");
        }
    }
}
