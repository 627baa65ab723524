//! A client that speaks the bare PostgreSQL protocol: every byte it sends is the test's choice, every message it gets can be looked at.
//!
//! It logs in by trust, clear text, md5 and SCRAM-SHA-256 (the field's own library computes those), and speaks TLS when told to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::frame;
use crate::wait;

/// One message from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its tag.
    pub tag: u8,
    /// What follows the length.
    pub body: Bytes,
}

impl Message {
    /// A field of an ErrorResponse or NoticeResponse: `C` the code, `M` the message, `D` the detail, `H` the hint.
    pub fn field(&self, kind: u8) -> Option<String> {
        let found = self.body.split(|byte| *byte == 0).find(|field| field.first() == Some(&kind))?;
        Some(String::from_utf8_lossy(&found[1..]).into_owned())
    }

    /// The columns of a DataRow as text; NULL is `None`.
    pub fn columns(&self) -> Vec<Option<String>> {
        let mut body = self.body.clone();
        let count = body.get_i16();
        let column = |_| usize::try_from(body.get_i32()).ok().map(|size| String::from_utf8_lossy(&body.split_to(size)).into_owned());
        (0..count).map(column).collect()
    }

    /// The body of a message that is one text, such as CommandComplete.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.body.strip_suffix(&[0]).unwrap_or(&self.body)).into_owned()
    }
}

/// The tags of messages in one word, such as `TDCZ`.
pub fn tags(messages: &[Message]) -> String {
    messages.iter().map(|message| char::from(message.tag)).collect()
}

/// The first column of each row.
pub fn first_column(messages: &[Message]) -> Vec<String> {
    messages.iter().filter(|message| message.tag == b'D').filter_map(|message| message.columns().into_iter().next().flatten()).collect()
}

/// The first error among messages.
pub fn first_error(messages: &[Message]) -> Option<&Message> {
    messages.iter().find(|message| message.tag == b'E')
}

/// What a connection runs over.
enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// Between the two.
    Gone,
}

impl Socket {
    fn duplex(&mut self) -> &mut (dyn Duplex + Send) {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream,
            Self::Gone => panic!("a handshake has failed on this connection"),
        }
    }
}

trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

/// A connection.
pub struct Wire {
    stream: Socket,
    buffer: BytesMut,
    /// What the server reported about the session, the latest value of each.
    pub parameters: BTreeMap<String, String>,
    /// Process id and secret for a CancelRequest.
    pub cancel_key: Option<(i32, Bytes)>,
}

impl Wire {
    /// Connects, and says nothing yet.
    pub async fn connect(port: u16) -> Self {
        let stream = wait::soon("a TCP connection", TcpStream::connect(("127.0.0.1", port))).await.expect("somebody listens");
        stream.set_nodelay(true).expect("a TCP socket");
        Self { stream: Socket::Plain(stream), buffer: BytesMut::new(), parameters: BTreeMap::new(), cancel_key: None }
    }

    /// Asks for TLS, and speaks it as `localhost`'s client; with `direct` it does not ask.
    pub async fn secure(&mut self, config: Arc<ClientConfig>, direct: bool) -> std::io::Result<()> {
        if !direct {
            self.send(&frame::ssl_request()).await;
            assert_eq!(self.read_exactly(1).await, b"S", "TLS is offered");
        }
        let Socket::Plain(stream) = std::mem::replace(&mut self.stream, Socket::Gone) else { panic!("TLS is spoken already") };
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = wait::soon("a TLS handshake", TlsConnector::from(config).connect(name, stream)).await?;
        self.stream = Socket::Tls(Box::new(stream));
        Ok(())
    }

    /// The certificate that the server has shown.
    pub fn certificate(&self) -> Vec<u8> {
        let Socket::Tls(stream) = &self.stream else { panic!("no TLS") };
        stream.get_ref().1.peer_certificates().expect("a certificate")[0].to_vec()
    }

    /// Whether TLS resumed an earlier session.
    pub fn is_resumed(&self) -> bool {
        let Socket::Tls(stream) = &self.stream else { panic!("no TLS") };
        stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    /// Version, cipher suite and curve that were agreed on.
    pub fn tls_description(&self) -> String {
        let Socket::Tls(stream) = &self.stream else { panic!("no TLS") };
        let session = stream.get_ref().1;
        let version = session.protocol_version().expect("a version");
        let suite = session.negotiated_cipher_suite().expect("a suite").suite();
        let curve = session.negotiated_key_exchange_group().expect("a curve").name();
        format!("{version:?} {suite:?} {curve:?}")
    }

    /// Logs in on a connection on which nothing was said yet, or only TLS was agreed on.
    pub async fn enter(&mut self, user: &str, database: &str, password: &str) -> Result<(), Message> {
        let parameters = [("user", user), ("database", database)];
        self.send(&frame::startup(&parameters)).await;
        self.authenticate(user, password).await?;
        loop {
            let message = self.read().await.expect("a server that accepted us goes on");
            match message.tag {
                b'E' => return Err(message),
                b'Z' => return Ok(()),
                _ => {}
            }
        }
    }

    /// Connects and logs in.
    pub async fn login(port: u16, user: &str, database: &str, password: &str) -> Self {
        let parameters = [("user", user), ("database", database)];
        Self::try_login(port, &parameters, password).await.unwrap_or_else(|error| panic!("login of {user}: {:?}", error.field(b'M')))
    }

    /// Connects and logs in with these startup parameters; gives the server's error when it refuses.
    pub async fn try_login(port: u16, parameters: &[(&str, &str)], password: &str) -> Result<Self, Message> {
        let mut wire = Self::connect(port).await;
        wire.send(&frame::startup(parameters)).await;
        wire.authenticate(parameters[0].1, password).await?;
        loop {
            let message = wire.read().await.expect("a server that accepted us goes on");
            match message.tag {
                b'E' => return Err(message),
                b'Z' => return Ok(wire),
                _ => {}
            }
        }
    }

    /// Answers what the server asks until it is satisfied.
    async fn authenticate(&mut self, user: &str, password: &str) -> Result<(), Message> {
        let mut scram = None;
        loop {
            let Some(message) = self.read().await else {
                return Err(Message { tag: b'E', body: Bytes::from_static(b"Mthe server closed without a word\0\0") });
            };
            if message.tag == b'E' {
                return Err(message);
            }
            assert_eq!(message.tag, b'R', "authentication comes first: {message:?}");
            let mut body = message.body;
            match body.get_i32() {
                0 => return Ok(()),
                3 => self.send(&frame::password(password)).await,
                5 => {
                    let salt = body[..4].try_into().expect("four bytes of salt");
                    self.send(&frame::password(&md5_hash(user.as_bytes(), password.as_bytes(), salt))).await;
                }
                10 => {
                    let exchange = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
                    let first = exchange.message();
                    let size = i32::try_from(first.len()).expect("small").to_be_bytes();
                    self.send(&frame::message(b'p', &[b"SCRAM-SHA-256\0", size.as_slice(), first].concat())).await;
                    scram = Some(exchange);
                }
                11 => {
                    let exchange = scram.as_mut().expect("the server goes by the order");
                    exchange.update(&body).expect("a server challenge that our library accepts");
                    self.send(&frame::message(b'p', exchange.message())).await;
                }
                12 => scram.as_mut().expect("the server goes by the order").finish(&body).expect("the server knows our password"),
                other => panic!("the server wants authentication method {other}"),
            }
        }
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).await.expect("the server still listens");
    }

    /// Sends bytes to somebody who may have gone.
    pub async fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        wait::soon("the server to take what we send", self.stream.duplex().write_all(bytes)).await
    }

    /// The next message, or `None` when the server has closed the connection.
    pub async fn read(&mut self) -> Option<Message> {
        wait::soon("a message of the server", self.read_patiently()).await
    }

    /// The next message however long it takes.
    pub async fn read_patiently(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.take() {
                self.remember(&message);
                return Some(message);
            }
            match self.stream.duplex().read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Whether the server stays silent for a moment. For asserting that something does *not* happen; never for waiting.
    pub async fn is_silent(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(150), self.read_patiently()).await.is_err()
    }

    /// All messages up to and with ReadyForQuery; fewer when the server closes.
    pub async fn until_ready(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        while let Some(message) = self.read().await {
            let done = message.tag == b'Z';
            messages.push(message);
            if done {
                break;
            }
        }
        messages
    }

    /// All messages until the server closes.
    pub async fn until_closed(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        while let Some(message) = self.read().await {
            messages.push(message);
        }
        messages
    }

    /// Sends bytes and gives all up to ReadyForQuery.
    pub async fn ask(&mut self, bytes: &[u8]) -> Vec<Message> {
        self.send(bytes).await;
        self.until_ready().await
    }

    /// Runs a simple query.
    pub async fn query(&mut self, sql: &str) -> Vec<Message> {
        self.ask(&frame::query(sql)).await
    }

    /// Runs a simple query that gives one value.
    pub async fn value(&mut self, sql: &str) -> String {
        let messages = self.query(sql).await;
        let text = || messages.iter().map(|message| format!("{} {:?}", char::from(message.tag), message.body)).collect::<Vec<_>>();
        first_column(&messages).into_iter().next().unwrap_or_else(|| panic!("{sql}: no row in {:?}", text()))
    }

    /// The next `size` bytes, whatever they are.
    pub async fn read_exactly(&mut self, size: usize) -> Vec<u8> {
        while self.buffer.len() < size {
            let read = wait::soon("bytes of the server", self.stream.duplex().read_buf(&mut self.buffer)).await.expect("a live connection");
            assert!(read > 0, "the server closed after {} of {size} bytes", self.buffer.len());
        }
        self.buffer.split_to(size).to_vec()
    }

    /// How many bytes have arrived that nobody has looked at.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Closes our writing side only.
    pub async fn half_close(&mut self) {
        self.stream.duplex().shutdown().await.expect("a live connection");
    }

    /// The stream itself, for tests that do without messages.
    pub fn stream(&mut self) -> &mut TcpStream {
        match &mut self.stream {
            Socket::Plain(stream) => stream,
            Socket::Tls(_) | Socket::Gone => panic!("it is under TLS"),
        }
    }

    fn take(&mut self) -> Option<Message> {
        let size = i32::from_be_bytes(self.buffer.get(1..5)?.try_into().expect("four bytes"));
        let size = usize::try_from(size).expect("the server sends lengths that are not negative");
        if self.buffer.len() <= size {
            return None;
        }
        let mut bytes = self.buffer.split_to(size + 1).freeze();
        let tag = bytes.get_u8();
        bytes.advance(4);
        Some(Message { tag, body: bytes })
    }

    fn remember(&mut self, message: &Message) {
        if message.tag == b'S' {
            let mut parts = message.body.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned());
            if let (Some(name), Some(value)) = (parts.next(), parts.next()) {
                self.parameters.insert(name, value);
            }
        }
        if message.tag == b'K' {
            let mut body = message.body.clone();
            self.cancel_key = Some((body.get_i32(), body));
        }
    }
}
