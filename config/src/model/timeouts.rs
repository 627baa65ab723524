//! How long the parts of a PostgreSQL session may take. Zero is for ever.

use std::time::Duration;

/// How long queries, transactions and pauses of clients may take. Zero: as long as they like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// A query that takes longer ends with its server connection.
    pub query_timeout: Duration,
    /// Such a query is cancelled instead, and the connection is kept.
    pub query_timeout_cancels: bool,
    /// A client that is idle in a transaction for longer is closed.
    pub idle_transaction_timeout: Duration,
    /// A transaction that takes longer ends with its server connection.
    pub transaction_timeout: Duration,
    /// A client that says nothing for longer is closed.
    pub client_idle_timeout: Duration,
    /// A client that says nothing for longer while something keeps its connection for it past its transactions is closed.
    pub pin_idle_timeout: Duration,
    /// A client that takes nothing of its answer for longer, while a server connection waits for it, is closed.
    pub client_stall_timeout: Duration,
}

/// One user's own timeouts; `None`: those that all users have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UserTimeouts {
    /// As in [`Timeouts`].
    pub query_timeout: Option<Duration>,
    /// As in [`Timeouts`].
    pub idle_transaction_timeout: Option<Duration>,
    /// As in [`Timeouts`].
    pub transaction_timeout: Option<Duration>,
    /// As in [`Timeouts`].
    pub client_idle_timeout: Option<Duration>,
    /// As in [`Timeouts`].
    pub pin_idle_timeout: Option<Duration>,
    /// As in [`Timeouts`].
    pub client_stall_timeout: Option<Duration>,
}

impl Timeouts {
    /// Those of a user: its own beat these.
    #[must_use]
    pub fn with(&self, own: &UserTimeouts) -> Self {
        Self {
            query_timeout: own.query_timeout.unwrap_or(self.query_timeout),
            query_timeout_cancels: self.query_timeout_cancels,
            idle_transaction_timeout: own.idle_transaction_timeout.unwrap_or(self.idle_transaction_timeout),
            transaction_timeout: own.transaction_timeout.unwrap_or(self.transaction_timeout),
            client_idle_timeout: own.client_idle_timeout.unwrap_or(self.client_idle_timeout),
            pin_idle_timeout: own.pin_idle_timeout.unwrap_or(self.pin_idle_timeout),
            client_stall_timeout: own.client_stall_timeout.unwrap_or(self.client_stall_timeout),
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            query_timeout: Duration::ZERO,
            query_timeout_cancels: false,
            idle_transaction_timeout: Duration::ZERO,
            transaction_timeout: Duration::ZERO,
            client_idle_timeout: Duration::ZERO,
            pin_idle_timeout: Duration::from_secs(3600),
            client_stall_timeout: Duration::from_secs(300),
        }
    }
}
