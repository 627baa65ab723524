//! How large a scenario is: as its description says, or small enough for a test.

use std::time::Duration;

/// The size of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// As described.
    Full,
    /// A tenth of the clients and a quarter of the time: to see that the scenario works, not for figures.
    Small,
}

impl Scale {
    /// This many clients.
    pub fn clients(self, full: usize) -> usize {
        match self {
            Self::Full => full,
            Self::Small => full.div_ceil(10).max(4),
        }
    }

    /// This long.
    pub fn seconds(self, full: u64) -> Duration {
        match self {
            Self::Full => Duration::from_secs(full),
            Self::Small => Duration::from_millis(full * 250),
        }
    }
}
