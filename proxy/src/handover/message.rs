//! What two generations of the program say to each other, as bytes. Pure: no sockets; descriptors travel beside the messages (`channel`).
//!
//! ```text
//!   successor ── Hello ─▶ predecessor            both say which version of this language they speak
//!             ◀─ Hello, Listener…, AllListeners  with each listener its socket
//!             ── Ready ─▶                        everything is bound and runs; not yet accepting
//!             ◀─ Go ──
//!             ── Serving ─▶                      from here on there is no way back
//!             ◀─ Client, Part… (for each client) with its socket, at its idle moment
//!             ── Cancel ─▶ ◀─ Cancelled ──       for clients that have not moved yet
//!             ◀─ Done ──
//! ```
//! `Hello` keeps its form for ever; all else may change with [`VERSION`].

use std::fmt;

use serde::{Deserialize, Serialize};

/// The version of this language. Two programs that speak different ones part without having done anything.
pub const VERSION: u16 = 2;

/// Longest message.
pub const MAX_MESSAGE_BYTES: usize = 48 * 1024;

/// Most bytes of a client's state that one `Part` carries.
pub const PART_BYTES: usize = 32 * 1024;

/// Largest state of a client that moves: one with more stays until it leaves.
pub const MAX_CLIENT_BYTES: usize = 16 * 1024 * 1024;

/// How `Hello` begins.
const MAGIC: &[u8; 16] = b"sidepool upgrade";

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// The first word of both sides.
    Hello {
        /// Which version the sender speaks.
        version: u16,
    },
    /// No, and why.
    Refused(String),
    /// A listening socket, which travels beside this.
    Listener {
        /// Whose clients come in there (`postgres`, `redis/NAME`, `admin`).
        door: String,
        /// The address as the configuration has it.
        address: String,
    },
    /// There are no more listeners.
    AllListeners,
    /// The successor could serve.
    Ready,
    /// The successor may serve.
    Go,
    /// The successor serves.
    Serving,
    /// A client, whose socket travels beside this. So many bytes of state follow in parts.
    Client(u32),
    /// A part of the last client's state.
    Part(Vec<u8>),
    /// A cancel request for a client that may not have moved yet.
    Cancel {
        /// The number of this request.
        number: u64,
        /// The key in it.
        key: CancelBytes,
    },
    /// The request with this number has been carried out.
    Cancelled(u64),
    /// No more clients come.
    Done,
}

/// A cancel key, which is not printed.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelBytes(pub [u8; 8]);

impl fmt::Debug for CancelBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CancelBytes(***)")
    }
}

/// Bytes that are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadMessage;

impl fmt::Display for BadMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a message of this version")
    }
}

impl std::error::Error for BadMessage {}

impl Message {
    /// As bytes, at most [`MAX_MESSAGE_BYTES`] of them.
    pub fn encode(&self) -> Result<Vec<u8>, BadMessage> {
        if let Self::Hello { version } = self {
            return Ok([MAGIC.as_slice(), &version.to_be_bytes()].concat());
        }
        let bytes = postcard::to_allocvec(self).map_err(|_| BadMessage)?;
        if bytes.len() > MAX_MESSAGE_BYTES { Err(BadMessage) } else { Ok(bytes) }
    }

    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadMessage> {
        if let Some(rest) = bytes.strip_prefix(MAGIC) {
            let version = rest.first_chunk().ok_or(BadMessage)?;
            return Ok(Self::Hello { version: u16::from_be_bytes(*version) });
        }
        match postcard::take_from_bytes(bytes) {
            Ok((message, [])) => Ok(message),
            Ok(_) | Err(_) => Err(BadMessage),
        }
    }
}

/// What a client's new process has to know of it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientState {
    /// Who it logged in as.
    pub user: String,
    /// What it asked for.
    pub database: String,
    /// Its cancel key.
    pub key: CancelBytes,
    /// The session's parameters: name and value.
    pub parameters: Vec<(String, String)>,
    /// Its prepared statements by the names that it gave them.
    pub statements: Vec<(Vec<u8>, MovedStatement)>,
    /// Its unnamed statement.
    pub unnamed: Option<Vec<u8>>,
    /// The secret with which new connections log in for it, where the configuration has none.
    pub secret: Option<String>,
    /// The keys of its SCRAM proof, likewise.
    pub keys: Option<Vec<u8>>,
}

/// A prepared statement on its way to another process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MovedStatement {
    /// Prepared by Parse.
    Parsed {
        /// What follows the name there.
        body: Vec<u8>,
        /// The search path that it was parsed under.
        search_path: String,
    },
    /// Prepared by PREPARE: what follows the name.
    Sql(Vec<u8>),
}

impl fmt::Debug for ClientState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientState").field("user", &self.user).field("database", &self.database).finish_non_exhaustive()
    }
}

impl ClientState {
    /// The messages that carry it; `None` when it is larger than [`MAX_CLIENT_BYTES`].
    #[must_use]
    pub fn messages(&self) -> Option<Vec<Message>> {
        let bytes = postcard::to_allocvec(self).ok()?;
        let size = u32::try_from(bytes.len()).ok().filter(|_| bytes.len() <= MAX_CLIENT_BYTES)?;
        let parts = bytes.chunks(PART_BYTES).map(|part| Message::Part(part.to_vec()));
        Some(std::iter::once(Message::Client(size)).chain(parts).collect())
    }
}

/// A client's state that is coming in.
#[derive(Debug, PartialEq, Eq)]
pub struct Assembly {
    size: usize,
    bytes: Vec<u8>,
}

impl Assembly {
    /// Of a state of so many bytes.
    pub fn new(size: u32) -> Result<Self, BadMessage> {
        let size = usize::try_from(size).map_err(|_| BadMessage)?;
        if size == 0 || size > MAX_CLIENT_BYTES { Err(BadMessage) } else { Ok(Self { size, bytes: Vec::new() }) }
    }

    /// Takes a part in; gives the state when it is whole.
    pub fn add(&mut self, part: &[u8]) -> Result<Option<ClientState>, BadMessage> {
        if part.is_empty() || part.len() > self.size - self.bytes.len() {
            return Err(BadMessage);
        }
        self.bytes.extend_from_slice(part);
        if self.bytes.len() < self.size {
            return Ok(None);
        }
        match postcard::take_from_bytes(&self.bytes) {
            Ok((state, [])) => Ok(Some(state)),
            Ok(_) | Err(_) => Err(BadMessage),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> ClientState {
        ClientState {
            user: "bob".to_owned(),
            database: "shop".to_owned(),
            key: CancelBytes([1, 2, 3, 4, 5, 6, 7, 8]),
            parameters: vec![("TimeZone".to_owned(), "Asia/Tokyo".to_owned())],
            statements: vec![
                (b"s1".to_vec(), MovedStatement::Parsed { body: b"SELECT 1\0\0\0".to_vec(), search_path: "tenant".to_owned() }),
                (b"s2".to_vec(), MovedStatement::Sql(b" AS SELECT 2".to_vec())),
            ],
            unnamed: Some(b"SELECT 2\0\0\0".to_vec()),
            secret: Some("md5x".to_owned()),
            keys: Some(vec![1, 2, 3]),
        }
    }

    fn assembled(messages: &[Message]) -> Result<Option<ClientState>, BadMessage> {
        let Some((Message::Client(size), parts)) = messages.split_first() else { return Err(BadMessage) };
        let mut assembly = Assembly::new(*size)?;
        let mut last = None;
        for part in parts {
            let Message::Part(bytes) = part else { return Err(BadMessage) };
            last = assembly.add(bytes)?;
        }
        Ok(last)
    }

    #[test]
    fn messages_come_back_as_they_were() {
        let all = [
            Message::Hello { version: VERSION },
            Message::Refused("busy".to_owned()),
            Message::Listener { door: "postgres".to_owned(), address: "127.0.0.1:6432".to_owned() },
            Message::AllListeners,
            Message::Ready,
            Message::Go,
            Message::Serving,
            Message::Client(7),
            Message::Part(vec![0; PART_BYTES]),
            Message::Cancel { number: u64::MAX, key: CancelBytes([9; 8]) },
            Message::Cancelled(3),
            Message::Done,
        ];
        for message in all {
            assert_eq!(Message::decode(&message.encode().unwrap()).unwrap(), message);
        }
    }

    /// Whoever changes what is sent changes these bytes: [`VERSION`] has to be raised, and the bytes here be written anew.
    #[test]
    fn this_version_is_these_bytes() {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let messages = [
            Message::Refused("no".to_owned()),
            Message::Listener { door: "d".to_owned(), address: "a".to_owned() },
            Message::AllListeners,
            Message::Ready,
            Message::Go,
            Message::Serving,
            Message::Client(300),
            Message::Part(vec![1, 2]),
            Message::Cancel { number: 300, key: CancelBytes([9; 8]) },
            Message::Cancelled(300),
            Message::Done,
        ];
        let sent = messages.map(|message| hex(&message.encode().unwrap())).join(" ");
        let Some(Message::Part(part)) = state().messages().and_then(|messages| messages.into_iter().nth(1)) else { panic!("one part") };
        assert_eq!(VERSION, 2);
        assert_eq!(sent, "01026e6f 0201640161 03 04 05 06 07ac02 08020102 09ac020909090909090909 0aac02 0b");
        let client = "03626f620473686f700102030405060708010854696d655a6f6e650a417369612f546f6b796f02027331000b53454c4543542031000000\
                      0674656e616e74027332010c2041532053454c4543542032010b53454c454354203200000001046d6435780103010203";
        assert_eq!(hex(&part), client);
    }

    #[test]
    fn another_version_can_say_hello() {
        let mut hello = Message::Hello { version: 999 }.encode().unwrap();
        hello.extend_from_slice(b"whatever later versions say");
        assert_eq!(Message::decode(&hello), Ok(Message::Hello { version: 999 }));
        assert_eq!(&hello[..16], b"sidepool upgrade", "this form stays");
    }

    #[test]
    fn nonsense_is_refused() {
        for bytes in [&b""[..], b"sidepool upgrade", b"\xFF", b"\x00\xFF\xFF\xFF\xFF\x0F", &[0; 100]] {
            assert!(Message::decode(bytes).is_err(), "{bytes:?}");
        }
        assert!(Message::Part(vec![0; MAX_MESSAGE_BYTES]).encode().is_err());
    }

    #[test]
    fn a_client_comes_in_parts() {
        assert_eq!(assembled(&state().messages().unwrap()), Ok(Some(state())));
        let big = ClientState { unnamed: Some(vec![7; 100_000]), ..state() };
        let messages = big.messages().unwrap();
        assert_eq!(messages.len(), 5);
        assert!(messages.iter().all(|message| message.encode().is_ok()));
        assert_eq!(assembled(&messages), Ok(Some(big)));
        assert_eq!(assembled(&messages[..3]), Ok(None));
    }

    #[test]
    fn a_client_that_is_too_large_does_not_come() {
        let huge = ClientState { unnamed: Some(vec![7; MAX_CLIENT_BYTES]), ..state() };
        assert_eq!(huge.messages(), None);
        assert!(Assembly::new(0).is_err());
        assert!(Assembly::new(u32::try_from(MAX_CLIENT_BYTES).unwrap() + 1).is_err());
        assert_eq!(Assembly::new(3).unwrap().add(&[0; 4]), Err(BadMessage), "more than announced");
        assert_eq!(Assembly::new(3).unwrap().add(&[]), Err(BadMessage), "nothing, for ever");
    }

    #[test]
    fn secrets_are_not_printed() {
        let message = Message::Cancel { number: 1, key: CancelBytes([0xAB; 8]) };
        assert!(!format!("{message:?} {:?}", state()).contains("171"));
        assert!(!format!("{:?}", state()).contains("SELECT"));
    }
}
