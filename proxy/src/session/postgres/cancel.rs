//! Cancels: each client has a key of the proxy's own, and a cancel reaches the query that this client runs now, and only that.
//!
//! * waiting for a server: the wait ends, the query is answered with 57014;
//! * running: the server's own key is sent to the server, and the connection serves nobody else before that cancel is delivered;
//! * idle: nothing happens, as with PostgreSQL.
//!
//! A key says nothing of the worker its client lives on: a cancel is rare, so all workers are asked. A key that none of them knows may be another
//! process's (`peering`). Source: PostgreSQL documentation, "Canceling Requests in Progress".

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use sidepool_protocol::postgres::cancel_key::{CancelKey, KEY_BYTES};
use sidepool_protocol::postgres::parameters::ParameterSet;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use super::cancel_lines::{CancelLines, LineKey};
use super::presence::{Fate, Presence};
use super::{identity, peering};
use crate::clock;
use crate::observe::record::PoolCounter;
use crate::pool::handle::Pool;
use crate::upstream::postgres::cancellable::{Cancellable, Flight};
use crate::upstream::postgres::connector::PgConnector;
use crate::worker::Worker;

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
    key: CancelKey,
    pool: Rc<Pool<PgConnector>>,
    doing: RefCell<Doing>,
    /// Counts the times that the client was given a connection: a cancel is meant for one of them.
    turn: Cell<u32>,
    /// Whether it listens for notifications (`listening` knows to what).
    listens: Cell<bool>,
    /// Wakes the session; unknown before its first turn.
    waker: RefCell<Option<Waker>>,
    /// In a block of its own: in two blocks of up to 104 bytes this fills the gaps that the allocator has to leave between tasks, which are aligned
    /// to 128 bytes. In one it takes 0.12 kB more for each client.
    presence: Box<Presence>,
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
            Doing::Running(on) => Activity::Active(on.number()),
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

/// All clients of one worker, by their keys.
#[derive(Default)]
pub struct CancelRegistry {
    seats: RefCell<HashMap<[u8; KEY_BYTES], Rc<Seat>>>,
    /// Sessions of the admin console, which have no pool: what to tell them.
    consoles: RefCell<HashMap<[u8; KEY_BYTES], Rc<Notify>>>,
}

impl CancelRegistry {
    fn has(&self, key: &CancelKey) -> bool {
        self.seats.borrow().contains_key(&key.bytes()) || self.consoles.borrow().contains_key(&key.bytes())
    }

    /// The keys of all clients of this moment, to look at them a few at a time.
    #[must_use]
    pub fn clients(&self) -> Vec<[u8; KEY_BYTES]> {
        self.seats.borrow().keys().copied().collect()
    }

    /// Looks at those of these clients that are still here.
    pub fn look_at(&self, clients: &[[u8; KEY_BYTES]], mut look: impl FnMut(&Presence, Activity)) {
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

    /// Ends the sessions of so many idle clients, those first that hold most; who holds nothing is not among them. Answers how many.
    pub fn close_largest(&self, most: usize) -> usize {
        let seats = self.seats.borrow();
        let holds = |seat: &Rc<Seat>| seat.presence.statements.get() > 0 && seat.presence.fate().is_none();
        let mut idle: Vec<&Rc<Seat>> = seats.values().filter(|seat| seat.doing() == Activity::Idle && holds(seat)).collect();
        idle.sort_unstable_by_key(|seat| Reverse(seat.presence.statements.get()));
        idle.truncate(most);
        for seat in &idle {
            seat.presence.seal(Fate::Memory);
            seat.wake();
        }
        idle.len()
    }

    /// Ends the sessions of the clients that are chosen, at their next turn, which is soon. Answers how many there are.
    pub fn end(&self, fate: Fate, mut choose: impl FnMut(&Presence) -> bool) -> usize {
        let seats = self.seats.borrow();
        let chosen = seats.values().filter(|seat| choose(&seat.presence));
        chosen
            .map(|seat| {
                seat.presence.seal(fate);
                seat.wake()
            })
            .count()
    }
}

/// A session of the admin console, as far as a cancel is concerned; gone when dropped.
pub struct ConsoleTicket {
    worker: Rc<Worker>,
    key: CancelKey,
    /// Notified by a cancel.
    pub cancelled: Rc<Notify>,
}

impl ConsoleTicket {
    /// Enters one. Fails when there are no random numbers to be had.
    pub fn new(worker: &Rc<Worker>) -> Result<Self, getrandom::Error> {
        let registry = &worker.postgres.cancels;
        let mut key = new_key(worker)?;
        while registry.has(&key) {
            key = new_key(worker)?;
        }
        let cancelled = Rc::new(Notify::new());
        registry.consoles.borrow_mut().insert(key.bytes(), Rc::clone(&cancelled));
        Ok(Self { worker: Rc::clone(worker), key, cancelled })
    }

    /// The key to tell the client.
    #[must_use]
    pub fn key(&self) -> CancelKey {
        self.key
    }
}

/// A key by chance, with this process's place among its peers in it.
fn new_key(worker: &Worker) -> Result<CancelKey, getrandom::Error> {
    let peer = worker.config.borrow().postgres.as_ref().map_or(0, |postgres| postgres.peer_id);
    Ok(CancelKey::new(worker.chance.bytes()?, peer))
}

impl Drop for ConsoleTicket {
    fn drop(&mut self) {
        self.worker.postgres.cancels.consoles.borrow_mut().remove(&self.key.bytes());
    }
}

/// One client's entry in the registry, gone when dropped.
pub struct CancelTicket {
    worker: Rc<Worker>,
    seat: Rc<Seat>,
}

impl CancelTicket {
    /// Enters a client of this pool, with a new key. Fails when there are no random numbers to be had.
    pub fn new(worker: &Rc<Worker>, pool: &Rc<Pool<PgConnector>>, presence: Presence) -> Result<Self, getrandom::Error> {
        let mut presence = presence;
        loop {
            match Self::with_key(worker, pool, new_key(worker)?, presence) {
                Ok(ticket) => return Ok(ticket),
                Err(again) => presence = again,
            }
        }
    }

    /// Enters a client that has its key already; what is known of it comes back when somebody else has the same key.
    pub fn with_key(worker: &Rc<Worker>, pool: &Rc<Pool<PgConnector>>, key: CancelKey, presence: Presence) -> Result<Self, Presence> {
        let registry = &worker.postgres.cancels;
        if registry.has(&key) {
            return Err(presence);
        }
        let doing = RefCell::new(Doing::Nothing);
        let seat = Rc::new(Seat {
            key,
            pool: Rc::clone(pool),
            doing,
            turn: Cell::new(0),
            listens: Cell::new(false),
            waker: RefCell::new(None),
            presence: Box::new(presence),
        });
        registry.seats.borrow_mut().insert(key.bytes(), Rc::clone(&seat));
        let ticket = Self { worker: Rc::clone(worker), seat };
        identity::identify(&ticket.worker, ticket.presence());
        Ok(ticket)
    }

    /// The client's parameters are others now.
    pub fn set_state(&self, state: &Rc<ParameterSet>) {
        identity::set_state(&self.worker, self.presence(), state);
    }

    /// The client's number in this process: not a secret, never used again.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.seat.presence.id
    }

    /// The key to tell the client.
    #[must_use]
    pub fn key(&self) -> CancelKey {
        self.seat.key
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

    /// Whether the client listens for notifications.
    #[must_use]
    pub fn listens(&self) -> bool {
        self.seat.listens.get()
    }

    /// It does, or it does no more.
    pub fn set_listens(&self, listens: bool) {
        self.seat.listens.set(listens);
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

    /// The same, where it has run for a while already: a cancel that came meanwhile is for what runs.
    pub fn running_late(&self, on: &Rc<Cancellable>) {
        let cancelled = self.is_cancelled();
        self.running(on);
        if cancelled {
            let (worker, seat) = (Rc::clone(&self.worker), Rc::clone(&self.seat));
            tokio::task::spawn_local(async move { deliver_to_server(&seat, &worker.postgres.cancel_lines, patience(&worker)).await });
        }
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
        identity::forget(&self.worker, self.presence());
        if self.listens() {
            self.worker.postgres.listening.forget(self.number());
        }
    }
}

/// What became of a cancel request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It has no key.
    Malformed,
    /// Nobody knows its key.
    Unknown,
    /// It is for a session of the console, which has been told.
    Console,
    /// Its client runs nothing.
    Idle,
    /// Its client waited for a connection and does so no more.
    Queued,
    /// The server, the peer or the process before this one has it.
    Sent,
    /// Its turn did not come in time.
    Late,
    /// What it was for had ended when its turn came.
    Over,
    /// It could not be sent.
    Failed,
    /// It has been sent on too often.
    Worn,
    /// There is no such peer.
    NoPeer,
}

impl Outcome {
    /// Why the client that asked is closed, in PgBouncer's words.
    #[must_use]
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Malformed => "bad cancel request",
            Self::Unknown => "failed cancel request",
            Self::Console => "cancel request for console client",
            Self::Idle => "cancel request for idle client",
            Self::Queued | Self::Sent => "successfully sent cancel request",
            Self::Late => "cancel_wait_timeout",
            Self::Over => "not sending cancel request for client that is now idle",
            Self::Failed => "failed to send cancel request",
            Self::Worn => "failed to forward cancel request because its TTL was exhausted",
            Self::NoPeer => "could not find peer to forward request to",
        }
    }
}

/// Carries out a cancel request that came in on `worker`, wherever its target lives. Returns when it is delivered, or was about nobody.
pub async fn deliver(worker: &Rc<Worker>, key: CancelKey) -> Outcome {
    if let Some(outcome) = deliver_in_process(worker, key).await {
        return outcome;
    }
    let outcome = peering::forward(worker, key).await;
    if outcome == Outcome::Unknown {
        tracing::debug!(reason = "unknown_key", "cancel request ignored");
    }
    outcome
}

/// Carries out a cancel request for a client of this process; `None` when it has no such client.
pub async fn deliver_in_process(worker: &Rc<Worker>, key: CancelKey) -> Option<Outcome> {
    if let Some(outcome) = deliver_here(worker, key).await {
        return Some(outcome);
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
    let mut found = None;
    for answer in asked {
        found = found.or(answer.await.ok().flatten());
    }
    found
}

async fn deliver_here(worker: &Rc<Worker>, key: CancelKey) -> Option<Outcome> {
    if let Some(console) = find(&worker.postgres.cancels.consoles.borrow(), worker, key) {
        console.notify_waiters();
        return Some(Outcome::Console);
    }
    let seat = find(&worker.postgres.cancels.seats.borrow(), worker, key)?;
    let record = seat.pool.record();
    match &mut *seat.doing.borrow_mut() {
        Doing::Nothing | Doing::Cancelled => {
            record.add(PoolCounter::CancelIdle, 1);
            return Some(Outcome::Idle);
        }
        doing @ Doing::Waiting => {
            *doing = Doing::Cancelled;
            seat.wake();
            record.add(PoolCounter::CancelQueued, 1);
            return Some(Outcome::Queued);
        }
        Doing::Running(_) => {}
    }
    Some(deliver_to_server(&seat, &worker.postgres.cancel_lines, patience(worker)).await)
}

/// How long a cancel waits for its turn.
fn patience(worker: &Worker) -> Duration {
    worker.config.borrow().postgres.as_ref().map_or(Duration::ZERO, |postgres| postgres.cancel_wait_timeout)
}

/// What has this key. One that peers have sent on has changed on the way.
fn find<T>(those: &HashMap<[u8; KEY_BYTES], Rc<T>>, worker: &Worker, key: CancelKey) -> Option<Rc<T>> {
    let by_peers = || those.get(&key.as_made_by_a_peer().bytes()).filter(|_| is_of_peers(worker, key));
    those.get(&key.bytes()).or_else(by_peers).map(Rc::clone)
}

fn is_of_peers(worker: &Worker, key: CancelKey) -> bool {
    worker.config.borrow().postgres.as_ref().is_some_and(|postgres| postgres.peer_id > 0 && postgres.peer_id == key.peer())
}

/// Cancels what runs on a server, when it is this cancel's turn, if it still runs then.
async fn deliver_to_server(seat: &Seat, lines: &CancelLines, patience: Duration) -> Outcome {
    let meant_for = seat.turn.get();
    let limit = seat.pool.snapshot(clock::now()).max;
    let entering = lines.enter(LineKey::Pool(seat.pool.id()), limit);
    let entered = if patience.is_zero() { Ok(entering.await) } else { timeout(patience, entering).await };
    let _turn = match entered {
        Ok(Ok(turn)) => turn,
        Ok(Err(_)) | Err(_) => {
            seat.pool.record().add(PoolCounter::CancelFailed, 1);
            tracing::warn!(pool = %seat.pool.name(), limit, "cancel_wait_timeout: as many cancels are on their way as there may be connections");
            return Outcome::Late;
        }
    };
    let flight = match &*seat.doing.borrow() {
        Doing::Running(on) if seat.turn.get() == meant_for => Rc::clone(on).begin(),
        Doing::Running(_) | Doing::Nothing | Doing::Waiting | Doing::Cancelled => {
            seat.pool.record().add(PoolCounter::CancelIdle, 1);
            return Outcome::Over;
        }
    };
    fly(seat, flight).await
}

async fn fly(seat: &Seat, flight: Flight) -> Outcome {
    match seat.pool.connector().cancel(flight.target()).await {
        Ok(()) => {
            flight.delivered();
            seat.pool.record().add(PoolCounter::CancelSent, 1);
            Outcome::Sent
        }
        Err(fault) => {
            seat.pool.record().add(PoolCounter::CancelFailed, 1);
            tracing::warn!(pool = %seat.pool.name(), fault = %fault.message, "cancel request not delivered");
            Outcome::Failed
        }
    }
}
