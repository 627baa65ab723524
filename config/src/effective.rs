//! A configuration laid flat: every section with every setting that is in force in it. What is compared at a reload and listed for people.
//!
//! The structs are taken apart field by field, so that a new field cannot be forgotten here.

mod postgres;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::model::{CommandClasses, Config, Listen, PoolLimits, Redis, RedisUser, Upstream, Workers};
use crate::names::Named;
use crate::reading::key_path;
use crate::secret::Secret;
use crate::settings::Scope;
use crate::sources::ContentHash;
use crate::units::{format_duration, format_size};

pub(crate) use postgres::base_values;

/// One section with its settings, in a fixed order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path: `postgres.databases.app`; empty for the top of the file.
    pub path: String,
    /// The kind of section.
    pub scope: Scope,
    /// Every setting that is in force in it, by name.
    pub values: Vec<(&'static str, Shown)>,
}

/// A value in force. `Display` writes it as the file would, with secrets masked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// As the file would have it.
    Plain(String),
    /// Compared, but not shown.
    Secret(Secret),
    /// A file, and a hash over what is in it.
    File(String, [u8; 32]),
    /// Nothing, and what that means.
    Unset,
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(text) => text,
            Self::Secret(_) => "***",
            Self::File(path, _) => return write!(f, "{path:?}"),
            Self::Unset => "unset",
        })
    }
}

/// Every section of a configuration.
#[must_use]
pub fn entries(config: &Config) -> Vec<Entry> {
    let Config { workers, io_backend, memory_limit, upgrade_socket, admin, drain, log, postgres, redis, pgbouncer: _ } = config;
    let workers = match workers {
        Workers::Auto => quoted("auto"),
        Workers::Count(count) => number(*count),
    };
    let upgrade_socket = upgrade_socket.as_ref().map_or(Shown::Unset, |path| quoted(path.display().to_string()));
    let memory_limit = memory_limit.map_or(Shown::Unset, |limit| quoted(format_size(limit)));
    let admin_listen = admin.listen.map_or_else(|| "off".to_owned(), |address| address.to_string());
    let mut entries = vec![
        Entry {
            path: String::new(),
            scope: Scope::Root,
            values: vec![
                ("memory_limit", memory_limit),
                ("upgrade_socket", upgrade_socket),
                ("workers", workers),
                ("io_backend", quoted(io_backend.name())),
            ],
        },
        Entry {
            path: "admin".to_owned(),
            scope: Scope::Admin,
            values: vec![
                ("listen", quoted(admin_listen)),
                ("metrics_names", quoted(admin.metrics_names.name())),
                ("metrics_max_pools", number(admin.metrics_max_pools)),
                ("quitquitquit", flag(admin.quitquitquit)),
                ("allowed_hosts", list(&admin.allowed_hosts)),
            ],
        },
        Entry {
            path: "drain".to_owned(),
            scope: Scope::Drain,
            values: vec![("accept_for", duration(drain.accept_for)), ("timeout", duration(drain.timeout))],
        },
        Entry {
            path: "log".to_owned(),
            scope: Scope::Log,
            values: vec![
                ("level", quoted(log.level.name())),
                ("format", quoted(log.format.name())),
                ("connections", flag(log.connections)),
                ("disconnections", flag(log.disconnections)),
                ("pooler_errors", flag(log.pooler_errors)),
                ("stats", flag(log.stats)),
            ],
        },
    ];
    postgres.iter().for_each(|postgres| postgres::entries(postgres, &mut entries));
    redis.iter().for_each(|(name, redis)| redis_entries(key_path("redis", name), redis, &mut entries));
    entries
}

/// A hash over everything that is in force, secrets included: equal where two configurations are, however they were said.
#[must_use]
pub fn fingerprint(config: &Config) -> ContentHash {
    let mut hasher = Sha256::new();
    let mut part = |text: &str| {
        hasher.update((text.len() as u64).to_be_bytes());
        hasher.update(text.as_bytes());
    };
    for entry in entries(config) {
        part(&entry.path);
        for (name, value) in &entry.values {
            part(name);
            match value {
                Shown::Plain(text) => part(text),
                Shown::Secret(secret) => part(secret.reveal()),
                Shown::File(path, content) => {
                    part(path);
                    content.iter().for_each(|byte| part(&byte.to_string()));
                }
                Shown::Unset => part(""),
            }
        }
    }
    ContentHash(hasher.finalize().into())
}

fn redis_entries(path: String, redis: &Redis, entries: &mut Vec<Entry>) {
    let Redis {
        listen,
        client_tls,
        tcp,
        upstream,
        tls,
        server_tls,
        auth_type,
        user,
        password,
        database,
        users,
        max_client_conn,
        max_client_logins,
        client_login_timeout,
        shared_connections,
        blocking_connections,
        spare_connections,
        stream_threshold_bytes,
        client_output_buffer_limit,
        request_timeout,
        log_min_duration_command,
        traces,
        retry_timeout,
        queue_fairness,
        subscriber_gap,
        command_policy,
        command_allow,
        command_deny,
        limits,
    } = redis;
    let (host, port) = address(upstream);
    let mut values = vec![
        ("listen", listens(listen)),
        ("host", host),
        ("port", port),
        ("sslmode", quoted(tls.name())),
        ("auth_type", auth_type.map_or(Shown::Unset, |auth| quoted(auth.name()))),
        ("user", text(user.as_deref())),
        ("password", secret(password.as_ref())),
        ("database", number(*database)),
        ("max_client_conn", number(*max_client_conn)),
        ("max_client_logins", number(*max_client_logins)),
        ("client_login_timeout", duration(*client_login_timeout)),
        ("shared_connections", number(*shared_connections)),
        ("blocking_connections", number(*blocking_connections)),
        ("spare_connections", number(*spare_connections)),
        ("stream_threshold", quoted(format_size(*stream_threshold_bytes))),
        ("client_output_buffer_limit", quoted(client_output_buffer_limit.to_string())),
        ("request_timeout", duration(*request_timeout)),
        ("log_min_duration_command", duration(*log_min_duration_command)),
        ("retry_timeout", duration(*retry_timeout)),
        ("queue_fairness", quoted(queue_fairness.name())),
        ("subscriber_gap", quoted(subscriber_gap.name())),
        ("command_policy", quoted(command_policy.name())),
        ("command_allow", classes(command_allow)),
        ("command_deny", classes(command_deny)),
    ];
    values.extend(postgres::client_tls_values(client_tls));
    values.extend(postgres::server_tls_values(server_tls));
    values.extend(postgres::tcp_values(tcp));
    values.extend(postgres::trace_values(traces));
    values.extend(limit_values(limits));
    entries.push(Entry { path: path.clone(), scope: Scope::Redis, values });
    entries.extend(users.iter().map(|(name, user)| {
        let RedisUser { password, upstream_user, upstream_password } = user;
        let values = vec![
            ("password", secret(Some(password))),
            ("upstream_user", text(upstream_user.as_deref())),
            ("upstream_password", secret(upstream_password.as_ref())),
        ];
        Entry { path: key_path(&key_path(&path, "users"), name), scope: Scope::RedisUser, values }
    }));
}

fn limit_values(limits: &PoolLimits) -> [(&'static str, Shown); 11] {
    let PoolLimits {
        pool_size,
        min_pool_size,
        max_queue_length,
        query_wait_timeout,
        refuse_early,
        server_idle_timeout,
        server_lifetime,
        server_connect_timeout,
        server_connect_parallelism,
        server_connect_backoff,
        server_login_retry,
        // Redis pools do not have these.
        reserve_pool_size: _,
        reserve_pool_timeout: _,
        server_check_delay: _,
        server_round_robin: _,
        max_pinned_connections: _,
    } = limits;
    [
        ("pool_size", number(*pool_size)),
        ("min_pool_size", number(*min_pool_size)),
        ("max_queue_length", number(*max_queue_length)),
        ("query_wait_timeout", duration(*query_wait_timeout)),
        ("refuse_early", flag(*refuse_early)),
        ("server_idle_timeout", duration(*server_idle_timeout)),
        ("server_lifetime", duration(*server_lifetime)),
        ("server_connect_timeout", duration(*server_connect_timeout)),
        ("server_connect_parallelism", number(*server_connect_parallelism)),
        ("server_connect_backoff", duration(*server_connect_backoff)),
        ("server_login_retry", duration(*server_login_retry)),
    ]
}

/// Host and port as they would be written: for the Unix socket of a PostgreSQL server its directory, and the port that is part of its name.
fn address(upstream: &Upstream) -> (Shown, Shown) {
    match upstream {
        Upstream::Tcp { host, port } => (quoted(host), number(*port)),
        Upstream::Unix(path) => {
            let port = path.file_name().and_then(|name| name.to_str()?.strip_prefix(".s.PGSQL.")?.parse::<u16>().ok());
            match (port, path.parent()) {
                (Some(port), Some(directory)) => (quoted(directory.display().to_string()), number(port)),
                (_, _) => (quoted(path.display().to_string()), Shown::Unset),
            }
        }
    }
}

fn quoted(text: impl AsRef<str>) -> Shown {
    Shown::Plain(format!("{:?}", text.as_ref()))
}

fn number(number: impl Into<u32>) -> Shown {
    Shown::Plain(number.into().to_string())
}

fn duration(duration: Duration) -> Shown {
    quoted(format_duration(duration))
}

fn flag(flag: bool) -> Shown {
    Shown::Plain(flag.to_string())
}

fn path(path: Option<&Path>) -> Shown {
    path.map_or(Shown::Unset, |path| quoted(path.display().to_string()))
}

/// A file, of which the contents count as well, where something was made of them.
fn contents(path: Option<&Path>, hash: Option<&[u8; 32]>) -> Shown {
    match (path, hash) {
        (Some(path), Some(hash)) => Shown::File(path.display().to_string(), *hash),
        (given, _) => self::path(given),
    }
}

fn text(text: Option<&str>) -> Shown {
    text.map_or(Shown::Unset, quoted)
}

fn secret(secret: Option<&Secret>) -> Shown {
    secret.cloned().map_or(Shown::Unset, Shown::Secret)
}

fn listens(listens: &[Listen]) -> Shown {
    list(&listens.iter().map(ToString::to_string).collect::<Vec<_>>())
}

fn classes(classes: &CommandClasses) -> Shown {
    list(&classes.0.iter().map(|class| class.name().to_owned()).collect::<Vec<_>>())
}

fn list(texts: &[String]) -> Shown {
    Shown::Plain(format!("{texts:?}"))
}
