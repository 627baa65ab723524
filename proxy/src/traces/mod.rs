//! Traces of transactions on their way to a collector: a queue with a bound between the workers and the control thread, which sends them.
//!
//! ```text
//!   session ── one traced transaction ──▶ [queue, bounded: past it dropped and counted] ──▶ control thread ── a POST a second ──▶ collector
//! ```
//! A collector that is away or slow costs traces and nothing else. Not here: which transactions are traced (`upstream::postgres::journal`).

mod otlp;
pub mod parent;
mod post;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use sidepool_config::model::OtlpEndpoint;
use tokio::sync::Notify;

use parent::Parent;

/// The most transactions that wait to be sent.
const MOST_WAITING: usize = 2048;

/// The most that are sent at a time.
const MOST_AT_A_TIME: usize = 256;

/// How long is waited for company.
const PAUSE: Duration = Duration::from_secs(1);

/// How long after a failure.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(5);

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

/// A transaction that is over.
#[derive(Debug, Clone)]
pub struct Trace {
    /// The pool.
    pub pool: Arc<str>,
    /// The database as the client knows it.
    pub database: Box<str>,
    /// Where the server is: an address, or the path of a socket, and a port if it has one.
    pub server: (Box<str>, Option<u16>),
    /// When its first statement was sent.
    pub began: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// How long the client waited for the connection before that.
    pub waited: Duration,
    /// How long of it the client was the one to speak.
    pub idle: Duration,
    /// How many statements it ran.
    pub ran: u32,
    /// The first of them.
    pub statements: Vec<Statement>,
    /// What it is a part of.
    pub parent: Option<Parent>,
}

/// The queue, and where it leads.
#[derive(Debug, Clone, Default)]
pub struct Traces(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<VecDeque<Trace>>,
    endpoint: Mutex<Option<OtlpEndpoint>>,
    arrived: Notify,
    sent: AtomicU64,
    overflowed: AtomicU64,
    unsent: AtomicU64,
}

/// What has become of the transactions that were traced.
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

    /// They go there from now on.
    pub fn lead_to(&self, endpoint: Option<&OtlpEndpoint>) {
        *locked(&self.0.endpoint) = endpoint.cloned();
    }

    /// What has become of those that there were.
    #[must_use]
    pub fn numbers(&self) -> Numbers {
        let Shared { sent, overflowed, unsent, .. } = &*self.0;
        let [sent, overflowed, unsent] = [sent, overflowed, unsent].map(|number| number.load(Ordering::Relaxed));
        Numbers { sent, overflowed, unsent }
    }

    fn take(&self) -> Vec<Trace> {
        let mut waiting = locked(&self.0.waiting);
        let count = waiting.len().min(MOST_AT_A_TIME);
        waiting.drain(..count).collect()
    }

    /// Sends what arrives, for ever. Runs on the control thread.
    pub async fn export(self) {
        let mut failing = false;
        loop {
            let traces = self.take();
            let Some(endpoint) = locked(&self.0.endpoint).clone().filter(|_| !traces.is_empty()) else {
                self.0.arrived.notified().await;
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let body = otlp::request(&traces, |bytes| getrandom::fill(bytes).is_ok());
            let failed = post::post(&endpoint, &body).await.err();
            let number = if failed.is_none() { &self.0.sent } else { &self.0.unsent };
            number.fetch_add(traces.len() as u64, Ordering::Relaxed);
            match &failed {
                None if failing => tracing::info!(%endpoint, "the collector takes traces again"),
                Some(error) if !failing => {
                    tracing::warn!(%endpoint, %error, "a collector does not take traces: they are dropped until it does");
                }
                None | Some(_) => {}
            }
            failing = failed.is_some();
            tokio::time::sleep(if failing { PAUSE_AFTER_FAILURE } else { PAUSE }).await;
        }
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
            pool: "p".into(),
            database: "d".into(),
            server: ("h".into(), Some(5432)),
            began: SystemTime::UNIX_EPOCH,
            took: Duration::ZERO,
            waited: Duration::ZERO,
            idle: Duration::ZERO,
            ran: 0,
            statements: Vec::new(),
            parent: None,
        };
        for _ in 0..MOST_WAITING + 3 {
            traces.push(trace.clone());
        }
        assert_eq!(traces.numbers(), Numbers { sent: 0, overflowed: 3, unsent: 0 });
        assert_eq!(traces.take().len(), MOST_AT_A_TIME);
    }
}
