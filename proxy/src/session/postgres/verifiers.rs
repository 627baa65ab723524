//! SCRAM verifiers of users whose secret is a plain password: each is made once, off the worker's thread, and kept as long as the secret.
//!
//! A burst of logins of one user waits for one computation. Only users that exist get a verifier: those of the configuration, and those that were
//! looked up with a plain password, of whom there may be any number: when there are too many, all are made anew.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;

use sidepool_config::model::PgUser;
use sidepool_config::secret::Secret;
use sidepool_protocol::postgres::login::scram::{Parameters, Verifier};
use tokio::sync::OnceCell;

use crate::aside::{self, For};
use crate::observe::record::{WorkerCounter, WorkerRecord};

/// Most verifiers that are kept.
pub const MOST_VERIFIERS: usize = 20_000;

/// One user's verifier, made or in the making.
struct Entry {
    secret: Secret,
    iterations: u32,
    verifier: Rc<OnceCell<Verifier>>,
}

/// The verifiers of one worker.
#[derive(Default)]
pub struct Verifiers(RefCell<HashMap<Box<str>, Entry>>);

impl Verifiers {
    /// The verifier of a user's plain password; `None` when it cannot be made.
    pub async fn get(&self, user: &str, secret: &Secret, parameters: Parameters, record: &WorkerRecord) -> Option<Verifier> {
        let cell = self.cell(user, secret, parameters.iterations);
        let derive = || async {
            let password = secret.clone();
            let verifier = aside::compute(For::Client, move || Verifier::derive(password.reveal(), parameters)).await?;
            record.add(WorkerCounter::KeyDerivations, 1);
            Ok::<_, io::Error>(verifier)
        };
        cell.get_or_try_init(derive).await.ok().cloned()
    }

    /// Forgets those who are gone or have another secret.
    pub fn retain<'a>(&self, secret_of: impl Fn(&str) -> Option<&'a PgUser>) {
        self.0.borrow_mut().retain(|user, entry| secret_of(user).is_some_and(|user| user.password.as_ref() == Some(&entry.secret)));
    }

    fn cell(&self, user: &str, secret: &Secret, iterations: u32) -> Rc<OnceCell<Verifier>> {
        let mut entries = self.0.borrow_mut();
        match entries.get(user) {
            Some(entry) if entry.secret == *secret && entry.iterations == iterations => Rc::clone(&entry.verifier),
            Some(_) | None => {
                if entries.len() >= MOST_VERIFIERS {
                    entries.clear();
                }
                let verifier = Rc::new(OnceCell::new());
                entries.insert(user.into(), Entry { secret: secret.clone(), iterations, verifier: Rc::clone(&verifier) });
                verifier
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_made_once_for_a_secret_and_forgotten_with_it() {
        let verifiers = Verifiers::default();
        let parameters = Parameters::made_up(&[0; 32], "bob", 4096);
        let (old, new) = (Secret::new("old"), Secret::new("new"));
        let record = WorkerRecord::default();
        let derived = || record.numbers().counters[WorkerCounter::KeyDerivations as usize];
        let get = |secret| verifiers.get("bob", secret, parameters.clone(), &record);
        let (first, second) = tokio::join!(get(&old), get(&old));
        assert!(first.unwrap().is_of("old") && second.unwrap().is_of("old"));
        assert_eq!(derived(), 1, "for all who come meanwhile");
        let cell = verifiers.cell("bob", &old, 4096);
        assert!(cell.initialized());
        assert!(get(&new).await.unwrap().is_of("new"));
        assert!(!Rc::ptr_eq(&cell, &verifiers.cell("bob", &new, 4096)));
        assert!(get(&new).await.is_some());
        assert_eq!(derived(), 2);
        assert!(!verifiers.cell("bob", &new, 5000).initialized(), "scram_iterations has changed");

        let user = PgUser { password: Some(new.clone()), ..PgUser::default() };
        verifiers.retain(|_| Some(&user));
        assert_eq!(verifiers.0.borrow().len(), 1);
        verifiers.retain(|_| None);
        assert!(verifiers.0.borrow().is_empty());
        for number in 0..=MOST_VERIFIERS {
            verifiers.cell(&number.to_string(), &new, 1);
        }
        assert_eq!(verifiers.0.borrow().len(), 1, "they are bounded");
    }
}
