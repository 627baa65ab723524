//! A Redis client that expects the worst: whatever happens to it becomes an outcome. RESP2, flat replies only.

use bytes::{Buf as _, BytesMut};
use sidepool_tests::redis::wire::request;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::postgres::client::patiently;
use crate::tally::Failure;

/// A connected client.
pub struct Session {
    stream: TcpStream,
    buffer: BytesMut,
    usable: bool,
}

impl Session {
    /// Connects to a port of 127.0.0.1.
    pub async fn enter(port: u16) -> Result<Self, Failure> {
        patiently(async {
            let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(|_| Failure::Closed)?;
            // Gone without TIME_WAIT: thousands of clients come again.
            stream.set_zero_linger().and_then(|()| stream.set_nodelay(true)).map_err(|_| Failure::Closed)?;
            Ok(Self { stream, buffer: BytesMut::new(), usable: true })
        })
        .await
    }

    /// Whether it can ask again.
    pub fn is_usable(&self) -> bool {
        self.usable
    }

    /// Sends these commands at once and gives a reply for each: a status, a number or a bulk as text. An error among them is the outcome
    /// of all, when all have come.
    pub async fn ask(&mut self, commands: &[&[&str]]) -> Result<Vec<String>, Failure> {
        self.usable = false;
        let bytes: Vec<u8> = commands.iter().flat_map(|command| request(command)).collect();
        patiently(async {
            self.stream.write_all(&bytes).await.map_err(|_| Failure::Closed)?;
            let mut replies = Vec::with_capacity(commands.len());
            let mut error = None;
            for _ in commands {
                match self.reply().await {
                    Ok(Ok(reply)) => replies.push(reply),
                    Ok(Err(told)) => error = error.or(Some(Failure::Told(told))),
                    Err(failure) => return Err(error.unwrap_or(failure)),
                }
            }
            self.usable = true;
            error.map_or(Ok(replies), Err)
        })
        .await
    }

    /// Sends what need not be answered.
    pub async fn send(&mut self, commands: &[&[&str]]) -> Result<(), Failure> {
        let bytes: Vec<u8> = commands.iter().flat_map(|command| request(command)).collect();
        self.stream.write_all(&bytes).await.map_err(|_| Failure::Closed)
    }

    /// The socket, for clients that are not well-behaved.
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }

    async fn reply(&mut self) -> Result<Reply, Failure> {
        loop {
            if let Some((size, reply)) = parse(&self.buffer)? {
                self.buffer.advance(size);
                return Ok(reply);
            }
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Err(Failure::Closed),
            }
        }
    }
}

/// A text, or the first word of an error.
type Reply = Result<String, String>;

/// The reply at the head of `bytes` and its size, when it is whole.
fn parse(bytes: &[u8]) -> Result<Option<(usize, Reply)>, Failure> {
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
    let text = String::from_utf8_lossy(&bytes[1..end]).into_owned();
    let after = end + 2;
    Ok(match bytes[0] {
        b'+' | b':' => Some((after, Ok(text))),
        b'-' => Some((after, Err(text.split(' ').next().unwrap_or_default().to_owned()))),
        b'$' if text == "-1" => Some((after, Ok(String::new()))),
        b'$' => {
            let size: usize = text.parse().map_err(|_| Failure::Wrong(format!("a bulk of {text} bytes")))?;
            let content = bytes.get(after..after + size + 2);
            content.map(|content| (after + size + 2, Ok(String::from_utf8_lossy(&content[..size]).into_owned())))
        }
        other => return Err(Failure::Wrong(format!("a reply that begins with {:?}", char::from(other)))),
    })
}
