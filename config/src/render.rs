//! The configuration for people: what the start banner and `sidepool check` print. No secret is in it.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::effective::{Shown, entries};
use crate::model::{Config, Listen, PgDatabase, PoolLimits, Postgres, Redis, UpstreamTls, Workers};
use crate::names::Named;
use crate::units::format_duration;

/// The listeners, the upstreams and the size of every pool, a line each.
#[must_use]
pub fn summary(config: &Config) -> String {
    let mut text = String::new();
    if let Some(postgres) = &config.postgres {
        postgres_summary(&mut text, postgres);
    }
    for (name, redis) in &config.redis {
        redis_summary(&mut text, name, redis);
    }
    let admin = config.admin.listen.map_or_else(|| "off".to_owned(), |address| format!("http://{}/metrics", reachable(address)));
    let workers = match config.workers {
        Workers::Auto => "auto".to_owned(),
        Workers::Count(count) => count.to_string(),
    };
    let _ = writeln!(text, "metrics   {admin}");
    let _ = writeln!(text, "workers   {workers}");
    text
}

/// Every setting that is in force, as a file could say it, with secrets masked.
#[must_use]
pub fn effective(config: &Config) -> String {
    let mut text = String::new();
    for entry in entries(config) {
        if !entry.path.is_empty() {
            let _ = writeln!(text, "\n[{}]", entry.path);
        }
        for (name, value) in &entry.values {
            let _ = match value {
                Shown::Plain(value) => writeln!(text, "{name} = {value}"),
                Shown::Secret(_) => writeln!(text, "{name} = \"***\""),
                Shown::File(path, _) => writeln!(text, "{name} = {path:?}"),
                Shown::Unset => writeln!(text, "# {name} is unset"),
            };
        }
    }
    text
}

/// Command lines that connect through the proxy, ready to be copied: psql, redis-cli, curl.
#[must_use]
pub fn commands(config: &Config) -> Vec<String> {
    let mut commands = Vec::new();
    if let Some(postgres) = &config.postgres {
        commands.extend(psql(postgres));
    }
    commands.extend(config.redis.values().filter_map(redis_cli));
    commands.extend(config.admin.listen.map(|address| format!("curl http://{}/metrics", reachable(address))));
    commands
}

fn postgres_summary(text: &mut String, postgres: &Postgres) {
    let Postgres { listen, auth_type, max_client_conn, databases, users, .. } = postgres;
    let _ = writeln!(text, "postgres  {} (at most {max_client_conn} clients, auth {})", joined(listen), auth_type.name());
    for (name, database) in databases {
        let PgDatabase { hosts, dbname, user, tls, pool_mode, limits, .. } = database;
        let hosts = hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let dbname = dbname.as_deref().unwrap_or(if name == "*" { "the name asked for" } else { name });
        let user = user.as_ref().map_or_else(|| "as the client's user".to_owned(), |user| format!("as {user}"));
        let _ = writeln!(text, "  {name}  ->  {hosts} {dbname} {user}{}", tls_summary(*tls));
        let _ = writeln!(text, "      {} pooling, {}", pool_mode.name(), limits_summary(limits));
    }
    for (name, user) in users.iter().filter(|(_, user)| user.pool_size.is_some() || user.pool_mode.is_some()) {
        let size = user.pool_size.map_or_else(String::new, |size| format!(" pool of {size}"));
        let mode = user.pool_mode.map_or_else(String::new, |mode| format!(" {} pooling", mode.name()));
        let _ = writeln!(text, "  user {name}:{size}{mode}");
    }
}

fn redis_summary(text: &mut String, name: &str, redis: &Redis) {
    let Redis { listen, upstream, tls, user, password, database, max_client_conn, shared_connections, limits, .. } = redis;
    let login = match (user, password) {
        (Some(user), _) => format!(" as {user}"),
        (None, Some(_)) => " with a password".to_owned(),
        (None, None) => String::new(),
    };
    let _ = writeln!(text, "redis     {} (at most {max_client_conn} clients)", joined(listen));
    let _ = writeln!(text, "  {name}  ->  {upstream} database {database}{login}{}", tls_summary(*tls));
    let _ = writeln!(text, "      {shared_connections} of them shared, {}", limits_summary(limits));
}

fn limits_summary(limits: &PoolLimits) -> String {
    let wait = match limits.query_wait_timeout.is_zero() {
        true => "for ever".to_owned(),
        false => format!("at most {}", format_duration(limits.query_wait_timeout)),
    };
    let min = if limits.min_pool_size == 0 { String::new() } else { format!(" (at least {} kept)", limits.min_pool_size) };
    format!("pool of {}{min}, {} may wait {wait}", limits.pool_size, limits.max_queue_length)
}

fn tls_summary(tls: UpstreamTls) -> String {
    match tls {
        UpstreamTls::Disable => String::new(),
        UpstreamTls::Allow | UpstreamTls::Prefer | UpstreamTls::Require | UpstreamTls::VerifyCa | UpstreamTls::VerifyFull => {
            format!(", TLS {}", tls.name())
        }
    }
}

fn psql(postgres: &Postgres) -> Option<String> {
    let (host, port) = match postgres.listen.first()? {
        Listen::Tcp(address) => (reachable(*address).ip().to_string(), address.port().to_string()),
        Listen::Unix(path) => {
            let port = path.extension().map(|port| port.to_string_lossy().into_owned())?;
            (path.parent()?.display().to_string(), port)
        }
    };
    // The database that a name of its own leads to says more than the one for all others.
    let (name, database) = postgres.databases.iter().find(|(name, _)| *name != "*").or_else(|| postgres.databases.first_key_value())?;
    let user = postgres.users.keys().next().or(database.user.as_ref());
    let user = user.map_or_else(String::new, |user| format!(" -U {}", shell(user)));
    let name = if name == "*" { database.dbname.as_deref().unwrap_or("postgres") } else { name };
    Some(format!("psql -h {} -p {port}{user} {}", shell(&host), shell(name)))
}

fn redis_cli(redis: &Redis) -> Option<String> {
    let login = match redis.users.keys().next() {
        Some(user) => format!(" --askpass --user {}", shell(user)),
        None => String::new(),
    };
    Some(match redis.listen.first()? {
        Listen::Tcp(address) => format!("redis-cli -h {} -p {}{login}", reachable(*address).ip(), address.port()),
        Listen::Unix(path) => format!("redis-cli -s {}{login}", shell(&path.display().to_string())),
    })
}

/// An address to connect to: a listener on all addresses is reached over loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        other => other,
    };
    SocketAddr::new(ip, address.port())
}

fn joined(listens: &[Listen]) -> String {
    listens.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A word as a shell takes it.
fn shell(word: &str) -> String {
    let plain = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-./:@".contains(&byte));
    if plain { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::environment::{Overrides, from_urls};
    use crate::file::load_text;

    #[test]
    fn the_summary_names_listeners_upstreams_and_sizes_but_no_secret() {
        let loaded =
            from_urls(Some("postgres://app:hunter2@db:5433/shop"), Some("redis://:hunter2@cache/1"), &Overrides::default()).unwrap();
        let expected = "\
postgres  127.0.0.1:6432 (at most 10000 clients, auth any)
  *  ->  db:5433 the name asked for as app
      transaction pooling, pool of 20, 10000 may wait at most 10s
  shop  ->  db:5433 shop as app
      transaction pooling, pool of 20, 10000 may wait at most 10s
redis     127.0.0.1:6380 (at most 10000 clients)
  redis  ->  cache:6379 database 1 with a password
      2 of them shared, pool of 20, 10000 may wait at most 10s
metrics   http://127.0.0.1:9127/metrics
workers   auto
";
        assert_eq!(summary(&loaded.config), expected);
        assert!(!effective(&loaded.config).contains("hunter2"));
        assert_eq!(
            commands(&loaded.config),
            ["psql -h 127.0.0.1 -p 6432 -U app shop", "redis-cli -h 127.0.0.1 -p 6380", "curl http://127.0.0.1:9127/metrics"]
        );
    }

    #[test]
    fn what_is_in_force_can_be_read_back() {
        let text = "[postgres]\nlisten = \"unix:/run/sp\"\n[postgres.users.\"o'brien\"]\npassword = \"p\"\npool_size = 3\n\
            [postgres.databases.\"my.db\"]\nhost = \"/run/pg\"\n[redis.a]\nhost = \"/run/redis.sock\"\n[redis.a.users.u]\npassword = \"p\"\n";
        let read = |text: &str| load_text(text, Path::new("f"), &|_| None).unwrap_or_else(|rejected| panic!("{rejected}\n{text}")).config;
        let config = read(text);
        let mut again = read(&effective(&config));
        assert_eq!(again.postgres.as_ref().unwrap().users["o'brien"].password.as_ref().unwrap().reveal(), "***");
        again.postgres.as_mut().unwrap().users.get_mut("o'brien").unwrap().password = Some("p".into());
        again.redis.get_mut("a").unwrap().users.get_mut("u").unwrap().password = "p".into();
        assert_eq!(again, config);
        assert_eq!(commands(&config)[0], "psql -h /run/sp -p 6432 -U 'o'\\''brien' my.db");
    }
}
