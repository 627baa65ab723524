//! What follows from an input: connections that nobody needs are closed, waiters get what is free, missing connections are opened,
//! deadlines are set. The short ways of `acquire` and `release` on the data path do without [`Core::settle`].

use std::time::{Duration, Instant};

use super::action::Action;
use super::core::Core;
use super::id::{Asker, IdentityId, WaiterId};
use super::queue::Affinity;
use super::reason::{CloseReason, OpenReason, RefuseReason};
use super::sizing::Demand;
use super::state::ConnState;
use super::timers::Timer;
use crate::worker::WorkerId;

/// The shortest time between two looks for connections to probe.
const SHORTEST_PROBE_PAUSE: Duration = Duration::from_millis(10);

impl Core {
    /// Makes the time monotonic and acts on deadlines that have passed. Every input starts with this, so that no session is granted a
    /// connection after its wait was over.
    pub(super) fn advance(&mut self, now: Instant) -> Instant {
        self.now = self.now.max(now);
        if self.timers.due(self.now) {
            self.fire(self.now);
        }
        self.now
    }

    /// Why somebody who asks now is refused at once.
    pub(super) fn refuses(&self, now: Instant, identity: IdentityId) -> Option<RefuseReason> {
        if self.draining {
            Some(RefuseReason::Draining)
        } else if self.backoff.refuses(now, self.limits.fail_fast_after) && self.conns.usable() == 0 {
            Some(RefuseReason::LoginFailing)
        } else if self.is_full() && (self.queue.len() > self.limits.queue_length || self.queue.youngest_of_the_longest(identity).is_none())
        {
            Some(if self.paused { RefuseReason::Paused } else { RefuseReason::QueueFull })
        } else {
            None
        }
    }

    /// A full queue of which one identity has more than `identity` makes room for it.
    pub(super) fn make_room(&mut self, now: Instant, identity: IdentityId) {
        if self.is_full()
            && let Some(waiter) = self.queue.youngest_of_the_longest(identity)
        {
            self.refuse(now, waiter, if self.paused { RefuseReason::Paused } else { RefuseReason::QueueFull });
        }
    }

    fn is_full(&self) -> bool {
        self.queue.len() >= self.limits.queue_length
    }

    /// Somebody new waits, since `since`.
    pub(super) fn wait(&mut self, now: Instant, since: Instant, asker: Asker) {
        if let Some(timeout) = self.patience(asker.patience) {
            self.timers.lower(Timer::Wait, since + timeout);
        }
        if let Some((after, untold)) = self.limits.notify_after.zip(self.queue.untold()) {
            self.timers.lower(Timer::Notify, untold.since + after);
        }
        // Where all that are allowed are open, one more waiter changes nothing else: the usual case when a pool is busy.
        if self.conns.total() < self.limits.most() {
            return self.settle(now);
        }
        self.note_saturation(now);
        self.checked();
    }

    /// The connection in `slot` is clean and has no holder.
    pub(super) fn free(&mut self, now: Instant, slot: u32) {
        if let Some(reason) = self.unwanted(slot) {
            self.close(slot, reason);
            return self.settle(now);
        }
        #[cfg(test)]
        if self.planted.lost_wake_up && self.conns.find_in(self.conns.id(slot), ConnState::Leased).is_some() {
            return self.park(now, slot);
        }
        let conns = &self.conns;
        let home = conns.at(slot).home;
        let affinity = Affinity { home, patience: self.limits.affinity_patience, will_free: |worker| conns.will_free(worker) };
        match self.queue.next(Some(&affinity)) {
            Some(waiter) => {
                self.pace.served(now);
                self.grant(slot, waiter.id, waiter.worker, waiter.identity);
                self.note_saturation(now);
            }
            None => self.park(now, slot),
        }
        self.checked();
    }

    /// Why a connection without a holder should be closed instead of used again.
    pub(super) fn unwanted(&self, slot: u32) -> Option<CloseReason> {
        if self.draining {
            return Some(CloseReason::Drain);
        }
        if self.paused {
            return Some(CloseReason::Paused);
        }
        if self.conns.live() > self.limits.most() {
            return Some(CloseReason::Shrunk);
        }
        let reason = self.conns.retired(slot)?;
        let replacing = self.conns.count(ConnState::Connecting) + self.conns.count(ConnState::Closing) > 0;
        // While sessions wait, connections that are merely old are replaced one after the other.
        if reason == CloseReason::Lifetime && replacing && !self.queue.is_empty() { None } else { Some(reason) }
    }

    /// An idle connection was taken: where some are to be ready, the next is opened.
    pub(super) fn taken(&mut self, now: Instant) {
        if self.limits.spare > 0 { self.settle(now) } else { self.checked() }
    }

    /// Starts to close a connection.
    pub(super) fn close(&mut self, slot: u32, reason: CloseReason) {
        self.conns.shift(slot, ConnState::Closing);
        self.actions.push_back(Action::Close { conn: self.conns.id(slot), worker: self.conns.at(slot).home, reason });
    }

    /// Gives up on connections that are being opened.
    pub(super) fn abandon_connects(&mut self, reason: CloseReason) {
        let connecting: Vec<u32> = self.conns.all().filter(|(_, state)| *state == ConnState::Connecting).map(|(slot, _)| slot).collect();
        for slot in connecting {
            self.close(slot, reason);
        }
    }

    /// Leases a connection to a client of `identity`. Whatever ends that tells the queue.
    pub(super) fn lease(&mut self, slot: u32, to: WorkerId, identity: IdentityId) {
        self.conns.lease(slot, to);
        self.conns.at_mut(slot).holder = identity;
        self.queue.took(identity, slot);
    }

    /// Leases a connection to a waiter, who has left the queue.
    pub(super) fn grant(&mut self, slot: u32, waiter: WaiterId, to: WorkerId, identity: IdentityId) {
        let from = self.conns.at(slot).home;
        self.lease(slot, to, identity);
        self.actions.push_back(Action::Grant { waiter, conn: self.conns.id(slot), from, to });
    }

    /// Refuses everybody who waits.
    pub(super) fn refuse_all(&mut self, now: Instant, reason: RefuseReason) {
        while self.refuse_oldest(now, reason) {}
    }

    /// Sets the deadline of the next probe, given that the connection in `slot` has just become idle.
    pub(super) fn arm_probe(&mut self, slot: u32) {
        if let Some(after) = self.limits.probe_after {
            self.timers.lower(Timer::Probe, self.conns.at(slot).heard + after);
        }
    }

    /// Sets deadlines from the limits in force; those that then turn out to have passed are acted on.
    pub(super) fn rearm(&mut self, now: Instant) {
        self.time_out_waiters(now);
        self.notify(now);
        self.probe(now);
    }

    /// Brings everything in line after an input.
    pub(super) fn settle(&mut self, now: Instant) {
        self.shed(now);
        self.serve();
        self.grow(now);
        self.note_saturation(now);
        self.allowed.connections = self.allowed.connections.min(self.conns.total()).max(self.limits.most());
        self.allowed.waiters = self.allowed.waiters.min(self.queue.len()).max(self.limits.queue_length);
        self.checked();
    }

    /// Keeps the counts of time in which sessions wait, and in which they do and no more connections are allowed.
    pub(super) fn note_saturation(&mut self, now: Instant) {
        self.pace.note(now, !self.queue.is_empty() && !self.paused);
        let saturated = !self.queue.is_empty() && self.conns.total() >= self.ceiling.room(self.limits.max);
        match self.saturated_since {
            None if saturated => self.saturated_since = Some(now),
            Some(since) if !saturated => {
                self.saturated += now.saturating_duration_since(since);
                self.saturated_since = None;
            }
            None | Some(_) => {}
        }
    }

    /// In debug builds, checks the invariants.
    pub(super) fn checked(&self) {
        if cfg!(debug_assertions) {
            self.check_invariants();
        }
    }

    /// Acts on the deadlines that have passed.
    fn fire(&mut self, now: Instant) {
        for timer in Timer::ALL {
            if self.timers.is_due(timer, now) {
                match timer {
                    Timer::Wait => self.time_out_waiters(now),
                    Timer::Notify => self.notify(now),
                    Timer::Lifetime => self.expire(now),
                    Timer::Probe => self.probe(now),
                    Timer::Ceiling => {
                        let next = self.ceiling.expire(now);
                        self.timers.set(timer, next);
                    }
                    // What these allow happens when everything is brought in line.
                    Timer::Reserve | Timer::Idle | Timer::Retry => self.timers.set(timer, None),
                }
            }
        }
        self.settle(now);
    }

    fn park(&mut self, now: Instant, slot: u32) {
        let conn = self.conns.at_mut(slot);
        conn.idle_since = now;
        conn.heard = now;
        self.conns.shift(slot, ConnState::Idle);
        self.arm_probe(slot);
        if let Some(timeout) = self.limits.idle_timeout
            && self.conns.lasting() > self.floor()
        {
            self.timers.lower(Timer::Idle, now + timeout);
        }
    }

    /// How many connections are kept open even when idle.
    pub(super) fn floor(&self) -> u32 {
        if self.alone_until.is_some_and(|until| self.now < until) {
            return 0;
        }
        let used = self.conns.members() > 0;
        let min = if self.limits.min_always || used { self.limits.min } else { 0 };
        match self.limits.spare {
            0 => min,
            _unused if !used => min,
            spare => min.max(self.conns.count(ConnState::Leased).saturating_add(spare)),
        }
    }

    fn refuse_oldest(&mut self, now: Instant, reason: RefuseReason) -> bool {
        self.queue.oldest().is_some_and(|oldest| self.refuse(now, oldest.id, reason))
    }

    fn refuse(&mut self, now: Instant, waiter: WaiterId, reason: RefuseReason) -> bool {
        let Some(waiter) = self.queue.remove(waiter) else { return false };
        let refusal = self.refusal(reason, waiter.identity, waiter.patience, now.saturating_duration_since(waiter.since));
        self.actions.push_back(Action::Refuse { waiter: waiter.id, worker: waiter.worker, refusal });
        true
    }

    fn time_out_waiters(&mut self, now: Instant) {
        let reason = if self.paused { RefuseReason::Paused } else { RefuseReason::WaitTimeout };
        let (overdue, deadline) = self.queue.overdue(now, self.limits.wait_timeout);
        for waiter in overdue {
            self.refuse(now, waiter, reason);
        }
        self.timers.set(Timer::Wait, deadline);
    }

    /// Tells those who have waited for a while that they do.
    fn notify(&mut self, now: Instant) {
        let deadline = loop {
            let Some((after, untold)) = self.limits.notify_after.zip(self.queue.untold()) else { break None };
            if untold.since + after > now {
                break Some(untold.since + after);
            }
            self.actions.push_back(Action::Notify { waiter: untold.id, worker: untold.worker });
            self.queue.tell();
        };
        self.timers.set(Timer::Notify, deadline);
    }

    /// Asks a connection whether it is alive.
    pub(super) fn ask(&mut self, slot: u32) {
        self.conns.shift(slot, ConnState::Probing);
        self.actions.push_back(Action::Probe { conn: self.conns.id(slot), worker: self.conns.at(slot).home });
    }

    /// Probes quiet connections, few at a time: a server that does not answer must not hold all of them.
    pub(super) fn probe(&mut self, now: Instant) {
        let mut next: Option<Instant> = None;
        let mut quiet = Vec::new();
        let at_a_time = self.limits.connect_parallelism.max(1).saturating_sub(self.conns.count(ConnState::Probing)) as usize;
        if let Some(after) = self.limits.probe_after {
            for (slot, _) in self.conns.all().filter(|(_, state)| *state == ConnState::Idle) {
                let mut at = self.conns.at(slot).heard + after;
                if at <= now && quiet.len() < at_a_time {
                    quiet.push(slot);
                } else {
                    if at <= now {
                        // Its turn comes when another has answered; this is in case none does.
                        at = now + after.max(SHORTEST_PROBE_PAUSE);
                    }
                    next = Some(next.map_or(at, |next| next.min(at)));
                }
            }
        }
        for slot in quiet {
            self.ask(slot);
        }
        self.timers.set(Timer::Probe, next);
    }

    /// Closes idle connections that should not be there.
    fn shed(&mut self, now: Instant) {
        while let Some(slot) = self.conns.coldest() {
            let Some(reason) = self.superfluous(now, slot) else { break };
            self.close(slot, reason);
        }
        if self.conns.retiring() > 0 {
            self.shed_retired();
        }
        let idle_until = self.limits.idle_timeout.filter(|_| self.conns.lasting() > self.floor());
        let deadline = idle_until.zip(self.conns.coldest()).map(|(timeout, slot)| self.conns.at(slot).idle_since + timeout);
        self.timers.set(Timer::Idle, deadline);
    }

    /// Why the connection that has been idle for longest should be closed.
    fn superfluous(&self, now: Instant, slot: u32) -> Option<CloseReason> {
        if self.draining {
            return Some(CloseReason::Drain);
        }
        if self.paused {
            return Some(CloseReason::Paused);
        }
        if self.conns.live() > self.limits.most() {
            return Some(CloseReason::Shrunk);
        }
        let idle_for = now.saturating_duration_since(self.conns.at(slot).idle_since);
        let too_long = self.limits.idle_timeout.is_some_and(|timeout| idle_for >= timeout);
        (too_long && self.conns.lasting() > self.floor()).then_some(CloseReason::Idle)
    }

    /// Closes idle connections that are to be replaced. One that is merely old stays until there are enough others, if there is room for them.
    fn shed_retired(&mut self) {
        let idle: Vec<u32> = self.conns.all().filter(|(_, state)| *state == ConnState::Idle).map(|(slot, _)| slot).collect();
        for slot in idle {
            let Some(reason) = self.conns.retired(slot) else { continue };
            let enough = self.conns.lasting().saturating_sub(self.conns.count(ConnState::Connecting)) >= self.floor();
            let full = self.conns.total() >= self.limits.max && self.conns.count(ConnState::Connecting) == 0;
            if reason != CloseReason::Lifetime || enough || full {
                self.close(slot, reason);
            }
        }
    }

    /// Grants what is idle to those who wait.
    fn serve(&mut self) {
        if self.paused || self.draining {
            return;
        }
        while !self.queue.is_empty() && self.conns.count(ConnState::Idle) > 0 {
            let Some(waiter) = self.queue.next(None::<&Affinity<fn(WorkerId) -> bool>>) else { return };
            let Some(slot) = self.conns.idle_for(waiter.worker) else { return };
            self.pace.served(self.now);
            self.grant(slot, waiter.id, waiter.worker, waiter.identity);
        }
    }

    /// Opens what is missing.
    fn grow(&mut self, now: Instant) {
        if self.paused || self.draining {
            return;
        }
        if !self.queue.is_empty() {
            self.hurry(now);
        }
        if let Some(at) = self.backoff.retry_at(now) {
            return self.timers.lower(Timer::Retry, at);
        }
        while let Some(reason) = self.demand(now).open().filter(|reason| self.may_open(*reason)) {
            let Some(worker) = self.opener(reason) else { return };
            let slot = self.conns.insert(now, worker, self.epoch);
            self.actions.push_back(Action::Open { conn: self.conns.id(slot), worker, reason });
        }
    }

    /// Somebody asks for a connection while connects fail.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.backoff.hurry(now, self.limits.backoff_initial, &mut self.random);
        if let Some(at) = self.backoff.retry_at(now) {
            self.timers.lower(Timer::Retry, at);
        }
    }

    fn may_open(&self, reason: OpenReason) -> bool {
        match self.capped {
            None => true,
            Some(OpenReason::Minimum) => reason == OpenReason::Demand,
            Some(OpenReason::Demand) => false,
        }
    }

    fn demand(&mut self, now: Instant) -> Demand {
        let connecting = self.conns.count(ConnState::Connecting);
        let demand = Demand {
            total: self.conns.total(),
            connecting,
            coming: connecting + self.conns.count(ConnState::Resetting),
            lasting: self.conns.lasting(),
            waiters: self.queue.len(),
            max: self.ceiling.limit(self.limits.max),
            min: self.floor(),
            parallel: if self.backoff.one_at_a_time() { 1 } else { self.limits.connect_parallelism.max(1) },
        };
        // Where the server has no room for all of the size there is none for the reserve either.
        if demand.total < demand.max || demand.max < self.limits.max { demand } else { self.reserve_demand(now, demand) }
    }

    /// The same for the reserve, which is there for those who have waited for long.
    fn reserve_demand(&mut self, now: Instant, demand: Demand) -> Demand {
        let max = self.ceiling.limit(self.limits.most());
        let Some(after) = self.limits.reserve_after.filter(|_| demand.total < max) else { return demand };
        let looked_at = demand.coming + demand.parallel;
        let long_ago = now.checked_sub(after);
        let (waiters, next) = match long_ago {
            Some(since) => self.queue.waiting_since(since, looked_at + 1),
            None => (0, self.queue.oldest().map(|oldest| oldest.since)),
        };
        if let Some(since) = next {
            self.timers.lower(Timer::Reserve, since + after);
        }
        Demand { waiters, max, min: 0, ..demand }
    }

    /// The worker to open a connection on: the one with most waiters that nothing comes for, or with fewest connections.
    fn opener(&self, reason: OpenReason) -> Option<WorkerId> {
        let workers = (0_u16..).map(WorkerId).zip(self.conns.sides());
        match reason {
            OpenReason::Demand => workers
                .filter(|(worker, side)| side.attached || self.queue.waiting_on(*worker) > 0)
                .max_by_key(|(worker, side)| {
                    let coming =
                        i64::from(side.counts[ConnState::Connecting as usize]) + i64::from(side.counts[ConnState::Resetting as usize]);
                    // Of equals the first: `max_by_key` would take the last.
                    (i64::from(self.queue.waiting_on(*worker)) - coming, std::cmp::Reverse(*worker))
                })
                .map(|(worker, _)| worker),
            OpenReason::Minimum => {
                workers.filter(|(_, side)| side.attached).min_by_key(|(_, side)| side.counts.iter().sum::<u32>()).map(|(worker, _)| worker)
            }
        }
    }
}
