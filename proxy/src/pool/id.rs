//! Names of connections and waiters. A name is never used twice: the slot may be, the generation then differs.

use std::time::Duration;

use crate::worker::WorkerId;

/// Names an upstream connection of one pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    /// Index into whatever table holds the connection.
    pub slot: u32,
    /// Which user of the slot this is.
    pub generation: u32,
}

/// Names a session waiting in one pool's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WaiterId {
    /// Index into whatever table holds the waiter.
    pub slot: u32,
    /// Which user of the slot this is.
    pub generation: u32,
    /// Where its worker keeps what it gets: the slot may have a new user before the session has looked.
    pub seat: u32,
}

/// Names a client identity between which the queue is fair: a small number (`identities`). All clients alike: `IdentityId(0)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct IdentityId(pub u16);

/// A session that asks for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    /// Where it is.
    pub worker: WorkerId,
    /// For whom it asks.
    pub identity: IdentityId,
    /// Where its worker will keep what it gets, if it has to wait.
    pub seat: u32,
    /// How long it waits at most: `None`, as long as the pool's limits say; zero, for ever.
    pub patience: Option<Duration>,
}
