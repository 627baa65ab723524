//! Every setting of PgBouncer's section `[pgbouncer]` in one table: name, kind, default, whether a reload changes it, and what becomes of it here.
//!
//! The order is that of its SHOW CONFIG. Which field of the model a setting is stands in `get` and `set`.

/// What a setting holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A whole number within these bounds.
    Int(i64, i64),
    /// Yes or no, said as a number: everything but 0 is yes.
    Flag,
    /// A time in seconds.
    Time,
    /// One of these names, in any case.
    Choice(&'static [&'static str]),
    /// Free text.
    Text,
}

/// What becomes of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It means here what it means there.
    Same,
    /// It is accepted and changes nothing, for this reason.
    Nothing(&'static str),
}

/// One setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Its key.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Its default; `None` is SQL's NULL.
    pub default: Option<&'static str>,
    /// Whether RELOAD and SET change it; otherwise a restart does.
    pub changeable: bool,
    /// What becomes of it here.
    pub used: Use,
}

/// The longest query that looks up secrets, as everybody's default has it.
pub const AUTH_QUERY: &str =
    "SELECT rolname, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END FROM pg_authid WHERE rolname=$1 AND rolcanlogin";

/// The literal that stands for an empty simple query.
pub const EMPTY_QUERY: &str = "<empty>";

pub(crate) const MODES: &[&str] = &["session", "transaction", "statement"];
pub(crate) const AUTH_TYPES: &[&str] = &["any", "trust", "plain", "md5", "cert", "hba", "ldap", "pam", "scram-sha-256"];
pub(crate) const SSLMODES: &[&str] = &["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];
pub(crate) const FOLLOWINGS: &[&str] = &["follow", "always", "off"];
pub(crate) const BALANCES: &[&str] = &["disable", "round-robin"];

const MOST: i64 = i32::MAX as i64;
const COUNT: Kind = Kind::Int(0, MOST);
const BUFFERS: Use = Use::Nothing("buffers are borrowed while bytes flow and sized by need");

const CURVES: Use = Use::Nothing("keys are exchanged by elliptic curves alone");
const ANSWERS: Use = Use::Nothing("names are asked for again when their answers hold no more");
const EVENTS: Use = Use::Nothing("a client that says nothing costs a socket and no more until client_login_timeout");

const fn row(name: &'static str, kind: Kind, default: &'static str, changeable: bool) -> Setting {
    Setting { name, kind, default: Some(default), changeable, used: Use::Same }
}

/// Without a default: NULL.
const fn null(name: &'static str, kind: Kind, changeable: bool) -> Setting {
    Setting { name, kind, default: None, changeable, used: Use::Same }
}

/// Accepted, and changes nothing.
const fn idle(name: &'static str, kind: Kind, default: &'static str, changeable: bool, used: Use) -> Setting {
    Setting { name, kind, default: Some(default), changeable, used }
}

/// Every setting, in the order of SHOW CONFIG.
#[rustfmt::skip]
pub const SETTINGS: &[Setting] = &[
    row("admin_users", Kind::Text, "", true),
    row("application_name_add_host", Kind::Flag, "0", true),
    null("auth_dbname", Kind::Text, true),
    null("auth_file", Kind::Text, true),
    row("auth_hba_file", Kind::Text, "", true),
    null("auth_ident_file", Kind::Text, true),
    null("auth_ldap_options", Kind::Text, true),
    row("auth_query", Kind::Text, AUTH_QUERY, true),
    row("auth_type", Kind::Choice(AUTH_TYPES), "md5", true),
    null("auth_user", Kind::Text, true),
    row("autodb_idle_timeout", Kind::Time, "3600", true),
    row("cancel_wait_timeout", Kind::Time, "10", true),
    row("client_idle_timeout", Kind::Time, "0", true),
    row("client_login_timeout", Kind::Time, "60", true),
    null("client_tls13_ciphers", Kind::Text, true),
    row("client_tls_ca_file", Kind::Text, "", true),
    row("client_tls_cert_file", Kind::Text, "", true),
    row("client_tls_ciphers", Kind::Text, "default", true),
    idle("client_tls_dheparams", Kind::Text, "auto", true, CURVES),
    row("client_tls_ecdhcurve", Kind::Text, "auto", true),
    row("client_tls_key_file", Kind::Text, "", true),
    row("client_tls_protocols", Kind::Text, "secure", true),
    row("client_tls_sslmode", Kind::Choice(SSLMODES), "disable", true),
    null("conffile", Kind::Text, true),
    row("default_pool_size", COUNT, "20", true),
    row("disable_pqexec", Kind::Flag, "0", false),
    row("dns_max_ttl", Kind::Time, "15", true),
    row("dns_nxdomain_ttl", Kind::Time, "15", true),
    idle("dns_zone_check_period", Kind::Time, "0", true, ANSWERS),
    row("idle_transaction_timeout", Kind::Time, "0", true),
    row("ignore_startup_parameters", Kind::Text, "", true),
    row("job_name", Kind::Text, "pgbouncer", false),
    row("listen_addr", Kind::Text, "", false),
    row("listen_backlog", Kind::Int(1, MOST), "128", false),
    row("listen_port", Kind::Int(0, 65_535), "6432", false),
    row("log_connections", Kind::Flag, "1", true),
    row("log_disconnections", Kind::Flag, "1", true),
    row("log_pooler_errors", Kind::Flag, "1", true),
    row("log_stats", Kind::Flag, "1", true),
    row("logfile", Kind::Text, "", true),
    row("max_client_conn", Kind::Int(1, 1_000_000), "100", true),
    row("max_db_client_connections", COUNT, "0", true),
    row("max_db_connections", COUNT, "0", true),
    row("max_packet_size", Kind::Int(1, MOST), "2147483647", true),
    row("max_prepared_statements", Kind::Int(0, 1_000_000), "200", true),
    row("max_user_client_connections", COUNT, "0", true),
    row("max_user_connections", COUNT, "0", true),
    row("min_pool_size", Kind::Int(0, 100_000), "0", true),
    row("peer_id", Kind::Int(0, 65_535), "0", true),
    row("pidfile", Kind::Text, "", false),
    idle("pkt_buf", Kind::Int(1, MOST), "4096", false, BUFFERS),
    row("pool_mode", Kind::Choice(MODES), "session", true),
    row("pool_idle_timeout", Kind::Time, "0", true),
    row("query_timeout", Kind::Time, "0", true),
    row("query_wait_notify", COUNT, "5", true),
    row("query_wait_timeout", Kind::Time, "120", true),
    row("reserve_pool_size", COUNT, "0", true),
    row("reserve_pool_timeout", Kind::Time, "5", true),
    row("resolv_conf", Kind::Text, "", false),
    idle("sbuf_loopcnt", COUNT, "5", true, Use::Nothing("fairness between clients is the runtime's")),
    row("scram_iterations", Kind::Int(1, 10_000_000), "4096", true),
    row("server_check_delay", Kind::Time, "30", true),
    row("server_check_query", Kind::Text, EMPTY_QUERY, true),
    row("server_connect_timeout", Kind::Time, "15", true),
    row("server_fast_close", Kind::Flag, "0", true),
    row("server_idle_timeout", Kind::Time, "600", true),
    row("server_lifetime", Kind::Time, "3600", true),
    row("server_login_retry", Kind::Time, "15", true),
    row("server_reset_query", Kind::Text, "DISCARD ALL", true),
    row("server_reset_query_always", Kind::Flag, "0", true),
    row("server_round_robin", Kind::Flag, "0", true),
    null("server_tls13_ciphers", Kind::Text, true),
    row("server_tls_ca_file", Kind::Text, "", true),
    row("server_tls_cert_file", Kind::Text, "", true),
    row("server_tls_ciphers", Kind::Text, "default", true),
    row("server_tls_key_file", Kind::Text, "", true),
    row("server_tls_protocols", Kind::Text, "secure", true),
    row("server_tls_sslmode", Kind::Choice(SSLMODES), "prefer", true),
    row("so_reuseport", Kind::Flag, "0", false),
    row("stats_period", Kind::Int(1, MOST), "60", true),
    row("stats_users", Kind::Text, "", true),
    row("suspend_timeout", Kind::Time, "10", true),
    row("syslog", Kind::Flag, "0", true),
    row("syslog_facility", Kind::Text, "daemon", true),
    row("syslog_ident", Kind::Text, "pgbouncer", true),
    idle("tcp_defer_accept", Kind::Flag, "1", true, EVENTS),
    row("tcp_keepalive", Kind::Flag, "1", true),
    row("tcp_keepcnt", COUNT, "0", true),
    row("tcp_keepidle", COUNT, "0", true),
    row("tcp_keepintvl", COUNT, "0", true),
    row("tcp_socket_buffer", COUNT, "0", true),
    row("tcp_user_timeout", COUNT, "0", true),
    row("track_extra_parameters", Kind::Text, "IntervalStyle", false),
    row("transaction_timeout", Kind::Time, "0", true),
    row("unix_socket_dir", Kind::Text, "/tmp", false),
    row("unix_socket_group", Kind::Text, "", false),
    row("unix_socket_mode", Kind::Int(0, 0o7777), "0777", false),
    null("user", Kind::Text, false),
    null("verbose", Kind::Int(0, 10), true),
];

/// What only sidepool has and may stand in `[pgbouncer]` too, under its own name and in PgBouncer's units.
#[rustfmt::skip]
pub const OWN: &[Setting] = &[
    row("metrics_listen", Kind::Text, "", false),
    row("console_old_columns", Kind::Flag, "0", true),
    row("log_min_duration_statement", Kind::Time, "0", true),
    row("log_min_duration_transaction", Kind::Time, "0", true),
    row("listen_gap", Kind::Choice(&["close", "warn"]), "close", true),
    row("max_client_logins", Kind::Int(1, 1_000_000), "1000", true),
    row("max_pinned_connections", Kind::Int(0, 100_000), "0", true),
    row("metrics_names", Kind::Choice(&["sidepool", "otel", "both"]), "sidepool", true),
    row("metrics_allowed_hosts", Kind::Text, "", true),
    row("metrics_max_pools", Kind::Int(1, 100_000), "200", true),
    row("io_backend", Kind::Choice(&["epoll", "io_uring"]), "epoll", false),
    row("max_queue_length", Kind::Int(1, 1_000_000), "1000000", true),
    row("client_stall_timeout", Kind::Time, "300", true),
    row("pin_idle_timeout", Kind::Time, "3600", true),
    row("query_timeout_cancels", Kind::Flag, "0", true),
    row("queue_fairness", Kind::Choice(&["user", "application_name", "address", "listener", "off"]), "user", true),
    row("refuse_early", Kind::Flag, "0", true),
    row("server_connect_backoff", Kind::Time, "0.1", true),
    row("server_connect_parallelism", Kind::Int(1, 1_000), "4", true),
    row("session_state", Kind::Choice(FOLLOWINGS), "follow", true),
    row("session_state_audit", Kind::Time, "60", true),
    row("session_state_functions", Kind::Text, "", true),
    row("session_state_names", Kind::Text, "", true),
    row("workers", Kind::Text, "auto", false),
];

/// The setting of this name.
#[must_use]
pub fn setting(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().chain(OWN).find(|setting| setting.name == name)
}
