//! The one place that asks what time it is. Everything else is handed the time as an argument, so that tests can choose it.

use std::time::{Instant, SystemTime};

/// The monotonic time, as the runtime's timers see it: a test that pauses them pauses this.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the place the ban points to")]
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The time of day, for log lines and metrics that people compare between machines.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the place the ban points to")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// Seconds since some moment, for what may be a hundredth of a second behind: costs next to nothing.
#[must_use]
pub fn coarse_seconds() -> u32 {
    u32::try_from(rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse).tv_sec).unwrap_or(u32::MAX)
}

/// The system's monotonic clock in microseconds, as service managers compare it with their own.
#[must_use]
pub fn monotonic_micros() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1_000)
}
