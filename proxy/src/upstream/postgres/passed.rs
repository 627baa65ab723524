//! What clients' logins brought for logging in upstream in their name: the keys of their SCRAM proof, a password that they gave in clear text, a
//! secret that was looked up. In memory alone, one set for a pool, the latest counts.
//!
//! Shared by the workers: it is taken at a login and read when a connection is opened, never in between. Not here: who is given which.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use sidepool_config::secret::Secret;
use sidepool_protocol::postgres::login::keys::ScramKeys;
use sidepool_protocol::postgres::login::secret::Stored;

/// What one login brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// The secret that the configuration had for the user at that time: with another one, this no longer counts.
    pub configured: Option<Secret>,
    /// A secret that the configuration does not have.
    pub secret: Option<Secret>,
    /// Keys for a server that asks for SCRAM.
    pub keys: Option<ScramKeys>,
}

/// The place for the latest credential of a pool.
#[derive(Clone, Default)]
pub struct Passed(Arc<Mutex<Option<Credential>>>);

/// A [`Passed`] that does not keep it alive.
pub struct WeakPassed(Weak<Mutex<Option<Credential>>>);

impl Passed {
    /// Takes what a login brought; true if that is something new.
    pub fn offer(&self, mut credential: Credential) -> bool {
        let mut held = self.lock();
        // Who came in without SCRAM brings no keys, but those of the same secret are as good as before.
        if let (None, Some(before)) = (&credential.keys, &*held)
            && (&before.configured, &before.secret) == (&credential.configured, &credential.secret)
        {
            credential.keys.clone_from(&before.keys);
        }
        let is_new = held.as_ref() != Some(&credential);
        *held = Some(credential);
        is_new
    }

    /// What is held, to be passed on to another process.
    #[must_use]
    pub fn held(&self) -> Option<Credential> {
        self.lock().clone()
    }

    /// What is good for a user for whom the configuration has this secret: the secret to use, and keys.
    pub(super) fn best(&self, configured: Option<&Secret>) -> (Option<Secret>, Option<ScramKeys>) {
        let is_plain = configured.is_some_and(|secret| matches!(Stored::read(secret.reveal()), Stored::Plain(_)));
        let held = self.lock();
        match held.as_ref().filter(|held| held.configured.as_ref() == configured && !is_plain) {
            Some(held) => (held.secret.as_ref().or(configured).cloned(), held.keys.clone()),
            None => (configured.cloned(), None),
        }
    }

    /// For a table that finds it as long as somebody has it.
    #[must_use]
    pub fn downgrade(&self) -> WeakPassed {
        WeakPassed(Arc::downgrade(&self.0))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Credential>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passed(***)")
    }
}

impl WeakPassed {
    /// The place, if somebody has it.
    #[must_use]
    pub fn upgrade(&self) -> Option<Passed> {
        self.0.upgrade().map(Passed)
    }

    /// Whether nobody has it any more.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.0.strong_count() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(configured: Option<&str>, secret: Option<&str>) -> Credential {
        Credential { configured: configured.map(Secret::from), secret: secret.map(Secret::from), keys: None }
    }

    #[test]
    fn the_latest_counts_as_long_as_the_configuration_stays() {
        let (passed, md5) = (Passed::default(), "md50123456789abcdef0123456789abcdef");
        assert_eq!(passed.best(None).0, None);
        assert!(passed.offer(credential(Some(md5), Some("old"))));
        assert!(!passed.offer(credential(Some(md5), Some("old"))));
        assert!(passed.offer(credential(Some(md5), Some("new"))));
        assert_eq!(passed.best(Some(&Secret::from(md5))).0, Some(Secret::from("new")));
        let other = Secret::from("md5ffff56789abcdef0123456789abcdef0");
        assert_eq!(passed.best(Some(&other)).0, Some(other.clone()), "another secret was configured since");
        assert_eq!(passed.best(None).0, None);
    }

    #[test]
    fn keys_stay_while_the_secret_does() {
        let (passed, stored) = (Passed::default(), "SCRAM-SHA-256$1:YQ==$x");
        let keys = ScramKeys::from_bytes(&[7; 70]).unwrap();
        passed.offer(Credential { keys: Some(keys.clone()), ..credential(None, Some(stored)) });
        assert!(!passed.offer(credential(None, Some(stored))), "a login by certificate, for example");
        assert_eq!(passed.held().unwrap().keys, Some(keys));
        assert!(passed.offer(credential(None, Some("rotated"))));
        assert_eq!(passed.held().unwrap().keys, None);
    }

    #[test]
    fn a_configured_password_needs_nothing_else() {
        let passed = Passed::default();
        passed.offer(credential(Some("plain"), Some("other")));
        assert_eq!(passed.best(Some(&Secret::from("plain"))).0, Some(Secret::from("plain")));
        assert_eq!(format!("{passed:?} {:?}", credential(None, Some("hunter2"))).matches("hunter2").count(), 0);
        let weak = passed.downgrade();
        assert!(weak.upgrade().is_some());
        drop(passed);
        assert!(weak.is_gone() && weak.upgrade().is_none());
    }
}
