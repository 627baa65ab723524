//! Traces on their way to a collector: a queue with a bound between the workers and the control thread, which sends them.
//!
//! ```text
//!   session ── one traced transaction, or batch of Redis commands ──▶ [queue, bounded: past it dropped and counted] ──▶ control thread ── a POST a second ──▶ collector
//! ```
//! A collector that is away or slow costs traces and nothing else. Not here: what is traced (`upstream::postgres::journal`,
//! `session::redis::traced`).

mod otlp;
pub mod parent;
mod post;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use sidepool_config::model::OtlpEndpoint;
use tokio::sync::Notify;

use parent::Parent;

use crate::clock;

/// The most traces that wait to be sent.
const MOST_WAITING: usize = 2048;

/// The most that are sent at a time.
const MOST_AT_A_TIME: usize = 256;

/// How long is waited for company.
const PAUSE: Duration = Duration::from_secs(1);

/// How long after a failure.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(5);

/// How long it is known of a collector that nothing was sent to whether it took the last ones.
const FORGET_AFTER: Duration = Duration::from_secs(3600);

/// A statement in a trace.
#[derive(Debug, Clone)]
pub struct Statement {
    /// When the server had it.
    pub began: SystemTime,
    /// How long the server took.
    pub took: Duration,
    /// The SQLSTATE, where it failed.
    pub failed: Option<Box<str>>,
    /// Its text without values, where that is wanted.
    pub text: Option<Box<str>>,
}

/// A transaction, or a batch of commands, that is over.
#[derive(Debug, Clone)]
pub struct Trace {
    /// Where it goes.
    pub endpoint: Arc<OtlpEndpoint>,
    /// The pool.
    pub pool: Arc<str>,
    /// The database as the client knows it.
    pub namespace: Box<str>,
    /// Where the server is: a name, an address, or the path of a socket, and a port if it has one.
    pub server: (Box<str>, Option<u16>),
    /// When its first statement or command was sent.
    pub began: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// How long the client waited for the connection before that.
    pub waited: Duration,
    /// When the connection began to be opened that it waited for, and how long that took.
    pub opening: Option<(SystemTime, Duration)>,
    /// What was done.
    pub work: Work,
    /// What it is a part of.
    pub parent: Option<Parent>,
}

/// What was done in the time of a trace.
#[derive(Debug, Clone)]
pub enum Work {
    /// A transaction of PostgreSQL.
    Transaction {
        /// How long of it the client was the one to speak.
        idle: Duration,
        /// How many statements it ran.
        ran: u32,
        /// The first of them.
        statements: Vec<Statement>,
    },
    /// Commands of Redis that a client sent together.
    Commands {
        /// What they are called together.
        operation: Box<str>,
        /// How many there are.
        count: u32,
    },
}

/// The queue.
#[derive(Debug, Clone, Default)]
pub struct Traces(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<VecDeque<Trace>>,
    arrived: Notify,
    sent: AtomicU64,
    overflowed: AtomicU64,
    unsent: AtomicU64,
}

/// What has become of the traces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    /// A collector has taken so many.
    pub sent: u64,
    /// So many were too many.
    pub overflowed: u64,
    /// So many were not taken by the collector.
    pub unsent: u64,
}

impl Traces {
    /// Puts one into the queue, if there is room.
    pub fn push(&self, trace: Trace) {
        let mut waiting = locked(&self.0.waiting);
        if waiting.len() >= MOST_WAITING {
            self.0.overflowed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.push_back(trace);
        drop(waiting);
        self.0.arrived.notify_one();
    }

    /// What has become of those that there were.
    #[must_use]
    pub fn numbers(&self) -> Numbers {
        let Shared { sent, overflowed, unsent, .. } = &*self.0;
        let [sent, overflowed, unsent] = [sent, overflowed, unsent].map(|number| number.load(Ordering::Relaxed));
        Numbers { sent, overflowed, unsent }
    }

    /// Those at the front, and behind it, that go to one collector, which need not be left alone at this time.
    fn take(&self, pauses: &Pauses, now: Instant) -> Vec<Trace> {
        let mut waiting = locked(&self.0.waiting);
        let Some(endpoint) = waiting.iter().map(|trace| &trace.endpoint).find(|endpoint| !pauses.holds(endpoint, now)).cloned() else {
            return Vec::new();
        };
        let (mut taken, mut left) = (Vec::new(), VecDeque::with_capacity(waiting.len()));
        for trace in waiting.drain(..) {
            if taken.len() < MOST_AT_A_TIME && trace.endpoint == endpoint { taken.push(trace) } else { left.push_back(trace) }
        }
        *waiting = left;
        taken
    }

    /// Sends what arrives, for ever. Runs on the control thread.
    pub async fn export(self) {
        let mut pauses = Pauses::default();
        loop {
            let traces = self.take(&pauses, clock::now());
            let Some(endpoint) = traces.first().map(|first| Arc::clone(&first.endpoint)) else {
                // What waits for a collector that is left alone for a while is looked at again without anything new.
                if locked(&self.0.waiting).is_empty() {
                    self.0.arrived.notified().await;
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let body = otlp::request(&traces, |bytes| getrandom::fill(bytes).is_ok());
            let failed = post::post(&endpoint, &body).await.err();
            let number = if failed.is_none() { &self.0.sent } else { &self.0.unsent };
            number.fetch_add(traces.len() as u64, Ordering::Relaxed);
            let was_failing = pauses.note(&endpoint, failed.is_some(), clock::now());
            match failed {
                None if was_failing => tracing::info!(%endpoint, "the collector takes traces again"),
                Some(error) if !was_failing => {
                    tracing::warn!(%endpoint, %error, "a collector does not take traces: they are dropped until it does");
                }
                None | Some(_) => {}
            }
        }
    }
}

/// Which collectors are left alone, and until when.
#[derive(Debug, Default)]
struct Pauses(Vec<Paused>);

#[derive(Debug)]
struct Paused {
    endpoint: Arc<OtlpEndpoint>,
    until: Instant,
    failing: bool,
}

impl Pauses {
    /// Whether this one is left alone at this time.
    fn holds(&self, endpoint: &Arc<OtlpEndpoint>, now: Instant) -> bool {
        self.0.iter().any(|paused| paused.endpoint == *endpoint && now < paused.until)
    }

    /// A request to it has ended; whether the one before failed.
    fn note(&mut self, endpoint: &Arc<OtlpEndpoint>, failing: bool, now: Instant) -> bool {
        let until = now + if failing { PAUSE_AFTER_FAILURE } else { PAUSE };
        let before = self.0.iter().position(|paused| paused.endpoint == *endpoint).map(|at| self.0.swap_remove(at));
        // The configuration may have other collectors after a reload: those before are forgotten.
        self.0.retain(|paused| now < paused.until + FORGET_AFTER);
        self.0.push(Paused { endpoint: Arc::clone(endpoint), until, failing });
        before.is_some_and(|before| before.failing)
    }
}

fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn past_the_bound_traces_are_dropped_and_counted() {
        let traces = Traces::default();
        let trace = Trace {
            endpoint: Arc::new(OtlpEndpoint::parse("http://one").unwrap()),
            pool: "p".into(),
            namespace: "d".into(),
            server: ("h".into(), Some(5432)),
            began: SystemTime::UNIX_EPOCH,
            took: Duration::ZERO,
            waited: Duration::ZERO,
            opening: None,
            work: Work::Commands { operation: "GET".into(), count: 1 },
            parent: None,
        };
        for _ in 0..MOST_WAITING + 3 {
            traces.push(trace.clone());
        }
        assert_eq!(traces.numbers(), Numbers { sent: 0, overflowed: 3, unsent: 0 });
        let (mut pauses, now) = (Pauses::default(), clock::now());
        assert_eq!(traces.take(&pauses, now).len(), MOST_AT_A_TIME);
        while !traces.take(&pauses, now).is_empty() {}
        let (one, two) = (Arc::clone(&trace.endpoint), Arc::new(OtlpEndpoint::parse("http://two").unwrap()));
        let elsewhere = Trace { endpoint: Arc::clone(&two), ..trace.clone() };
        let put = || [&trace, &elsewhere, &trace, &elsewhere, &trace].into_iter().for_each(|trace| traces.push(trace.clone()));
        put();
        let lengths = [0; 3].map(|_| traces.take(&pauses, now).len());
        assert_eq!(lengths, [3, 2, 0], "each to its own, whoever came between them");
        // One that does not take them is left alone, and that holds up nobody else.
        put();
        assert!(!pauses.note(&one, true, now));
        assert_eq!([0; 2].map(|_| traces.take(&pauses, now).len()), [2, 0]);
        assert!(!pauses.note(&two, false, now), "the other one never failed");
        let (soon, later) = (now + PAUSE, now + PAUSE_AFTER_FAILURE);
        assert!(!pauses.holds(&two, soon) && pauses.holds(&one, soon) && !pauses.holds(&one, later));
        assert_eq!([soon, later].map(|at| traces.take(&pauses, at).len()), [0, 3]);
        assert!(pauses.note(&one, false, later) && !pauses.note(&one, false, later + PAUSE), "it takes them again");
        pauses.note(&two, false, later + FORGET_AFTER * 2);
        assert_eq!(pauses.0.len(), 1, "those of a configuration of old are forgotten");
    }
}
