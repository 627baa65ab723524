//! What a worker knows of each of its clients beside the session itself: what the admin console shows, and how it closes one.
//!
//! There is one for each client, so it is small, and what can be found out when somebody asks is not kept. Nothing here is written per message:
//! a client notes when it asked for a server, with the time that the pool has read anyway.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use sidepool_protocol::postgres::parameters::ParameterSet;
use sidepool_protocol::postgres::startup::Replication;

use crate::pool::id::IdentityId;
use crate::transport::ends::Ends;
use crate::transport::stream::Stream;

/// Who a client is: as whom it logged in, to which database, and under what TLS. The same for all clients that agree in these.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Who {
    /// The user.
    pub user: Box<str>,
    /// The database, by the name it was asked for.
    pub database: Box<str>,
    /// Its TLS, as PgBouncer describes it; empty without.
    pub tls: Box<str>,
    /// Whether it replicates, and how.
    pub replication: Option<Replication>,
}

/// Why somebody else ends a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// An operator said so.
    Killed,
    /// Memory is running out.
    Memory,
    /// Its database is gone, or an operator ended all that are in it.
    Removed,
}

/// What is kept of one client.
pub struct Presence {
    /// A number that no other client or server connection of this process has.
    pub id: u64,
    /// Who it is.
    pub who: Rc<Who>,
    /// Where it is.
    pub ends: Ends,
    /// The number of its socket.
    pub descriptor: i32,
    /// When it connected, in seconds since the epoch.
    pub connected: u32,
    /// How many prepared statements it had when it last gave a server back.
    pub statements: Cell<u32>,
    /// When it last asked for a server, in microseconds since the worker started; 0: never.
    asked: Cell<u64>,
    /// The parameters that follow it.
    state: RefCell<Rc<ParameterSet>>,
    /// Those it began with, to which RESET leads back.
    start: Rc<ParameterSet>,
    fate: Cell<Option<Fate>>,
    /// Among whom it waits.
    identity: Cell<IdentityId>,
}

impl Presence {
    /// Of a client that has just logged in.
    #[must_use]
    pub fn new(id: u64, who: Rc<Who>, stream: &Stream, connected: u32, state: Rc<ParameterSet>) -> Self {
        let (start, state) = (Rc::clone(&state), RefCell::new(state));
        Self {
            id,
            who,
            ends: Ends::of(stream),
            descriptor: stream.descriptor(),
            connected,
            statements: Cell::new(0),
            asked: Cell::new(0),
            state,
            start,
            fate: Cell::new(None),
            identity: Cell::default(),
        }
    }

    /// It has asked for a server, so many microseconds after the worker started.
    pub fn has_asked(&self, micros: u64) {
        self.asked.set(micros);
    }

    /// When it did so last; 0: never.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.asked.get()
    }

    /// Its parameters are others now. (Its ticket's method of this name keeps its identity in line with them.)
    pub(super) fn set_state(&self, state: &Rc<ParameterSet>) {
        *self.state.borrow_mut() = Rc::clone(state);
    }

    /// Its parameters.
    #[must_use]
    pub fn state(&self) -> Rc<ParameterSet> {
        Rc::clone(&self.state.borrow())
    }

    /// The parameters it began with.
    #[must_use]
    pub fn start(&self) -> &Rc<ParameterSet> {
        &self.start
    }

    /// Among whom it waits for connections.
    #[must_use]
    pub fn identity(&self) -> IdentityId {
        self.identity.get()
    }

    /// It waits among others from now on. Answers among whom it did.
    pub(super) fn set_identity(&self, identity: IdentityId) -> IdentityId {
        self.identity.replace(identity)
    }

    /// It is to end. Its task has to be woken to learn of it.
    pub fn seal(&self, fate: Fate) {
        self.fate.set(Some(fate));
    }

    /// Whether it is to end, and why.
    #[must_use]
    pub fn fate(&self) -> Option<Fate> {
        self.fate.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_small() {
        assert!(size_of::<Presence>() <= 80, "{}", size_of::<Presence>());
    }
}
