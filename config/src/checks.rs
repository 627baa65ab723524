//! What has to hold between settings: minimum and maximum, limits and timeouts, references, listeners. Pure: it sees only the configuration.

mod auth;

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::listen::{clash, is_local};
use crate::model::{AuthType, Config, Listen, PgDatabase, PoolLimits, Postgres, Redis, RedisAuth};
use crate::problem::Severity;
use crate::reading::key_path;
use crate::units::{format_duration, format_size};

/// One relation that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// The keys that are part of it, best first: it is reported at the first that is in the file.
    pub(crate) keys: Vec<String>,
    pub(crate) message: String,
    pub(crate) severity: Severity,
}

struct Findings(Vec<Finding>);

/// Everything that does not hold.
pub(crate) fn check(config: &Config) -> Vec<Finding> {
    let mut findings = Findings(Vec::new());
    if config.postgres.is_none() && config.redis.is_empty() {
        findings.error(&[""], "nothing to do: there is neither a [postgres] nor a [redis.NAME] section");
    }
    if config.drain.accept_for > config.drain.timeout {
        let (accept_for, timeout) = (format_duration(config.drain.accept_for), format_duration(config.drain.timeout));
        findings.error(
            &["drain.accept_for", "drain.timeout"],
            format!("accept_for ({accept_for}) is longer than timeout ({timeout}), after which everything is cut"),
        );
    }
    if let Some(postgres) = &config.postgres {
        findings.postgres(postgres);
    }
    for (name, redis) in &config.redis {
        findings.redis(&key_path("redis", name), redis);
    }
    findings.listeners(config);
    findings.0
}

impl Findings {
    fn error(&mut self, keys: &[&str], message: impl Into<String>) {
        self.add(keys, message, Severity::Error);
    }

    fn warning(&mut self, keys: &[&str], message: impl Into<String>) {
        self.add(keys, message, Severity::Warning);
    }

    fn add(&mut self, keys: &[&str], message: impl Into<String>, severity: Severity) {
        self.0.push(Finding { keys: keys.iter().map(ToString::to_string).collect(), message: message.into(), severity });
    }

    fn postgres(&mut self, postgres: &Postgres) {
        if postgres.databases.is_empty() {
            self.error(&["postgres.databases", "postgres"], "has no databases: add a section [postgres.databases.NAME]");
        }
        for (name, database) in &postgres.databases {
            self.database(postgres, name, database);
        }
        self.users(postgres);
        self.logins(postgres);
        let exposed = postgres.listen.iter().find(|listen| !is_local(listen));
        if let (AuthType::Any | AuthType::Trust, Some(listen)) = (postgres.auth_type, exposed) {
            self.warning(
                &["postgres.listen"],
                format!(
                    "{listen} is reachable from other machines, and clients there need no password: set auth_type, or listen on 127.0.0.1"
                ),
            );
        }
    }

    fn database(&mut self, postgres: &Postgres, name: &str, database: &PgDatabase) {
        let path = key_path("postgres.databases", name);
        if name == "pgbouncer" {
            self.error(&[&path], "this name is reserved for the admin console");
        }
        if database.password.is_some() && database.user.is_none() {
            let keys = [format!("{path}.password"), format!("{path}.url")];
            self.error(&[&keys[0], &keys[1]], "a password without its user: set user as well");
        }
        if postgres.auth_type == AuthType::Any && database.user.is_none() {
            let message = "auth_type \"any\" lets everybody in, so every database needs a user of its own for the upstream";
            self.error(&[&path], message);
        }
        let keys = |setting: &str, outer: &str| [format!("{path}.{setting}"), format!("postgres.{outer}")];
        let pairs = LimitKeys {
            min: keys("min_pool_size", "min_pool_size"),
            size: keys("pool_size", "default_pool_size"),
            backoff: keys("server_connect_backoff", "server_connect_backoff"),
            retry: keys("server_login_retry", "server_login_retry"),
        };
        self.limits(&pairs, &database.limits);
    }

    fn users(&mut self, postgres: &Postgres) {
        let by_password = match postgres.auth_type {
            AuthType::Any => return,
            AuthType::Trust | AuthType::Cert | AuthType::Hba | AuthType::Ldap | AuthType::Pam => false,
            AuthType::Plain | AuthType::Md5 | AuthType::ScramSha256 => true,
        };
        let elsewhere = postgres.auth_user.is_some() || matches!(postgres.auth_type, AuthType::Hba | AuthType::Ldap | AuthType::Pam);
        if postgres.users.is_empty() && !postgres.databases.is_empty() && !elsewhere {
            self.warning(
                &["postgres.users", "postgres"],
                "has no users, so nobody can log in: add a section [postgres.users.NAME] or an auth_file",
            );
        }
        for (name, user) in postgres.users.iter().filter(|_| by_password) {
            let path = key_path("postgres.users", name);
            let own = format!("{path}.password");
            match user.password.as_ref().map(|secret| secret.reveal()) {
                None if postgres.auth_user.is_some() => {}
                None => self.warning(&[&own, &path, "postgres.auth_file"], format!("user \"{name}\" has no password and cannot log in")),
                Some(secret) if postgres.auth_type == AuthType::ScramSha256 && is_md5(secret) => self.warning(
                    &[&own, &path, "postgres.auth_file"],
                    format!("the secret of user \"{name}\" is an MD5 hash, with which nobody can log in by auth_type \"scram-sha-256\""),
                ),
                Some(_) => {}
            }
        }
    }

    fn redis(&mut self, path: &str, redis: &Redis) {
        let key = |name: &str| format!("{path}.{name}");
        let pairs = LimitKeys {
            min: [key("min_pool_size"), path.to_owned()],
            size: [key("pool_size"), path.to_owned()],
            backoff: [key("server_connect_backoff"), path.to_owned()],
            retry: [key("server_login_retry"), path.to_owned()],
        };
        self.limits(&pairs, &redis.limits);
        let (shared, size) = (redis.shared_connections, redis.limits.pool_size);
        if size <= shared {
            self.error(
                &[&key("pool_size"), &key("shared_connections")],
                format!("pool_size ({size}) must be more than shared_connections ({shared}): blocking commands lease what is left"),
            );
        }
        let most = redis.client_output_buffer_limit.normal.hard_bytes;
        if most > 0 && redis.stream_threshold_bytes > most {
            let (threshold, most) = (format_size(redis.stream_threshold_bytes), format_size(most));
            self.error(
                &[&key("stream_threshold"), &key("client_output_buffer_limit")],
                format!("stream_threshold ({threshold}) is more than a normal client's hard limit in client_output_buffer_limit ({most})"),
            );
        }
        if redis.user.is_some() && redis.password.is_none() {
            self.error(
                &[&key("user"), &key("url")],
                "a user without its password: set password as well (redis://:PASSWORD@HOST for a password alone)",
            );
        }
        let (users, password) = (!redis.users.is_empty(), redis.password.is_some());
        let (wrong, message) = match redis.auth() {
            RedisAuth::Map => (!users, "\"map\" needs users to map: add [redis.NAME.users.USER] sections"),
            RedisAuth::Inject => (users, "\"inject\" lets everybody in without a password: leave the users out, or auth_type"),
            RedisAuth::PassThrough => {
                (users || password, "\"pass-through\" has each client log in as itself: leave users and the password of the proxy out")
            }
        };
        if wrong {
            self.error(&[&key("auth_type"), path], message);
        }
        for (name, user) in &redis.users {
            let path = key_path(&key("users"), name);
            let own = |name: &str| format!("{path}.{name}");
            if user.upstream_user.is_some() != user.upstream_password.is_some() {
                self.error(
                    &[&own("upstream_user"), &own("upstream_password")],
                    "upstream_user and upstream_password go together: set both or neither",
                );
            }
        }
        let exposed = redis.listen.iter().find(|listen| !is_local(listen));
        if let (Some(listen), true, true) = (exposed, redis.auth() == RedisAuth::Inject, redis.password.is_some()) {
            self.warning(
                &[&key("listen")],
                format!("{listen} is reachable from other machines, and clients there use the upstream password without knowing it: add users, or listen on 127.0.0.1"),
            );
        }
    }

    fn limits(&mut self, keys: &LimitKeys, limits: &PoolLimits) {
        let order = |first: &[String; 2], second: &[String; 2]| [first[0].clone(), second[0].clone(), first[1].clone(), second[1].clone()];
        if limits.min_pool_size > limits.pool_size {
            let keys = order(&keys.min, &keys.size);
            let message = format!("min_pool_size ({}) is more than pool_size ({})", limits.min_pool_size, limits.pool_size);
            self.error(&keys.each_ref().map(String::as_str), message);
        }
        if limits.server_connect_backoff > limits.server_login_retry {
            let keys = order(&keys.backoff, &keys.retry);
            let (first, longest) = (format_duration(limits.server_connect_backoff), format_duration(limits.server_login_retry));
            let message = format!("server_connect_backoff ({first}) is longer than server_login_retry ({longest})");
            self.error(&keys.each_ref().map(String::as_str), message);
        }
    }

    fn listeners(&mut self, config: &Config) {
        let mut taken: Vec<(String, Listen)> = Vec::new();
        // Beside 0.0.0.0 the listener on [::] for PostgreSQL takes IPv6 alone.
        let all_v4 = |listen: &Listen| matches!(listen, Listen::Tcp(address) if address.ip() == Ipv4Addr::UNSPECIFIED);
        let has_all_v4 = config.postgres.iter().flat_map(|postgres| &postgres.listen).any(all_v4);
        let all_v6 = |listen: &Listen| matches!(listen, Listen::Tcp(address) if address.ip() == Ipv6Addr::UNSPECIFIED);
        let is_only_v6 = |key: &str, listen: &Listen| has_all_v4 && key == "postgres.listen" && all_v6(listen);
        let admin = config.admin.listen.map(|address| ("admin.listen".to_owned(), Listen::Tcp(address)));
        let postgres =
            config.postgres.iter().flat_map(|postgres| &postgres.listen).map(|listen| ("postgres.listen".to_owned(), listen.clone()));
        let redis = config.redis.iter().flat_map(|(name, redis)| {
            let key = format!("{}.listen", key_path("redis", name));
            redis.listen.iter().map(move |listen| (key.clone(), listen.clone()))
        });
        for (key, listen) in admin.into_iter().chain(postgres).chain(redis) {
            if let Some((other, theirs)) =
                taken.iter().find(|(other, theirs)| clash(&listen, theirs, is_only_v6(&key, &listen) || is_only_v6(other, theirs)))
            {
                let theirs = if *theirs == listen { String::new() } else { format!(" ({theirs})") };
                let whose = if *other == key { "is in the list twice".to_owned() } else { format!("is taken by {other}{theirs}") };
                self.error(&[&key, other], format!("{listen} {whose}: every listener needs an address of its own"));
            } else {
                taken.push((key, listen));
            }
        }
    }
}

/// Where the limits of one pool are said: in its own section, or in the one above.
struct LimitKeys {
    min: [String; 2],
    size: [String; 2],
    backoff: [String; 2],
    retry: [String; 2],
}

/// An MD5 secret as PostgreSQL and PgBouncer store it.
fn is_md5(secret: &str) -> bool {
    secret.strip_prefix("md5").is_some_and(|hash| hash.len() == 32 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
}
