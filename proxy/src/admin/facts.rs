//! What the control thread knows about the process and everybody may ask: started, draining, the last reload, listeners.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use sidepool_config::sources::ContentHash;

use super::exported::Exported;
use super::liveness::Liveness;
use super::quit::Quit;
use crate::clock;
use crate::listener::gate::Gates;
use crate::logging::Logging;
use crate::runtime::backend::Backend;
use crate::runtime::shortage::Memory;
use crate::traces::Traces;
use crate::upstream::dial::Dialing;
use crate::worker::Mailboxes;

/// Why a configuration was read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// SIGHUP.
    Signal,
    /// A file changed.
    File,
    /// RELOAD on the admin console.
    Console,
}

impl Trigger {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Signal, Self::File, Self::Console];

    /// As a label value.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Signal => "sighup",
            Self::File => "file",
            Self::Console => "console",
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
    /// Whether the workers answer.
    pub liveness: Liveness,
    /// When the process started.
    pub started_at: SystemTime,
    /// How much memory is left.
    pub memory: Memory,
    /// By which means of the kernel connections are read and written.
    pub backend: Backend,
    /// What is known of the servers.
    pub dialing: Dialing,
    /// Traces on their way to a collector, for what became of them.
    pub traces: Traces,
    /// Whether somebody on this machine wants the process to end.
    pub quit: Quit,
    started: AtomicBool,
    draining: AtomicBool,
    forced_closes: AtomicU64,
    gates: Mutex<Gates>,
    exported: Mutex<Exported>,
    reloads: Mutex<Reloads>,
}

impl Facts {
    /// The facts of a process that is just starting, with the configuration of that hash.
    #[must_use]
    pub fn new(
        mailboxes: Mailboxes,
        logging: Arc<Logging>,
        hash: ContentHash,
        dialing: Dialing,
        traces: Traces,
        backend: Backend,
    ) -> Arc<Self> {
        Arc::new(Self {
            liveness: Liveness::new(mailboxes.clone()),
            mailboxes,
            logging,
            started_at: clock::wall(),
            memory: Memory::default(),
            backend,
            dialing,
            traces,
            quit: Quit::default(),
            started: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            forced_closes: AtomicU64::new(0),
            gates: Mutex::default(),
            exported: Mutex::default(),
            reloads: Mutex::new(Reloads {
                counts: Default::default(),
                last_successful: true,
                last_success: clock::wall(),
                hash,
                restart_pending: Vec::new(),
                problems: Vec::new(),
            }),
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

    /// What the configuration in force says about the metrics.
    pub fn exported(&self) -> MutexGuard<'_, Exported> {
        lock(&self.exported)
    }

    /// The history of reloads.
    pub fn reloads(&self) -> MutexGuard<'_, Reloads> {
        lock(&self.reloads)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
