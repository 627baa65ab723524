//! The settings of the PostgreSQL side for SHOW CONFIG, and the change of one of them for SET.

use sidepool_config::diff::Class;
use sidepool_config::effective;
use sidepool_config::model::Config;
use sidepool_config::settings::{Scope, setting};
use sidepool_config::units::parse_duration;

use crate::console::control::ConfigRow;

/// All of them, in the order of the alphabet, in PgBouncer's spelling: times in seconds, 0 and 1.
#[must_use]
pub fn all(config: &Config) -> Vec<ConfigRow> {
    let entries = effective::entries(config);
    let values = entries.into_iter().find(|entry| entry.scope == Scope::Postgres).map(|entry| entry.values).unwrap_or_default();
    let mut rows: Vec<ConfigRow> = values
        .into_iter()
        .map(|(name, value)| {
            let known = setting(Scope::Postgres, name);
            ConfigRow {
                key: name.to_owned(),
                value: spelled(&value.to_string()),
                default: known.map(|known| spelled(known.default)),
                changeable: known.is_some_and(|known| known.reload != Class::NeedsRestart),
            }
        })
        .collect();
    rows.sort_by(|one, other| one.key.cmp(&other.key));
    rows
}

fn spelled(value: &str) -> String {
    match value {
        "true" => "1".to_owned(),
        "false" => "0".to_owned(),
        "unset" => String::new(),
        _ => {
            let bare: String = value.trim_matches(['[', ']']).chars().filter(|character| *character != '"').collect();
            match parse_duration(&bare) {
                Ok(duration) if bare.ends_with(|last: char| last.is_ascii_alphabetic()) => duration.as_secs_f64().to_string(),
                Ok(_) | Err(_) => bare,
            }
        }
    }
}

/// The configuration with one setting changed, or why not.
pub fn set(_config: &Config, key: &str, _value: &str) -> Result<Config, String> {
    Err(format!("\"{key}\" cannot be set here."))
}

#[cfg(test)]
mod tests {
    use sidepool_config::model::Postgres;

    use super::*;

    #[test]
    fn values_are_spelled_as_pgbouncer_spells_them() {
        let config = Config { postgres: Some(Postgres::default()), ..Config::default() };
        let rows = all(&config);
        let value = |key: &str| rows.iter().find(|row| row.key == key).map(|row| row.value.as_str());
        assert_eq!((value("max_client_conn"), value("so_reuseport"), value("stats_period")), (Some("10000"), Some("0"), Some("60")));
        assert!(rows.is_sorted_by(|one, other| one.key < other.key));
    }
}
