//! The one place that asks what time it is. Everything else is handed the time as an argument, so that tests can choose it.

use std::time::{Duration, Instant, SystemTime};

use nix::time::{ClockId, clock_gettime};

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
    u32::try_from(read(ClockId::CLOCK_MONOTONIC_COARSE).as_secs()).unwrap_or(u32::MAX)
}

/// The system's monotonic clock in microseconds, as service managers compare it with their own.
#[must_use]
pub fn monotonic_micros() -> i64 {
    i64::try_from(read(ClockId::CLOCK_MONOTONIC).as_micros()).unwrap_or(i64::MAX)
}

/// CPU time used by this process.
#[must_use]
pub fn process_cpu() -> Duration {
    read(ClockId::CLOCK_PROCESS_CPUTIME_ID)
}

/// CPU time used by the calling thread.
#[must_use]
pub fn thread_cpu() -> Duration {
    read(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

/// By way of the C library: its way around the system call works under valgrind, too.
fn read(clock: ClockId) -> Duration {
    // These clocks are there on every Linux.
    clock_gettime(clock).map(Duration::from).unwrap_or_default()
}
