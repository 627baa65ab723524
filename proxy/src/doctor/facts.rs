//! What was seen of servers and of this machine, before anybody judges it. Values only.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use sidepool_config::model::{Listen, Upstream, UpstreamTls};

use crate::pool::fault::{ConnectFault, ConnectFaultKind};
use crate::upstream::roster::Place;

/// The way to a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// As configured.
    pub upstream: Upstream,
    /// What its name leads to, and how long that took; `None`: it is no name.
    pub name: Option<(Duration, Result<Vec<IpAddr>, String>)>,
    /// Whether somebody answers there, and how long that took.
    pub addresses: Vec<(Place, Duration, Result<(), String>)>,
}

impl Reached {
    /// Whether anybody answers.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.addresses.iter().any(|(_, _, answer)| answer.is_ok())
    }

    /// Whether what is said to it stays on this machine.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.addresses.iter().all(|(place, _, _)| match place {
            Place::Tcp(address) => address.ip().is_loopback(),
            Place::Unix(_) => true,
        })
    }
}

/// What a server has shown under TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsShown {
    /// Version, cipher and curve.
    pub description: String,
    /// When its certificate ends, in seconds since the epoch.
    pub not_after: Option<i64>,
}

/// Why somebody was not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// The class.
    pub kind: ConnectFaultKind,
    /// The server's code.
    pub code: Option<String>,
    /// The server's words, or ours.
    pub words: String,
}

impl Denied {
    /// From a failed connect; `prefix` is what its text begins with and need not be said again.
    #[must_use]
    pub fn of(fault: &ConnectFault, prefix: &str) -> Self {
        let words = fault.words();
        let words = words.strip_prefix(prefix).unwrap_or(words).to_owned();
        Self { kind: fault.kind, code: fault.code.as_deref().map(str::to_owned), words }
    }

    /// Whether it may be for the database alone: it is not there, or not open to this user.
    #[must_use]
    pub fn is_of_database(&self) -> bool {
        let by_file = self.code.as_deref() == Some("28000") && self.words.contains("pg_hba.conf");
        self.kind == ConnectFaultKind::NoDatabase || self.code.as_deref() == Some("42501") || by_file
    }
}

/// How far a server's clock is ahead of ours, in seconds, and how exactly that is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clock {
    /// How far it is ahead; less than zero: behind.
    pub ahead: f64,
    /// By so much it may be more or less.
    pub doubt: f64,
}

/// In which form a user's secret is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretForm {
    /// There is none.
    None,
    /// As it is typed, or its MD5: enough to log in with.
    Usable,
    /// A SCRAM verifier: enough to check a client with, but not to log in as it.
    Verifier,
}

/// A login that was tried.
#[derive(Debug, Clone, PartialEq)]
pub struct PgLogin {
    /// As whom.
    pub user: String,
    /// Into which database.
    pub dbname: String,
    /// Whether that is a guess, because the clients name it.
    pub guessed: bool,
    /// With which kind of secret.
    pub secret: SecretForm,
    /// TLS as configured.
    pub tls: UpstreamTls,
    /// How long it took.
    pub took: Duration,
    /// Whether it worked.
    pub result: Result<PgEntered, Denied>,
}

/// What a login that worked has shown.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PgEntered {
    /// TLS; `None`: in the clear.
    pub tls: Option<TlsShown>,
    /// Most connections of the role, and of the database; less than zero: no limit.
    pub limits: Option<(i64, i64)>,
    /// What looking users up comes to, where it is this login that does.
    pub lookup: Option<Result<LookedUp, String>>,
}

/// What `auth_query` answered for a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookedUp {
    /// Who was asked for.
    pub user: String,
    /// What kind of secret came; `None`: there is no such user.
    pub secret: Option<&'static str>,
}

/// A PostgreSQL server.
#[derive(Debug, Clone, PartialEq)]
pub struct PgFacts {
    /// The way there.
    pub reached: Reached,
    /// Who tried to come in.
    pub logins: Vec<PgLogin>,
    /// Logins beyond those that were tried.
    pub untried: usize,
    /// What it shows to those who ask for TLS and look at nothing, where a login failed for TLS.
    pub shown: Option<Result<TlsShown, String>>,
    /// What the first one who came in saw.
    pub server: Option<Result<PgServer, String>>,
}

/// What a PostgreSQL server says about itself.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PgServer {
    /// As a number: 150004.
    pub version_number: u32,
    /// As text.
    pub version: String,
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// Its clock.
    pub clock: Option<Clock>,
    /// Settings by name.
    pub settings: BTreeMap<String, String>,
    /// Which of all servers it is, however one comes to it: its data, its port, and when it was started.
    pub identity: Option<String>,
    /// How many connections there are, and how many of them belong to roles that no pool logs in as.
    pub in_use: Option<(u64, u64)>,
}

impl PgServer {
    /// A setting that is a number.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        self.settings.get(name)?.parse().ok()
    }

    /// A setting that is on or off.
    #[must_use]
    pub fn is_on(&self, name: &str) -> bool {
        self.settings.get(name).is_some_and(|value| value == "on")
    }
}

/// A Redis server.
#[derive(Debug, Clone, PartialEq)]
pub struct RedisFacts {
    /// The way there.
    pub reached: Reached,
    /// What came of connecting and logging in, and how long that took.
    pub entered: Option<(Duration, Result<RedisServer, Denied>)>,
    /// What it shows to those who speak TLS and look at nothing, where the login failed for TLS.
    pub shown: Option<Result<TlsShown, String>>,
    /// The other users that clients become there, by name: of the server only who they are and what they may do.
    pub others: Vec<(String, Result<RedisServer, Denied>)>,
    /// How many of them were not tried.
    pub untried: usize,
}

/// What a Redis server says about itself.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RedisServer {
    /// TLS; `None`: in the clear.
    pub tls: Option<TlsShown>,
    /// The fields of INFO.
    pub info: Option<BTreeMap<String, String>>,
    /// Settings by name; `None`: it does not say.
    pub settings: BTreeMap<&'static str, Option<String>>,
    /// As whom we are logged in.
    pub user: Option<String>,
    /// Commands that sidepool sends itself, and whether they are allowed; the `bool` says whether that was tried and not asked.
    pub commands: Vec<(&'static str, Result<(), String>)>,
    /// Whether the server was asked (ACL DRYRUN) or the commands were tried.
    pub is_dry: bool,
    /// Whether it speaks RESP3.
    pub speaks_resp3: Option<bool>,
    /// Its clock.
    pub clock: Option<Clock>,
}

impl RedisServer {
    /// A field of INFO.
    #[must_use]
    pub fn info(&self, name: &str) -> Option<&str> {
        self.info.as_ref()?.get(name).map(String::as_str)
    }

    /// A setting, if it can be seen.
    #[must_use]
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name)?.as_deref()
    }
}

/// This machine, and what the configuration wants of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LocalFacts {
    /// How many files may be open; `None`: no limit.
    pub files: Option<u64>,
    /// How many a process has open that has just started.
    pub own_files: u64,
    /// How much memory there may be, in bytes; `None`: no limit.
    pub memory: Option<u64>,
    /// Whether Kubernetes runs us.
    pub in_kubernetes: bool,
    /// The doors of the configuration.
    pub doors: Vec<(Listen, Door)>,
    /// The admin door.
    pub admin: Option<(SocketAddr, Door)>,
    /// Whether systemd has a socket of sidepool, on which it listens for it.
    pub has_unit: bool,
    /// Whether a sidepool answers at the admin listener.
    pub runs: bool,
    /// Certificates of our own: the setting that names them, and when they end.
    pub certificates: Vec<(&'static str, i64)>,
    /// Files that everybody on this machine may read though there are secrets in them.
    pub readable: Vec<PathBuf>,
    /// How many files of the configuration were looked at for that.
    pub looked_at: usize,
    /// The time, in seconds since the epoch.
    pub now: i64,
}

/// Whether one can listen at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Door {
    /// Yes.
    Free,
    /// Somebody does.
    Taken,
    /// No, and why.
    Impossible(String),
}
