//! Cancel keys: each client has one of the proxy's own, and a cancel reaches the query that this client runs now, and only that.
//!
//! * waiting for a server: the wait ends, the query is answered with 57014;
//! * running: the server's own key is sent to the server, and the connection serves nobody else before that cancel is delivered;
//! * idle: nothing happens, as with PostgreSQL.
//!
//! Source: PostgreSQL documentation, "Canceling Requests in Progress".

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::Waker;

use subtle::ConstantTimeEq;
use tokio::sync::Notify;

use super::presence::{Fate, Presence};
use crate::observe::record::PoolCounter;
use crate::pool::handle::Pool;
use crate::upstream::postgres::cancellable::Cancellable;
use crate::upstream::postgres::connector::PgConnector;
use crate::worker::{Worker, WorkerId};

/// A key of the proxy's own: what a client is told in BackendKeyData.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ClientKey {
    /// Stands for the process id. Its high bits name the worker.
    pub id: u32,
    /// The secret.
    pub secret: [u8; 4],
}

/// Where in [`ClientKey::id`] the worker stands; the top bit stays 0, because libpq prints the id as a signed number.
const WORKER_SHIFT: u32 = 23;

impl ClientKey {
    /// The worker that the client lives on.
    #[must_use]
    pub fn worker(self) -> WorkerId {
        WorkerId(u16::try_from(self.id >> WORKER_SHIFT).unwrap_or(u16::MAX))
    }
}

/// What a client is doing, as far as a cancel is concerned.
enum Doing {
    Nothing,
    /// In the queue; woken to be told.
    Waiting,
    /// Cancelled while in the queue.
    Cancelled,
    Running(Rc<Cancellable>),
}

struct Seat {
    secret: [u8; 4],
    pool: Rc<Pool<PgConnector>>,
    doing: RefCell<Doing>,
    /// Wakes the session; unknown before its first turn.
    waker: RefCell<Option<Waker>>,
    presence: Presence,
}

impl Seat {
    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    fn doing(&self) -> Activity {
        match &*self.doing.borrow() {
            Doing::Nothing => Activity::Idle,
            Doing::Waiting | Doing::Cancelled => Activity::Waiting,
            Doing::Running(on) => Activity::Active(on.server()),
        }
    }
}

/// What a client is doing, for those who look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// It has no server and wants none.
    Idle,
    /// It waits for a server.
    Waiting,
    /// It has the server connection with this number.
    Active(u64),
}

/// All clients of one worker, by the id in their key.
#[derive(Default)]
pub struct CancelRegistry {
    seats: RefCell<HashMap<u32, Rc<Seat>>>,
    /// Sessions of the admin console, which have no pool: what to tell them.
    consoles: RefCell<HashMap<u32, ([u8; 4], Rc<Notify>)>>,
    next: Cell<u32>,
}

impl CancelRegistry {
    /// An id that no client of this worker has.
    fn free_id(&self, worker: WorkerId) -> u32 {
        loop {
            let next = self.next.get().wrapping_add(1) & ((1 << WORKER_SHIFT) - 1);
            self.next.set(next);
            let id = (u32::from(worker.0) << WORKER_SHIFT) | next;
            if id != 0 && !self.seats.borrow().contains_key(&id) && !self.consoles.borrow().contains_key(&id) {
                return id;
            }
        }
    }

    /// The names of all clients of this moment, to look at them a few at a time.
    #[must_use]
    pub fn clients(&self) -> Vec<u32> {
        self.seats.borrow().keys().copied().collect()
    }

    /// Looks at those of these clients that are still here.
    pub fn look_at(&self, clients: &[u32], mut look: impl FnMut(&Presence, Activity)) {
        let seats = self.seats.borrow();
        for seat in clients.iter().filter_map(|client| seats.get(client)) {
            look(&seat.presence, seat.doing());
        }
    }

    /// Looks at all clients.
    pub fn look_at_all(&self, mut look: impl FnMut(&Presence, Activity)) {
        for seat in self.seats.borrow().values() {
            look(&seat.presence, seat.doing());
        }
    }

    /// Ends the sessions of the clients that are chosen, at their next turn, which is soon. Answers how many there are.
    pub fn end(&self, fate: Fate, mut choose: impl FnMut(&Presence) -> bool) -> usize {
        let seats = self.seats.borrow();
        let chosen = seats.values().filter(|seat| choose(&seat.presence));
        chosen.map(|seat| { seat.presence.seal(fate); seat.wake() }).count()
    }
}

/// A session of the admin console, as far as a cancel is concerned; gone when dropped.
pub struct ConsoleTicket {
    worker: Rc<Worker>,
    key: ClientKey,
    /// Notified by a cancel.
    pub cancelled: Rc<Notify>,
}

impl ConsoleTicket {
    /// Enters one.
    #[must_use]
    pub fn new(worker: &Rc<Worker>, secret: [u8; 4]) -> Self {
        let registry = &worker.postgres.cancels;
        let id = registry.free_id(worker.id);
        let cancelled = Rc::new(Notify::new());
        registry.consoles.borrow_mut().insert(id, (secret, Rc::clone(&cancelled)));
        Self { worker: Rc::clone(worker), key: ClientKey { id, secret }, cancelled }
    }

    /// The key to tell the client.
    #[must_use]
    pub fn key(&self) -> ClientKey {
        self.key
    }
}

impl Drop for ConsoleTicket {
    fn drop(&mut self) {
        self.worker.postgres.cancels.consoles.borrow_mut().remove(&self.key.id);
    }
}

/// One client's entry in the registry, gone when dropped.
pub struct CancelTicket {
    worker: Rc<Worker>,
    key: ClientKey,
    seat: Rc<Seat>,
}

impl CancelTicket {
    /// Enters a client of this pool.
    #[must_use]
    pub fn new(worker: &Rc<Worker>, pool: &Rc<Pool<PgConnector>>, secret: [u8; 4], presence: Presence) -> Self {
        let registry = &worker.postgres.cancels;
        let id = registry.free_id(worker.id);
        let doing = RefCell::new(Doing::Nothing);
        let seat = Rc::new(Seat { secret, pool: Rc::clone(pool), doing, waker: RefCell::new(None), presence });
        registry.seats.borrow_mut().insert(id, Rc::clone(&seat));
        Self { worker: Rc::clone(worker), key: ClientKey { id, secret }, seat }
    }

    /// The key to tell the client.
    #[must_use]
    pub fn key(&self) -> ClientKey {
        self.key
    }

    /// What others see of the client.
    #[must_use]
    pub fn presence(&self) -> &Presence {
        &self.seat.presence
    }

    /// The session's task: `waker` is woken when somebody wants something of it.
    pub fn begin(&self, waker: &Waker) {
        *self.seat.waker.borrow_mut() = Some(waker.clone());
    }

    /// The client does nothing that could be cancelled.
    pub fn idle(&self) {
        *self.seat.doing.borrow_mut() = Doing::Nothing;
    }

    /// The client waits for a server; `waker` is woken when a cancel comes.
    pub fn waiting(&self, waker: &Waker) {
        // The session's task stays the same, and with it the waker: after the first time this costs a comparison.
        match &mut *self.seat.waker.borrow_mut() {
            Some(known) => known.clone_from(waker),
            unknown @ None => *unknown = Some(waker.clone()),
        }
        *self.seat.doing.borrow_mut() = Doing::Waiting;
    }

    /// The client runs on this server connection.
    pub fn running(&self, on: &Rc<Cancellable>) {
        *self.seat.doing.borrow_mut() = Doing::Running(Rc::clone(on));
    }

    /// Whether a cancel came while the client waited.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        matches!(*self.seat.doing.borrow(), Doing::Cancelled)
    }
}

impl Drop for CancelTicket {
    fn drop(&mut self) {
        self.worker.postgres.cancels.seats.borrow_mut().remove(&self.key.id);
    }
}

/// Carries out a cancel request that came in on `worker`, wherever its target lives. Returns when it is delivered, or was about nobody.
pub async fn deliver(worker: &Rc<Worker>, key: ClientKey) {
    if key.worker() == worker.id {
        return deliver_here(worker, key).await;
    }
    let (done, delivered) = tokio::sync::oneshot::channel::<()>();
    let posted = worker.mailboxes.post(key.worker(), move |there| {
        let there = Rc::clone(there);
        tokio::task::spawn_local(async move {
            deliver_here(&there, key).await;
            // Whoever asked may have left.
            let _ = done.send(());
        });
    });
    if posted {
        let _ = delivered.await;
    }
}

async fn deliver_here(worker: &Rc<Worker>, key: ClientKey) {
    if let Some((secret, cancelled)) = worker.postgres.cancels.consoles.borrow().get(&key.id) {
        if bool::from(secret.ct_eq(&key.secret)) {
            cancelled.notify_waiters();
        }
        return;
    }
    let Some(seat) = worker.postgres.cancels.seats.borrow().get(&key.id).map(Rc::clone) else {
        tracing::debug!(reason = "unknown_key", "cancel request ignored");
        return;
    };
    if !bool::from(seat.secret.ct_eq(&key.secret)) {
        tracing::debug!(reason = "wrong_secret", "cancel request ignored");
        return;
    }
    let flight = match &mut *seat.doing.borrow_mut() {
        Doing::Nothing | Doing::Cancelled => {
            seat.pool.record().add(PoolCounter::CancelIdle, 1);
            return;
        }
        doing @ Doing::Waiting => {
            *doing = Doing::Cancelled;
            seat.wake();
            seat.pool.record().add(PoolCounter::CancelQueued, 1);
            return;
        }
        Doing::Running(on) => Rc::clone(&*on).begin(),
    };
    match seat.pool.connector().cancel(flight.target().key()).await {
        Ok(()) => {
            flight.delivered();
            seat.pool.record().add(PoolCounter::CancelSent, 1);
        }
        Err(fault) => {
            seat.pool.record().add(PoolCounter::CancelFailed, 1);
            tracing::warn!(pool = %seat.pool.name(), fault = %fault.message, "cancel request not delivered");
        }
    }
}
