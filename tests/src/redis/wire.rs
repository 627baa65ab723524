//! A client that speaks the bare Redis protocol, RESP2 and RESP3: every byte it sends is the test's choice.

use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::wait;

/// One reply, or a push.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// `+`
    Simple(String),
    /// `-`
    Error(String),
    /// `:`
    Integer(i64),
    /// `$` and, without its kind, `=`
    Bulk(Vec<u8>),
    /// `$-1`, `*-1` and `_`
    Null,
    /// `,` as the text it came as
    Double(String),
    /// `#`
    Boolean(bool),
    /// `*` and `~`
    Array(Vec<Reply>),
    /// `%`
    Map(Vec<(Reply, Reply)>),
    /// `>`
    Push(Vec<Reply>),
}

impl Reply {
    /// A status, a bulk, a number or an error as text.
    pub fn text(&self) -> String {
        match self {
            Self::Simple(text) | Self::Error(text) | Self::Double(text) => text.clone(),
            Self::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Self::Integer(number) => number.to_string(),
            Self::Boolean(value) => value.to_string(),
            Self::Null => "(nil)".to_owned(),
            Self::Array(_) | Self::Map(_) | Self::Push(_) => format!("{self:?}"),
        }
    }

    /// The elements of an array or a push.
    pub fn elements(&self) -> &[Self] {
        match self {
            Self::Array(elements) | Self::Push(elements) => elements,
            other => panic!("not an array: {other:?}"),
        }
    }

    /// Whether it is an error whose first word is `code`.
    pub fn is_error(&self, code: &str) -> bool {
        matches!(self, Self::Error(text) if text.split(' ').next() == Some(code))
    }
}

/// A connection.
pub struct Wire {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Wire {
    /// Connects, and says nothing yet.
    pub async fn connect(port: u16) -> Self {
        let stream = wait::soon("a TCP connection", TcpStream::connect(("127.0.0.1", port))).await.expect("somebody listens");
        stream.set_nodelay(true).expect("a TCP socket");
        Self { stream, buffer: BytesMut::new() }
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).await.expect("the server still listens");
    }

    /// Sends bytes to somebody who may have gone.
    pub async fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        wait::soon("the server to take what we send", self.stream.write_all(bytes)).await
    }

    /// Sends a command and waits for its reply.
    pub async fn command<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> Reply {
        self.send(&request(arguments)).await;
        self.reply().await
    }

    /// The next reply; the test fails when the server closes instead.
    pub async fn reply(&mut self) -> Reply {
        self.read().await.expect("a reply, not the end of the connection")
    }

    /// The next reply, or `None` when the server has closed the connection.
    pub async fn read(&mut self) -> Option<Reply> {
        wait::soon("a reply", self.read_patiently()).await
    }

    /// The next reply however long it takes.
    pub async fn read_patiently(&mut self) -> Option<Reply> {
        loop {
            let mut rest = &self.buffer[..];
            if let Some(reply) = parse(&mut rest) {
                let used = self.buffer.len() - rest.len();
                self.buffer.advance(used);
                return Some(reply);
            }
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Whether the server stays silent for a moment. For asserting that something does *not* happen; never for waiting.
    pub async fn is_silent(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(150), self.read_patiently()).await.is_err()
    }

    /// The stream itself, for tests that do without replies.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }
}

/// A command as an array of bulks.
pub fn request<A: AsRef<[u8]>>(arguments: &[A]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments {
        let argument = argument.as_ref();
        bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        bytes.extend_from_slice(argument);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// A reply at the head of `bytes`, which then begin after it; `None` (and `bytes` in no particular place) when it is not complete.
fn parse(bytes: &mut &[u8]) -> Option<Reply> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let head = String::from_utf8_lossy(&bytes[1..end]).into_owned();
    let kind = bytes[0];
    bytes.advance(end + 2);
    Some(match kind {
        b'+' => Reply::Simple(head),
        b'-' => Reply::Error(head),
        b':' => Reply::Integer(number(&head)),
        b',' | b'(' => Reply::Double(head),
        b'#' => Reply::Boolean(head == "t"),
        b'_' => Reply::Null,
        b'$' | b'=' | b'!' => match usize::try_from(number(&head)) {
            Ok(size) => bulk(bytes, kind, size)?,
            Err(_) => Reply::Null,
        },
        b'*' | b'~' | b'>' => match number(&head) {
            ..0 => Reply::Null,
            count => {
                let elements = (0..count).map(|_| parse(bytes)).collect::<Option<_>>()?;
                if kind == b'>' { Reply::Push(elements) } else { Reply::Array(elements) }
            }
        },
        b'%' => Reply::Map((0..number(&head)).map(|_| Some((parse(bytes)?, parse(bytes)?))).collect::<Option<_>>()?),
        other => panic!("a reply that begins with {:?}", char::from(other)),
    })
}

fn bulk(bytes: &mut &[u8], kind: u8, size: usize) -> Option<Reply> {
    let content = bytes.get(..size)?.to_vec();
    bytes.get(size..size + 2)?;
    bytes.advance(size + 2);
    Some(match kind {
        b'=' => Reply::Bulk(content[4..].to_vec()),
        b'!' => Reply::Error(String::from_utf8_lossy(&content).into_owned()),
        _ => Reply::Bulk(content),
    })
}

fn number(text: &str) -> i64 {
    text.parse().unwrap_or_else(|_| panic!("{text:?} where a number belongs"))
}
