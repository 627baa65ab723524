//! The table itself. Only data: what a kind or a scope is stands in the module above.

use super::Scope::{self, Admin, Drain, Log, PgDatabase, PgUser, Postgres, Redis, RedisUser, Root};
use super::{Kind, Setting};
use crate::diff::Class::{self, Live, NeedsRestart, NewSessions};

const MODES: &[&str] = &["transaction", "session", "statement"];
const AUTH_TYPES: &[&str] = &["scram-sha-256", "md5", "plain", "trust", "any"];
const SSLMODES: &[&str] = &["disable", "prefer", "require", "verify-full"];
const LEVELS: &[&str] = &["error", "warn", "info", "debug", "trace"];
const FORMATS: &[&str] = &["text", "json"];

/// The largest size that a pool may have.
pub(crate) const MOST_CONNECTIONS: u32 = 100_000;

const SIZE: Kind = Kind::Count { min: 1, max: MOST_CONNECTIONS };
const PORT: Kind = Kind::Count { min: 1, max: 65_535 };
const POSITIVE: Kind = Kind::Duration { zero: None };
const NEVER: Kind = Kind::Duration { zero: Some("never") };

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

/// Every setting there is.
#[rustfmt::skip]
pub const SETTINGS: &[Setting] = &[
    row(&[Root], "workers", Kind::Workers, "\"auto\"", NeedsRestart, "Threads that carry traffic. \"auto\": one up to two cores of CPU quota, beyond that by the quota."),
    row(&[Admin], "listen", Kind::Address, "\"127.0.0.1:9127\"", NeedsRestart, "Where /metrics and the health endpoints listen; \"off\" for nowhere."),
    row(&[Drain], "accept_for", Kind::Duration { zero: Some("not at all") }, "\"0s\"", Live, "How long new clients are still accepted after SIGTERM, while load balancers learn of it."),
    row(&[Drain], "timeout", Kind::Duration { zero: Some("at once") }, "\"25s\"", Live, "How long after SIGTERM what is still open is cut."),
    row(&[Log], "level", Kind::Choice(LEVELS), "\"info\"", Live, "The least severe level that is logged."),
    row(&[Log], "format", Kind::Choice(FORMATS), "\"text\"", NeedsRestart, "Text for people or JSON for machines."),
    row(&[Log], "connections", Kind::Flag, "false", NewSessions, "Whether each client connection and disconnection is logged."),
    row(&[Postgres], "listen", Kind::Listen, "\"127.0.0.1:6432\"", NeedsRestart, "Where PostgreSQL clients connect. unix:DIR becomes DIR/.s.PGSQL.PORT with the port of the first TCP listener, or 6432."),
    row(&[Postgres], "auth_type", Kind::Choice(AUTH_TYPES), "\"scram-sha-256\"", NewSessions, "How clients prove who they are. trust: the user must exist; any: not even that."),
    row(&[Postgres], "auth_file", Kind::Path, "", Live, "Users and secrets in the format of PgBouncer's userlist.txt, beside [postgres.users]."),
    row(&[Postgres], "max_client_conn", Kind::Count { min: 1, max: 1_000_000 }, "10000", Live, "Most client connections at a time."),
    row(&[Postgres], "client_login_timeout", POSITIVE, "\"15s\"", NewSessions, "How long a login may take."),
    row(&[Postgres], "max_prepared_statements", Kind::Count { min: 0, max: 1_000_000 }, "200", NewSessions, "Most prepared statements kept per upstream connection; 0 turns the rewriting of their names off."),
    row(&[Postgres], "track_extra_parameters", Kind::Texts, "[\"IntervalStyle\", \"search_path\"]", NewSessions, "Reported parameters that follow the client from connection to connection, beside the standard ones."),
    row(&[Postgres], "ignore_startup_parameters", Kind::Texts, "[\"extra_float_digits\"]", NewSessions, "Startup parameters of clients that are dropped in silence."),
    row(&[Postgres], "default_pool_size", SIZE, "20", Live, "pool_size of every database that has none of its own."),
    row(&[PgDatabase, PgUser], "pool_size", SIZE, "", Live, "Most upstream connections of one pool, those being opened included. A user's own beats the database's."),
    row(&[Postgres, PgDatabase, PgUser], "pool_mode", Kind::Choice(MODES), "\"transaction\"", NewSessions, "When an upstream connection goes back to its pool."),
    row(&[PgDatabase], "url", Kind::Secret, "", Live, "The server in one: postgres://USER:PASSWORD@HOST:PORT/DBNAME?sslmode=MODE."),
    row(&[Redis], "url", Kind::Secret, "", Live, "The server in one: redis://USER:PASSWORD@HOST:PORT/DATABASE, rediss:// for TLS, or unix:/PATH."),
    row(&[PgDatabase], "host", Kind::Text, "", Live, "The server's name or address; one that starts with / is the directory of its Unix socket."),
    row(&[PgDatabase], "port", PORT, "5432", Live, "The server's port."),
    row(&[PgDatabase], "dbname", Kind::Text, "", Live, "The database on the server; left out: the name that the client asked for."),
    row(&[PgDatabase], "user", Kind::Text, "", NewSessions, "The upstream user for every client, which makes it one shared pool; left out: the client's own name."),
    row(&[PgDatabase], "password", Kind::Secret, "", Live, "The password that goes with user; left out: the client user's own plain secret."),
    row(&[PgDatabase, Redis], "sslmode", Kind::Choice(SSLMODES), "\"disable\"", Live, "TLS towards the server, as libpq names it; a Redis server cannot be asked, so prefer is for PostgreSQL alone."),
    row(&[PgUser], "password", Kind::Secret, "", Live, "What the client must prove to know: plain text, md5… or SCRAM-SHA-256$…; left out: no login by password."),
    row(&[Redis], "listen", Kind::Listen, "\"127.0.0.1:6380\"", NeedsRestart, "Where Redis clients connect; unix:PATH is the full path of the socket."),
    row(&[Redis], "host", Kind::Text, "", Live, "The server's name or address; one that starts with / is the full path of its Unix socket."),
    row(&[Redis], "port", PORT, "6379", Live, "The server's port."),
    row(&[Redis], "user", Kind::Text, "", Live, "The ACL user that the proxy becomes upstream; left out: default."),
    row(&[Redis], "password", Kind::Secret, "", Live, "The upstream password, so that applications need not know it."),
    row(&[Redis], "database", Kind::Count { min: 0, max: 65_535 }, "0", NewSessions, "The database a client starts in."),
    row(&[Redis], "max_client_conn", Kind::Count { min: 1, max: 1_000_000 }, "10000", Live, "Most client connections at a time."),
    row(&[Redis], "client_login_timeout", POSITIVE, "\"15s\"", NewSessions, "How long a client that has to authenticate may take."),
    row(&[Redis], "shared_connections", Kind::Count { min: 1, max: 1_000 }, "2", Live, "Connections per user, database and RESP version that clients share. Less than pool_size: the rest is leased."),
    row(&[Redis], "stream_threshold", Kind::Size { min: 1 }, "\"64KiB\"", NewSessions, "A request larger than this leases a connection and streams through it."),
    row(&[Redis], "client_output_limit", Kind::Size { min: 1 }, "\"64MiB\"", NewSessions, "Replies held for one client that does not read them; past it the client is closed."),
    row(&[Redis], "pool_size", SIZE, "20", Live, "Most upstream connections of one pool, shared and leased together."),
    row(&[RedisUser], "password", Kind::Secret, "", Live, "What the client must send."),
    row(&[RedisUser], "upstream_user", Kind::Text, "", NewSessions, "The ACL user it becomes upstream; left out: the server's configured user."),
    row(&[RedisUser], "upstream_password", Kind::Secret, "", Live, "The password that goes with upstream_user."),
    row(&[Postgres, PgDatabase, Redis], "min_pool_size", Kind::Count { min: 0, max: 100_000 }, "0", Live, "Connections kept open even when idle."),
    row(&[Postgres, PgDatabase, Redis], "max_queue_length", Kind::Count { min: 1, max: 1_000_000 }, "10000", Live, "Most clients that may wait for a connection of one pool; one more is refused at once."),
    row(&[Postgres, PgDatabase, Redis], "query_wait_timeout", Kind::Duration { zero: Some("for ever") }, "\"10s\"", Live, "How long a client may wait for a connection."),
    row(&[Postgres, PgDatabase, Redis], "server_idle_timeout", NEVER, "\"10m\"", Live, "Idle connections above the minimum are closed after this."),
    row(&[Postgres, PgDatabase, Redis], "server_lifetime", NEVER, "\"1h\"", Live, "Connections are replaced after this, spread by up to a tenth."),
    row(&[Postgres, PgDatabase, Redis], "server_connect_timeout", POSITIVE, "\"15s\"", Live, "How long opening one connection may take, login included."),
    row(&[Postgres, PgDatabase, Redis], "server_connect_parallelism", Kind::Count { min: 1, max: 1_000 }, "4", Live, "How many connections of one pool are opened at the same time."),
    row(&[Postgres, PgDatabase, Redis], "server_connect_backoff", POSITIVE, "\"100ms\"", Live, "The first pause after a failed connect; it doubles up to server_login_retry."),
    row(&[Postgres, PgDatabase, Redis], "server_login_retry", POSITIVE, "\"15s\"", Live, "The longest pause after failed connects."),
];
