//! Which cell a command or an error adds to.

use sidepool_protocol::redis::command::Kind;

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
        _any_other_word => PoolCounter::ErrorOtherWord,
    }
}
