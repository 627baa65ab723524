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
