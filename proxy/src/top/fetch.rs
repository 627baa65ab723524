//! Asks a running sidepool for its status: plain HTTP over a blocking socket.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use super::document::Document;
use crate::clock;

/// How long it may take to get through and to have the whole answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The largest answer: a thousand pools are far below.
const LARGEST: usize = 64 * 1024 * 1024;

/// So much is read at a time.
const PIECE: usize = 64 * 1024;

/// So many characters of a refusal are shown.
const SHOWN: usize = 300;

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
        let deadline = clock::now() + patience;
        let mut answer = self.get(deadline, Asked::ByName).map_err(late)?;
        // A name that anybody could own is refused, for a browser's sake; nobody led us there: the address always has the status.
        if status_of(&answer) == Some("421") {
            answer = self.get(deadline, Asked::ByAddress).map_err(late)?;
        }
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        if status_of(&answer) != Some("200") {
            let said = [head, body].map(|part| part.lines().next().unwrap_or_default().trim());
            let said: String = said.join(": ").chars().take(SHOWN).filter(|one| !one.is_control()).collect();
            return Err(format!("{}: {}", self.authority, said.trim_end_matches(": ")));
        }
        Document::read(body).map_err(|error| format!("{}: {error}", self.authority))
    }

    fn get(&self, deadline: Instant, asked: Asked) -> io::Result<String> {
        let addresses: Vec<SocketAddr> = self.authority.to_socket_addrs()?.collect();
        let mut stream = connect(&addresses, deadline)?;
        let host = match asked {
            // An ingress finds its way by it.
            Asked::ByName => self.authority.clone(),
            Asked::ByAddress => stream.peer_addr()?.to_string(),
        };
        stream.set_write_timeout(Some(left(deadline)?))?;
        // Of HTTP/1.0, so that the answer comes in one piece and ends with the connection.
        stream.write_all(format!("GET /statusz?compact HTTP/1.0\r\nHost: {host}\r\n\r\n").as_bytes())?;
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
}

/// What a request names as the host.
#[derive(Debug, Clone, Copy)]
enum Asked {
    ByName,
    ByAddress,
}

/// The number of an answer.
fn status_of(answer: &str) -> Option<&str> {
    answer.lines().next()?.split(' ').nth(1)
}

/// A name may have several addresses, and sidepool listen on one of them (`localhost`): the first that answers. One that is silent leaves
/// the others their share of the time.
fn connect(addresses: &[SocketAddr], deadline: Instant) -> io::Result<TcpStream> {
    let mut failed = io::Error::other("the name has no address");
    for (address, those_left) in addresses.iter().zip((1..=addresses.len()).rev()) {
        let share = left(deadline)?.div_f64(those_left as f64);
        match TcpStream::connect_timeout(address, share) {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
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

    /// Serves one request for each answer, and gives the hosts that were named.
    fn answering(listener: TcpListener, answers: &'static [&'static str]) -> thread::JoinHandle<Vec<String>> {
        thread::spawn(move || {
            let mut hosts = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 512];
                let read = stream.read(&mut request).unwrap();
                let request = String::from_utf8_lossy(&request[..read]).into_owned();
                hosts.extend(request.lines().find_map(|line| line.strip_prefix("Host: ")).map(str::to_owned));
                stream.write_all(answer.as_bytes()).unwrap();
            }
            hosts
        })
    }

    #[test]
    fn where_the_name_is_refused_the_address_asks() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let named = format!("localhost:{}", address.port());
        let place = Place::of(&named).unwrap();
        let server = answering(
            listener,
            &["HTTP/1.0 421 Misdirected Request\r\n\r\nnot by this name\n", "HTTP/1.0 200 OK\r\n\r\n{\"version\":\"1\"}"],
        );
        assert_eq!(place.ask().unwrap().version, "1");
        assert_eq!(server.join().unwrap(), [named, address.to_string()]);
    }

    #[test]
    fn why_it_is_refused_is_shown() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = Place::of(&listener.local_addr().unwrap().to_string()).unwrap();
        let server = answering(listener, &["HTTP/1.0 503 Busy\r\nA: b\r\n\r\ncome \u{1b}[31mlater\nor not\n"]);
        let said = place.ask().unwrap_err();
        assert!(said.ends_with(": HTTP/1.0 503 Busy: come [31mlater"), "{said}");
        server.join().unwrap();
    }

    #[test]
    fn a_silent_address_leaves_the_next_its_time() {
        // One that accepts nobody, and whose queue is full.
        let silent = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        silent.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        silent.listen(0).unwrap();
        let silent_at = silent.local_addr().unwrap().as_socket().unwrap();
        let _waiting: Vec<_> = (0..3).map_while(|_| TcpStream::connect_timeout(&silent_at, Duration::from_millis(50)).ok()).collect();
        let answers = TcpListener::bind("127.0.0.1:0").unwrap();
        let answers_at = answers.local_addr().unwrap();
        let stream = connect(&[silent_at, answers_at], clock::now() + Duration::from_secs(1)).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), answers_at);
        assert_eq!(connect(&[silent_at], clock::now() + Duration::from_millis(50)).unwrap_err().kind(), ErrorKind::TimedOut);
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
