//! A configuration as tests build it: values by key path, written out as `sidepool.toml`, or as `pgbouncer.ini` to run the same test there.
//!
//! `SIDEPOOL_TESTS_IO=io_uring` runs any test with that `io_backend`, where it says nothing of it itself.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::place;
use crate::postgres::cluster::{self, Cluster};
use crate::redis::RedisServer;

/// One value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A string.
    Text(String),
    /// A number.
    Number(i64),
    /// A list of strings.
    List(Vec<String>),
    /// Yes or no.
    Flag(bool),
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Flag(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Number(value)
    }
}

impl From<Vec<String>> for Value {
    fn from(value: Vec<String>) -> Self {
        Self::List(value)
    }
}

/// A whole configuration: sections by name, each with its values by key.
#[derive(Debug, Clone)]
pub struct Settings {
    sections: BTreeMap<String, BTreeMap<String, Value>>,
    postgres_port: u16,
    redis_port: u16,
    admin_port: u16,
}

impl Settings {
    /// Nothing but an admin listener.
    #[must_use]
    pub fn new() -> Self {
        let mut sections = BTreeMap::new();
        sections.insert(String::new(), BTreeMap::new());
        let settings = Self { sections, postgres_port: place::free_port(), redis_port: place::free_port(), admin_port: place::free_port() };
        let admin = format!("127.0.0.1:{}", settings.admin_port);
        settings.set("admin.listen", admin)
    }

    /// PostgreSQL in front of `cluster`: database `app` for user `app` without a password, transaction mode, five connections.
    #[must_use]
    pub fn postgres(cluster: &Cluster) -> Self {
        Self::new().and_postgres(cluster)
    }

    /// Redis in front of `server`, its password injected.
    #[must_use]
    pub fn redis(server: &RedisServer) -> Self {
        Self::new().and_redis(server)
    }

    /// Adds what [`Settings::postgres`] has.
    #[must_use]
    pub fn and_postgres(self, cluster: &Cluster) -> Self {
        let listen = vec![format!("127.0.0.1:{}", self.postgres_port)];
        let user = format!("postgres.users.{}.password", cluster::USER);
        self.set("postgres.listen", listen)
            .set("postgres.auth_type", "trust")
            .set("postgres.pool_mode", "transaction")
            .set("postgres.default_pool_size", 5)
            .set(&user, cluster::PASSWORD)
            .database("app", cluster)
    }

    /// Adds a database of `cluster` under its own name.
    #[must_use]
    pub fn database(self, name: &str, cluster: &Cluster) -> Self {
        let section = format!("postgres.databases.{name}");
        self.set(&format!("{section}.host"), "127.0.0.1").set(&format!("{section}.port"), i64::from(cluster.port()))
    }

    /// Adds what [`Settings::redis`] has.
    #[must_use]
    pub fn and_redis(self, server: &RedisServer) -> Self {
        let listen = vec![format!("127.0.0.1:{}", self.redis_port)];
        let settings = self.set("redis.main.listen", listen).set("redis.main.host", "127.0.0.1");
        let settings = settings.set("redis.main.port", i64::from(server.port()));
        match server.password() {
            Some(password) => settings.set("redis.main.password", password),
            None => settings,
        }
    }

    /// Sets the value at a key path; what stands before the last dot is the section.
    #[must_use]
    pub fn set(mut self, path: &str, value: impl Into<Value>) -> Self {
        let (section, key) = path.rsplit_once('.').unwrap_or(("", path));
        self.sections.entry(section.to_owned()).or_default().insert(key.to_owned(), value.into());
        self
    }

    /// Removes a section, or the value at a key path.
    #[must_use]
    pub fn without(mut self, path: &str) -> Self {
        let (section, key) = path.rsplit_once('.').unwrap_or(("", path));
        let value = self.sections.get_mut(section).and_then(|values| values.remove(key));
        let section = self.sections.remove(path);
        assert!(value.is_some() || section.is_some(), "{path} is not set");
        self
    }

    /// Where PostgreSQL clients connect.
    pub fn postgres_port(&self) -> u16 {
        self.postgres_port
    }

    /// Where Redis clients connect.
    pub fn redis_port(&self) -> u16 {
        self.redis_port
    }

    /// Where metrics and health are served.
    pub fn admin_port(&self) -> u16 {
        self.admin_port
    }

    /// As `sidepool.toml`.
    pub fn toml(&self) -> String {
        let mut text = String::new();
        if let (Ok(backend), false) = (std::env::var("SIDEPOOL_TESTS_IO"), self.sections[""].contains_key("io_backend")) {
            writeln!(text, "io_backend = \"{backend}\"").expect("a String takes all");
        }
        for (section, values) in &self.sections {
            if !section.is_empty() {
                writeln!(text, "\n[{section}]").expect("a String takes all");
            }
            for (key, value) in values {
                writeln!(text, "{key} = {}", toml_value(value)).expect("a String takes all");
            }
        }
        text
    }

    /// As `pgbouncer.ini` and `userlist.txt`, the latter at `userlist`.
    pub fn pgbouncer(&self, userlist: &str) -> (String, String) {
        let mut databases = String::from("[databases]\n");
        let mut general = format!("[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\nauth_file = {userlist}\n", self.postgres_port);
        general.push_str("unix_socket_dir =\nlogfile =\nadmin_users = app\nserver_login_retry = 1\n");
        let mut users = String::new();
        for (section, values) in &self.sections {
            if let Some(name) = section.strip_prefix("postgres.databases.") {
                let pairs: Vec<String> = values.iter().map(|(key, value)| format!("{key}={}", ini_value(value))).collect();
                writeln!(databases, "{name} = {}", pairs.join(" ")).expect("a String takes all");
            } else if let Some(name) = section.strip_prefix("postgres.users.") {
                for value in values.iter().filter(|(key, _)| *key == "password").map(|(_, value)| ini_value(value)) {
                    writeln!(users, "\"{name}\" \"{value}\"").expect("a String takes all");
                }
            } else if section == "postgres" {
                for (key, value) in values.iter().filter(|(key, _)| *key != "listen") {
                    writeln!(general, "{key} = {}", ini_value(value)).expect("a String takes all");
                }
            }
        }
        (databases + &general, users)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::new()
    }
}

fn toml_value(value: &Value) -> String {
    let quoted = |text: &String| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    match value {
        Value::Text(text) => quoted(text),
        Value::Number(number) => number.to_string(),
        Value::Flag(flag) => flag.to_string(),
        Value::List(items) => format!("[{}]", items.iter().map(quoted).collect::<Vec<_>>().join(", ")),
    }
}

/// Durations lose their unit: PgBouncer counts in seconds.
fn ini_value(value: &Value) -> String {
    match value {
        Value::Text(text) => match text.strip_suffix('s').filter(|number| number.parse::<f64>().is_ok()) {
            Some(seconds) => seconds.to_owned(),
            None => text.clone(),
        },
        Value::Number(number) => number.to_string(),
        Value::Flag(flag) => u8::from(*flag).to_string(),
        Value::List(items) => items.join(","),
    }
}
