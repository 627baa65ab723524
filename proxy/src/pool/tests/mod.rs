//! Tests of the pool: one rule at a time, all small cases, against a dumb model, and the handle with its driver.

mod bench;
mod explorer;
mod fake;
mod handle;
mod model;
mod rules;
mod rules_time;
mod workers;
