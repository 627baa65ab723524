//! The passwords by which clients came in as themselves (`pass-through`), by user, in the order in which the server first let them in. The first is
//! used for opening connections, until the server refuses it: then the next, and whoever came in by the refused one is to go. So is then whoever came in
//! by one that is not kept any more: while the server refuses nothing, nobody is closed, as the server closes nobody for a password that is taken away.
//!
//! Which password a client came in by is told by the name it was given: each password has its own copy.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use sidepool_config::secret::Secret;

use crate::upstream::redis::connection::SecretMark;

/// Most passwords that are kept of one user: servers let users have several while they are being changed.
const MOST: usize = 4;

/// The passwords of all users.
#[derive(Default)]
pub(super) struct Passed(RefCell<BTreeMap<Box<str>, Vec<Login>>>);

struct Login {
    name: Rc<str>,
    secret: Secret,
}

/// What is left of a user when the server has refused a password.
pub(super) enum Left {
    /// Nothing.
    Nothing,
    /// Another password. Clients with another copy of the name than these are to go.
    Others(Secret, Vec<Rc<str>>),
}

impl Passed {
    /// The server lets a user in by this password. Gives the name that says so.
    pub(super) fn enter(&self, user: &str, password: &str) -> Rc<str> {
        let mut users = self.0.borrow_mut();
        let logins = users.entry(Box::from(user)).or_default();
        if let Some(login) = logins.iter().find(|login| login.secret.reveal() == password) {
            return Rc::clone(&login.name);
        }
        if logins.len() == MOST {
            logins.remove(1);
        }
        let name: Rc<str> = Rc::from(user);
        logins.push(Login { name: Rc::clone(&name), secret: Secret::new(password) });
        name
    }

    /// The password for opening connections.
    pub(super) fn secret(&self, user: &str) -> Option<Secret> {
        self.0.borrow().get(user).and_then(|logins| logins.first()).map(|login| login.secret.clone())
    }

    /// Whether anybody came in as this user.
    pub(super) fn knows(&self, user: &str) -> bool {
        self.0.borrow().contains_key(user)
    }

    /// The server refuses a password for opening connections, the one of this mark. News of one that is not used any more cost none that is.
    pub(super) fn refuse(&self, user: &str, mark: Option<u64>) -> Left {
        let mut users = self.0.borrow_mut();
        let Some(logins) = users.get_mut(user) else { return Left::Nothing };
        if logins.first().is_some_and(|login| mark == Some(SecretMark::of(Some(login.secret.reveal())).number())) {
            logins.remove(0);
        }
        match logins.first() {
            Some(next) => Left::Others(next.secret.clone(), logins.iter().map(|login| Rc::clone(&login.name)).collect()),
            None => {
                users.remove(user);
                Left::Nothing
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(passed: &Passed) -> Option<String> {
        passed.secret("app").map(|secret| secret.reveal().to_owned())
    }

    /// The server refuses this password: which is used next, and whose clients stay.
    fn refuse(passed: &Passed, password: &str) -> Option<(String, Vec<Rc<str>>)> {
        match passed.refuse("app", Some(SecretMark::of(Some(password)).number())) {
            Left::Nothing => None,
            Left::Others(secret, good) => Some((secret.reveal().to_owned(), good)),
        }
    }

    #[test]
    fn the_first_password_serves_until_it_is_refused() {
        let passed = Passed::default();
        let (one, other) = (passed.enter("app", "1"), passed.enter("app", "2"));
        assert!(!Rc::ptr_eq(&one, &other) && Rc::ptr_eq(&one, &passed.enter("app", "1")));
        assert_eq!(secret(&passed).as_deref(), Some("1"));
        for _ in 0..3 {
            // Said again and again, it is the end of one password.
            let (next, good) = refuse(&passed, "1").expect("there is another");
            assert!(next == "2" && good.len() == 1 && Rc::ptr_eq(&good[0], &other));
        }
        assert_eq!(secret(&passed).as_deref(), Some("2"));
        assert!(passed.knows("app") && refuse(&passed, "2").is_none());
        assert!(!passed.knows("app") && secret(&passed).is_none() && refuse(&passed, "2").is_none());
    }

    #[test]
    fn only_so_many_are_kept_and_the_one_in_use_is_among_them() {
        let passed = Passed::default();
        let names: Vec<Rc<str>> = (0..MOST * 3).map(|number| passed.enter("app", &number.to_string())).collect();
        assert_eq!(secret(&passed).as_deref(), Some("0"));
        let mut stay = Vec::new();
        while let Some((_, good)) = secret(&passed).and_then(|password| refuse(&passed, &password)) {
            stay.push(good);
        }
        assert_eq!(stay.len(), MOST - 1);
        let last = &names[MOST * 3 - (MOST - 1)..];
        assert!(stay[0].iter().zip(last).all(|(good, name)| Rc::ptr_eq(good, name)), "whoever came by another is to go");
    }
}
