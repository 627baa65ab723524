//! A TCP socket that can leave its runtime while something (TLS) is wrapped around it, and join another.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A TCP socket, on a runtime or between two.
#[derive(Debug)]
pub enum Socket {
    /// On this worker's runtime.
    Attached(TcpStream),
    /// On its way to another worker.
    Detached(std::net::TcpStream),
    /// A change from one to the other failed.
    Gone,
}

impl Socket {
    /// Takes the socket off this thread's runtime.
    pub fn detach(&mut self) -> io::Result<()> {
        if let Self::Attached(stream) = std::mem::replace(self, Self::Gone) {
            *self = Self::Detached(stream.into_std()?);
        }
        Ok(())
    }

    /// Puts it onto this thread's runtime.
    pub fn attach(&mut self) -> io::Result<()> {
        if let Self::Detached(stream) = std::mem::replace(self, Self::Gone) {
            *self = Self::Attached(TcpStream::from_std(stream)?);
        }
        Ok(())
    }

    /// Where the other end found us.
    #[must_use]
    pub fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Attached(stream) => stream.local_addr().ok(),
            Self::Detached(stream) => stream.local_addr().ok(),
            Self::Gone => None,
        }
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Attached(stream) => stream.peer_addr().ok(),
            Self::Detached(stream) => stream.peer_addr().ok(),
            Self::Gone => None,
        }
    }

    fn stream(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        match self {
            Self::Attached(stream) => Ok(Pin::new(stream)),
            Self::Detached(_) | Self::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream()?.poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().stream()?.poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream()?.poll_shutdown(cx)
    }
}
