//! The pool core: who gets which connection, as a pure state machine. No sockets, no clock, no tasks, no chance of its own: ids and times
//! go in, [`Action`]s come out, and whoever performs them reports back. It may live behind a `RefCell` or a `Mutex`.
//!
//! ```text
//!   sessions ── acquire / cancel / release ──►┌──────┐── poll_action ──► Open Reset Probe Close (driver)
//!   driver ──── on_connected … on_closed ────►│ Core │                   Grant Refuse       (waiting sessions)
//!   operators ─ resize pause drain … ────────►└──────┘── poll_timeout ─► handle_timeout(now)
//! ```
//! Here are the inputs; what follows from them is in `settle`, and what can be asked in `facts`. A name that is not (or no longer) what an input takes it for is ignored:
//! the two sides may have crossed.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::action::{Action, Outcome};
use super::backoff::Backoff;
use super::ceiling::Ceiling;
use super::id::{Asker, ConnId, IdentityId, WaiterId};
use super::limits::Limits;
use super::pace::Pace;
use super::queue::Queue;
use super::random::Random;
use super::reason::{CloseReason, Condition, Failure, OpenReason, RefuseReason};
use super::state::{ConnState, Conns};
use super::timers::{Timer, Timers};
use crate::worker::WorkerId;

/// For so long nothing is opened that nobody asks for, after somebody wanted a database alone: longer than PostgreSQL waits for others to go.
const ALONE: Duration = Duration::from_secs(6);

/// One pool.
#[derive(Debug, Clone)]
pub struct Core {
    pub(super) limits: Limits,
    pub(super) conns: Conns,
    pub(super) queue: Queue,
    pub(super) timers: Timers,
    pub(super) backoff: Backoff,
    /// What the server has room for, where that is less than the limits allow.
    pub(super) ceiling: Ceiling,
    pub(super) random: Random,
    pub(super) actions: VecDeque<Action>,
    pub(super) paused: bool,
    pub(super) draining: bool,
    /// What may not be opened, because pools of the same database or user have as many connections together as they may.
    pub(super) capped: Option<OpenReason>,
    /// How many of the next connections that come back are closed, because other pools need them more.
    pub(super) owed: u32,
    /// The connection that is being opened to take the place of one that is about to reach its age, and that one.
    pub(super) heir: Option<(ConnId, ConnId)>,
    /// When the server last closed a connection that had just been opened.
    pub(super) lost_early: Option<Instant>,
    /// Until when nothing is opened that nobody asks for: somebody wants the database alone.
    pub(super) alone_until: Option<Instant>,
    /// When a connection was last replaced for its age.
    pub(super) last_expired: Option<Instant>,
    /// Counts changes of address or credentials.
    pub(super) epoch: u32,
    /// Who asked last that all connections be replaced.
    pub(super) stale_token: u64,
    /// The latest time we were told: with several workers, one may have read the clock before another and come after it.
    pub(super) now: Instant,
    /// Since when sessions wait while every connection that is allowed is open.
    pub(super) saturated_since: Option<Instant>,
    /// For how long they did before that.
    pub(super) saturated: Duration,
    /// At what pace waiters get connections.
    pub(super) pace: Pace,
    /// What the counts may still be after the limits shrank below them.
    pub(super) allowed: Allowed,
    #[cfg(test)]
    pub(super) planted: super::tests::Planted,
}

/// Limits that include what was there before they shrank.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowed {
    pub(super) connections: u32,
    pub(super) waiters: u32,
}

impl Core {
    /// An empty pool. `seed` decides jitter and spread.
    #[must_use]
    pub fn new(now: Instant, limits: Limits, seed: u64) -> Self {
        let limits = limits.bounded();
        let mut conns = Conns::default();
        conns.round_robin = limits.round_robin;
        Self {
            limits,
            conns,
            queue: Queue::default(),
            timers: Timers::default(),
            backoff: Backoff::default(),
            ceiling: Ceiling::default(),
            random: Random::new(seed),
            actions: VecDeque::new(),
            paused: false,
            draining: false,
            capped: None,
            owed: 0,
            heir: None,
            lost_early: None,
            alone_until: None,
            last_expired: None,
            epoch: 0,
            stale_token: 0,
            now,
            saturated_since: None,
            saturated: Duration::ZERO,
            pace: Pace::default(),
            allowed: Allowed { connections: limits.most(), waiters: limits.queue_length },
            #[cfg(test)]
            planted: super::tests::Planted::default(),
        }
    }

    /// `worker` takes part: it performs actions. The minimum is opened only where somebody does.
    pub fn attach_worker(&mut self, now: Instant, worker: WorkerId) {
        let now = self.advance(now);
        self.conns.side(worker).attached = true;
        self.settle(now);
    }

    /// `worker` is gone, and with it its connections and waiters.
    pub fn detach_worker(&mut self, now: Instant, worker: WorkerId) {
        let now = self.advance(now);
        let side = self.conns.side(worker);
        (side.attached, side.members) = (false, 0);
        let gone: Vec<(u32, ConnState)> = self.conns.all().filter(|(slot, _)| self.conns.at(*slot).home == worker).collect();
        for (slot, state) in gone {
            if state == ConnState::Leased {
                self.queue.gave(self.conns.at(slot).holder, slot);
            }
            self.conns.remove(slot);
        }
        let left = self.queue.on_worker(worker);
        for waiter in left {
            self.queue.remove(waiter);
        }
        self.settle(now);
    }

    /// A session of `worker` asks for a connection.
    pub fn acquire(&mut self, now: Instant, asker: Asker) -> Outcome {
        let (now, worker) = (self.advance(now), asker.worker);
        if let Some(slot) = self.conns.warmest(worker) {
            self.lease(slot, worker, asker.identity);
            self.taken(now);
            return Outcome::Granted(self.conns.id(slot));
        }
        if let Some(slot) = self.conns.idle_for(worker) {
            let waiter = self.queue.pass(now, asker);
            self.grant(slot, waiter, worker, asker.identity);
            self.taken(now);
            return Outcome::Queued(waiter);
        }
        if let Some(reason) = self.refuses(now, asker.identity).or_else(|| self.refuses_early(now, asker)) {
            // Whoever comes a moment later finds out whether the server is back.
            self.hurry(now);
            return Outcome::Refused(self.refusal(reason, asker.identity, asker.patience, Duration::ZERO));
        }
        self.make_room(now, asker.identity);
        self.conns.side(worker);
        let waiter = self.queue.push(now, asker);
        self.wait(now, now, asker);
        Outcome::Queued(waiter)
    }

    /// A connection that was granted to a session waiting since `since` was lost on the way: the session comes first again.
    pub fn acquire_again(&mut self, now: Instant, asker: Asker, since: Instant) -> Outcome {
        let (now, worker) = (self.advance(now), asker.worker);
        if let Some(slot) = self.conns.warmest(worker) {
            self.lease(slot, worker, asker.identity);
            self.taken(now);
            return Outcome::Granted(self.conns.id(slot));
        }
        let waited = now.saturating_duration_since(since);
        let too_long = self.patience(asker.patience).is_some_and(|timeout| waited >= timeout).then_some(RefuseReason::WaitTimeout);
        if let Some(reason) = self.refuses(now, asker.identity).or(too_long) {
            return Outcome::Refused(self.refusal(reason, asker.identity, asker.patience, waited));
        }
        self.make_room(now, asker.identity);
        self.conns.side(worker);
        let since = since.min(now);
        let waiter = self.queue.push_again(since, asker);
        self.wait(now, since, asker);
        Outcome::Queued(waiter)
    }

    /// A place for a connection that the pool does not open: leased from the start. `None` when there is no room now, or others wait for it.
    pub fn occupy(&mut self, now: Instant, worker: WorkerId, identity: IdentityId) -> Option<ConnId> {
        let now = self.advance(now);
        if self.paused || self.draining || !self.queue.is_empty() || self.conns.total() >= self.limits.max {
            return None;
        }
        let slot = self.conns.insert(now, worker, self.epoch);
        self.lease(slot, worker, identity);
        self.settle(now);
        Some(self.conns.id(slot))
    }

    /// A session does not wait any more. False when it had been granted a connection, or refused, already.
    pub fn cancel(&mut self, now: Instant, waiter: WaiterId) -> bool {
        let now = self.advance(now);
        let cancelled = self.queue.remove(waiter).is_some();
        self.note_saturation(now);
        self.checked();
        cancelled
    }

    /// A session gives its connection back.
    pub fn release(&mut self, now: Instant, conn: ConnId, condition: Condition) {
        let now = self.advance(now);
        let Some(slot) = self.conns.find_in(conn, ConnState::Leased) else { return };
        self.queue.gave(self.conns.at(slot).holder, slot);
        let owed = self.owed > 0;
        self.owed = self.owed.saturating_sub(1);
        match condition {
            Condition::Unused | Condition::Clean | Condition::Dirty if owed => self.close(slot, CloseReason::Evicted),
            Condition::Unused => return self.free(now, slot),
            Condition::Clean | Condition::Dirty if self.limits.used_once => self.close(slot, CloseReason::Lifetime),
            Condition::Clean if self.limits.probe_always => {
                self.conns.at_mut(slot).idle_since = now;
                self.ask(slot);
            }
            Condition::Clean => return self.free(now, slot),
            Condition::Broken => self.close(slot, CloseReason::Broken),
            Condition::Lost => {
                self.note_lost(now, conn);
                self.close(slot, CloseReason::ServerClosed);
            }
            Condition::Dirty => match self.unwanted(slot) {
                Some(reason) => self.close(slot, reason),
                None => {
                    self.conns.shift(slot, ConnState::Resetting);
                    self.actions.push_back(Action::Reset { conn, worker: self.conns.at(slot).home });
                }
            },
        }
        self.settle(now);
    }

    /// A worker starts to open the connection, with the address and credentials of `epoch`. False: it has been given up since, and is not to be opened.
    pub fn on_opening(&mut self, conn: ConnId, epoch: u32) -> bool {
        let Some(slot) = self.conns.find_in(conn, ConnState::Connecting) else { return false };
        self.conns.at_mut(slot).epoch = epoch;
        if epoch < self.epoch {
            self.conns.retire(slot, CloseReason::Stale);
        }
        true
    }

    /// The connection may not be opened, because pools of the same database or user have as many together as they may. Until
    /// [`Core::uncap`], nothing more is opened: for `reason`, or at all if that is that somebody waits.
    pub fn on_capped(&mut self, now: Instant, conn: ConnId, reason: OpenReason) {
        let now = self.advance(now);
        let Some(slot) = self.conns.find_in(conn, ConnState::Connecting) else { return };
        self.conns.remove(slot);
        if self.capped != Some(OpenReason::Demand) {
            self.capped = Some(reason);
        }
        self.settle(now);
    }

    /// Connections may be opened again.
    pub fn uncap(&mut self, now: Instant) {
        let now = self.advance(now);
        self.capped = None;
        self.settle(now);
    }

    /// Closes the connection that is idle for longest, because another pool needs it more; false when none is idle.
    pub fn evict(&mut self, now: Instant) -> bool {
        let now = self.advance(now);
        let Some(slot) = self.conns.coldest() else { return false };
        self.close(slot, CloseReason::Evicted);
        self.settle(now);
        true
    }

    /// The server has closed a connection that somebody has.
    pub fn note_lost(&mut self, now: Instant, conn: ConnId) {
        if self.conns.find_in(conn, ConnState::Leased).is_some_and(|slot| self.is_new(now, slot)) {
            self.lost_early(now);
        }
    }

    /// The next connection that comes back is closed, because another pool needs it more.
    pub fn owe_one(&mut self, now: Instant) {
        if !self.evict(now) {
            self.owed = (self.owed + 1).min(self.conns.count(ConnState::Leased));
        }
    }

    /// No other pool needs one more than this any longer.
    pub fn forgive(&mut self) {
        self.owed = 0;
    }

    /// One more client of `worker` uses the pool.
    pub fn enter(&mut self, now: Instant, worker: WorkerId) {
        self.conns.side(worker).members += 1;
        if self.limits.minds_members() && self.conns.members() == 1 {
            let now = self.advance(now);
            self.settle(now);
        }
    }

    /// One client fewer of `worker` uses the pool.
    pub fn leave(&mut self, now: Instant, worker: WorkerId) {
        let members = &mut self.conns.side(worker).members;
        *members = members.saturating_sub(1);
        if self.limits.minds_members() && self.conns.members() == 0 {
            let now = self.advance(now);
            self.settle(now);
        }
    }

    /// The connection is open and logged in.
    pub fn on_connected(&mut self, now: Instant, conn: ConnId) {
        let now = self.advance(now);
        let Some(slot) = self.conns.find_in(conn, ConnState::Connecting) else { return };
        if self.conns.retired(slot).is_none() {
            if self.loses_early(now) {
                self.backoff.succeeded_again();
            } else {
                self.backoff.succeeded();
            }
            self.timers.set(Timer::Retry, self.backoff.retry_at(now));
            self.ceiling.admitted(self.conns.live(), self.limits.most());
            self.timers.set(Timer::Ceiling, self.ceiling.until());
        }
        let spread = self.random.between(900, 1100);
        let opened = self.conns.at_mut(slot);
        (opened.opened, opened.spread) = (Some(now), spread);
        self.succeed(now, conn);
        if let Some(expires) = self.conns.expires(slot, self.limits.lifetime) {
            let first = expires.checked_sub(self.limits.head_start()).unwrap_or(expires);
            self.timers.lower(Timer::Lifetime, first.max(now + Duration::from_millis(1)));
        }
        self.free(now, slot);
        self.settle(now);
    }

    /// The connection could not be opened.
    pub fn on_connect_failed(&mut self, now: Instant, conn: ConnId, failure: Failure) {
        let now = self.advance(now);
        let Some(slot) = self.conns.find_in(conn, ConnState::Connecting) else { return };
        let stale = self.conns.retired(slot).is_some();
        self.conns.remove(slot);
        if self.heir.take_if(|(heir, _)| *heir == conn).is_some() {
            // Who was to be replaced may be due by now.
            self.timers.lower(Timer::Lifetime, now + Duration::from_millis(1));
        }
        if !stale {
            let Limits { backoff_initial, backoff_max, .. } = self.limits;
            self.backoff.failed(now, failure, backoff_initial, backoff_max, &mut self.random);
            if !self.queue.is_empty() {
                self.hurry(now);
            }
            self.timers.set(Timer::Retry, self.backoff.retry_at(now));
            if failure == Failure::Full {
                self.ceiling.refused(now, self.conns.live());
                self.timers.set(Timer::Ceiling, self.ceiling.until());
            }
            if self.backoff.is_hopeless(now, self.limits.fail_fast_after) && self.conns.usable() == 0 {
                self.refuse_all(now, RefuseReason::UpstreamRefuses);
            }
        }
        self.settle(now);
    }

    /// The connection is clean again, or could not be cleaned.
    pub fn on_reset(&mut self, now: Instant, conn: ConnId, ok: bool) {
        let now = self.advance(now);
        let Some(slot) = self.conns.find_in(conn, ConnState::Resetting) else { return };
        if ok {
            self.free(now, slot);
        } else {
            self.close(slot, CloseReason::ResetFailed);
        }
        self.settle(now);
    }

    /// The connection is alive, or does not answer.
    pub fn on_probe(&mut self, now: Instant, conn: ConnId, ok: bool) {
        let now = self.advance(now);
        let Some(slot) = self.conns.find_in(conn, ConnState::Probing) else { return };
        self.conns.at_mut(slot).heard = now;
        if !ok {
            self.close(slot, CloseReason::ProbeFailed);
        } else if let Some(reason) = self.unwanted(slot) {
            self.close(slot, reason);
        } else {
            self.conns.return_idle(slot);
            self.arm_probe(slot);
        }
        self.probe(now);
        self.settle(now);
    }

    /// The connection is closed: because we asked for it, or because the server did while it was idle.
    pub fn on_closed(&mut self, now: Instant, conn: ConnId) {
        self.discard(now, conn, CloseReason::ServerClosed);
    }

    /// The connection is of no use any more, or is closed by now.
    pub fn discard(&mut self, now: Instant, conn: ConnId, reason: CloseReason) {
        let now = self.advance(now);
        let Some((slot, state)) = self.conns.find(conn) else { return };
        if reason == CloseReason::ServerClosed && state != ConnState::Closing && self.is_new(now, slot) {
            self.lost_early(now);
        }
        match state {
            ConnState::Closing => self.conns.remove(slot),
            ConnState::Leased => {
                self.queue.gave(self.conns.at(slot).holder, slot);
                self.close(slot, reason);
            }
            ConnState::Idle | ConnState::Resetting | ConnState::Probing => self.close(slot, reason),
            // Not open yet: the one who opens it will say what became of it.
            ConnState::Connecting => return,
        }
        self.settle(now);
    }

    /// The connection is to be closed when nobody uses it any more.
    pub fn retire(&mut self, now: Instant, conn: ConnId, reason: CloseReason) {
        let now = self.advance(now);
        match self.conns.find(conn) {
            None | Some((_, ConnState::Closing)) => return,
            Some((slot, ConnState::Connecting | ConnState::Idle | ConnState::Leased | ConnState::Resetting | ConnState::Probing)) => {
                self.conns.retire(slot, reason)
            }
        }
        self.settle(now);
    }

    /// As [`Core::retire`], for all connections there are.
    pub fn retire_all(&mut self, now: Instant, reason: CloseReason) {
        let now = self.advance(now);
        let open: Vec<u32> = self.conns.all().filter(|(_, state)| *state != ConnState::Closing).map(|(slot, _)| slot).collect();
        for slot in open {
            self.conns.retire(slot, reason);
        }
        if reason == CloseReason::Asked {
            self.alone_until = Some(now + ALONE);
            self.timers.lower(Timer::Lifetime, now + ALONE);
        }
        self.settle(now);
    }

    /// New limits, from now on.
    pub fn resize(&mut self, now: Instant, limits: Limits) {
        let now = self.advance(now);
        self.limits = limits.bounded();
        self.conns.round_robin = limits.round_robin;
        let Allowed { connections, waiters } = self.allowed;
        self.allowed = Allowed { connections: connections.max(self.limits.most()), waiters: waiters.max(limits.queue_length) };
        self.expire(now);
        self.rearm(now);
        self.settle(now);
    }

    /// The address or the credentials changed: what is open is closed when nobody uses it, and the next connect is tried at once.
    pub fn mark_stale(&mut self, now: Instant) {
        self.mark_stale_before(now, self.epoch.saturating_add(1));
    }

    /// As [`Core::mark_stale`], for all that was opened before `epoch`; each worker that learns of the change may say so.
    pub fn mark_stale_before(&mut self, now: Instant, epoch: u32) {
        let now = self.advance(now);
        if epoch > self.epoch {
            self.epoch = epoch;
            self.backoff.succeeded();
            self.ceiling.forget();
            self.timers.set(Timer::Retry, None);
            let old: Vec<u32> = self
                .conns
                .all()
                .filter(|(slot, state)| *state != ConnState::Closing && self.conns.at(*slot).epoch < epoch)
                .map(|(slot, _)| slot)
                .collect();
            for slot in old {
                self.conns.retire(slot, CloseReason::Stale);
            }
            self.abandon_connects(CloseReason::Stale);
        }
        self.settle(now);
    }

    /// As [`Core::mark_stale`], but only once for each `token`. Answers the epoch of what is opened from now on.
    pub fn mark_stale_once(&mut self, now: Instant, token: u64) -> u32 {
        if self.stale_token != token {
            self.stale_token = token;
            self.mark_stale(now);
        }
        self.epoch
    }

    /// Something has changed that may let the next connect work: it is tried at once.
    pub fn try_again(&mut self, now: Instant) {
        let now = self.advance(now);
        self.backoff.succeeded();
        self.timers.set(Timer::Retry, None);
        self.settle(now);
    }

    /// No more grants until [`Core::resume`]: sessions wait, connections are closed when nobody uses them.
    pub fn pause(&mut self, now: Instant) {
        let now = self.advance(now);
        self.paused = true;
        self.abandon_connects(CloseReason::Paused);
        self.settle(now);
    }

    /// Grants again.
    pub fn resume(&mut self, now: Instant) {
        let now = self.advance(now);
        self.paused = false;
        self.settle(now);
    }

    /// No more grants, ever: who waits is refused, connections are closed when nobody uses them.
    pub fn drain(&mut self, now: Instant) {
        let now = self.advance(now);
        self.draining = true;
        self.refuse_all(now, RefuseReason::Draining);
        self.abandon_connects(CloseReason::Drain);
        self.settle(now);
    }

    /// Acts on the deadlines that have passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
    }

    /// Whether there is something to do.
    #[must_use]
    pub fn wants_action(&self) -> bool {
        !self.actions.is_empty()
    }

    /// What to do next, until there is nothing.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`Core::handle_timeout`] next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.earliest()
    }
}
