//! Finds the credentials that logins brought for a pool, for every worker that has the pool, and the keys that were derived of passwords, for every
//! pool. They live as long as one of them has them: tables of weak references, so that what belongs to no pool is wiped.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::route::PoolKey;
use crate::upstream::postgres::derived::Derivations;
use crate::upstream::postgres::passed::{Passed, WeakPassed};

/// The credentials of all pools of the process.
#[derive(Clone, Default)]
pub struct Keyring {
    passed: Arc<Mutex<BTreeMap<PoolKey, WeakPassed>>>,
    /// Keys of passwords.
    pub derived: Derivations,
}

impl Keyring {
    /// The place for the credentials of this pool: the same for all who ask while one of them has it.
    #[must_use]
    pub fn join(&self, key: &PoolKey) -> Passed {
        let mut table = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(passed) = table.get(key).and_then(WeakPassed::upgrade) {
            return passed;
        }
        table.retain(|_, passed| !passed.is_gone());
        let passed = Passed::default();
        table.insert(key.clone(), passed.downgrade());
        passed
    }
}

#[cfg(test)]
mod tests {
    use super::super::route::Purpose;
    use super::*;
    use crate::upstream::postgres::passed::Credential;

    #[test]
    fn workers_share_what_a_pool_was_given_and_nothing_outlives_the_pool() {
        let keyring = Keyring::default();
        let key = |user: &str| PoolKey { entry: "a".into(), dbname: "a".into(), user: user.into(), purpose: Purpose::Clients };
        let credential = Credential { configured: None, secret: Some("x".into()), keys: None };
        let (one, two) = (keyring.join(&key("bob")), keyring.join(&key("bob")));
        assert!(one.offer(credential.clone()));
        assert!(!two.offer(credential.clone()), "the other worker knows it already");
        drop((one, two));
        let other = keyring.join(&key("eve"));
        assert_eq!(keyring.passed.lock().unwrap().len(), 1, "the dead are swept out");
        assert!(keyring.join(&key("bob")).offer(credential), "it was forgotten with the pool");
        drop(other);
    }
}
