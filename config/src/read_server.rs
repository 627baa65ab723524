//! The plain settings of `[postgres]` that PgBouncer has, too: limits, timeouts, sockets, TLS, peers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::model::{
    OtlpEndpoint, Peer, PgDatabase, PgUser, Postgres, SessionState, SlowLog, TcpOptions, Timeouts, Traces, UserSlowLog, UserTimeouts,
};
use crate::read_auth;
use crate::read_postgres::{DEFAULT_PORT, upstream};
use crate::read_tls;
use crate::section::Section;
use crate::settings::Scope;

/// What stands for "an empty query" in `server_check_query`, as in PgBouncer.
const EMPTY_QUERY: &str = "<empty>";

/// The startup parameters that a database may name.
pub(crate) const STARTUP_PARAMETERS: [&str; 4] = ["client_encoding", "datestyle", "timezone", "application_name"];

/// Reads them over `postgres`, which has what is read elsewhere.
pub(crate) fn server(section: &Section<'_>, postgres: &mut Postgres) {
    sockets(section, postgres);
    authentication(section, postgres);
    limits(section, postgres);
    upstream_care(section, postgres);
    tcp(section, &mut postgres.tcp);
    postgres.peers = peers(section);
    traces(section, &mut postgres.traces);
    take(&mut postgres.traces.statements, section.flag("otlp_traces_statements"));
}

fn sockets(section: &Section<'_>, postgres: &mut Postgres) {
    take(&mut postgres.listen_backlog, section.count("listen_backlog"));
    take(&mut postgres.so_reuseport, section.flag("so_reuseport"));
    take(&mut postgres.unix_socket_mode, mode(section));
    postgres.unix_socket_group = section.text("unix_socket_group");
    take(&mut postgres.peer_id, section.count("peer_id").and_then(|id| u16::try_from(id).ok()));
}

fn authentication(section: &Section<'_>, postgres: &mut Postgres) {
    postgres.auth_hba_file = section.path("auth_hba_file");
    postgres.auth_ident_file = section.path("auth_ident_file");
    postgres.auth_user = section.text("auth_user");
    take(&mut postgres.auth_query, section.text("auth_query"));
    postgres.auth_dbname = section.text("auth_dbname");
    postgres.auth_ldap_options = section.secret("auth_ldap_options");
    read_auth::rules(section, postgres);
    take(&mut postgres.scram_iterations, section.count("scram_iterations"));
    take(&mut postgres.admin_users, texts(section, "admin_users"));
    take(&mut postgres.stats_users, texts(section, "stats_users"));
    take(&mut postgres.stats_period, section.duration("stats_period"));
}

fn limits(section: &Section<'_>, postgres: &mut Postgres) {
    let Timeouts {
        query_timeout,
        query_timeout_cancels,
        idle_transaction_timeout,
        transaction_timeout,
        client_idle_timeout,
        pin_idle_timeout,
        client_stall_timeout,
    } = &mut postgres.timeouts;
    for (value, name) in [
        (&mut postgres.query_wait_notify, "query_wait_notify"),
        (&mut postgres.cancel_wait_timeout, "cancel_wait_timeout"),
        (&mut postgres.suspend_timeout, "suspend_timeout"),
        (&mut postgres.autodb_idle_timeout, "autodb_idle_timeout"),
        (&mut postgres.pool_idle_timeout, "pool_idle_timeout"),
        (query_timeout, "query_timeout"),
        (idle_transaction_timeout, "idle_transaction_timeout"),
        (transaction_timeout, "transaction_timeout"),
        (client_idle_timeout, "client_idle_timeout"),
        (pin_idle_timeout, "pin_idle_timeout"),
        (client_stall_timeout, "client_stall_timeout"),
    ] {
        take(value, section.duration(name));
    }
    take(query_timeout_cancels, section.flag("query_timeout_cancels"));
    for (value, name) in [
        (&mut postgres.max_user_connections, "max_user_connections"),
        (&mut postgres.max_user_client_connections, "max_user_client_connections"),
        (&mut postgres.max_packet_size, "max_packet_size"),
    ] {
        take(value, section.count(name));
    }
}

fn upstream_care(section: &Section<'_>, postgres: &mut Postgres) {
    if let Some(query) = section.any_text("server_check_query") {
        postgres.server_check_query = check_query(query);
    }
    take(&mut postgres.server_reset_query, section.any_text("server_reset_query"));
    for (value, name) in [
        (&mut postgres.server_reset_query_always, "server_reset_query_always"),
        (&mut postgres.server_fast_close, "server_fast_close"),
        (&mut postgres.application_name_add_host, "application_name_add_host"),
        (&mut postgres.disable_pqexec, "disable_pqexec"),
        (&mut postgres.console_old_columns, "console_old_columns"),
    ] {
        take(value, section.flag(name));
    }
    postgres.resolv_conf = section.path("resolv_conf");
    for (value, name) in [
        (&mut postgres.dns_max_ttl, "dns_max_ttl"),
        (&mut postgres.dns_nxdomain_ttl, "dns_nxdomain_ttl"),
        (&mut postgres.dns_zone_check_period, "dns_zone_check_period"),
    ] {
        take(value, section.duration(name));
    }
}

/// PgBouncer's way to say it: nothing turns the check off, and an empty query has a name.
pub(crate) fn check_query(text: String) -> Option<String> {
    match text.as_str() {
        "" => None,
        EMPTY_QUERY => Some(String::new()),
        _ => Some(text),
    }
}

/// TCP options.
pub(crate) fn tcp(section: &Section<'_>, tcp: &mut TcpOptions) {
    take(&mut tcp.keepalive, section.flag("tcp_keepalive"));
    take(&mut tcp.keepcnt, section.count("tcp_keepcnt"));
    take(&mut tcp.keepidle, section.duration("tcp_keepidle"));
    take(&mut tcp.keepintvl, section.duration("tcp_keepintvl"));
    take(&mut tcp.user_timeout, section.duration("tcp_user_timeout"));
    take(&mut tcp.defer_accept, section.flag("tcp_defer_accept"));
    take(&mut tcp.socket_buffer, section.count("tcp_socket_buffer"));
}

/// Where traces go, and of what there are some.
pub(crate) fn traces(section: &Section<'_>, traces: &mut Traces) {
    traces.ca_file = section.path("otlp_traces_ca_file");
    let endpoint = section.field("otlp_traces_endpoint").and_then(|field| {
        let text = field.text()?;
        OtlpEndpoint::parse(&text).map_or_else(|message| field.wrong(message), Some)
    });
    traces.endpoint = endpoint.map(|endpoint| {
        let tls = if endpoint.secure { read_tls::of_collector(section, traces.ca_file.clone()) } else { None };
        Arc::new(OtlpEndpoint { tls, ..endpoint })
    });
    take(&mut traces.sample_one_in, section.count("otlp_traces_sample_one_in"));
}

fn peers(section: &Section<'_>) -> BTreeMap<u16, Peer> {
    let mut peers = BTreeMap::new();
    for (name, section) in section.sections("peers", Scope::PgPeer) {
        let Ok(id @ 1..) = name.parse::<u16>() else {
            section.reading.error(section.line, &section.path, "a peer's name is its peer_id, from 1 to 65535");
            continue;
        };
        let (host, port, pool_size) = (section.text("host"), section.port("port"), section.count("pool_size"));
        if section.field("host").is_none() {
            section.missing("says no host: set the peer's name, its address or the directory of its Unix socket");
        }
        let upstream = upstream(&section, host.unwrap_or_default(), port.unwrap_or(DEFAULT_PORT));
        peers.insert(id, Peer { upstream, pool_size });
    }
    peers
}

/// How many connections a database has over all its pools, and how many clients. Zero: as many as like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caps {
    pub(crate) connections: u32,
    pub(crate) clients: u32,
}

/// Reads those that the section has; the others are those of `base`.
pub(crate) fn caps(section: &Section<'_>, base: Caps) -> Caps {
    Caps {
        connections: section.count("max_db_connections").unwrap_or(base.connections),
        clients: section.count("max_db_client_connections").unwrap_or(base.clients),
    }
}

/// Reads how session state follows clients; what is not said is as in `base`.
pub(crate) fn session_state(section: &Section<'_>, base: &SessionState) -> SessionState {
    SessionState {
        following: section.choice("session_state").unwrap_or(base.following),
        audit: section.duration("session_state_audit").unwrap_or(base.audit),
        functions: texts(section, "session_state_functions").unwrap_or_else(|| base.functions.clone()),
        names: texts(section, "session_state_names").unwrap_or_else(|| base.names.clone()),
    }
}

/// Reads what takes so long that the log says so; what is not said is as in `base`.
pub(crate) fn slow_log(section: &Section<'_>, base: SlowLog) -> SlowLog {
    base.with(&user_slow_log(section))
}

fn user_slow_log(section: &Section<'_>) -> UserSlowLog {
    UserSlowLog { statement: section.duration("log_min_duration_statement"), transaction: section.duration("log_min_duration_transaction") }
}

/// Reads what a database has beside its place and its limits.
pub(crate) fn database(section: &Section<'_>, database: &mut PgDatabase) {
    take(&mut database.load_balance_hosts, section.choice("load_balance_hosts"));
    database.auth_user = section.text("auth_user");
    database.auth_query = section.text("auth_query");
    database.auth_dbname = section.text("auth_dbname");
    database.connect_query = section.text("connect_query");
    database.startup = STARTUP_PARAMETERS.into_iter().filter_map(|name| Some((name.to_owned(), section.text(name)?))).collect::<Vec<_>>();
}

/// Reads what a user has beside its secret, its mode and its size.
pub(crate) fn user(section: &Section<'_>, user: &mut PgUser) {
    user.reserve_pool_size = section.count("reserve_pool_size");
    user.max_user_connections = section.count("max_user_connections");
    user.max_user_client_connections = section.count("max_user_client_connections");
    let duration = |name| -> Option<Duration> { section.duration(name) };
    user.query_wait_timeout = duration("query_wait_timeout");
    user.slow_log = user_slow_log(section);
    user.timeouts = UserTimeouts {
        query_timeout: duration("query_timeout"),
        idle_transaction_timeout: duration("idle_transaction_timeout"),
        transaction_timeout: duration("transaction_timeout"),
        client_idle_timeout: duration("client_idle_timeout"),
        pin_idle_timeout: duration("pin_idle_timeout"),
        client_stall_timeout: duration("client_stall_timeout"),
    };
}

pub(crate) fn take<T>(value: &mut T, said: Option<T>) {
    if let Some(said) = said {
        *value = said;
    }
}

fn texts(section: &Section<'_>, name: &str) -> Option<Vec<String>> {
    section.texts(name).map(|texts| texts.into_iter().map(|(text, _)| text).collect())
}

fn mode(section: &Section<'_>) -> Option<u32> {
    let field = section.field("unix_socket_mode")?;
    match u32::from_str_radix(&field.text()?, 8) {
        Ok(mode @ ..=0o777) => Some(mode),
        Ok(_) | Err(_) => field.wrong("expected permission bits as chmod takes them, \"0700\" for example"),
    }
}

impl Section<'_> {
    /// A path, relative to the configuration file.
    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        Some(self.reading.resolve(Path::new(&self.text(name)?)))
    }
}
