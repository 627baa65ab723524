//! Names of connections and waiters. A name is never used twice: the slot may be, the generation then differs.

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
}

/// Names a client identity between which the queue is fair. All clients alike: `IdentityId(0)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct IdentityId(pub u32);
