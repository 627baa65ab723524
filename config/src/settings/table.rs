//! The table itself. Only data: what a kind or a scope is stands in the module above.

use super::Scope::{self, Admin, Drain, Log, PgDatabase, PgPeer, PgUser, Postgres, Redis, RedisUser, Root};
use super::{Kind, Setting};
use crate::diff::Class::{self, Live, NeedsRestart, NewSessions};

const MODES: &[&str] = &["transaction", "session", "statement"];
const AUTH_TYPES: &[&str] = &["scram-sha-256", "md5", "plain", "trust", "any", "cert", "hba", "ldap", "pam"];
const CLIENT_SSLMODES: &[&str] = &["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];
const BALANCES: &[&str] = &["round-robin", "disable"];
const IDENTITIES: &[&str] = &["user", "application_name", "address", "listener", "off"];
const GAPS: &[&str] = &["close", "warn"];
const SSLMODES: &[&str] = CLIENT_SSLMODES;
const FOLLOWINGS: &[&str] = &["follow", "always", "off"];
const LEVELS: &[&str] = &["error", "warn", "info", "debug", "trace"];
const IO_BACKENDS: &[&str] = &["epoll", "io_uring"];
const METRICS_NAMES: &[&str] = &["sidepool", "otel", "both"];
const FORMATS: &[&str] = &["text", "json"];

const REDIS_AUTH_TYPES: &[&str] = &["inject", "map", "pass-through"];
const SUBSCRIBER_GAPS: &[&str] = &["resume", "close"];
const COMMAND_POLICIES: &[&str] = &["drop-in", "sidecar"];

/// The largest size that a pool may have.
pub(crate) const MOST_CONNECTIONS: u32 = 100_000;

const SIZE: Kind = Kind::Count { min: 1, max: MOST_CONNECTIONS };
const PORT: Kind = Kind::Count { min: 1, max: 65_535 };
const POSITIVE: Kind = Kind::Duration { zero: None };
const NEVER: Kind = Kind::Duration { zero: Some("never") };
const NO_LIMIT: Kind = Kind::Duration { zero: Some("no limit") };
const SYSTEM: Kind = Kind::Duration { zero: Some("what the system does") };
const CAP: Kind = Kind::Count { min: 0, max: 1_000_000 };
const SYSTEM_COUNT: Kind = Kind::Count { min: 0, max: i32::MAX.unsigned_abs() };

const fn row(
    scopes: &'static [Scope],
    name: &'static str,
    kind: Kind,
    default: &'static str,
    reload: Class,
    help: &'static str,
) -> Setting {
    Setting { scopes, name, kind, default, reload, help }
}

/// PgBouncer's `auth_query`, as the file would have it.
const AUTH_QUERY: &str =
    "\"SELECT rolname, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END FROM pg_authid WHERE rolname=$1 AND rolcanlogin\"";

/// Every setting there is.
#[rustfmt::skip]
pub const SETTINGS: &[Setting] = &[
    row(&[Root], "memory_limit", Kind::Size { min: 1 << 20 }, "", Live, "How much memory the process may have in RAM, beside the limit of its control group, which is always minded. Near it requests of clients that do not take their replies are not read (80 %), new clients are refused (88 %), and those that hold most are closed (94 %); left out: what the control group says."),
    row(&[Root], "upgrade_socket", Kind::Path, "", NeedsRestart, "The private Unix socket at which a new process knocks to take over (--take-over); without it, the first Unix socket of [postgres] with \".upgrade\" behind its name."),
    row(&[Root], "workers", Kind::Workers, "\"auto\"", NeedsRestart, "Threads that carry traffic. \"auto\": one up to two cores of CPU quota, beyond that by the quota."),
    row(&[Root], "io_backend", Kind::Choice(IO_BACKENDS), "\"epoll\"", NeedsRestart, "By which means of the kernel the connections of clients and servers are read and written that are not under TLS. io_uring: one system call for what all connections of a worker want instead of one for each read and each write, which under load costs less CPU; needs Linux 6.1. Where the kernel refuses (seccomp profiles of containers do), epoll is used, and the log says why."),
    row(&[Admin], "listen", Kind::Address, "\"127.0.0.1:9127\"", NeedsRestart, "Where /metrics and the health endpoints listen; \"off\" for nowhere."),
    row(&[Admin], "metrics_names", Kind::Choice(METRICS_NAMES), "\"sidepool\"", Live, "How the metrics of pools are called that OpenTelemetry has names for (db_client_connection_…): sidepool, otel, or both. Dashboards and alerts need sidepool or both."),
    row(&[Admin], "metrics_max_pools", Kind::Count { min: 1, max: 100_000 }, "200", Live, "How many pools have series of their own in /metrics; the numbers of those that come later are added up as pool \"_other/postgres\" and \"_other/redis\"."),
    row(&[Admin], "quitquitquit", Kind::Flag, "false", NeedsRestart, "Whether a POST to /quitquitquit from this machine ends sidepool as SIGTERM does: for Jobs beside which it is an ordinary container."),
    row(&[Admin], "allowed_hosts", Kind::Texts, "[]", Live, "By which names of the internet a browser may ask for the status page and /statusz, behind a proxy for example. Addresses, and names that only the local network gives (localhost, sidepool, sidepool.shop.svc), always may. Names alone, without a port; \"*\" is any name."),
    row(&[Drain], "accept_for", Kind::Duration { zero: Some("not at all") }, "\"0s\"", Live, "How long new clients are still accepted after SIGTERM, while load balancers learn of it."),
    row(&[Drain], "timeout", Kind::Duration { zero: Some("at once") }, "\"25s\"", Live, "How long after SIGTERM what is still open is cut."),
    row(&[Log], "level", Kind::Choice(LEVELS), "\"info\"", Live, "The least severe level that is logged."),
    row(&[Log], "format", Kind::Choice(FORMATS), "\"text\"", NeedsRestart, "Text for people or JSON for machines."),
    row(&[Log], "connections", Kind::Flag, "false", NewSessions, "Whether each connection that is opened is logged."),
    row(&[Log], "disconnections", Kind::Flag, "false", NewSessions, "Whether each connection that is closed is logged; left out: as connections."),
    row(&[Log], "pooler_errors", Kind::Flag, "true", Live, "Whether errors are logged that clients are told by sidepool itself."),
    row(&[Log], "stats", Kind::Flag, "false", Live, "Whether a summary is logged every stats_period."),
    row(&[Postgres], "listen", Kind::Listen, "\"127.0.0.1:6432\"", NeedsRestart, "Where PostgreSQL clients connect. unix:DIR becomes DIR/.s.PGSQL.PORT with the port of the first TCP listener, or 6432."),
    row(&[Postgres], "auth_type", Kind::Choice(AUTH_TYPES), "\"scram-sha-256\"", NewSessions, "How clients prove who they are. trust: the user must exist; any: not even that."),
    row(&[Postgres], "auth_file", Kind::Path, "", Live, "Users and secrets in the format of PgBouncer's userlist.txt, beside [postgres.users]."),
    row(&[Postgres], "max_client_conn", Kind::Count { min: 1, max: 1_000_000 }, "10000", Live, "Most client connections at a time."),
    row(&[Postgres], "max_client_logins", Kind::Count { min: 1, max: 1_000_000 }, "1000", Live, "Most clients that are being logged in at a time, which bounds memory for strangers; others wait for a turn, and who keeps us waiting longest makes room for them."),
    row(&[Postgres], "client_login_timeout", NO_LIMIT, "\"15s\"", NewSessions, "How long a login may take."),
    row(&[Postgres], "max_prepared_statements", Kind::Count { min: 0, max: 1_000_000 }, "200", Live, "Most prepared statements kept per upstream connection; 0 turns the rewriting of their names off for new sessions."),
    row(&[Postgres], "listen_gap", Kind::Choice(GAPS), "\"close\"", Live, "What becomes of clients that LISTEN when the connection that listens for them is lost, and perhaps notifications with it: they are closed, as by a server that restarts, or stay and are warned."),
    row(&[Postgres, Redis], "queue_fairness", Kind::Choice(IDENTITIES), "\"user\"", NewSessions, "What tells clients apart when they wait for connections of the same pool: each user, application_name (of Redis clients: CLIENT SETNAME), client address or listener has a fair share of them, whatever the others ask for; \"off\": first come, first served."),
    row(&[Postgres], "track_extra_parameters", Kind::Texts, "[\"IntervalStyle\", \"search_path\"]", NewSessions, "Reported parameters that follow the client from connection to connection, beside the standard ones."),
    row(&[Postgres], "ignore_startup_parameters", Kind::Texts, "[\"extra_float_digits\"]", NewSessions, "Startup parameters of clients that are dropped in silence."),
    row(&[Postgres], "default_pool_size", SIZE, "20", Live, "pool_size of every database that has none of its own."),
    row(&[PgDatabase, PgUser, PgPeer], "pool_size", SIZE, "", Live, "Most upstream connections of one pool, those being opened included. A user's own beats the database's."),
    row(&[Postgres, PgDatabase, PgUser], "pool_mode", Kind::Choice(MODES), "\"transaction\"", NewSessions, "When an upstream connection goes back to its pool."),
    row(&[Postgres, PgDatabase], "session_state", Kind::Choice(FOLLOWINGS), "\"follow\"", Live, "What SET, SET ROLE and the like leave behind in transaction mode: \"follow\": it follows its client and nobody else sees it; \"always\": so does what functions change unseen, at the cost of one query after each transaction; \"off\": as in PgBouncer, it stays on the connection for whoever is next."),
    row(&[Postgres, PgDatabase], "session_state_audit", NEVER, "\"1m\"", Live, "How often an upstream connection is asked for all of its state, although nothing should have changed; what had is taken back, counted and logged."),
    row(&[Postgres, PgDatabase], "session_state_functions", Kind::Texts, "[]", Live, "Functions that change session state unseen (names without schema): a statement that names one is followed by a question for everything."),
    row(&[Postgres, PgDatabase], "session_state_names", Kind::Texts, "[]", Live, "Settings of your own (app.tenant_id) that such functions or triggers set: the server lists none of these, so they are asked for by name."),
    row(&[Postgres, PgDatabase, PgUser], "log_min_duration_statement", NEVER, "\"0s\"", Live, "A statement that takes at least so long, its wait for a connection included, is logged: whose it was, how long it waited and ran, and its text without values. A user's own beats the database's."),
    row(&[Postgres, PgDatabase, PgUser], "log_min_duration_transaction", NEVER, "\"0s\"", Live, "The same for transactions: how long, how long of it idle, how many statements; once while it is still open, and once at its end."),
    row(&[Postgres, Redis], "otlp_traces_endpoint", Kind::Text, "", Live, "Where traces of transactions (Redis: of batches of commands) are sent, as OTLP over HTTP in JSON: http://HOST:PORT or https://HOST:PORT of a collector, or with a path other than /v1/traces; left out: there are none."),
    row(&[Postgres, Redis], "otlp_traces_ca_file", Kind::Path, "", Live, "The authority that vouches for the certificate of an https collector; left out: those that the system trusts."),
    row(&[Postgres, Redis], "otlp_traces_sample_one_in", Kind::Count { min: 1, max: 1_000_000_000 }, "100", Live, "One transaction (Redis: what a client has sent until all of it is answered) in so many is traced. Transactions whose statements bring an application's trace (/*traceparent='…'*/) are traced where it is sampled, and only there."),
    row(&[Postgres], "otlp_traces_statements", Kind::Flag, "false", Live, "Whether traces have the texts of statements, without values."),
    row(&[Redis], "log_min_duration_command", NEVER, "\"0s\"", Live, "A Redis command for which the server takes at least so long (to about ten milliseconds on shared connections) is logged: which, how many arguments, how long, whose. What waits for somebody else (BLPOP, WAIT) is not slow for that; of a transaction, EXEC is timed."),
    row(&[Postgres], "listen_backlog", Kind::Count { min: 1, max: 65_535 }, "4096", NeedsRestart, "How many connections may wait in the kernel to be accepted."),
    row(&[Postgres], "so_reuseport", Kind::Flag, "false", NeedsRestart, "Whether other processes may listen on the same TCP address."),
    row(&[Postgres], "unix_socket_mode", Kind::Mode, "\"0777\"", NeedsRestart, "The permission bits of Unix sockets."),
    row(&[Postgres], "unix_socket_group", Kind::Text, "", NeedsRestart, "The group that owns Unix sockets; left out: the process's own."),
    row(&[Postgres], "peer_id", Kind::Count { min: 0, max: 65_535 }, "0", NeedsRestart, "This process among the peers that share its address, for cancel requests that reach another one; 0: it has none."),
    row(&[PgPeer], "host", Kind::Text, "", Live, "The peer's name or address; one that starts with / is the directory of its Unix socket."),
    row(&[PgPeer], "port", PORT, "5432", Live, "The peer's port."),
    row(&[Postgres], "auth_hba_file", Kind::Path, "", Live, "Rules that say how clients prove who they are, as in PostgreSQL's pg_hba.conf; for auth_type \"hba\"."),
    row(&[Postgres], "auth_ident_file", Kind::Path, "", Live, "Which user of the system or of a certificate may be which user of the database, as in pg_ident.conf."),
    row(&[Postgres, PgDatabase], "auth_user", Kind::Text, "", Live, "The upstream user that looks up users who are not listed; left out: they are not looked up."),
    row(&[Postgres, PgDatabase], "auth_query", Kind::Text, AUTH_QUERY, Live, "The query that looks user $1 up: its name and its secret."),
    row(&[Postgres, PgDatabase], "auth_dbname", Kind::Text, "", Live, "The database in which auth_query runs; left out: the one the client asks for."),
    row(&[Postgres], "auth_ldap_options", Kind::Secret, "", NewSessions, "Options of auth_type \"ldap\", as in a line of the HBA file."),
    row(&[Postgres], "scram_iterations", Kind::Count { min: 1, max: 10_000_000 }, "4096", NewSessions, "Iterations of the SCRAM verifiers that are made of plain passwords."),
    row(&[Postgres], "admin_users", Kind::Texts, "[]", Live, "Who may run every command of the admin console (database \"pgbouncer\")."),
    row(&[Postgres], "stats_users", Kind::Texts, "[]", Live, "Who may run the SHOW commands of the admin console."),
    row(&[Postgres], "stats_period", POSITIVE, "\"1m\"", Live, "Over how long the averages of the admin console are taken."),
    row(&[Postgres, PgDatabase], "max_db_connections", CAP, "0", Live, "Most server connections of one database, over all its pools; 0: no limit."),
    row(&[Postgres, PgDatabase], "max_db_client_connections", CAP, "0", Live, "Most client connections of one database; 0: no limit."),
    row(&[Postgres, PgUser], "max_user_connections", CAP, "0", Live, "Most server connections of one user, over all its pools; 0: no limit."),
    row(&[Postgres, PgUser], "max_user_client_connections", CAP, "0", Live, "Most client connections of one user; 0: no limit."),
    row(&[Postgres, PgDatabase, PgUser], "reserve_pool_size", Kind::Count { min: 0, max: MOST_CONNECTIONS }, "0", Live, "Connections beyond pool_size for when a client has waited for reserve_pool_timeout."),
    row(&[Postgres, PgDatabase], "reserve_pool_timeout", NEVER, "\"5s\"", Live, "How long the oldest waiter has waited when the reserve is used."),
    row(&[Postgres], "query_wait_notify", NEVER, "\"5s\"", Live, "A client that has waited so long for a connection is told so, once."),
    row(&[Postgres], "cancel_wait_timeout", Kind::Duration { zero: Some("for ever") }, "\"10s\"", Live, "How long a cancel request may wait for its connection."),
    row(&[Postgres], "suspend_timeout", POSITIVE, "\"10s\"", Live, "How long SUSPEND waits for sockets to be quiet."),
    row(&[Postgres, PgUser], "query_timeout", NO_LIMIT, "\"0s\"", Live, "A query that takes longer ends with its server connection."),
    row(&[Postgres], "query_timeout_cancels", Kind::Flag, "false", Live, "Such a query is cancelled instead, and the connections are kept."),
    row(&[Postgres, PgUser], "idle_transaction_timeout", NO_LIMIT, "\"0s\"", Live, "A client that is idle in a transaction for longer is closed."),
    row(&[Postgres, PgUser], "transaction_timeout", NO_LIMIT, "\"0s\"", Live, "A transaction that takes longer ends with its server connection."),
    row(&[Postgres, PgUser], "client_idle_timeout", NO_LIMIT, "\"0s\"", Live, "A client that says nothing for longer is closed."),
    row(&[Postgres, PgUser], "pin_idle_timeout", NO_LIMIT, "\"1h\"", Live, "A client that is idle outside of a transaction for longer, while something it left on its server connection (a temporary table, a cursor WITH HOLD, an advisory lock …) keeps it from the others, is closed."),
    row(&[Postgres, PgUser], "client_stall_timeout", NO_LIMIT, "\"5m\"", Live, "A client that takes nothing of its answer for longer, while a server connection waits for it, is closed."),
    row(&[Postgres, PgDatabase], "max_pinned_connections", Kind::Count { min: 0, max: MOST_CONNECTIONS }, "0", Live, "Most connections of one pool that such things may keep from the others at a time; one more is refused. 0: half of pool_size, at least one."),
    row(&[Postgres], "autodb_idle_timeout", NEVER, "\"1h\"", Live, "A database of the entry \"*\" that nobody uses is forgotten after this."),
    row(&[Postgres], "pool_idle_timeout", NEVER, "\"0s\"", Live, "A pool that has neither clients nor connections is forgotten after this."),
    row(&[Postgres, PgDatabase], "server_check_delay", Kind::Duration { zero: Some("before each use") }, "\"30s\"", Live, "A connection that was idle for so long is asked whether it is alive before it is used."),
    row(&[Postgres], "server_check_query", Kind::AnyText { empty: "nothing is asked" }, "\"<empty>\"", Live, "What asks a connection whether it is alive; \"<empty>\": an empty query."),
    row(&[Postgres], "server_reset_query", Kind::AnyText { empty: "nothing" }, "\"DISCARD ALL\"", Live, "What cleans a connection that a client of a session pool has left."),
    row(&[Postgres], "server_reset_query_always", Kind::Flag, "false", Live, "Whether it runs in the other pool modes, too, after each transaction."),
    row(&[Postgres], "server_fast_close", Kind::Flag, "false", Live, "Whether connections of session pools that are to be closed are closed at the end of a transaction and not when the client leaves."),
    row(&[Postgres, PgDatabase], "server_round_robin", Kind::Flag, "false", Live, "The connection that was idle longest is used next, and not the one that was used last."),
    row(&[Postgres], "dns_max_ttl", POSITIVE, "\"15s\"", Live, "The longest that a name's addresses are believed, whatever the name server says."),
    row(&[Postgres], "dns_nxdomain_ttl", POSITIVE, "\"15s\"", Live, "How long it is believed that a name does not exist."),
    row(&[Postgres], "dns_zone_check_period", NEVER, "\"0s\"", Live, "How often a zone's serial number is looked at. Without effect: names are asked for again when their answers hold no more."),
    row(&[Postgres], "resolv_conf", Kind::Path, "", Live, "The file that names the name servers (nameserver ADDRESS or ADDRESS:PORT, search, options); empty: the system's."),
    row(&[Postgres], "application_name_add_host", Kind::Flag, "false", NewSessions, "Whether a client's address is added to its application_name."),
    row(&[Postgres], "console_old_columns", Kind::Flag, "false", Live, "Whether SHOW STATS and SHOW DATABASES end with columns of older PgBouncers (total_requests, reserve_pool), for tools that ask for them."),
    row(&[Postgres], "disable_pqexec", Kind::Flag, "false", NeedsRestart, "Whether the simple query protocol is refused."),
    row(&[Postgres], "max_packet_size", Kind::Count { min: 1024, max: i32::MAX.unsigned_abs() }, "2147483647", NewSessions, "The longest message that a client or a server may send, in bytes."),
    row(&[PgDatabase], "load_balance_hosts", Kind::Choice(BALANCES), "\"round-robin\"", Live, "Which of several hosts is connected to: each in turn, or always the first that can be."),
    row(&[PgDatabase], "connect_query", Kind::Text, "", Live, "What runs on each new connection; if it fails, that is logged."),
    row(&[PgDatabase], "client_encoding", Kind::Text, "", Live, "The startup parameter of this name."),
    row(&[PgDatabase], "datestyle", Kind::Text, "", Live, "The startup parameter of this name."),
    row(&[PgDatabase], "timezone", Kind::Text, "", Live, "The startup parameter of this name."),
    row(&[PgDatabase], "application_name", Kind::Text, "", Live, "The startup parameter of this name."),
    row(&[PgUser], "query_wait_timeout", Kind::Duration { zero: Some("for ever") }, "", Live, "How long a client of this user may wait for a connection."),
    row(&[Postgres, Redis], "client_tls_sslmode", Kind::Choice(CLIENT_SSLMODES), "\"disable\"", NewSessions, "TLS with clients: disable, allow (also written prefer), require, verify-ca (also written verify-full)."),
    row(&[Postgres, Redis], "client_tls_key_file", Kind::Path, "", NewSessions, "Our private key towards clients."),
    row(&[Postgres, Redis], "client_tls_cert_file", Kind::Path, "", NewSessions, "Our certificate towards clients."),
    row(&[Postgres, Redis], "client_tls_ca_file", Kind::Path, "", NewSessions, "The authority that vouches for clients' certificates."),
    row(&[Postgres, Redis], "client_tls_protocols", Kind::Text, "\"secure\"", NewSessions, "Allowed versions of TLS: secure, all, or a list such as \"tlsv1.2,tlsv1.3\"."),
    row(&[Postgres, Redis], "client_tls_ciphers", Kind::Text, "\"default\"", NewSessions, "Allowed cipher suites of TLS 1.2, by OpenSSL's names."),
    row(&[Postgres, Redis], "client_tls13_ciphers", Kind::AnyText { empty: "the usual ones" }, "\"\"", NewSessions, "Allowed cipher suites of TLS 1.3."),
    row(&[Postgres, Redis], "client_tls_ecdhcurve", Kind::Text, "\"auto\"", NewSessions, "Allowed curves, by OpenSSL's names: auto, or a list such as \"X25519:prime256v1\"."),
    row(&[Postgres, Redis], "client_tls_dheparams", Kind::Text, "\"auto\"", NewSessions, "Has no effect: keys are exchanged by elliptic curves alone."),
    row(&[Postgres, PgDatabase, Redis], "server_tls_ca_file", Kind::Path, "", Live, "The authority that vouches for servers' certificates; left out: those that the system trusts."),
    row(&[Postgres, PgDatabase, Redis], "server_tls_key_file", Kind::Path, "", Live, "Our private key towards servers."),
    row(&[Postgres, PgDatabase, Redis], "server_tls_cert_file", Kind::Path, "", Live, "Our certificate towards servers."),
    row(&[Postgres, PgDatabase, Redis], "server_tls_protocols", Kind::Text, "\"secure\"", Live, "Allowed versions of TLS: secure, all, or a list such as \"tlsv1.2,tlsv1.3\"."),
    row(&[Postgres, PgDatabase, Redis], "server_tls_ciphers", Kind::Text, "\"default\"", Live, "Allowed cipher suites of TLS 1.2, by OpenSSL's names."),
    row(&[Postgres, PgDatabase, Redis], "server_tls13_ciphers", Kind::AnyText { empty: "the usual ones" }, "\"\"", Live, "Allowed cipher suites of TLS 1.3."),
    row(&[Postgres, Redis], "tcp_keepalive", Kind::Flag, "true", NewSessions, "Whether the system asks silent peers whether they are there."),
    row(&[Postgres, Redis], "tcp_keepcnt", SYSTEM_COUNT, "0", NewSessions, "How many questions without an answer end a connection; 0: what the system does."),
    row(&[Postgres, Redis], "tcp_keepidle", SYSTEM, "\"0s\"", NewSessions, "How long a peer is silent before the first question."),
    row(&[Postgres, Redis], "tcp_keepintvl", SYSTEM, "\"0s\"", NewSessions, "How long between two questions."),
    row(&[Postgres, Redis], "tcp_user_timeout", SYSTEM, "\"0s\"", NewSessions, "How long sent data may stay without an acknowledgement."),
    row(&[Postgres, Redis], "tcp_defer_accept", Kind::Flag, "true", NeedsRestart, "Whether a connection is accepted only when its first bytes have come. Without effect."),
    row(&[Postgres, Redis], "tcp_socket_buffer", SYSTEM_COUNT, "0", NewSessions, "Size of the system's socket buffers in bytes; 0: what the system does."),
    row(&[PgDatabase], "url", Kind::Secret, "", Live, "The server in one: postgres://USER:PASSWORD@HOST:PORT/DBNAME?sslmode=MODE."),
    row(&[Redis], "url", Kind::Secret, "", Live, "The server in one: redis://USER:PASSWORD@HOST:PORT/DATABASE, rediss:// for TLS, or unix:/PATH."),
    row(&[PgDatabase], "host", Kind::Text, "", Live, "The server's name or address; one that starts with / is the directory of its Unix socket. Several with commas between, each with a port of its own if need be (a,b:5433)."),
    row(&[PgDatabase], "port", PORT, "5432", Live, "The server's port."),
    row(&[PgDatabase], "dbname", Kind::Text, "", Live, "The database on the server; left out: the name that the client asked for."),
    row(&[PgDatabase], "user", Kind::Text, "", NewSessions, "The upstream user for every client, which makes it one shared pool; left out: the client's own name."),
    row(&[PgDatabase], "password", Kind::Secret, "", Live, "The password that goes with user; left out: the client user's own plain secret."),
    row(&[PgDatabase, Redis], "sslmode", Kind::Choice(SSLMODES), "\"disable\"", Live, "TLS towards the server, as libpq names it; a Redis server cannot be asked, so allow and prefer are for PostgreSQL alone."),
    row(&[PgUser], "password", Kind::Secret, "", Live, "What the client must prove to know: plain text, md5… or SCRAM-SHA-256$…; left out: no login by password."),
    row(&[Redis], "listen", Kind::Listen, "\"127.0.0.1:6380\"", NeedsRestart, "Where Redis clients connect; unix:PATH is the full path of the socket."),
    row(&[Redis], "host", Kind::Text, "", Live, "The server's name or address; one that starts with / is the full path of its Unix socket."),
    row(&[Redis], "port", PORT, "6379", Live, "The server's port."),
    row(&[Redis], "user", Kind::Text, "", Live, "The ACL user that the proxy becomes upstream; left out: default."),
    row(&[Redis], "password", Kind::Secret, "", Live, "The upstream password, so that applications need not know it."),
    row(&[Redis], "database", Kind::Count { min: 0, max: 65_535 }, "0", NewSessions, "The database a client starts in."),
    row(&[Redis], "max_client_conn", Kind::Count { min: 1, max: 1_000_000 }, "10000", Live, "Most client connections at a time."),
    row(&[Redis], "max_client_logins", Kind::Count { min: 1, max: 1_000_000 }, "1000", Live, "Most clients that have to authenticate and are in the middle of saying so, or of a TLS handshake, which bounds memory for strangers; who keeps us waiting longest makes room for the next."),
    row(&[Redis], "client_login_timeout", POSITIVE, "\"15s\"", NewSessions, "How long a client that has to authenticate may take."),
    row(&[Redis], "auth_type", Kind::Choice(REDIS_AUTH_TYPES), "", NewSessions, "How clients come in. inject: they need no password, the proxy has its own; map: as one of users; pass-through: the server decides about what they say. Left out: map where there are users, inject where there is a password, else pass-through."),
    row(&[Redis], "shared_connections", Kind::Count { min: 1, max: 1_000 }, "2", Live, "Connections per user, database and RESP version that clients share. Less than pool_size: the rest is leased."),
    row(&[Redis], "blocking_connections", Kind::Count { min: 0, max: 100_000 }, "0", Live, "How many of the connections that can be leased may be held by clients that wait for somebody else: blocking commands, WAIT, MONITOR, CLIENT TRACKING; the rest stays free for MULTI and WATCH. 0: three quarters of them."),
    row(&[Redis], "spare_connections", Kind::Count { min: 0, max: 1_000 }, "1", Live, "How many connections are kept ready to be leased beside those that are, while the pool has clients. 0: a lease opens its connection when it is asked for."),
    row(&[Redis], "stream_threshold", Kind::Size { min: 1 }, "\"64KiB\"", NewSessions, "A request larger than this leases a connection and streams through it."),
    row(&[Redis], "client_output_buffer_limit", Kind::Text, "\"normal 64mb 16mb 60 pubsub 32mb 8mb 60\"", Live, "How much may wait for a client that does not read, as in redis.conf: for each class (normal: who waits for replies; pubsub: who is subscribed) the bytes past which it is closed at once, and those past which it is closed when it stays there for so many seconds; 0: no limit."),
    row(&[Redis], "request_timeout", NO_LIMIT, "\"0s\"", Live, "How long the reply to a command that does not block may take. Its client is then told that the outcome is unknown, or closed without a word where that cannot be told (CLIENT TRACKING or MONITOR is on, half of the request is sent, or half of the reply is there); a shared connection stays, one that the client has for itself is closed."),
    row(&[Redis], "retry_timeout", Kind::Duration { zero: Some("not at all") }, "\"0s\"", Live, "For how long a command is tried again that the server answers with LOADING, READONLY, TRYAGAIN, BUSY, MASTERDOWN or CLUSTERDOWN: it was not executed."),
    row(&[Redis], "subscriber_gap", Kind::Choice(SUBSCRIBER_GAPS), "\"resume\"", Live, "What becomes of subscribers when the connection that subscribes for them is lost, and perhaps messages with it: they stay and hear what is published from then on, or are closed, as by a server that restarts, so that they know."),
    row(&[Redis], "command_policy", Kind::Choice(COMMAND_POLICIES), "\"drop-in\"", Live, "Which commands that hit everybody may be sent. drop-in: all that the ACL user may do; sidecar: those that an application needs."),
    row(&[Redis], "command_allow", Kind::Texts, "[]", Live, "Classes that command_policy denies and that are allowed: flush, keys, swapdb, config, acl, persistence, pause, kill, scripts, monitor, replication, topology, shutdown, debug, modules."),
    row(&[Redis], "command_deny", Kind::Texts, "[]", Live, "Classes that command_policy allows and that are denied."),
    row(&[Redis], "pool_size", SIZE, "20", Live, "Most upstream connections of one pool, shared and leased together."),
    row(&[RedisUser], "password", Kind::Secret, "", Live, "What the client must send."),
    row(&[RedisUser], "upstream_user", Kind::Text, "", NewSessions, "The ACL user it becomes upstream; left out: the server's configured user."),
    row(&[RedisUser], "upstream_password", Kind::Secret, "", Live, "The password that goes with upstream_user."),
    row(&[Postgres, PgDatabase, Redis], "min_pool_size", Kind::Count { min: 0, max: 100_000 }, "0", Live, "Connections kept open even when idle."),
    row(&[Postgres, PgDatabase, Redis], "max_queue_length", Kind::Count { min: 1, max: 1_000_000 }, "10000", Live, "Most clients that may wait for a connection of one pool; one more is refused at once."),
    row(&[Postgres, PgDatabase, Redis], "query_wait_timeout", Kind::Duration { zero: Some("for ever") }, "\"10s\"", Live, "How long a client may wait for a connection."),
    row(&[Postgres, PgDatabase, Redis], "refuse_early", Kind::Flag, "false", Live, "Whether a client that would wait for longer than it may is refused at once, as far as the pace of the last moments tells; without, it waits and may be lucky."),
    row(&[Postgres, PgDatabase, Redis], "server_idle_timeout", NEVER, "\"10m\"", Live, "Idle connections above the minimum are closed after this."),
    row(&[Postgres, PgDatabase, Redis], "server_lifetime", NEVER, "\"1h\"", Live, "Connections are replaced after this, give or take a tenth, and at most one in each pool_size-th of it. \"1us\": each is used once."),
    row(&[Postgres, PgDatabase, Redis], "server_connect_timeout", POSITIVE, "\"15s\"", Live, "How long opening one connection may take, login included."),
    row(&[Postgres, PgDatabase, Redis], "server_connect_parallelism", Kind::Count { min: 1, max: 1_000 }, "4", Live, "How many connections of one pool are opened at the same time."),
    row(&[Postgres, PgDatabase, Redis], "server_connect_backoff", POSITIVE, "\"100ms\"", Live, "The first pause after a failed connect; it doubles up to server_login_retry."),
    row(&[Postgres, PgDatabase, Redis], "server_login_retry", POSITIVE, "\"15s\"", Live, "The longest pause after failed connects."),
];
