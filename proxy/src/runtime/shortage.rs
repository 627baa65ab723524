//! What is known of memory, for all who ask: written by the one who watches it, read by the admin handlers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::memory::Usage;
use super::pressure::Step;

/// The facts.
#[derive(Debug, Default)]
pub struct Memory {
    own_limit: AtomicU64,
    used: AtomicU64,
    limit: AtomicU64,
    step: AtomicU64,
    /// How many clients were closed.
    pub closed: Arc<AtomicU64>,
}

impl Memory {
    /// The configured limit.
    pub fn set_own_limit(&self, limit: Option<u64>) {
        self.own_limit.store(limit.unwrap_or(0), Ordering::Relaxed);
    }

    /// It again.
    #[must_use]
    pub fn own_limit(&self) -> Option<u64> {
        Some(self.own_limit.load(Ordering::Relaxed)).filter(|limit| *limit > 0)
    }

    /// What was read, and what is done.
    pub fn note(&self, usage: Option<Usage>, step: Step) {
        let Usage { used, limit } = usage.unwrap_or(Usage { used: 0, limit: 0 });
        self.used.store(used, Ordering::Relaxed);
        self.limit.store(limit, Ordering::Relaxed);
        self.step.store(step as u64, Ordering::Relaxed);
    }

    /// What was last read; `None`: there is no limit.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        let limit = self.limit.load(Ordering::Relaxed);
        (limit > 0).then(|| Usage { used: self.used.load(Ordering::Relaxed), limit })
    }

    /// The step that is taken, as a number from 0.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.step.load(Ordering::Relaxed)
    }

    /// How many clients were closed.
    #[must_use]
    pub fn closed(&self) -> u64 {
        self.closed.load(Ordering::Relaxed)
    }
}
