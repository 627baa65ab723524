//! All small cases: every order of events that two connections, a queue of two and three sessions allow, over any time, with the
//! invariants asserted by the core after each step and the promises to sessions and driver checked here.
//!
//! States that differ only in names, in chance, or in ages past every deadline are one; so there is an end to them. Each variant
//! explores one concern: turns, operators, ageing connections, two workers.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::bench::{ALICE, AWAY, BOB, HOME, LIMITS, asker};
use crate::pool::action::{Action, Outcome};
use crate::pool::core::Core;
use crate::pool::id::{ConnId, IdentityId, WaiterId};
use crate::pool::limits::Limits;
use crate::pool::reason::{Condition, Failure, OpenReason};
use crate::pool::state::ConnState;
use crate::pool::timers::Timer;
use crate::worker::WorkerId;

const TICK: Duration = Duration::from_millis(100);
/// Ages from here on are alike: every deadline is nearer.
const OLD: u128 = 3;
const SESSIONS: usize = 3;

/// What may happen from outside. Numbers are places in the world's lists.
#[derive(Debug, Clone, Copy)]
enum Event {
    Acquire(WorkerId, IdentityId),
    Cancel(usize),
    Release(usize, Condition),
    Connected(usize),
    ConnectFailed(usize, Failure),
    Reset(usize, bool),
    Probe(usize, bool),
    Closed(usize),
    ServerClosed(u32),
    Tick,
    Capped(usize),
    Uncap,
    Evict,
    OweOne,
    Enter,
    Leave,
    Operator(Operator),
}

/// What an operator may do.
#[derive(Debug, Clone, Copy)]
enum Operator {
    Resize(u32, u32),
    MarkStale,
    Pause,
    Resume,
    Drain,
}

/// What is explored.
struct Variant {
    limits: Limits,
    askers: &'static [(WorkerId, IdentityId)],
    operators: &'static [Operator],
    /// How connects fail.
    failures: &'static [Failure],
    /// Whether there are other pools that share a limit with this one.
    capped: bool,
    /// Whether clients come and go.
    members: bool,
}

/// A waiter as the outside knows it.
#[derive(Clone, Copy)]
struct Waits {
    id: WaiterId,
    identity: IdentityId,
    told: bool,
}

/// The core, and what the outside knows.
#[derive(Clone)]
struct World {
    core: Core,
    now: Instant,
    waiting: Vec<Waits>,
    leased: Vec<ConnId>,
    opening: Vec<(ConnId, OpenReason)>,
    resetting: Vec<ConnId>,
    probing: Vec<ConnId>,
    closing: Vec<ConnId>,
    drained: bool,
    members: u32,
}

impl World {
    fn new(variant: &Variant) -> Self {
        let now = crate::clock::now();
        let mut core = Core::new(now, variant.limits, 1);
        for (worker, _) in variant.askers {
            core.attach_worker(now, *worker);
        }
        let lists = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (leased, resetting, probing, closing) = lists;
        let (waiting, opening) = (Vec::new(), Vec::new());
        let mut world = Self { core, now, waiting, leased, opening, resetting, probing, closing, drained: false, members: 0 };
        world.perform(variant);
        world
    }

    fn events(&self, variant: &Variant) -> Vec<Event> {
        let mut events = Vec::new();
        if self.waiting.len() + self.leased.len() < SESSIONS {
            events.extend(variant.askers.iter().map(|(worker, identity)| Event::Acquire(*worker, *identity)));
        }
        events.extend((0..self.waiting.len()).map(Event::Cancel));
        for place in 0..self.leased.len() {
            events.extend(
                [Condition::Unused, Condition::Clean, Condition::Dirty, Condition::Broken, Condition::Lost]
                    .map(|condition| Event::Release(place, condition)),
            );
        }
        for place in 0..self.opening.len() {
            events.push(Event::Connected(place));
            if variant.capped {
                events.push(Event::Capped(place));
            }
            events.extend(variant.failures.iter().map(|failure| Event::ConnectFailed(place, *failure)));
        }
        events.extend((0..self.resetting.len()).flat_map(|place| [true, false].map(|ok| Event::Reset(place, ok))));
        events.extend((0..self.probing.len()).flat_map(|place| [true, false].map(|ok| Event::Probe(place, ok))));
        events.extend((0..self.closing.len()).map(Event::Closed));
        let idle = self.core.conns.all().filter(|(_, state)| *state == ConnState::Idle);
        events.extend(idle.map(|(slot, _)| Event::ServerClosed(slot)));
        events.push(Event::Tick);
        if variant.capped {
            events.extend([Event::Uncap, Event::Evict, Event::OweOne]);
        }
        if variant.members {
            events.push(if self.members == 0 { Event::Enter } else { Event::Leave });
        }
        events.extend(variant.operators.iter().map(|operator| Event::Operator(*operator)));
        events
    }

    fn apply(&mut self, event: Event, variant: &Variant) {
        let now = self.now;
        match event {
            Event::Acquire(worker, identity) => match self.core.acquire(now, asker(worker, identity)) {
                Outcome::Granted(conn) => self.lease(conn),
                Outcome::Queued(id) => self.waiting.push(Waits { id, identity, told: false }),
                Outcome::Refused(_) => {}
            },
            Event::Cancel(place) => {
                let waiter = self.waiting.remove(place);
                assert!(self.core.cancel(now, waiter.id), "I5: who has had no answer can still leave");
            }
            Event::Release(place, condition) => {
                let conn = self.leased.remove(place);
                self.core.release(now, conn, condition);
            }
            Event::Connected(place) => {
                let (conn, _) = self.opening.remove(place);
                self.core.on_connected(now, conn);
            }
            Event::ConnectFailed(place, failure) => {
                let (conn, _) = self.opening.remove(place);
                self.core.on_connect_failed(now, conn, failure);
            }
            Event::Reset(place, ok) => {
                let conn = self.resetting.remove(place);
                self.core.on_reset(now, conn, ok);
            }
            Event::Probe(place, ok) => {
                let conn = self.probing.remove(place);
                self.core.on_probe(now, conn, ok);
            }
            Event::Closed(place) => {
                let conn = self.closing.remove(place);
                self.core.on_closed(now, conn);
            }
            Event::ServerClosed(slot) => self.core.on_closed(now, self.core.conns.id(slot)),
            Event::Tick => {
                self.now += TICK;
                self.core.handle_timeout(self.now);
            }
            Event::Capped(place) => {
                let (conn, reason) = self.opening.remove(place);
                self.core.on_capped(now, conn, reason);
            }
            Event::Uncap => self.core.uncap(now),
            Event::Evict => {
                self.core.evict(now);
            }
            Event::OweOne => self.core.owe_one(now),
            Event::Enter => {
                self.members += 1;
                self.core.enter(now, HOME);
            }
            Event::Leave => {
                self.members -= 1;
                self.core.leave(now, HOME);
            }
            Event::Operator(operator) => self.operate(operator, variant),
        }
        self.perform(variant);
        self.core.check_invariants();
    }

    fn operate(&mut self, operator: Operator, variant: &Variant) {
        let now = self.now;
        match operator {
            Operator::Resize(max, queue_length) => self.core.resize(now, Limits { max, queue_length, ..variant.limits }),
            Operator::MarkStale => self.core.mark_stale(now),
            Operator::Pause => self.core.pause(now),
            Operator::Resume => self.core.resume(now),
            Operator::Drain => {
                self.drained = true;
                self.core.drain(now);
            }
        }
    }

    /// Takes the core's actions, and checks its promises.
    fn perform(&mut self, variant: &Variant) {
        while let Some(action) = self.core.poll_action() {
            match action {
                Action::Open { conn, reason, .. } => self.opening.push((conn, reason)),
                Action::Grant { waiter, conn, .. } => {
                    let place = self.waiting.iter().position(|waits| waits.id == waiter).expect("I5: only who waits is granted");
                    let served = self.waiting.remove(place);
                    let passed_over = self.waiting[..place].iter().any(|earlier| earlier.identity == served.identity);
                    assert!(!passed_over || variant.limits.affinity_patience > Duration::ZERO, "I4: first come, first served");
                    self.lease(conn);
                }
                Action::Refuse { waiter, .. } => {
                    let place = self.waiting.iter().position(|waits| waits.id == waiter).expect("I5: only who waits is refused");
                    self.waiting.remove(place);
                }
                Action::Notify { waiter, .. } => {
                    let waits = self.waiting.iter_mut().find(|waits| waits.id == waiter).expect("only who waits is told so");
                    assert!(!std::mem::replace(&mut waits.told, true), "and once");
                }
                Action::Reset { conn, .. } => self.resetting.push(conn),
                Action::Probe { conn, .. } => self.probing.push(conn),
                Action::Close { conn, .. } => {
                    self.opening.retain(|(opening, _)| *opening != conn);
                    self.closing.push(conn);
                }
            }
        }
        let snapshot = self.core.snapshot(self.now);
        assert_eq!(snapshot.waiters as usize, self.waiting.len(), "I5: all who wait are in the queue");
        assert_eq!(snapshot.leased as usize, self.leased.len(), "what is leased is held by a session");
        assert_eq!(snapshot.connecting as usize, self.opening.len(), "what is being opened was asked for");
        assert_eq!(snapshot.closing as usize, self.closing.len(), "what is being closed was asked for");
    }

    fn lease(&mut self, conn: ConnId) {
        assert!(!self.drained, "I11: a drained pool grants nothing");
        assert!(!self.leased.contains(&conn), "I6: a connection has one holder");
        assert!(self.opening.iter().all(|(opening, _)| *opening != conn), "I7: only an open, clean connection is granted");
        for busy in [&self.resetting, &self.probing, &self.closing] {
            assert!(!busy.contains(&conn), "I7: only an open, clean connection is granted");
        }
        self.leased.push(conn);
    }

    /// The state without names and without chance.
    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let Core { conns, queue, timers, backoff, limits, .. } = &self.core;
        let age = |at: Instant| (self.now.saturating_duration_since(at).as_millis() / TICK.as_millis()).min(OLD);
        let mut slots: Vec<_> = conns
            .all()
            .map(|(slot, state)| {
                let conn = conns.at(slot);
                let since = |wanted: Option<Duration>, at: Instant| wanted.map(|_| age(at));
                let busy = self.opening.iter().any(|(opening, _)| *opening == conns.id(slot));
                (
                    state as u8,
                    conn.home,
                    conns.retired(slot).map(|reason| reason as u8),
                    since(limits.idle_timeout, conn.idle_since),
                    since(limits.probe_after, conn.heard),
                    conn.opened.and_then(|at| since(limits.lifetime, at)),
                    busy,
                    (state == ConnState::Leased).then_some(conn.holder),
                )
            })
            .collect();
        slots.sort_unstable();
        slots.hash(&mut hasher);
        for (identity, waiters) in queue.turns() {
            let told = |id| self.waiting.iter().any(|waits| waits.id == id && waits.told);
            let waiters: Vec<_> = waiters.iter().map(|waiter| (waiter.worker, age(waiter.since), told(waiter.id))).collect();
            (identity, waiters).hash(&mut hasher);
        }
        let failing = (backoff.failures().min(2), backoff.last().map(|last| last as u8), backoff.retry_at(self.now).is_some());
        let operated = (self.core.paused, self.core.draining, self.core.limits.max, self.core.limits.queue_length);
        let deadlines = (timers.is_due(Timer::Wait, self.now + TICK), timers.is_due(Timer::Idle, self.now + TICK));
        let shared = (self.core.capped.map(|reason| reason as u8), self.core.owed, self.members);
        let room = self.core.ceiling.until().map(|_| self.core.ceiling.room(limits.most()));
        room.hash(&mut hasher);
        let expired = limits.lifetime.and(self.core.last_expired).map(age);
        (failing, operated, deadlines, shared, expired).hash(&mut hasher);
        hasher.finish()
    }
}

/// Visits all states; gives their number, or the shortest way to one in which something does not hold.
fn explore(variant: &Variant, start: World) -> Result<usize, Vec<Event>> {
    let mut seen = HashSet::from([start.fingerprint()]);
    // Each state but the first: where it came from, by what.
    let mut ways: Vec<(usize, Event)> = Vec::new();
    let mut turn = vec![(0, start)];
    while !turn.is_empty() {
        let mut next = Vec::new();
        for (origin, world) in turn {
            for event in world.events(variant) {
                let mut after = world.clone();
                if catch_unwind(AssertUnwindSafe(|| after.apply(event, variant))).is_err() {
                    return Err(way(&ways, origin, event));
                }
                if seen.insert(after.fingerprint()) {
                    ways.push((origin, event));
                    next.push((ways.len(), after));
                }
            }
        }
        turn = next;
    }
    Ok(seen.len())
}

fn way(ways: &[(usize, Event)], mut origin: usize, last: Event) -> Vec<Event> {
    let mut events = vec![last];
    while origin > 0 {
        let (before, event) = ways[origin - 1];
        events.push(event);
        origin = before;
    }
    events.reverse();
    events
}

const SMALL: Limits = Limits {
    max: 2,
    queue_length: 2,
    wait_timeout: Some(Duration::from_millis(200)),
    connect_parallelism: 2,
    backoff_initial: TICK,
    backoff_max: TICK,
    fail_fast_after: None,
    affinity_patience: Duration::ZERO,
    ..LIMITS
};

const IDENTITIES: Variant = Variant {
    limits: SMALL,
    askers: &[(HOME, ALICE), (HOME, BOB)],
    operators: &[Operator::Resize(1, 1), Operator::Resize(2, 2), Operator::Drain],
    failures: &[Failure::Transient, Failure::Permanent],
    capped: false,
    members: false,
};

const OPERATED: Variant = Variant {
    limits: Limits { min: 1, ..SMALL },
    askers: &[(HOME, ALICE)],
    operators: &[Operator::Resize(1, 1), Operator::Resize(2, 2), Operator::MarkStale, Operator::Pause, Operator::Resume, Operator::Drain],
    ..IDENTITIES
};

const AGEING: Variant = Variant {
    limits: Limits { min: 1, idle_timeout: Some(TICK), probe_after: Some(TICK), lifetime: Some(Duration::from_millis(150)), ..SMALL },
    askers: &[(HOME, ALICE)],
    operators: &[],
    ..IDENTITIES
};

const RESERVED: Variant = Variant {
    limits: Limits {
        max: 1,
        min: 1,
        min_always: false,
        spare: 0,
        reserve: 1,
        reserve_after: Some(TICK),
        notify_after: Some(TICK),
        round_robin: true,
        probe_always: true,
        ..SMALL
    },
    askers: &[(HOME, ALICE)],
    operators: &[Operator::Resize(1, 1), Operator::Resize(2, 2)],
    members: true,
    ..IDENTITIES
};

const CAPPED: Variant = Variant {
    limits: Limits { min: 1, ..SMALL },
    askers: &[(HOME, ALICE)],
    operators: &[Operator::MarkStale, Operator::Drain],
    capped: true,
    ..IDENTITIES
};

const CROWDED: Variant = Variant {
    limits: Limits { min: 1, reserve: 1, reserve_after: Some(TICK), ..SMALL },
    askers: &[(HOME, ALICE)],
    operators: &[Operator::Resize(1, 1), Operator::Resize(2, 2), Operator::MarkStale],
    failures: &[Failure::Full, Failure::Transient],
    ..IDENTITIES
};

const WORKERS: Variant = Variant {
    limits: Limits { affinity_patience: Duration::from_millis(150), ..SMALL },
    askers: &[(HOME, ALICE), (AWAY, ALICE)],
    operators: &[Operator::Resize(1, 1), Operator::Resize(2, 2), Operator::MarkStale],
    ..IDENTITIES
};

fn holds_everywhere(variant: &Variant) {
    match explore(variant, World::new(variant)) {
        Ok(states) => {
            println!("{states} states");
            assert!(states > 1_000, "only {states} states: the exploration is cut short");
        }
        Err(events) => panic!("something does not hold after {events:#?}"),
    }
}

#[test]
fn all_small_cases_of_two_identities_hold() {
    holds_everywhere(&IDENTITIES);
}

#[test]
fn all_small_cases_with_operators_hold() {
    holds_everywhere(&OPERATED);
}

#[test]
fn all_small_cases_of_ageing_connections_hold() {
    holds_everywhere(&AGEING);
}

#[test]
fn all_small_cases_of_a_pool_with_a_reserve_hold() {
    holds_everywhere(&RESERVED);
}

#[test]
fn all_small_cases_of_a_pool_that_shares_a_limit_hold() {
    holds_everywhere(&CAPPED);
}

#[test]
fn all_small_cases_of_a_server_without_room_hold() {
    holds_everywhere(&CROWDED);
}

#[test]
fn all_small_cases_of_two_workers_hold() {
    holds_everywhere(&WORKERS);
}

#[test]
fn a_planted_lost_wake_up_is_found() {
    let mut start = World::new(&IDENTITIES);
    start.core.planted.lost_wake_up = true;
    let events = explore(&IDENTITIES, start).expect_err("the mistake is found");
    assert!(events.len() <= 6, "and on the shortest way: {events:?}");
}
