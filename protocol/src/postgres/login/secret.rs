//! What a stored secret is: a plain password, an MD5 digest, or a SCRAM verifier (PgBouncer's `auth_file` and `pg_authid` hold the same three).

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::md5;
use super::scram::Verifier;

/// A stored secret, read.
#[derive(Clone)]
pub enum Stored<'a> {
    /// The password itself.
    Plain(&'a str),
    /// The 32 digits after `md5`.
    Md5(&'a str),
    /// A verifier.
    Scram(Box<Verifier>),
}

impl<'a> Stored<'a> {
    /// Reads a stored secret. What is neither a digest nor a verifier is a password.
    #[must_use]
    pub fn read(secret: &'a str) -> Self {
        if let Some(verifier) = Verifier::parse(secret) {
            return Self::Scram(Box::new(verifier));
        }
        match secret.strip_prefix("md5") {
            Some(digest) if digest.len() == 32 && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) => Self::Md5(digest),
            _ => Self::Plain(secret),
        }
    }

    /// The digest that the MD5 exchange needs; `None` for a verifier.
    #[must_use]
    pub fn md5_digest(&self, user: &str) -> Option<Zeroizing<String>> {
        match self {
            Self::Plain(password) => Some(md5::stored_digest(user, password)),
            Self::Md5(digest) => Some(Zeroizing::new((*digest).to_owned())),
            Self::Scram(_) => None,
        }
    }

    /// Whether `password` is the right one. With a verifier it takes milliseconds.
    #[must_use]
    pub fn is_password(&self, user: &str, password: &str) -> bool {
        match self {
            Self::Plain(right) => right.as_bytes().ct_eq(password.as_bytes()).into(),
            Self::Md5(digest) => md5::stored_digest(user, password).as_bytes().ct_eq(digest.as_bytes()).into(),
            Self::Scram(verifier) => verifier.is_of(password),
        }
    }
}

impl fmt::Debug for Stored<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain(***)",
            Self::Md5(_) => "Md5(***)",
            Self::Scram(_) => "Scram(***)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_known_by_its_form() {
        assert!(matches!(Stored::read("secret"), Stored::Plain("secret")));
        assert!(matches!(Stored::read("md5secret"), Stored::Plain(_)));
        assert!(matches!(Stored::read("md50123456789abcdef0123456789abcdef"), Stored::Md5("0123456789abcdef0123456789abcdef")));
        assert!(matches!(Stored::read("SCRAM-SHA-256$no"), Stored::Plain(_)));
        assert!(matches!(Stored::read(&postgres_protocol::password::scram_sha_256(b"x")), Stored::Scram(_)));
        assert_eq!(format!("{:?}", Stored::read("secret")), "Plain(***)");
    }

    #[test]
    fn each_kind_knows_its_password() {
        let md5 = format!("md5{}", *md5::stored_digest("bob", "pw"));
        let scram = postgres_protocol::password::scram_sha_256(b"pw");
        for secret in ["pw", &md5, &scram] {
            let stored = Stored::read(secret);
            assert!(stored.is_password("bob", "pw"), "{stored:?}");
            assert!(!stored.is_password("bob", "pv"), "{stored:?}");
            assert!(!stored.is_password("bob", ""), "{stored:?}");
        }
    }
}
