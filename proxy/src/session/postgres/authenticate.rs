//! Finds out whether a client is who it says: which method, which secret, and the exchange itself. A user that does not exist takes the same way
//! and fails at the same place as one with a wrong password.
//!
//! Not here: where the client is led afterwards (`route`).

use sidepool_config::model::{AuthType, PgUser, Postgres};
use sidepool_config::secret::Secret;
use sidepool_protocol::postgres::encode;
use sidepool_protocol::postgres::fault::{Fault, SqlState};
use sidepool_protocol::postgres::login::client_side::{Asked, Challenge, Claim, Method, Step, wrong_password};
use sidepool_protocol::postgres::login::scram::{self, Parameters};
use sidepool_protocol::postgres::login::secret::Stored;
use tokio::io::AsyncWriteExt as _;

use super::opening::{self, Farewell};
use super::side::LoginSeed;
use super::verifiers::Verifiers;
use crate::transport::stream::Stream;

/// What logins are checked against.
pub(super) struct Keeper<'a> {
    pub(super) config: &'a Postgres,
    pub(super) verifiers: &'a Verifiers,
    pub(super) seed: &'a LoginSeed,
}

impl Keeper<'_> {
    /// Lets `user` prove who it is. What precedes the welcome (AuthenticationOk at its end) is left in `out`; what is in `out` before is sent first.
    pub(super) async fn authenticate(&self, stream: &mut Stream, user: &str, out: &mut Vec<u8>) -> Result<(), Farewell> {
        let known = self.config.users.get(user);
        let secret = known.and_then(|known| known.password.as_ref()).filter(|secret| !secret.reveal().is_empty());
        match method(self.config.auth_type, known, secret)? {
            None => {}
            Some(method) => self.exchange(stream, user, secret, method, out).await?,
        }
        encode::authentication_ok(out);
        Ok(())
    }

    async fn exchange(
        &self,
        stream: &mut Stream,
        user: &str,
        secret: Option<&Secret>,
        method: Method,
        out: &mut Vec<u8>,
    ) -> Result<(), Farewell> {
        let stored = secret.map(|secret| Stored::read(secret.reveal()));
        let scram = match &stored {
            Some(Stored::Scram(verifier)) => verifier.parameters.clone(),
            Some(Stored::Plain(_) | Stored::Md5(_)) | None => Parameters::made_up(self.seed.bytes(), user),
        };
        let mut asked = Asked::begin(method, challenge(scram.clone())?, out);
        let claim = loop {
            stream.write_all(out).await?;
            out.clear();
            let (tag, body) = opening::answer(stream).await?;
            match asked.on_message(tag, &body, out)? {
                Step::Ask(next) => asked = next,
                Step::Check(claim) => break claim,
            }
        };
        let is_right = match (claim, stored, secret) {
            // A verifier of our own making, made at the first login.
            (claim @ Claim::Scram(_), Some(Stored::Plain(_)), Some(secret)) => {
                let verifier = self.verifiers.get(user, secret, scram).await;
                let stored = verifier.map(|verifier| Stored::Scram(Box::new(verifier)));
                claim.check(user, stored.as_ref(), out)
            }
            (claim @ Claim::Password(_), Some(Stored::Scram(_)), Some(secret)) => check_elsewhere(claim, user, secret).await,
            (claim, stored, _) => claim.check(user, stored.as_ref(), out),
        };
        if is_right { Ok(()) } else { Err(wrong_password(user).into()) }
    }
}

/// How this user is asked; `None`: not at all.
///
/// As in PgBouncer: `md5` asks for SCRAM where the secret is a verifier; a secret that the method cannot use is a wrong password.
fn method(auth_type: AuthType, known: Option<&PgUser>, secret: Option<&Secret>) -> Result<Option<Method>, Fault> {
    match auth_type {
        AuthType::Any => Ok(None),
        AuthType::Trust if known.is_some() => Ok(None),
        AuthType::Trust => Err(Fault::fatal(SqlState::INVALID_AUTHORIZATION, "\"trust\" authentication failed")
            .with_hint("With auth_type \"trust\" a user needs no password but must be listed under [postgres.users].")),
        AuthType::Plain => Ok(Some(Method::Plain)),
        AuthType::Md5 => match secret.map(|secret| Stored::read(secret.reveal())) {
            Some(Stored::Scram(_)) => Ok(Some(Method::Scram)),
            Some(Stored::Plain(_) | Stored::Md5(_)) | None => Ok(Some(Method::Md5)),
        },
        AuthType::ScramSha256 => Ok(Some(Method::Scram)),
        AuthType::Cert | AuthType::Hba | AuthType::Ldap | AuthType::Pam => {
            Err(Fault::fatal(SqlState::INVALID_AUTHORIZATION, "login rejected"))
        }
    }
}

fn challenge(scram: Parameters) -> Result<Challenge, Fault> {
    let (mut md5_salt, mut nonce) = ([0; 4], [0; 18]);
    let no_random = |_| Fault::fatal(SqlState::INTERNAL_ERROR, "no random numbers to be had");
    getrandom::fill(&mut md5_salt).map_err(no_random)?;
    getrandom::fill(&mut nonce).map_err(no_random)?;
    Ok(Challenge { md5_salt, scram_nonce: scram::nonce(nonce), scram })
}

/// A clear-text password against a verifier takes milliseconds, so it is checked off the worker's thread.
async fn check_elsewhere(claim: Claim, user: &str, secret: &Secret) -> bool {
    let (user, secret) = (user.to_owned(), secret.clone());
    let check = move || claim.check(&user, Some(&Stored::read(secret.reveal())), &mut Vec::new());
    tokio::task::spawn_blocking(check).await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_follow_the_setting_and_the_secret() {
        let verifier = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
        let (plain, verifier) = (Secret::new("pw"), Secret::new(verifier));
        let user = PgUser::default();
        let of = |auth_type, secret| method(auth_type, Some(&user), secret).unwrap();
        assert_eq!(of(AuthType::Any, None), None);
        assert_eq!(of(AuthType::Trust, None), None);
        assert_eq!(of(AuthType::Plain, Some(&verifier)), Some(Method::Plain));
        assert_eq!(of(AuthType::Md5, Some(&plain)), Some(Method::Md5));
        assert_eq!(of(AuthType::Md5, Some(&verifier)), Some(Method::Scram));
        assert_eq!(of(AuthType::Md5, None), Some(Method::Md5));
        assert_eq!(of(AuthType::ScramSha256, Some(&plain)), Some(Method::Scram));
        assert_eq!(of(AuthType::ScramSha256, None), Some(Method::Scram));
        assert_eq!(method(AuthType::Any, None, None).unwrap(), None);
        assert_eq!(method(AuthType::Trust, None, None).unwrap_err().sqlstate, SqlState::INVALID_AUTHORIZATION);
    }
}
