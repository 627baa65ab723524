//! A PostgreSQL client that expects the worst: whatever happens to it becomes an outcome, and never the end of the scenario.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use sidepool_tests::postgres::frame;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::scram::Password;
use crate::tally::Failure;

/// How long a client waits for anything: twice as long as poolers are told to keep one waiting.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Where clients come in, and as whom.
#[derive(Clone)]
pub struct Door {
    /// The port on 127.0.0.1.
    pub port: u16,
    /// The user.
    pub user: &'static str,
    /// Its password.
    pub password: Arc<Password>,
    /// How TLS is spoken, if it is.
    pub tls: Option<Arc<ClientConfig>>,
}

enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A client that is logged in.
pub struct Session {
    stream: Socket,
    buffer: BytesMut,
    usable: bool,
}

impl Door {
    /// The same for another user with the same password.
    #[must_use]
    pub fn of(&self, user: &'static str) -> Self {
        Self { user, ..self.clone() }
    }

    /// Connects and logs in.
    pub async fn enter(&self) -> Result<Session, Failure> {
        patiently(self.login()).await
    }

    /// Connects and says nothing.
    pub async fn knock(&self) -> Result<TcpStream, Failure> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.map_err(|_| Failure::Closed)?;
        // Gone without TIME_WAIT: thousands of clients come again.
        stream.set_zero_linger().and_then(|()| stream.set_nodelay(true)).map_err(|_| Failure::Closed)?;
        Ok(stream)
    }

    async fn secure(&self, mut stream: TcpStream) -> Result<Socket, Failure> {
        let Some(config) = &self.tls else { return Ok(Socket::Plain(stream)) };
        let mut answer = [0];
        let asked = async {
            stream.write_all(&frame::ssl_request()).await?;
            stream.read_exact(&mut answer).await
        };
        asked.await.map_err(|_| Failure::Closed)?;
        if answer != *b"S" {
            return Err(Failure::Told("no TLS".to_owned()));
        }
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await.map_err(|_| Failure::Closed)?;
        Ok(Socket::Tls(Box::new(stream)))
    }

    async fn login(&self) -> Result<Session, Failure> {
        static NONCE: AtomicU64 = AtomicU64::new(0);
        let mut session = Session { stream: self.secure(self.knock().await?).await?, buffer: BytesMut::new(), usable: false };
        session.send(&frame::startup(&[("user", self.user), ("database", "app"), ("application_name", self.user)])).await?;
        let first = format!("n=,r=scenario{:016}", NONCE.fetch_add(1, Ordering::Relaxed));
        loop {
            let (tag, mut body) = session.message().await?;
            match (tag, body.len()) {
                (b'R', 4..) => match body.get_i32() {
                    10 => {
                        let size = i32::try_from(first.len() + 3).expect("short").to_be_bytes();
                        session
                            .send(&frame::message(b'p', &[b"SCRAM-SHA-256\0", size.as_slice(), b"n,,", first.as_bytes()].concat()))
                            .await?;
                    }
                    11 => {
                        let challenge = String::from_utf8_lossy(&body).into_owned();
                        let answer = self.password.answer(&first, &challenge).ok_or(Failure::Wrong(challenge))?;
                        session.send(&frame::message(b'p', answer.as_bytes())).await?;
                    }
                    _ => {}
                },
                (b'E', _) => return Err(Failure::Told(code(&body))),
                (b'Z', _) => {
                    session.usable = true;
                    return Ok(session);
                }
                _ => {}
            }
        }
    }
}

impl Session {
    /// Whether it can ask again.
    pub fn is_usable(&self) -> bool {
        self.usable
    }

    /// Runs a simple query; gives the first column of its rows.
    pub async fn ask(&mut self, sql: &str) -> Result<Vec<String>, Failure> {
        let mut rows = Vec::new();
        self.converse(&frame::query(sql), &mut rows).await?;
        Ok(rows)
    }

    /// Sends messages that end with Sync (or are a Query) and adds the first column of all rows that come for them to `rows`, those before a
    /// failure, too.
    pub async fn converse(&mut self, messages: &[u8], rows: &mut Vec<String>) -> Result<(), Failure> {
        self.usable = false;
        patiently(async {
            self.send(messages).await?;
            self.hear(rows).await
        })
        .await
    }

    /// Sends what need not be answered.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let sent = match &mut self.stream {
            Socket::Plain(stream) => stream.write_all(bytes).await,
            Socket::Tls(stream) => stream.write_all(bytes).await,
        };
        sent.map_err(|_| Failure::Closed)
    }

    /// The socket, for clients that are not well-behaved.
    pub fn into_stream(self) -> TcpStream {
        match self.stream {
            Socket::Plain(stream) => stream,
            Socket::Tls(stream) => stream.into_inner().0,
        }
    }

    async fn hear(&mut self, rows: &mut Vec<String>) -> Result<(), Failure> {
        let mut error = None;
        loop {
            match self.message().await {
                Ok((b'D', body)) => rows.push(first_column(body)),
                Ok((b'E', body)) => error = Some(Failure::Told(code(&body))),
                Ok((b'Z', _)) => {
                    self.usable = true;
                    return error.map_or(Ok(()), Err);
                }
                Ok(_) => {}
                // It was told why before it was closed.
                Err(failure) => return Err(error.unwrap_or(failure)),
            }
        }
    }

    async fn message(&mut self) -> Result<(u8, Bytes), Failure> {
        loop {
            if let Some(head) = self.buffer.get(..5) {
                let size = u32::from_be_bytes(head[1..].try_into().expect("four bytes"));
                let size = usize::try_from(size).expect("at most 64 bits");
                if self.buffer.len() > size {
                    let tag = self.buffer[0];
                    let mut body = self.buffer.split_to(size + 1).freeze();
                    body.advance(5);
                    return Ok((tag, body));
                }
            }
            let read = match &mut self.stream {
                Socket::Plain(stream) => stream.read_buf(&mut self.buffer).await,
                Socket::Tls(stream) => stream.read_buf(&mut self.buffer).await,
            };
            match read {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Err(Failure::Closed),
            }
        }
    }
}

/// Gives up after [`PATIENCE`].
pub async fn patiently<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or(Err(Failure::Silent))
}

fn first_column(mut body: Bytes) -> String {
    if body.len() < 6 || body.get_i16() < 1 {
        return String::new();
    }
    let size = usize::try_from(body.get_i32()).unwrap_or(0).min(body.len());
    String::from_utf8_lossy(&body[..size]).into_owned()
}

/// The SQLSTATE of an error.
fn code(body: &[u8]) -> String {
    let field = body.split(|byte| *byte == 0).find(|field| field.first() == Some(&b'C'));
    field.map_or_else(|| "?????".to_owned(), |field| String::from_utf8_lossy(&field[1..]).into_owned())
}
