//! The thread that asks for names: questions in, answers into the cache, and whoever waited is woken. It ends with the last handle.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;
use tokio::task::spawn_local;

use super::Shared;
use super::cache::{Answer, Change};
use super::lookup::{self, Resolver};
use crate::clock;

/// How long one question may take, whatever resolv.conf says: those who wait should hear something.
const LONGEST: Duration = Duration::from_secs(20);

/// How long the thread sleeps when no name is to be asked again.
const IDLE: Duration = Duration::from_secs(3600);

/// Starts it. Through the sender it is told the names to ask for; an empty one makes it look at its deadlines.
pub(super) fn start(shared: Weak<Shared>) -> io::Result<mpsc::UnboundedSender<Box<str>>> {
    let (sender, questions) = mpsc::unbounded_channel();
    std::thread::Builder::new().name("dns".into()).spawn(move || {
        match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
            Ok(runtime) => runtime.block_on(run(shared, questions)),
            Err(error) => tracing::error!(%error, "names cannot be resolved"),
        }
    })?;
    Ok(sender)
}

async fn run(shared: Weak<Shared>, mut questions: mpsc::UnboundedReceiver<Box<str>>) {
    let mut resolver = Resolver::default();
    loop {
        let Some(due) = shared.upgrade().map(|shared| due(&shared)) else { return };
        for name in due.names {
            ask(&shared, &mut resolver, &due.resolv_conf, name);
        }
        tokio::select! {
            question = questions.recv() => match question {
                Some(name) if name.is_empty() => {}
                Some(name) => ask(&shared, &mut resolver, &due.resolv_conf, name),
                None => return,
            },
            () = tokio::time::sleep_until(due.next.into()) => {}
        }
    }
}

/// What is to be done now and when to look next.
struct Due {
    names: Vec<Box<str>>,
    next: Instant,
    resolv_conf: Option<PathBuf>,
}

fn due(shared: &Shared) -> Due {
    let now = clock::now();
    let mut inner = shared.lock();
    let names: Vec<Box<str>> = inner.cache.due(now);
    for name in &names {
        inner.cache.begin(now, name);
    }
    let next = inner.cache.next_due().unwrap_or(now + IDLE);
    Due { names, next, resolv_conf: inner.settings.resolv_conf.clone() }
}

/// Asks in a task of its own, so that a name that is slow does not hold up others.
fn ask(shared: &Weak<Shared>, resolver: &mut Resolver, resolv_conf: &Option<PathBuf>, name: Box<str>) {
    let (shared, ready, own_file) = (Weak::clone(shared), resolver.ready(resolv_conf.as_deref()), resolv_conf.is_some());
    spawn_local(async move {
        let answer = match ready {
            Ok(resolver) => tokio::time::timeout(LONGEST, lookup::ask(resolver, &name, own_file)).await.unwrap_or_else(|_| Err(too_long())),
            Err(why) => Err(why),
        };
        if let Some(shared) = shared.upgrade() {
            take(&shared, &name, answer);
        }
    });
}

fn too_long() -> Arc<str> {
    format!("no name server answered within {} s", LONGEST.as_secs()).into()
}

fn take(shared: &Shared, name: &str, answer: Result<Answer, Arc<str>>) {
    let mut inner = shared.lock();
    let failed = answer.as_ref().err().cloned();
    match inner.cache.answer(clock::now(), name, answer) {
        Change::None => {}
        Change::Stale => {
            let why = failed.unwrap_or_else(|| "it has no address any more".into());
            tracing::warn!(name, %why, "a host name cannot be resolved any more; its last addresses stay in use");
        }
        Change::Gone(left) => {
            tracing::info!(name, addresses = ?left, "a host name leads elsewhere: connections to its old addresses are closed when idle");
            if let Some(tell) = &inner.on_change {
                tell(name, &left);
            }
        }
    }
    for waiter in inner.waiters.remove(name).unwrap_or_default() {
        // Who does not wait any more needs no answer.
        let _ = waiter.send(());
    }
    // The time of the next question has changed.
    inner.wake();
}
