//! A pool that shares limits with others: it asks for each connection, gives up what others need more, and gets what comes free.
//!
//! A connection that is idle is given up as soon as another pool waits for it; one in use when that other has waited for a while and has fewer.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::caps::{CapKey, Caps, Keys, PATIENCE, Permit, Press};
use super::handle::Pool;
use super::id::ConnId;
use super::reason::OpenReason;
use super::registry::PoolId;
use super::traits::Connector;
use crate::clock;
use crate::worker::{Mailboxes, WorkerId};

/// What a pool shares: the ledger, and its place in it.
#[derive(Clone)]
pub struct Shared {
    /// The ledger.
    pub caps: Caps,
    /// The limits.
    pub keys: Keys,
}

/// One handle's part in the limits that its pool shares.
pub(super) struct Share {
    shared: Shared,
    pool: PoolId,
    /// Whether somebody waits for one of the limits.
    wanted: [Arc<AtomicBool>; 2],
    press: Press,
    /// Came free for this pool, and are not used yet.
    offered: RefCell<Vec<Permit>>,
    /// A task sees to it that a long wait has an end.
    insisting: std::cell::Cell<bool>,
}

impl Share {
    /// The part of a handle on `worker`.
    pub(super) fn new<C: Connector>(shared: Shared, pool: PoolId, worker: WorkerId, mailboxes: &Mailboxes) -> Self {
        let mailboxes = mailboxes.clone();
        let press: Press = Arc::new(move || {
            mailboxes.post(worker, move |worker| {
                // Whoever waited may have what it needs by now.
                if let Some(pool) = worker.pools.get::<C>(pool).filter(|pool| pool.is_wanted()) {
                    pool.step(|core, now| core.owe_one(now));
                }
            });
        });
        let wanted = shared.caps.join(pool, &shared.keys, Arc::clone(&press));
        Self { shared, pool, wanted, press, offered: RefCell::default(), insisting: std::cell::Cell::default() }
    }

    fn is_wanted(&self) -> bool {
        self.wanted.iter().any(|wanted| wanted.load(Ordering::Relaxed))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.offered.get_mut().clear();
        self.shared.caps.part(self.pool, &self.shared.keys, &self.press);
    }
}

/// A handle of a pool that shares limits, whatever it connects to.
pub(super) trait Sharing {
    /// Since when its connection is idle that is so for longest; `None` when it has none, or has another limit.
    fn spare(&self, key: &CapKey) -> Option<Instant>;

    /// Closes that connection.
    fn evict(&self);
}

impl<C: Connector> Sharing for Pool<C> {
    fn spare(&self, key: &CapKey) -> Option<Instant> {
        let share = self.share.as_ref().filter(|share| share.shared.keys.contains(key))?;
        if share.pool != self.id { None } else { self.core.with(|held| held.core.coldest()) }
    }

    fn evict(&self) {
        self.step(|core, now| core.evict(now));
    }
}

impl<C: Connector> Pool<C> {
    /// The right to open a connection. Without it the core is told, and told again when there is one.
    pub(super) fn may_open(&self, id: ConnId, reason: OpenReason) -> bool {
        let Some(share) = &self.share else { return true };
        let offered = share.offered.borrow_mut().pop();
        let permit = offered.or_else(|| {
            let (pool, worker, mailboxes) = (self.id, self.worker, self.mailboxes.clone());
            let offer = move |permit| {
                // Where nobody is there any more, the permit is dropped with the job, and goes to the next.
                mailboxes.post(worker, move |worker| {
                    if let Some(pool) = worker.pools.get::<C>(pool) {
                        pool.offer(permit);
                    }
                });
            };
            share.shared.caps.take(clock::now(), self.id, reason, Box::new(offer))
        });
        match permit {
            Some(permit) => {
                self.core.with(|held| held.permits.push((id, permit)));
                true
            }
            None => {
                self.core.with(|held| held.core.on_capped(clock::now(), id, reason));
                if reason == OpenReason::Demand {
                    self.look_for_spare(share);
                    self.insist(share);
                }
                false
            }
        }
    }

    /// The right to have a connection, if there is room for one at once; within, `None` where no limits are shared.
    pub(super) fn try_share(&self) -> Option<Option<Permit>> {
        match &self.share {
            Some(share) => share.shared.caps.try_take(self.id).map(Some),
            None => Some(None),
        }
    }

    /// Gives up an idle connection, when somebody waits for it.
    pub(super) fn yield_if_wanted(&self) {
        if self.is_wanted() {
            self.step(|core, now| core.evict(now));
        }
    }

    /// Whether somebody waits for a limit that the pool shares.
    pub(super) fn is_wanted(&self) -> bool {
        self.share.as_ref().is_some_and(Share::is_wanted)
    }

    /// Gives up the permits of connections that are gone.
    pub(super) fn release_permits(&self) {
        if self.share.is_none() {
            return;
        }
        let gone: Vec<(ConnId, Permit)> = self.core.with(|held| {
            if held.permits.len() <= held.core.connections() {
                return Vec::new();
            }
            let core = &held.core;
            held.permits.extract_if(.., |(id, _)| !core.is_open(*id)).collect()
        });
        // Only now, with nothing locked: who waits is told at once.
        drop(gone);
    }

    /// A permit that was waited for.
    fn offer(&self, permit: Permit) {
        let Some(share) = &self.share else { return };
        share.offered.borrow_mut().push(permit);
        self.step(|core, now| core.uncap(now));
        let unused = std::mem::take(&mut *share.offered.borrow_mut());
        drop(unused);
    }

    /// Has the connection closed that has been idle for longest in any pool with the limits that have no room.
    fn look_for_spare(&self, share: &Share) {
        let short = share.shared.caps.short(self.id);
        look_on(short, self.mailboxes.clone(), self.worker, self.worker);
    }

    /// Sees to it, for as long as somebody waits, that the wait has an end.
    fn insist(&self, share: &Share) {
        if share.insisting.replace(true) {
            return;
        }
        let pool = Weak::clone(&self.me);
        tokio::task::spawn_local(async move {
            loop {
                tokio::time::sleep(PATIENCE).await;
                let Some(pool) = pool.upgrade() else { return };
                if !pool.insist_once() {
                    return;
                }
            }
        });
    }

    fn insist_once(self: &Rc<Self>) -> bool {
        let Some(share) = &self.share else { return false };
        if !self.core.with(|held| held.core.is_capped()) {
            share.insisting.set(false);
            share.shared.caps.leave(self.id);
            // What it would keep ready may still be asked for.
            self.step(|core, now| core.uncap(now));
            return false;
        }
        self.look_for_spare(share);
        if let Some(press) = share.shared.caps.richest(self.id) {
            press();
        }
        true
    }
}

/// Looks on `on` for a connection to close, and where there is none on the next worker, once around to `from`.
fn look_on(keys: Vec<CapKey>, mailboxes: Mailboxes, on: WorkerId, from: WorkerId) {
    let posting = mailboxes.clone();
    posting.post(on, move |worker| {
        let found = keys.iter().any(|key| worker.pools.evict(key));
        let next = WorkerId(if usize::from(on.0) + 1 >= mailboxes.workers() { 0 } else { on.0 + 1 });
        if !found && next != from {
            look_on(keys, mailboxes, next, from);
        }
    });
}
