//! The exclusive right to a connection, as a value: whoever has it may use the connection, and it ends exactly once.

use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::time::Instant;

use super::handle::Pool;
use super::id::ConnId;
use super::pinned::CauseBits;
use super::reason::{CloseReason, Condition};
use super::slot::Slot;
use super::traits::{Connection, Connector};
use crate::clock;

/// A leased connection. Dropped without [`Lease::release`], the connection is closed: a future that ended half-way may have left a reply
/// half-read.
pub struct Lease<C: Connector> {
    pool: Rc<Pool<C>>,
    id: ConnId,
    since: Instant,
    /// Here until the lease ends.
    connection: Option<Box<C::Connection>>,
}

impl<C: Connector> Lease<C> {
    pub(super) fn new(pool: Rc<Pool<C>>, id: ConnId, connection: Box<C::Connection>, since: Instant) -> Self {
        Self { pool, id, since, connection: Some(connection) }
    }

    /// Gives the connection back.
    pub fn release(mut self, condition: Condition) {
        self.end(condition);
    }

    /// Closes the connection and keeps its place.
    #[must_use]
    pub fn hollow(mut self) -> Slot<C> {
        if let Some(mut connection) = self.connection.take() {
            connection.closing(CloseReason::Evicted);
            connection.close();
        }
        Slot::new(Rc::clone(&self.pool), self.id)
    }

    /// The connection is kept past the session's transactions for these causes, from now on; for none of them not any more. False when it was
    /// not and as many are as may be.
    #[must_use]
    pub fn pin(&self, causes: CauseBits) -> bool {
        self.pool.pin(self.id, causes)
    }

    /// Whether the pool wants the connection back at the next quiet moment.
    #[must_use]
    pub fn is_recalled(&self) -> bool {
        self.pool.core.with(|held| held.core.is_recalled(self.id))
    }

    /// Whether the address or the credentials that the connection was opened with are no longer the configured ones.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.pool.core.with(|held| held.core.is_stale(self.id))
    }

    /// The pool it belongs to.
    #[must_use]
    pub fn pool(&self) -> &Rc<Pool<C>> {
        &self.pool
    }

    /// When the lease began.
    #[must_use]
    pub fn since(&self) -> Instant {
        self.since
    }

    /// The connection's name in its pool.
    #[must_use]
    pub fn id(&self) -> ConnId {
        self.id
    }

    /// The server has closed the connection: that counts if it was opened a moment ago. What becomes of the lease is decided otherwise.
    pub fn note_lost(&self) {
        self.pool.core.with(|held| held.core.note_lost(clock::now(), self.id));
    }

    fn end(&mut self, condition: Condition) {
        if let Some(connection) = self.connection.take() {
            self.pool.give_back(self.id, connection, condition, Some(self.since));
        }
    }
}

impl<C: Connector> Deref for Lease<C> {
    type Target = C::Connection;

    fn deref(&self) -> &C::Connection {
        self.connection.as_deref().expect("a lease has its connection until it ends")
    }
}

impl<C: Connector> DerefMut for Lease<C> {
    fn deref_mut(&mut self) -> &mut C::Connection {
        self.connection.as_deref_mut().expect("a lease has its connection until it ends")
    }
}

impl<C: Connector> Drop for Lease<C> {
    fn drop(&mut self) {
        self.end(Condition::Broken);
    }
}
