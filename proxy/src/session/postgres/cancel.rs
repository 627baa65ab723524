//! Cancels: each client has a key of the proxy's own, and a cancel reaches the query that this client runs now, and only that.
//!
//! * waiting for a server: the wait ends, the query is answered with 57014;
//! * running: the server's own key is sent to the server, and the connection serves nobody else before that cancel is delivered;
//! * idle: nothing happens, as with PostgreSQL.
//!
//! A key says nothing of the worker its client lives on: a cancel is rare, so all workers are asked. A key that none of them knows may be another
//! process's (`peering`). Source: PostgreSQL documentation, "Canceling Requests in Progress".

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use sidepool_protocol::postgres::cancel_key::{CancelKey, KEY_BYTES};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::cancel_lines::{CancelLines, LineKey};
use super::peering;
use crate::clock;
use crate::observe::record::PoolCounter;
use crate::pool::handle::Pool;
use crate::upstream::postgres::cancellable::{Cancellable, Flight};
use crate::upstream::postgres::connector::PgConnector;
use crate::worker::Worker;

/// Where in a client's number the worker stands.
const WORKER_SHIFT: u32 = 48;

/// What a client is doing, as far as a cancel is concerned.
enum Doing {
    Nothing,
    /// In the queue; woken to be told.
    Waiting,
    /// Cancelled while in the queue.
    Cancelled,
    Running(Rc<Cancellable>),
}

/// What a client said when it logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Who it is.
    pub user: Box<str>,
    /// What it asked for.
    pub database: Box<str>,
}

struct Seat {
    key: CancelKey,
    number: u64,
    login: Login,
    pool: Rc<Pool<PgConnector>>,
    doing: RefCell<Doing>,
    /// Counts the times that the client was given a connection: a cancel is meant for one of them.
    turn: Cell<u32>,
    /// Wakes the session; unknown until it waits for the first time.
    waker: RefCell<Option<Waker>>,
}

/// All clients of one worker, by their keys.
#[derive(Default)]
pub struct CancelRegistry {
    seats: RefCell<HashMap<[u8; KEY_BYTES], Rc<Seat>>>,
    next: Cell<u64>,
}

/// One client's entry in the registry, gone when dropped.
pub struct CancelTicket {
    worker: Rc<Worker>,
    seat: Rc<Seat>,
}

impl CancelTicket {
    /// Enters a client of this pool, with a new key. Fails when there are no random numbers to be had.
    pub fn new(worker: &Rc<Worker>, pool: &Rc<Pool<PgConnector>>, login: &Login) -> Result<Self, getrandom::Error> {
        let peer = worker.config.borrow().postgres.as_ref().map_or(0, |postgres| postgres.peer_id);
        loop {
            let mut random = [0; KEY_BYTES];
            getrandom::fill(&mut random)?;
            if let Some(ticket) = Self::with_key(worker, pool, login.clone(), CancelKey::new(random, peer)) {
                return Ok(ticket);
            }
        }
    }

    /// Enters a client that has its key already; `None` when somebody else has the same.
    #[must_use]
    pub fn with_key(worker: &Rc<Worker>, pool: &Rc<Pool<PgConnector>>, login: Login, key: CancelKey) -> Option<Self> {
        let registry = &worker.postgres.cancels;
        let mut seats = registry.seats.borrow_mut();
        let Entry::Vacant(place) = seats.entry(key.bytes()) else { return None };
        registry.next.set(registry.next.get() + 1);
        let number = (u64::from(worker.id.0) << WORKER_SHIFT) | registry.next.get();
        let (doing, waker) = (RefCell::new(Doing::Nothing), RefCell::new(None));
        let seat = Rc::new(Seat { key, number, login, pool: Rc::clone(pool), doing, turn: Cell::new(0), waker });
        place.insert(Rc::clone(&seat));
        Some(Self { worker: Rc::clone(worker), seat })
    }

    /// Who the client is.
    #[must_use]
    pub fn login(&self) -> &Login {
        &self.seat.login
    }

    /// The client's number in this process: not a secret, never used again.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.seat.number
    }

    /// The key to tell the client.
    #[must_use]
    pub fn key(&self) -> CancelKey {
        self.seat.key
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
        self.seat.turn.set(self.seat.turn.get().wrapping_add(1));
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
        self.worker.postgres.cancels.seats.borrow_mut().remove(&self.seat.key.bytes());
    }
}

/// Carries out a cancel request that came in on `worker`, wherever its target lives. Returns when it is delivered, or was about nobody.
pub async fn deliver(worker: &Rc<Worker>, key: CancelKey) {
    if !deliver_in_process(worker, key).await && !peering::forward(worker, key).await {
        tracing::debug!(reason = "unknown_key", "cancel request ignored");
    }
}

/// Carries out a cancel request for a client of this process; false when it has no such client.
pub async fn deliver_in_process(worker: &Rc<Worker>, key: CancelKey) -> bool {
    if deliver_here(worker, key).await {
        return true;
    }
    let others = worker.mailboxes.ids().filter(|id| *id != worker.id);
    let asked: Vec<_> = others
        .filter_map(|id| {
            let (answer, found) = oneshot::channel();
            let job = move |there: &Rc<Worker>| {
                let there = Rc::clone(there);
                tokio::task::spawn_local(async move {
                    // Whoever asked may have left.
                    let _ = answer.send(deliver_here(&there, key).await);
                });
            };
            worker.mailboxes.post(id, job).then_some(found)
        })
        .collect();
    let mut known = false;
    for answer in asked {
        known |= answer.await.unwrap_or(false);
    }
    known
}

async fn deliver_here(worker: &Rc<Worker>, key: CancelKey) -> bool {
    let seat = {
        let seats = worker.postgres.cancels.seats.borrow();
        // A key that peers have sent on has changed on the way.
        let found = seats.get(&key.bytes()).or_else(|| seats.get(&key.as_made_by_a_peer().bytes()).filter(|_| is_of_peers(worker, key)));
        found.map(Rc::clone)
    };
    let Some(seat) = seat else { return false };
    let record = seat.pool.record();
    match &mut *seat.doing.borrow_mut() {
        Doing::Nothing | Doing::Cancelled => {
            record.add(PoolCounter::CancelIdle, 1);
            return true;
        }
        doing @ Doing::Waiting => {
            *doing = Doing::Cancelled;
            if let Some(waker) = &*seat.waker.borrow() {
                waker.wake_by_ref();
            }
            record.add(PoolCounter::CancelQueued, 1);
            return true;
        }
        Doing::Running(_) => {}
    }
    let config = worker.config.borrow().clone();
    let patience = config.postgres.as_ref().map_or(Duration::ZERO, |postgres| postgres.cancel_wait_timeout);
    deliver_to_server(&seat, &worker.postgres.cancel_lines, patience).await;
    true
}

fn is_of_peers(worker: &Worker, key: CancelKey) -> bool {
    worker.config.borrow().postgres.as_ref().is_some_and(|postgres| postgres.peer_id > 0 && postgres.peer_id == key.peer())
}

/// Cancels what runs on a server, when it is this cancel's turn, if it still runs then.
async fn deliver_to_server(seat: &Seat, lines: &CancelLines, patience: Duration) {
    let meant_for = seat.turn.get();
    let limit = seat.pool.snapshot(clock::now()).max;
    let entering = lines.enter(LineKey::Pool(seat.pool.id()), limit);
    let entered = if patience.is_zero() { Ok(entering.await) } else { timeout(patience, entering).await };
    let _turn = match entered {
        Ok(Ok(turn)) => turn,
        Ok(Err(_)) | Err(_) => {
            seat.pool.record().add(PoolCounter::CancelFailed, 1);
            tracing::warn!(pool = %seat.pool.name(), limit, "cancel_wait_timeout: as many cancels are on their way as there may be connections");
            return;
        }
    };
    let flight = match &*seat.doing.borrow() {
        Doing::Running(on) if seat.turn.get() == meant_for => Rc::clone(on).begin(),
        Doing::Running(_) | Doing::Nothing | Doing::Waiting | Doing::Cancelled => {
            seat.pool.record().add(PoolCounter::CancelIdle, 1);
            return;
        }
    };
    fly(seat, flight).await;
}

async fn fly(seat: &Seat, flight: Flight) {
    match seat.pool.connector().cancel(flight.target()).await {
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
