//! What `/statusz` says, as far as the view shows it. What is missing is zero: another version may say less, or more.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// The document.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Document {
    /// The version of the sidepool that is watched.
    pub version: String,
    /// How long it has run.
    pub uptime_seconds: f64,
    /// When it said this.
    pub unix_seconds: f64,
    /// What the process has to say.
    pub says: Vec<Words>,
    /// Its configuration.
    pub config: Config,
    /// Bounds of the buckets of waits.
    pub wait_bounds_seconds: Vec<f64>,
    /// Its pools.
    pub pools: Vec<Pool>,
    /// Databases, added up.
    pub databases: Vec<Sum>,
    /// Users, added up.
    pub users: Vec<Sum>,
    /// The doors.
    pub listeners: Vec<Listener>,
    /// The servers.
    pub hosts: Vec<Host>,
}

/// A sentence.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Words {
    /// How bad it is.
    pub level: String,
    /// How it is.
    pub text: String,
    /// What to do.
    pub advice: Option<String>,
}

/// The configuration.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    /// What stands for its content.
    pub hash: String,
}

/// A pool.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Pool {
    /// Its name.
    #[serde(rename = "pool")]
    pub name: String,
    /// postgres or redis.
    pub protocol: String,
    /// When connections come back.
    pub mode: String,
    /// Where its server is.
    pub upstream: String,
    /// How it is.
    pub says: Words,
    /// Whether all clients share its connections.
    pub shared: bool,
    /// Its connections by state, and their limits.
    pub connections: Connections,
    /// Its clients by state.
    pub clients: BTreeMap<String, u64>,
    /// What is pinned; none for Redis.
    pub pinned: Option<Pinned>,
    /// Who has held a connection for longest.
    pub longest: Vec<Holder>,
    /// How full it is.
    pub utilization: f64,
    /// Who waits.
    pub waiters: u64,
    /// How many may.
    pub queue_limit: u64,
    /// For how long the oldest has.
    pub oldest_wait_seconds: f64,
    /// Waits by bucket, since the start.
    pub wait_counts: Vec<u64>,
    /// Transactions, since the start.
    pub transactions: u64,
    /// Queries or commands, since the start.
    pub queries: u64,
    /// Refusals by reason, since the start.
    pub refusals: BTreeMap<String, u64>,
    /// What only Redis has.
    pub redis: Option<Redis>,
}

impl Pool {
    /// Connections that are in use or not available for use.
    #[must_use]
    pub fn busy(&self) -> u64 {
        self.connections.leased + self.connections.resetting + self.connections.probing
    }

    /// What it has done: transactions, or commands.
    #[must_use]
    pub fn done(&self) -> u64 {
        if self.protocol == "redis" { self.queries } else { self.transactions }
    }
}

/// Connections by state, and their limits.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Connections {
    pub idle: u64,
    pub leased: u64,
    pub connecting: u64,
    pub resetting: u64,
    pub probing: u64,
    pub closing: u64,
    pub max: u64,
    pub reserve: u64,
    pub room: u64,
    pub min: u64,
}

/// What is pinned.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Pinned {
    /// How many connections.
    pub connections: u64,
    /// How many may be.
    pub max: u64,
    /// Why.
    pub reasons: BTreeMap<String, u64>,
}

/// Who holds a connection.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Holder {
    /// For how long.
    pub seconds: f64,
    /// As whom.
    pub user: String,
    /// What it calls itself.
    pub application_name: String,
    /// Where it is.
    pub client: String,
    /// Whether it is idle in a transaction.
    pub idle_in_transaction: bool,
    /// Why it keeps it.
    pub pinned: Option<String>,
}

/// What only Redis has.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Redis {
    pub shared: u64,
    pub leased: u64,
    pub pubsub: u64,
    pub in_flight: u64,
    pub blocking_waiting: u64,
    pub lane_commands: u64,
    pub lane_writes: u64,
}

/// A database or a user: its pools added up.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Sum {
    pub name: String,
    pub protocol: String,
    pub clients: u64,
    pub waiting: u64,
    pub in_use: u64,
    pub transactions: u64,
    pub queries: u64,
}

/// A door.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Listener {
    pub listener: String,
    pub clients: u64,
    pub most: u64,
}

/// A server.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Host {
    /// As configured.
    pub host: String,
    /// Its addresses by the phase of their breakers.
    pub addresses: BTreeMap<String, u64>,
}

impl Document {
    /// Reads one. What names contain of control characters, which a terminal would obey, becomes dots.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut value: Value = serde_json::from_str(text).map_err(|error| format!("no status document: {error}"))?;
        if !value.is_object() {
            return Err("no status document: it is no object".to_owned());
        }
        tame(&mut value);
        serde_json::from_value(value).map_err(|error| format!("no status document: {error}"))
    }
}

fn tame(value: &mut Value) {
    match value {
        Value::String(text) if text.contains(char::is_control) => *text = text.replace(char::is_control, "·"),
        Value::Array(values) => values.iter_mut().for_each(tame),
        Value::Object(values) => values.values_mut().for_each(tame),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_zero_and_what_is_unknown_does_no_harm() {
        let document = Document::read(r#"{"version":"9","pools":[{"pool":"a.b","new":1}],"redis":null}"#).unwrap();
        assert_eq!((&*document.version, &*document.pools[0].name, document.pools[0].busy()), ("9", "a.b", 0));
        assert!(Document::read("<html>").is_err() && Document::read("[]").is_err());
    }

    #[test]
    fn a_terminal_is_told_nothing_by_names() {
        let document = Document::read(r#"{"pools":[{"pool":"a\u001b[2J\n","says":{"text":"by \u0007x"}}]}"#).unwrap();
        assert_eq!((&*document.pools[0].name, &*document.pools[0].says.text), ("a·[2J·", "by ·x"));
    }
}
