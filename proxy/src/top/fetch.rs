//! Asks a running sidepool for its status: plain HTTP over a blocking socket.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use super::document::Document;
use crate::clock;

/// How long it may take to get through and to have the whole answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The largest answer: a thousand pools are far below.
const LARGEST: usize = 64 * 1024 * 1024;

/// So much is read at a time.
const PIECE: usize = 64 * 1024;

/// Where a sidepool listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    authority: String,
}

impl Place {
    /// Reads an address (`HOST:PORT`) or a URL, with or without a path.
    pub fn of(text: &str) -> Result<Self, String> {
        if text.starts_with("https://") {
            return Err("the admin listener speaks plain HTTP: say http://HOST:PORT".to_owned());
        }
        let rest = text.strip_prefix("http://").unwrap_or(text);
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let port = authority.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        match port {
            Some(Ok(_)) => Ok(Self { authority: authority.to_owned() }),
            None if !authority.is_empty() => Ok(Self { authority: format!("{authority}:9127") }),
            Some(Err(_)) | None => Err(format!("{text} is no address: say HOST:PORT")),
        }
    }

    /// To be shown.
    #[must_use]
    pub fn shown(&self) -> &str {
        &self.authority
    }

    /// Asks once.
    pub fn ask(&self) -> Result<Document, String> {
        self.ask_within(PATIENCE)
    }

    fn ask_within(&self, patience: Duration) -> Result<Document, String> {
        let late = |error: io::Error| match error.kind() {
            // What a socket says when its time is over depends on the system.
            ErrorKind::WouldBlock | ErrorKind::TimedOut => format!("{}: no whole answer within {patience:?}", self.authority),
            _ => format!("{}: {error}", self.authority),
        };
        let answer = self.get(clock::now() + patience).map_err(late)?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.lines().next().unwrap_or_default();
        if status.split(' ').nth(1) != Some("200") {
            return Err(format!("{}: {status}", self.authority));
        }
        Document::read(body).map_err(|error| format!("{}: {error}", self.authority))
    }

    fn get(&self, deadline: Instant) -> io::Result<String> {
        let mut stream = self.connect(deadline)?;
        stream.set_write_timeout(Some(left(deadline)?))?;
        // Of HTTP/1.0, so that the answer comes in one piece and ends with the connection.
        stream.write_all(format!("GET /statusz?compact HTTP/1.0\r\nHost: {}\r\n\r\n", self.authority).as_bytes())?;
        let (mut answer, mut piece) = (Vec::new(), vec![0; PIECE]);
        while answer.len() < LARGEST {
            stream.set_read_timeout(Some(left(deadline)?))?;
            match stream.read(&mut piece)? {
                0 => break,
                read => answer.extend_from_slice(&piece[..read]),
            }
        }
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// A name may have several addresses, and sidepool listen on one of them (`localhost`): the first that answers.
    fn connect(&self, deadline: Instant) -> io::Result<TcpStream> {
        let mut failed = io::Error::other("the name has no address");
        for address in self.authority.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, left(deadline)?) {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }
}

/// How much time is left; none is an error.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(clock::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    #[test]
    fn addresses_and_urls_are_places() {
        for (text, place) in [
            ("127.0.0.1:9999", "127.0.0.1:9999"),
            ("http://pod:9127/statusz", "pod:9127"),
            ("pod", "pod:9127"),
            ("http://[::1]:80/", "[::1]:80"),
        ] {
            assert_eq!(Place::of(text).unwrap().shown(), place);
        }
        assert!(Place::of("https://pod:9127").unwrap_err().contains("plain HTTP"));
        assert!(Place::of("pod:many").is_err() && Place::of("").is_err());
    }

    #[test]
    fn what_answers_something_else_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = Place::of(&listener.local_addr().unwrap().to_string()).unwrap();
        let server = thread::spawn(move || {
            for answer in ["HTTP/1.0 404 Not Found\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\n<html>", "HTTP/1.0 200 OK\r\n\r\n{\"version\":\"1\"}"]
            {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 512]).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        assert!(place.ask().unwrap_err().contains("404"));
        assert!(place.ask().unwrap_err().contains("no status document"));
        assert_eq!(place.ask().unwrap().version, "1");
        server.join().unwrap();
        assert!(place.ask().unwrap_err().contains("refused"));
    }

    #[test]
    fn time_ends_for_an_answer_that_only_trickles() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = Place::of(&listener.local_addr().unwrap().to_string()).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // Each byte comes long before a read would give up; it ends with who listens.
            while stream.write_all(b" ").is_ok() {
                thread::park_timeout(Duration::from_millis(5));
            }
        });
        assert!(place.ask_within(Duration::from_millis(200)).unwrap_err().contains("no whole answer within 200ms"));
        server.join().unwrap();
    }
}
