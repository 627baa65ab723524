//! A plain socket on the worker's io_uring: what a [`Stream`](super::stream::Stream) needs to know of it beside its bytes.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use rustix::net::sockopt::socket_peercred;
use rustix::net::{RecvFlags, Shutdown, recv, shutdown};
use sidepool_ring::{Ring, RingSocket};
use socket2::SockRef;
use tokio::io::ReadBuf;

use super::stream::{Parcel, door};

/// A TCP or Unix socket on a ring.
#[derive(Debug)]
pub struct Ringed {
    pub(super) socket: RingSocket,
    unix: bool,
}

impl Ringed {
    /// A TCP connection.
    pub(super) fn tcp(ring: &Rc<Ring>, stream: std::net::TcpStream) -> Self {
        Self { socket: RingSocket::new(ring, OwnedFd::from(stream)), unix: false }
    }

    /// A Unix socket.
    pub(super) fn unix(ring: &Rc<Ring>, stream: std::os::unix::net::UnixStream) -> Self {
        Self { socket: RingSocket::new(ring, OwnedFd::from(stream)), unix: true }
    }

    pub(super) fn is_unix(&self) -> bool {
        self.unix
    }

    /// Ready when something has come, or nothing will any more: what a look at it answers, which takes nothing.
    pub(super) fn poll_peek(&self, cx: &mut Context<'_>) -> Poll<io::Result<(usize, usize)>> {
        loop {
            ready!(self.socket.poll_readable(cx));
            match self.peek() {
                // What was heard of has been read, or was only that the kernel had no buffer, or took no more.
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => self.socket.found_nothing(),
                peeked => return Poll::Ready(peeked),
            }
        }
    }

    /// Looks at what has come and was not read: bytes taken off the socket, or one still on it.
    pub(super) fn peek(&self) -> io::Result<(usize, usize)> {
        let mut byte = [0];
        if self.socket.has_received() {
            return Ok((1, 1));
        }
        if self.socket.has_ended() {
            return Ok((0, 0));
        }
        let peeked = self.socket.with_socket(|socket| recv(socket, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT));
        Ok(peeked.ok_or(io::ErrorKind::NotConnected)??)
    }

    pub(super) fn local_address(&self) -> Option<SocketAddr> {
        self.socket.with_socket(|socket| SockRef::from(&socket).local_addr().ok()?.as_socket()).flatten()
    }

    pub(super) fn peer_address(&self) -> Option<SocketAddr> {
        self.socket.with_socket(|socket| SockRef::from(&socket).peer_addr().ok()?.as_socket()).flatten()
    }

    /// The process and the user at the other end of a Unix socket.
    pub(super) fn peer_process(&self) -> (u32, Option<u32>) {
        let peer = self.socket.with_socket(|socket| socket_peercred(socket).ok()).flatten();
        let pid = peer.and_then(|peer| u32::try_from(peer.pid.as_raw_nonzero().get()).ok()).unwrap_or(0);
        (pid, peer.map(|peer| peer.uid.as_raw()))
    }

    pub(super) fn unix_door(&self) -> u32 {
        let number = self.socket.with_socket(|socket| {
            let address = SockRef::from(&socket).local_addr().ok()?;
            Some(door(address.as_pathname().map(|path| path.as_os_str().as_bytes()), address.as_abstract_namespace()))
        });
        number.flatten().filter(|_| self.unix).unwrap_or(0)
    }

    /// Takes it off the ring.
    pub(super) fn detach(self) -> io::Result<Parcel> {
        let socket = self.socket.leave()?;
        Ok(if self.unix { Parcel::Unix(socket.into()) } else { Parcel::Tcp(socket.into()) })
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // What has not been written to need not be, only to hear that there is nothing.
        ready!(self.socket.poll_readable(cx));
        let read = ready!(self.socket.poll_read(cx, buffer.initialize_unfilled()))?;
        buffer.advance(read);
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.socket.poll_sent(cx))?;
        let shut = self.socket.with_socket(|socket| shutdown(socket, Shutdown::Write));
        Poll::Ready(shut.unwrap_or(Ok(())).map_err(io::Error::from))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;
    use std::task::Waker;

    use super::*;

    #[test]
    fn that_a_wait_has_ended_is_not_that_something_was_said() {
        let Ok(ring) = Ring::new() else { return eprintln!("LEFT OUT: no io_uring here") };
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut stream = Ringed::unix(&ring, ours);
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..2 {
            assert!(stream.poll_peek(&mut cx).is_pending());
            ring.turn().unwrap();
            assert!(stream.socket.come_to_rest(Waker::noop()) && stream.socket.may_be_read(), "it may have been");
        }
        theirs.write_all(b"x").unwrap();
        assert!(matches!(stream.poll_peek(&mut cx), Poll::Ready(Ok((1, 1)))));
        assert!(matches!(stream.socket.poll_read(&mut cx, &mut [0; 8]), Poll::Ready(Ok(1))));
        assert!(stream.poll_peek(&mut cx).is_pending());
        drop(theirs);
        ring.turn().unwrap();
        assert!(matches!(stream.poll_peek(&mut cx), Poll::Ready(Ok((0, 0)))));
    }
}
