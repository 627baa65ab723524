//! What clients that listen are told when something is not as it should be.

use sidepool_protocol::postgres::fault::{Fault, Severity, SqlState};
use sidepool_protocol::postgres::subscriber::Refusal;

use super::listener::Why;
use super::{MAX_CHANNELS, MAX_CLIENT_CHANNELS, MAX_INBOX_BYTES};
use crate::pool::acquire::AcquireError;

/// The client listens to as many channels as it may.
#[must_use]
pub(super) fn too_many_channels() -> Fault {
    Fault::error(SqlState::CONFIGURATION_LIMIT, format!("too many channels: a client may listen to {MAX_CLIENT_CHANNELS}"))
        .with_hint("UNLISTEN channels that are not needed, or send what tells them apart in the payload.")
}

/// All clients together listen to as many channels as they may.
#[must_use]
pub(super) fn too_many_channels_in_all() -> Fault {
    Fault::error(SqlState::CONFIGURATION_LIMIT, format!("too many channels: clients of one database may listen to {MAX_CHANNELS}"))
        .with_hint("Use fewer channels, and send what tells them apart in the payload.")
}

/// There is no connection that could listen.
#[must_use]
pub(super) fn no_connection(error: &AcquireError) -> Fault {
    Fault::error(SqlState::TOO_MANY_CONNECTIONS, "cannot listen: there is no server connection for notifications")
        .with_detail(format!("{error}."))
        .with_hint("One connection per database listens for all clients. It counts toward max_db_connections and max_user_connections, and not toward pool_size.")
}

/// There may not be one beside those that run queries.
#[must_use]
pub(super) fn too_few_connections(max: u32) -> Fault {
    Fault::error(SqlState::CONFIGURATION_LIMIT, "cannot listen: there may be no server connection for notifications")
        .with_detail(format!("max_db_connections or max_user_connections is {max}, and that one has to run the queries."))
        .with_hint("Raise the limit by one: one connection per database listens for all clients.")
}

/// The database is gone from the configuration.
#[must_use]
pub(super) fn no_database() -> Fault {
    Fault::error(SqlState::INVALID_CATALOG_NAME, "cannot listen: the database is not configured any more").with_hint("Reconnect.")
}

/// The server does not want it.
#[must_use]
pub(super) fn refused(refusal: &Refusal) -> Fault {
    let code = refusal.sqlstate.unwrap_or(SqlState::UNABLE_TO_CONNECT);
    Fault::error(code, refusal.message.clone())
        .with_detail("The server said so to the connection that listens for all clients of the database.")
}

/// Why a client that listens is closed.
#[must_use]
pub(super) fn farewell(why: Why) -> Fault {
    match why {
        Why::TooSlow => Fault::fatal(SqlState::CONFIGURATION_LIMIT, "too many notifications wait for this client")
            .with_detail(format!("More than {MAX_INBOX_BYTES} bytes of them were not read."))
            .with_hint("Read notifications as they come, and keep transactions short on connections that listen."),
        Why::Gap => Fault::fatal(SqlState::ADMIN_SHUTDOWN, "terminating connection because notifications may have been lost")
            .with_detail("The server connection that listens for the clients of this database was lost.")
            .with_hint(
                "Reconnect, LISTEN again, and read again what the notifications are about. listen_gap = \"warn\" keeps such clients.",
            ),
        Why::Gone => Fault::fatal(SqlState::ADMIN_SHUTDOWN, "terminating connection because its database is not configured any more"),
    }
}

/// Notifications may have been lost, and the client stays.
#[must_use]
pub(super) fn missed() -> Fault {
    let warning = Fault::error(SqlState::WARNING, "notifications may have been lost");
    Fault { severity: Severity::Warning, ..warning }
        .with_detail("The server connection that listens for the clients of this database was lost.")
        .with_hint("Read again what the notifications are about.")
}
