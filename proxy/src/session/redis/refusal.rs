//! What clients are told when there is no upstream connection for them, or no longer: error lines with prefixes of our own, so that nobody
//! takes them for the server's.

use sidepool_protocol::redis::command::Command;

use super::bound::Full;
use super::turns::{Bounds, Outlook};
use crate::pool::acquire::AcquireError;
use crate::pool::fault::ConnectFaultKind;
use crate::pool::reason::RefuseReason;

/// For requests that were sent and whose answer never came.
pub const LOST: &str =
    "UPSTREAM the connection to the server was lost; the outcome of this command is unknown: it may or may not have been executed";
/// For reads that were sent, were lost, and had waited too long to wait for another connection.
pub const LOST_READ: &str =
    "UPSTREAM the connection to the server was lost before it answered this read, and there was no other one within query_wait_timeout";
/// For requests whose answer takes longer than `request_timeout`.
pub const TOO_LATE: &str =
    "UPSTREAM the server did not answer within request_timeout; the outcome of this command is unknown: it may or may not be executed";
/// For commands of a transaction whose connection was lost before `EXEC`.
pub const TRANSACTION_LOST: &str = "UPSTREAM the connection to the server was lost inside this transaction; nothing of it was executed";
/// For `EXEC` of such a transaction.
pub const EXECABORT_LOST: &str = "EXECABORT Transaction discarded because the connection to the server was lost.";
/// For `EXEC` of a transaction in which something stood that cannot be queued through sidepool.
pub const EXECABORT: &str = "EXECABORT Transaction discarded because of previous errors.";

/// For commands that a subscribed RESP2 client may not send.
#[must_use]
pub fn while_subscribed(name: &[u8], command: Option<&Command>) -> String {
    let name = command.map_or_else(|| String::from_utf8_lossy(name).to_ascii_lowercase(), |command| command.name.to_owned());
    // Of EXEC, every refusal is an abort.
    let (code, before) = if name == "exec" { ("EXECABORT", "Transaction discarded because of: ") } else { ("ERR", "") };
    format!(
        "{code} {before}Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"
    )
}

/// The line for a refused lease.
#[must_use]
pub fn line(error: &AcquireError) -> String {
    if let Some(fault) = &error.fault {
        return match (fault.kind, fault.code.as_deref()) {
            // Clients know these words and wait.
            (ConnectFaultKind::Unavailable, Some("LOADING" | "BUSY" | "MASTERDOWN")) => fault.words().to_owned(),
            (_, Some("NOPERM")) => fault.words().to_owned(),
            (ConnectFaultKind::NoDatabase, _) => sidepool_protocol::redis::handshake::DB_OUT_OF_RANGE.to_owned(),
            (_any_other, _) => format!("UPSTREAM {error}"),
        };
    }
    match error.refusal.reason {
        RefuseReason::QueueFull | RefuseReason::WaitTimeout | RefuseReason::WouldTimeOut => {
            let again = error.refusal.retry_after.map(|after| format!("Retry after {} ms; raise", after.as_millis().max(1)));
            let again = again.as_deref().unwrap_or("Raise");
            format!("POOLEXHAUSTED {error}. {again} pool_size, or send fewer blocking commands and transactions at a time.")
        }
        RefuseReason::UpstreamRefuses | RefuseReason::LoginFailing | RefuseReason::Paused | RefuseReason::Draining => {
            format!("UPSTREAM {error}")
        }
    }
}

/// The line for what a full lane, one for `heavy` commands or another, had no room for. Nothing of it was sent.
#[must_use]
pub fn crowded(pool: &str, heavy: bool, reason: RefuseReason, waiting: usize, bounds: Bounds, outlook: Option<Outlook>) -> String {
    let Bounds { length, patience, refuse_early: _, waited: _ } = bounds;
    let limit = patience.unwrap_or_default();
    let but = match reason {
        RefuseReason::QueueFull => "the line before them is full".to_owned(),
        RefuseReason::WouldTimeOut => {
            let expected = outlook.map_or(limit, |outlook| outlook.expected).as_millis();
            format!("they would take this client's in about {expected} ms, which is longer than query_wait_timeout ({limit:?})")
        }
        RefuseReason::WaitTimeout
        | RefuseReason::UpstreamRefuses
        | RefuseReason::LoginFailing
        | RefuseReason::Paused
        | RefuseReason::Draining => format!("they took none of this client's within query_wait_timeout ({limit:?})"),
    };
    let again = outlook.map(|outlook| format!("Retry after {} ms; the", outlook.again.as_millis().max(1)));
    let again = again.as_deref().unwrap_or("The");
    // There is one for these on each worker, whatever is configured.
    let (of_them, advice) = match heavy {
        true => (" for commands that take long", "send fewer of these at a time"),
        false => ("", "send fewer commands at a time, or raise shared_connections"),
    };
    format!(
        "POOLEXHAUSTED the shared connections of pool \"{pool}\"{of_them} have as many unanswered commands as they take, and {but} \
         ({waiting} of at most {length} clients waiting). It was not executed. {again} server answers more slowly than clients ask: {advice}."
    )
}

/// The line for a client that may not hold a connection because too many others do who wait.
#[must_use]
pub fn full(pool: &str, Full { reason, most }: Full) -> String {
    let but = match reason {
        RefuseReason::QueueFull => "the queue for them is full",
        RefuseReason::WaitTimeout | RefuseReason::WouldTimeOut => "none came free within query_wait_timeout",
        RefuseReason::UpstreamRefuses | RefuseReason::LoginFailing | RefuseReason::Paused | RefuseReason::Draining => {
            "no more are given out"
        }
    };
    format!(
        "POOLEXHAUSTED all {most} connections of pool \"{pool}\" that blocking commands, MONITOR and tracking may hold are held, and {but}. \
         Raise blocking_connections or pool_size, or block in fewer clients at a time."
    )
}
