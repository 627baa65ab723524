//! Why the pool did what it did. The same enums are log fields and metric labels.

use std::time::Duration;

use super::pinned::Pinned;

/// Why a connection is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OpenReason {
    /// Somebody waits.
    Demand,
    /// Fewer than the minimum are open, or will be when one that is in use reaches its age.
    Minimum,
}

/// Why a connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// Idle for longer than `server_idle_timeout`.
    Idle,
    /// Older than `server_lifetime`.
    Lifetime,
    /// More are open than the (new) limit allows.
    Shrunk,
    /// Released as broken, or its lease was dropped unreleased.
    Broken,
    /// Another pool of the same database or user needed it more: there may be no more of them together.
    Evicted,
    /// The server closed it while it was idle.
    ServerClosed,
    /// Its reset failed or took too long.
    ResetFailed,
    /// A probe got no answer.
    ProbeFailed,
    /// The address or the credentials it was opened with are no longer the configured ones.
    Stale,
    /// A client's statement wants nobody else to be connected to the database.
    Asked,
    /// An operator paused the pool.
    Paused,
    /// The pool drains.
    Drain,
}

/// Why a waiter gets no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefuseReason {
    /// The queue is full.
    QueueFull,
    /// It waited for the longest allowed time.
    WaitTimeout,
    /// It would have waited for longer than it may, at the pace of the last moments.
    WouldTimeOut,
    /// While it waited, the upstream refused us for a reason that waiting does not mend (wrong password, no such database), or has been away for
    /// so long that nobody is to wait any more.
    UpstreamRefuses,
    /// The upstream did so a moment ago, or is away for so long, and nobody has to wait to learn it.
    LoginFailing,
    /// The pool is paused by an operator, and the queue is full or the wait was too long.
    Paused,
    /// The pool drains.
    Draining,
}

/// Whether a failed connect is worth waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// It may work in a moment: refused, timed out, shutting down.
    Transient,
    /// The server has no room for another connection: who waits gets one of those there are.
    Full,
    /// The server is there and will take connections soon: whoever waits goes on waiting.
    Starting,
    /// It will not until somebody changes something: wrong password. Waiters are told at once.
    Permanent,
    /// As [`Failure::Permanent`], but what is missing may be made at any time: it is looked for again soon.
    Missing,
}

/// In what state a lease is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Condition {
    /// Nobody has used it: it was only looked at.
    Unused,
    /// As good as new.
    Clean,
    /// Usable after a reset.
    Dirty,
    /// Of no use to anybody.
    Broken,
    /// The server has closed it.
    Lost,
}

/// A refusal with the facts that its message shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: RefuseReason,
    /// Connections open or opening at that moment.
    pub connections: u32,
    /// Of those, how many were leased.
    pub leased: u32,
    /// Of those, how many were pinned.
    pub pinned: Pinned,
    /// The most there may be.
    pub max: u32,
    /// Who else was waiting.
    pub waiters: u32,
    /// How many may.
    pub queue_length: u32,
    /// How long this one had waited.
    pub waited: Duration,
    /// How long this one may.
    pub wait_timeout: Option<Duration>,
    /// How long one more would wait at the pace of the last moments, if there is one.
    pub expected: Option<Duration>,
    /// After how long there is room in the queue, and a wait that is not too long, at that pace.
    pub retry_after: Option<Duration>,
}
