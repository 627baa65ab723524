//! What a process that runs in PgBouncer's place has beside: its pidfile, where its log goes, and what it says when it is up.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Resource, getrlimit};
use sidepool_config::model::{Config, Listen};
use sidepool_config::pgbouncer::process::Process;

use crate::invocation;
use crate::invocation::pidfile::Pidfile;
use crate::logging::targets::Targets;

/// Whether standard error is left alone, whatever else is configured. Said once, on the command line.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Says so.
pub fn be_quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

/// Where the log goes.
#[must_use]
pub fn targets(process: &Process) -> Targets {
    Targets { stderr: !QUIET.load(Ordering::Relaxed), file: process.logfile(), syslog: process.syslog() }
}

/// Writes the pidfile, if there is to be one; who takes over replaces that of the process before.
pub fn write_pidfile(config: &Config, taking_over: bool) -> io::Result<Option<Pidfile>> {
    let path = config.pgbouncer.as_ref().and_then(|process| process.pidfile());
    path.map(|path| if taking_over { Pidfile::replace(&path) } else { Pidfile::write(&path) }).transpose().map_err(io::Error::other)
}

/// Says what the process may use, before it listens.
pub fn say_limits(config: &Config) {
    let Some(postgres) = &config.postgres else { return };
    let limit = getrlimit(Resource::Nofile);
    let shown = |limit: Option<u64>| limit.map_or_else(|| "-1".to_owned(), |limit| limit.to_string());
    let users = postgres.users.len().max(1);
    let servers = postgres.databases.values().map(|database| {
        let pools = if database.user.is_some() { 1 } else { users };
        pools.saturating_mul(database.limits.pool_size as usize)
    });
    let most = servers.fold(postgres.max_client_conn as usize + 10, usize::saturating_add);
    tracing::info!(
        "kernel file descriptor limit: {} (hard: {}); max_client_conn: {}, max expected fd use: {most}",
        shown(limit.current),
        shown(limit.maximum),
        postgres.max_client_conn
    );
}

/// Says which databases and peers have left the configuration.
pub fn say_dropped(before: &Config, after: &Config) {
    let (Some(_), Some(old), Some(new)) = (&after.pgbouncer, &before.postgres, &after.postgres) else { return };
    for name in old.databases.keys().filter(|name| !new.databases.contains_key(*name)) {
        tracing::warn!("dropping database '{name}' as it does not exist anymore or inactive auto-database");
    }
    for id in old.peers.keys().filter(|id| !new.peers.contains_key(*id)) {
        tracing::warn!("dropping peer {id} as it does not exist anymore");
    }
}

/// Says where it listens and that it is up. `config` has the addresses that are really bound.
pub fn say_up(config: &Config) {
    for listen in config.postgres.iter().flat_map(|postgres| &postgres.listen) {
        match listen {
            Listen::Tcp(address) => tracing::info!("listening on {address}"),
            Listen::Unix(path) => tracing::info!("listening on unix:{}", path.display()),
        }
    }
    if let Some(address) = config.admin.listen {
        tracing::info!("metrics on http://{address}/metrics");
    }
    tracing::info!("process up: {} ({}), {}", invocation::version(), invocation::OWN_VERSION, invocation::LIBRARIES.join(", "));
}
