//! The server's side of SCRAM-SHA-256 (RFC 5802) with a stored verifier: what a login costs in hashes, and no more. A wrong password ends the login;
//! of what else a client might do wrong nothing is checked.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

/// What PostgreSQL stores for a password: `SCRAM-SHA-256$ITERATIONS:SALT$STORED_KEY:SERVER_KEY`.
pub(crate) struct Verifier {
    iterations: String,
    salt: String,
    stored_key: Vec<u8>,
    server_key: Vec<u8>,
}

impl Verifier {
    /// Reads it.
    pub(crate) fn read(text: &str) -> io::Result<Self> {
        let parts = || {
            let (how, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
            let ((iterations, salt), (stored, server)) = (how.split_once(':')?, keys.split_once(':')?);
            let (stored_key, server_key) = (STANDARD.decode(stored).ok()?, STANDARD.decode(server).ok()?);
            Some(Self { iterations: iterations.into(), salt: salt.into(), stored_key, server_key })
        };
        parts().ok_or_else(|| io::Error::other("no verifier of SCRAM-SHA-256"))
    }
}

/// A login half-way: what has been said so far.
pub(crate) struct Exchange {
    client_first: String,
    server_first: String,
}

impl Exchange {
    /// The client's first message (the body of a SASLInitialResponse) is answered.
    pub(crate) fn begin(verifier: &Verifier, response: &[u8]) -> Option<Self> {
        let message = response.strip_prefix(b"SCRAM-SHA-256\0")?.get(4..)?;
        // Behind what it says of channel binding.
        let client_first = std::str::from_utf8(message).ok()?.splitn(3, ',').nth(2)?.to_owned();
        let client_nonce = client_first.split(',').find_map(|part| part.strip_prefix("r="))?;
        let mut nonce = [0; 18];
        getrandom::fill(&mut nonce).ok()?;
        let server_first = format!("r={client_nonce}{},s={},i={}", STANDARD.encode(nonce), verifier.salt, verifier.iterations);
        Some(Self { client_first, server_first })
    }

    /// What the client is told.
    pub(crate) fn server_first(&self) -> &str {
        &self.server_first
    }

    /// The client's last message: the server's proof, if the password was right.
    pub(crate) fn end(&self, verifier: &Verifier, message: &[u8]) -> Option<String> {
        let (without_proof, proof) = std::str::from_utf8(message).ok()?.split_once(",p=")?;
        let said = format!("{},{},{without_proof}", self.client_first, self.server_first);
        let signature = signature(&verifier.stored_key, &said);
        let proof = STANDARD.decode(proof).ok()?;
        let client_key: Vec<u8> = proof.iter().zip(&signature).map(|(proof, signature)| proof ^ signature).collect();
        let right = Sha256::digest(client_key)[..] == verifier.stored_key[..];
        right.then(|| format!("v={}", STANDARD.encode(self::signature(&verifier.server_key, &said))))
    }
}

fn signature(key: &[u8], said: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length");
    mac.update(said.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7677, section 3: the password is "pencil".
    #[test]
    fn the_keys_of_the_rfc_agree_with_its_messages() {
        let verifier = Verifier::read(
            "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
        )
        .unwrap();
        let exchange = Exchange {
            client_first: "n=user,r=rOprNGfwEbeRWgbNEkqO".into(),
            server_first: "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096".into(),
        };
        let last = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(exchange.end(&verifier, last.as_bytes()).unwrap(), "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        let wrong = last.replace("p=dH", "p=dG");
        assert_eq!(exchange.end(&verifier, wrong.as_bytes()), None);
    }
}
