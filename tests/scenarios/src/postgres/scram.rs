//! The client's side of SCRAM-SHA-256 (RFC 5802, RFC 7677) with the costly part done once: three thousand clients of one process must not spend
//! on key derivation the processor time that the pooler and the server are to be watched with.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

type Hash = [u8; 32];

/// A password, and its keys for the salts that were met so far.
pub struct Password {
    text: String,
    client_keys: Mutex<HashMap<(String, u32), Hash>>,
}

impl Password {
    /// Of this text.
    pub fn new(text: &str) -> Self {
        Self { text: text.to_owned(), client_keys: Mutex::default() }
    }

    /// The verifier that a pooler stores.
    pub fn verifier(&self) -> String {
        const ITERATIONS: u32 = 4096;
        let salt = b"scenario-salt-16";
        let salted = salted(&self.text, salt, ITERATIONS);
        let stored = STANDARD.encode(Sha256::digest(mac(&salted, b"Client Key")));
        let server = STANDARD.encode(mac(&salted, b"Server Key"));
        format!("SCRAM-SHA-256${ITERATIONS}:{}${stored}:{server}", STANDARD.encode(salt))
    }

    /// The last message of a client that sent `n,,` and `first`, and got `challenge`. `None`: that is no challenge.
    pub fn answer(&self, first: &str, challenge: &str) -> Option<String> {
        let field = |name: &str| challenge.split(',').find_map(|part| part.strip_prefix(name));
        let (nonce, salt, iterations) = (field("r=")?, field("s=")?, field("i=")?.parse().ok()?);
        let key = self.client_key(salt, iterations)?;
        let unproven = format!("c=biws,r={nonce}");
        let signature = mac(&Sha256::digest(key), format!("{first},{challenge},{unproven}").as_bytes());
        let proof: Vec<u8> = key.iter().zip(signature).map(|(key, signed)| key ^ signed).collect();
        Some(format!("{unproven},p={}", STANDARD.encode(proof)))
    }

    fn client_key(&self, salt: &str, iterations: u32) -> Option<Hash> {
        let mut known = self.client_keys.lock().unwrap_or_else(PoisonError::into_inner);
        let met = (salt.to_owned(), iterations);
        if let Some(key) = known.get(&met) {
            return Some(*key);
        }
        let key = mac(&salted(&self.text, &STANDARD.decode(salt).ok()?, iterations), b"Client Key");
        known.insert(met, key);
        Some(key)
    }
}

/// `Hi()` of RFC 5802.
fn salted(password: &str, salt: &[u8], iterations: u32) -> Hash {
    let mut block = mac(password.as_bytes(), &[salt, &[0, 0, 0, 1]].concat());
    let mut sum = block;
    for _ in 1..iterations {
        block = mac(password.as_bytes(), &block);
        sum.iter_mut().zip(block).for_each(|(sum, byte)| *sum ^= byte);
    }
    sum
}

fn mac(key: &[u8], message: &[u8]) -> Hash {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("keys of any size");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_answers_as_in_rfc_7677() {
        let password = Password::new("pencil");
        let challenge = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let answer = password.answer("n=user,r=rOprNGfwEbeRWgbNEkqO", challenge);
        let expected = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(answer.as_deref(), Some(expected));
    }
}
