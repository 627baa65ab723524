//! What is said when everything is up: how to connect, where to look, how large the pools are. Names no secret.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use sidepool_config::model::{Config, Listen, PgDatabase, PoolMode, Upstream};

/// The lines.
#[must_use]
pub fn lines(config: &Config, workers: usize, max_fds: Option<u64>, admin: Option<SocketAddr>) -> Vec<String> {
    let mut lines = Vec::new();
    let fds = max_fds.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    let plural = if workers == 1 { "" } else { "s" };
    lines.push(format!("sidepool {} is ready: {workers} worker{plural}, {fds} file descriptors", env!("CARGO_PKG_VERSION")));
    if let Some(postgres) = &config.postgres {
        for listen in &postgres.listen {
            lines.push(format!("  connect  {}", psql(listen, &postgres.databases)));
        }
        for (name, database) in &postgres.databases {
            lines.push(format!("  pool     {}", postgres_pool(name, database)));
        }
    }
    for (name, redis) in &config.redis {
        for listen in &redis.listen {
            lines.push(format!("  connect  {}", redis_cli(listen)));
        }
        let limits = &redis.limits;
        lines.push(format!(
            "  pool     redis {name} -> {}: {} connections at most, {} of them shared by all clients",
            address(&redis.upstream),
            limits.pool_size,
            redis.shared_connections
        ));
    }
    if let Some(admin) = admin {
        lines.push(format!("  metrics  http://{admin}/metrics   (health: /livez /readyz /startupz, people: /statusz)"));
    }
    lines
}

fn psql(listen: &Listen, databases: &std::collections::BTreeMap<String, PgDatabase>) -> String {
    let (name, database) = databases.iter().find(|(name, _)| *name != "*").or_else(|| databases.iter().next()).unzip();
    let name = name.map(String::as_str).filter(|name| *name != "*").unwrap_or("postgres");
    let mut line = match listen {
        Listen::Tcp(address) => format!("psql -h {} -p {} -d {}", reachable(address.ip()), address.port(), word(name)),
        Listen::Unix(path) => {
            let directory = path.parent().map(|parent| parent.display().to_string()).unwrap_or_default();
            let port = path.extension().and_then(|port| port.to_str()).unwrap_or("6432");
            format!("psql -h {} -p {port} -d {}", word(&directory), word(name))
        }
    };
    if let Some(user) = database.and_then(|database| database.user.as_deref()) {
        let _ = write!(line, " -U {}", word(user));
    }
    line
}

fn redis_cli(listen: &Listen) -> String {
    match listen {
        Listen::Tcp(address) => format!("redis-cli -h {} -p {}", reachable(address.ip()), address.port()),
        Listen::Unix(path) => format!("redis-cli -s {}", word(&path.display().to_string())),
    }
}

fn postgres_pool(name: &str, database: &PgDatabase) -> String {
    let mode = match database.pool_mode {
        PoolMode::Session => "session",
        PoolMode::Transaction => "transaction",
        PoolMode::Statement => "statement",
    };
    let each = if database.user.is_some() { "" } else { " per user" };
    let PgDatabase { upstream, limits, .. } = database;
    let (size, queue, wait) = (limits.pool_size, limits.max_queue_length, limits.query_wait_timeout.as_secs());
    format!("postgres {name} -> {}: {size} connections at most{each}, {mode} mode, queue of {queue}, wait {wait} s", address(upstream))
}

fn address(upstream: &Upstream) -> String {
    match upstream {
        Upstream::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
        Upstream::Tcp { host, port } => format!("{host}:{port}"),
        Upstream::Unix(path) => path.display().to_string(),
    }
}

/// An address that a client on this machine can use.
fn reachable(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(any) if any.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(any) if any.is_unspecified() => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
        other => other,
    }
}

/// Quoted for a shell where needed.
fn word(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:@%+=".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_safe_to_paste() {
        assert_eq!(["app", "my db", "it's", ""].map(word), ["app", "'my db'", r"'it'\''s'", "''"]);
    }

    #[test]
    fn sockets_and_wildcard_addresses_are_shown_as_clients_need_them() {
        let none = std::collections::BTreeMap::new();
        assert_eq!(psql(&Listen::Unix("/run/sidepool/.s.PGSQL.6432".into()), &none), "psql -h /run/sidepool -p 6432 -d postgres");
        assert_eq!(redis_cli(&Listen::Tcp("0.0.0.0:6380".parse().unwrap())), "redis-cli -h 127.0.0.1 -p 6380");
    }
}
