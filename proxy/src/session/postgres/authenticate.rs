//! Finds out whether a client is who it says: which method, which secret, and the exchange itself. A user that does not exist takes the same way
//! and fails at the same place as one with a wrong password.
//!
//! ```text
//!   auth_type, HBA rules ─▶ method ─┬─ password: known user or one that is looked up (auth_query) ─▶ exchange ─┐
//!                                   ├─ ldap, pam: the password, and a server or program that checks it ────────┼─▶ Admitted
//!                                   └─ trust, peer, cert: known user, and what the connection itself says ─────┘
//! ```
//! Not here: where the client is led afterwards (`route`).

mod ldap;
mod method;
mod pam;
mod peer;

use std::rc::Rc;

use sidepool_config::auth::hba::Method as Rule;
use sidepool_config::auth::ldap::Ldap;
use sidepool_config::model::Postgres;
use sidepool_config::secret::Secret;
use sidepool_protocol::postgres::encode;
use sidepool_protocol::postgres::fault::{Fault, SqlState};
use sidepool_protocol::postgres::login::binding::EndPoint;
use sidepool_protocol::postgres::login::client_side::{Asked, Challenge, Claim, Method, Proven, Step, wrong_password};
use sidepool_protocol::postgres::login::keys::ScramKeys;
use sidepool_protocol::postgres::login::scram::{self, Parameters};
use sidepool_protocol::postgres::login::secret::Stored;
use sidepool_protocol::postgres::startup::Startup;
use tokio::io::AsyncWriteExt as _;

use super::opening::{Farewell, Speaker};
use super::route;
use crate::aside::{self, For};
use crate::chance::Chance;
use crate::transport::stream::Stream;
use crate::worker::Worker;

/// How many passwords a worker has checked elsewhere at a time; the others wait their turn, no longer than a login may take.
pub(super) const MOST_ASKED_ELSEWHERE: usize = 32;

/// What logins are checked against.
pub(super) struct Keeper<'a> {
    pub(super) worker: &'a Rc<Worker>,
    pub(super) config: &'a Postgres,
    pub(super) startup: &'a Startup,
}

/// Who has come in.
#[derive(Debug)]
pub(super) struct Admitted {
    /// As whom: where it was looked up, under the name that it has there.
    pub(super) user: Box<str>,
    /// A secret with which this user can log in upstream, and which the configuration does not have.
    pub(super) secret: Option<Secret>,
    /// Keys of its SCRAM proof.
    pub(super) keys: Option<ScramKeys>,
}

impl Admitted {
    fn plainly(user: &str) -> Self {
        Self { user: user.into(), secret: None, keys: None }
    }
}

/// A user that exists.
struct Known {
    name: Box<str>,
    secret: Option<Secret>,
    /// Whether the secret is one that the configuration does not have.
    looked_up: bool,
}

impl Keeper<'_> {
    /// Lets the client prove who it is. What precedes the welcome (AuthenticationOk at its end) is left in `out`; what is in `out` before is sent
    /// first.
    pub(super) async fn authenticate(&self, speaker: &mut Speaker<'_>, out: &mut Vec<u8>) -> Result<Admitted, Farewell> {
        let user = &*self.startup.user;
        let admitted = match method::choose(self.config, speaker.stream, self.startup)? {
            None => Admitted::plainly(user),
            Some(Rule::Reject) => return Err(method::rejected().into()),
            Some(Rule::Trust) => self.existing(method::not_trusted).await?,
            Some(Rule::Peer(map)) => {
                let is_peer = Box::pin(peer::may_be(speaker.stream, &self.config.auth_rules.maps, map.as_deref(), user)).await;
                self.vouched_for(is_peer, method::not_the_peer).await?
            }
            Some(Rule::Cert(map)) => {
                let is_holder = method::holds_certificate(speaker.stream, &self.config.auth_rules.maps, map.as_deref(), user);
                self.vouched_for(is_holder, method::no_certificate).await?
            }
            Some(Rule::Ldap(ldap)) => Box::pin(self.by_ldap(speaker, *ldap, out)).await?,
            Some(Rule::Pam(service)) => Box::pin(self.by_pam(speaker, &service, out)).await?,
            Some(Rule::Md5) => self.by_password(speaker, AskedBy::Md5, out).await?,
            Some(Rule::Password) => self.by_password(speaker, AskedBy::Plain, out).await?,
            Some(Rule::ScramSha256) => self.by_password(speaker, AskedBy::Scram, out).await?,
        };
        speaker.arrival.is_in();
        encode::authentication_ok(out);
        Ok(admitted)
    }

    /// Lets a user in for whom the connection itself speaks, if it exists.
    async fn vouched_for(&self, vouched: bool, otherwise: fn() -> Fault) -> Result<Admitted, Farewell> {
        if vouched { self.existing(otherwise).await } else { Err(otherwise().into()) }
    }

    async fn existing(&self, otherwise: fn() -> Fault) -> Result<Admitted, Farewell> {
        // Who need not prove anything learns who exists anyway.
        let looked_up = || route::lookup(self.config, &self.startup.database).is_some();
        let known = self.known().await?.ok_or_else(|| if looked_up() { method::no_such_user() } else { otherwise() })?;
        Ok(Admitted { user: known.name, secret: known.secret.filter(|_| known.looked_up), keys: None })
    }

    async fn by_ldap(&self, speaker: &mut Speaker<'_>, ldap: Ldap, out: &mut Vec<u8>) -> Result<Admitted, Farewell> {
        let user = &*self.startup.user;
        let password = self.password(speaker, method::no_ldap, out).await?;
        if !ldap::knows(ldap, user, &password, &self.worker.postgres.password_turns).await {
            return Err(method::no_ldap().into());
        }
        Ok(Admitted { user: user.into(), secret: Some(password), keys: None })
    }

    async fn by_pam(&self, speaker: &mut Speaker<'_>, service: &str, out: &mut Vec<u8>) -> Result<Admitted, Farewell> {
        let user = &*self.startup.user;
        let password = self.password(speaker, method::no_pam, out).await?;
        let question = pam::Question { service, user, from: &method::host(speaker.stream), password: &password };
        match question.ask(&self.worker.postgres.password_turns).await {
            pam::Answer::Yes => Ok(Admitted { user: user.into(), secret: Some(password), keys: None }),
            pam::Answer::No => Err(method::no_pam().into()),
            pam::Answer::Nobody => Err(method::misconfigured(false)),
        }
    }

    /// The client's password, in clear text, for somebody else to check.
    async fn password(&self, speaker: &mut Speaker<'_>, otherwise: fn() -> Fault, out: &mut Vec<u8>) -> Result<Secret, Farewell> {
        let asked = Asked::begin(Method::Plain, challenge(&self.worker.chance, self.made_up(), None)?, out);
        match self.answers(speaker, asked, out).await? {
            // An empty password would be none at all to a server or to the operating system.
            Claim::Password(password) if !password.is_empty() => Ok(Secret::new(password.to_string())),
            Claim::Password(_) | Claim::Md5 { .. } | Claim::Scram(_) => Err(otherwise().into()),
        }
    }

    async fn by_password(&self, speaker: &mut Speaker<'_>, asked_by: AskedBy, out: &mut Vec<u8>) -> Result<Admitted, Farewell> {
        let user = &*self.startup.user;
        let known = self.known().await?;
        let secret = known.as_ref().and_then(|known| known.secret.as_ref());
        let stored = secret.map(|secret| Stored::read(secret.reveal()));
        let (method, is_plain) = (asked_by.method(stored.as_ref()), matches!(stored, Some(Stored::Plain(_))));
        let scram = match &stored {
            Some(Stored::Scram(verifier)) => verifier.parameters.clone(),
            Some(Stored::Plain(_) | Stored::Md5(_)) | None => self.made_up(),
        };
        let asked = Asked::begin(method, challenge(&self.worker.chance, scram.clone(), end_point(speaker.stream, method))?, out);
        let claim = self.answers(speaker, asked, out).await?;
        let given = claim.password().map(Secret::new);
        let proven = match (claim, &stored, secret) {
            // A verifier of our own making, made at the first login.
            (claim @ Claim::Scram(_), Some(Stored::Plain(_)), Some(secret)) => {
                let verifier = Box::pin(self.worker.postgres.verifiers.get(user, secret, scram, &self.worker.record)).await;
                let stored = verifier.map(|verifier| Stored::Scram(Box::new(verifier)));
                claim.check(user, stored.as_ref(), out)
            }
            (claim @ Claim::Password(_), Some(Stored::Scram(_)), Some(secret)) => Box::pin(check_elsewhere(claim, user, secret)).await,
            (claim, stored, _) => claim.check(user, stored.as_ref(), out),
        };
        let (Some(proven), Some(known)) = (proven, known) else { return Err(wrong_password(method).into()) };
        Ok(credentials(proven, known, is_plain, given))
    }

    /// Asks until all is said.
    async fn answers(&self, speaker: &mut Speaker<'_>, mut asked: Asked, out: &mut Vec<u8>) -> Result<Claim, Farewell> {
        loop {
            speaker.stream.write_all(out).await?;
            out.clear();
            let (tag, body) = speaker.message().await?;
            match asked.on_message(tag, &body, out)? {
                Step::Ask(next) => asked = next,
                Step::Check(claim) => return Ok(claim),
            }
        }
    }

    /// The user, from the configuration or from a server.
    async fn known(&self) -> Result<Option<Known>, Farewell> {
        let user = &*self.startup.user;
        let listed = self.config.users.get(user).filter(|listed| !listed.unlisted);
        let secret = listed.and_then(|listed| listed.password.as_ref()).filter(|secret| !secret.reveal().is_empty());
        let as_listed = || listed.map(|_| Known { name: user.into(), secret: secret.cloned(), looked_up: false });
        if secret.is_some() {
            return Ok(as_listed());
        }
        let Some(lookup) = route::lookup(self.config, &self.startup.database) else { return Ok(as_listed()) };
        let lookup = lookup.map_err(|nowhere| {
            tracing::error!(user, "a login failed because the user could not be looked up: {nowhere}");
            method::misconfigured(false)
        })?;
        let database = lookup.route.key.database();
        if self.worker.postgres.pools.switches().is_disabled(database) {
            return Err(method::disabled(database));
        }
        match Box::pin(self.worker.postgres.lookups.find(&lookup, self.config, user, self.worker)).await {
            Ok(Some(found)) => Ok(Some(Known { name: found.name, secret: found.secret, looked_up: true })),
            Ok(None) => Ok(as_listed()),
            Err(trouble) => {
                let pool = lookup.route.key.name();
                tracing::warn!(%pool, user, "a login failed because the user could not be looked up: {trouble}");
                Err(method::misconfigured(trouble.transient))
            }
        }
    }

    fn made_up(&self) -> Parameters {
        Parameters::made_up(self.worker.postgres.seed.bytes(), &self.startup.user, self.config.scram_iterations)
    }
}

/// How a password is asked for.
#[derive(Clone, Copy)]
enum AskedBy {
    Plain,
    Md5,
    Scram,
}

impl AskedBy {
    /// As in PgBouncer: `md5` asks for SCRAM where the secret is a verifier; a secret that the method cannot use is a wrong password.
    fn method(self, stored: Option<&Stored<'_>>) -> Method {
        match (self, stored) {
            (Self::Plain, _) => Method::Plain,
            (Self::Md5, Some(Stored::Scram(_))) | (Self::Scram, _) => Method::Scram,
            (Self::Md5, Some(Stored::Plain(_) | Stored::Md5(_)) | None) => Method::Md5,
        }
    }
}

/// What a proof is good for upstream, beyond what the configuration has; `is_plain`: the known secret is the password itself.
fn credentials(proven: Proven, known: Known, is_plain: bool, given: Option<Secret>) -> Admitted {
    let Known { name: user, secret, looked_up } = known;
    let found = secret.filter(|_| looked_up);
    match proven {
        Proven::Password if is_plain => Admitted { user, secret: found, keys: None },
        // It is worth more than what it was checked against.
        Proven::Password => Admitted { user, secret: given, keys: None },
        Proven::Digest => Admitted { user, secret: found, keys: None },
        Proven::Keys(keys) => Admitted { user, secret: found, keys: (!is_plain).then_some(keys) },
    }
}

/// What a SCRAM exchange with this client can be bound to.
fn end_point(stream: &Stream, method: Method) -> Option<EndPoint> {
    match method {
        Method::Scram => EndPoint::of(stream.tls_peer()?.server_certificate()?),
        Method::Plain | Method::Md5 => None,
    }
}

fn challenge(chance: &Chance, scram: Parameters, end_point: Option<EndPoint>) -> Result<Challenge, Fault> {
    let none = |_| Fault::fatal(SqlState::INTERNAL_ERROR, "no random numbers to be had");
    let (md5_salt, nonce) = (chance.bytes().map_err(none)?, chance.bytes().map_err(none)?);
    Ok(Challenge { md5_salt, scram_nonce: scram::nonce(nonce), scram, end_point })
}

/// A clear-text password against a verifier takes milliseconds, so it is checked off the worker's thread.
async fn check_elsewhere(claim: Claim, user: &str, secret: &Secret) -> Option<Proven> {
    let (user, secret) = (user.to_owned(), secret.clone());
    let check = move || claim.check(&user, Some(&Stored::read(secret.reveal())), &mut Vec::new());
    aside::compute(For::Client, check).await.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERIFIER: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    #[test]
    fn methods_follow_the_setting_and_the_secret() {
        let (plain, verifier) = (Stored::read("pw"), Stored::read(VERIFIER));
        assert_eq!(AskedBy::Plain.method(Some(&verifier)), Method::Plain);
        assert_eq!(AskedBy::Md5.method(Some(&plain)), Method::Md5);
        assert_eq!(AskedBy::Md5.method(Some(&verifier)), Method::Scram);
        assert_eq!(AskedBy::Md5.method(None), Method::Md5);
        assert_eq!(AskedBy::Scram.method(Some(&plain)), Method::Scram);
        assert_eq!(AskedBy::Scram.method(None), Method::Scram);
    }

    #[test]
    fn what_is_passed_on_is_what_the_configuration_lacks() {
        let known = |secret: &str, looked_up| Known { name: "bob".into(), secret: Some(Secret::new(secret)), looked_up };
        let given = || Some(Secret::new("pencil"));
        let passed = |proven, known: Known, given| {
            let is_plain = matches!(Stored::read(known.secret.as_ref().unwrap().reveal()), Stored::Plain(_));
            credentials(proven, known, is_plain, given).secret
        };
        assert_eq!(passed(Proven::Password, known("pencil", false), given()), None, "it is configured");
        assert_eq!(passed(Proven::Password, known("pencil", true), given()), given());
        assert_eq!(passed(Proven::Password, known(VERIFIER, false), given()), given(), "a plain password beats its verifier");
        assert_eq!(passed(Proven::Digest, known("md50123456789abcdef0123456789abcdef", false), None), None);
        assert!(passed(Proven::Digest, known("md50123456789abcdef0123456789abcdef", true), None).is_some());
    }
}
