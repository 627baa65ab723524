//! The two ends of a connected socket, kept small: one is kept for each client, so that a list of clients need not ask the kernel.

use std::fmt;
use std::net::{SocketAddr, SocketAddrV4};

use sidepool_config::model::Listen;

use super::stream::Stream;

/// The addresses of both ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ends {
    /// TCP over IPv4: theirs and ours.
    V4(SocketAddrV4, SocketAddrV4),
    /// TCP over IPv6: theirs and ours.
    V6(Box<(SocketAddr, SocketAddr)>),
    /// A Unix socket, with the process at the other end, if the kernel says, and a number of its own for each path that is listened on.
    Unix(u32, u32),
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
            return Self::Unix(pid, stream.unix_door());
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
            Self::Unix(..) => End::Unix,
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
            Self::Unix(..) => End::Unix,
            Self::Unknown => End::Unknown,
        }
    }

    /// What tells the listener that the client came through from all others. One that listens on every address of the machine is one.
    #[must_use]
    pub fn door(&self, listen: &[Listen]) -> String {
        match (self, self.ours()) {
            (Self::Unix(_, door), _) => format!("unix:{door}"),
            (_, End::Tcp(ours)) => {
                let bound = |wanted: &dyn Fn(&SocketAddr) -> bool| {
                    listen.iter().find_map(|listen| match listen {
                        Listen::Tcp(address) => wanted(address).then(|| address.to_string()),
                        Listen::Unix(_) => None,
                    })
                };
                let same_kind = |address: &SocketAddr| address.is_ipv4() == ours.is_ipv4();
                let everywhere =
                    |address: &SocketAddr| address.port() == ours.port() && address.ip().is_unspecified() && same_kind(address);
                bound(&|address| *address == ours).or_else(|| bound(&everywhere)).unwrap_or_else(|| ours.to_string())
            }
            (_, End::Unix | End::Unknown) => String::new(),
        }
    }

    /// The process at the other end of a Unix socket; 0 if that is not known.
    #[must_use]
    pub fn process(&self) -> u32 {
        match self {
            Self::Unix(pid, _) => *pid,
            Self::V4(..) | Self::V6(_) | Self::Unknown => 0,
        }
    }
}

impl End {
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
        assert_eq!((Ends::Unix(7, 1).theirs().to_string(), Ends::Unix(7, 1).process()), ("unix".into(), 7));
        assert_eq!(Ends::Unknown.theirs().to_string(), "");
    }

    #[test]
    fn those_who_came_through_one_listener_are_told_so_whatever_address_they_used() {
        let listen = ["0.0.0.0:6432", "[::]:6432", "10.0.0.2:6432", "127.0.0.1:7000"].map(|at| Listen::Tcp(at.parse().unwrap()));
        let door = |ours: &str| match ours.parse().unwrap() {
            SocketAddr::V4(ours) => Ends::V4("10.9.9.9:5".parse().unwrap(), ours).door(&listen),
            ours @ SocketAddr::V6(_) => Ends::V6(Box::new(("[::9]:5".parse().unwrap(), ours))).door(&listen),
        };
        assert_eq!([door("10.0.0.1:6432"), door("127.0.0.1:6432")], ["0.0.0.0:6432", "0.0.0.0:6432"]);
        assert_eq!([door("10.0.0.2:6432"), door("127.0.0.1:7000")], ["10.0.0.2:6432", "127.0.0.1:7000"]);
        assert_eq!([door("[::1]:6432"), door("[::ffff:10.0.0.1]:6432")], ["[::]:6432", "[::]:6432"]);
        // A socket that was handed to us and is not in the configuration.
        assert_eq!(door("10.0.0.1:9999"), "10.0.0.1:9999");
        assert_ne!(Ends::Unix(7, 1).door(&listen), Ends::Unix(7, 2).door(&listen));
        assert_eq!(Ends::Unix(7, 1).door(&listen), Ends::Unix(8, 1).door(&listen));
    }

    #[tokio::test]
    async fn unix_sockets_are_told_apart_by_their_paths() {
        let directory = tempfile::tempdir().unwrap();
        let mut ends = Vec::new();
        for name in ["one", "one", "other"] {
            let path = directory.path().join(name);
            let _ = std::fs::remove_file(&path);
            let listener = tokio::net::UnixListener::bind(&path).unwrap();
            let _client = tokio::net::UnixStream::connect(&path).await.unwrap();
            ends.push(Ends::of(&Stream::Unix(listener.accept().await.unwrap().0)).door(&[]));
        }
        assert_eq!(ends[0], ends[1]);
        assert_ne!(ends[0], ends[2]);
        // Those that are in no directory, too.
        for name in ["one", "other"] {
            let name = format!("{}-{name}", directory.path().display());
            let address = <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(&name).unwrap();
            let listener = std::os::unix::net::UnixListener::bind_addr(&address).unwrap();
            let client = std::os::unix::net::UnixStream::connect_addr(&address).unwrap();
            let server = listener.accept().unwrap().0;
            server.set_nonblocking(true).unwrap();
            ends.push(Ends::of(&Stream::Unix(tokio::net::UnixStream::from_std(server).unwrap())).door(&[]));
            drop(client);
        }
        assert_ne!(ends[3], ends[4]);
    }
}
