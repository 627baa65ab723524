//! The first bytes of a client, before it is known to be one: requests for encryption, cancel requests, start-up messages, and everything that
//! only looks like one of them.
//!
//! Source: PostgreSQL documentation, "Message Formats" (the messages without a tag) and `ProcessStartupPacket` for limits. Not here: whether the
//! client is let in (`login`).

use std::fmt;

use super::fault::{Fault, SqlState};

/// Bytes that decide what the rest is: a length and a code.
pub const HEAD_BYTES: usize = 8;

/// Longest packet before the client has proven who it is, its length field not counted.
pub const MAX_PACKET_BYTES: usize = 10_000;

/// Longest name of a user or a database. PostgreSQL cuts at 63; a name that is cut there is not the one that was asked for here.
pub const MAX_NAME_BYTES: usize = 127;

/// The newest minor version of protocol 3 that we speak.
pub const NEWEST_MINOR: u16 = 0;

const CANCEL_CODE: u32 = 1234 << 16 | 5678;
const SSL_CODE: u32 = 1234 << 16 | 5679;
const GSS_CODE: u32 = 1234 << 16 | 5680;

/// What the first eight bytes announce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// May I use TLS?
    Ssl,
    /// May I use GSSAPI encryption?
    Gss,
    /// A TLS handshake without asking first: these bytes are its own.
    DirectTls,
    /// A cancel request; so many bytes follow.
    Cancel(usize),
    /// A start-up message; so many bytes follow.
    Startup {
        /// The minor version of protocol 3 that is asked for.
        minor: u16,
        /// How many bytes follow.
        remaining: usize,
    },
}

/// First bytes that no PostgreSQL client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stranger {
    /// An HTTP request.
    Http,
    /// A TLS handshake without asking first.
    Tls,
    /// A Redis command.
    Redis,
    /// A length that no start-up packet has.
    Length(u32),
    /// A version of the protocol other than 3.
    Version(u16, u16),
    /// A request for encryption or a cancel request of the wrong length.
    RequestLength(u32),
}

impl Stranger {
    /// One word for logs and metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tls => "tls",
            Self::Redis => "redis",
            Self::Length(_) | Self::RequestLength(_) => "length",
            Self::Version(..) => "version",
        }
    }

    /// What to answer a client that speaks PostgreSQL after all.
    #[must_use]
    pub fn fault(self) -> Fault {
        match self {
            Self::Length(_) | Self::RequestLength(_) | Self::Http | Self::Tls | Self::Redis => {
                Fault::fatal(SqlState::PROTOCOL_VIOLATION, self.to_string())
            }
            Self::Version(..) => Fault::fatal(SqlState::FEATURE_NOT_SUPPORTED, self.to_string()),
        }
    }
}

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http => f.write_str("an HTTP request on a PostgreSQL port"),
            Self::Tls => f.write_str("a TLS handshake on a plain PostgreSQL port"),
            Self::Redis => f.write_str("a Redis command on a PostgreSQL port"),
            Self::Length(length) => write!(f, "invalid length of startup packet: {length} (8 to {} are possible)", MAX_PACKET_BYTES + 4),
            Self::Version(2, _) => f.write_str("old V2 protocol not supported"),
            Self::Version(major, minor) => {
                write!(f, "unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.{NEWEST_MINOR}")
            }
            Self::RequestLength(length) => write!(f, "invalid length of request before startup: {length}"),
        }
    }
}

/// Reads the first eight bytes.
pub fn opening(head: [u8; HEAD_BYTES]) -> Result<Opening, Stranger> {
    let [a, b, c, d, code @ ..] = head;
    let length = u32::from_be_bytes([a, b, c, d]);
    if head.starts_with(&[0x16, 0x03]) {
        return Ok(Opening::DirectTls);
    }
    if let Some(stranger) = stranger(&head) {
        return Err(stranger);
    }
    let remaining = match (length as usize).checked_sub(HEAD_BYTES) {
        Some(remaining) if remaining + 4 <= MAX_PACKET_BYTES => remaining,
        _ => return Err(Stranger::Length(length)),
    };
    let code = u32::from_be_bytes(code);
    match code {
        SSL_CODE if remaining == 0 => Ok(Opening::Ssl),
        GSS_CODE if remaining == 0 => Ok(Opening::Gss),
        CANCEL_CODE if (8..=4 + super::encode::MAX_CANCEL_SECRET_BYTES).contains(&remaining) => Ok(Opening::Cancel(remaining)),
        SSL_CODE | GSS_CODE | CANCEL_CODE => Err(Stranger::RequestLength(length)),
        _ => {
            let [major_high, major_low, minor_high, minor_low] = code.to_be_bytes();
            let (major, minor) = (u16::from_be_bytes([major_high, major_low]), u16::from_be_bytes([minor_high, minor_low]));
            if major == 3 { Ok(Opening::Startup { minor, remaining }) } else { Err(Stranger::Version(major, minor)) }
        }
    }
}

/// Protocols that people point at the wrong port. As a length their first four bytes would be far above the limit.
fn stranger(head: &[u8; HEAD_BYTES]) -> Option<Stranger> {
    const HTTP: [&[u8]; 8] = [b"GET ", b"POST ", b"PUT ", b"HEAD ", b"DELETE ", b"OPTIONS ", b"CONNECT ", b"PATCH "];
    let starts = |word: &[u8]| head.starts_with(&word[..word.len().min(HEAD_BYTES)]);
    if HTTP.iter().any(|word| starts(word)) || starts(b"PRI * HT") {
        return Some(Stranger::Http);
    }
    match head {
        [b'*', b'0'..=b'9', b'\r' | b'0'..=b'9', ..] => Some(Stranger::Redis),
        _ if head[..4].eq_ignore_ascii_case(b"PING") => Some(Stranger::Redis),
        _ => None,
    }
}

/// Splits the rest of a cancel request into process id and secret. `None` when it is too short for both.
#[must_use]
pub fn cancel_key(rest: &[u8]) -> Option<(u32, &[u8])> {
    let (id, secret) = rest.split_first_chunk::<4>()?;
    (secret.len() >= 4).then_some((u32::from_be_bytes(*id), secret))
}

/// A session parameter: name and value.
pub type Parameter = (Box<str>, Box<str>);

/// What kind of replication connection is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Replication {
    /// Of the whole cluster.
    Physical,
    /// Of one database.
    Logical,
}

impl Replication {
    /// The value of the startup parameter.
    #[must_use]
    pub const fn value(self) -> &'static str {
        match self {
            Self::Physical => "true",
            Self::Logical => "database",
        }
    }

    /// The word that PgBouncer has for it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Physical => "physical",
            Self::Logical => "logical",
        }
    }
}

/// A start-up message, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Startup {
    /// Who wants in.
    pub user: Box<str>,
    /// Where to; without a word about it, the database of the user's name.
    pub database: Box<str>,
    /// Whether replication is asked for, and which.
    pub replication: Option<Replication>,
    /// For replication: the parameters as they came, `options` whole.
    pub forwarded: Vec<Parameter>,
    /// Session parameters in the order in which they apply: those in `options` first, as with PostgreSQL.
    pub parameters: Vec<Parameter>,
    /// The `_pq_.` options, none of which we know.
    pub protocol_options: Vec<Box<str>>,
}

/// What is wrong with a start-up message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartupError {
    /// A string has no end, a name no value, or the packet no last zero.
    Layout,
    /// Bytes that are not UTF-8.
    Encoding,
    /// No user name.
    NoUser,
    /// The name of the user or database is longer than [`MAX_NAME_BYTES`].
    LongName(&'static str),
    /// Something in `options` other than `-c name=value` or `--name=value`.
    Option(Box<str>),
    /// A value of `replication` that is neither yes, no nor `database`.
    Replication(Box<str>),
}

impl StartupError {
    /// What to answer.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Layout => Fault::fatal(SqlState::PROTOCOL_VIOLATION, "invalid startup packet layout: expected terminator as last byte"),
            Self::Encoding => Fault::fatal(SqlState::CHARACTER_NOT_IN_REPERTOIRE, "startup packet is not valid UTF-8")
                .with_hint("Names of users and databases, and parameters sent at start-up, must be UTF-8."),
            Self::NoUser => Fault::fatal(SqlState::INVALID_AUTHORIZATION, "no username supplied"),
            Self::LongName(what) => Fault::fatal(SqlState::PROTOCOL_VIOLATION, format!("{what} too long"))
                .with_detail(format!("The limit is {MAX_NAME_BYTES} bytes.")),
            Self::Replication(value) => {
                Fault::fatal(SqlState::INVALID_PARAMETER_VALUE, format!("invalid value for parameter \"replication\": \"{value}\""))
                    .with_hint("Valid values are: \"false\", 0, \"true\", 1, \"database\".")
            }
            Self::Option(option) => Fault::fatal(
                SqlState::FEATURE_NOT_SUPPORTED,
                "unsupported options startup parameter: only '-c config=val' and '--config=val' are allowed",
            )
            .with_detail(format!("Not understood: {option}"))
            .with_hint("Leave it out, or list \"options\" in ignore_startup_parameters."),
        }
    }
}

/// Reads what follows the head of a start-up message. With `ignore_options`, what cannot be used of `options` is passed over.
pub fn startup(rest: &[u8], ignore_options: bool) -> Result<Startup, StartupError> {
    let rest = rest.strip_suffix(b"\0").ok_or(StartupError::Layout)?;
    let text = std::str::from_utf8(rest).map_err(|_| StartupError::Encoding)?;
    let (mut user, mut database, mut options) = ("", "", None);
    let mut replication = None;
    let mut parameters = Vec::new();
    let mut protocol_options = Vec::new();
    let mut strings = text.split_terminator('\0');
    if !text.is_empty() && !text.ends_with('\0') {
        return Err(StartupError::Layout);
    }
    while let Some(name) = strings.next() {
        let value = strings.next().ok_or(StartupError::Layout)?;
        match name {
            "" => return Err(StartupError::Layout),
            "user" => user = value,
            "database" => database = value,
            "options" => options = Some(value),
            "replication" => replication = kind(value)?,
            _ if name.starts_with("_pq_.") => protocol_options.push(name.into()),
            _ => parameters.push((name.into(), value.into())),
        }
    }
    let mut forwarded = Vec::new();
    if replication.is_some() {
        // The server reads them: nobody else will ever use the connection.
        forwarded = std::mem::take(&mut parameters);
        forwarded.extend(options.map(|options| ("options".into(), options.into())));
    } else if let Some(options) = options {
        let mut first = parse_options(options, ignore_options)?;
        first.append(&mut parameters);
        parameters = first;
    }
    let database = if database.is_empty() { user } else { database };
    match (user, database) {
        ("", _) => Err(StartupError::NoUser),
        _ if user.len() > MAX_NAME_BYTES => Err(StartupError::LongName("username")),
        _ if database.len() > MAX_NAME_BYTES => Err(StartupError::LongName("database name")),
        _ => Ok(Startup { user: user.into(), database: database.into(), replication, forwarded, parameters, protocol_options }),
    }
}

/// Reads `replication` as the server does: `database`, or anything that is a truth value there.
fn kind(value: &str) -> Result<Option<Replication>, StartupError> {
    let is = |words: &[&str]| words.iter().any(|word| word.eq_ignore_ascii_case(value));
    match value {
        "database" => Ok(Some(Replication::Logical)),
        _ if is(&["true", "tru", "tr", "t", "yes", "ye", "y", "on", "1"]) => Ok(Some(Replication::Physical)),
        _ if is(&["false", "fals", "fal", "fa", "f", "no", "n", "off", "of", "0"]) => Ok(None),
        _ => Err(StartupError::Replication(value.into())),
    }
}

/// Reads `-c name=value`, `-cname=value` and `--name=value`, with backslashes before spaces and backslashes (`pg_split_opts`).
fn parse_options(options: &str, ignore_others: bool) -> Result<Vec<Parameter>, StartupError> {
    let mut parameters = Vec::new();
    let mut words = split_options(options).into_iter();
    while let Some(word) = words.next() {
        let setting = match word.strip_prefix("--") {
            Some(setting) => Some(setting.to_owned()),
            None if word == "-c" => words.next(),
            None => word.strip_prefix("-c").map(str::to_owned),
        };
        match setting.as_deref().and_then(|setting| setting.split_once('=')) {
            Some((name, value)) if !name.is_empty() => parameters.push((name.replace('-', "_").into(), value.into())),
            _ if ignore_others => {}
            _ => return Err(StartupError::Option(word.into())),
        }
    }
    Ok(parameters)
}

fn split_options(options: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = options.chars();
    while let Some(character) = characters.next() {
        match character {
            ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c' => words.extend(word.take()),
            '\\' => word.get_or_insert_default().extend(characters.next()),
            _ => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
#[path = "startup_tests.rs"]
mod tests;
