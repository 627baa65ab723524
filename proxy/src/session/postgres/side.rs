//! What one worker knows of the PostgreSQL side: pools, cancel keys, statement texts.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use sidepool_config::model::Config;

use crate::observe::report::PoolReport;
use super::cancel::CancelRegistry;
use super::prepared::StatementTable;
use super::states::StateTable;
use crate::worker::{Worker, WorkerId};

/// The PostgreSQL state of one worker.
pub struct PostgresSide {
    /// The clients that can be cancelled.
    pub cancels: CancelRegistry,
    /// Prepared statements of all clients.
    pub statements: StatementTable,
    /// Session states of all clients.
    pub states: StateTable,
}

impl PostgresSide {
    /// An empty side: pools come with the configuration.
    #[must_use]
    pub fn new(worker: WorkerId) -> Self {
        Self { cancels: CancelRegistry::default(), statements: StatementTable::new(worker), states: StateTable::default() }
    }

    /// Takes over from `old` to `new`: at the start (`old` is then empty) and at each reload. Cannot fail: `new` is validated.
    pub fn apply(&self, old: &Config, new: &Arc<Config>, worker: &Rc<Worker>) {
        let _ = (old, new, worker);
    }

    /// What the pools have to report to a scrape.
    #[must_use]
    pub fn pools(&self, now: Instant) -> Vec<PoolReport> {
        let _ = now;
        Vec::new()
    }
}
