//! The passwords by which clients came in as themselves (`pass-through`), by user, in the order in which the server first let them in. The first is
//! used for opening connections, until the server refuses it: then the next, and whoever came in by the refused one is to go.
//!
//! Which password a client came in by is told by the name it was given: each password has its own copy.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use sidepool_config::secret::Secret;

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
    /// Another password. Clients with this copy of the name are to go.
    Another(Secret, Rc<str>),
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

    /// The server refuses the password for opening connections.
    pub(super) fn refuse(&self, user: &str) -> Left {
        let mut users = self.0.borrow_mut();
        let Some(logins) = users.get_mut(user) else { return Left::Nothing };
        let refused = logins.remove(0);
        match logins.first() {
            Some(next) => Left::Another(next.secret.clone(), refused.name),
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

    #[test]
    fn the_first_password_serves_until_it_is_refused() {
        let passed = Passed::default();
        let (one, other) = (passed.enter("app", "1"), passed.enter("app", "2"));
        assert!(!Rc::ptr_eq(&one, &other) && Rc::ptr_eq(&one, &passed.enter("app", "1")));
        assert_eq!(secret(&passed).as_deref(), Some("1"));
        assert!(matches!(passed.refuse("app"), Left::Another(secret, name) if secret.reveal() == "2" && Rc::ptr_eq(&name, &one)));
        assert_eq!(secret(&passed).as_deref(), Some("2"));
        assert!(passed.knows("app") && matches!(passed.refuse("app"), Left::Nothing));
        assert!(!passed.knows("app") && secret(&passed).is_none() && matches!(passed.refuse("app"), Left::Nothing));
    }

    #[test]
    fn only_so_many_are_kept_and_the_one_in_use_is_among_them() {
        let passed = Passed::default();
        for number in 0..MOST * 3 {
            passed.enter("app", &number.to_string());
        }
        assert_eq!(secret(&passed).as_deref(), Some("0"));
        let refused = (0..MOST * 3).take_while(|_| matches!(passed.refuse("app"), Left::Another(..))).count();
        assert_eq!(refused, MOST - 1);
    }
}
