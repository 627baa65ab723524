//! What one worker knows of the PostgreSQL side: pools, cancel keys, statement texts.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use sidepool_config::model::Config;

use crate::observe::report::PoolReport;
use crate::worker::Worker;

/// The PostgreSQL state of one worker.
#[derive(Default)]
pub struct PostgresSide {}

impl PostgresSide {
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
