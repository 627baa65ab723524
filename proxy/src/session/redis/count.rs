//! Which cell a command, an error, a lease or a retry adds to.

use sidepool_protocol::redis::command::{Handling, Kind};

use super::redo::NotExecuted;
use crate::observe::record::PoolCounter;

/// The cell of a command.
#[must_use]
pub fn command(kind: Kind) -> PoolCounter {
    match kind {
        Kind::Read => PoolCounter::CommandRead,
        Kind::Write => PoolCounter::CommandWrite,
        Kind::Blocking => PoolCounter::CommandBlocking,
        Kind::PubSub => PoolCounter::CommandPubsub,
        Kind::Transaction => PoolCounter::CommandTransaction,
        Kind::Script => PoolCounter::CommandScript,
        Kind::Connection => PoolCounter::CommandConnection,
        Kind::Admin => PoolCounter::CommandAdmin,
    }
}

/// The cell of an error line of the server, by its first word.
#[must_use]
pub fn server_error(line: &[u8]) -> PoolCounter {
    let word = line.get(1..).unwrap_or_default().split(|byte| *byte == b' ' || *byte == b'\r').next().unwrap_or_default();
    match word {
        b"ERR" => PoolCounter::ErrorErr,
        b"WRONGTYPE" => PoolCounter::ErrorWrongType,
        b"NOPERM" => PoolCounter::ErrorNoPerm,
        b"OOM" => PoolCounter::ErrorOom,
        b"LOADING" => PoolCounter::ErrorLoading,
        b"BUSY" => PoolCounter::ErrorBusy,
        b"READONLY" => PoolCounter::ErrorReadOnly,
        b"NOSCRIPT" => PoolCounter::ErrorNoScript,
        b"EXECABORT" => PoolCounter::ErrorExecAbort,
        b"MOVED" => PoolCounter::ErrorMoved,
        b"ASK" => PoolCounter::ErrorAsk,
        b"TRYAGAIN" => PoolCounter::ErrorTryAgain,
        b"CLUSTERDOWN" => PoolCounter::ErrorClusterDown,
        b"MASTERDOWN" => PoolCounter::ErrorMasterDown,
        _any_other_word => PoolCounter::ErrorOtherWord,
    }
}

/// The cell of a lease for this command; `None`: something that the table does not have, or too large to be looked at.
#[must_use]
pub fn lease(handling: Option<Handling>) -> PoolCounter {
    match handling {
        Some(Handling::Multi) => PoolCounter::LeasedTransaction,
        Some(Handling::Watch) => PoolCounter::LeasedWatch,
        Some(Handling::Block | Handling::ShareUnlessBlock) => PoolCounter::LeasedBlocking,
        Some(Handling::Wait) => PoolCounter::LeasedWait,
        Some(Handling::Monitor) => PoolCounter::LeasedMonitor,
        Some(Handling::Tracking) => PoolCounter::LeasedTracking,
        None => PoolCounter::LeasedLarge,
        Some(_any_other) => PoolCounter::LeasedOther,
    }
}

/// The cell of a command that is asked again.
#[must_use]
pub fn retry(why: NotExecuted) -> PoolCounter {
    match why {
        NotExecuted::NoScript => PoolCounter::RetriedScript,
        NotExecuted::NotNow => PoolCounter::RetriedBusy,
        NotExecuted::NotHere => PoolCounter::RetriedReadOnly,
    }
}
