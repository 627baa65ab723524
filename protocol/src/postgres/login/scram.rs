//! SCRAM-SHA-256, the server's side: verifiers, and the exchange with a client. (The client's side is in `keys`.)
//!
//! Source: RFC 5802, RFC 7677, and PostgreSQL's `scram-common` for what a stored verifier looks like. Nonces and salts are arguments.
//! Under TLS it may be bound to the server's certificate (RFC 5929): `binding`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::binding::{EndPoint, KIND};
use super::keys::ScramKeys;

/// The name of the mechanism.
pub const MECHANISM: &str = "SCRAM-SHA-256";

/// Iterations of a verifier that we make from a plain password; PostgreSQL's default.
pub const ITERATIONS: u32 = 4096;

/// Most iterations of a stored verifier; each costs whoever checks a plain password against it.
pub const MAX_ITERATIONS: u32 = 10_000_000;

/// Bytes of a salt that we make.
pub const SALT_BYTES: usize = 16;

pub(super) type Key = [u8; 32];

/// What a server keeps instead of a password: enough to recognise it, not to use it elsewhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    /// The public part: what the client is told.
    pub parameters: Parameters,
    stored_key: Key,
    server_key: Key,
}

/// The part of a verifier that the client is told.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Parameters {
    /// The salt.
    pub salt: Box<[u8]>,
    /// How often the hash is applied.
    pub iterations: u32,
}

impl Parameters {
    /// What a user is told that has no verifier of its own: one with a plain password, or one that does not exist. The same for the same name as
    /// long as the process lives, so that the two cannot be told apart.
    #[must_use]
    pub fn made_up(seed: &[u8; 32], user: &str, iterations: u32) -> Self {
        let salt = mac(seed, &[b"salt", user.as_bytes()]);
        Self { salt: salt[..SALT_BYTES].into(), iterations }
    }
}

impl Verifier {
    /// Makes the verifier of a plain password. Takes milliseconds: not for a thread that serves others.
    #[must_use]
    pub fn derive(password: &str, parameters: Parameters) -> Self {
        let (stored_key, server_key) = ScramKeys::derive(password, parameters.clone()).stored();
        Self { parameters, stored_key, server_key }
    }

    /// Reads `SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (parameters, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
        let (iterations, salt) = parameters.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let iterations = iterations.parse().ok().filter(|iterations| (1..=MAX_ITERATIONS).contains(iterations))?;
        let salt: Box<[u8]> = BASE64.decode(salt).ok().filter(|salt| !salt.is_empty())?.into();
        let key = |text: &str| BASE64.decode(text).ok()?.try_into().ok();
        Some(Self { parameters: Parameters { salt, iterations }, stored_key: key(stored_key)?, server_key: key(server_key)? })
    }

    /// Whether this is the verifier of `password`. Takes milliseconds.
    #[must_use]
    pub fn is_of(&self, password: &str) -> bool {
        let other = Self::derive(password, self.parameters.clone());
        self.stored_key.ct_eq(&other.stored_key).into()
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier(***)")
    }
}

/// Why an exchange failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScramError {
    /// Not a message of this mechanism; says which part.
    Malformed(&'static str),
    /// The client wants something that we did not offer.
    Unsupported(&'static str),
    /// The client could bind the exchange but believes that we cannot, which we said: somebody in the middle has changed our words.
    Downgraded,
    /// The exchange is bound to another certificate than ours: somebody in the middle passes it on.
    WrongBinding,
    /// The proof is not that of the right password.
    WrongProof,
}

/// A server's part of the nonce, from random bytes: printable, without a comma.
#[must_use]
pub fn nonce(random: [u8; 18]) -> String {
    BASE64.encode(random)
}

/// What an exchange is bound to.
#[derive(Debug, Clone, Copy)]
pub enum Binding<'a> {
    /// To nothing, and nothing was offered.
    None,
    /// To nothing, though a binding was offered.
    Declined,
    /// To our certificate.
    To(&'a EndPoint),
}

/// An exchange after the client's first message.
#[derive(Debug)]
pub struct Exchange {
    client_first_bare: Box<str>,
    server_first: String,
    nonce: Box<str>,
    /// The client's header, and what it is bound to, in base64: its last message has to repeat them.
    binding: Box<str>,
    is_bound: bool,
}

impl Exchange {
    /// Takes the client's first message. `server_nonce` is random, printable, and has no comma.
    pub fn begin(client_first: &[u8], server_nonce: &str, parameters: &Parameters, binding: Binding<'_>) -> Result<Self, ScramError> {
        let text = std::str::from_utf8(client_first).map_err(|_| ScramError::Malformed("encoding"))?;
        let (header, bare) = header(text, binding)?;
        let mut bound = header.as_bytes().to_vec();
        let is_bound = match binding {
            Binding::None | Binding::Declined => false,
            Binding::To(end_point) => {
                bound.extend_from_slice(end_point.bytes());
                true
            }
        };
        let binding = BASE64.encode(bound).into();
        if bare.starts_with("m=") {
            return Err(ScramError::Unsupported("mandatory extension"));
        }
        let mut attributes = bare.split(',');
        // The user name is the one of the start-up message; PostgreSQL ignores the one here, too.
        let _user = attributes.next().and_then(|user| user.strip_prefix("n=")).ok_or(ScramError::Malformed("user name"))?;
        let client_nonce = attributes.next().and_then(|nonce| nonce.strip_prefix("r=")).ok_or(ScramError::Malformed("nonce"))?;
        if client_nonce.is_empty() || !client_nonce.bytes().all(|byte| (0x21..=0x7e).contains(&byte)) {
            return Err(ScramError::Malformed("nonce"));
        }
        let nonce = [client_nonce, server_nonce].concat();
        let (salt, iterations) = (BASE64.encode(&parameters.salt), parameters.iterations.to_string());
        let server_first = ["r=", &nonce, ",s=", &salt, ",i=", &iterations].concat();
        Ok(Self { client_first_bare: bare.into(), server_first, nonce: nonce.into(), binding, is_bound })
    }

    /// Our first message.
    #[must_use]
    pub fn server_first(&self) -> &str {
        &self.server_first
    }

    /// Takes the client's last message, whose proof is still to be checked.
    pub fn finish(self, client_final: &[u8]) -> Result<Proof, ScramError> {
        let text = std::str::from_utf8(client_final).map_err(|_| ScramError::Malformed("encoding"))?;
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or(ScramError::Malformed("proof"))?;
        let proof = BASE64.decode(proof).ok().and_then(|proof| proof.try_into().ok()).ok_or(ScramError::Malformed("proof"))?;
        let mut attributes = without_proof.split(',');
        let binding = attributes.next().and_then(|binding| binding.strip_prefix("c=")).ok_or(ScramError::Malformed("channel binding"))?;
        if *binding != *self.binding {
            return Err(if self.is_bound { ScramError::WrongBinding } else { ScramError::Malformed("channel binding") });
        }
        let nonce = attributes.next().and_then(|nonce| nonce.strip_prefix("r=")).ok_or(ScramError::Malformed("nonce"))?;
        if nonce != &*self.nonce {
            return Err(ScramError::Malformed("nonce"));
        }
        let signed = [&*self.client_first_bare, ",", &self.server_first, ",", without_proof].concat();
        Ok(Proof { signed, proof })
    }
}

/// The client's header and what follows it.
fn header<'a>(text: &'a str, binding: Binding<'_>) -> Result<(&'a str, &'a str), ScramError> {
    let mut parts = text.splitn(3, ',');
    let (Some(flag), Some(identity), Some(bare)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(ScramError::Malformed("header"));
    };
    match (flag, binding) {
        ("n", Binding::None | Binding::Declined) | ("y", Binding::None) => {}
        ("y", Binding::Declined) => return Err(ScramError::Downgraded),
        ("n" | "y", Binding::To(_)) => return Err(ScramError::Malformed("channel binding")),
        (_, Binding::To(_)) if flag.strip_prefix("p=") == Some(KIND) => {}
        (_, Binding::To(_)) if flag.starts_with("p=") => return Err(ScramError::Unsupported("channel binding of this kind")),
        (_, Binding::None) if flag.starts_with("p=") => return Err(ScramError::Unsupported("channel binding")),
        (_, Binding::Declined) if flag.starts_with("p=") => return Err(ScramError::Malformed("channel binding")),
        (_, _) => return Err(ScramError::Malformed("header")),
    }
    if !identity.is_empty() {
        return Err(if identity.starts_with("a=") {
            ScramError::Unsupported("authorization identity")
        } else {
            ScramError::Malformed("header")
        });
    }
    Ok((&text[..text.len() - bare.len()], bare))
}

/// A client's proof that it knows the password.
pub struct Proof {
    /// Everything both sides have said.
    signed: String,
    proof: Key,
}

impl Proof {
    /// Checks the proof. Without a verifier the work is the same and the proof wrong.
    pub fn check(&self, verifier: Option<&Verifier>) -> Result<Accepted, ScramError> {
        let (stored_key, server_key) = verifier.map_or(([0; 32], [0; 32]), |verifier| (verifier.stored_key, verifier.server_key));
        let mut client_key = mac(&stored_key, &[self.signed.as_bytes()]);
        for (key, proof) in client_key.iter_mut().zip(self.proof) {
            *key ^= proof;
        }
        let right: Key = Sha256::digest(client_key).into();
        let right = right.ct_eq(&stored_key) & u8::from(verifier.is_some()).into();
        let signature = mac(&server_key, &[self.signed.as_bytes()]);
        match verifier {
            Some(verifier) if right.into() => {
                let keys = ScramKeys::new(verifier.parameters.clone(), client_key, server_key);
                Ok(Accepted { message: ["v=", &BASE64.encode(signature)].concat(), keys })
            }
            Some(_) | None => Err(ScramError::WrongProof),
        }
    }
}

/// A proof that is right.
#[derive(Debug)]
pub struct Accepted {
    /// Our last message: our own proof.
    pub message: String,
    /// What the proof tells of the password: enough to log in elsewhere with the same verifier.
    pub keys: ScramKeys,
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proof(***)")
    }
}

/// PBKDF2 with HMAC-SHA-256 and one block, `Hi` of RFC 5802.
pub(super) fn salted_password(password: &str, parameters: &Parameters) -> Zeroizing<Key> {
    // Passwords that are not allowed by SASLprep are taken as they are, as PostgreSQL does.
    let prepared = Zeroizing::new(stringprep::saslprep(password).map_or_else(|_| password.to_owned(), std::borrow::Cow::into_owned));
    let keyed = keyed(prepared.as_bytes());
    let mut first = keyed.clone();
    first.update(&parameters.salt);
    first.update(&1_u32.to_be_bytes());
    let mut round: Key = first.finalize().into_bytes().into();
    let mut result = Zeroizing::new(round);
    for _ in 1..parameters.iterations {
        let mut next = keyed.clone();
        next.update(&round);
        round = next.finalize().into_bytes().into();
        for (result, round) in result.iter_mut().zip(round) {
            *result ^= round;
        }
    }
    result
}

pub(super) fn mac(key: &[u8], parts: &[&[u8]]) -> Key {
    let mut mac = keyed(key);
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    match Hmac::new_from_slice(key) {
        Ok(mac) => mac,
        Err(_) => unreachable!("HMAC takes keys of any length"),
    }
}

#[cfg(test)]
mod tests {
    use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
    use proptest::prelude::*;

    use super::*;

    /// RFC 7677, section 3.
    const PASSWORD: &str = "pencil";
    const CLIENT_FIRST: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const CLIENT_FINAL: &[u8] =
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    fn rfc_parameters() -> Parameters {
        Parameters { salt: BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap().into(), iterations: 4096 }
    }

    fn rfc_exchange() -> Exchange {
        Exchange::begin(CLIENT_FIRST, SERVER_NONCE, &rfc_parameters(), Binding::None).unwrap()
    }

    #[test]
    fn the_vector_of_rfc_7677() {
        let verifier = Verifier::derive(PASSWORD, rfc_parameters());
        let exchange = rfc_exchange();
        assert_eq!(exchange.server_first(), "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
        let proof = exchange.finish(CLIENT_FINAL).unwrap();
        assert_eq!(proof.check(Some(&verifier)).unwrap().message, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        assert_eq!(proof.check(None).unwrap_err(), ScramError::WrongProof);
        assert_eq!(proof.check(Some(&Verifier::derive("pencils", rfc_parameters()))).unwrap_err(), ScramError::WrongProof);
    }

    #[test]
    fn a_stored_verifier_is_the_derived_one() {
        // Made by PostgreSQL for the password "foobar" (postgres-protocol's own test vector is random, so this one is derived there).
        let stored = postgres_protocol::password::scram_sha_256(b"foobar");
        let verifier = Verifier::parse(&stored).unwrap();
        assert!(verifier.is_of("foobar"));
        assert!(!verifier.is_of("foobaz"));
        assert_eq!(format!("{verifier:?}"), "Verifier(***)");
    }

    #[test]
    fn malformed_verifiers_are_none() {
        let good = postgres_protocol::password::scram_sha_256(b"x");
        assert!(Verifier::parse(&good).is_some());
        for bad in [
            "",
            "SCRAM-SHA-256$",
            "SCRAM-SHA-256$4096:AAAA$AAAA:AAAA",
            "SCRAM-SHA-256$0:AAAA$x:y",
            &good.replace("$4096:", "$99999999:"),
            &good.replace("$4096:", "$-1:"),
            &good[..good.len() - 4],
            &good.replace("SCRAM-SHA-256", "SCRAM-SHA-1"),
        ] {
            assert!(Verifier::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn it_agrees_with_the_client_of_postgres_protocol() {
        for password in ["foobar", "", "pässwörd\u{00a0}ⅸ", "\u{0007}bell"] {
            let parameters = Parameters::made_up(&[7; 32], "bob", ITERATIONS);
            let verifier = Verifier::derive(password, parameters.clone());
            let mut client = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
            let exchange = Exchange::begin(client.message(), "servernonce", &parameters, Binding::None).unwrap();
            client.update(exchange.server_first().as_bytes()).unwrap();
            let last = exchange.finish(client.message()).unwrap().check(Some(&verifier)).unwrap();
            client.finish(last.message.as_bytes()).unwrap();
        }
    }

    #[test]
    fn what_we_do_not_offer_is_refused() {
        let begin = |text: &str| Exchange::begin(text.as_bytes(), "s", &rfc_parameters(), Binding::None).map(|_| ());
        assert_eq!(begin("p=tls-unique,,n=,r=x"), Err(ScramError::Unsupported("channel binding")));
        assert_eq!(begin("n,a=other,n=,r=x"), Err(ScramError::Unsupported("authorization identity")));
        assert_eq!(begin("n,,m=x,n=,r=x"), Err(ScramError::Unsupported("mandatory extension")));
        assert_eq!(begin("y,,n=,r=x"), Ok(()));
        for malformed in ["", "x", "n,,", "n,,n=", "n,,n=,r=", "n,,n=,r=a b", "n,,r=x", "n,,n=,x=y"] {
            assert!(matches!(begin(malformed), Err(ScramError::Malformed(_))), "{malformed}");
        }
    }

    #[test]
    fn the_last_message_must_repeat_nonce_and_header() {
        let last = std::str::from_utf8(CLIENT_FINAL).unwrap();
        for malformed in [
            String::new(),
            last.replace("c=biws", "c=eSws"),
            last.replace("r=rOpr", "r=xOpr"),
            last.replace("c=biws,", ""),
            last.replace(",p=", ",q="),
            last.replace("dHzb", "d"),
            last.replace("rOprNGfwEbeRWgbNEkqO", ""),
        ] {
            assert!(matches!(rfc_exchange().finish(malformed.as_bytes()), Err(ScramError::Malformed(_))), "{malformed}");
        }
    }

    fn bound() -> EndPoint {
        let key = rcgen::KeyPair::generate().unwrap();
        EndPoint::of(rcgen::CertificateParams::new(["db".to_owned()]).unwrap().self_signed(&key).unwrap().der()).unwrap()
    }

    #[test]
    fn an_exchange_bound_to_our_certificate_is_bound_to_no_other() {
        let (ours, other) = (bound(), bound());
        let parameters = rfc_parameters();
        let verifier = Verifier::derive("pw", parameters.clone());
        let exchange = |of_client: &EndPoint| {
            let mut client = ScramSha256::new(b"pw", ChannelBinding::tls_server_end_point(of_client.bytes().to_vec()));
            let exchange = Exchange::begin(client.message(), "nonce", &parameters, Binding::To(&ours)).unwrap();
            client.update(exchange.server_first().as_bytes()).unwrap();
            exchange.finish(client.message()).map(|proof| proof.check(Some(&verifier)).is_ok())
        };
        assert_eq!(exchange(&ours), Ok(true));
        assert_eq!(exchange(&other), Err(ScramError::WrongBinding));
    }

    #[test]
    fn what_somebody_in_the_middle_took_away_is_missed() {
        let ours = bound();
        let begin = |text: &str, binding| Exchange::begin(text.as_bytes(), "s", &rfc_parameters(), binding).map(|_| ());
        assert_eq!(begin("y,,n=,r=x", Binding::Declined), Err(ScramError::Downgraded));
        assert_eq!(begin("n,,n=,r=x", Binding::Declined), Ok(()));
        assert_eq!(begin("p=tls-server-end-point,,n=,r=x", Binding::Declined), Err(ScramError::Malformed("channel binding")));
        for without in ["n,,n=,r=x", "y,,n=,r=x"] {
            assert_eq!(begin(without, Binding::To(&ours)), Err(ScramError::Malformed("channel binding")));
        }
        assert_eq!(begin("p=tls-server-end-point,,n=,r=x", Binding::To(&ours)), Ok(()));
        assert_eq!(begin("p=tls-unique,,n=,r=x", Binding::To(&ours)), Err(ScramError::Unsupported("channel binding of this kind")));
        assert_eq!(begin("p=tls-server-end-point,a=x,n=,r=x", Binding::To(&ours)), Err(ScramError::Unsupported("authorization identity")));
    }

    #[test]
    fn a_made_up_salt_belongs_to_the_name_and_the_process() {
        let of = |seed: u8, user: &str| Parameters::made_up(&[seed; 32], user, 7).salt;
        assert_eq!(of(1, "a"), of(1, "a"));
        assert_ne!(of(1, "a"), of(1, "b"));
        assert_ne!(of(1, "a"), of(2, "a"));
        assert_eq!(of(1, "a").len(), SALT_BYTES);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(first in ".{0,60}", last in ".{0,60}", verifier in ".{0,80}", bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            for message in [first.as_bytes(), &bytes] {
                let _ = Exchange::begin(message, "s", &rfc_parameters(), Binding::None);
            }
            for message in [last.as_bytes(), &bytes] {
                let _ = rfc_exchange().finish(message);
            }
            let _ = Verifier::parse(&verifier);
        }
    }
}
