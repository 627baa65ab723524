//! The Redis side of the configuration, and which classes of commands may be sent.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::{ClientTls, Listen, OutputLimits, PoolLimits, QueueFairness, ServerTls, TcpOptions, Traces, Upstream, UpstreamTls};
use crate::secret::Secret;

/// One Redis (or Valkey) server and the listeners that lead to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redis {
    /// Where clients connect.
    pub listen: Vec<Listen>,
    /// TLS with clients.
    pub client_tls: ClientTls,
    /// TCP options, towards clients and the server.
    pub tcp: TcpOptions,
    /// Where the server is.
    pub upstream: Upstream,
    /// TLS towards the server.
    pub tls: UpstreamTls,
    /// What TLS towards the server is made of.
    pub server_tls: ServerTls,
    /// How clients come in; `None`: as [`Redis::auth`] makes of the rest.
    pub auth_type: Option<RedisAuth>,
    /// The upstream ACL user; `None`: `default`.
    pub user: Option<String>,
    /// The upstream password.
    pub password: Option<Secret>,
    /// The database a client starts in.
    pub database: u32,
    /// Who clients can be, where that is said here.
    pub users: BTreeMap<String, RedisUser>,
    /// Most client connections at a time.
    pub max_client_conn: u32,
    /// Most clients in the middle of saying who they are.
    pub max_client_logins: u32,
    /// How long a client may stay unauthenticated, when it has to authenticate.
    pub client_login_timeout: Duration,
    /// Connections per (user, database, RESP version) that clients share. At least 1.
    pub shared_connections: u32,
    /// How many of the leased ones clients may hold that wait for somebody else (blocking commands, MONITOR, tracking); 0: three quarters.
    pub blocking_connections: u32,
    /// How many connections are ready to be leased beside those that are.
    pub spare_connections: u32,
    /// A request larger than this leases a connection and streams through it.
    pub stream_threshold_bytes: u64,
    /// How much may wait for a client that does not read, and for how long.
    pub client_output_buffer_limit: OutputLimits,
    /// How long a reply may take; zero: as long as it likes.
    pub request_timeout: Duration,
    /// A command whose reply takes so long is logged; zero: none is.
    pub log_min_duration_command: Duration,
    /// Traces of batches of commands.
    pub traces: Traces,
    /// For how long what was not executed is tried again; zero: not at all.
    pub retry_timeout: Duration,
    /// Between whom the queue for leased connections is fair.
    pub queue_fairness: QueueFairness,
    /// What becomes of subscribers when the connection that subscribes for them is lost.
    pub subscriber_gap: SubscriberGap,
    /// Which commands that hit everybody may be sent.
    pub command_policy: CommandPolicy,
    /// What is allowed beside that.
    pub command_allow: CommandClasses,
    /// What is denied beside that.
    pub command_deny: CommandClasses,
    /// The limits of each pool (shared and leased connections together).
    pub limits: PoolLimits,
}

/// A Redis user that clients can log in as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisUser {
    /// What the client must send, or `#` and its SHA-256 in hexadecimal.
    pub password: Secret,
    /// The ACL user it becomes upstream; `None`: the server's configured user.
    pub upstream_user: Option<String>,
    /// The password that goes with `upstream_user`.
    pub upstream_password: Option<Secret>,
}

/// How clients come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedisAuth {
    /// They need no password: the proxy has its own.
    Inject,
    /// As one of the configured users.
    Map,
    /// The server decides about what they say.
    PassThrough,
}

/// What becomes of subscribers that may have missed something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SubscriberGap {
    /// They stay, and hear again what is published from then on.
    #[default]
    Resume,
    /// They are closed, as by a server that restarts.
    Close,
}

/// Which commands that hit everybody may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandPolicy {
    /// All that the ACL user may do.
    DropIn,
    /// Those that an application needs.
    Sidecar,
}

/// A class of commands that work on a shared connection and hit everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandClass {
    /// FLUSHALL, FLUSHDB.
    Flush,
    /// KEYS.
    Keys,
    /// SWAPDB.
    SwapDb,
    /// CONFIG SET, REWRITE and RESETSTAT, LATENCY RESET, SLOWLOG RESET, MEMORY PURGE.
    Config,
    /// ACL but for what only tells about oneself.
    Acl,
    /// SAVE, BGSAVE, BGREWRITEAOF.
    Persistence,
    /// CLIENT PAUSE and UNPAUSE.
    Pause,
    /// SCRIPT KILL, FUNCTION KILL.
    Kill,
    /// SCRIPT FLUSH, FUNCTION FLUSH, DELETE and RESTORE.
    Scripts,
    /// MONITOR.
    Monitor,
    /// SYNC, PSYNC, REPLCONF, REPLICAOF, SLAVEOF, FAILOVER.
    Replication,
    /// What changes a cluster, MIGRATE, RESTORE-ASKING.
    Topology,
    /// SHUTDOWN.
    Shutdown,
    /// DEBUG, SCRIPT DEBUG, PFDEBUG, PFSELFTEST.
    Debug,
    /// MODULE LOAD, LOADEX and UNLOAD.
    Modules,
}

impl CommandClass {
    /// What the policy `sidecar` denies: what an operator does, at the server itself.
    pub const SIDECAR_DENIES: &[Self] = &[
        Self::SwapDb,
        Self::Config,
        Self::Acl,
        Self::Persistence,
        Self::Pause,
        Self::Kill,
        Self::Monitor,
        Self::Replication,
        Self::Topology,
        Self::Shutdown,
        Self::Debug,
        Self::Modules,
    ];
}

/// Some classes of commands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommandClasses(pub Vec<CommandClass>);

impl CommandClasses {
    /// Whether `class` is one of them.
    #[must_use]
    pub fn contains(&self, class: CommandClass) -> bool {
        self.0.contains(&class)
    }
}

impl Redis {
    /// A server with everything else at its default.
    #[must_use]
    pub fn at(upstream: Upstream) -> Self {
        Self {
            listen: vec![Listen::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 6380)))],
            client_tls: ClientTls::default(),
            tcp: TcpOptions::default(),
            upstream,
            tls: UpstreamTls::default(),
            server_tls: ServerTls::default(),
            auth_type: None,
            user: None,
            password: None,
            database: 0,
            users: BTreeMap::new(),
            max_client_conn: 10_000,
            max_client_logins: 1_000,
            client_login_timeout: Duration::from_secs(15),
            shared_connections: 2,
            blocking_connections: 0,
            spare_connections: 1,
            stream_threshold_bytes: 64 << 10,
            client_output_buffer_limit: OutputLimits::default(),
            request_timeout: Duration::ZERO,
            log_min_duration_command: Duration::ZERO,
            traces: Traces::default(),
            retry_timeout: Duration::ZERO,
            queue_fairness: QueueFairness::default(),
            subscriber_gap: SubscriberGap::default(),
            command_policy: CommandPolicy::DropIn,
            command_allow: CommandClasses::default(),
            command_deny: CommandClasses::default(),
            limits: PoolLimits::default(),
        }
    }

    /// How clients come in: what nobody said follows from what there is to go by.
    #[must_use]
    pub fn auth(&self) -> RedisAuth {
        self.auth_type.unwrap_or(match (self.users.is_empty(), &self.password) {
            (false, _) => RedisAuth::Map,
            (true, Some(_)) => RedisAuth::Inject,
            (true, None) => RedisAuth::PassThrough,
        })
    }

    /// Whether commands of this class are not sent.
    #[must_use]
    pub fn denies(&self, class: CommandClass) -> bool {
        let by_policy = match self.command_policy {
            CommandPolicy::DropIn => false,
            CommandPolicy::Sidecar => CommandClass::SIDECAR_DENIES.contains(&class),
        };
        self.command_deny.contains(class) || (by_policy && !self.command_allow.contains(class))
    }
}
