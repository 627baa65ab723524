//! How session state follows clients from connection to connection, where connections are shared.

use std::time::Duration;

/// When a server is asked what has become of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Following {
    /// When what the client sent, or what the server answered, hints at a change.
    #[default]
    Follow,
    /// After each transaction.
    Always,
    /// Never, as with PgBouncer: only parameters that the server reports follow the client, and everything else stays on the connection.
    Off,
}

/// How session state follows clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionState {
    /// When the server is asked.
    pub following: Following,
    /// How often a connection is asked for everything, without any hint. Zero: never.
    pub audit: Duration,
    /// Functions that change session state without saying so.
    pub functions: Vec<String>,
    /// Settings of the users' own that such functions set.
    pub names: Vec<String>,
}

impl Default for SessionState {
    fn default() -> Self {
        Self { following: Following::Follow, audit: Duration::from_secs(60), functions: Vec::new(), names: Vec::new() }
    }
}
