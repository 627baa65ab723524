//! What the control thread knows about the process and everybody may ask: started, draining, the last reload, heartbeats, listeners.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use sidepool_config::sources::ContentHash;

use crate::clock;
use crate::listener::gate::Gates;
use crate::logging::Logging;
use crate::worker::{Mailboxes, WorkerId};

/// A worker that has not answered for so long is stuck.
pub const STUCK_AFTER: Duration = Duration::from_secs(5);

/// Why a configuration was read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// SIGHUP.
    Signal,
    /// A file changed.
    File,
}

impl Trigger {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Signal, Self::File];

    /// As a label value.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Signal => "sighup",
            Self::File => "file",
        }
    }
}

/// How reading it again ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// What was read is in force, whether it was new or not.
    Ok,
    /// It has problems; the old one stays.
    Rejected,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Ok, Self::Rejected];

    /// As a label value.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Rejected => "rejected",
        }
    }
}

/// The history of reloads.
#[derive(Debug, Clone)]
pub struct Reloads {
    /// By [`Trigger`] and [`Outcome`].
    pub counts: [[u64; Outcome::ALL.len()]; Trigger::ALL.len()],
    /// Whether the last attempt left the configuration that was read in force.
    pub last_successful: bool,
    /// When a configuration was last put into force.
    pub last_success: SystemTime,
    /// Stands for the content of the configuration that was last put into force.
    pub hash: ContentHash,
    /// Settings that have changed and wait for a restart.
    pub restart_pending: Vec<String>,
    /// The problems of the last attempt, if it was rejected.
    pub problems: Vec<String>,
}

/// The facts. Shared by the control loop, which writes, and the admin handlers, which read.
pub struct Facts {
    /// Ways to the workers.
    pub mailboxes: Mailboxes,
    /// The log, for what it dropped.
    pub logging: Arc<Logging>,
    /// When the process started.
    pub started_at: SystemTime,
    started: AtomicBool,
    draining: AtomicBool,
    forced_closes: AtomicU64,
    gates: Mutex<Gates>,
    reloads: Mutex<Reloads>,
    heartbeats: Vec<Heartbeat>,
}

struct Heartbeat {
    answered: Mutex<Instant>,
    /// One question at a time, so that a stuck worker's mailbox does not fill.
    asked: AtomicBool,
}

impl Facts {
    /// The facts of a process that is just starting, with the configuration of that hash.
    #[must_use]
    pub fn new(mailboxes: Mailboxes, logging: Arc<Logging>, hash: ContentHash) -> Arc<Self> {
        let now = clock::now();
        let heartbeats = mailboxes.ids().map(|_| Heartbeat { answered: Mutex::new(now), asked: AtomicBool::new(false) }).collect();
        Arc::new(Self {
            mailboxes,
            logging,
            started_at: clock::wall(),
            started: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            forced_closes: AtomicU64::new(0),
            gates: Mutex::default(),
            reloads: Mutex::new(Reloads {
                counts: Default::default(),
                last_successful: true,
                last_success: clock::wall(),
                hash,
                restart_pending: Vec::new(),
                problems: Vec::new(),
            }),
            heartbeats,
        })
    }

    /// Listeners are bound and workers run.
    pub fn set_started(&self) {
        self.started.store(true, Ordering::Release);
    }

    /// Whether they are.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// SIGTERM was received.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether it was.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Counts clients that were cut.
    pub fn add_forced_closes(&self, count: u64) {
        self.forced_closes.fetch_add(count, Ordering::Relaxed);
    }

    /// How many were.
    #[must_use]
    pub fn forced_closes(&self) -> u64 {
        self.forced_closes.load(Ordering::Relaxed)
    }

    /// The gates of the listeners.
    pub fn gates(&self) -> MutexGuard<'_, Gates> {
        lock(&self.gates)
    }

    /// The history of reloads.
    pub fn reloads(&self) -> MutexGuard<'_, Reloads> {
        lock(&self.reloads)
    }

    /// Asks every worker for a sign of life.
    pub fn ask_for_heartbeats(self: &Arc<Self>) {
        for (id, heartbeat) in self.mailboxes.ids().zip(&self.heartbeats) {
            if heartbeat.asked.swap(true, Ordering::AcqRel) {
                continue;
            }
            let facts = Arc::clone(self);
            self.mailboxes.post(id, move |worker| facts.note_heartbeat(worker.id, clock::now()));
        }
    }

    /// How long ago each worker last answered.
    pub fn heartbeat_ages(&self, now: Instant) -> impl Iterator<Item = (WorkerId, Duration)> {
        self.mailboxes
            .ids()
            .zip(&self.heartbeats)
            .map(move |(id, heartbeat)| (id, now.saturating_duration_since(*lock(&heartbeat.answered))))
    }

    /// The workers that have not answered for too long.
    #[must_use]
    pub fn stuck_workers(&self, now: Instant) -> Vec<WorkerId> {
        self.heartbeat_ages(now).filter(|(_, age)| *age > STUCK_AFTER).map(|(id, _)| id).collect()
    }

    fn note_heartbeat(&self, id: WorkerId, now: Instant) {
        let heartbeat = &self.heartbeats[usize::from(id.0)];
        *lock(&heartbeat.answered) = now;
        heartbeat.asked.store(false, Ordering::Release);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use sidepool_config::sources::Sources;
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;
    use crate::worker::{Commons, Worker};

    #[test]
    fn a_worker_that_does_not_answer_is_stuck_and_asked_only_once() {
        let (answering, mut jobs) = unbounded_channel();
        let (silent, unread) = unbounded_channel();
        let mailboxes = Mailboxes::new(vec![answering, silent]);
        let facts = Facts::new(mailboxes.clone(), Logging::silent(), Sources::default().hash());
        let worker = Worker::new(WorkerId(0), mailboxes, Commons::new(1).expect("randomness"));
        let later = clock::now() + STUCK_AFTER + Duration::from_secs(1);
        assert_eq!(facts.stuck_workers(later), [WorkerId(0), WorkerId(1)]);
        for _ in 0..5 {
            facts.ask_for_heartbeats();
            jobs.try_recv().unwrap()(&worker);
        }
        facts.note_heartbeat(WorkerId(0), later);
        assert_eq!(facts.stuck_workers(later), [WorkerId(1)]);
        assert_eq!(unread.len(), 1);
    }
}
