//! `application_name_add_host`: a client's address behind the name of its application, so that pg_stat_activity on the server shows who it is.
//!
//! Only in the name that the client connects with: one that it sets later is its own affair, as in PgBouncer.

use sidepool_protocol::postgres::startup::Startup;

use crate::transport::stream::{Peer, Stream};

/// The name of an application that gives none.
const NAMELESS: &str = "app";

/// Where the server cuts the name (NAMEDATALEN - 1).
const LONGEST_BYTES: usize = 63;

/// Adds the address of the client at the other end of `stream`.
pub(super) fn add_host(startup: &mut Startup, stream: &Stream) {
    let host = match (stream.peer(), stream) {
        (Peer::Tcp(address), _) => address.to_string(),
        (Peer::Unix | Peer::Gone, Stream::Unix(socket)) => {
            let process = socket.peer_cred().ok().and_then(|credentials| credentials.pid()).unwrap_or_default();
            let port = socket.local_addr().ok().and_then(|address| port(address.as_pathname()?)).unwrap_or_default();
            format!("unix({process}):{port}")
        }
        (Peer::Unix | Peer::Gone, Stream::Tcp(_) | Stream::Tls(_) | Stream::Ring(_)) => return,
    };
    let found = startup.parameters.iter().position(|(name, _)| name.eq_ignore_ascii_case("application_name"));
    match found {
        Some(index) => startup.parameters[index].1 = with_host(&startup.parameters[index].1, &host),
        None => startup.parameters.push(("application_name".into(), with_host("", &host))),
    }
}

fn port(path: &std::path::Path) -> Option<u16> {
    path.extension()?.to_str()?.parse().ok()
}

/// The host stays whole; the name is cut if need be.
fn with_host(name: &str, host: &str) -> Box<str> {
    let name = if name.is_empty() { NAMELESS } else { name };
    let mut room = LONGEST_BYTES.saturating_sub(host.len() + " - ".len()).min(name.len());
    while !name.is_char_boundary(room) {
        room -= 1;
    }
    format!("{} - {host}", &name[..room]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_stands_behind_the_name_and_is_never_cut() {
        assert_eq!(&*with_host("psql", "10.0.0.1:5000"), "psql - 10.0.0.1:5000");
        assert_eq!(&*with_host("", "[::1]:5000"), "app - [::1]:5000");
        let long = with_host(&"é".repeat(60), "10.0.0.1:5000");
        assert!(long.len() <= LONGEST_BYTES && long.ends_with("é - 10.0.0.1:5000"), "{long}");
    }

    #[test]
    fn the_port_of_a_unix_socket_is_in_its_path() {
        assert_eq!(port(std::path::Path::new("/run/.s.PGSQL.6432")), Some(6432));
        assert_eq!(port(std::path::Path::new("/run/socket")), None);
    }
}
