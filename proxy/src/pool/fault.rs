//! Why a connection could not be opened, in a form that can be counted, logged, and told to the clients that wait for it.

use std::sync::Arc;

use super::reason::Failure;

/// The class of a failed connect: a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConnectFaultKind {
    /// Nobody listens there, or the network says no.
    Refused,
    /// No answer in time.
    Timeout,
    /// The name does not resolve.
    Resolve,
    /// TLS failed or was not offered.
    Tls,
    /// The server does not accept our credentials.
    Auth,
    /// The server has no room for another connection.
    TooMany,
    /// The server is starting up, shutting down, or loading.
    Unavailable,
    /// The server has no such database.
    NoDatabase,
    /// The server said something that the protocol does not allow.
    Protocol,
    /// Anything else the server said no with.
    Other,
}

impl ConnectFaultKind {
    /// Its name in the log.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Resolve => "resolve",
            Self::Tls => "tls",
            Self::Auth => "auth",
            Self::TooMany => "too_many",
            Self::Unavailable => "unavailable",
            Self::NoDatabase => "no_database",
            Self::Protocol => "protocol",
            Self::Other => "other",
        }
    }
}

/// The code of a server that starts up or shuts down (`cannot_connect_now`).
const STARTING_UP: &str = "57P03";

/// The word of a Redis server that does nothing else while a script runs: it says so to everybody at once.
const BUSY: &str = "BUSY";

/// A failed connect. Its text names the upstream and the cause, and holds no secret.
#[derive(Debug, Clone)]
pub struct ConnectFault {
    /// The class.
    pub kind: ConnectFaultKind,
    /// One sentence for people.
    pub message: Arc<str>,
    /// The server's own error code where it gave one: an SQLSTATE, or the first word of a Redis error.
    pub code: Option<Arc<str>>,
    /// The server's own words, where it had any.
    pub said: Option<Arc<str>>,
    /// Which credentials were not accepted, where the connector tells several apart: a number that says nothing about them.
    pub credentials: Option<u64>,
}

impl ConnectFault {
    /// A fault of this kind.
    pub fn new(kind: ConnectFaultKind, message: impl Into<Arc<str>>) -> Self {
        Self { kind, message: message.into(), code: None, said: None, credentials: None }
    }

    /// The cause in the server's words, or else in ours.
    #[must_use]
    pub fn words(&self) -> &str {
        self.said.as_deref().unwrap_or(&self.message)
    }

    /// Whether waiting helps.
    #[must_use]
    pub fn failure(&self) -> Failure {
        match self.kind {
            ConnectFaultKind::Auth => Failure::Permanent,
            ConnectFaultKind::NoDatabase => Failure::Missing,
            ConnectFaultKind::TooMany => Failure::Full,
            // It has answered, and the answer is no.
            ConnectFaultKind::Other if self.said.is_some() => Failure::Permanent,
            ConnectFaultKind::Unavailable if self.code.as_deref() == Some(STARTING_UP) => Failure::Starting,
            ConnectFaultKind::Unavailable if self.code.as_deref() == Some(BUSY) => Failure::Missing,
            ConnectFaultKind::Refused
            | ConnectFaultKind::Timeout
            | ConnectFaultKind::Resolve
            | ConnectFaultKind::Tls
            | ConnectFaultKind::Unavailable
            | ConnectFaultKind::Protocol
            | ConnectFaultKind::Other => Failure::Transient,
        }
    }
}
