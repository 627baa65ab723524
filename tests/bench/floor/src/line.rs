//! A socket that does not block, of either kind, and the poll that tells of it.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

/// How many events are asked for at once.
const EVENTS: usize = 512;

/// One end of a connection.
pub(crate) enum Line {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
}

impl Line {
    /// A connection to this address, still blocking.
    pub(crate) fn tcp(to: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        Ok(Self::Tcp(stream))
    }

    /// The same to a Unix socket.
    pub(crate) fn unix(to: &Path) -> io::Result<Self> {
        UnixStream::connect(to).map(Self::Unix)
    }

    /// From now on it does not block.
    pub(crate) fn unblock(self) -> io::Result<Self> {
        match &self {
            Self::Tcp(stream) => stream.set_nonblocking(true)?,
            Self::Unix(stream) => stream.set_nonblocking(true)?,
        }
        Ok(self)
    }

    /// What there is to read; `None` if there is nothing, and nothing of nothing when the other side has left.
    pub(crate) fn read<'a>(&mut self, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
        let read = match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        };
        match read {
            Ok(read) => Some(&buffer[..read]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(_) => Some(&[]),
        }
    }

    /// Sends all of it, turning round until the other side has taken it; to one that has left nothing.
    pub(crate) fn send(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let sent = match self {
                Self::Tcp(stream) => stream.write(bytes),
                Self::Unix(stream) => stream.write(bytes),
            };
            match sent {
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

/// Where connections come in.
pub(crate) enum Door {
    /// By TCP.
    Tcp(TcpListener),
    /// By a Unix socket.
    Unix(UnixListener),
}

impl Door {
    /// The next one who is at it.
    pub(crate) fn accept(&self) -> io::Result<Line> {
        match self {
            Self::Tcp(door) => {
                let (stream, _) = door.accept()?;
                stream.set_nodelay(true)?;
                Line::Tcp(stream)
            }
            Self::Unix(door) => Line::Unix(door.accept()?.0),
        }
        .unblock()
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(door) => door.as_fd(),
            Self::Unix(door) => door.as_fd(),
        }
    }
}

/// Tells which of many have something to read.
pub(crate) struct Poll {
    epoll: OwnedFd,
    events: Vec<Event>,
}

impl Poll {
    /// Of none yet.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)?, events: Vec::with_capacity(EVENTS) })
    }

    /// Of this one, too; told again only when there is more to read than before.
    pub(crate) fn add(&self, of: &impl AsFd, number: usize) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, of, EventData::new_u64(number as u64), EventFlags::IN | EventFlags::ET | EventFlags::RDHUP)?)
    }

    /// Of those who come in here, told again as long as there are any.
    pub(crate) fn add_door(&self, door: &Door, number: usize) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, door, EventData::new_u64(number as u64), EventFlags::IN)?)
    }

    /// Waits for some, and says how many there are.
    pub(crate) fn wait(&mut self) -> io::Result<usize> {
        self.events.clear();
        Ok(epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), None)?)
    }

    /// The number of one of them.
    pub(crate) fn ready(&self, at: usize) -> usize {
        let data = self.events[at].data;
        usize::try_from(data.u64()).unwrap_or(usize::MAX)
    }
}
