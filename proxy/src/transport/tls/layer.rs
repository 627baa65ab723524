//! A socket under TLS, polled like any other. What is read from the socket and what is written to it passes through memory of the thread; of its
//! own a connection holds only what is half-way: part of a record, plain bytes that nobody has taken, records that the socket has not taken.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use sidepool_config::tls::ClientContext;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::handshake::Done;
use super::peer::TlsPeer;
use super::session::Session;
use crate::transport::socket::Socket;

/// Most plain bytes that are encrypted in one go: four full records.
const WRITE_BYTES: usize = 64 * 1024;

/// Room for those as records, and for what the session itself has to say before them.
const SCRATCH_BYTES: usize = WRITE_BYTES + 8 * 1024;

/// Least that is read in one go: a full record, or one that is longer than the caller's buffer could never be completed.
const RECORD_BYTES: usize = 17 * 1024;

thread_local! {
    /// Records just read or about to be written. Lent for the length of one poll.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice());
}

/// A socket under TLS.
pub struct Tls {
    socket: Socket,
    session: Session,
    /// The start of a record of which the rest has not come.
    records: Vec<u8>,
    /// What the peer said and nobody has taken yet.
    plain: Pending,
    /// Records that the socket has not taken yet.
    outgoing: Pending,
    /// The peer says nothing more.
    ended: bool,
    /// We say nothing more.
    closing: bool,
    /// What the client was met with; `None` towards servers.
    context: Option<Arc<ClientContext>>,
}

/// Bytes of which the front is done with. Empty, it holds no memory.
#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    done: usize,
}

impl Pending {
    fn rest(&self) -> &[u8] {
        &self.bytes[self.done..]
    }

    fn is_empty(&self) -> bool {
        self.done == self.bytes.len()
    }

    fn consume(&mut self, count: usize) {
        self.done += count;
        if self.is_empty() {
            *self = Self::default();
        }
    }
}

impl Tls {
    pub(super) fn new(socket: Socket, done: Done, context: Option<Arc<ClientContext>>) -> Self {
        let Done { session, records, plain, closed } = done;
        let plain = Pending { bytes: plain, done: 0 };
        Self { socket, session, records, plain, outgoing: Pending::default(), ended: closed, closing: false, context }
    }

    /// The socket beneath.
    #[must_use]
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The socket beneath.
    pub fn socket_mut(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// Gives back the last bytes that were read, to be read again.
    pub fn unread(&mut self, bytes: &[u8]) {
        let rest = [bytes, self.plain.rest()].concat();
        self.plain = Pending { bytes: rest, done: 0 };
    }

    /// How much memory its buffers hold.
    #[cfg(test)]
    pub(super) fn buffered_capacity(&self) -> usize {
        self.records.capacity() + self.plain.bytes.capacity() + self.outgoing.bytes.capacity()
    }

    /// What is known of the connection.
    #[must_use]
    pub fn peer(&self) -> TlsPeer<'_> {
        TlsPeer(self)
    }

    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    pub(super) fn context(&self) -> Option<&Arc<ClientContext>> {
        self.context.as_ref()
    }

    /// Hands over what was decrypted before; false when there is nothing.
    fn take_plain(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        if self.plain.is_empty() {
            return false;
        }
        let count = self.plain.rest().len().min(buffer.remaining());
        buffer.put_slice(&self.plain.rest()[..count]);
        self.plain.consume(count);
        true
    }

    /// Reads from the socket once and decrypts what came, straight into `buffer` as far as there is room. The answer is how much came.
    fn poll_fill(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let kept = self.records.len();
            let limit = (kept + buffer.remaining().max(RECORD_BYTES)).min(scratch.len());
            if kept >= limit {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "a TLS message that never ends")));
            }
            let mut target = ReadBuf::new(&mut scratch[kept..limit]);
            ready!(Pin::new(&mut self.socket).poll_read(cx, &mut target))?;
            let came = target.filled().len();
            if came == 0 {
                // Whether the peer has said goodbye does not matter: the protocol above says itself where its messages end.
                self.ended = true;
                return Poll::Ready(Ok(0));
            }
            scratch[..kept].copy_from_slice(&self.records);
            let plain = &mut self.plain.bytes;
            let advanced = self.session.advance(
                &mut scratch[..kept + came],
                &mut |bytes| {
                    let now = if plain.is_empty() { bytes.len().min(buffer.remaining()) } else { 0 };
                    buffer.put_slice(&bytes[..now]);
                    plain.extend_from_slice(&bytes[now..]);
                },
                &mut self.outgoing.bytes,
            );
            let advance = match advanced {
                Ok(advance) => advance,
                Err(error) => {
                    let _ = self.poll_out(cx);
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
                }
            };
            self.keep(&scratch[advance.used..kept + came]);
            self.ended |= advance.closed;
            Poll::Ready(Ok(came))
        })
    }

    /// Keeps the start of a record; gives the memory back when there is none.
    fn keep(&mut self, rest: &[u8]) {
        if rest.is_empty() {
            self.records = Vec::new();
        } else {
            self.records.clear();
            self.records.extend_from_slice(rest);
        }
    }

    /// Sends what waits.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_write(cx, self.outgoing.rest()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.outgoing.consume(count),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Encrypts into the thread's memory, sends as much as the socket takes, and keeps the rest. Only when nothing waits.
    fn send(&mut self, cx: &mut Context<'_>, bytes: Option<&[u8]>) -> io::Result<()> {
        SCRATCH.with_borrow_mut(|scratch| {
            let written = match bytes {
                Some(bytes) => self.session.encrypt(bytes, &mut self.records, scratch)?,
                None => self.session.close(&mut self.records, scratch)?,
            };
            let mut sent = 0;
            while sent < written {
                match Pin::new(&mut self.socket).poll_write(cx, &scratch[sent..written]) {
                    Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                    Poll::Ready(Ok(count)) => sent += count,
                    Poll::Ready(Err(error)) => return Err(error),
                    Poll::Pending => break,
                }
            }
            self.outgoing.bytes.extend_from_slice(&scratch[sent..written]);
            Ok(())
        })
    }
}

impl AsyncRead for Tls {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        loop {
            if this.take_plain(buffer) || this.ended || buffer.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            ready!(this.poll_fill(cx, buffer))?;
            // What the session has to answer by itself (a new key) goes out as soon as it can, and at the latest with what we write next.
            if let Poll::Ready(Err(error)) = this.poll_out(cx) {
                return Poll::Ready(Err(error));
            }
            if buffer.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Tls {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(this.poll_out(cx))?;
        let count = bytes.len().min(WRITE_BYTES);
        this.send(cx, Some(&bytes[..count]))?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_out(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_out(cx))?;
        if !std::mem::replace(&mut this.closing, true) {
            this.send(cx, None)?;
            ready!(this.poll_out(cx))?;
        }
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tls({})", self.peer())
    }
}
