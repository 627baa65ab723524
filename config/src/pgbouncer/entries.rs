//! The entries of `[databases]`, `[users]` and `[peers]`, said as sections of `sidepool.toml`.

use super::document::{Document, Entry};
use super::draft::{Draft, Pairs, Rule, check, number, quoted, size, text};
use super::table::{BALANCES, FOLLOWINGS, Kind, MODES};
use super::value;

/// The database that is the console itself.
const CONSOLE: &str = "pgbouncer";

/// The longest name of a database.
const LONGEST_DATABASE: usize = 63;

/// The longest name of a user.
const LONGEST_USER: usize = 127;

const COUNT: Kind = Kind::Int(0, i32::MAX as i64);
const PORT: Kind = Kind::Int(1, 65_535);

/// The port where a peer is looked for.
const PEER_PORT: &str = "6432";

pub(crate) fn database(draft: &mut Draft, document: &Document, name: &str, entry: &Entry) {
    if name == CONSOLE {
        return draft.wrong(&entry.place, format!("database name \"{CONSOLE}\" is reserved"));
    }
    if name.is_empty() || name.len() > LONGEST_DATABASE {
        return draft.wrong(&entry.place, format!("the name of a database has from 1 to {LONGEST_DATABASE} bytes"));
    }
    draft.head(format!("[postgres.databases.{}]", quoted(name)));
    let directory = Some(text(document, "unix_socket_dir")).filter(|directory| directory.starts_with('/')).unwrap_or("/tmp");
    let host = said(entry, "host").unwrap_or(directory);
    draft.line("host", quoted(host), Some(&entry.place));
    let sslmode = text(document, "server_tls_sslmode").to_ascii_lowercase();
    let sslmode = match sslmode.as_str() {
        // A Unix socket needs no TLS and has none, as with libpq.
        _ if host.starts_with('/') => "disable",
        other => other,
    };
    draft.line("sslmode", quoted(sslmode), document.settings.get("server_tls_sslmode").map(|said| &said.place));
    let has_user = said(entry, "user").is_some();
    if !has_user && said(entry, "password").is_some() {
        draft.notes.push(format!("database {name}: a password without a user is not used, as with PgBouncer"));
    }
    Pairs { entry, unknown: "unrecognized connection parameter" }.write(draft, |key| database_rule(key, has_user));
    minimum(draft, document, entry);
}

/// More than the pool can hold is accepted and comes to as many as it can.
fn minimum(draft: &mut Draft, document: &Document, entry: &Entry) {
    let own = |name| said(entry, name).and_then(value::int);
    let most = size(own("pool_size").or_else(|| number(document, "default_pool_size")).unwrap_or(0));
    let least = own("min_pool_size").or_else(|| number(document, "min_pool_size")).unwrap_or(0);
    if check(COUNT, &least.to_string()).is_ok() && (least > most || own("min_pool_size").is_some()) {
        draft.line("min_pool_size", least.min(most).to_string(), Some(&entry.place));
    }
}

fn database_rule(key: &str, has_user: bool) -> Option<Rule> {
    Some(match key {
        "host" => Rule::new("host", Kind::Text).elsewhere(),
        "port" => Rule::new("port", PORT),
        "dbname" => Rule::new("dbname", Kind::Text),
        "user" => Rule::new("user", Kind::Text),
        "password" if has_user => Rule::new("password", Kind::Text),
        "password" => Rule::new("password", Kind::Text).elsewhere(),
        "auth_user" => Rule::new("auth_user", Kind::Text),
        "auth_query" => Rule::new("auth_query", Kind::Text),
        "auth_dbname" => Rule::new("auth_dbname", Kind::Text),
        "client_encoding" => Rule::new("client_encoding", Kind::Text),
        "datestyle" => Rule::new("datestyle", Kind::Text),
        "timezone" => Rule::new("timezone", Kind::Text),
        "application_name" => Rule::new("application_name", Kind::Text),
        "connect_query" => Rule::new("connect_query", Kind::Text),
        "pool_size" => Rule::new("pool_size", COUNT),
        "min_pool_size" => Rule::new("min_pool_size", COUNT).elsewhere(),
        "reserve_pool_size" | "reserve_pool" => Rule::new("reserve_pool_size", COUNT),
        "pool_mode" => Rule::new("pool_mode", Kind::Choice(MODES)),
        "session_state" => Rule::new("session_state", Kind::Choice(FOLLOWINGS)),
        "load_balance_hosts" => Rule::new("load_balance_hosts", Kind::Choice(BALANCES)),
        "max_db_connections" => Rule::new("max_db_connections", COUNT),
        "max_db_client_connections" => Rule::new("max_db_client_connections", COUNT),
        "server_lifetime" => Rule::new("server_lifetime", Kind::Time),
        "query_wait_timeout" => Rule::new("query_wait_timeout", Kind::Time),
        "log_min_duration_statement" => Rule::new("log_min_duration_statement", Kind::Time),
        "log_min_duration_transaction" => Rule::new("log_min_duration_transaction", Kind::Time),
        _ => return None,
    })
}

pub(crate) fn user(draft: &mut Draft, name: &str, entry: &Entry) {
    if name.is_empty() || name.len() > LONGEST_USER {
        return draft.wrong(&entry.place, format!("the name of a user has from 1 to {LONGEST_USER} bytes"));
    }
    draft.head(format!("[postgres.users.{}]", quoted(name)));
    Pairs { entry, unknown: "unrecognized user parameter" }.write(draft, |key| {
        Some(match key {
            "pool_mode" => Rule::new("pool_mode", Kind::Choice(MODES)),
            "pool_size" => Rule::new("pool_size", COUNT),
            "reserve_pool_size" => Rule::new("reserve_pool_size", COUNT),
            "max_user_connections" => Rule::new("max_user_connections", COUNT),
            "max_user_client_connections" => Rule::new("max_user_client_connections", COUNT),
            "query_timeout" => Rule::new("query_timeout", Kind::Time),
            "idle_transaction_timeout" => Rule::new("idle_transaction_timeout", Kind::Time),
            "transaction_timeout" => Rule::new("transaction_timeout", Kind::Time),
            "client_idle_timeout" => Rule::new("client_idle_timeout", Kind::Time),
            "client_stall_timeout" => Rule::new("client_stall_timeout", Kind::Time),
            "pin_idle_timeout" => Rule::new("pin_idle_timeout", Kind::Time),
            "query_wait_timeout" => Rule::new("query_wait_timeout", Kind::Time),
            "log_min_duration_statement" => Rule::new("log_min_duration_statement", Kind::Time),
            "log_min_duration_transaction" => Rule::new("log_min_duration_transaction", Kind::Time),
            _ => return None,
        })
    });
}

pub(crate) fn peer(draft: &mut Draft, name: &str, entry: &Entry) {
    let Ok(id @ 1..) = name.parse::<u16>() else {
        return draft.wrong(&entry.place, "ids of peers must be a number larger than 0 and at most 65535".to_owned());
    };
    let Some(host) = said(entry, "host") else {
        return draft.wrong(&entry.place, format!("host was not provided for peer {id}"));
    };
    draft.head(format!("[postgres.peers.{id}]"));
    draft.line("host", quoted(host), Some(&entry.place));
    if said(entry, "port").is_none() {
        draft.line("port", PEER_PORT, None);
    }
    Pairs { entry, unknown: "unrecognized connection parameter" }.write(draft, |key| {
        Some(match key {
            "host" => Rule::new("host", Kind::Text).elsewhere(),
            "port" => Rule::new("port", PORT),
            "pool_size" => Rule::new("pool_size", COUNT),
            _ => return None,
        })
    });
}

/// What an entry says of a key, the last time it does.
fn said<'e>(entry: &'e Entry, key: &str) -> Option<&'e str> {
    entry.pairs.iter().rev().find(|(name, _)| name == key).map(|(_, text)| text.as_str())
}
