//! The keys of SCRAM with which we log in to servers where we have the password: derived once for a password, a salt and a number of iterations,
//! off the worker's thread, and kept as long as a pool needs them. A burst of reconnects costs one derivation, whoever reconnects.
//!
//! ```text
//!   pools (each holds the few that it has used) ─▶ Derivation ◀┄┄ Derivations (weak: found by all pools of the process, wiped with the last one)
//! ```
//! Not here: keys of clients' logins (`passed`), and what is done with them (`protocol`).

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use sidepool_config::secret::Secret;
use sidepool_protocol::postgres::login::keys::ScramKeys;
use sidepool_protocol::postgres::login::scram::Parameters;
use tokio::sync::OnceCell;

use crate::aside::{self, For};
use crate::observe::record::{PoolCounter, PoolRecord};

/// Most keys that one pool keeps: one for each of its servers whose verifiers differ, as they do not where one is copied from the other.
pub const MOST_OF_A_POOL: usize = 16;

/// The keys of one password, made or in the making.
struct Derivation {
    secret: Secret,
    parameters: Parameters,
    keys: OnceCell<ScramKeys>,
}

impl Derivation {
    fn is_of(&self, secret: &Secret, parameters: &Parameters) -> bool {
        self.parameters == *parameters && self.secret == *secret
    }
}

/// Finds the keys of all pools of the process.
#[derive(Clone, Default)]
pub struct Derivations(Arc<Mutex<HashMap<Parameters, Weak<Derivation>>>>);

impl Derivations {
    /// What has been derived of this password, or a place for it. Of two passwords with the same salt the latest is found.
    fn find(&self, secret: &Secret, parameters: &Parameters) -> Arc<Derivation> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = table.get(parameters).and_then(Weak::upgrade).filter(|found| found.secret == *secret) {
            return found;
        }
        table.retain(|_, derivation| derivation.strong_count() > 0);
        let new = Arc::new(Derivation { secret: secret.clone(), parameters: parameters.clone(), keys: OnceCell::new() });
        table.insert(parameters.clone(), Arc::downgrade(&new));
        new
    }
}

/// The keys of one pool.
#[derive(Default)]
pub struct PoolKeys {
    all: Derivations,
    /// The latest last.
    mine: RefCell<VecDeque<Arc<Derivation>>>,
    record: Rc<PoolRecord>,
}

impl PoolKeys {
    /// None yet; those of other pools are in `all`, and what is derived is counted in `record`.
    #[must_use]
    pub fn new(all: Derivations, record: Rc<PoolRecord>) -> Self {
        Self { all, mine: RefCell::default(), record }
    }

    /// The keys of this password.
    pub(super) async fn get(&self, secret: &Secret, parameters: Parameters) -> io::Result<ScramKeys> {
        let derivation = self.derivation(secret, &parameters);
        let derive = || async {
            let secret = secret.clone();
            let keys = aside::compute(For::Server, move || ScramKeys::derive(secret.reveal(), parameters)).await?;
            self.record.add(PoolCounter::KeyDerivations, 1);
            Ok::<_, io::Error>(keys)
        };
        derivation.keys.get_or_try_init(derive).await.cloned()
    }

    fn derivation(&self, secret: &Secret, parameters: &Parameters) -> Arc<Derivation> {
        let mut mine = self.mine.borrow_mut();
        if let Some(found) = mine.iter().find(|derivation| derivation.is_of(secret, parameters)) {
            return Arc::clone(found);
        }
        // A pool logs in with one password: nobody needs those of the one before.
        mine.retain(|derivation| derivation.secret == *secret);
        if mine.len() >= MOST_OF_A_POOL {
            mine.pop_front();
        }
        let found = self.all.find(secret, parameters);
        mine.push_back(Arc::clone(&found));
        found
    }
}

impl fmt::Debug for PoolKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PoolKeys(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(salt: u8) -> Parameters {
        Parameters { salt: [salt; 16].into(), iterations: 10 }
    }

    fn pool(all: &Derivations) -> PoolKeys {
        PoolKeys::new(all.clone(), Rc::default())
    }

    fn derived(keys: &PoolKeys) -> u64 {
        keys.record.counter(PoolCounter::KeyDerivations)
    }

    #[tokio::test]
    async fn they_are_derived_once_for_a_password_and_a_salt() {
        let (all, secret) = (Derivations::default(), Secret::new("pw"));
        let (one, two) = (pool(&all), pool(&all));
        let (first, second, third) =
            tokio::join!(one.get(&secret, parameters(1)), one.get(&secret, parameters(1)), two.get(&secret, parameters(1)));
        assert_eq!(first.unwrap(), ScramKeys::derive("pw", parameters(1)));
        assert_eq!(second.unwrap(), third.unwrap());
        assert_eq!((derived(&one), derived(&two)), (1, 0), "all who come meanwhile wait for one");
        one.get(&secret, parameters(2)).await.unwrap();
        one.get(&secret, Parameters { iterations: 11, ..parameters(1) }).await.unwrap();
        two.get(&Secret::new("px"), parameters(2)).await.unwrap();
        assert_eq!((derived(&one), derived(&two)), (3, 1));
        assert_eq!(two.get(&Secret::new("px"), parameters(2)).await.unwrap(), ScramKeys::derive("px", parameters(2)));
        assert_eq!(format!("{one:?}"), "PoolKeys(***)");
    }

    #[tokio::test]
    async fn a_pool_keeps_few_and_only_those_of_its_password() {
        let (all, secret) = (Derivations::default(), Secret::new("pw"));
        let keys = pool(&all);
        for salt in 0..u8::try_from(MOST_OF_A_POOL).unwrap() + 1 {
            keys.get(&secret, parameters(salt)).await.unwrap();
        }
        assert_eq!(keys.mine.borrow().len(), MOST_OF_A_POOL);
        let before = derived(&keys);
        keys.get(&secret, parameters(1)).await.unwrap();
        assert_eq!(derived(&keys), before, "the second is still there");
        keys.get(&secret, parameters(0)).await.unwrap();
        assert_eq!(derived(&keys), before + 1, "the oldest has gone");
        keys.get(&Secret::new("new"), parameters(0)).await.unwrap();
        assert_eq!(keys.mine.borrow().len(), 1);
        assert_eq!(all.0.lock().unwrap().values().filter(|one| one.strong_count() > 0).count(), 1, "what nobody holds is wiped");
        drop(keys);
        let other = pool(&all);
        other.get(&Secret::new("new"), parameters(3)).await.unwrap();
        assert_eq!(all.0.lock().unwrap().len(), 1, "and swept out");
    }
}
