//! One round of what sockets do on a ring, to know before there are any whether the kernel lets them: that there is a ring is not to say that it may
//! be used, or does what is asked of it.

use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::task::{Context, Poll, Waker};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{Ring, RingSocket};

/// How long the kernel may take to say that bytes have come which are there.
const PATIENCE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

const QUESTION: &[u8] = b"question";
const ANSWER: &[u8] = b"answer";

impl Ring {
    /// Makes a ring, receives and sends on it, and hears of it. The error is the first that the kernel answered with.
    pub fn try_out() -> io::Result<()> {
        let ring = Self::new()?;
        let (ours, mut theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        let mut socket = RingSocket::new(&ring, OwnedFd::from(ours));
        let (mut cx, mut buffer) = (Context::from_waker(Waker::noop()), [0; 16]);
        if socket.poll_read(&mut cx, &mut buffer).is_ready() {
            return Err(io::Error::other("something comes from nowhere"));
        }
        ring.turn()?;
        theirs.write_all(QUESTION)?;
        if !ring.hears()? {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "io_uring does not say when something has come"));
        }
        ring.turn()?;
        let received = socket.has_received();
        match socket.poll_read(&mut cx, &mut buffer) {
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Ready(Ok(read)) if received && buffer[..read] == *QUESTION => {}
            Poll::Ready(Ok(_)) | Poll::Pending => return Err(io::Error::other("io_uring does not receive what has come")),
        }
        if !matches!(socket.poll_write(&mut cx, ANSWER)?, Poll::Ready(_)) {
            return Err(io::Error::other("a socket takes nothing"));
        }
        ring.turn()?;
        if socket.poll_sent(&mut cx)?.is_pending() {
            return Err(io::Error::other("io_uring does not send"));
        }
        let read = theirs.read(&mut buffer)?;
        if buffer[..read] == *ANSWER { Ok(()) } else { Err(io::Error::other("io_uring sends something else")) }
    }

    /// Whether the kernel says that something has come.
    fn hears(&self) -> io::Result<bool> {
        let state = self.state.borrow();
        let mut watched = [PollFd::new(state.kernel.signal(), PollFlags::IN)];
        Ok(poll(&mut watched, Some(&PATIENCE))? > 0)
    }
}
