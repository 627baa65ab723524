//! The validated shape of the configuration: what the rest of the program is handed.
//!
//! Everything here is already checked: ranges hold, references resolve, secrets are loaded. The raw shape and the checks are elsewhere.
//! A setting that PgBouncer has keeps PgBouncer's name and meaning.

mod output;
mod postgres;
mod precedence;
mod redis;
mod session_state;
mod slow_log;
mod timeouts;
mod traces;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::pgbouncer::process::Process;

pub use output::{OutputLimit, OutputLimits};
pub use postgres::{
    AuthType, Base, ClientSslMode, ClientTls, ListenGap, LoadBalance, Peer, PgDatabase, PgUser, PoolMode, Postgres, ServerTls, TcpOptions,
};
pub use redis::{CommandClass, CommandClasses, CommandPolicy, Redis, RedisAuth, RedisUser, SubscriberGap};
pub use session_state::{Following, SessionState};
pub use slow_log::{SlowLog, UserSlowLog};
pub use timeouts::{Timeouts, UserTimeouts};
pub use traces::{OtlpEndpoint, Traces};

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// How many worker threads carry traffic.
    pub workers: Workers,
    /// How much memory the process may have, in bytes, beside the limit of its control group; `None`: as much as that says.
    pub memory_limit: Option<u64>,
    /// By which means of the kernel sockets are read and written.
    pub io_backend: IoBackend,
    /// Where a new process knocks that takes over; `None`: beside the first Unix socket of the PostgreSQL side, if there is one.
    pub upgrade_socket: Option<PathBuf>,
    /// The admin HTTP listener (metrics and health).
    pub admin: Admin,
    /// What happens on SIGTERM.
    pub drain: Drain,
    /// What is logged, and how.
    pub log: Log,
    /// The PostgreSQL side, if there is one.
    pub postgres: Option<Postgres>,
    /// The Redis side: each upstream server by its configured name.
    pub redis: BTreeMap<String, Redis>,
    /// What only a `pgbouncer.ini` says; `None` where the configuration is none.
    pub pgbouncer: Option<Box<Process>>,
}

impl Config {
    /// Where a new process knocks that takes over.
    #[must_use]
    pub fn upgrade_path(&self) -> Option<PathBuf> {
        let beside = |path: &Path| {
            let mut name = path.as_os_str().to_owned();
            name.push(".upgrade");
            PathBuf::from(name)
        };
        self.upgrade_socket.clone().or_else(|| {
            self.postgres.as_ref()?.listen.iter().find_map(|listen| match listen {
                // An abstract socket has no place for a file beside it.
                Listen::Unix(path) => Some(beside(path)).filter(|path| path.is_absolute()),
                Listen::Tcp(_) => None,
            })
        })
    }
}

/// How many worker threads carry traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Workers {
    /// One up to two cores of CPU quota, beyond that by the quota.
    #[default]
    Auto,
    /// Exactly this many.
    Count(u16),
}

/// By which means of the kernel sockets are read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IoBackend {
    /// A system call for each read and each write, epoll to wait.
    #[default]
    Epoll,
    /// One system call for what all connections of a worker want; epoll where the kernel does not allow it.
    IoUring,
}

/// The admin HTTP listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Where `/metrics` and the health endpoints listen; `None` turns them off.
    pub listen: Option<SocketAddr>,
    /// How the metrics of pools are called.
    pub metrics_names: MetricsNames,
    /// How many pools have series of their own.
    pub metrics_max_pools: u32,
    /// Whether a POST to `/quitquitquit` from this machine ends the process.
    pub quitquitquit: bool,
    /// By which names, beside those that nobody can own, the status may be asked for.
    pub allowed_hosts: Vec<String>,
}

/// How the metrics of pools are called that OpenTelemetry has names for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MetricsNames {
    /// As all others.
    #[default]
    Sidepool,
    /// As OpenTelemetry calls them.
    Otel,
    /// Both.
    Both,
}

/// What happens on SIGTERM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    /// How long new clients are still accepted after SIGTERM, while load balancers learn that we are not ready.
    pub accept_for: Duration,
    /// When what is still open is cut.
    pub timeout: Duration,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// The least severe level that is logged.
    pub level: LogLevel,
    /// Text for people or JSON for machines.
    pub format: LogFormat,
    /// Whether each connection that is opened is logged.
    pub connections: bool,
    /// Whether each connection that is closed is logged.
    pub disconnections: bool,
    /// Whether errors are logged that clients are told by us.
    pub pooler_errors: bool,
    /// Whether a summary is logged every `stats_period`.
    pub stats: bool,
}

/// The least severe level that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Only what broke.
    Error,
    /// And what is about to.
    Warn,
    /// And what happened.
    Info,
    /// And why.
    Debug,
    /// And everything.
    Trace,
}

/// Text for people or JSON for machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One readable line an event.
    Text,
    /// One JSON object an event.
    Json,
}

/// Where a data listener binds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Listen {
    /// A TCP address.
    Tcp(SocketAddr),
    /// The full path of a Unix socket (for Postgres already ending in `.s.PGSQL.PORT`).
    Unix(PathBuf),
}

/// Where an upstream server is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Upstream {
    /// A host name or address, resolved at each connect.
    Tcp {
        /// DNS name or IP address.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// The full path of a Unix socket.
    Unix(PathBuf),
}

/// What tells clients apart between which a queue is fair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QueueFairness {
    /// As whom they logged in.
    #[default]
    User,
    /// What their application calls itself.
    ApplicationName,
    /// Where they come from.
    Address,
    /// Where they connected to.
    Listener,
    /// Nothing: all are served in the order in which they asked.
    Off,
}

/// How large a pool may grow, and how long things in it may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolLimits {
    /// Most connections, those being opened included. At least 1.
    pub pool_size: u32,
    /// Connections kept open even when idle. At most `pool_size`.
    pub min_pool_size: u32,
    /// Most clients that may wait; one more is refused at once.
    pub max_queue_length: u32,
    /// How long a client may wait. Zero: for ever.
    pub query_wait_timeout: Duration,
    /// Whether who would wait for longer than it may is refused at once.
    pub refuse_early: bool,
    /// Idle connections above the minimum are closed after this. Zero: never.
    pub server_idle_timeout: Duration,
    /// Connections are replaced after this (spread by up to a tenth). Zero: never.
    pub server_lifetime: Duration,
    /// How long opening one connection, login included, may take.
    pub server_connect_timeout: Duration,
    /// How many connections of one pool are opened at the same time.
    pub server_connect_parallelism: u32,
    /// First pause after a failed connect; doubles up to `server_login_retry`, with jitter.
    pub server_connect_backoff: Duration,
    /// Longest pause after failed connects.
    pub server_login_retry: Duration,
    /// Connections beyond `pool_size` that may be opened when a client has waited for `reserve_pool_timeout`.
    pub reserve_pool_size: u32,
    /// How long the oldest waiter has to have waited before the reserve is used. Zero: the reserve is never used.
    pub reserve_pool_timeout: Duration,
    /// An idle connection that was not heard of for this long is asked whether it is alive before it is used. Zero: always.
    pub server_check_delay: Duration,
    /// The connection that was idle longest is used next, instead of the one that was used last.
    pub server_round_robin: bool,
    /// Most connections that single clients may keep past their transactions. Zero: half of `pool_size`, at least one.
    pub max_pinned_connections: u32,
}

/// The `server_lifetime` with which each connection is used once: PgBouncer's 0, which is "never" where durations have units.
pub const USED_ONCE: Duration = Duration::from_micros(1);

impl PoolLimits {
    /// Whether each connection is used once.
    #[must_use]
    pub fn is_used_once(&self) -> bool {
        self.server_lifetime == USED_ONCE
    }
}

/// TLS towards an upstream, in libpq's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UpstreamTls {
    /// Never.
    #[default]
    Disable,
    /// Only if the server wants nothing else.
    Allow,
    /// If the server offers it, and it works.
    Prefer,
    /// Always, whoever the server is.
    Require,
    /// Always, with a certificate that an authority vouches for.
    VerifyCa,
    /// Always, with a certificate that an authority vouches for and that names the host.
    VerifyFull,
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 9127))),
            metrics_names: MetricsNames::Sidepool,
            metrics_max_pools: 200,
            quitquitquit: false,
            allowed_hosts: Vec::new(),
        }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self { accept_for: Duration::ZERO, timeout: Duration::from_secs(25) }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: LogLevel::Info,
            format: LogFormat::Text,
            connections: false,
            disconnections: false,
            pooler_errors: true,
            stats: false,
        }
    }
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            pool_size: 20,
            min_pool_size: 0,
            max_queue_length: 10_000,
            query_wait_timeout: Duration::from_secs(10),
            refuse_early: false,
            server_idle_timeout: Duration::from_secs(600),
            server_lifetime: Duration::from_secs(3600),
            server_connect_timeout: Duration::from_secs(15),
            server_connect_parallelism: 4,
            server_connect_backoff: Duration::from_millis(100),
            server_login_retry: Duration::from_secs(15),
            reserve_pool_size: 0,
            reserve_pool_timeout: Duration::from_secs(5),
            server_check_delay: Duration::from_secs(30),
            server_round_robin: false,
            max_pinned_connections: 0,
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
