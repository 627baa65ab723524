//! What a pool tells a scrape: who it is, its cells, and the state of its queue and connections as plain numbers.

use std::sync::Arc;
use std::time::Duration;

use super::record::{PoolNumbers, Scope};

/// Which protocol a pool speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// PostgreSQL.
    Postgres,
    /// Redis.
    Redis,
}

impl Protocol {
    /// Its name as a label value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Redis => "redis",
        }
    }

    /// Whether pools of this protocol have series of that scope.
    #[must_use]
    pub const fn has(self, scope: Scope) -> bool {
        match scope {
            Scope::Both => true,
            Scope::Postgres => matches!(self, Self::Postgres),
            Scope::Redis => matches!(self, Self::Redis),
        }
    }
}

/// Who a pool is: the labels of `sidepool_pool_info`. Names come from the configuration alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolInfo {
    /// Which protocol it speaks.
    pub protocol: Protocol,
    /// The database on the upstream.
    pub database: Arc<str>,
    /// The upstream user.
    pub user: Arc<str>,
    /// When connections come back: `transaction`, `session`, `statement`, or `multiplexed`.
    pub mode: &'static str,
    /// Where the upstream is.
    pub upstream: Arc<str>,
}

/// One pool as its worker sees it: a copy, on its way to the control thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolReport {
    /// The pool's name: a label value, unique in the process.
    pub name: Arc<str>,
    /// Who it is.
    pub info: PoolInfo,
    /// This worker's cells.
    pub numbers: PoolNumbers,
    /// The state of the pool, which all workers share: it is taken once, not added up.
    pub state: PoolState,
    /// Who waits on this worker for something else than a connection of the pool.
    pub line: Line,
}

impl PoolReport {
    /// The first report of a pool: what others add is what they have apart from the state.
    #[must_use]
    pub fn first(mut self) -> Self {
        self.state.line_up(&std::mem::take(&mut self.line));
        self
    }

    /// Adds what another worker has to say of the same pool.
    pub fn add(&mut self, other: &Self) {
        self.numbers.add(&other.numbers);
        self.state.line_up(&other.line);
    }
}

/// Those who wait for room on connections that clients share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Line {
    /// So many.
    pub waiters: u32,
    /// The most that may.
    pub limit: u32,
    /// How long the oldest has waited.
    pub oldest: Duration,
}

/// The state of a pool at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolState {
    /// Connections being opened.
    pub connecting: u32,
    /// Connections nobody uses.
    pub idle: u32,
    /// Connections that sessions hold.
    pub leased: u32,
    /// Connections being brought back to the state of new ones.
    pub resetting: u32,
    /// Connections being asked whether they are alive.
    pub probing: u32,
    /// Connections being closed.
    pub closing: u32,
    /// Of the leased ones, those that sessions keep past their transactions,
    pub pinned: u32,
    /// those of them for each cause,
    pub pinned_by: [u32; 7],
    /// and the most that they may.
    pub max_pinned: u32,
    /// The most there may be.
    pub max: u32,
    /// How many beyond those, for somebody who has waited for too long.
    pub reserve: u32,
    /// The most that the server has room for, as far as it has said.
    pub room: u32,
    /// How many are kept open.
    pub min: u32,
    /// Sessions that wait,
    pub waiters: u32,
    /// and how many of them wait for room on a connection that clients share.
    pub in_line: u32,
    /// The most that may.
    pub queue_limit: u32,
    /// How long the oldest has waited.
    pub oldest_wait: Duration,
    /// For how long, all in all, sessions waited because every connection was in use.
    pub saturated: Duration,
    /// Whether an operator paused it.
    pub paused: bool,
    /// Whether the last attempt to open a connection worked (or none was made).
    pub up: bool,
    /// What the last attempt failed with, if it did.
    pub trouble: Option<Trouble>,
    /// How long no connection is tried, after attempts that failed.
    pub retry_in: Option<Duration>,
    /// Whether nobody is served any more.
    pub draining: bool,
}

/// Why no connection could be opened, the last time one was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Nobody answers there, or not in time.
    Away,
    /// The server has no room for another connection.
    Full,
    /// The server is starting up.
    Starting,
    /// The server refuses the login.
    Denied,
    /// What was asked for is not there.
    Missing,
}

impl Trouble {
    /// In the status document.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::Full => "full",
            Self::Starting => "starting",
            Self::Denied => "denied",
            Self::Missing => "missing",
        }
    }
}

impl PoolState {
    /// These wait, too.
    fn line_up(&mut self, line: &Line) {
        self.waiters = self.waiters.saturating_add(line.waiters);
        self.in_line = self.in_line.saturating_add(line.waiters);
        self.queue_limit = self.queue_limit.saturating_add(line.limit);
        self.oldest_wait = self.oldest_wait.max(line.oldest);
    }

    /// Adds the state of another pool, as if the two were one.
    pub fn add(&mut self, other: &Self) {
        let counts = [
            (&mut self.connecting, other.connecting),
            (&mut self.idle, other.idle),
            (&mut self.leased, other.leased),
            (&mut self.resetting, other.resetting),
            (&mut self.probing, other.probing),
            (&mut self.closing, other.closing),
            (&mut self.pinned, other.pinned),
            (&mut self.max_pinned, other.max_pinned),
            (&mut self.max, other.max),
            (&mut self.reserve, other.reserve),
            (&mut self.room, other.room),
            (&mut self.min, other.min),
            (&mut self.waiters, other.waiters),
            (&mut self.in_line, other.in_line),
            (&mut self.queue_limit, other.queue_limit),
        ];
        for (sum, more) in counts.into_iter().chain(self.pinned_by.iter_mut().zip(other.pinned_by)) {
            *sum = sum.saturating_add(more);
        }
        self.oldest_wait = self.oldest_wait.max(other.oldest_wait);
        self.saturated = self.saturated.saturating_add(other.saturated);
        self.paused |= other.paused;
        self.up &= other.up;
        self.trouble = self.trouble.or(other.trouble);
        self.retry_in = self.retry_in.max(other.retry_in);
        self.draining |= other.draining;
    }
}
