//! One setting of PgBouncer as `sidepool.toml` says it, for the console's SET.

use super::draft::{check, in_toml, list, quoted};
use super::table;
use super::value;
use crate::problem::shown;

/// The path of the key and its value; `None` where the setting is accepted and changes nothing here.
pub(crate) fn in_words_of_toml(name: &str, text: &str) -> Result<Option<(String, String)>, String> {
    let Some(setting) = table::setting(name) else {
        return Err(format!("unknown parameter: pgbouncer/{}", name.escape_debug()));
    };
    check(setting.kind, text).map_err(|why| format!("invalid value {} for parameter {name}; {why}", shown(text)))?;
    let flag = || (value::int(text) != Some(0)).to_string();
    let log = |key: &str, value: String| Ok(Some((format!("log.{key}"), value)));
    match name {
        "log_connections" => log("connections", flag()),
        "log_disconnections" => log("disconnections", flag()),
        "log_pooler_errors" => log("pooler_errors", flag()),
        "log_stats" => log("stats", flag()),
        "verbose" => {
            let level = match value::int(text).unwrap_or(0) {
                ..=0 => "info",
                1 => "debug",
                2.. => "trace",
            };
            log("level", quoted(level))
        }
        "metrics_names" => Ok(Some(("admin.metrics_names".to_owned(), quoted(&text.to_ascii_lowercase())))),
        "metrics_allowed_hosts" => Ok(Some(("admin.allowed_hosts".to_owned(), list(&value::list(text))))),
        "metrics_max_pools" => Ok(Some(("admin.metrics_max_pools".to_owned(), text.trim().to_owned()))),
        _ => Ok(in_toml(setting, text).map(|value| (format!("postgres.{name}"), value))),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::environment::Overrides;
    use crate::file::load_set;
    use crate::model::{Config, LogLevel};
    use crate::pgbouncer::Set;

    fn set(file: &str, pairs: &[(&str, &str)]) -> Result<Config, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s.toml");
        fs::write(&path, file).unwrap();
        let set: Set = pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        load_set(&path, &|_| None, &Overrides::default(), &set).map(|loaded| loaded.config).map_err(|rejected| rejected.errors())
    }

    const FILE: &str =
        "[postgres]\nquery_timeout = \"1s\"\n[postgres.databases.a]\nhost = \"h\"\n[postgres.databases.b]\nhost = \"h\"\npool_size = 4\n";

    #[test]
    fn it_wins_over_the_file_and_reaches_what_inherits_it() {
        let pairs = [("query_timeout", "2.5"), ("default_pool_size", "7"), ("log_connections", "1"), ("verbose", "2"), ("pkt_buf", "1")];
        let config = set(FILE, &pairs).unwrap();
        let postgres = config.postgres.as_ref().unwrap();
        assert_eq!(postgres.timeouts.query_timeout.as_millis(), 2500);
        assert_eq!((postgres.databases["a"].limits.pool_size, postgres.databases["b"].limits.pool_size), (7, 4));
        assert!(config.log.connections && config.log.level == LogLevel::Trace);
        assert_eq!(set(FILE, &[]).unwrap().postgres.unwrap().timeouts.query_timeout.as_secs(), 1);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let said = |name, text| set(FILE, &[(name, text)]).unwrap_err();
        assert_eq!(said("nothing", "1"), "unknown parameter: pgbouncer/nothing");
        assert_eq!(said("query_timeout", "soon"), "invalid value \"soon\" for parameter query_timeout; expected a time in seconds");
        assert!(said("max_packet_size", "5").starts_with("5 is"), "{}", said("max_packet_size", "5"));
        assert!(set("[redis.a]\nhost = \"h\"\n", &[("query_timeout", "1")]).is_ok(), "there is nobody to whom it could matter");
    }
}
