//! Logging a client in: what it is asked for, and what it answers.
//!
//! ```text
//!   begin(Plain) ─▶ ExpectPassword ──────────────▶ Claim::Password ─┐
//!   begin(Md5)   ─▶ ExpectMd5Answer ─────────────▶ Claim::Md5 ──────┼─▶ Claim::check(stored secret) ─▶ in, or not
//!   begin(Scram) ─▶ ExpectSaslInitial ─▶ ExpectSaslResponse ─▶ Claim::Scram ─┘
//! ```
//! A user that does not exist goes the same way and fails at the same place. Not here: who exists, where secrets are, when time is up.

use std::fmt;

use zeroize::Zeroizing;

use super::binding::{EndPoint, PLUS};
use super::keys::ScramKeys;
use super::md5;
use super::scram::{Accepted, Binding, Exchange, MECHANISM, Parameters, Proof, ScramError};
use super::secret::Stored;
use crate::postgres::encode;
use crate::postgres::fault::{Fault, SqlState};
use crate::postgres::frame;
use crate::postgres::startup::MAX_PACKET_BYTES;
use crate::postgres::tag::FrontendTag;

/// Longest answer of a client that has not proven who it is, its length field not counted.
pub const MAX_ANSWER_BYTES: usize = MAX_PACKET_BYTES;

/// How a client is asked for its password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// In clear text.
    Plain,
    /// As an MD5 digest.
    Md5,
    /// By SCRAM-SHA-256.
    Scram,
}

/// The random part of what a client is asked.
#[derive(Clone)]
pub struct Challenge {
    /// For MD5.
    pub md5_salt: [u8; 4],
    /// For SCRAM: printable, without a comma.
    pub scram_nonce: String,
    /// For SCRAM: those of the user's verifier, or made-up ones.
    pub scram: Parameters,
    /// For SCRAM under TLS: what the exchange can be bound to.
    pub end_point: Option<EndPoint>,
}

/// A client that has been asked.
#[derive(Debug)]
pub enum Asked {
    /// For its password.
    Password(ExpectPassword),
    /// For a digest of its password.
    Md5(ExpectMd5Answer),
    /// To begin a SASL exchange.
    SaslInitial(ExpectSaslInitial),
    /// To go on with it.
    SaslResponse(ExpectSaslResponse),
}

/// What a client's answer leads to.
#[derive(Debug)]
pub enum Step {
    /// Another question, already encoded.
    Ask(Asked),
    /// All is said: what it claims is to be checked.
    Check(Claim),
}

/// Waits for a clear-text password.
#[derive(Debug)]
pub struct ExpectPassword;

/// Waits for the answer to this salt.
#[derive(Debug)]
pub struct ExpectMd5Answer([u8; 4]);

/// Waits for the choice of a mechanism and the client's first message.
#[derive(Debug)]
pub struct ExpectSaslInitial {
    nonce: String,
    parameters: Parameters,
    end_point: Option<EndPoint>,
}

/// Waits for the client's proof.
#[derive(Debug)]
pub struct ExpectSaslResponse(Exchange);

impl Asked {
    /// Asks a client: the request is appended to `out`.
    #[must_use]
    pub fn begin(method: Method, challenge: Challenge, out: &mut Vec<u8>) -> Self {
        match method {
            Method::Plain => {
                encode::authentication_cleartext(out);
                Self::Password(ExpectPassword)
            }
            Method::Md5 => {
                encode::authentication_md5(challenge.md5_salt, out);
                Self::Md5(ExpectMd5Answer(challenge.md5_salt))
            }
            Method::Scram => {
                let offered: &[&str] = if challenge.end_point.is_some() { &[PLUS, MECHANISM] } else { &[MECHANISM] };
                encode::authentication_sasl(offered, out);
                let Challenge { scram_nonce: nonce, scram: parameters, end_point, md5_salt: _ } = challenge;
                Self::SaslInitial(ExpectSaslInitial { nonce, parameters, end_point })
            }
        }
    }

    /// Takes the client's answer. What it is asked next is appended to `out`.
    pub fn on_message(self, tag: u8, body: &[u8], out: &mut Vec<u8>) -> Result<Step, Fault> {
        if FrontendTag::from_byte(tag) != Some(FrontendTag::Password) {
            return Err(Fault::fatal(SqlState::PROTOCOL_VIOLATION, format!("expected password response, got message type {tag}")));
        }
        match self {
            Self::Password(expect) => expect.on_answer(body).map(Step::Check),
            Self::Md5(expect) => expect.on_answer(body).map(Step::Check),
            Self::SaslInitial(expect) => expect.on_answer(body, out).map(|next| Step::Ask(Self::SaslResponse(next))),
            Self::SaslResponse(expect) => expect.on_answer(body).map(Step::Check),
        }
    }
}

impl ExpectPassword {
    fn on_answer(self, body: &[u8]) -> Result<Claim, Fault> {
        let password = terminated(body)?;
        let password = std::str::from_utf8(password).map_err(|_| malformed("password response", "not valid UTF-8"))?;
        Ok(Claim::Password(Zeroizing::new(password.to_owned())))
    }
}

impl ExpectMd5Answer {
    fn on_answer(self, body: &[u8]) -> Result<Claim, Fault> {
        Ok(Claim::Md5 { salt: self.0, answer: terminated(body)?.into() })
    }
}

impl ExpectSaslInitial {
    fn on_answer(self, body: &[u8], out: &mut Vec<u8>) -> Result<ExpectSaslResponse, Fault> {
        let (mechanism, rest) = frame::cstr(body).ok_or_else(|| malformed("SASLInitialResponse", "no mechanism"))?;
        let binding = match &self.end_point {
            Some(end_point) if mechanism == PLUS.as_bytes() => Binding::To(end_point),
            Some(_) if mechanism == MECHANISM.as_bytes() => Binding::Declined,
            None if mechanism == MECHANISM.as_bytes() => Binding::None,
            Some(_) | None => {
                return Err(Fault::fatal(SqlState::PROTOCOL_VIOLATION, "client selected an invalid SASL authentication mechanism"));
            }
        };
        let (length, data) = rest.split_first_chunk::<4>().ok_or_else(|| malformed("SASLInitialResponse", "no length"))?;
        if usize::try_from(i32::from_be_bytes(*length)) != Ok(data.len()) {
            return Err(malformed("SASLInitialResponse", "wrong length"));
        }
        let exchange = Exchange::begin(data, &self.nonce, &self.parameters, binding).map_err(scram_fault)?;
        encode::authentication_sasl_continue(exchange.server_first().as_bytes(), out);
        Ok(ExpectSaslResponse(exchange))
    }
}

impl ExpectSaslResponse {
    fn on_answer(self, body: &[u8]) -> Result<Claim, Fault> {
        self.0.finish(body).map(Claim::Scram).map_err(scram_fault)
    }
}

/// What a client says proves who it is.
pub enum Claim {
    /// A password.
    Password(Zeroizing<String>),
    /// A digest of it.
    Md5 {
        /// What was asked.
        salt: [u8; 4],
        /// What was answered.
        answer: Box<[u8]>,
    },
    /// A proof of it.
    Scram(Proof),
}

impl Claim {
    /// Checks the claim against the stored secret of `user` (`None`: there is no such user, or it has no password). If it holds,
    /// AuthenticationOk may follow, and what goes before it is in `out`. Where a password meets a verifier, it takes milliseconds.
    #[must_use]
    pub fn check(&self, user: &str, stored: Option<&Stored<'_>>, out: &mut Vec<u8>) -> Option<Proven> {
        match self {
            Self::Password(password) => stored.is_some_and(|stored| stored.is_password(user, password)).then_some(Proven::Password),
            Self::Md5 { salt, answer } => {
                let digest = stored.and_then(|stored| stored.md5_digest(user));
                digest.is_some_and(|digest| md5::verify(&digest, *salt, answer)).then_some(Proven::Digest)
            }
            Self::Scram(proof) => {
                let verifier = match stored {
                    Some(Stored::Scram(verifier)) => Some(&**verifier),
                    Some(Stored::Plain(_) | Stored::Md5(_)) | None => None,
                };
                let Accepted { message, keys } = proof.check(verifier).ok()?;
                encode::authentication_sasl_final(message.as_bytes(), out);
                Some(Proven::Keys(keys))
            }
        }
    }
}

impl Claim {
    /// The password, where it was given in clear text.
    #[must_use]
    pub fn password(&self) -> Option<&str> {
        match self {
            Self::Password(password) => Some(password),
            Self::Md5 { .. } | Self::Scram(_) => None,
        }
    }
}

/// A claim that holds, with what it tells of the password.
#[derive(Debug)]
pub enum Proven {
    /// All: it is in the claim.
    Password,
    /// Nothing.
    Digest,
    /// Enough to log in elsewhere with the same verifier.
    Keys(ScramKeys),
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Claim(***)")
    }
}

/// The one answer to a wrong password and to a user that does not exist.
#[must_use]
pub fn wrong_password(method: Method) -> Fault {
    let message = match method {
        Method::Plain | Method::Md5 => "password authentication failed",
        Method::Scram => "SASL authentication failed",
    };
    Fault::fatal(SqlState::INVALID_PASSWORD, message).with_detail("The password is wrong, or there is no such user.")
}

fn terminated(body: &[u8]) -> Result<&[u8], Fault> {
    match frame::cstr(body) {
        Some((text, [])) => Ok(text),
        Some(_) | None => Err(malformed("password response", "invalid length")),
    }
}

fn malformed(message: &str, what: &str) -> Fault {
    Fault::fatal(SqlState::PROTOCOL_VIOLATION, format!("malformed {message} message: {what}"))
}

fn scram_fault(error: ScramError) -> Fault {
    match error {
        ScramError::Malformed(part) => malformed("SCRAM", part),
        ScramError::Unsupported(what) => {
            Fault::fatal(SqlState::FEATURE_NOT_SUPPORTED, format!("client requires SCRAM {what}, which is not supported"))
        }
        ScramError::Downgraded => Fault::fatal(SqlState::INVALID_AUTHORIZATION, "SCRAM channel binding negotiation error").with_detail(
            "The client supports SCRAM channel binding but thinks the server does not. However, this server does support channel binding.",
        ),
        ScramError::WrongBinding => Fault::fatal(SqlState::INVALID_AUTHORIZATION, "SCRAM channel binding check failed"),
        ScramError::WrongProof => Fault::fatal(SqlState::INVALID_PASSWORD, "SASL authentication failed"),
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
    use postgres_protocol::message::frontend;

    use super::super::scram::Verifier;
    use super::*;

    fn challenge() -> Challenge {
        Challenge { md5_salt: *b"salt", scram_nonce: "nonce".into(), scram: Parameters::made_up(&[0; 32], "bob", 4096), end_point: None }
    }

    fn ask(method: Method) -> (Asked, Vec<u8>) {
        let mut out = Vec::new();
        let asked = Asked::begin(method, challenge(), &mut out);
        (asked, out)
    }

    fn claim(asked: Asked, body: &[u8]) -> Claim {
        match asked.on_message(b'p', body, &mut Vec::new()).unwrap() {
            Step::Check(claim) => claim,
            Step::Ask(asked) => panic!("{asked:?}"),
        }
    }

    #[test]
    fn a_clear_text_password() {
        let (asked, out) = ask(Method::Plain);
        assert_eq!(out, b"R\0\0\0\x08\0\0\0\x03");
        let claim = claim(asked, b"secret\0");
        let mut out = Vec::new();
        assert!(claim.check("bob", Some(&Stored::read("secret")), &mut out).is_some());
        assert!(claim.check("bob", Some(&Stored::read("other")), &mut out).is_none());
        assert!(claim.check("bob", None, &mut out).is_none());
        assert_eq!(out, b"");
        assert_eq!(format!("{claim:?}"), "Claim(***)");
    }

    #[test]
    fn an_md5_answer() {
        let stored = format!("md5{}", *md5::stored_digest("bob", "secret"));
        let answer = md5::response(&stored[3..], *b"salt");
        let claim = claim(ask(Method::Md5).0, format!("{}\0", *answer).as_bytes());
        let mut out = Vec::new();
        assert!(claim.check("bob", Some(&Stored::read("secret")), &mut out).is_some());
        assert!(claim.check("bob", Some(&Stored::read(&stored)), &mut out).is_some());
        assert!(claim.check("bob", Some(&Stored::read("secreu")), &mut out).is_none());
        assert!(claim.check("alice", Some(&Stored::read("secret")), &mut out).is_none());
        assert!(claim.check("bob", None, &mut out).is_none());
    }

    fn scram(password: &str) -> (ScramSha256, Claim) {
        let (asked, _) = ask(Method::Scram);
        let mut client = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        let mut message = BytesMut::new();
        frontend::sasl_initial_response(MECHANISM, client.message(), &mut message).unwrap();
        let mut out = Vec::new();
        let Step::Ask(asked) = asked.on_message(b'p', &message[5..], &mut out).unwrap() else { panic!() };
        client.update(&out[9..]).unwrap();
        let proof = client.message().to_vec();
        (client, claim(asked, &proof))
    }

    #[test]
    fn a_scram_exchange() {
        let verifier = Verifier::derive("secret", challenge().scram);
        let stored = Stored::Scram(Box::new(verifier));
        let (mut client, claim) = scram("secret");
        let mut out = Vec::new();
        assert!(claim.check("bob", Some(&stored), &mut out).is_some());
        client.finish(&out[9..]).unwrap();
        let mut out = Vec::new();
        assert!(claim.check("bob", None, &mut out).is_none());
        assert!(scram("wrong").1.check("bob", Some(&stored), &mut out).is_none());
        assert_eq!(out, b"");
    }

    #[test]
    fn what_is_not_an_answer_is_a_protocol_violation() {
        for method in [Method::Plain, Method::Md5, Method::Scram] {
            for (tag, body) in
                [(b'Q', &b"select 1\0"[..]), (b'p', b""), (b'p', b"no end"), (b'p', b"a\0b\0"), (b'p', b"SCRAM-SHA-256\0\0\0\0\x09short")]
            {
                let fault = ask(method).0.on_message(tag, body, &mut Vec::new()).unwrap_err();
                assert_eq!(fault.sqlstate, SqlState::PROTOCOL_VIOLATION, "{method:?} {body:?}");
            }
        }
        let fault = ask(Method::Scram).0.on_message(b'p', b"SCRAM-SHA-256-PLUS\0\xff\xff\xff\xff", &mut Vec::new()).unwrap_err();
        assert!(fault.message.contains("mechanism"));
        let mut no_data = b"SCRAM-SHA-256\0".to_vec();
        no_data.extend((-1_i32).to_be_bytes());
        assert!(ask(Method::Scram).0.on_message(b'p', &no_data, &mut Vec::new()).is_err());
        let fault = ask(Method::Plain).0.on_message(b'p', b"\xff\0", &mut Vec::new()).unwrap_err();
        assert!(!fault.message.contains('\u{fffd}'));
    }
}
