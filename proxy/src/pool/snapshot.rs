//! The state of a pool at one moment, as plain numbers: for metrics, the console and the logs.

use std::time::Duration;

use super::pinned::Pinned;
use super::reason::Failure;

/// One pool at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// Being opened.
    pub connecting: u32,
    /// Open and free.
    pub idle: u32,
    /// In use.
    pub leased: u32,
    /// Being cleaned.
    pub resetting: u32,
    /// Being asked whether they are alive.
    pub probing: u32,
    /// Being closed.
    pub closing: u32,
    /// To be closed when nobody uses them any more.
    pub retiring: u32,
    /// Of those in use, the ones that sessions keep past their transactions.
    pub pinned: Pinned,
    /// The most that they may.
    pub max_pinned: u32,
    /// Most connections.
    pub max: u32,
    /// Beyond these, for somebody who has waited for too long.
    pub reserve: u32,
    /// Of these, as many as the server has room for: fewer for a while after it refused one.
    pub room: u32,
    /// Kept open even when idle.
    pub min: u32,
    /// Sessions in the queue.
    pub waiters: u32,
    /// Most sessions in the queue.
    pub queue_length: u32,
    /// How long the oldest waiter has waited.
    pub oldest_wait: Option<Duration>,
    /// For how long, in all, sessions have waited while every connection that is allowed was open.
    pub saturated: Duration,
    /// Connect attempts that failed since one worked.
    pub failures: u32,
    /// Whether waiting would have helped, the last time a connect failed; `None` after one that worked.
    pub last_failure: Option<Failure>,
    /// How long no connect is tried.
    pub retry_in: Option<Duration>,
    /// Whether an operator paused the pool.
    pub paused: bool,
    /// Whether the pool drains.
    pub draining: bool,
}

impl Snapshot {
    /// Connections in any state.
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.connecting + self.idle + self.leased + self.resetting + self.probing + self.closing
    }
}
