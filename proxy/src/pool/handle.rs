//! What sessions hold of a pool: they [`acquire`](Pool::acquire) and get a [`Lease`]. Everything is decided by the core; the handle keeps
//! the connections that live on this worker and nobody holds, and the seats of those who wait. What the core wants done is in `driver`.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::acquire::Acquire;
use super::core::Core;
use super::driver::{self, Alarm};
use super::id::{ConnId, IdentityId};
use super::lease::Lease;
use super::limits::Limits;
use super::pinned::{CauseBits, Pinned};
use super::reason::{CloseReason, Condition};
use super::registry::{CoreRef, PoolId, PoolTable};
use super::sharing::{Share, Shared};
use super::snapshot::Snapshot;
use super::table::Table;
use super::traits::{Connection, Connector, Used};
use super::waiting::Seats;
use crate::clock;
use crate::observe::record::{PoolHistogram, PoolRecord};
use crate::worker::{Mailboxes, WorkerId};

/// What a handle is made of, beside the one who opens connections.
pub struct PoolSetup {
    /// The pool's name in messages and metrics.
    pub name: Arc<str>,
    /// The pool's name in this process, from the directory.
    pub id: PoolId,
    /// The core, from the directory.
    pub core: CoreRef,
    /// The worker that the handle lives on.
    pub worker: WorkerId,
    /// Ways to the other workers.
    pub mailboxes: Mailboxes,
    /// What is counted.
    pub record: Rc<PoolRecord>,
    /// The limits that it shares with other pools.
    pub shared: Option<Shared>,
}

/// One worker's handle of one pool.
pub struct Pool<C: Connector> {
    pub(super) id: PoolId,
    name: Arc<str>,
    pub(super) core: CoreRef,
    pub(super) worker: WorkerId,
    pub(super) mailboxes: Mailboxes,
    record: Rc<PoolRecord>,
    pub(super) share: Option<Share>,
    pub(super) connector: RefCell<Rc<C>>,
    /// Which address and credentials `connector` has; compared with the core's.
    pub(super) epoch: Cell<u32>,
    pub(super) table: RefCell<Table<C::Connection>>,
    pub(super) seats: RefCell<Seats<C::Connection>>,
    pub(super) alarm: Alarm,
    /// When the core was last given something here: what follows from that happens then, without another look at the clock.
    pub(super) latest: Cell<Instant>,
    pub(super) me: Weak<Self>,
}

impl<C: Connector> Pool<C> {
    /// A handle, known to `table` from now on. Must be called on the worker's `LocalSet`; the minimum is opened at once.
    pub fn new(setup: PoolSetup, connector: C, table: &PoolTable) -> Rc<Self> {
        let PoolSetup { name, id, core, worker, mailboxes, record, shared } = setup;
        let share = shared.map(|shared| Share::new::<C>(shared, id, worker, &mailboxes));
        let epoch = core.with(|held| held.core.epoch());
        let pool = Rc::new_cyclic(|me| Self {
            id,
            name,
            core,
            worker,
            mailboxes,
            record,
            share,
            connector: RefCell::new(Rc::new(connector)),
            epoch: Cell::new(epoch),
            table: RefCell::default(),
            seats: RefCell::default(),
            alarm: Alarm::default(),
            latest: Cell::new(clock::now()),
            me: Weak::clone(me),
        });
        table.insert(id, &pool);
        tokio::task::spawn_local(driver::run(Rc::downgrade(&pool)));
        pool.step(|core, now| core.attach_worker(now, worker));
        pool
    }

    /// Asks for a connection. The future is ready at its first poll when one is idle; dropping it gives the place in the queue up.
    pub fn acquire(self: &Rc<Self>, identity: IdentityId) -> Acquire<C> {
        Acquire::new(Rc::clone(self), identity)
    }

    /// One more client uses the pool.
    pub fn enter(&self) {
        self.step(|core, now| core.enter(now, self.worker));
    }

    /// One client fewer uses it.
    pub fn leave(&self) {
        self.step(|core, now| core.leave(now, self.worker));
    }

    /// What is counted.
    pub fn record(&self) -> &PoolRecord {
        &self.record
    }

    /// The same, for whoever counts on his own.
    pub fn shared_record(&self) -> Rc<PoolRecord> {
        Rc::clone(&self.record)
    }

    /// Whether no other worker has a handle of the pool.
    pub fn is_alone(&self) -> bool {
        self.core.is_alone()
    }

    /// The pool's number in this process, the same on all workers.
    pub fn id(&self) -> PoolId {
        self.id
    }

    /// The pool's name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The one who opens its connections.
    pub fn connector(&self) -> Rc<C> {
        Rc::clone(&self.connector.borrow())
    }

    /// Asks the one who opens its connections something.
    pub fn with_connector<R>(&self, ask: impl FnOnce(&C) -> R) -> R {
        ask(&self.connector.borrow())
    }

    /// The pool as numbers: of the whole process, not of this worker alone.
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        self.core.with(|held| held.core.snapshot(now))
    }

    /// A connection that somebody here leases is kept past its transactions, as [`Lease::pin`] says.
    #[must_use]
    pub fn pin(&self, id: ConnId, causes: CauseBits) -> bool {
        self.core.with(|held| held.core.pin(id, causes))
    }

    /// How many connections are pinned now, and how many may be.
    pub fn pinned(&self) -> (Pinned, u32) {
        self.core.with(|held| (held.core.pinned(), held.core.limits().max_pinned))
    }

    /// How long anybody waits for a connection; `None`: for as long as it takes.
    pub fn wait_timeout(&self) -> Option<Duration> {
        self.core.with(|held| held.core.limits().wait_timeout)
    }

    /// New limits, from now on. With several workers, one of them is enough.
    pub fn resize(&self, limits: Limits) {
        self.step(|core, now| core.resize(now, limits));
    }

    /// A new address or new credentials: existing connections are closed when nobody uses them. Every worker has to be told.
    pub fn replace_connector(&self, connector: C) {
        *self.connector.borrow_mut() = Rc::new(connector);
        self.epoch.set(self.epoch.get().saturating_add(1));
        self.step(|core, now| core.mark_stale_before(now, self.epoch.get()));
    }

    /// New credentials for the same place: existing connections stay, and whoever uses one next sees to it that it has them too. Every worker has to
    /// be told.
    pub fn renew_connector(&self, connector: C) {
        *self.connector.borrow_mut() = Rc::new(connector);
        self.try_again();
    }

    /// The host `name` leads to these addresses: connections to others that it led to are closed when nobody uses them.
    pub fn retire_gone(&self, name: &str, addresses: &[IpAddr]) {
        let gone: Vec<ConnId> = self.core.with(|held| {
            let origins = held.origins.iter();
            origins.filter(|(_, origin)| &*origin.name == name && !addresses.contains(&origin.address)).map(|(id, _)| *id).collect()
        });
        for id in gone {
            self.step(|core, now| core.retire(now, id, CloseReason::Stale));
        }
    }

    /// What is open now, on whatever worker, is closed as soon as nobody uses it.
    pub fn retire_all(&self, reason: CloseReason) {
        self.step(|core, now| core.retire_all(now, reason));
    }

    /// What is open is closed when nobody uses it any more. Every worker has to be told, with the same `token`, which is new each time.
    pub fn reconnect(&self, token: u64) {
        let epoch = self.step(|core, now| core.mark_stale_once(now, token));
        self.epoch.set(epoch);
    }

    /// Something has changed that may let the next connect work, such as a new password: it is tried at once.
    pub fn try_again(&self) {
        self.step(|core, now| core.try_again(now));
    }

    /// No more grants until [`Pool::resume`]; sessions wait.
    pub fn pause(&self) {
        self.step(|core, now| core.pause(now));
    }

    /// Grants again.
    pub fn resume(&self) {
        self.step(|core, now| core.resume(now));
    }

    /// No more grants, ever: waiters are refused, idle connections are closed, leased ones when they come back.
    pub fn drain(&self) {
        self.step(|core, now| core.drain(now));
    }

    /// Whether the pool drains and nothing is left.
    pub fn is_drained(&self) -> bool {
        self.core.with(|held| held.core.is_drained())
    }

    /// Gives the core an input and performs what follows.
    pub(super) fn step<R>(&self, input: impl FnOnce(&mut Core, Instant) -> R) -> R {
        let now = clock::now();
        let (answer, wants) = self.input(now, |core| input(core, now));
        self.pump(wants);
        answer
    }

    /// Gives the core an input; whether something is to be done must be passed to [`Pool::pump`].
    pub(super) fn input<R>(&self, now: Instant, input: impl FnOnce(&mut Core) -> R) -> (R, bool) {
        self.latest.set(now);
        let (answer, wants, deadline) = self.core.with(|held| {
            let answer = input(&mut held.core);
            (answer, held.core.wants_action(), held.core.poll_timeout())
        });
        self.alarm.arm(deadline);
        (answer, wants)
    }

    /// A lease on a connection that was idle a moment ago; `None` when it turns out to be dead.
    pub(super) fn lease_idle(self: &Rc<Self>, id: ConnId, now: Instant) -> Option<Lease<C>> {
        let connection = self.table.borrow_mut().take(id);
        let Some(mut connection) = connection else {
            self.step(|core, now| core.release(now, id, Condition::Broken));
            return None;
        };
        if !connection.has_news() {
            return Some(Lease::new(Rc::clone(self), id, connection, now));
        }
        match connection.poll_idle(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => Some(Lease::new(Rc::clone(self), id, connection, now)),
            Poll::Ready(reason) => {
                self.table.borrow_mut().keep(id, connection);
                self.step(|core, now| core.discard(now, id, reason));
                None
            }
        }
    }

    /// A lease ends, or (without `since`) a granted connection that nobody took comes back.
    pub(super) fn give_back(&self, id: ConnId, mut connection: Box<C::Connection>, condition: Condition, since: Option<Instant>) {
        self.step(|core, now| {
            if let Some(since) = since {
                let used = Used::between(since, now);
                self.record.observe(PoolHistogram::Use, used.took);
                connection.released(used, &self.record);
            }
            self.table.borrow_mut().keep(id, connection);
            if !self.is_wanted() {
                core.forgive();
            }
            core.release(now, id, condition);
        });
        self.yield_if_wanted();
        self.watch(id);
    }
}

impl<C: Connector> Drop for Pool<C> {
    fn drop(&mut self) {
        self.alarm.wake();
        for connection in self.table.get_mut().clear() {
            connection.close();
        }
        let worker = self.worker;
        let (mut action, now) = (None, clock::now());
        self.core.with(|held| {
            held.core.detach_worker(now, worker);
            action = held.core.poll_action();
        });
        // What is left to do can only be for other workers: nothing of the pool is here any more.
        while let Some(todo) = action {
            self.post_action(todo);
            action = self.core.with(|held| held.core.poll_action());
        }
        self.release_permits();
    }
}
