//! A place in a pool without a connection of the pool in it: for a connection that only one client can ever use. It counts like any other.

use std::rc::Rc;

use super::acquire::AcquireError;
use super::handle::Pool;
use super::id::{ConnId, IdentityId};
use super::reason::Condition;
use super::traits::Connector;

/// A place that is taken; free again when dropped.
pub struct Slot<C: Connector> {
    pool: Rc<Pool<C>>,
    id: ConnId,
}

impl<C: Connector> Slot<C> {
    pub(super) fn new(pool: Rc<Pool<C>>, id: ConnId) -> Self {
        Self { pool, id }
    }

    /// Its name in the pool.
    #[must_use]
    pub fn id(&self) -> ConnId {
        self.id
    }
}

impl<C: Connector> Pool<C> {
    /// Takes a place: a free one, or that of a connection, which is closed for it. Waits its turn as for a connection.
    pub async fn occupy(self: &Rc<Self>, identity: IdentityId) -> Result<Slot<C>, AcquireError> {
        let worker = self.worker;
        if let Some(permit) = self.try_share()
            && let Some(id) = self.step(|core, now| core.occupy(now, worker, identity))
        {
            self.core.with(|held| held.permits.extend(permit.map(|permit| (id, permit))));
            return Ok(Slot::new(Rc::clone(self), id));
        }
        self.acquire(identity).await.map(super::lease::Lease::hollow)
    }
}

impl<C: Connector> Drop for Slot<C> {
    fn drop(&mut self) {
        self.pool.step(|core, now| core.release(now, self.id, Condition::Broken));
        self.pool.release_permits();
    }
}
