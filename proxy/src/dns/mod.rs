//! Addresses of host names: asked for by a thread of its own, kept for as long as they hold, shared by all workers. A name that pools lead to is
//! asked again whenever its answer holds no more, and the workers are told when addresses are gone.
//!
//! ```text
//!   worker: addresses(name) ── fresh? ──▶ at once
//!                │ no                                       ┌─ cache ◀── answer ── name server
//!                └──── one question for all who ask ──▶ dns thread ── changed? ──▶ a job for each worker
//! ```
//! Not here: which of several addresses is used (`upstream::roster`).

pub mod cache;
mod lookup;
mod service;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use self::cache::{Addresses, Cache, Host, Known, Terms};
use crate::clock;

/// How long somebody who needs an address waits for a new answer where an old one is at hand.
const PATIENCE: Duration = Duration::from_millis(500);

/// What names are resolved by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How long answers are believed.
    pub terms: Terms,
    /// The file with the name servers; `None`: the system's.
    pub resolv_conf: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        let seconds = Duration::from_secs(15);
        Self { terms: Terms { max_ttl: seconds, nxdomain_ttl: seconds }, resolv_conf: None }
    }
}

/// Told which addresses of a name remain, when others are gone. Runs on the thread that asks.
pub type OnChange = Box<dyn Fn(&str, &Addresses) + Send>;

/// The addresses of host names, for the whole process.
#[derive(Clone, Default)]
pub struct Dns(Arc<Shared>);

/// What the handles and the thread have in common.
struct Shared {
    inner: Mutex<Inner>,
}

struct Inner {
    settings: Settings,
    cache: Cache,
    /// Those who wait for an answer.
    waiters: BTreeMap<Box<str>, Vec<oneshot::Sender<()>>>,
    /// The way to the thread, which is started with the first question: whoever uses addresses alone needs none.
    questions: Option<mpsc::UnboundedSender<Box<str>>>,
    on_change: Option<OnChange>,
}

impl Default for Shared {
    fn default() -> Self {
        let settings = Settings::default();
        let cache = Cache::new(settings.terms);
        Self { inner: Mutex::new(Inner { settings, cache, waiters: BTreeMap::new(), questions: None, on_change: None }) }
    }
}

impl fmt::Debug for Dns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dns")
    }
}

impl Dns {
    /// New settings, from now on.
    pub fn configure(&self, settings: Settings) {
        let mut inner = self.0.lock();
        if inner.settings != settings {
            inner.cache.set_terms(clock::now(), settings.terms);
            inner.settings = settings;
            inner.wake();
        }
    }

    /// Whom to tell of addresses that are gone.
    pub fn on_change(&self, tell: OnChange) {
        self.0.lock().on_change = Some(tell);
    }

    /// The addresses of `name`, which is no address itself. The caller bounds it in time.
    pub async fn addresses(&self, name: &str) -> Result<Addresses, Arc<str>> {
        let (stale, answered) = {
            let mut inner = self.0.lock();
            match inner.cache.look(clock::now(), name) {
                Known::Fresh(addresses) => return Ok(addresses),
                Known::Failed(why) => return Err(why),
                Known::Ask(stale) => (stale, self.ask(&mut inner, name)?),
            }
        };
        match stale {
            // The thread answers every question; if it should ever be gone, what is known is all there is.
            None => drop(answered.await),
            Some(stale) => {
                if tokio::time::timeout(PATIENCE, answered).await.is_err() {
                    return Ok(stale);
                }
            }
        }
        match self.0.lock().cache.look(clock::now(), name) {
            Known::Fresh(addresses) | Known::Ask(Some(addresses)) => Ok(addresses),
            Known::Failed(why) => Err(why),
            Known::Ask(None) => Err("no answer".into()),
        }
    }

    /// Keeps the addresses of `name` up to date for as long as the guard lives.
    #[must_use]
    pub fn watch(&self, name: &str) -> Watch {
        self.0.lock().cache.watch(clock::now(), name);
        Watch { dns: self.clone(), name: name.into() }
    }

    /// The names that are known, for people.
    #[must_use]
    pub fn snapshot(&self) -> Vec<(String, Duration, Vec<IpAddr>)> {
        let hosts = self.0.lock().cache.hosts(clock::now());
        hosts.into_iter().map(|Host { name, ttl, addresses }| (name, ttl, addresses)).collect()
    }

    /// How many questions are under way.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.0.lock().cache.pending()
    }

    /// Puts a question, unless it has been put; what is answered by it says when to look again.
    fn ask(&self, inner: &mut Inner, name: &str) -> Result<oneshot::Receiver<()>, Arc<str>> {
        let (sender, answered) = oneshot::channel();
        if inner.questions.is_none() {
            let started = service::start(Arc::downgrade(&self.0));
            inner.questions = Some(started.map_err(|error| format!("the thread that resolves names does not start: {error}"))?);
        }
        inner.waiters.entry(name.into()).or_default().push(sender);
        if inner.cache.begin(clock::now(), name)
            && let Some(questions) = &inner.questions
        {
            // It cannot be gone while this handle lives.
            let _ = questions.send(name.into());
        }
        Ok(answered)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Has the thread look at its deadlines.
    fn wake(&self) {
        if let Some(questions) = &self.questions {
            let _ = questions.send("".into());
        }
    }
}

/// Interest in a name; ends when dropped.
#[derive(Debug)]
pub struct Watch {
    dns: Dns,
    name: Box<str>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.dns.0.lock().cache.unwatch(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_hosts_file_is_honoured_and_asked_once() {
        let dns = Dns::default();
        let watch = dns.watch("localhost");
        let (one, two) = tokio::join!(dns.addresses("localhost"), dns.addresses("localhost"));
        assert!(one.unwrap().iter().all(IpAddr::is_loopback));
        assert!(two.is_ok());
        let known = dns.snapshot();
        assert_eq!((known.len(), &*known[0].0, dns.pending()), (1, "localhost", 0));
        assert!(known[0].1 <= Duration::from_secs(15) && !known[0].2.is_empty());
        drop(watch);
    }

    #[tokio::test]
    async fn what_cannot_be_resolved_says_why() {
        let directory = tempfile::tempdir().unwrap();
        let dns = Dns::default();
        dns.configure(Settings { resolv_conf: Some(directory.path().join("none")), ..Settings::default() });
        let why = dns.addresses("db.example").await.unwrap_err();
        assert!(why.contains("none"), "{why}");
    }
}
