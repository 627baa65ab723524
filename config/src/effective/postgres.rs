//! `[postgres]` and what is below it, laid flat.

use std::path::Path;

use super::{Entry, Shown, address, contents, duration, flag, limit_values, list, listens, number, path, quoted, secret, text};
use crate::auth::files::AuthRules;
use crate::model::{
    Base, ClientTls, Peer, PgDatabase, PgUser, PoolLimits, Postgres, ServerTls, SessionState, SlowLog, TcpOptions, Timeouts, Traces,
    Upstream, UserSlowLog, UserTimeouts,
};
use crate::names::Named;
use crate::read_server::STARTUP_PARAMETERS;
use crate::reading::key_path;
use crate::settings::Scope;

pub(crate) type Values = Vec<(&'static str, Shown)>;

/// Every section of the PostgreSQL side.
pub(super) fn entries(postgres: &Postgres, entries: &mut Vec<Entry>) {
    entries.push(Entry { path: "postgres".to_owned(), scope: Scope::Postgres, values: own(postgres) });
    entries.extend(postgres.peers.iter().map(|(id, peer)| peer_entry(key_path("postgres.peers", &id.to_string()), peer)));
    entries.extend(postgres.databases.iter().map(|(name, database)| database_entry(key_path("postgres.databases", name), database)));
    entries.extend(postgres.users.iter().map(|(name, user)| user_entry(key_path("postgres.users", name), user)));
}

/// The settings of the section itself.
#[expect(clippy::too_many_lines, reason = "taken apart field by field, so that none can be forgotten")]
fn own(postgres: &Postgres) -> Values {
    let Postgres {
        listen,
        listen_backlog,
        so_reuseport,
        unix_socket_mode,
        unix_socket_group,
        tcp,
        client_tls,
        server_tls,
        auth_type,
        auth_hba_file,
        auth_ident_file,
        auth_user,
        auth_query,
        auth_dbname,
        auth_ldap_options,
        auth_rules,
        scram_iterations,
        admin_users,
        stats_users,
        stats_period,
        max_client_conn,
        max_client_logins,
        max_db_connections,
        max_db_client_connections,
        max_user_connections,
        max_user_client_connections,
        client_login_timeout,
        query_wait_notify,
        cancel_wait_timeout,
        suspend_timeout,
        traces,
        timeouts,
        autodb_idle_timeout,
        pool_idle_timeout,
        server_check_query,
        server_reset_query,
        server_reset_query_always,
        server_fast_close,
        dns_max_ttl,
        dns_nxdomain_ttl,
        dns_zone_check_period,
        resolv_conf,
        application_name_add_host,
        disable_pqexec,
        console_old_columns,
        max_packet_size,
        max_prepared_statements,
        listen_gap,
        queue_fairness,
        track_extra_parameters,
        ignore_startup_parameters,
        peer_id,
        // Each database shows what it has of it.
        base: _,
        peers: _,
        databases: _,
        users: _,
        zero_config: _,
    } = postgres;
    let check_query = match server_check_query.as_deref() {
        None => "",
        Some("") => "<empty>",
        Some(query) => query,
    };
    let mut values = vec![
        ("listen", listens(listen)),
        ("listen_backlog", number(*listen_backlog)),
        ("so_reuseport", flag(*so_reuseport)),
        ("unix_socket_mode", quoted(format!("{unix_socket_mode:04o}"))),
        ("unix_socket_group", text(unix_socket_group.as_deref())),
        ("auth_type", quoted(auth_type.name())),
        ("auth_hba_file", file(auth_hba_file.as_deref(), auth_rules)),
        ("auth_ident_file", file(auth_ident_file.as_deref(), auth_rules)),
        ("auth_user", text(auth_user.as_deref())),
        ("auth_query", quoted(auth_query)),
        ("auth_dbname", text(auth_dbname.as_deref())),
        // It may have the password of the directory in it.
        ("auth_ldap_options", secret(auth_ldap_options.as_ref())),
        ("scram_iterations", number(*scram_iterations)),
        ("admin_users", list(admin_users)),
        ("stats_users", list(stats_users)),
        ("stats_period", duration(*stats_period)),
        ("max_client_conn", number(*max_client_conn)),
        ("max_client_logins", number(*max_client_logins)),
        ("max_db_connections", number(*max_db_connections)),
        ("max_db_client_connections", number(*max_db_client_connections)),
        ("max_user_connections", number(*max_user_connections)),
        ("max_user_client_connections", number(*max_user_client_connections)),
        ("client_login_timeout", duration(*client_login_timeout)),
        ("query_wait_notify", duration(*query_wait_notify)),
        ("cancel_wait_timeout", duration(*cancel_wait_timeout)),
        ("suspend_timeout", duration(*suspend_timeout)),
        ("autodb_idle_timeout", duration(*autodb_idle_timeout)),
        ("pool_idle_timeout", duration(*pool_idle_timeout)),
        ("server_check_query", quoted(check_query)),
        ("server_reset_query", quoted(server_reset_query)),
        ("server_reset_query_always", flag(*server_reset_query_always)),
        ("server_fast_close", flag(*server_fast_close)),
        ("dns_max_ttl", duration(*dns_max_ttl)),
        ("dns_nxdomain_ttl", duration(*dns_nxdomain_ttl)),
        ("dns_zone_check_period", duration(*dns_zone_check_period)),
        ("resolv_conf", path(resolv_conf.as_deref())),
        ("application_name_add_host", flag(*application_name_add_host)),
        ("disable_pqexec", flag(*disable_pqexec)),
        ("console_old_columns", flag(*console_old_columns)),
        ("max_packet_size", number(*max_packet_size)),
        ("max_prepared_statements", number(*max_prepared_statements)),
        ("listen_gap", quoted(listen_gap.name())),
        ("queue_fairness", quoted(queue_fairness.name())),
        ("track_extra_parameters", list(track_extra_parameters)),
        ("ignore_startup_parameters", list(ignore_startup_parameters)),
        ("peer_id", number(*peer_id)),
    ];
    values.extend(timeout_values(timeouts));
    values.extend(trace_values(traces));
    values.push(("otlp_traces_statements", flag(traces.statements)));
    values.extend(client_tls_values(client_tls));
    values.extend(server_tls_values(server_tls));
    values.extend(tcp_values(tcp));
    values
}

/// What databases have that say nothing of their own, by the names it has in the section itself.
pub(crate) fn base_values(base: &Base) -> Values {
    let Base { pool_mode, limits, session_state, slow_log } = base;
    let mut values = vec![("pool_mode", quoted(pool_mode.name()))];
    values.extend(session_state_values(session_state));
    values.extend(slow_log_values(*slow_log));
    values.extend(limit_values(limits));
    values.extend(own_limit_values(limits));
    for (name, _) in &mut values {
        if *name == "pool_size" {
            *name = "default_pool_size";
        }
    }
    values
}

fn session_state_values(state: &SessionState) -> Values {
    let SessionState { following, audit, functions, names } = state;
    vec![
        ("session_state", quoted(following.name())),
        ("session_state_audit", duration(*audit)),
        ("session_state_functions", list(functions)),
        ("session_state_names", list(names)),
    ]
}

/// What both sides have of it; the texts of statements are PostgreSQL's alone.
pub(super) fn trace_values(traces: &Traces) -> Values {
    let Traces { endpoint, ca_file, sample_one_in, statements: _ } = traces;
    let context = endpoint.as_ref().and_then(|endpoint| endpoint.tls.as_ref());
    vec![
        ("otlp_traces_endpoint", endpoint.as_ref().map_or(Shown::Unset, |endpoint| quoted(endpoint.to_string()))),
        ("otlp_traces_ca_file", contents(ca_file.as_deref(), context.map(|context| context.fingerprint()))),
        ("otlp_traces_sample_one_in", number(*sample_one_in)),
    ]
}

fn slow_log_values(slow_log: SlowLog) -> Values {
    let SlowLog { statement, transaction } = slow_log;
    vec![("log_min_duration_statement", duration(statement)), ("log_min_duration_transaction", duration(transaction))]
}

/// A file that changes with what is in it.
fn file(named: Option<&Path>, rules: &AuthRules) -> Shown {
    match named {
        Some(named) => Shown::File(named.display().to_string(), rules.content),
        None => Shown::Unset,
    }
}

fn timeout_values(timeouts: &Timeouts) -> Values {
    let Timeouts {
        query_timeout,
        query_timeout_cancels,
        idle_transaction_timeout,
        transaction_timeout,
        client_idle_timeout,
        pin_idle_timeout,
        client_stall_timeout,
    } = timeouts;
    vec![
        ("query_timeout", duration(*query_timeout)),
        ("query_timeout_cancels", flag(*query_timeout_cancels)),
        ("idle_transaction_timeout", duration(*idle_transaction_timeout)),
        ("transaction_timeout", duration(*transaction_timeout)),
        ("client_idle_timeout", duration(*client_idle_timeout)),
        ("pin_idle_timeout", duration(*pin_idle_timeout)),
        ("client_stall_timeout", duration(*client_stall_timeout)),
    ]
}

pub(super) fn client_tls_values(tls: &ClientTls) -> Values {
    let ClientTls { sslmode, key_file, cert_file, ca_file, protocols, ciphers, tls13_ciphers, ecdhcurve, dheparams, context } = tls;
    vec![
        ("client_tls_sslmode", quoted(sslmode.name())),
        ("client_tls_key_file", path(key_file.as_deref())),
        ("client_tls_cert_file", contents(cert_file.as_deref(), context.as_ref().map(|context| context.fingerprint()))),
        ("client_tls_ca_file", path(ca_file.as_deref())),
        ("client_tls_protocols", quoted(protocols)),
        ("client_tls_ciphers", quoted(ciphers)),
        ("client_tls13_ciphers", quoted(tls13_ciphers)),
        ("client_tls_ecdhcurve", quoted(ecdhcurve)),
        ("client_tls_dheparams", quoted(dheparams)),
    ]
}

pub(super) fn server_tls_values(tls: &ServerTls) -> Values {
    let ServerTls { ca_file, key_file, cert_file, protocols, ciphers, tls13_ciphers, context } = tls;
    vec![
        ("server_tls_ca_file", contents(ca_file.as_deref(), context.as_ref().map(|context| context.fingerprint()))),
        ("server_tls_key_file", path(key_file.as_deref())),
        ("server_tls_cert_file", path(cert_file.as_deref())),
        ("server_tls_protocols", quoted(protocols)),
        ("server_tls_ciphers", quoted(ciphers)),
        ("server_tls13_ciphers", quoted(tls13_ciphers)),
    ]
}

pub(super) fn tcp_values(tcp: &TcpOptions) -> Values {
    let TcpOptions { keepalive, keepcnt, keepidle, keepintvl, user_timeout, defer_accept, socket_buffer } = tcp;
    vec![
        ("tcp_keepalive", flag(*keepalive)),
        ("tcp_keepcnt", number(*keepcnt)),
        ("tcp_keepidle", duration(*keepidle)),
        ("tcp_keepintvl", duration(*keepintvl)),
        ("tcp_user_timeout", duration(*user_timeout)),
        ("tcp_defer_accept", flag(*defer_accept)),
        ("tcp_socket_buffer", number(*socket_buffer)),
    ]
}

fn peer_entry(path: String, peer: &Peer) -> Entry {
    let Peer { upstream, pool_size } = peer;
    let (host, port) = address(upstream);
    let values = vec![("host", host), ("port", port), ("pool_size", pool_size.map_or(Shown::Unset, number))];
    Entry { path, scope: Scope::PgPeer, values }
}

fn user_entry(path: String, user: &PgUser) -> Entry {
    let PgUser {
        password,
        unlisted: _,
        pool_mode,
        pool_size,
        reserve_pool_size,
        max_user_connections,
        max_user_client_connections,
        query_wait_timeout,
        timeouts,
        slow_log: UserSlowLog { statement, transaction },
    } = user;
    let UserTimeouts {
        query_timeout,
        idle_transaction_timeout,
        transaction_timeout,
        client_idle_timeout,
        pin_idle_timeout,
        client_stall_timeout,
    } = timeouts;
    let values = vec![
        ("password", secret(password.as_ref())),
        ("pool_mode", pool_mode.map_or(Shown::Unset, |mode| quoted(mode.name()))),
        ("pool_size", pool_size.map_or(Shown::Unset, number)),
        ("reserve_pool_size", reserve_pool_size.map_or(Shown::Unset, number)),
        ("max_user_connections", max_user_connections.map_or(Shown::Unset, number)),
        ("max_user_client_connections", max_user_client_connections.map_or(Shown::Unset, number)),
        ("query_wait_timeout", query_wait_timeout.map_or(Shown::Unset, duration)),
        ("query_timeout", query_timeout.map_or(Shown::Unset, duration)),
        ("idle_transaction_timeout", idle_transaction_timeout.map_or(Shown::Unset, duration)),
        ("transaction_timeout", transaction_timeout.map_or(Shown::Unset, duration)),
        ("client_idle_timeout", client_idle_timeout.map_or(Shown::Unset, duration)),
        ("pin_idle_timeout", pin_idle_timeout.map_or(Shown::Unset, duration)),
        ("client_stall_timeout", client_stall_timeout.map_or(Shown::Unset, duration)),
        ("log_min_duration_statement", statement.map_or(Shown::Unset, duration)),
        ("log_min_duration_transaction", transaction.map_or(Shown::Unset, duration)),
    ];
    Entry { path, scope: Scope::PgUser, values }
}

fn database_entry(path: String, database: &PgDatabase) -> Entry {
    let PgDatabase {
        hosts,
        load_balance_hosts,
        dbname,
        user,
        password,
        tls,
        server_tls,
        auth_user,
        auth_query,
        auth_dbname,
        startup,
        connect_query,
        pool_mode,
        names_its_mode,
        session_state,
        slow_log,
        max_db_connections,
        max_db_client_connections,
        limits,
    } = database;
    let (host, port) = host_list(hosts);
    let mut values = vec![
        ("host", host),
        ("port", port),
        ("load_balance_hosts", quoted(load_balance_hosts.name())),
        ("dbname", text(dbname.as_deref())),
        ("user", text(user.as_deref())),
        ("password", secret(password.as_ref())),
        ("sslmode", quoted(tls.name())),
        ("auth_user", text(auth_user.as_deref())),
        ("auth_query", text(auth_query.as_deref())),
        ("auth_dbname", text(auth_dbname.as_deref())),
        ("connect_query", text(connect_query.as_deref())),
        ("pool_mode", if *names_its_mode { quoted(pool_mode.name()) } else { Shown::Unset }),
        ("max_db_connections", number(*max_db_connections)),
        ("max_db_client_connections", number(*max_db_client_connections)),
    ];
    values.extend(session_state_values(session_state));
    values.extend(slow_log_values(*slow_log));
    values.extend(STARTUP_PARAMETERS.map(|name| (name, text(startup.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)))));
    let server_tls = server_tls.as_deref().map_or_else(
        || server_tls_values(&ServerTls::default()).into_iter().map(|(name, _)| (name, Shown::Unset)).collect(),
        server_tls_values,
    );
    values.extend(server_tls);
    values.extend(limit_values(limits));
    values.extend(own_limit_values(limits));
    Entry { path, scope: Scope::PgDatabase, values }
}

/// Hosts and the port that they share, as they would be written.
fn host_list(hosts: &[Upstream]) -> (Shown, Shown) {
    match hosts {
        [] => (Shown::Unset, Shown::Unset),
        [host] => address(host),
        [first, ..] => (quoted(crate::hosts::shown(hosts)), address(first).1),
    }
}

/// The limits that only the pools of PostgreSQL have.
fn own_limit_values(limits: &PoolLimits) -> Values {
    vec![
        ("reserve_pool_size", number(limits.reserve_pool_size)),
        ("reserve_pool_timeout", duration(limits.reserve_pool_timeout)),
        ("server_check_delay", duration(limits.server_check_delay)),
        ("server_round_robin", flag(limits.server_round_robin)),
        ("max_pinned_connections", number(limits.max_pinned_connections)),
    ]
}
