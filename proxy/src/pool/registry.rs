//! Which pools there are. The [`Directory`] belongs to the process: it gives the workers that ask for the same pool the same core.
//! A [`PoolTable`] belongs to a worker: it finds that worker's handle of a pool for work that other workers post.

use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::caps::{CapKey, Permit};
use super::core::Core;
use super::fault::ConnectFault;
use super::handle::Pool;
use super::id::ConnId;
use super::limits::Limits;
use super::sharing::{Sharing, Spares};
use super::traits::{Connector, Origin};
use crate::worker::WorkerId;

/// Names a pool in this process. Not used again after the pool is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolId(pub u32);

impl PoolId {
    /// One that no other pool has, whatever it connects to: a worker finds the handles of all its pools in one table.
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// A core and what is told about it.
pub(super) struct Held {
    pub(super) core: Core,
    /// Why the last connect failed; `None` after one that worked.
    pub(super) fault: Option<ConnectFault>,
    /// The right of each connection to be there, where the pool shares limits with others.
    pub(super) permits: Vec<(ConnId, Permit)>,
    /// Where those open connections lead whose server has a name.
    pub(super) origins: BTreeMap<ConnId, Origin>,
}

impl Held {
    fn new(core: Core) -> Self {
        Self { core, fault: None, permits: Vec::new(), origins: BTreeMap::new() }
    }

    /// Remembers where an open connection leads.
    pub(super) fn note_origin(&mut self, id: ConnId, origin: Origin) {
        // Those of a worker that is gone went without a word.
        if self.origins.len() > 2 * self.core.connections() + SPARE_ORIGINS {
            let core = &self.core;
            self.origins.retain(|id, _| core.is_open(*id));
        }
        self.origins.insert(id, origin);
    }
}

/// How many origins of connections that are gone are kept at least before they are swept out.
const SPARE_ORIGINS: usize = 64;

/// The core of a pool as one worker holds it: alone, or shared with others.
#[derive(Clone)]
pub struct CoreRef(Kind);

/// With one worker nothing is synchronised.
#[derive(Clone)]
enum Kind {
    Single(Rc<RefCell<Held>>),
    Shared(Arc<Mutex<Held>>),
}

impl CoreRef {
    /// The core of a pool that only this worker uses.
    #[must_use]
    pub fn single(core: Core) -> Self {
        Self(Kind::Single(Rc::new(RefCell::new(Held::new(core)))))
    }

    /// Whether no other worker has it.
    pub(super) fn is_alone(&self) -> bool {
        match &self.0 {
            Kind::Single(_) => true,
            Kind::Shared(held) => Arc::strong_count(held) == 1,
        }
    }

    /// Runs `work` on the core. It must not call back into the pool.
    pub(super) fn with<R>(&self, work: impl FnOnce(&mut Held) -> R) -> R {
        match &self.0 {
            Kind::Single(held) => work(&mut held.borrow_mut()),
            // A panic inside the core is a bug that has been reported; the numbers in it are still the best there are.
            Kind::Shared(held) => work(&mut held.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

/// The cores that several workers share, by what makes a pool one pool. With one worker it only hands out names.
pub struct Directory<K> {
    workers: usize,
    inner: Arc<Mutex<Inner<K>>>,
}

impl<K> Clone for Directory<K> {
    fn clone(&self) -> Self {
        Self { workers: self.workers, inner: Arc::clone(&self.inner) }
    }
}

struct Inner<K> {
    pools: BTreeMap<K, (PoolId, std::sync::Weak<Mutex<Held>>)>,
}

impl<K: Ord> Directory<K> {
    /// The directory of a process with so many workers.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self { workers, inner: Arc::new(Mutex::new(Inner { pools: BTreeMap::new() })) }
    }

    /// The core of the pool `key`: made if it is the first time that a worker asks, with these limits and this seed. It lives as long as a
    /// worker has a handle of the pool.
    pub fn join(&self, now: Instant, key: K, limits: Limits, seed: u64) -> (PoolId, CoreRef) {
        let mut inner = self.lock();
        if self.workers <= 1 {
            return (PoolId::new(), CoreRef::single(Core::new(now, limits, seed)));
        }
        if let Some((id, core)) = inner.pools.get(&key)
            && let Some(core) = core.upgrade()
        {
            return (*id, CoreRef(Kind::Shared(core)));
        }
        inner.pools.retain(|_, (_, core)| core.strong_count() > 0);
        let id = PoolId::new();
        let core = Arc::new(Mutex::new(Held::new(Core::new(now, limits, seed))));
        inner.pools.insert(key, (id, Arc::downgrade(&core)));
        (id, CoreRef(Kind::Shared(core)))
    }

    /// The pool `key` is no more: whoever asks for it next gets a new one, even while the old one still drains.
    pub fn forget(&self, key: &K) {
        self.lock().pools.remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, Inner<K>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One worker's handles of pools.
#[derive(Default)]
pub struct PoolTable {
    handles: RefCell<BTreeMap<PoolId, Weak<dyn Any>>>,
    sharing: RefCell<BTreeMap<PoolId, Weak<dyn Sharing>>>,
}

impl PoolTable {
    /// Makes a handle known.
    pub(super) fn insert<C: Connector>(&self, id: PoolId, pool: &Rc<Pool<C>>) {
        let weak: Weak<Pool<C>> = Rc::downgrade(pool);
        let mut handles = self.handles.borrow_mut();
        handles.retain(|_, handle| handle.strong_count() > 0);
        handles.insert(id, weak);
        if pool.share.is_some() {
            let weak: Weak<Pool<C>> = Rc::downgrade(pool);
            let mut sharing = self.sharing.borrow_mut();
            sharing.retain(|_, handle| handle.strong_count() > 0);
            sharing.insert(id, weak);
        }
    }

    /// Looks among the pools that this worker knows for connections to close for limits that have no room.
    pub(super) fn look(&self, keys: &[CapKey], worker: WorkerId, spares: &mut Spares) {
        let pools: Vec<(PoolId, Rc<dyn Sharing>)> =
            self.sharing.borrow().iter().filter_map(|(id, handle)| Some((*id, handle.upgrade()?))).collect();
        for (id, pool) in pools {
            spares.consider(keys, (id, worker), |key| pool.spare(key));
        }
    }

    /// Closes the connection of a pool that has been idle for longest.
    pub(super) fn evict(&self, id: PoolId) {
        let pool = self.sharing.borrow().get(&id).and_then(Weak::upgrade);
        if let Some(pool) = pool {
            pool.evict();
        }
    }

    /// This worker's handle of a pool.
    pub(super) fn get<C: Connector>(&self, id: PoolId) -> Option<Rc<Pool<C>>> {
        self.handles.borrow().get(&id)?.upgrade()?.downcast().ok()
    }
}

#[cfg(test)]
mod tests {
    use sidepool_config::model::PoolLimits;

    use super::*;
    use crate::clock;

    #[test]
    fn no_two_directories_give_the_same_number() {
        let (one, other) = (Directory::new(2), Directory::new(2));
        let limits = Limits::from(&PoolLimits::default());
        let id = |directory: &Directory<&'static str>, key| directory.join(clock::now(), key, limits, 1);
        let (a, b, c) = (id(&one, "a"), id(&other, "a"), id(&one, "a"));
        assert!(a.0 != b.0 && a.0 == c.0);
    }
}
