//! Logging in to a server: its messages in, our answers and what it told us out.
//!
//! ```text
//!   begin ─▶ Authentication ─┬─ Ok ──────────────────────────────────────────────▶ Ready ─▶ Progress::LoggedIn
//!                            ├─ clear, md5: answered ─▶ Ok ───────────────────────▲
//!                            └─ SASL ─▶ SaslContinue ─▶ NeedKeys ─▶ SaslFinal ─▶ Ok ┘
//! ```
//! The costly step of SCRAM is handed out as [`Progress::NeedKeys`], so that a caller can take it off a thread that serves others, or need not take
//! it at all: keys are the same as long as password, salt and iterations are. Not here: sockets, time, random numbers.

use std::fmt;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use zeroize::Zeroizing;

use super::binding::{EndPoint, OurBinding, PLUS};
use super::keys::{Challenged, KeyFault, KeyedExchange, Proven, ScramKeys};
use super::md5;
use super::scram::Parameters;
use super::secret::Stored;
use crate::postgres::fault::SqlState;
use crate::postgres::frame;
use crate::postgres::parameters::ParameterSet;
use crate::postgres::tag::BackendTag;

/// Longest message that a server may send during login. Errors and notices are the longest.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// Most messages that a server may send during login.
pub const MAX_MESSAGES: u32 = 1000;

/// A login under way.
pub struct UpstreamLogin {
    user: Box<str>,
    password: Option<Zeroizing<String>>,
    end_point: Option<EndPoint>,
    /// Keys of a client's login.
    keys: Option<Box<ScramKeys>>,
    nonce: String,
    expect: Expect,
    parameters: ParameterSet,
    key: Box<[u8]>,
    messages: u32,
}

enum Expect {
    Authentication,
    SaslContinue(Box<KeyedExchange>),
    Keys(Box<Challenged>),
    SaslFinal(Box<Proven>),
    AuthenticationOk,
    Ready,
}

/// What a server's message leads to.
#[derive(Debug)]
pub enum Progress {
    /// What is in `out` is to be sent, if anything, and the next message read.
    Read,
    /// The keys of the password, for this salt and so many iterations, go to [`UpstreamLogin::on_keys`].
    NeedKeys(Parameters),
    /// We are in.
    LoggedIn(Welcome),
}

/// What a server told us while we logged in.
#[derive(Debug, Default)]
pub struct Welcome {
    /// The session's parameters.
    pub parameters: ParameterSet,
    /// The body of BackendKeyData: what a cancel request has to carry. Empty where the server gave none.
    pub key: Box<[u8]>,
}

/// Why we are not in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamError {
    /// The server says no.
    Refused(ServerError),
    /// The server asks for a password, and we have none (or none of the kind it asks for).
    NoPassword(&'static str),
    /// The server asks for SCRAM, and we have the user's verifier alone.
    NoKeys,
    /// The server has another verifier than the one that the client proved its password against.
    OtherVerifier,
    /// The server asks for something that we do not do.
    Unsupported(String),
    /// The server could not prove that it knows the password, or broke the protocol in some other way.
    Protocol(String),
}

/// What an ErrorResponse says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerError {
    /// The code, when it is one.
    pub sqlstate: Option<SqlState>,
    /// The message.
    pub message: String,
}

impl ServerError {
    /// Reads the body of an ErrorResponse; what is missing there is missing here.
    #[must_use]
    pub fn read(body: &[u8]) -> Self {
        let mut error = Self { sqlstate: None, message: String::new() };
        let mut rest = body;
        while let Some((&field, after)) = rest.split_first() {
            let Some((value, after)) = frame::cstr(after) else { break };
            match field {
                b'C' => error.sqlstate = SqlState::parse(value),
                b'M' => error.message = String::from_utf8_lossy(value).into_owned(),
                _ => {}
            }
            rest = after;
        }
        error
    }
}

impl fmt::Display for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(ServerError { sqlstate: Some(code), message }) => write!(f, "{message} (SQLSTATE {code})"),
            Self::Refused(ServerError { sqlstate: None, message }) => f.write_str(message),
            Self::NoPassword(method) => write!(f, "wrong password type: the server asks for a {method} password and none is configured that can be used for it"),
            Self::NoKeys => f.write_str(
                "wrong password type: the server asks for SCRAM, and of this user only a verifier is known: a client has to log in by SCRAM-SHA-256 first, \
                 or the password be configured in plain text",
            ),
            Self::OtherVerifier => f.write_str(
                "the server's SCRAM verifier of this user has another salt or number of iterations than the one that sidepool has: \
                 they must be the same, byte by byte (copy it from pg_authid again, or use auth_query)",
            ),
            Self::Unsupported(what) => write!(f, "the server asks for {what}, which is not supported"),
            Self::Protocol(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for UpstreamError {}

impl UpstreamLogin {
    /// Begins a login: the start-up message, with these parameters beside user and database, is appended to `out`. `None` for names with a zero
    /// byte in them. The nonce is random, printable, and has no comma.
    #[must_use]
    pub fn begin(
        (user, database): (&str, &str),
        parameters: &[(String, String)],
        password: Option<&str>,
        nonce: String,
        out: &mut BytesMut,
    ) -> Option<Self> {
        let parameters = parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        frontend::startup_message([("user", user), ("database", database)].into_iter().chain(parameters), out).ok()?;
        Some(Self {
            user: user.into(),
            password: password.map(|password| Zeroizing::new(password.to_owned())),
            end_point: None,
            keys: None,
            nonce,
            expect: Expect::Authentication,
            parameters: ParameterSet::new(),
            key: Box::default(),
            messages: 0,
        })
    }

    /// The connection is under TLS, and the server has shown this certificate: SCRAM is bound to it where the server can do that.
    #[must_use]
    pub fn bound_to(self, end_point: Option<EndPoint>) -> Self {
        Self { end_point, ..self }
    }

    /// Gives it the keys that a client's login brought, for a server that asks for SCRAM where no plain password is known.
    #[must_use]
    pub fn with_keys(self, keys: Option<ScramKeys>) -> Self {
        Self { keys: keys.map(Box::new), ..self }
    }

    /// Takes a message of the server. What it is answered is appended to `out`.
    pub fn on_message(&mut self, tag: u8, body: &[u8], out: &mut BytesMut) -> Result<Progress, UpstreamError> {
        self.messages += 1;
        if self.messages > MAX_MESSAGES {
            return Err(UpstreamError::Protocol(format!("the server sent more than {MAX_MESSAGES} messages during login")));
        }
        match BackendTag::from_byte(tag) {
            Some(BackendTag::ErrorResponse) => Err(UpstreamError::Refused(ServerError::read(body))),
            Some(BackendTag::NoticeResponse | BackendTag::NegotiateProtocolVersion) => Ok(Progress::Read),
            Some(BackendTag::Authentication) => self.on_authentication(body, out),
            Some(BackendTag::ParameterStatus) if self.is_in() => self.on_parameter(body),
            Some(BackendTag::BackendKeyData) if self.is_in() => {
                self.key = body.into();
                Ok(Progress::Read)
            }
            Some(BackendTag::ReadyForQuery) if self.is_in() && body == b"I" => {
                Ok(Progress::LoggedIn(Welcome { parameters: std::mem::take(&mut self.parameters), key: std::mem::take(&mut self.key) }))
            }
            Some(tag) => Err(UpstreamError::Protocol(format!("the server sent an unexpected {tag:?} during login"))),
            None => Err(UpstreamError::Protocol(format!("the server sent an unknown message 0x{tag:02x}: it does not speak PostgreSQL"))),
        }
    }

    /// Takes the keys that [`Progress::NeedKeys`] asks for.
    pub fn on_keys(&mut self, keys: &ScramKeys, out: &mut BytesMut) -> Result<(), UpstreamError> {
        let Expect::Keys(challenged) = std::mem::replace(&mut self.expect, Expect::Ready) else {
            return Err(UpstreamError::Protocol("keys came without having been asked for".into()));
        };
        self.prove(&challenged, keys, out)
    }

    fn prove(&mut self, challenged: &Challenged, keys: &ScramKeys, out: &mut BytesMut) -> Result<(), UpstreamError> {
        let (last, proven) = challenged.prove(keys).map_err(key_fault)?;
        frontend::sasl_response(last.as_bytes(), out).map_err(unencodable)?;
        self.expect = Expect::SaslFinal(Box::new(proven));
        Ok(())
    }

    fn is_in(&self) -> bool {
        matches!(self.expect, Expect::Ready)
    }

    fn on_parameter(&mut self, body: &[u8]) -> Result<Progress, UpstreamError> {
        match self.parameters.take_in(body) {
            Some(()) => Ok(Progress::Read),
            None => Err(UpstreamError::Protocol("the server sent a malformed ParameterStatus".into())),
        }
    }

    fn on_authentication(&mut self, body: &[u8], out: &mut BytesMut) -> Result<Progress, UpstreamError> {
        let Some((kind, data)) = body.split_first_chunk::<4>() else {
            return Err(UpstreamError::Protocol("the server sent a malformed authentication request".into()));
        };
        let kind = i32::from_be_bytes(*kind);
        match (kind, std::mem::replace(&mut self.expect, Expect::Ready)) {
            (0, Expect::Authentication | Expect::AuthenticationOk) => Ok(Progress::Read),
            (3, Expect::Authentication) => {
                let Some(Stored::Plain(password)) = self.stored() else { return Err(UpstreamError::NoPassword("clear-text")) };
                frontend::password_message(password.as_bytes(), out).map_err(unencodable)?;
                self.expect = Expect::AuthenticationOk;
                Ok(Progress::Read)
            }
            (5, Expect::Authentication) => self.answer_md5(data, out),
            (10, Expect::Authentication) => self.begin_sasl(data, out),
            (11, Expect::SaslContinue(exchange)) => self.on_challenge(&exchange, data, out),
            (12, Expect::SaslFinal(proven)) => {
                proven.finish(data).map_err(key_fault)?;
                self.expect = Expect::AuthenticationOk;
                Ok(Progress::Read)
            }
            (7 | 9, Expect::Authentication) => Err(UpstreamError::Unsupported("GSSAPI or SSPI authentication".into())),
            (_, _) => Err(UpstreamError::Protocol(format!("the server sent an unexpected authentication request ({kind})"))),
        }
    }

    fn answer_md5(&mut self, salt: &[u8], out: &mut BytesMut) -> Result<Progress, UpstreamError> {
        let salt = salt.try_into().map_err(|_| UpstreamError::Protocol("the server sent a malformed authentication request".into()))?;
        let digest = self.stored().and_then(|stored| stored.md5_digest(&self.user)).ok_or(UpstreamError::NoPassword("md5"))?;
        frontend::password_message(md5::response(&digest, salt).as_bytes(), out).map_err(unencodable)?;
        self.expect = Expect::AuthenticationOk;
        Ok(Progress::Read)
    }

    fn begin_sasl(&mut self, mechanisms: &[u8], out: &mut BytesMut) -> Result<Progress, UpstreamError> {
        let offers = |wanted: &str| mechanisms.split(|byte| *byte == 0).any(|mechanism| mechanism == wanted.as_bytes());
        let binding = match &self.end_point {
            Some(end_point) if offers(PLUS) => OurBinding::To(end_point.clone()),
            // If somebody in the middle has taken the offer away, the server learns by this that we could have bound it.
            Some(_) => OurBinding::NotOffered,
            None => OurBinding::None,
        };
        if !offers(binding.mechanism()) {
            let offered = String::from_utf8_lossy(mechanisms).replace('\0', " ");
            return Err(UpstreamError::Unsupported(format!("the SASL mechanism {}", offered.trim())));
        }
        match self.stored() {
            Some(Stored::Plain(_)) => {}
            Some(Stored::Md5(_) | Stored::Scram(_)) | None if self.keys.is_some() => {}
            Some(Stored::Scram(_)) => return Err(UpstreamError::NoKeys),
            Some(Stored::Md5(_)) | None => return Err(UpstreamError::NoPassword("plain (for SCRAM)")),
        }
        let mechanism = binding.mechanism();
        let exchange = KeyedExchange::new(std::mem::take(&mut self.nonce), binding);
        frontend::sasl_initial_response(mechanism, exchange.client_first().as_bytes(), out).map_err(unencodable)?;
        self.expect = Expect::SaslContinue(Box::new(exchange));
        Ok(Progress::Read)
    }

    fn on_challenge(&mut self, exchange: &KeyedExchange, data: &[u8], out: &mut BytesMut) -> Result<Progress, UpstreamError> {
        let challenged = exchange.on_challenge(data).map_err(key_fault)?;
        match self.keys.take() {
            Some(keys) if !matches!(self.stored(), Some(Stored::Plain(_))) => {
                self.prove(&challenged, &keys, out)?;
                Ok(Progress::Read)
            }
            Some(_) | None => {
                let parameters = challenged.parameters.clone();
                self.expect = Expect::Keys(Box::new(challenged));
                Ok(Progress::NeedKeys(parameters))
            }
        }
    }

    fn stored(&self) -> Option<Stored<'_>> {
        self.password.as_deref().map(|password| Stored::read(password))
    }
}

fn key_fault(fault: KeyFault) -> UpstreamError {
    match fault {
        KeyFault::Malformed => UpstreamError::Protocol("the server's SCRAM message is not valid".into()),
        KeyFault::OtherVerifier => UpstreamError::OtherVerifier,
        KeyFault::WrongSignature => UpstreamError::Protocol("the server could not prove that it knows the password".into()),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn unencodable(error: std::io::Error) -> UpstreamError {
    UpstreamError::Unsupported(format!("a password that cannot be sent: {error}"))
}

#[cfg(test)]
#[path = "upstream_side_tests.rs"]
mod tests;
