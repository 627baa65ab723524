//! A listening socket on a worker's runtime.
//!
//! It asks whether somebody is there before it accepts: an accept that finds nobody has made a socket in vain, which costs ten times as much, and there
//! would be one behind each client.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SocketFlags, accept_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpStream, UnixStream};

use super::bind::{Bound, SocketFile};
use crate::transport::ends::End;
use crate::transport::stream::Stream;

/// A listening socket.
pub(super) struct Socket {
    listening: AsyncFd<Listening>,
    /// The runtime has just heard that there is somebody.
    is_announced: Cell<bool>,
}

enum Listening {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener, SocketFile),
}

impl AsRawFd for Listening {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Tcp(listener) => listener.as_raw_fd(),
            Self::Unix(listener, _) => listener.as_raw_fd(),
        }
    }
}

impl Socket {
    /// Puts it onto this thread's runtime.
    pub(super) fn attach(bound: Bound) -> io::Result<Self> {
        let listening = match bound {
            Bound::Tcp(listener) => Listening::Tcp(listener),
            Bound::Unix(listener, file) => Listening::Unix(listener, file),
        };
        #[expect(
            deprecated,
            reason = "what takes its place is unsafe, for descriptors that change or close early: a listener that is kept here does neither"
        )]
        let listening = AsyncFd::with_interest(listening, Interest::READABLE)?;
        Ok(Self { listening, is_announced: Cell::new(true) })
    }

    /// The file of a Unix socket is not ours to remove any more.
    pub(super) fn give_away(&mut self) {
        match self.listening.get_mut() {
            Listening::Tcp(_) => {}
            Listening::Unix(_, file) => file.give_away(),
        }
    }

    pub(super) fn descriptor(&self) -> i32 {
        self.listening.as_raw_fd()
    }

    pub(super) fn at(&self) -> End {
        match self.listening.get_ref() {
            Listening::Tcp(listener) => listener.local_addr().map_or(End::Unknown, End::Tcp),
            Listening::Unix(..) => End::Unix,
        }
    }

    /// The next client, when there is one.
    pub(super) async fn accept(&self) -> io::Result<Stream> {
        loop {
            let mut readiness = self.listening.readable().await?;
            if self.is_announced.replace(false) || self.is_somebody_there()? {
                match accept_with(&self.listening, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                    Ok(socket) => return self.connected(socket),
                    // Somebody else who listens on this socket was faster, or the client is gone again.
                    Err(rustix::io::Errno::AGAIN) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            readiness.clear_ready();
            self.is_announced.set(true);
        }
    }

    fn is_somebody_there(&self) -> io::Result<bool> {
        let mut watched = [PollFd::new(&self.listening, PollFlags::IN)];
        match poll(&mut watched, Some(&Timespec::default())) {
            Ok(ready) => Ok(ready > 0),
            // It was not found out: an accept does.
            Err(rustix::io::Errno::INTR) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    fn connected(&self, socket: OwnedFd) -> io::Result<Stream> {
        match self.listening.get_ref() {
            Listening::Tcp(_) => TcpStream::from_std(socket.into()).map(Stream::Tcp),
            Listening::Unix(..) => UnixStream::from_std(socket.into()).map(Stream::Unix),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::yield_now;

    use super::*;

    #[tokio::test]
    async fn everybody_is_accepted_however_they_come() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let spare = listener.try_clone().unwrap();
        let socket = Socket::attach(Bound::Tcp(listener)).unwrap();
        for together in [1, 3, 1, 2] {
            let clients: Vec<_> = (0..together).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
            for _ in &clients {
                assert!(matches!(socket.accept().await.unwrap(), Stream::Tcp(_)));
            }
        }
        // Announced, and then gone to somebody else.
        let _taken = std::net::TcpStream::connect(address).unwrap();
        let other = async {
            drop(spare.accept().unwrap());
            yield_now().await;
            std::net::TcpStream::connect(address).unwrap()
        };
        socket.is_announced.set(true);
        let (next, accepted) = tokio::join!(other, socket.accept());
        let (Stream::Tcp(accepted), next) = (accepted.unwrap(), next.local_addr().unwrap()) else { panic!("TCP") };
        assert_eq!(accepted.peer_addr().unwrap(), next);
    }
}
