//! The keys of SCRAM, and a login to a server with nothing but them.
//!
//! They come from one of two places. Who has the password derives them, which takes milliseconds, and is the same work for the same salt. And a
//! client that proves its password against a verifier reveals, to whoever has the verifier, the *client key* (pass-through); with it and the
//! verifier's server key one can log in to every server that has the same verifier, byte by byte, without ever having seen the password.
//!
//! Source: RFC 5802, section 3. Nonces are arguments. Not here: where keys are kept.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::binding::OurBinding;
use super::scram::{Key, MAX_ITERATIONS, Parameters, mac, salted_password};

/// The keys of one password and one verifier.
#[derive(Clone)]
pub struct ScramKeys {
    parameters: Parameters,
    client_key: Zeroizing<Key>,
    server_key: Zeroizing<Key>,
}

impl ScramKeys {
    pub(super) fn new(parameters: Parameters, client_key: Key, server_key: Key) -> Self {
        Self { parameters, client_key: Zeroizing::new(client_key), server_key: Zeroizing::new(server_key) }
    }

    /// Makes the keys of a plain password. Takes milliseconds: not for a thread that serves others.
    #[must_use]
    pub fn derive(password: &str, parameters: Parameters) -> Self {
        let salted = salted_password(password, &parameters);
        Self::new(parameters, mac(&*salted, &[b"Client Key"]), mac(&*salted, &[b"Server Key"]))
    }

    /// For which salt and iterations.
    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// What a server keeps of the client key, and the server key.
    pub(super) fn stored(&self) -> (Key, Key) {
        (Sha256::digest(self.client_key.as_slice()).into(), *self.server_key)
    }
}

impl ScramKeys {
    /// As bytes, for another process of the same program.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let Self { parameters: Parameters { salt, iterations }, client_key, server_key } = self;
        Zeroizing::new([&iterations.to_be_bytes(), client_key.as_slice(), server_key.as_slice(), salt].concat())
    }

    /// From such bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (iterations, rest) = bytes.split_first_chunk()?;
        let (client_key, rest) = rest.split_first_chunk()?;
        let (server_key, salt) = rest.split_first_chunk()?;
        let parameters = Parameters { salt: salt.into(), iterations: u32::from_be_bytes(*iterations) };
        (!salt.is_empty()).then(|| Self::new(parameters, *client_key, *server_key))
    }
}

impl PartialEq for ScramKeys {
    fn eq(&self, other: &Self) -> bool {
        let keys = self.client_key.ct_eq(&*other.client_key) & self.server_key.ct_eq(&*other.server_key);
        bool::from(keys) && self.parameters == other.parameters
    }
}

impl Eq for ScramKeys {}

impl fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScramKeys(***)")
    }
}

/// Why a server was not convinced, or not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyFault {
    /// What it said is no message of this exchange.
    Malformed,
    /// It has another verifier.
    OtherVerifier,
    /// It could not prove that it knows the verifier.
    WrongSignature,
}

/// An exchange after our first message.
pub(super) struct KeyedExchange {
    nonce: String,
    binding: OurBinding,
}

/// The same after the server's first message.
pub(super) struct Challenged {
    /// Which keys the server asks for.
    pub(super) parameters: Parameters,
    /// Our last message, but for the proof.
    without_proof: String,
    /// Everything both sides have said, with that.
    signed: String,
}

/// The same after our last message.
pub(super) struct Proven {
    /// What the server has to answer.
    signature: Key,
}

impl KeyedExchange {
    /// `nonce` is random, printable, and has no comma.
    pub(super) fn new(nonce: String, binding: OurBinding) -> Self {
        Self { nonce, binding }
    }

    /// Our first message.
    pub(super) fn client_first(&self) -> String {
        format!("{}{}", self.binding.header(), self.bare())
    }

    /// Takes the server's first message.
    pub(super) fn on_challenge(&self, server_first: &[u8]) -> Result<Challenged, KeyFault> {
        let text = std::str::from_utf8(server_first).map_err(|_| KeyFault::Malformed)?;
        let mut attributes = text.split(',');
        let mut next = |name: &str| attributes.next().and_then(|attribute| attribute.strip_prefix(name)).ok_or(KeyFault::Malformed);
        let (nonce, salt, iterations) = (next("r=")?, next("s=")?, next("i=")?);
        if nonce.len() <= self.nonce.len() || !nonce.starts_with(&self.nonce) {
            return Err(KeyFault::Malformed);
        }
        let salt = BASE64.decode(salt).map_err(|_| KeyFault::Malformed)?;
        let iterations: u32 = iterations.parse().map_err(|_| KeyFault::Malformed)?;
        if !(1..=MAX_ITERATIONS).contains(&iterations) {
            return Err(KeyFault::Malformed);
        }
        let without_proof = format!("c={},r={nonce}", BASE64.encode(self.binding.repeated()));
        let signed = format!("{},{text},{without_proof}", self.bare());
        Ok(Challenged { parameters: Parameters { salt: salt.into(), iterations }, without_proof, signed })
    }

    fn bare(&self) -> String {
        // The user name is the one of the start-up message.
        format!("n=,r={}", self.nonce)
    }
}

impl Challenged {
    /// Our last message, with the proof.
    pub(super) fn prove(&self, keys: &ScramKeys) -> Result<(String, Proven), KeyFault> {
        if keys.parameters != self.parameters {
            return Err(KeyFault::OtherVerifier);
        }
        let (stored_key, server_key) = keys.stored();
        let mut proof = mac(&stored_key, &[self.signed.as_bytes()]);
        for (proof, key) in proof.iter_mut().zip(*keys.client_key) {
            *proof ^= key;
        }
        let signature = mac(&server_key, &[self.signed.as_bytes()]);
        Ok((format!("{},p={}", self.without_proof, BASE64.encode(proof)), Proven { signature }))
    }
}

impl Proven {
    /// Takes the server's last message: its own proof.
    pub(super) fn finish(&self, server_final: &[u8]) -> Result<(), KeyFault> {
        let signature = server_final.strip_prefix(b"v=").and_then(|signature| BASE64.decode(signature).ok()).ok_or(KeyFault::Malformed)?;
        if self.signature.ct_eq(signature.as_slice()).into() { Ok(()) } else { Err(KeyFault::WrongSignature) }
    }
}

#[cfg(test)]
mod tests {
    use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

    use super::super::scram::{Binding, Exchange, Verifier};
    use super::*;

    fn verifier(password: &str) -> Verifier {
        Verifier::derive(password, Parameters { salt: b"0123456789abcdef"[..].into(), iterations: 16 })
    }

    /// A client that logs in with its password gives us the keys.
    fn keys(password: &str) -> ScramKeys {
        let verifier = verifier(password);
        let mut client = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        let exchange = Exchange::begin(client.message(), "server", &verifier.parameters, Binding::None).unwrap();
        client.update(exchange.server_first().as_bytes()).unwrap();
        exchange.finish(client.message()).unwrap().check(Some(&verifier)).unwrap().keys
    }

    #[test]
    fn the_keys_of_a_proof_log_in_to_a_server_with_the_same_verifier() {
        let verifier = verifier("pencil");
        let keyed = KeyedExchange::new("abc".to_owned(), OurBinding::None);
        let exchange = Exchange::begin(keyed.client_first().as_bytes(), "server", &verifier.parameters, Binding::None).unwrap();
        let (last, proven) = keyed.on_challenge(exchange.server_first().as_bytes()).unwrap().prove(&keys("pencil")).unwrap();
        let accepted = exchange.finish(last.as_bytes()).unwrap().check(Some(&verifier)).unwrap();
        assert_eq!(proven.finish(accepted.message.as_bytes()), Ok(()));
        assert_eq!(accepted.keys, keys("pencil"), "and they are the same each time");
        assert_eq!(proven.finish(b"v=AAAA"), Err(KeyFault::WrongSignature));
        assert_eq!(proven.finish(b"e=no"), Err(KeyFault::Malformed));
    }

    #[test]
    fn what_a_proof_tells_is_what_the_password_gives() {
        assert_eq!(keys("pencil"), ScramKeys::derive("pencil", verifier("pencil").parameters));
        assert_ne!(keys("pencil"), ScramKeys::derive("pencil", Parameters { salt: b"salt"[..].into(), iterations: 16 }));
    }

    #[test]
    fn another_verifier_is_named() {
        let keyed = KeyedExchange::new("abc".to_owned(), OurBinding::None);
        let answer = |message: &[u8]| keyed.on_challenge(message)?.prove(&keys("pencil")).map(|(last, _)| last);
        let salt = BASE64.encode("0123456789abcdef");
        let other = BASE64.encode("0123456789abcdeX");
        for (message, fault) in [
            (format!("r=abcd,s={other},i=16"), KeyFault::OtherVerifier),
            (format!("r=abcd,s={salt},i=17"), KeyFault::OtherVerifier),
            (format!("r=abc,s={salt},i=16"), KeyFault::Malformed),
            (format!("r=xbcd,s={salt},i=16"), KeyFault::Malformed),
            (format!("r=abcd,s={salt}"), KeyFault::Malformed),
            ("r=abcd,s=!,i=16".to_owned(), KeyFault::Malformed),
            (format!("r=abcd,s={salt},i=x"), KeyFault::Malformed),
            (format!("r=abcd,s={salt},i=0"), KeyFault::Malformed),
            (format!("r=abcd,s={salt},i={}", MAX_ITERATIONS + 1), KeyFault::Malformed),
        ] {
            assert_eq!(answer(message.as_bytes()), Err(fault), "{message}");
        }
        assert_eq!(answer(b"\xff"), Err(KeyFault::Malformed));
    }

    #[test]
    fn keys_show_nothing_of_themselves() {
        assert_eq!(format!("{:?}", keys("x")), "ScramKeys(***)");
        assert_ne!(keys("x"), keys("y"));
        assert_eq!(ScramKeys::from_bytes(&keys("x").to_bytes()), Some(keys("x")));
        assert_eq!(ScramKeys::from_bytes(&[0; 68]), None, "without a salt");
    }
}
