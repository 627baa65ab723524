//! What PgBouncer's log says of each client, as events that `logging::pgbouncer` puts into its words. Where the configuration is not a
//! `pgbouncer.ini`, our own log has other lines (`count`, `login`, and here that there is no connection).

use std::time::UNIX_EPOCH;

use sidepool_config::model::{Config, Listen};
use sidepool_protocol::postgres::fault::{Fault, SqlState};
use sidepool_protocol::postgres::startup::{Replication, Startup};

use super::cancel::Outcome;
use super::opening::Farewell;
use super::presence::Presence;
use super::run::End;
use crate::clock;
use crate::console::guest::{CONSOLE_DATABASE, Seen};
use crate::pool::acquire::AcquireError;
use crate::pool::measure;
use crate::transport::ends::{self, Ends};
use crate::transport::stream::Stream;
use crate::worker::Worker;

/// A client in the log.
struct Subject<'a> {
    id: u64,
    user: &'a str,
    database: &'a str,
    peer: String,
    /// Whole seconds since it connected.
    age: u64,
}

/// A client says who it is and where it wants to.
pub(super) fn attempt(config: &Config, id: u64, stream: &Stream, startup: &Startup) {
    if config.pgbouncer.is_none() || !config.log.connections {
        return;
    }
    let (database, user, peer) = (&*startup.database, &*startup.user, place(&Ends::of(stream), config));
    let tls = stream.tls_description().unwrap_or_else(|| "no".to_owned());
    let replication = match startup.replication {
        None => "no",
        Some(Replication::Physical) => "physical",
        Some(Replication::Logical) => "logical",
    };
    tracing::info!(name: "login_attempt", client = id, database, user, peer, tls, replication, "login attempt");
}

/// Whoever runs the process asks for the console.
pub(super) fn our_own_user(worker: &Worker, id: u64, stream: &Stream, startup: &Startup) {
    let config = worker.config.borrow();
    if config.pgbouncer.is_some() && config.log.connections {
        let (database, user, peer) = (&*startup.database, &*startup.user, place(&Ends::of(stream), &config));
        tracing::info!(client = id, database, user, peer, "pgbouncer access from unix socket");
    }
}

/// A client did not get in; false if that is not said here.
pub(super) fn not_let_in(config: &Config, id: u64, connected: u32, stream: &Stream, who: (&str, &str), farewell: &Farewell) -> bool {
    if config.pgbouncer.is_none() {
        return false;
    }
    let (user, database) = who;
    let subject = Subject { id, user, database, peer: place(&Ends::of(stream), config), age: age(connected) };
    match farewell {
        Farewell::Silent | Farewell::Left => closing(config, &subject, "client unexpected eof"),
        Farewell::Broken(error) => closing(config, &subject, &format!("client unexpected eof ({error})")),
        Farewell::Handshake(error) => closing(config, &subject, &format!("TLS handshake failed: {error}")),
        Farewell::Stranger(stranger) => closing(config, &subject, &stranger.to_string()),
        Farewell::Refused(fault, _) => {
            if fault.sqlstate == SqlState::INVALID_CATALOG_NAME && config.log.connections {
                tracing::info!(client = id, database, user, peer = subject.peer, "login failed: db={database} user={user}");
            }
            closing(config, &subject, &fault.message);
            pooler_error(config, &subject, &fault.message);
        }
    }
    true
}

/// Somebody who wanted to cancel something is gone.
pub(super) fn cancelled(config: &Config, id: u64, connected: u32, stream: &Stream, outcome: Outcome) {
    if config.pgbouncer.is_some() {
        let peer = place(&Ends::of(stream), config);
        closing(config, &Subject { id, user: "", database: "", peer, age: age(connected) }, outcome.in_words());
    }
}

/// A client is told that something is wrong; with its last words, if it is closed because of it.
pub(super) fn told(worker: &Worker, presence: &Presence, fault: &Fault, is_last: bool) {
    let config = worker.config.borrow();
    if config.pgbouncer.is_none() {
        return;
    }
    pooler_error(&config, &subject(presence, &config), &fault.message);
    if is_last {
        worker.postgres.last_words.replace(Some(fault.message.as_ref().into()));
    }
}

/// A client is told that there is no connection for what it asks.
pub(super) fn refused(worker: &Worker, presence: &Presence, error: &AcquireError) {
    let config = worker.config.borrow();
    if config.pgbouncer.is_some() || !config.log.pooler_errors {
        return;
    }
    let (who, reason) = (&presence.who, measure::refusal_label(error.refusal.reason));
    let (peer, user, database) = (presence.ends.peer(), &*who.user, &*who.database);
    tracing::warn!(pool = &*error.pool, client = presence.id, peer, user, database, reason, "no connection for a client: {error}");
}

/// A client is gone; false if that is not said here.
pub(super) fn gone(worker: &Worker, presence: &Presence, end: End) -> bool {
    let config = worker.config.borrow();
    let last_words = worker.postgres.last_words.take();
    if config.pgbouncer.is_none() {
        return false;
    }
    closing(&config, &subject(presence, &config), last_words.as_deref().unwrap_or(reason(end)));
    true
}

/// Why the connection of a client that ends like this is closed: for the same reason as the client's, or because that is gone.
pub(super) fn end_of_server(worker: &Worker, end: End) -> Box<str> {
    match end {
        End::TimedOut(_) | End::Mode | End::Reconfigured => {
            worker.postgres.last_words.borrow().clone().unwrap_or_else(|| reason(end).into())
        }
        End::ServerLost => reason(end).into(),
        End::Left | End::Gone | End::Lost | End::Violation | End::Pinned | End::Drained | End::Ended | End::Moved => {
            "client disconnect while server was not ready".into()
        }
    }
}

/// A guest of the console is told that something is wrong; false if that is not said here.
pub(crate) fn guest_told(config: &Config, guest: &Seen, fault: &Fault) -> bool {
    if config.pgbouncer.is_some() {
        pooler_error(config, &guest_subject(guest, config), &fault.message);
    }
    config.pgbouncer.is_some()
}

/// A guest of the console is gone.
pub(crate) fn guest_gone(config: &Config, guest: &Seen, reason: &str) {
    if config.pgbouncer.is_some() {
        closing(config, &guest_subject(guest, config), reason);
    }
}

fn guest_subject<'a>(guest: &'a Seen, config: &Config) -> Subject<'a> {
    Subject { id: guest.id, user: &guest.user, database: CONSOLE_DATABASE, peer: place(&guest.ends, config), age: age(guest.connected) }
}

/// Why, where nothing was said to the client.
fn reason(end: End) -> &'static str {
    match end {
        End::Left => "client close request",
        End::Gone | End::Lost => "client unexpected eof",
        End::Violation => "bad packet",
        End::ServerLost => "server conn crashed?",
        End::Mode => "transaction blocks not allowed in statement pooling mode",
        End::Pinned => "no more connections may be pinned",
        End::TimedOut(_) => "query timeout",
        End::Reconfigured => "database configuration changed",
        End::Drained => "server shutting down",
        End::Ended => "admin forced disconnect",
        End::Moved => "client taken over by a new process",
    }
}

fn subject<'a>(presence: &'a Presence, config: &Config) -> Subject<'a> {
    let (id, who) = (presence.id, &presence.who);
    Subject { id, user: &who.user, database: &who.database, peer: place(&presence.ends, config), age: age(presence.connected) }
}

fn closing(config: &Config, subject: &Subject<'_>, reason: &str) {
    if config.log.disconnections {
        let Subject { id, user, database, peer, age } = subject;
        tracing::info!(name: "closing", client = *id, database = *database, user = *user, peer, age = *age, reason, "closing");
    }
}

fn pooler_error(config: &Config, subject: &Subject<'_>, message: &str) {
    if config.log.pooler_errors {
        let Subject { id, user, database, peer, age: _ } = subject;
        tracing::warn!(name: "pooler_error", client = *id, database = *database, user = *user, peer, "{message}");
    }
}

/// For how many whole seconds a client has been connected that came then.
pub(super) fn age(connected: u32) -> u64 {
    let now = clock::wall().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    now.saturating_sub(u64::from(connected))
}

/// Where a client is. One on a Unix socket has the port of ours.
fn place(at: &Ends, config: &Config) -> String {
    let port = || {
        let listens = config.postgres.iter().flat_map(|postgres| &postgres.listen);
        let mut ports = listens.filter_map(|listen| match listen {
            Listen::Tcp(address) => Some(address.port()),
            Listen::Unix(path) => path.extension().and_then(|port| port.to_str()?.parse().ok()),
        });
        ports.next().unwrap_or(0)
    };
    match (at.theirs(), at.process()) {
        (ends::End::Tcp(address), _) => address.to_string(),
        (ends::End::Unix, 0) => format!("unix:{}", port()),
        (ends::End::Unix, process) => format!("unix({process}):{}", port()),
        (ends::End::Unknown, _) => "unknown:0".to_owned(),
    }
}
