//! One connected socket, of whatever kind: TCP, Unix, either of them on the worker's io_uring, or TCP under TLS.
//!
//! It is polled, never `readable` and then `try_read`: polling lets the runtime skip the read that would only say "nothing there".

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use pin_project::pin_project;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, recv};
use sidepool_ring::Ring;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::ringed::Ringed;
use super::socket::Socket;
use super::tls::{Tls, TlsPeer};

/// What a socket that takes anything is likely to take as a whole.
const LITTLE: usize = 4096;

/// A connected socket.
#[pin_project(project = StreamProjection)]
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(#[pin] TcpStream),
    /// A Unix socket.
    Unix(#[pin] UnixStream),
    /// TCP under TLS.
    Tls(#[pin] Box<Tls>),
    /// TCP or a Unix socket on the worker's io_uring.
    Ring(Ringed),
}

/// Who is at the other end of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Somebody at this address.
    Tcp(SocketAddr),
    /// Somebody on this machine.
    Unix,
    /// Nobody any more.
    Gone,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
            Self::Gone => f.write_str("gone"),
        }
    }
}

/// A [`Stream`] taken off its worker's runtime, on its way to another worker.
#[derive(Debug)]
pub enum Parcel {
    /// TCP.
    Tcp(std::net::TcpStream),
    /// A Unix socket.
    Unix(std::os::unix::net::UnixStream),
    /// TCP under TLS.
    Tls(Box<Tls>),
}

impl Stream {
    /// What is known of the connection, if it is under TLS.
    #[must_use]
    pub fn tls_peer(&self) -> Option<TlsPeer<'_>> {
        match self {
            Self::Tcp(_) | Self::Unix(_) | Self::Ring(_) => None,
            Self::Tls(stream) => Some(stream.peer()),
        }
    }

    /// The connection's TLS as PgBouncer describes it (`TLSv1.3/TLS_AES_256_GCM_SHA384/ECDH=X25519`), if it is under TLS.
    #[must_use]
    pub fn tls_description(&self) -> Option<String> {
        self.tls_peer().map(|peer| peer.to_string())
    }

    /// Puts TLS over a TCP stream; leaves any other as it is.
    pub(super) fn cover(&mut self, make: impl FnOnce(Socket) -> Tls) {
        if let Self::Tcp(_) = self {
            let mut covered = Self::Tls(Box::new(make(Socket::Gone)));
            std::mem::swap(self, &mut covered);
            if let (Self::Tls(tls), Self::Tcp(stream)) = (self, covered) {
                *tls.socket_mut() = Socket::Attached(stream);
            }
        }
    }

    /// Puts a plain socket onto the worker's io_uring, if it has one; leaves any other as it is.
    pub fn onto_ring(self) -> io::Result<Self> {
        match (self, Ring::current()) {
            (Self::Tcp(stream), Some(ring)) => Ok(Self::Ring(Ringed::tcp(&ring, stream.into_std()?))),
            (Self::Unix(stream), Some(ring)) => Ok(Self::Ring(Ringed::unix(&ring, stream.into_std()?))),
            (other, _) => Ok(other),
        }
    }

    /// Whether the socket is a Unix socket.
    #[must_use]
    pub fn is_unix(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Ring(stream) => stream.is_unix(),
            Self::Tcp(_) | Self::Tls(_) => false,
        }
    }

    /// Reads what is there into `buffer`; `Ok(0)` is the end of the stream.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        if let Self::Ring(stream) = self {
            return stream.socket.poll_read(cx, buffer);
        }
        let mut target = ReadBuf::new(buffer);
        match AsyncRead::poll_read(Pin::new(self), cx, &mut target) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(target.filled().len())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Ready when there may be something to read, which is not taken.
    pub fn poll_said(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx).map(drop),
            Self::Unix(stream) => stream.poll_read_ready(cx).map(drop),
            Self::Tls(_) => Poll::Ready(()),
            Self::Ring(stream) => stream.poll_peek(cx).map(drop),
        }
    }

    /// Waits until the other side has left, without taking anything that it says. Once it has said something this waits for ever: whether it leaves
    /// behind that is seen when it is read. The same under TLS, where leaving is something that is said. It knows only what lies in the socket: who has
    /// read something that is still to be answered does not ask.
    pub async fn left(&self) {
        let peek = |socket: BorrowedFd<'_>| recv(socket, &mut [0], RecvFlags::PEEK | RecvFlags::DONTWAIT).map_err(io::Error::from);
        loop {
            let peeked = match self {
                Self::Tcp(stream) => stream.async_io(Interest::READABLE, || peek(stream.as_fd())).await,
                Self::Unix(stream) => stream.async_io(Interest::READABLE, || peek(stream.as_fd())).await,
                Self::Tls(_) => std::future::pending().await,
                Self::Ring(stream) => poll_fn(|cx| stream.poll_peek(cx)).await,
            };
            match peeked {
                Ok((0, _)) | Err(_) => return,
                Ok(_) => std::future::pending().await,
            }
        }
    }

    /// Writes as much of `bytes` as the socket takes.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // Of little the socket takes all, or nothing; for that the short way is enough.
        let written = match self {
            Self::Tcp(stream) if bytes.len() <= LITTLE => stream.try_write(bytes),
            Self::Unix(stream) if bytes.len() <= LITTLE => stream.try_write(bytes),
            Self::Ring(stream) => return stream.socket.poll_write(cx, bytes),
            Self::Tcp(_) | Self::Unix(_) | Self::Tls(_) => return AsyncWrite::poll_write(Pin::new(self), cx, bytes),
        };
        match written {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => AsyncWrite::poll_write(Pin::new(self), cx, bytes),
            written => Poll::Ready(written),
        }
    }

    /// Sees that what was written is on its way: TLS may still hold some of it. Does nothing for the others: a ring sends with its next
    /// turn whatever it has, and what is dropped, too; see [`poll_drained`](Self::poll_drained).
    pub fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(_) | Self::Unix(_) | Self::Ring(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    /// Ready when nothing of what was written is held in this process any more, neither by TLS nor by a ring.
    pub fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Ring(stream) => stream.socket.poll_sent(cx),
            Self::Tcp(_) | Self::Unix(_) | Self::Tls(_) => self.poll_sent(cx),
        }
    }

    /// Whether bytes of the other end lie in the socket that nobody has read.
    #[must_use]
    pub fn has_unread_bytes(&self) -> bool {
        let peeked =
            |socket: BorrowedFd<'_>| recv(socket, &mut [0], RecvFlags::PEEK | RecvFlags::DONTWAIT).is_ok_and(|(count, _)| count > 0);
        match self {
            Self::Tcp(stream) => peeked(stream.as_fd()),
            Self::Unix(stream) => peeked(stream.as_fd()),
            Self::Tls(_) => false,
            Self::Ring(stream) => stream.peek().is_ok_and(|(count, _)| count > 0),
        }
    }

    /// Whether nothing of the socket is held in this process, so that whoever gets it finds all that comes; the waker is woken when that may have
    /// changed by something having been sent. Never under TLS.
    pub fn is_at_rest(&mut self, waker: &Waker) -> bool {
        match self {
            Self::Tcp(_) | Self::Unix(_) => true,
            Self::Ring(stream) => stream.socket.come_to_rest(waker),
            Self::Tls(_) => false,
        }
    }

    /// Whether a read may find something: bytes, the end or an error. False means that one would wait, and costs no system call. Always true under
    /// TLS, where something may have been read that was not asked for yet.
    #[inline]
    #[must_use]
    pub fn may_be_read(&self) -> bool {
        match self {
            Self::Tcp(stream) => has_news(stream),
            Self::Unix(stream) => stream.try_io(Interest::READABLE, || Ok(())).is_ok(),
            Self::Tls(_) => true,
            Self::Ring(stream) => stream.socket.may_be_read(),
        }
    }

    /// Whether the other end has closed its direction or is gone, whatever lies in the socket before that. The kernel is asked only where the runtime
    /// has heard of something that nobody has read.
    #[must_use]
    pub fn has_hung_up(&self) -> bool {
        let may_have = match self {
            Self::Tcp(_) | Self::Unix(_) | Self::Ring(_) => self.may_be_read(),
            Self::Tls(stream) => match stream.socket() {
                Socket::Attached(stream) => has_news(stream),
                Socket::Detached(_) | Socket::Gone => true,
            },
        };
        may_have && self.is_hung_up()
    }

    fn is_hung_up(&self) -> bool {
        let hung_up = |socket: BorrowedFd<'_>| {
            let mut watched = [PollFd::from_borrowed_fd(socket, PollFlags::RDHUP)];
            let ended = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
            poll(&mut watched, Some(&Timespec::default())).is_ok_and(|_| watched[0].revents().intersects(ended))
        };
        match self {
            Self::Tcp(stream) => hung_up(stream.as_fd()),
            Self::Unix(stream) => hung_up(stream.as_fd()),
            Self::Tls(stream) => match stream.socket() {
                Socket::Attached(stream) => hung_up(stream.as_fd()),
                Socket::Detached(_) | Socket::Gone => true,
            },
            Self::Ring(stream) => stream.socket.has_ended() || stream.socket.with_socket(hung_up).unwrap_or(true),
        }
    }

    /// Where the other end found us, if that has an address.
    #[must_use]
    pub fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.local_addr().ok(),
            Self::Unix(_) => None,
            Self::Tls(stream) => stream.socket().local_address(),
            Self::Ring(stream) => stream.local_address(),
        }
    }

    /// The addresses of both ends, theirs first, if they have any.
    #[must_use]
    pub fn addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        let both = |stream: &TcpStream| stream.peer_addr().ok().zip(stream.local_addr().ok());
        match self {
            Self::Tcp(stream) => both(stream),
            Self::Unix(_) => None,
            Self::Tls(stream) => match stream.socket() {
                Socket::Attached(stream) => both(stream),
                Socket::Detached(_) | Socket::Gone => None,
            },
            Self::Ring(stream) => stream.peer_address().zip(stream.local_address()),
        }
    }

    /// The process at the other end of a Unix socket, as the kernel knows it: its id (0 if it has none) and its user. `None`: not a Unix socket.
    #[must_use]
    pub fn unix_peer(&self) -> Option<(u32, Option<u32>)> {
        match self {
            Self::Unix(stream) => {
                let peer = stream.peer_cred().ok();
                let pid = peer.and_then(|peer| u32::try_from(peer.pid()?).ok()).unwrap_or(0);
                Some((pid, peer.map(|peer| peer.uid())))
            }
            Self::Ring(stream) => stream.is_unix().then(|| stream.peer_process()),
            Self::Tcp(_) | Self::Tls(_) => None,
        }
    }

    /// A number that tells the Unix socket that it came through from others; 0 where that has no name.
    #[must_use]
    pub fn unix_door(&self) -> u32 {
        match self {
            Self::Unix(stream) => stream.local_addr().map_or(0, |address| {
                let path = address.as_pathname().map(|path| path.as_os_str().as_bytes());
                door(path, address.as_abstract_name())
            }),
            Self::Ring(stream) => stream.unix_door(),
            Self::Tcp(_) | Self::Tls(_) => 0,
        }
    }

    /// The number that the socket has in this process, to be shown; -1 if it has none.
    #[must_use]
    pub fn descriptor(&self) -> i32 {
        match self {
            Self::Tcp(stream) => stream.as_raw_fd(),
            Self::Unix(stream) => stream.as_raw_fd(),
            Self::Tls(stream) => match stream.socket() {
                Socket::Attached(stream) => stream.as_raw_fd(),
                Socket::Detached(_) | Socket::Gone => -1,
            },
            Self::Ring(stream) => stream.socket.descriptor(),
        }
    }

    /// Who is at the other end, for logs.
    #[must_use]
    pub fn peer(&self) -> Peer {
        match self {
            Self::Tcp(stream) => stream.peer_addr().map_or(Peer::Gone, Peer::Tcp),
            Self::Unix(_) => Peer::Unix,
            Self::Tls(stream) => stream.socket().peer_address().map_or(Peer::Gone, Peer::Tcp),
            Self::Ring(stream) if stream.is_unix() => Peer::Unix,
            Self::Ring(stream) => stream.peer_address().map_or(Peer::Gone, Peer::Tcp),
        }
    }

    /// Which user of the operating system has the other end of a Unix socket.
    #[must_use]
    pub fn peer_uid(&self) -> Option<u32> {
        match self {
            Self::Unix(stream) => stream.peer_cred().ok().map(|cred| cred.uid()),
            Self::Ring(stream) => stream.is_unix().then(|| stream.peer_process().1).flatten(),
            Self::Tcp(_) | Self::Tls(_) => None,
        }
    }

    /// Takes the socket off this thread's runtime. One on a ring is closed, with an error, if it is not [at rest](Self::is_at_rest).
    pub fn detach(self) -> io::Result<Parcel> {
        match self {
            Self::Tcp(stream) => stream.into_std().map(Parcel::Tcp),
            Self::Unix(stream) => stream.into_std().map(Parcel::Unix),
            Self::Tls(mut stream) => {
                stream.socket_mut().detach()?;
                Ok(Parcel::Tls(stream))
            }
            Self::Ring(stream) => stream.detach(),
        }
    }

    /// Puts a detached socket onto this thread's runtime.
    pub fn attach(parcel: Parcel) -> io::Result<Self> {
        match parcel {
            Parcel::Tcp(stream) => TcpStream::from_std(stream).map(Self::Tcp),
            Parcel::Unix(stream) => UnixStream::from_std(stream).map(Self::Unix),
            Parcel::Tls(mut stream) => {
                stream.socket_mut().attach()?;
                Ok(Self::Tls(stream))
            }
        }
    }
}

/// A number for the name of a Unix socket: its path, or that which is in no file.
pub(super) fn door(path: Option<&[u8]>, no_file: Option<&[u8]>) -> u32 {
    // What is in no file begins with a zero, as the system has it, so that it is none of the others.
    let (sign, name) = match path {
        Some(path) => (None, path),
        None => (Some(&0), no_file.unwrap_or_default()),
    };
    // FNV-1a: the same in every worker and process.
    let bytes = sign.filter(|_| !name.is_empty()).into_iter().chain(name);
    bytes.fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// Whether the runtime has heard of something to read that nobody has read.
fn has_news(stream: &TcpStream) -> bool {
    stream.try_io(Interest::READABLE, || Ok(())).is_ok()
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.project() {
            StreamProjection::Tcp(stream) => stream.poll_read(cx, buffer),
            StreamProjection::Unix(stream) => stream.poll_read(cx, buffer),
            StreamProjection::Tls(stream) => stream.poll_read(cx, buffer),
            StreamProjection::Ring(stream) => stream.poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.project() {
            StreamProjection::Tcp(stream) => stream.poll_write(cx, bytes),
            StreamProjection::Unix(stream) => stream.poll_write(cx, bytes),
            StreamProjection::Tls(stream) => stream.poll_write(cx, bytes),
            StreamProjection::Ring(stream) => stream.socket.poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.project() {
            StreamProjection::Tcp(stream) => stream.poll_flush(cx),
            StreamProjection::Unix(stream) => stream.poll_flush(cx),
            StreamProjection::Tls(stream) => stream.poll_flush(cx),
            StreamProjection::Ring(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.project() {
            StreamProjection::Tcp(stream) => stream.poll_shutdown(cx),
            StreamProjection::Unix(stream) => stream.poll_shutdown(cx),
            StreamProjection::Tls(stream) => stream.poll_shutdown(cx),
            StreamProjection::Ring(stream) => stream.poll_shutdown(cx),
        }
    }
}
