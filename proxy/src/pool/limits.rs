//! The numbers a pool core obeys. They are inputs and may change at any moment: a reload, a console and a controller all call `resize`.

use std::time::Duration;

use sidepool_config::model::PoolLimits;

/// PgBouncer's default `server_login_retry`: it fails clients at once for so long after one failed login.
const LONG_OUTAGE: Duration = Duration::from_secs(15);

/// The limits of one pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most connections, those being opened included.
    pub max: u32,
    /// Connections kept open even when idle, while the pool has a client.
    pub min: u32,
    /// Whether they are kept without any client, too.
    pub min_always: bool,
    /// Connections kept ready beside those in use, within `max`, while the pool has a client.
    pub spare: u32,
    /// Connections beyond `max`, for when somebody has waited for `reserve_after`.
    pub reserve: u32,
    /// How long a session has to have waited to get one of the reserve; `None`: there is no reserve.
    pub reserve_after: Option<Duration>,
    /// Most connections that sessions may keep past their transactions.
    pub max_pinned: u32,
    /// Most waiters.
    pub queue_length: u32,
    /// Longest wait of a session that has no patience of its own; `None`: for ever.
    pub wait_timeout: Option<Duration>,
    /// Whether who would wait for longer than it may is refused at once.
    pub refuse_early: bool,
    /// Who has waited for so long is told that it waits.
    pub notify_after: Option<Duration>,
    /// Idle connections above `min` are closed after this.
    pub idle_timeout: Option<Duration>,
    /// Connections are replaced after this, spread by up to a tenth.
    pub lifetime: Option<Duration>,
    /// Connections are closed when they come back.
    pub used_once: bool,
    /// An idle connection that was not heard of for this long is asked whether it is alive.
    pub probe_after: Option<Duration>,
    /// Whether each connection is asked before it is used again.
    pub probe_always: bool,
    /// Whether the connection that was idle longest is used next, instead of the one used last.
    pub round_robin: bool,
    /// How many connections are opened at the same time.
    pub connect_parallelism: u32,
    /// First pause after a failed connect.
    pub backoff_initial: Duration,
    /// Longest pause after failed connects.
    pub backoff_max: Duration,
    /// When connects have failed for so long, nobody waits for one any more; `None`: everybody waits as long as they may.
    pub fail_fast_after: Option<Duration>,
    /// With several workers: how much longer than a waiter of its own worker a waiter elsewhere must have waited before a released connection
    /// moves to it, when the other worker has connections of its own that will come free.
    pub affinity_patience: Duration,
}

/// As long as a connect may take by default.
const LONGEST_HEAD_START: Duration = Duration::from_secs(15);

/// Longer times are as good as this, and adding them to the clock must not overflow it.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

impl Limits {
    /// The same limits with times that can be added to a clock, and none for zero, as in the settings.
    #[must_use]
    pub(super) fn bounded(self) -> Self {
        Self {
            reserve_after: bounded(self.reserve_after),
            reserve: if bounded(self.reserve_after).is_some() { self.reserve } else { 0 },
            wait_timeout: bounded(self.wait_timeout),
            notify_after: bounded(self.notify_after),
            idle_timeout: bounded(self.idle_timeout),
            lifetime: bounded(self.lifetime),
            probe_after: bounded(self.probe_after),
            backoff_initial: self.backoff_initial.min(LONGEST),
            backoff_max: self.backoff_max.min(LONGEST),
            ..self
        }
    }

    /// Whether it makes a difference if the pool has clients.
    #[must_use]
    pub(super) fn minds_members(&self) -> bool {
        self.spare > 0 || (self.min > 0 && !self.min_always)
    }

    /// How long before a connection that is in use reaches its age its successor is opened.
    #[must_use]
    pub(super) fn head_start(&self) -> Duration {
        self.lifetime.map_or(Duration::ZERO, |lifetime| (lifetime / 10).min(LONGEST_HEAD_START))
    }

    /// The most connections there may ever be.
    #[must_use]
    pub fn most(&self) -> u32 {
        self.max.saturating_add(self.reserve)
    }
}

/// A time that may be added to a clock; zero is none.
#[must_use]
pub(super) fn bounded(time: Option<Duration>) -> Option<Duration> {
    time.filter(|time| !time.is_zero()).map(|time| time.min(LONGEST))
}

/// An upstream that has been away for longer than anybody may wait, or for long enough to doubt that it comes back soon, is not waited for.
fn fail_fast_after(config: &PoolLimits) -> Duration {
    let longest_wait = if config.query_wait_timeout.is_zero() { LONG_OUTAGE } else { config.query_wait_timeout.min(LONG_OUTAGE) };
    longest_wait.max(config.server_login_retry)
}

/// How many connections may be pinned: never more than there may be.
fn most_pinned(config: &PoolLimits) -> u32 {
    let max = if config.pool_size == 0 { u32::MAX } else { config.pool_size };
    if config.max_pinned_connections == 0 { (max / 2).max(1) } else { config.max_pinned_connections.min(max) }
}

impl From<&PoolLimits> for Limits {
    fn from(config: &PoolLimits) -> Self {
        let unless_zero = |duration: Duration| (!duration.is_zero()).then_some(duration);
        Self {
            max: if config.pool_size == 0 { u32::MAX } else { config.pool_size },
            min: config.min_pool_size,
            min_always: true,
            spare: 0,
            reserve: config.reserve_pool_size,
            reserve_after: unless_zero(config.reserve_pool_timeout),
            max_pinned: most_pinned(config),
            queue_length: config.max_queue_length,
            wait_timeout: unless_zero(config.query_wait_timeout),
            refuse_early: config.refuse_early,
            notify_after: None,
            idle_timeout: unless_zero(config.server_idle_timeout),
            lifetime: unless_zero(config.server_lifetime).filter(|_| !config.is_used_once()),
            used_once: config.is_used_once(),
            probe_after: unless_zero(config.server_check_delay),
            probe_always: config.server_check_delay.is_zero(),
            round_robin: config.server_round_robin,
            connect_parallelism: config.server_connect_parallelism,
            backoff_initial: config.server_connect_backoff,
            backoff_max: config.server_login_retry,
            fail_fast_after: Some(fail_fast_after(config)),
            affinity_patience: Duration::from_millis(5),
        }
    }
}
