//! What takes so long that the log says so. Zero is never.

use std::time::Duration;

/// From which durations on the log names what takes so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SlowLog {
    /// A statement, its wait for a connection included.
    pub statement: Duration,
    /// A transaction.
    pub transaction: Duration,
}

/// One user's own; `None`: those of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UserSlowLog {
    /// As in [`SlowLog`].
    pub statement: Option<Duration>,
    /// As in [`SlowLog`].
    pub transaction: Option<Duration>,
}

impl SlowLog {
    /// Those of a user: its own beat these.
    #[must_use]
    pub fn with(self, own: &UserSlowLog) -> Self {
        Self { statement: own.statement.unwrap_or(self.statement), transaction: own.transaction.unwrap_or(self.transaction) }
    }
}
