//! The MD5 password exchange, in both directions. Old, but what many password files still hold.
//!
//! Source: PostgreSQL documentation, "AuthenticationMD5Password".

use std::fmt::Write as _;

use md5::{Digest, Md5};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// The 32 hexadecimal digits that `md5…` secrets hold: the digest of password and user name.
#[must_use]
pub fn stored_digest(user: &str, password: &str) -> Zeroizing<String> {
    digest(&[password.as_bytes(), user.as_bytes()])
}

/// What a client answers: `md5` and the digest of the stored digest and the salt.
#[must_use]
pub fn response(stored_digest: &str, salt: [u8; 4]) -> Zeroizing<String> {
    let digest = digest(&[stored_digest.as_bytes(), &salt]);
    Zeroizing::new(format!("md5{}", *digest))
}

/// Whether `answer` is the right one.
#[must_use]
pub fn verify(stored_digest: &str, salt: [u8; 4], answer: &[u8]) -> bool {
    response(stored_digest, salt).as_bytes().ct_eq(answer).into()
}

fn digest(parts: &[&[u8]]) -> Zeroizing<String> {
    let mut md5 = Md5::new();
    for part in parts {
        md5.update(part);
    }
    let mut text = Zeroizing::new(String::with_capacity(32));
    for byte in md5.finalize() {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_agrees_with_postgres_protocol() {
        let salt = [0x2a, 0x3d, 0x8f, 0xe0];
        let stored = stored_digest("md5_user", "password");
        assert_eq!(*response(&stored, salt), postgres_protocol::authentication::md5_hash(b"md5_user", b"password", salt));
        assert_eq!(*response(&stored, salt), "md562af4dd09bbb41884907a838a3233294");
    }

    #[test]
    fn only_the_right_answer_verifies() {
        let stored = stored_digest("u", "p");
        assert!(verify(&stored, *b"salt", response(&stored, *b"salt").as_bytes()));
        assert!(!verify(&stored, *b"tlas", response(&stored, *b"salt").as_bytes()));
        assert!(!verify(&stored, *b"salt", b""));
        assert!(!verify(&stored, *b"salt", b"p"));
    }
}
