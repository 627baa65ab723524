//! The numbers a pool core obeys. They are inputs and may change at any moment: a reload, a console and a controller all call `resize`.

use std::time::Duration;

use sidepool_config::model::PoolLimits;

/// PgBouncer's default `server_check_delay`.
const PROBE_AFTER: Duration = Duration::from_secs(30);

/// PgBouncer's default `server_login_retry`: it fails clients at once for so long after one failed login.
const LONG_OUTAGE: Duration = Duration::from_secs(15);

/// The limits of one pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most connections, those being opened included.
    pub max: u32,
    /// Connections kept open even when idle.
    pub min: u32,
    /// Most waiters.
    pub queue_length: u32,
    /// Longest wait; `None`: for ever.
    pub wait_timeout: Option<Duration>,
    /// Idle connections above `min` are closed after this.
    pub idle_timeout: Option<Duration>,
    /// Connections are replaced after this, spread by up to a tenth.
    pub lifetime: Option<Duration>,
    /// An idle connection that was not heard of for this long is asked whether it is alive.
    pub probe_after: Option<Duration>,
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

/// Longer times are as good as this, and adding them to the clock must not overflow it.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

impl Limits {
    /// The same limits with times that can be added to a clock, and none for zero, as in the settings.
    #[must_use]
    pub(super) fn bounded(self) -> Self {
        let bounded = |time: Option<Duration>| time.filter(|time| !time.is_zero()).map(|time| time.min(LONGEST));
        Self {
            wait_timeout: bounded(self.wait_timeout),
            idle_timeout: bounded(self.idle_timeout),
            lifetime: bounded(self.lifetime),
            probe_after: bounded(self.probe_after),
            backoff_initial: self.backoff_initial.min(LONGEST),
            backoff_max: self.backoff_max.min(LONGEST),
            ..self
        }
    }
}

/// An upstream that has been away for longer than anybody may wait, or for long enough to doubt that it comes back soon, is not waited for.
fn fail_fast_after(config: &PoolLimits) -> Duration {
    let longest_wait = if config.query_wait_timeout.is_zero() { LONG_OUTAGE } else { config.query_wait_timeout.min(LONG_OUTAGE) };
    longest_wait.max(config.server_login_retry)
}

impl From<&PoolLimits> for Limits {
    fn from(config: &PoolLimits) -> Self {
        let unless_zero = |duration: Duration| (!duration.is_zero()).then_some(duration);
        Self {
            max: config.pool_size,
            min: config.min_pool_size,
            queue_length: config.max_queue_length,
            wait_timeout: unless_zero(config.query_wait_timeout),
            idle_timeout: unless_zero(config.server_idle_timeout),
            lifetime: unless_zero(config.server_lifetime),
            probe_after: Some(PROBE_AFTER),
            connect_parallelism: config.server_connect_parallelism,
            backoff_initial: config.server_connect_backoff,
            backoff_max: config.server_login_retry,
            fail_fast_after: Some(fail_fast_after(config)),
            affinity_patience: Duration::from_millis(5),
        }
    }
}
