//! Asking a running sidepool over its admin listener: `sidepool healthcheck` and `sidepool wait`. Plain blocking sockets: there is nothing else to do.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::time::Duration;

use crate::admin::liveness::STUCK_AFTER;
use crate::clock;

/// How long it may take to get through.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long the answer may take: about its workers sidepool itself is certain only after [`STUCK_AFTER`].
const ANSWER_PATIENCE: Duration = STUCK_AFTER.saturating_add(Duration::from_secs(1));

/// How long `wait` pauses between questions.
const PAUSE: Duration = Duration::from_millis(100);

/// Asks once whether it is alive.
pub fn healthcheck(url: &str) -> Result<(), String> {
    ask(url, "/livez")
}

/// Asks until it is ready, or for as long as `timeout`.
pub fn wait(url: &str, timeout: Duration) -> Result<(), String> {
    let deadline = clock::now() + timeout;
    let (_never, pause) = mpsc::channel::<()>();
    loop {
        let Err(last) = ask(url, "/readyz") else { return Ok(()) };
        if clock::now() + PAUSE >= deadline {
            return Err(format!("not ready after {} s: {last}", timeout.as_secs()));
        }
        let _ = pause.recv_timeout(PAUSE);
    }
}

/// Ok if the answer is 200. A path in the URL wins over `default_path`.
fn ask(url: &str, default_path: &str) -> Result<(), String> {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let (authority, path) = rest.find('/').map_or((rest, default_path), |slash| rest.split_at(slash));
    let path = if path == "/" { default_path } else { path };
    let status = get(authority, path).map_err(|error| format!("{authority}: {error}"))?;
    if status.split(' ').nth(1) == Some("200") { Ok(()) } else { Err(format!("http://{authority}{path}: {status}")) }
}

/// The status line of the answer.
fn get(authority: &str, path: &str) -> io::Result<String> {
    let address = authority.to_socket_addrs()?.next().ok_or_else(|| io::Error::other("the name has no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(ANSWER_PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(4096).read_to_end(&mut answer)?;
    let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
    Ok(String::from_utf8_lossy(line).into_owned())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    fn answering(answers: &'static [&'static str]) -> (String, thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = thread::spawn(move || {
            let mut asked = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 512];
                let length = stream.read(&mut request).unwrap();
                asked.push(String::from_utf8_lossy(&request[..length]).split(' ').nth(1).unwrap().to_owned());
                stream.write_all(answer.as_bytes()).unwrap();
            }
            asked
        });
        (url, server)
    }

    #[test]
    fn waits_until_ready_and_asks_the_right_question() {
        let (url, server) =
            answering(&["HTTP/1.1 503 Service Unavailable\r\n\r\nstarting\n", "HTTP/1.1 200 OK\r\n\r\nok\n", "HTTP/1.1 200 OK\r\n\r\n"]);
        wait(&url, Duration::from_secs(10)).unwrap();
        healthcheck(&url).unwrap();
        assert_eq!(server.join().unwrap(), ["/readyz", "/readyz", "/livez"]);
    }

    #[test]
    fn says_what_is_wrong() {
        let (url, server) = answering(&["HTTP/1.1 503 Service Unavailable\r\n\r\n"]);
        assert!(healthcheck(&url).unwrap_err().contains("503"));
        server.join().unwrap();
        assert!(healthcheck(&url).unwrap_err().contains("refused"));
        assert!(wait(&url, Duration::from_millis(1)).unwrap_err().starts_with("not ready after"));
    }
}
