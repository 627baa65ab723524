//! What the proxy keeps in mind about one server connection while messages flow over it: what is owed, which statements are known, what of a
//! message is still to come. It belongs to the connection and not to the client, of whom there are a thousand times as many.

use std::rc::Rc;

use sidepool_protocol::postgres::parameters::ParameterSet;
use sidepool_protocol::postgres::tracker::Tracker;

use super::statements::{ServerStatements, Statement, StatementId};
use crate::transport::backlog::Backlog;

/// What to take back when an announced message never runs.
#[derive(Debug)]
pub enum Note {
    /// Nothing.
    None,
    /// The unnamed statement.
    Unnamed {
        /// The one before it, where this Parse may yet be skipped: then that one still counts.
        before: Option<Vec<u8>>,
        /// The client's count of Parses with this one. Later ones, behind a Sync, are not touched by what happens to this one.
        version: u64,
    },
    /// The client's name, and the server's knowledge where the Parse was sent.
    Named {
        /// What the client calls it.
        name: Box<[u8]>,
        /// The statement, when the server was to learn it.
        id: Option<StatementId>,
    },
    /// A Parse of a name that the client uses already: the server refuses it under the name that it knows.
    Duplicate(Box<[u8]>),
    /// What the server was to learn or forget.
    Server(StatementId),
    /// The unnamed statement that the client closed.
    ClosedUnnamed(Vec<u8>),
    /// A statement that the client closed.
    Closed {
        /// What the client called it.
        name: Box<[u8]>,
        /// The statement.
        statement: Rc<Statement>,
    },
}

impl Note {
    /// Whether it changes what a statement's name means: to this client, or on this connection.
    #[must_use]
    pub fn is_about_a_name(&self) -> bool {
        match self {
            Self::Named { .. } | Self::Duplicate(_) | Self::Server(_) | Self::Closed { .. } => true,
            Self::None | Self::Unnamed { .. } | Self::ClosedUnnamed(_) => false,
        }
    }
}

/// What has been sent to a server since somebody looked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Parse messages of the client.
    pub client_parses: u32,
    /// Parse messages to the server.
    pub server_parses: u32,
    /// Bind messages of the client.
    pub binds: u32,
}

/// The state of the flow over one server connection.
#[derive(Debug, Default)]
pub struct Link {
    /// What is owed.
    pub tracker: Tracker<Note>,
    /// Which statements the server knows.
    pub statements: ServerStatements,
    /// What the server has not taken yet.
    pub to_server: Backlog,
    /// The start of a small message of which the rest has not come.
    pub carry: Vec<u8>,
    /// How much of the server's present message is still to come.
    pub remaining: usize,
    /// Whether that message goes on to the client.
    pub forward: bool,
    /// The session state that this connection is known to carry; compared by pointer.
    pub applied: Option<Rc<ParameterSet>>,
    /// What was set on this connection beyond what the server reports.
    pub overrides: ParameterSet,
    /// Somebody ran SET or RESET since, so that `overrides` may not hold.
    pub doubtful: bool,
    /// The proxy's own query that brings the session state is under way; the client's messages wait for it.
    pub matching: bool,
    /// So much is owed that the server was asked to flush.
    pub flush_asked: bool,
    /// A batch that was to change what is known of statements has been sent, and has not been answered: it may yet fail and change nothing.
    pub unsettled: bool,
    /// The server has said that it closes the connection.
    pub farewell: bool,
    /// The client listens for notifications, so the connection is its own until it stops.
    pub listening: bool,
    /// What has been sent, for the statistics.
    pub counts: Counts,
}

impl Link {
    /// Whether the connection may serve somebody else: nothing is owed, nothing half-way in either direction.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.is_quiet() && !self.listening
    }

    /// Whether nothing is owed, and nothing half-way in either direction.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.tracker.is_free() && self.remaining == 0 && self.carry.is_empty() && self.to_server.is_empty() && !self.farewell
    }

    /// The session was reset: nothing of what was on it is left.
    pub fn forget_session(&mut self) {
        *self = Self::default();
    }
}
