//! What SHOW CONFIG says: every setting of PgBouncer with its value, its default and whether a reload changes it, whatever the configuration is.

use std::time::Duration;

use super::process::Process;
use super::table::{Kind, SETTINGS, Setting};
use super::value;
use crate::effective::{self, Shown};
use crate::model::{Config, Listen, LogLevel, Postgres};
use crate::settings::Scope;
use crate::units::parse_duration;

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The setting.
    pub key: &'static str,
    /// What is in force; `None` is NULL.
    pub value: Option<String>,
    /// PgBouncer's default; `None` is NULL.
    pub default: Option<&'static str>,
    /// Whether RELOAD and SET change it.
    pub changeable: bool,
}

/// Every row, in PgBouncer's order.
#[must_use]
pub fn config(config: &Config) -> Vec<Row> {
    let values = flat(config);
    let row = |setting: &Setting| {
        let value = match &config.pgbouncer {
            Some(process) => as_said(process, setting),
            None => as_is(config, &values, setting),
        };
        Row { key: setting.name, value, default: setting.default, changeable: setting.changeable }
    };
    SETTINGS.iter().map(row).collect()
}

/// The value of one setting of PgBouncer; the outer `None` says that there is none of this name.
#[must_use]
pub fn value_of(config: &Config, name: &str) -> Option<Option<String>> {
    self::config(config).into_iter().find(|row| row.key == name).map(|row| row.value)
}

/// From a `pgbouncer.ini`: as it was said, in the form that PgBouncer shows.
fn as_said(process: &Process, setting: &Setting) -> Option<String> {
    if setting.name == "conffile" {
        return Some(process.conffile.display().to_string());
    }
    let said = process.settings.get(setting.name).map(String::as_str);
    let text = said.or(setting.default);
    match (setting.kind, text) {
        (Kind::Int(..), None) => Some("0".to_owned()),
        (_, None) => None,
        (Kind::Int(..) | Kind::Flag, Some(text)) => value::int(text).map(|number| number.to_string()),
        (Kind::Time, Some(text)) => value::seconds(text).map(value::shown_seconds),
        (Kind::Choice(_), Some(text)) => Some(text.to_ascii_lowercase()),
        (Kind::Text, Some(text)) => Some(text.to_owned()),
    }
}

/// Every setting of the model by its name.
fn flat(config: &Config) -> Vec<(&'static str, Shown)> {
    let entries = effective::entries(config);
    let mut values: Vec<_> = entries.into_iter().filter(|entry| entry.scope == Scope::Postgres).flat_map(|entry| entry.values).collect();
    values.extend(config.postgres.iter().flat_map(|postgres| effective::base_values(&postgres.base)));
    values
}

/// From any other configuration: as the model has it, in PgBouncer's units.
fn as_is(config: &Config, values: &[(&'static str, Shown)], setting: &Setting) -> Option<String> {
    if let Some(value) = elsewhere(config, setting.name) {
        return Some(value);
    }
    let shown = values.iter().find(|(name, _)| *name == setting.name).map(|(_, shown)| shown);
    let text = match shown {
        Some(Shown::Plain(text)) => unquoted(text),
        Some(Shown::File(path, _)) => path.clone(),
        Some(Shown::Secret(_)) => "***".to_owned(),
        Some(Shown::Unset) | None => return setting.default.map(str::to_owned),
    };
    Some(match (setting.name, setting.kind) {
        ("unix_socket_mode", _) => u32::from_str_radix(&text, 8).unwrap_or_default().to_string(),
        ("tcp_user_timeout", _) => parse_duration(&text).map_or(text, |time| time.as_millis().to_string()),
        (_, Kind::Flag) => i32::from(text == "true").to_string(),
        (_, Kind::Time) => parse_duration(&text).map_or(text, value::shown_seconds),
        (_, Kind::Int(..)) => match text.as_str() {
            "true" | "false" => i32::from(text == "true").to_string(),
            _ => parse_duration(&text).as_ref().map(Duration::as_secs).map_or(text, |seconds| seconds.to_string()),
        },
        (_, Kind::Choice(_) | Kind::Text) => text,
    })
}

/// What stands in another section than `[postgres]`, or in other words there.
fn elsewhere(config: &Config, name: &str) -> Option<String> {
    let flag = |flag: bool| Some(i32::from(flag).to_string());
    match name {
        "log_connections" => flag(config.log.connections),
        "log_disconnections" => flag(config.log.disconnections),
        "log_pooler_errors" => flag(config.log.pooler_errors),
        "log_stats" => flag(config.log.stats),
        "verbose" => Some(
            match config.log.level {
                LogLevel::Error | LogLevel::Warn | LogLevel::Info => "0",
                LogLevel::Debug => "1",
                LogLevel::Trace => "2",
            }
            .to_owned(),
        ),
        "listen_addr" => config.postgres.as_ref().map(|postgres| tcp(postgres, |address| address.ip().to_string()).join(", ")),
        "listen_port" => tcp(config.postgres.as_ref()?, |address| address.port().to_string()).first().cloned(),
        "unix_socket_dir" => config.postgres.as_ref().map(socket_directory),
        _ => None,
    }
}

fn tcp(postgres: &Postgres, part: impl Fn(&std::net::SocketAddr) -> String) -> Vec<String> {
    let addresses = postgres.listen.iter().filter_map(|listen| match listen {
        Listen::Tcp(address) => Some(part(address)),
        Listen::Unix(_) => None,
    });
    addresses.collect()
}

fn socket_directory(postgres: &Postgres) -> String {
    let directory = postgres.listen.iter().find_map(|listen| match listen {
        Listen::Tcp(_) => None,
        Listen::Unix(path) => path.parent().map(|directory| directory.display().to_string()),
    });
    directory.unwrap_or_default()
}

/// A value without TOML's quotes; a list with commas.
fn unquoted(text: &str) -> String {
    let strip = |text: &str| {
        text.trim().strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text).replace("\\\"", "\"").replace("\\\\", "\\")
    };
    match text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        Some(list) => list.split("\", \"").map(|item| strip(item.trim_matches('"'))).collect::<Vec<_>>().join(", "),
        None => strip(text),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::file;
    use crate::pgbouncer::load_text;

    fn shown(config: &Config, key: &str) -> Option<String> {
        value_of(config, key).unwrap()
    }

    #[test]
    fn an_empty_ini_shows_every_default() {
        let loaded = load_text("[pgbouncer]\n", Path::new("p.ini")).unwrap().config;
        for row in config(&loaded) {
            let expected = match row.key {
                "conffile" => Some("p.ini"),
                "unix_socket_mode" => Some("511"),
                "verbose" => Some("0"),
                _ => row.default,
            };
            assert_eq!(row.value.as_deref(), expected, "{}", row.key);
        }
    }

    #[test]
    fn a_value_is_shown_as_pgbouncer_writes_it() {
        let text = "[pgbouncer]\nquery_timeout = 1.50\nunix_socket_mode = 0700\nPOOL = 1";
        assert!(load_text(text, Path::new("p.ini")).is_err());
        let text = "[pgbouncer]\nquery_timeout = 1.50\nunix_socket_mode = 0700\npool_mode = Transaction\nauth_file =\n";
        let loaded = load_text(text, Path::new("p.ini")).unwrap().config;
        let expected = [("query_timeout", "1.5"), ("unix_socket_mode", "448"), ("pool_mode", "transaction"), ("auth_file", "")];
        for (key, value) in expected {
            assert_eq!(shown(&loaded, key).as_deref(), Some(value), "{key}");
        }
    }

    #[test]
    fn sidepools_own_file_is_shown_in_pgbouncers_units() {
        let text = "[log]\nconnections = true\n[postgres]\nlisten = [\"127.0.0.1:7000\", \"unix:/run/x\"]\nquery_timeout = \"1500ms\"\n\
                    stats_period = \"2m\"\ndefault_pool_size = 7\nadmin_users = [\"a\", \"b\"]\ntcp_user_timeout = \"3s\"\n\
                    unix_socket_mode = \"0700\"\nserver_round_robin = true\nserver_check_query = \"select 1\"\n\
                    [postgres.databases.d]\nhost = \"h\"\n";
        let loaded = file::load_text(text, Path::new("s.toml"), &|_| None).unwrap().config;
        let expected = [
            ("log_connections", "1"),
            ("log_stats", "0"),
            ("listen_addr", "127.0.0.1"),
            ("listen_port", "7000"),
            ("unix_socket_dir", "/run/x"),
            ("query_timeout", "1.5"),
            ("stats_period", "120"),
            ("default_pool_size", "7"),
            ("admin_users", "a, b"),
            ("tcp_user_timeout", "3000"),
            ("tcp_defer_accept", "1"),
            ("unix_socket_mode", "448"),
            ("server_round_robin", "1"),
            ("server_check_query", "select 1"),
            ("max_client_conn", "10000"),
            ("pool_mode", "transaction"),
            ("query_wait_timeout", "10"),
            ("pkt_buf", "4096"),
            ("track_extra_parameters", "IntervalStyle, search_path"),
        ];
        for (key, value) in expected {
            assert_eq!(shown(&loaded, key).as_deref(), Some(value), "{key}");
        }
        assert_eq!(shown(&loaded, "auth_user"), None);
    }

    #[test]
    fn the_order_is_pgbouncers() {
        let keys: Vec<_> = SETTINGS.iter().map(|setting| setting.name).collect();
        let mut sorted = keys.clone();
        sorted.sort_unstable();
        let swapped = keys.iter().zip(&sorted).filter(|(key, sorted)| key != sorted).map(|(key, _)| *key).collect::<Vec<_>>();
        assert_eq!(swapped, ["pool_mode", "pool_idle_timeout"], "alphabetical but for these two");
        assert_eq!(keys.last(), Some(&"verbose"));
    }
}
