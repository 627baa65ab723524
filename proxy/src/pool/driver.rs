//! Performs what the core wants done: opens, cleans and closes connections, carries them to their waiters, keeps the pool's one timer and
//! watches idle connections. Nothing ticks: the task of a pool sleeps until a deadline or until an idle connection has something to say.
//!
//! An action is performed on the worker where its connection (or waiter) is; another worker posts it there.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use tokio::time::Sleep;

use super::action::Action;
use super::fault::ConnectFault;
use super::handle::Pool;
use super::id::{ConnId, WaiterId};
use super::measure;
use super::reason::{CloseReason, Condition, Failure, OpenReason, Refusal};
use super::traits::{Connection, Connector, Opening};
use super::waiting::Delivery;
use crate::clock;
use crate::observe::record::{PoolCounter, PoolHistogram};
use crate::worker::WorkerId;

/// When the pool's task has to wake up.
#[derive(Default)]
pub(super) struct Alarm {
    at: Cell<Option<Instant>>,
    task: RefCell<Option<Waker>>,
}

impl Alarm {
    /// Wakes the task by `deadline`. A later deadline than the one set does nothing: the task asks again when it wakes.
    pub(super) fn arm(&self, deadline: Option<Instant>) {
        if let Some(deadline) = deadline
            && self.at.get().is_none_or(|at| deadline < at)
        {
            self.at.set(Some(deadline));
            self.wake();
        }
    }

    /// Wakes the task.
    pub(super) fn wake(&self) {
        if let Some(task) = &*self.task.borrow() {
            task.wake_by_ref();
        }
    }
}

/// The task of a pool on one worker; ends with the pool.
pub(super) async fn run<C: Connector>(pool: Weak<Pool<C>>) {
    let mut sleep = pin!(None::<Sleep>);
    let mut set_for = None;
    poll_fn(|cx| {
        let Some(pool) = pool.upgrade() else { return Poll::Ready(()) };
        *pool.alarm.task.borrow_mut() = Some(cx.waker().clone());
        while let Some(at) = pool.alarm.at.get() {
            if set_for != Some(at) {
                set_sleep(sleep.as_mut(), at);
                set_for = Some(at);
            }
            let Some(timer) = sleep.as_mut().as_pin_mut() else { break };
            if timer.poll(cx).is_pending() {
                break;
            }
            set_for = None;
            pool.alarm.at.set(None);
            pool.step(|core, now| core.handle_timeout(now));
        }
        pool.watch_all(cx);
        Poll::Pending
    })
    .await;
}

fn set_sleep(mut sleep: Pin<&mut Option<Sleep>>, at: Instant) {
    let at = tokio::time::Instant::from_std(at);
    match sleep.as_mut().as_pin_mut() {
        Some(timer) => timer.reset(at),
        None => sleep.set(Some(tokio::time::sleep_until(at))),
    }
}

impl<C: Connector> Pool<C> {
    /// Performs what the core wants done, if it `wants` anything, and all that follows from it.
    pub(super) fn pump(&self, wants: bool) {
        if wants {
            self.perform_all();
            self.release_permits();
        }
    }

    fn perform_all(&self) {
        while let Some(action) = self.core.with(|held| held.core.poll_action()) {
            if place(&action) == self.worker {
                self.perform(action);
            } else {
                self.post_action(action);
            }
        }
        self.alarm.arm(self.core.with(|held| held.core.poll_timeout()));
    }

    /// Has another worker perform an action.
    pub(super) fn post_action(&self, action: Action) {
        self.post(place(&action), move |pool| pool.perform(action));
    }

    /// Registers for news of a connection that has just become free, if it still is; closes it when it is dead.
    pub(super) fn watch(&self, id: ConnId) {
        let watched = {
            let (task, mut table) = (self.alarm.task.borrow(), self.table.borrow_mut());
            let Some(connection) = table.get(id) else { return };
            // Without a task yet, its first turn will look at all connections.
            task.as_ref().map_or(Poll::Pending, |task| connection.poll_idle(&mut Context::from_waker(task)))
        };
        if let Poll::Ready(reason) = watched {
            self.step(|core, now| core.discard(now, id, reason));
        }
    }

    /// Why the last connect failed, if none worked since.
    pub(super) fn last_fault(&self) -> Option<ConnectFault> {
        self.core.with(|held| held.fault.clone())
    }

    fn watch_all(&self, cx: &mut Context<'_>) {
        let dead: Vec<(ConnId, CloseReason)> = self
            .table
            .borrow_mut()
            .all()
            .filter_map(|(id, connection)| match connection.poll_idle(cx) {
                Poll::Ready(reason) => Some((id, reason)),
                Poll::Pending => None,
            })
            .collect();
        for (id, reason) in dead {
            self.step(|core, now| core.discard(now, id, reason));
        }
    }

    /// Runs `job` with another worker's handle of this pool.
    fn post(&self, to: WorkerId, job: impl FnOnce(&Rc<Self>) + Send + 'static) {
        let id = self.id;
        let posted = self.mailboxes.post(to, move |worker| {
            // A handle that is gone has taken its connections and waiters out of the core.
            if let Some(pool) = worker.pools.get::<C>(id) {
                pool.latest.set(clock::now());
                job(&pool);
                let wants = pool.core.with(|held| held.core.wants_action());
                pool.pump(wants);
                pool.release_permits();
            }
        });
        if !posted {
            self.core.with(|held| held.core.detach_worker(clock::now(), to));
        }
    }

    /// Performs an action of this worker, without what follows from it.
    fn perform(&self, action: Action) {
        match action {
            Action::Open { conn, reason, .. } => self.open(conn, reason),
            Action::Grant { waiter, conn, to, .. } => self.grant(waiter, conn, to),
            Action::Refuse { waiter, refusal, .. } => self.refuse(waiter, refusal),
            Action::Notify { waiter, .. } => self.seats.borrow_mut().notify(waiter),
            Action::Reset { conn, .. } => self.reset(conn),
            Action::Probe { conn, .. } => self.probe(conn),
            Action::Close { conn, reason, .. } => self.close(conn, reason),
        }
    }

    fn open(&self, id: ConnId, reason: OpenReason) {
        let epoch = self.epoch.get();
        // Another worker may have given the connect up since it was decided.
        if !self.core.with(|held| held.core.on_opening(id, epoch)) || !self.may_open(id, reason) {
            return;
        }
        let (connector, pool) = (Rc::clone(&self.connector.borrow()), Weak::clone(&self.me));
        if self.core.with(|held| held.core.is_in_reserve()) {
            tracing::info!(pool = %self.name(), "taking connection from reserve_pool");
        }
        let task = tokio::task::spawn_local(async move {
            let started = clock::now();
            let mut result = connector.connect().await;
            if let Some(pool) = pool.upgrade() {
                let took = clock::now().saturating_duration_since(started);
                pool.record().observe(PoolHistogram::Connect, took);
                if let Ok(connection) = &mut result {
                    connection.opened(Opening { began: started, took });
                }
                pool.opened(id, result);
            }
        });
        self.table.borrow_mut().opening(id, task.abort_handle());
    }

    fn opened(&self, id: ConnId, result: Result<C::Connection, ConnectFault>) {
        match result {
            Ok(connection) => {
                self.record().add(PoolCounter::ConnectOk, 1);
                match connection.is_resumed() {
                    Some(true) => self.record().add(PoolCounter::TlsResumed, 1),
                    Some(false) => self.record().add(PoolCounter::TlsFull, 1),
                    None => {}
                }
                if let Some(origin) = connection.origin() {
                    self.core.with(|held| held.note_origin(id, origin));
                }
                self.table.borrow_mut().keep(id, Box::new(connection));
                if self.core.with(|held| held.fault.take()).is_some() {
                    tracing::info!(pool = %self.name(), "the upstream takes connections again");
                }
                self.step(|core, now| core.on_connected(now, id));
                self.watch(id);
            }
            Err(fault) => {
                self.record().add(measure::connect_failure(fault.kind), 1);
                let (pool, said) = (self.name(), fault.said.as_deref());
                tracing::warn!(name: "connect_failed", %pool, kind = fault.kind.label(), said, "cannot open an upstream connection: {}", fault.message);
                let failure = fault.failure();
                self.core.with(|held| held.fault = Some(fault));
                self.step(|core, now| core.on_connect_failed(now, id, failure));
                if failure == Failure::Full {
                    let (room, max) = self.core.with(|held| held.core.room());
                    tracing::warn!(pool = %self.name(), room, max, "the server has no room for more connections: the pool goes on with those that it has");
                }
                self.release_permits();
            }
        }
    }

    fn grant(&self, waiter: WaiterId, id: ConnId, to: WorkerId) {
        let connection = self.table.borrow_mut().take(id);
        let Some(mut connection) = connection else { return self.lose(waiter, id, to, CloseReason::Broken) };
        if to == self.worker {
            return self.deliver(waiter, Delivery::Connection(id, connection, self.latest.get()));
        }
        if let Poll::Ready(reason) = connection.poll_idle(&mut Context::from_waker(Waker::noop())) {
            connection.closing(reason);
            connection.close();
            return self.lose(waiter, id, to, reason);
        }
        match connection.detach() {
            Ok(parcel) => self.post(to, move |pool| match C::Connection::attach(parcel) {
                Ok(mut connection) => {
                    pool.connector().arrived(&mut connection);
                    pool.deliver(waiter, Delivery::Connection(id, Box::new(connection), clock::now()));
                }
                Err(_) => pool.lose(waiter, id, to, CloseReason::Broken),
            }),
            Err(_) => self.lose(waiter, id, to, CloseReason::Broken),
        }
    }

    /// A connection was lost on its way to a waiter.
    fn lose(&self, waiter: WaiterId, id: ConnId, to: WorkerId, reason: CloseReason) {
        self.core.with(|held| held.core.discard(clock::now(), id, reason));
        if to == self.worker {
            self.deliver(waiter, Delivery::Lost);
        } else {
            self.post(to, move |pool| pool.deliver(waiter, Delivery::Lost));
        }
    }

    fn refuse(&self, waiter: WaiterId, refusal: Box<Refusal>) {
        self.deliver(waiter, Delivery::Refused(refusal));
    }

    fn deliver(&self, waiter: WaiterId, delivery: Delivery<C::Connection>) {
        let returned = self.seats.borrow_mut().deliver(waiter, delivery);
        match returned {
            // The waiter left while its connection was on the way: the next one gets it.
            Err(Delivery::Connection(id, connection, _)) => {
                self.table.borrow_mut().keep(id, connection);
                self.step(|core, now| core.release(now, id, Condition::Clean));
                self.watch(id);
            }
            Ok(()) | Err(Delivery::Refused(_) | Delivery::Lost) => {}
        }
    }

    fn reset(&self, id: ConnId) {
        let connection = self.table.borrow_mut().take(id);
        let Some(mut connection) = connection else {
            return self.core.with(|held| held.core.on_reset(clock::now(), id, false));
        };
        let (connector, pool) = (Rc::clone(&self.connector.borrow()), Weak::clone(&self.me));
        tokio::task::spawn_local(async move {
            let ok = connector.reset(&mut connection).await.is_ok();
            if let Some(pool) = pool.upgrade() {
                pool.table.borrow_mut().keep(id, connection);
                pool.step(|core, now| core.on_reset(now, id, ok));
                pool.watch(id);
            }
        });
    }

    fn probe(&self, id: ConnId) {
        let connection = self.table.borrow_mut().take(id);
        let Some(mut connection) = connection else {
            return self.core.with(|held| held.core.on_probe(clock::now(), id, false));
        };
        let (connector, pool) = (Rc::clone(&self.connector.borrow()), Weak::clone(&self.me));
        tokio::task::spawn_local(async move {
            let ok = connector.probe(&mut connection).await.is_ok();
            if let Some(pool) = pool.upgrade() {
                pool.table.borrow_mut().keep(id, connection);
                pool.step(|core, now| core.on_probe(now, id, ok));
                pool.watch(id);
            }
        });
    }

    fn close(&self, id: ConnId, reason: CloseReason) {
        let connection = self.table.borrow_mut().take(id);
        if let Some(mut connection) = connection {
            self.record().add(measure::close(reason), 1);
            connection.closing(reason);
            connection.close();
        }
        self.core.with(|held| {
            held.origins.remove(&id);
            held.core.on_closed(clock::now(), id);
        });
    }
}

/// The worker on which an action is performed.
fn place(action: &Action) -> WorkerId {
    match *action {
        Action::Grant { from, .. } => from,
        Action::Open { worker, .. }
        | Action::Refuse { worker, .. }
        | Action::Notify { worker, .. }
        | Action::Reset { worker, .. }
        | Action::Probe { worker, .. }
        | Action::Close { worker, .. } => worker,
    }
}
