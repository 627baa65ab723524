//! The two ends of a connected socket, kept small: one is kept for each client, so that a list of clients need not ask the kernel.

use std::fmt;
use std::net::{SocketAddr, SocketAddrV4};

use super::stream::Stream;

/// The addresses of both ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ends {
    /// TCP over IPv4: theirs and ours.
    V4(SocketAddrV4, SocketAddrV4),
    /// TCP over IPv6: theirs and ours.
    V6(Box<(SocketAddr, SocketAddr)>),
    /// A Unix socket, with the process at the other end, if the kernel says.
    Unix(u32),
    /// Not known, or no more.
    Unknown,
}

/// One end, to be shown: an address without its port, or the word for what has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// An address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix,
    /// Not known.
    Unknown,
}

impl Ends {
    /// Those of this stream.
    #[must_use]
    pub fn of(stream: &Stream) -> Self {
        if let Some((pid, _)) = stream.unix_peer() {
            return Self::Unix(pid);
        }
        match stream.addresses() {
            Some((SocketAddr::V4(theirs), SocketAddr::V4(ours))) => Self::V4(theirs, ours),
            Some(both) => Self::V6(Box::new(both)),
            None => Self::Unknown,
        }
    }

    /// The other end.
    #[must_use]
    pub fn theirs(&self) -> End {
        match self {
            Self::V4(theirs, _) => End::Tcp(SocketAddr::V4(*theirs)),
            Self::V6(both) => End::Tcp(both.0),
            Self::Unix(_) => End::Unix,
            Self::Unknown => End::Unknown,
        }
    }

    /// The other end in the log: its address with the port, or what stands for it.
    #[must_use]
    pub fn peer(&self) -> String {
        match self.theirs() {
            End::Tcp(address) => address.to_string(),
            End::Unix => "unix".to_owned(),
            End::Unknown => "unknown".to_owned(),
        }
    }

    /// Our end.
    #[must_use]
    pub fn ours(&self) -> End {
        match self {
            Self::V4(_, ours) => End::Tcp(SocketAddr::V4(*ours)),
            Self::V6(both) => End::Tcp(both.1),
            Self::Unix(_) => End::Unix,
            Self::Unknown => End::Unknown,
        }
    }

    /// The process at the other end of a Unix socket; 0 if that is not known.
    #[must_use]
    pub fn process(&self) -> u32 {
        match self {
            Self::Unix(pid) => *pid,
            Self::V4(..) | Self::V6(_) | Self::Unknown => 0,
        }
    }
}

impl End {
    /// What tells it from all others: its address with the port.
    #[must_use]
    pub fn whole(&self) -> String {
        match self {
            Self::Tcp(address) => address.to_string(),
            Self::Unix | Self::Unknown => self.to_string(),
        }
    }

    /// Its port, if it has one.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(address) => Some(address.port()),
            Self::Unix | Self::Unknown => None,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.ip().fmt(f),
            Self::Unix => f.write_str("unix"),
            Self::Unknown => f.write_str(""),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_small_and_say_both_ends() {
        assert!(size_of::<Ends>() <= 16, "{}", size_of::<Ends>());
        let v4 = Ends::V4("10.0.0.1:5".parse().unwrap(), "10.0.0.2:6432".parse().unwrap());
        assert_eq!((v4.theirs().to_string(), v4.ours().to_string(), v4.ours().port()), ("10.0.0.1".into(), "10.0.0.2".into(), Some(6432)));
        let v6 = Ends::V6(Box::new(("[::1]:5".parse().unwrap(), "[::1]:6".parse().unwrap())));
        assert_eq!((v6.theirs().to_string(), v6.theirs().port(), v6.process()), ("::1".into(), Some(5), 0));
        assert_eq!((Ends::Unix(7).theirs().to_string(), Ends::Unix(7).process()), ("unix".into(), 7));
        assert_eq!(Ends::Unknown.theirs().to_string(), "");
    }
}
