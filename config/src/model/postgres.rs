//! The PostgreSQL side of the validated configuration.
//!
//! A setting that PgBouncer has keeps its name and meaning; zero means "no limit" where PgBouncer says so.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{Listen, PoolLimits, QueueFairness, SessionState, SlowLog, Timeouts, Traces, Upstream, UpstreamTls, UserSlowLog, UserTimeouts};
use crate::auth::files::AuthRules;
use crate::secret::Secret;
use crate::tls::{ClientContext, ServerContext};

/// The PostgreSQL side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Postgres {
    /// Where clients connect.
    pub listen: Vec<Listen>,
    /// How many connections may wait in the kernel to be accepted.
    pub listen_backlog: u32,
    /// Whether other processes may listen on the same TCP address.
    pub so_reuseport: bool,
    /// The permission bits of Unix sockets.
    pub unix_socket_mode: u32,
    /// The group that owns Unix sockets; `None`: the process's own.
    pub unix_socket_group: Option<String>,
    /// TCP options of client and server connections.
    pub tcp: TcpOptions,
    /// TLS with clients.
    pub client_tls: ClientTls,
    /// TLS with servers: what all databases have in common.
    pub server_tls: ServerTls,

    /// How clients prove who they are.
    pub auth_type: AuthType,
    /// Rules that say how clients prove who they are, by where they come from and what they want.
    pub auth_hba_file: Option<PathBuf>,
    /// Which user of the operating system, or of a certificate, may be which user of the database.
    pub auth_ident_file: Option<PathBuf>,
    /// The upstream user that looks up other users' secrets with `auth_query`; `None`: they are not looked up.
    pub auth_user: Option<String>,
    /// The query that looks a user up: name and secret of `$1`.
    pub auth_query: String,
    /// The database in which it runs; `None`: the one the client asks for.
    pub auth_dbname: Option<String>,
    /// Options of `auth_type` ldap, as in a line of the HBA file.
    pub auth_ldap_options: Option<Secret>,
    /// What these files and options come to.
    pub auth_rules: Arc<AuthRules>,
    /// Iterations of SCRAM verifiers that are made here, from plain passwords.
    pub scram_iterations: u32,
    /// Who may run every command of the admin console.
    pub admin_users: Vec<String>,
    /// Who may run its SHOW commands.
    pub stats_users: Vec<String>,
    /// Over how long the console's averages are taken.
    pub stats_period: Duration,

    /// Most client connections at a time.
    pub max_client_conn: u32,
    /// Most clients that are being logged in at a time.
    pub max_client_logins: u32,
    /// Most server connections of one entry of `databases`, over all its pools. Zero: no limit.
    pub max_db_connections: u32,
    /// Most client connections of one entry of `databases`. Zero: no limit.
    pub max_db_client_connections: u32,
    /// Most server connections of one user, over all its pools. Zero: no limit.
    pub max_user_connections: u32,
    /// Most client connections of one user. Zero: no limit.
    pub max_user_client_connections: u32,
    /// How long a login may take.
    pub client_login_timeout: Duration,
    /// Between whom the queues of pools are fair.
    pub queue_fairness: QueueFairness,
    /// A client that has waited so long for a connection is told so, once. Zero: never.
    pub query_wait_notify: Duration,
    /// How long a cancel request may wait for its connection. Zero: for ever.
    pub cancel_wait_timeout: Duration,
    /// How long SUSPEND waits for sockets to be quiet.
    pub suspend_timeout: Duration,
    /// How long queries, transactions and pauses of clients may take.
    pub timeouts: Timeouts,
    /// Traces of transactions.
    pub traces: Traces,
    /// A database of the entry `*` that nobody uses is forgotten after this. Zero: never.
    pub autodb_idle_timeout: Duration,
    /// A pool that has neither clients nor connections is forgotten after this. Zero: never.
    pub pool_idle_timeout: Duration,

    /// What asks a connection whether it is alive; empty: an empty query. `None`: nothing is asked.
    pub server_check_query: Option<String>,
    /// What cleans a connection that a client of a session pool has left; empty: nothing.
    pub server_reset_query: String,
    /// Whether it runs in the other pool modes, too, after each transaction.
    pub server_reset_query_always: bool,
    /// Whether connections of session pools that are to be closed are closed at the end of a transaction and not when the client leaves.
    pub server_fast_close: bool,
    /// Longest that a name's addresses are believed, whatever the name server says.
    pub dns_max_ttl: Duration,
    /// How long it is believed that a name does not exist.
    pub dns_nxdomain_ttl: Duration,
    /// How often a zone's serial number is looked at. Zero: never.
    pub dns_zone_check_period: Duration,
    /// The file that names the name servers; `None`: the system's.
    pub resolv_conf: Option<PathBuf>,

    /// Whether the client's address is added to its `application_name`.
    pub application_name_add_host: bool,
    /// Whether the simple query protocol is refused.
    pub disable_pqexec: bool,
    /// Whether SHOW STATS and SHOW DATABASES end with a column that PgBouncer had before 1.8 and before 1.24.
    pub console_old_columns: bool,
    /// The longest message that a client or a server may send, in bytes.
    pub max_packet_size: u32,
    /// Most prepared statements kept per upstream connection; 0 turns the rewriting off.
    pub max_prepared_statements: u32,
    /// What becomes of clients that listen when notifications may have been lost.
    pub listen_gap: ListenGap,
    /// Reported parameters that follow the client, beside the standard ones.
    pub track_extra_parameters: Vec<String>,
    /// Startup parameters that are dropped in silence (lower case).
    pub ignore_startup_parameters: Vec<String>,

    /// This process among its peers, 1 to 65535. Zero: it has none.
    pub peer_id: u16,
    /// The other processes behind the same address, by their ids: a cancel request may reach any of them.
    pub peers: BTreeMap<u16, Peer>,
    /// What databases have that say nothing of their own.
    pub base: Base,
    /// Databases by the name clients ask for. `*` serves every other name, as the database of that name.
    pub databases: BTreeMap<String, PgDatabase>,
    /// Users by name.
    pub users: BTreeMap<String, PgUser>,
    /// True when this came from one URL with nothing else said: any user name is welcome, and every client becomes the user of the URL upstream.
    pub zero_config: bool,
}

/// What databases have that say nothing of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// When connections go back to the pool.
    pub pool_mode: PoolMode,
    /// The limits of each pool; its size is `default_pool_size`.
    pub limits: PoolLimits,
    /// How session state follows clients.
    pub session_state: SessionState,
    /// What takes so long that the log says so.
    pub slow_log: SlowLog,
}

/// How PostgreSQL clients prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthType {
    /// Not at all, and the user need not exist (needs databases with a forced user).
    Any,
    /// Not at all, but the user must exist.
    Trust,
    /// With a clear-text password.
    Plain,
    /// With MD5, or SCRAM where the stored secret is a SCRAM verifier.
    Md5,
    /// With SCRAM-SHA-256.
    ScramSha256,
    /// With a TLS certificate.
    Cert,
    /// As the first line of the HBA file says that matches.
    Hba,
    /// With a password that an LDAP server checks.
    Ldap,
    /// With a password that the operating system checks.
    Pam,
}

/// When an upstream connection goes back to the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PoolMode {
    /// When the client leaves.
    Session,
    /// At the end of each transaction.
    Transaction,
    /// After each statement; transaction blocks are refused.
    Statement,
}

/// Which of several hosts is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LoadBalance {
    /// Each in turn.
    #[default]
    RoundRobin,
    /// One, and the next only when it cannot be connected to.
    Disable,
}

/// What becomes of clients that listen when the connection that listens for them was lost: they may have missed notifications.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ListenGap {
    /// They are closed, as by a server that restarts: drivers know what to do then.
    #[default]
    Close,
    /// They stay, and are warned.
    Warn,
}

/// TLS with clients, in libpq's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientSslMode {
    /// It is not offered.
    #[default]
    Disable,
    /// Clients may use it.
    Allow,
    /// The same as `allow`.
    Prefer,
    /// Clients must use it.
    Require,
    /// And show a certificate that the authority vouches for.
    VerifyCa,
    /// The same as `verify-ca`.
    VerifyFull,
}

/// TLS with clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientTls {
    /// Whether it is used.
    pub sslmode: ClientSslMode,
    /// Our private key.
    pub key_file: Option<PathBuf>,
    /// Our certificate.
    pub cert_file: Option<PathBuf>,
    /// The authority that vouches for clients' certificates.
    pub ca_file: Option<PathBuf>,
    /// Allowed versions, in PgBouncer's words.
    pub protocols: String,
    /// Allowed cipher suites up to TLS 1.2, in OpenSSL's words.
    pub ciphers: String,
    /// Allowed cipher suites of TLS 1.3; empty: the default ones.
    pub tls13_ciphers: String,
    /// Allowed curves, in OpenSSL's words.
    pub ecdhcurve: String,
    /// Has no meaning: there is no key exchange but by curves.
    pub dheparams: String,
    /// What the settings and their files come to, once they are loaded (`tls`).
    pub context: Option<Arc<ClientContext>>,
}

/// TLS with servers. Whether it is used is said for each database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    /// The authority that vouches for servers' certificates; `None`: those that the system trusts.
    pub ca_file: Option<PathBuf>,
    /// Our private key.
    pub key_file: Option<PathBuf>,
    /// The certificate that is shown to servers.
    pub cert_file: Option<PathBuf>,
    /// Allowed versions, in PgBouncer's words.
    pub protocols: String,
    /// Allowed cipher suites up to TLS 1.2, in OpenSSL's words.
    pub ciphers: String,
    /// Allowed cipher suites of TLS 1.3; empty: the default ones.
    pub tls13_ciphers: String,
    /// What the settings and their files come to, once they are loaded (`tls`); `None`: nobody needs it, or all is as usual.
    pub context: Option<Arc<ServerContext>>,
}

/// TCP options; zero: what the system does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpOptions {
    /// Whether the system asks silent peers whether they are there.
    pub keepalive: bool,
    /// How many questions without an answer end a connection.
    pub keepcnt: u32,
    /// How long a peer is silent before the first question.
    pub keepidle: Duration,
    /// How long between two questions.
    pub keepintvl: Duration,
    /// How long sent data may stay without an acknowledgement.
    pub user_timeout: Duration,
    /// Whether a connection is accepted only when its first bytes have come.
    pub defer_accept: bool,
    /// Size of the system's socket buffers, in bytes.
    pub socket_buffer: u32,
}

/// Another process behind the same address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Where it listens.
    pub upstream: Upstream,
    /// Most connections to it; `None`: as many as a pool may have.
    pub pool_size: Option<u32>,
}

/// A database that clients can ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PgDatabase {
    /// Where the server is: at least one place.
    pub hosts: Vec<Upstream>,
    /// Which of several places is connected to.
    pub load_balance_hosts: LoadBalance,
    /// The database name on the server; `None`: the name the client asked for.
    pub dbname: Option<String>,
    /// The upstream user for every client (one shared pool); `None`: the client's own name.
    pub user: Option<String>,
    /// The password that goes with it upstream. Without one, the user's own plain secret is used.
    pub password: Option<Secret>,
    /// TLS towards the server.
    pub tls: UpstreamTls,
    /// Its files and ciphers; `None`: those that all databases have in common count.
    pub server_tls: Option<Box<ServerTls>>,
    /// As the setting of `[postgres]`; `None`: that one counts.
    pub auth_user: Option<String>,
    /// As the setting of `[postgres]`; `None`: that one counts.
    pub auth_query: Option<String>,
    /// As the setting of `[postgres]`; `None`: that one counts.
    pub auth_dbname: Option<String>,
    /// Parameters that connections to the server are opened with: `client_encoding`, `datestyle`, `timezone`, `application_name`.
    pub startup: Vec<(String, String)>,
    /// What runs on each new connection.
    pub connect_query: Option<String>,
    /// When connections go back to the pool.
    pub pool_mode: PoolMode,
    /// Whether that is said of this database, and not of all.
    pub names_its_mode: bool,
    /// How session state follows clients.
    pub session_state: SessionState,
    /// What takes so long that the log says so.
    pub slow_log: SlowLog,
    /// Most server connections over all pools of this entry. Zero: no limit.
    pub max_db_connections: u32,
    /// Most client connections. Zero: no limit.
    pub max_db_client_connections: u32,
    /// The limits of each pool of this database.
    pub limits: PoolLimits,
}

/// A user that clients can log in as.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PgUser {
    /// Plain text, `md5…`, or `SCRAM-SHA-256$…`. `None`: no password login.
    pub password: Option<Secret>,
    /// Has limits but no secret, and no line in the `auth_file`, though there are other places to look: nobody is this user unless it is looked up.
    pub unlisted: bool,
    /// Overrides the database's mode.
    pub pool_mode: Option<PoolMode>,
    /// Overrides the database's pool size.
    pub pool_size: Option<u32>,
    /// Overrides the database's reserve.
    pub reserve_pool_size: Option<u32>,
    /// Overrides the limit that all users have.
    pub max_user_connections: Option<u32>,
    /// Overrides the limit that all users have.
    pub max_user_client_connections: Option<u32>,
    /// Overrides the database's timeout.
    pub query_wait_timeout: Option<Duration>,
    /// Overrides of the timeouts that all users have.
    pub timeouts: UserTimeouts,
    /// Its own of what takes so long that the log says so.
    pub slow_log: UserSlowLog,
}

/// PgBouncer's `auth_query`.
const AUTH_QUERY: &str =
    "SELECT rolname, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END FROM pg_authid WHERE rolname=$1 AND rolcanlogin";

impl Default for Base {
    fn default() -> Self {
        Self {
            pool_mode: PoolMode::Transaction,
            limits: PoolLimits::default(),
            session_state: SessionState::default(),
            slow_log: SlowLog::default(),
        }
    }
}

impl Default for Postgres {
    fn default() -> Self {
        Self {
            listen: vec![Listen::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 6432)))],
            listen_backlog: 4096,
            so_reuseport: false,
            unix_socket_mode: 0o777,
            unix_socket_group: None,
            tcp: TcpOptions::default(),
            client_tls: ClientTls::default(),
            server_tls: ServerTls::default(),
            auth_type: AuthType::ScramSha256,
            auth_hba_file: None,
            auth_ident_file: None,
            auth_user: None,
            auth_query: AUTH_QUERY.to_owned(),
            auth_dbname: None,
            auth_ldap_options: None,
            auth_rules: Arc::default(),
            scram_iterations: 4096,
            admin_users: Vec::new(),
            stats_users: Vec::new(),
            stats_period: Duration::from_secs(60),
            max_client_conn: 10_000,
            max_client_logins: 1_000,
            max_db_connections: 0,
            max_db_client_connections: 0,
            max_user_connections: 0,
            max_user_client_connections: 0,
            client_login_timeout: Duration::from_secs(15),
            query_wait_notify: Duration::from_secs(5),
            cancel_wait_timeout: Duration::from_secs(10),
            suspend_timeout: Duration::from_secs(10),
            traces: Traces::default(),
            timeouts: Timeouts::default(),
            autodb_idle_timeout: Duration::from_secs(3600),
            pool_idle_timeout: Duration::ZERO,
            server_check_query: Some(String::new()),
            server_reset_query: "DISCARD ALL".to_owned(),
            server_reset_query_always: false,
            server_fast_close: false,
            dns_max_ttl: Duration::from_secs(15),
            dns_nxdomain_ttl: Duration::from_secs(15),
            dns_zone_check_period: Duration::ZERO,
            resolv_conf: None,
            application_name_add_host: false,
            disable_pqexec: false,
            console_old_columns: false,
            max_packet_size: i32::MAX.unsigned_abs(),
            max_prepared_statements: 200,
            listen_gap: ListenGap::default(),
            queue_fairness: QueueFairness::default(),
            track_extra_parameters: vec!["IntervalStyle".to_owned(), "search_path".to_owned()],
            ignore_startup_parameters: vec!["extra_float_digits".to_owned()],
            peer_id: 0,
            peers: BTreeMap::new(),
            base: Base::default(),
            databases: BTreeMap::new(),
            users: BTreeMap::new(),
            zero_config: false,
        }
    }
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self {
            keepalive: true,
            keepcnt: 0,
            keepidle: Duration::ZERO,
            keepintvl: Duration::ZERO,
            user_timeout: Duration::ZERO,
            defer_accept: true,
            socket_buffer: 0,
        }
    }
}

impl Default for ClientTls {
    fn default() -> Self {
        Self {
            sslmode: ClientSslMode::default(),
            key_file: None,
            cert_file: None,
            ca_file: None,
            protocols: "secure".to_owned(),
            ciphers: "default".to_owned(),
            tls13_ciphers: String::new(),
            ecdhcurve: "auto".to_owned(),
            dheparams: "auto".to_owned(),
            context: None,
        }
    }
}

impl Default for ServerTls {
    fn default() -> Self {
        Self {
            ca_file: None,
            key_file: None,
            cert_file: None,
            protocols: "secure".to_owned(),
            ciphers: "default".to_owned(),
            tls13_ciphers: String::new(),
            context: None,
        }
    }
}

impl PgDatabase {
    /// A database on this server with everything else at its default.
    #[must_use]
    pub fn at(upstream: Upstream) -> Self {
        Self {
            hosts: vec![upstream],
            load_balance_hosts: LoadBalance::default(),
            dbname: None,
            user: None,
            password: None,
            tls: UpstreamTls::default(),
            server_tls: None,
            auth_user: None,
            auth_query: None,
            auth_dbname: None,
            startup: Vec::new(),
            connect_query: None,
            pool_mode: PoolMode::Transaction,
            names_its_mode: false,
            session_state: SessionState::default(),
            slow_log: SlowLog::default(),
            max_db_connections: 0,
            max_db_client_connections: 0,
            limits: PoolLimits::default(),
        }
    }
}
