//! Addresses that listeners bind: `127.0.0.1:6432`, `[::1]:6432`, `*:6432`, `localhost:6432`, `unix:/run/sidepool`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::model::Listen;
use crate::problem::shown;

/// The longest path of a Unix socket that the kernel takes (`sun_path` with its closing zero).
const LONGEST_SOCKET_PATH_BYTES: usize = 107;

/// Which clients a listener is for: the two write their Unix sockets differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Postgres,
    Redis,
}

impl Protocol {
    /// Where it listens when nothing is said.
    pub(crate) fn default_listen(self) -> Listen {
        Listen::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, self.default_port())))
    }

    fn default_port(self) -> u16 {
        match self {
            Self::Postgres => 6432,
            Self::Redis => 6380,
        }
    }
}

/// Reads a list of listeners. Every item that cannot be read has its index and what is wrong in the second list.
pub(crate) fn parse_all<'t>(texts: impl IntoIterator<Item = &'t str>, protocol: Protocol) -> (Vec<Listen>, Vec<(usize, String)>) {
    let (mut listens, mut wrong) = (Vec::new(), Vec::new());
    for (index, text) in texts.into_iter().enumerate() {
        let parsed = match text.trim().strip_prefix("unix:") {
            Some(path) => absolute(path).map(Listen::Unix),
            None => parse_tcp(text).map(Listen::Tcp),
        };
        match parsed {
            Ok(listen) => listens.push((index, listen)),
            Err(message) => wrong.push((index, message)),
        }
    }
    if protocol == Protocol::Postgres {
        name_sockets(&mut listens);
    }
    for (index, listen) in &listens {
        if let Listen::Unix(path) = listen
            && let Err(message) = fits(path)
        {
            wrong.push((*index, message));
        }
    }
    (listens.into_iter().map(|(_, listen)| listen).collect(), wrong)
}

/// PostgreSQL clients name the directory and add `.s.PGSQL.PORT`.
fn name_sockets(listens: &mut [(usize, Listen)]) {
    let first_port = listens.iter().find_map(|(_, listen)| match listen {
        Listen::Tcp(address) => Some(address.port()),
        Listen::Unix(_) => None,
    });
    let port = first_port.unwrap_or(Protocol::Postgres.default_port());
    for (_, listen) in listens {
        if let Listen::Unix(path) = listen {
            let complete = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".s.PGSQL."));
            if !complete {
                *path = postgres_socket(path, port);
            }
        }
    }
}

/// The socket of a PostgreSQL server in a directory.
pub(crate) fn postgres_socket(directory: &Path, port: u16) -> PathBuf {
    directory.join(format!(".s.PGSQL.{port}"))
}

/// Reads a TCP address.
pub(crate) fn parse_tcp(text: &str) -> Result<SocketAddr, String> {
    let text = text.trim();
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        let hint = if text.parse::<u16>().is_ok() { format!(": write \"127.0.0.1:{text}\"") } else { String::new() };
        return Err(format!("{} is not an address with a port{hint}{}", shown(text), if hint.is_empty() { EXAMPLE } else { "" }));
    };
    let port = port.parse::<u16>().map_err(|_| format!("{} has no valid port: from 1 to 65535 after the last colon", shown(text)))?;
    let host = match host {
        "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        "*" => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        other if other.starts_with('/') => return Err(format!("{} looks like a path: write \"unix:/DIRECTORY\"", shown(text))),
        other => other.parse().map_err(|_| format!("{} is not an IP address with a port{EXAMPLE}", shown(text)))?,
    };
    Ok(SocketAddr::new(host, port))
}

const EXAMPLE: &str = ", such as \"127.0.0.1:6432\", \"[::1]:6432\", \"*:6432\" or \"unix:/run/sidepool\"";

/// Reads the path of a Unix socket, or of the directory of one; `//` in front, as in a URL, is no different.
fn absolute(path: &str) -> Result<PathBuf, String> {
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.starts_with('@') {
        return Err("abstract Unix sockets are not supported: name a path".to_owned());
    }
    if !path.starts_with('/') || path.contains('\0') {
        return Err("a Unix socket needs an absolute path: \"unix:/run/sidepool\"".to_owned());
    }
    Ok(PathBuf::from(path))
}

/// Checks that the kernel will take the path of a Unix socket.
pub(crate) fn fits(path: &Path) -> Result<(), String> {
    let length = path.as_os_str().len();
    if length > LONGEST_SOCKET_PATH_BYTES {
        return Err(format!("the socket path {} has {length} bytes; at most {LONGEST_SOCKET_PATH_BYTES} are possible", path.display()));
    }
    Ok(())
}

/// True if only this machine (or this pod) can reach the listener.
pub(crate) fn is_local(listen: &Listen) -> bool {
    match listen {
        Listen::Tcp(address) => address.ip().to_canonical().is_loopback(),
        Listen::Unix(_) => true,
    }
}

/// True if the two cannot both be bound. `[::]` takes what comes by IPv4 as well, unless `only_v6` says that it does not.
pub(crate) fn clash(one: &Listen, other: &Listen, only_v6: bool) -> bool {
    match (one, other) {
        (Listen::Unix(one), Listen::Unix(other)) => one == other,
        (Listen::Tcp(one), Listen::Tcp(other)) => {
            let (a, b) = (one.ip().to_canonical(), other.ip().to_canonical());
            let covers = |all: IpAddr, one: IpAddr| all.is_unspecified() && (all.is_ipv4() == one.is_ipv4() || (all.is_ipv6() && !only_v6));
            one.port() == other.port() && one.port() != 0 && (a == b || covers(a, b) || covers(b, a))
        }
        (Listen::Tcp(_), Listen::Unix(_)) | (Listen::Unix(_), Listen::Tcp(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn postgres(texts: &[&str]) -> (Vec<String>, Vec<(usize, String)>) {
        let (listens, wrong) = parse_all(texts.iter().copied(), Protocol::Postgres);
        (listens.iter().map(ToString::to_string).collect(), wrong)
    }

    #[test]
    fn postgres_sockets_take_the_port_of_the_first_tcp_listener() {
        assert_eq!(
            postgres(&["unix:/run/sp", "127.0.0.1:7000", "[::1]:8000"]).0,
            ["unix:/run/sp/.s.PGSQL.7000", "127.0.0.1:7000", "[::1]:8000"]
        );
        assert_eq!(postgres(&["unix:/run/sp"]).0, ["unix:/run/sp/.s.PGSQL.6432"]);
        assert_eq!(postgres(&["unix:///run/sp/.s.PGSQL.9"]).0, ["unix:/run/sp/.s.PGSQL.9"]);
        assert_eq!(postgres(&["*:1", "localhost:2"]).0, ["0.0.0.0:1", "127.0.0.1:2"]);
        let (listens, _) = parse_all(["unix:/run/redis.sock"], Protocol::Redis);
        assert_eq!(listens, [Listen::Unix("/run/redis.sock".into())]);
    }

    #[test]
    fn what_is_no_listener_says_why() {
        let long = format!("unix:/{}", "d".repeat(120));
        let table = [
            ("6432", "127.0.0.1:6432"),
            ("db.example:6432", "IP address"),
            ("127.0.0.1:99999", "valid port"),
            ("/run/x:1", "unix:/"),
            ("unix:run", "absolute"),
            ("unix:@x", "abstract"),
            (&long, "at most 107"),
            ("", "such as"),
            ("postgres://app:hunter2@h:1/", "this value"),
        ];
        for (text, expected) in table {
            let (_, wrong) = postgres(&["127.0.0.1:1", text]);
            assert_eq!(wrong.len(), 1, "{text}");
            assert!(wrong[0].0 == 1 && wrong[0].1.contains(expected), "{text}: {}", wrong[0].1);
            assert!(!wrong[0].1.contains("hunter2"));
        }
    }

    #[test]
    fn listeners_clash_by_port_and_address() {
        let tcp = |text: &str| Listen::Tcp(text.parse().unwrap());
        for (one, other, expected) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "0.0.0.0:1", true),
            ("127.0.0.2:1", "127.0.0.1:1", false),
            // Port 0 is any free port.
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("[::1]:1", "0.0.0.0:1", false),
            ("[::]:1", "[::1]:1", true),
            ("[::]:1", "127.0.0.1:1", true),
            ("0.0.0.0:1", "[::]:1", true),
            ("[::]:1", "127.0.0.1:2", false),
            ("[::ffff:127.0.0.1]:1", "127.0.0.1:1", true),
        ] {
            assert_eq!(clash(&tcp(one), &tcp(other), false), expected, "{one} {other}");
        }
        assert!(!clash(&tcp("[::]:1"), &tcp("0.0.0.0:1"), true), "each for its own");
        assert!(clash(&tcp("[::]:1"), &tcp("[::1]:1"), true));
        assert!(is_local(&tcp("[::ffff:127.0.0.1]:1")) && !is_local(&tcp("0.0.0.0:1")));
    }
}
