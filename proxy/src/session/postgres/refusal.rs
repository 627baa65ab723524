//! What a client is told when it cannot have what it asked for: what, why, which limit, and what to do.

use sidepool_protocol::postgres::fault::{Fault, Severity, SqlState};
use sidepool_protocol::postgres::parameters::ParameterError;

use super::account::{Bounds, Exceeded};
use super::deadlines::Overdue;
use super::inbound::{MAX_PARSE_BYTES, Violation};
use super::outbound::ServerFault;
use super::prepared::MAX_CLIENT_STATEMENTS;
use super::presence::Fate;
use crate::pool::acquire::AcquireError;
use crate::pool::fault::ConnectFault;
use crate::pool::pinned::Pinned;
use crate::pool::reason::{Refusal, RefuseReason};
use crate::upstream::postgres::pins::{Cause, Pins};

/// What to do about a server that does not let us in.
const CHECK_LOGIN: &str =
    "Check the host, user and password that sidepool is configured with for this database, and whether the server runs.";

/// No server connection for this query. The client may stay and try again.
#[must_use]
pub fn no_connection(pool: &str, error: &AcquireError) -> Fault {
    let refusal = &error.refusal;
    let cause = error.fault.as_ref().map(|fault| fault.message.to_string());
    let fault = match refusal.reason {
        RefuseReason::QueueFull => Fault::error(SqlState::TOO_MANY_CONNECTIONS, format!("the queue of pool \"{pool}\" is full"))
            .with_hint(format!("{}; raise pool_size if the database has room, or max_queue_length if clients may wait longer.", retry(refusal))),
        RefuseReason::WouldTimeOut => Fault::error(SqlState::TOO_MANY_CONNECTIONS, format!("no connection of pool \"{pool}\" would come free in time (refuse_early)"))
            .with_hint(format!("{}; raise pool_size if the database has room, or query_wait_timeout if clients may wait longer.", retry(refusal))),
        RefuseReason::WaitTimeout => Fault::error(SqlState::TOO_MANY_CONNECTIONS, "query_wait_timeout").with_hint("Retry later; look for long transactions, raise pool_size if the database has room, or query_wait_timeout if clients may wait longer."),
        RefuseReason::UpstreamRefuses => servers_own(error.fault.as_deref()),
        RefuseReason::LoginFailing => Fault::error(
            SqlState::PROTOCOL_VIOLATION,
            format!("server login has been failing, cached error: {} (server_login_retry)", error.fault.as_deref().map_or("unknown", ConnectFault::words)),
        )
        .with_hint(CHECK_LOGIN),
        RefuseReason::Paused => Fault::error(SqlState::CANNOT_CONNECT_NOW, format!("pool \"{pool}\" is paused")).with_hint("An operator paused it; retry later."),
        RefuseReason::Draining => Fault::error(SqlState::ADMIN_SHUTDOWN, format!("pool \"{pool}\" is shutting down")).with_hint("Reconnect."),
    };
    fault.with_detail(facts(pool, refusal, cause.as_deref()))
}

/// When to come again, as far as the pace of the last moments tells.
fn retry(refusal: &Refusal) -> String {
    match refusal.retry_after {
        Some(after) => format!("Retry after {} ms", after.as_millis().max(1)),
        None => "Retry later".to_owned(),
    }
}

/// What the server said when it refused us, or what kept us from it.
fn servers_own(fault: Option<&ConnectFault>) -> Fault {
    let Some(fault) = fault else { return Fault::error(SqlState::UNABLE_TO_CONNECT, "the server refuses connections") };
    let code = fault.code.as_deref().and_then(|code| SqlState::parse(code.as_bytes()));
    Fault::error(code.unwrap_or(SqlState::UNABLE_TO_CONNECT), fault.words().to_owned()).with_hint(CHECK_LOGIN)
}

/// The server does not let a client in that has a connection of its own.
#[must_use]
pub fn server_refused(pool: &str, fault: &ConnectFault) -> Fault {
    let told = Fault { severity: Severity::Fatal, ..servers_own(Some(fault)) };
    told.with_detail(format!("Pool \"{pool}\": {}.", fault.message))
}

/// The numbers behind a refusal.
fn facts(pool: &str, refusal: &Refusal, cause: Option<&str>) -> String {
    let Refusal { connections, leased, pinned, max, waiters, queue_length, waited, wait_timeout, expected, retry_after: _, reason: _ } =
        refusal;
    let limit = wait_timeout.map_or_else(|| "unlimited".to_owned(), |limit| format!("{} ms", limit.as_millis()));
    let expected = expected.map(|expected| format!("; the next would wait for about {} ms", expected.as_millis())).unwrap_or_default();
    let cause = cause.map(|cause| format!(" The last attempt to connect failed: {cause}.")).unwrap_or_default();
    format!(
        "Pool \"{pool}\": {connections} of {max} connections open, {leased} in use{}; {waiters} waiting of {queue_length} allowed; waited {} ms of {limit}{expected}.{cause}",
        kept(pinned),
        waited.as_millis()
    )
}

/// How many connections are pinned, and for what; nothing where none is.
fn kept(pinned: &Pinned) -> String {
    if pinned.connections == 0 {
        return String::new();
    }
    let causes = Cause::ALL.into_iter().filter(|cause| pinned.by_cause[*cause as usize] > 0);
    let causes: Vec<String> = causes.map(|cause| format!("{} {}", cause.words(), pinned.by_cause[cause as usize])).collect();
    format!(", {} of them pinned: {}", pinned.connections, causes.join(", "))
}

/// What a client left would pin its connection, and as many are pinned as may be.
#[must_use]
pub(super) fn pinned_too_many(pool: &str, pins: Pins, (pinned, max): &(Pinned, u32)) -> Fault {
    let message = format!("pool \"{pool}\" keeps as many connections for single clients as it may (max_pinned_connections)");
    Fault::fatal(SqlState::TOO_MANY_CONNECTIONS, message)
        .with_detail(format!(
            "This one would have to be kept because of {}. There may be {max} of them at a time{}.",
            pins.words(),
            kept(pinned)
        ))
        .with_hint(format!("{}Raise max_pinned_connections if the pool has room.", remedies(pins)))
}

/// A text that may end a failed transaction and then ask for the value of a sequence, where that may be another client's.
#[must_use]
pub(super) fn values_of_others() -> Fault {
    Fault::error(SqlState::NOT_IN_PREREQUISITE_STATE, "the values of sequences on this connection may be another client's")
        .with_detail("They can be forgotten only outside of a failed transaction.")
        .with_hint("Send ROLLBACK by itself, and what asks for values (currval, lastval) after it.")
}

/// What others have drawn from sequences cannot be forgotten.
#[must_use]
pub(super) fn values_not_forgotten(cause: &str) -> Fault {
    Fault::error(SqlState::NOT_IN_PREREQUISITE_STATE, format!("the values of sequences on this connection may be another client's: {cause}"))
        .with_detail("DISCARD SEQUENCES has failed three times.")
        .with_hint("A short statement_timeout hinders it. If the server does not know the command, ask with INSERT ... RETURNING instead, or use pool_mode = \"session\".")
}

/// A client was idle for too long with a pinned connection.
#[must_use]
pub(super) fn pinned_too_long(pins: Pins, bounds: &Bounds) -> Fault {
    let bound = bounds.pin_idle.unwrap_or_default().as_millis();
    overdue(Overdue::Pin, bounds)
        .with_detail(format!(
            "A server connection was kept for this idle client because of {}. pin_idle_timeout is {bound} ms.",
            pins.words()
        ))
        .with_hint(format!("{}Raise pin_idle_timeout for this user if that is too short.", remedies(pins)))
}

/// What a client can do about its pins, in sentences.
fn remedies(pins: Pins) -> String {
    let sentence = |cause: Cause| {
        let remedy = cause.remedy();
        format!("{}{}. ", remedy[..1].to_ascii_uppercase(), &remedy[1..])
    };
    pins.iter().map(sentence).collect()
}

/// The query was cancelled while it waited.
#[must_use]
pub fn cancelled() -> Fault {
    Fault::error(SqlState::QUERY_CANCELED, "canceling statement due to user request")
        .with_detail("It was still waiting for a server connection and never ran.")
}

/// The client waits for a connection, and has done so for a while.
#[must_use]
pub(super) fn queued() -> Fault {
    let message = "No server connection available in postgres backend, client being queued";
    Fault { severity: Severity::Notice, ..Fault::error(SqlState::SUCCESSFUL_COMPLETION, message) }
}

/// As many clients of this database or user are connected as may be.
#[must_use]
pub(super) fn too_many_clients(exceeded: Exceeded) -> Fault {
    let (setting, max) = (exceeded.of.setting(), exceeded.max);
    Fault::fatal(SqlState::TOO_MANY_CONNECTIONS, format!("client connections exceeded ({setting})"))
        .with_detail(format!("There may be {max} of them at a time."))
        .with_hint(format!("Raise {setting}, or close client connections that are not in use."))
}

/// Something took longer than it may.
#[must_use]
pub(super) fn overdue(overdue: Overdue, bounds: &Bounds) -> Fault {
    // Class 25 is for mistakes in SQL: drivers do not take it for the end of the connection, which it is, as they do PgBouncer's code.
    let (sqlstate, message, setting, bound) = match overdue {
        Overdue::Query | Overdue::CancelledQuery => (SqlState::QUERY_CANCELED, "query timeout", "query_timeout", bounds.query),
        Overdue::QueuedQuery => (SqlState::QUERY_CANCELED, "query_timeout", "query_timeout", bounds.query),
        Overdue::IdleTransaction => {
            let bound = bounds.idle_transaction;
            (SqlState::PROTOCOL_VIOLATION, "idle transaction timeout", "idle_transaction_timeout", bound)
        }
        Overdue::Transaction => (SqlState::PROTOCOL_VIOLATION, "transaction timeout", "transaction_timeout", bounds.transaction),
        Overdue::Client => (SqlState::IDLE_SESSION_TIMEOUT, "client_idle_timeout", "client_idle_timeout", bounds.client_idle),
        Overdue::Stall => (SqlState::QUERY_CANCELED, "the client does not take its answer", "client_stall_timeout", bounds.stall),
        Overdue::Pin => (SqlState::IDLE_SESSION_TIMEOUT, "pin_idle_timeout", "pin_idle_timeout", bounds.pin_idle),
    };
    let bound = bound.unwrap_or_default().as_millis();
    let waited = if overdue == Overdue::QueuedQuery { " It was still waiting for a server connection and never ran." } else { "" };
    Fault::fatal(sqlstate, message)
        .with_detail(format!("{setting} is {bound} ms.{waited}"))
        .with_hint(format!("Raise {setting} for this user if that is too short."))
}

/// The connection that this session is bound to is to be closed.
#[must_use]
pub(super) fn reconfigured() -> Fault {
    Fault::fatal(SqlState::ADMIN_SHUTDOWN, "database configuration changed").with_hint("Reconnect.")
}

/// The client broke the protocol.
#[must_use]
pub fn violation(violation: Violation) -> Fault {
    match violation {
        Violation::Length(bad) => Fault::fatal(SqlState::PROTOCOL_VIOLATION, "invalid message length").with_detail(bad.to_string()),
        Violation::Tag(tag) => Fault::fatal(SqlState::PROTOCOL_VIOLATION, format!("invalid frontend message type {tag}")),
        Violation::Names(tag) => Fault::fatal(SqlState::PROTOCOL_VIOLATION, format!("malformed names in a {tag:?} message")),
        Violation::ParseTooLong(bytes) => {
            Fault::fatal(SqlState::PROGRAM_LIMIT_EXCEEDED, format!("a statement of {bytes} bytes is too long to prepare"))
                .with_detail(format!("The limit is {MAX_PARSE_BYTES} bytes."))
                .with_hint("Send it as a simple query, or its data with COPY.")
        }
        Violation::SimpleQuery => Fault::fatal(SqlState::PROTOCOL_VIOLATION, "PQexec disallowed")
            .with_detail("disable_pqexec forbids simple queries.")
            .with_hint("Let the driver use the extended query protocol (PQexecParams)."),
        Violation::Packet(start, length) => {
            let hex: String = start.iter().take(length).map(|byte| format!("{byte:02x}")).collect();
            Fault::fatal(SqlState::PROTOCOL_VIOLATION, format!("bad packet header: '{hex}'"))
                .with_detail("The message is longer than max_packet_size allows.")
                .with_hint("Raise max_packet_size, or send less at a time.")
        }
        Violation::TooManyStatements => Fault::fatal(SqlState::CONFIGURATION_LIMIT, "too many prepared statements")
            .with_detail(format!("A client may hold {MAX_CLIENT_STATEMENTS} named statements at a time."))
            .with_hint("Close statements that are no longer used."),
    }
}

/// The server connection was lost while the client used it.
#[must_use]
pub fn server_lost(pool: &str, cause: &str) -> Fault {
    Fault::fatal(SqlState::CONNECTION_FAILURE, format!("the server connection of pool \"{pool}\" was lost: {cause}"))
        .with_detail("Whether the statement in progress took effect is not known.")
        .with_hint("Reconnect; check whether the statement took effect before running it again.")
}

/// The server broke the protocol.
#[must_use]
pub fn server_fault(fault: ServerFault) -> String {
    match fault {
        ServerFault::Length(bad) => bad.to_string(),
        ServerFault::Tag(tag) => format!("the server sent an unknown message type 0x{tag:02x}"),
        ServerFault::Desync(desync) => desync.to_string(),
        ServerFault::Packet(bytes) => format!("the server sent a message of {bytes} bytes, and max_packet_size does not allow that"),
        ServerFault::Status => "the server sent a ReadyForQuery without a status".to_owned(),
    }
}

/// The client's session state could not be set on a server connection.
#[must_use]
pub fn state_not_set(message: &str) -> Fault {
    Fault::fatal(SqlState::INVALID_PARAMETER_VALUE, format!("the session's parameters could not be set on a server connection: {message}"))
        .with_hint("Check the parameters that the client sends when it connects.")
}

/// What the session has become could not be found out, so that it could not follow the client to another server connection.
#[must_use]
pub fn state_not_known(code: &str, message: &str) -> Fault {
    Fault::fatal(SqlState::INVALID_PARAMETER_VALUE, format!("the session's state could not be read back from the server: {message} ({code})"))
        .with_hint("Nothing of it has been given to another client. Settings that cancel the server's work at once (statement_timeout) hinder this, too.")
}

/// More of a session's state than is carried from connection to connection.
#[must_use]
pub fn state_too_large(error: ParameterError) -> Fault {
    Fault::fatal(
        SqlState::PROGRAM_LIMIT_EXCEEDED,
        format!("the session's parameters cannot follow it to another server connection: {error}"),
    )
    .with_hint("RESET those that are not needed any more, or use SET LOCAL; a database with pool_mode = \"session\" has no such limit.")
}

/// A transaction block in statement mode.
#[must_use]
pub fn no_transactions() -> Fault {
    Fault::fatal(SqlState::PROTOCOL_VIOLATION, "transaction blocks not allowed in statement pooling mode")
        .with_hint("Use a database entry with pool_mode = \"transaction\".")
}

/// Somebody else ended the session.
#[must_use]
pub fn ended(fate: Fate) -> Fault {
    match fate {
        Fate::Killed => Fault::fatal(SqlState::PROTOCOL_VIOLATION, "admin forced disconnect")
            .with_detail("An operator closed this connection on the admin console."),
        Fate::Removed => Fault::fatal(SqlState::PROTOCOL_VIOLATION, "database removed")
            .with_detail("It was taken out of the configuration, or an operator ended all its clients on the admin console (KILL)."),
        Fate::Memory => out_of_memory("closed because the pooler is running out of memory"),
    }
}

/// The proxy has all but used up its memory.
#[must_use]
pub fn out_of_memory(message: &'static str) -> Fault {
    Fault::fatal(SqlState::OUT_OF_MEMORY, message)
        .with_detail("It has reached the last part of memory_limit, or of the limit of its control group.")
        .with_hint("Connect again later; raise the limit, or let fewer clients in (max_client_conn).")
}

/// Nobody new is let in any more.
#[must_use]
pub fn closed() -> Fault {
    Fault::fatal(SqlState::CANNOT_CONNECT_NOW, "pooler is shutting down").with_hint("Connect again; another instance may have taken over.")
}

/// The proxy gives its servers up, and this client needs one.
#[must_use]
pub fn servers_going() -> Fault {
    Fault::fatal(SqlState::ADMIN_SHUTDOWN, "server shutting down").with_detail("The pooler is shutting down.").with_hint("Reconnect.")
}

/// The proxy is going away.
#[must_use]
pub fn draining() -> Fault {
    Fault::fatal(SqlState::ADMIN_SHUTDOWN, "terminating connection because sidepool is shutting down").with_hint("Reconnect.")
}
