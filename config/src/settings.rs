//! Every setting in one table: where it may stand, what it holds, its default, what a reload does with it, and what it means.
//!
//! The parser takes its bounds and its list of known keys from here, the reference text and the comparison of two configurations
//! take the rest, so that they cannot disagree.

mod table;

use crate::diff::Class;

pub(crate) use table::MOST_CONNECTIONS;
pub use table::SETTINGS;

/// A kind of section of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Above the first section.
    Root,
    /// `[admin]`
    Admin,
    /// `[drain]`
    Drain,
    /// `[log]`
    Log,
    /// `[postgres]`
    Postgres,
    /// `[postgres.databases.NAME]`
    PgDatabase,
    /// `[postgres.users.NAME]`
    PgUser,
    /// `[postgres.peers.ID]`
    PgPeer,
    /// `[redis.NAME]`
    Redis,
    /// `[redis.NAME.users.USER]`
    RedisUser,
}

/// What a setting holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A whole number within bounds.
    Count {
        /// The least.
        min: u32,
        /// The most.
        max: u32,
    },
    /// A duration; `zero` says what `"0s"` means, or that it is refused.
    Duration {
        /// What `"0s"` means.
        zero: Option<&'static str>,
    },
    /// A number of bytes, at least `min`.
    Size {
        /// The least.
        min: u64,
    },
    /// `true` or `false`.
    Flag,
    /// One of these names.
    Choice(&'static [&'static str]),
    /// A number of threads or `"auto"`.
    Workers,
    /// Free text that is not empty.
    Text,
    /// Free text; `empty` says what `""` means.
    AnyText {
        /// What `""` means.
        empty: &'static str,
    },
    /// Permission bits in octal.
    Mode,
    /// A list of texts, or one text.
    Texts,
    /// A list of addresses (`"127.0.0.1:6432"`, `"unix:/run/sidepool"`), or one.
    Listen,
    /// One address, or `"off"`.
    Address,
    /// A path, relative to the configuration file.
    Path,
    /// A text, `{ file = "PATH" }` or `{ env = "NAME" }`.
    Secret,
}

/// One setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Where it may stand.
    pub scopes: &'static [Scope],
    /// Its key.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Its default as it would be written in the file; empty when there is none.
    pub default: &'static str,
    /// What a reload does with a change.
    pub reload: Class,
    /// What it means, in a sentence.
    pub help: &'static str,
}

/// What may stand in a kind of section beside its settings: sections, by key.
#[must_use]
pub fn subsections(scope: Scope) -> &'static [&'static str] {
    match scope {
        Scope::Root => &["admin", "drain", "log", "postgres", "redis"],
        Scope::Postgres => &["databases", "users", "peers"],
        Scope::Redis => &["users"],
        Scope::Admin | Scope::Drain | Scope::Log | Scope::PgDatabase | Scope::PgUser | Scope::PgPeer | Scope::RedisUser => &[],
    }
}

/// The settings that may stand in a kind of section, in the order of the table.
pub fn settings_of(scope: Scope) -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().filter(move |setting| setting.scopes.contains(&scope))
}

/// The setting of this name in this kind of section.
#[must_use]
pub fn setting(scope: Scope, name: &str) -> Option<&'static Setting> {
    settings_of(scope).find(|setting| setting.name == name)
}

impl Scope {
    /// Every kind of section, in the order of the reference.
    pub const ALL: [Self; 10] = [
        Self::Root,
        Self::Admin,
        Self::Drain,
        Self::Log,
        Self::Postgres,
        Self::PgDatabase,
        Self::PgUser,
        Self::PgPeer,
        Self::Redis,
        Self::RedisUser,
    ];

    /// True for the sections of the Redis side.
    pub(crate) fn is_redis(self) -> bool {
        match self {
            Self::Redis | Self::RedisUser => true,
            Self::Root | Self::Admin | Self::Drain | Self::Log | Self::Postgres | Self::PgDatabase | Self::PgUser | Self::PgPeer => false,
        }
    }

    /// How the section's header is written.
    #[must_use]
    pub fn header(self) -> &'static str {
        match self {
            Self::Root => "the top of the file",
            Self::Admin => "[admin]",
            Self::Drain => "[drain]",
            Self::Log => "[log]",
            Self::Postgres => "[postgres]",
            Self::PgDatabase => "[postgres.databases.NAME]",
            Self::PgUser => "[postgres.users.NAME]",
            Self::PgPeer => "[postgres.peers.ID]",
            Self::Redis => "[redis.NAME]",
            Self::RedisUser => "[redis.NAME.users.USER]",
        }
    }

    /// True where a setting that is left out is taken from the section above rather than from its default.
    #[must_use]
    pub fn inherits(self, setting: &Setting) -> bool {
        match self {
            Self::PgDatabase => setting.name == "pool_size" || setting.scopes.contains(&Self::Postgres),
            Self::PgUser => setting.name == "pool_size" || setting.scopes.contains(&Self::Postgres),
            Self::PgPeer => setting.name == "pool_size",
            Self::Root | Self::Admin | Self::Drain | Self::Log | Self::Postgres | Self::Redis | Self::RedisUser => false,
        }
    }
}

/// What PgBouncer calls it where the name here is another, or what to do where there is no such setting here.
#[must_use]
pub(crate) fn pgbouncer_advice(key: &str) -> Option<&'static str> {
    Some(match key {
        "listen_addr" | "listen_port" | "unix_socket_dir" => "a setting of PgBouncer; here it is part of listen",
        "conffile" | "logfile" | "pidfile" | "syslog" | "syslog_ident" | "syslog_facility" => {
            "a setting of PgBouncer; sidepool logs to standard error and writes no such file"
        }
        "log_connections" | "log_disconnections" => "a setting of PgBouncer; here it is connections in [log]",
        "server_tls_sslmode" => "a setting of PgBouncer; here it is sslmode of each database",
        "pkt_buf" | "sbuf_loopcnt" | "resolv_conf" | "job_name" | "user" | "login_notify_message" => {
            "a setting of PgBouncer that sidepool.toml does not have"
        }
        _ => return None,
    })
}
