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
                    self.look_for_spare(share, false);
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

    /// Has the connection closed that has been idle for longest in any pool with the limits that have no room. Where none is idle and it `insists`, one
    /// that is in use is asked back.
    fn look_for_spare(&self, share: &Share, insists: bool) {
        let short = share.shared.caps.short(self.id);
        if !short.is_empty() {
            let asker = Asker { caps: share.shared.caps.clone(), pool: self.id, insists };
            look_on(asker, short, Spares::default(), self.mailboxes.clone(), self.worker, self.worker);
        }
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
        self.look_for_spare(share, true);
        true
    }
}

/// Where the connections are that are to be closed for limits that have no room: those that have been idle for longest in all pools.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Spares {
    /// In a pool with all of the limits.
    both: Option<Spare>,
    /// In a pool with this one.
    each: [Option<Spare>; 2],
}

/// Since when a connection is idle, of which pool, and a worker that knows it.
type Spare = (Instant, PoolId, WorkerId);

impl Spares {
    /// Takes a pool into account; `since` says since when a connection of it is idle that counts for a limit.
    pub(super) fn consider(&mut self, keys: &[CapKey], (pool, worker): (PoolId, WorkerId), since: impl Fn(&CapKey) -> Option<Instant>) {
        let older = |known: &mut Option<Spare>, since: Instant| {
            if known.is_none_or(|(known, ..)| since < known) {
                *known = Some((since, pool, worker));
            }
        };
        let found: Vec<Option<Instant>> = keys.iter().map(since).collect();
        for (known, since) in self.each.iter_mut().zip(&found) {
            since.iter().for_each(|since| older(known, *since));
        }
        if let Some(since) = found.iter().copied().collect::<Option<Vec<_>>>().and_then(|all| all.first().copied()) {
            older(&mut self.both, since);
        }
    }

    /// Those to close, so that all limits have room; none where that cannot be: who waits would not be helped.
    fn victims(self, keys: usize) -> Vec<Spare> {
        match self.both {
            Some(spare) => vec![spare],
            None => self.each.into_iter().take(keys).collect::<Option<Vec<_>>>().unwrap_or_default(),
        }
    }
}

/// A pool that stands in line.
struct Asker {
    caps: Caps,
    pool: PoolId,
    insists: bool,
}

/// Looks on `on` for connections to close, and then on the next worker, once around to `from`; then they are closed.
fn look_on(asker: Asker, keys: Vec<CapKey>, mut spares: Spares, mailboxes: Mailboxes, on: WorkerId, from: WorkerId) {
    let posting = mailboxes.clone();
    posting.post(on, move |worker| {
        worker.pools.look(&keys, on, &mut spares);
        let next = WorkerId(if usize::from(on.0) + 1 >= mailboxes.workers() { 0 } else { on.0 + 1 });
        if next != from {
            return look_on(asker, keys, spares, mailboxes, next, from);
        }
        // Whoever looked may have what it needs by now, of an earlier look or by chance.
        let Asker { caps, pool, insists } = asker;
        if !caps.is_in_line(pool) || caps.short(pool).is_empty() {
            return;
        }
        let victims = spares.victims(keys.len());
        if victims.is_empty()
            && insists
            && let Some(press) = caps.richest(pool)
        {
            press();
        }
        for (_, pool, worker) in victims {
            mailboxes.post(worker, move |worker| worker.pools.evict(pool));
        }
    });
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_longest_idle_is_closed_whoever_knows_it_and_it_frees_all_that_is_short() {
        let now = clock::now();
        let keys = [CapKey::Database("d".into()), CapKey::User("u".into())];
        let seconds = |seconds| Some(now + Duration::from_secs(seconds));
        let consider = |spares: &mut Spares, pool: u32, worker, since: [Option<Instant>; 2]| {
            spares.consider(&keys, (PoolId(pool), WorkerId(worker)), |key| since[usize::from(*key == keys[1])]);
        };
        let closed = |spares: Spares| spares.victims(2).into_iter().map(|(_, pool, _)| pool.0).collect::<Vec<_>>();
        let mut spares = Spares::default();
        consider(&mut spares, 1, 0, [seconds(1), None]);
        assert!(closed(spares).is_empty(), "closing it alone would help nobody");
        consider(&mut spares, 2, 1, [None, seconds(9)]);
        consider(&mut spares, 3, 1, [seconds(2), None]);
        assert_eq!(closed(spares), [1, 2]);
        consider(&mut spares, 4, 0, [seconds(5); 2]);
        consider(&mut spares, 5, 1, [seconds(4); 2]);
        assert_eq!(closed(spares), [5]);
        // One limit is short.
        let mut spares = Spares::default();
        for (pool, worker, idle) in [(1, 0, 3), (2, 1, 1), (3, 1, 2)] {
            spares.consider(&keys[..1], (PoolId(pool), WorkerId(worker)), |_| seconds(idle));
        }
        assert_eq!(spares.victims(1).iter().map(|(_, pool, worker)| (pool.0, worker.0)).collect::<Vec<_>>(), [(2, 1)]);
        assert!(Spares::default().victims(0).is_empty());
    }
}
