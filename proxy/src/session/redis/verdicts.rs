//! What the server has lately said to credentials: where clients log in as themselves (`pass-through`), each is asked about once and by one session,
//! however many come with it at the same time. Not here: the asking itself (`upstream::redis::connector`).
//!
//! Credentials are kept as a hash with a salt of this process, and for a bounded time.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use sidepool_protocol::redis::handshake::Credentials;

use super::client::Client;

/// For how long a yes is believed.
const YES: Duration = Duration::from_secs(60);
/// For how long a no is: long enough that a mistaken fleet does not flood the server with logins.
const NO: Duration = Duration::from_secs(2);
/// For how long it is assumed that strangers are let in when nobody could be asked: they then hear why from the pool.
const UNKNOWN: Duration = Duration::from_millis(500);
/// Most verdicts that are kept.
const KEPT_MAX: usize = 4096;
/// Most that are asked about at the same time.
const ASKING_MAX: usize = 8;

type Mark = [u8; 32];

/// The verdicts of one server.
#[derive(Default)]
pub struct Verdicts {
    salt: Cell<Option<Mark>>,
    kept: RefCell<HashMap<Mark, Verdict>>,
    asking: RefCell<HashSet<Mark>>,
    waiting: RefCell<Vec<Rc<Client>>>,
}

struct Verdict {
    user: Rc<[u8]>,
    until: Instant,
    /// The server's words of refusal; `None`: it said yes.
    no: Option<Rc<str>>,
}

/// What is known of credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// They are good.
    Yes,
    /// They are not, in the server's words.
    No(Rc<str>),
    /// Nothing: ask.
    Nothing,
}

impl Verdicts {
    /// What is known of `credentials`; `None`: of somebody who says nothing.
    pub fn known(&self, now: Instant, credentials: Option<&Credentials>) -> Known {
        match self.kept.borrow().get(&self.mark(credentials)).filter(|verdict| verdict.until > now) {
            None => Known::Nothing,
            Some(Verdict { no: None, .. }) => Known::Yes,
            Some(Verdict { no: Some(line), .. }) => Known::No(Rc::clone(line)),
        }
    }

    /// Remembers what the server said.
    pub fn keep(&self, now: Instant, credentials: Option<&Credentials>, said: &Result<(), String>) {
        let lasts = if said.is_ok() { YES } else { NO };
        self.put(now + lasts, credentials, said.as_ref().err().map(|line| Rc::from(&**line)));
    }

    /// Nobody could be asked about somebody who says nothing.
    pub fn assume(&self, now: Instant) {
        self.put(now + UNKNOWN, None, None);
    }

    /// Everything about a user is to be asked again.
    pub fn forget(&self, user: &[u8]) {
        self.kept.borrow_mut().retain(|_, verdict| &*verdict.user != user);
    }

    /// The right to ask the server; waits while somebody else asks the same, or too many ask.
    pub async fn turn(&self, client: &Rc<Client>, credentials: Option<&Credentials>) -> Turn<'_> {
        let mark = self.mark(credentials);
        poll_fn(|_cx| {
            let mut asking = self.asking.borrow_mut();
            if asking.len() < ASKING_MAX && asking.insert(mark) {
                return Poll::Ready(());
            }
            let mut waiting = self.waiting.borrow_mut();
            if !waiting.iter().any(|other| Rc::ptr_eq(other, client)) {
                waiting.push(Rc::clone(client));
            }
            Poll::Pending
        })
        .await;
        Turn { verdicts: self, mark }
    }

    fn put(&self, until: Instant, credentials: Option<&Credentials>, no: Option<Rc<str>>) {
        let mut kept = self.kept.borrow_mut();
        if kept.len() >= KEPT_MAX {
            // Wrong guesses are what there can be many of.
            kept.retain(|_, verdict| verdict.no.is_none());
        }
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        let user = credentials.map_or(&b"default"[..], |credentials| &credentials.user).into();
        kept.insert(self.mark(credentials), Verdict { user, until, no });
    }

    fn mark(&self, credentials: Option<&Credentials>) -> Mark {
        let salt = self.salt.get().unwrap_or_else(|| {
            let mut salt = Mark::default();
            // Without random numbers the marks are still hashes, which never leave this process.
            let _ = getrandom::fill(&mut salt);
            self.salt.set(Some(salt));
            salt
        });
        let mut hash = Sha256::new_with_prefix(salt);
        if let Some(Credentials { user, password, named }) = credentials {
            hash.update([1, u8::from(*named)]);
            hash.update((user.len() as u64).to_be_bytes());
            hash.update(user);
            hash.update(&**password);
        }
        hash.finalize().into()
    }
}

/// The right to ask. When it ends, those who waited look again.
pub struct Turn<'v> {
    verdicts: &'v Verdicts,
    mark: Mark,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.verdicts.asking.borrow_mut().remove(&self.mark);
        for client in self.verdicts.waiting.borrow_mut().drain(..) {
            client.wake_session();
        }
    }
}

#[cfg(test)]
mod tests {
    use sidepool_protocol::redis::handshake;

    use super::*;

    fn credentials(password: &str) -> Credentials {
        handshake::auth(&[b"AUTH", b"app", password.as_bytes()]).unwrap()
    }

    #[test]
    fn a_verdict_is_for_these_credentials_and_for_a_while() {
        let (verdicts, now) = (Verdicts::default(), crate::clock::now());
        let (good, bad) = (credentials("good"), credentials("bad"));
        verdicts.keep(now, Some(&good), &Ok(()));
        verdicts.keep(now, Some(&bad), &Err("WRONGPASS no".to_owned()));
        assert_eq!(verdicts.known(now, Some(&good)), Known::Yes);
        assert_eq!(verdicts.known(now, Some(&bad)), Known::No("WRONGPASS no".into()));
        assert_eq!(verdicts.known(now, None), Known::Nothing);
        assert_eq!(verdicts.known(now + NO, Some(&bad)), Known::Nothing, "a no is asked about again soon");
        assert_eq!(verdicts.known(now + YES, Some(&good)), Known::Nothing);
        let unnamed = handshake::auth(&[b"AUTH", b"good"]).unwrap();
        assert_eq!(verdicts.known(now, Some(&unnamed)), Known::Nothing);
        verdicts.forget(b"app");
        assert_eq!(verdicts.known(now, Some(&good)), Known::Nothing);
    }

    #[test]
    fn however_many_are_guessed_only_so_many_are_kept() {
        let (verdicts, now) = (Verdicts::default(), crate::clock::now());
        verdicts.keep(now, Some(&credentials("good")), &Ok(()));
        for guess in 0..KEPT_MAX * 2 {
            verdicts.keep(now, Some(&credentials(&guess.to_string())), &Err("WRONGPASS".to_owned()));
        }
        assert!(verdicts.kept.borrow().len() <= KEPT_MAX);
        assert_eq!(verdicts.known(now, Some(&credentials("good"))), Known::Yes, "guessing does not push out what is good");
    }
}
