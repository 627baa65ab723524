//! Tests of the pool: one rule at a time, all small cases, against a dumb model, and the handle with its driver.

mod bench;
mod explorer;
mod fairness;
mod fake;
mod handle;
mod model;
mod pins;
mod rules;
mod rules_early;
mod rules_losses;
mod rules_time;
mod workers;

/// Mistakes that tests plant to prove that they would be found.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Planted {
    /// A released connection is parked although somebody waits.
    pub(super) lost_wake_up: bool,
}
