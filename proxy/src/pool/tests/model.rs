//! The core against a model that is too simple to be wrong: vectors, searched from the start each time. For long random histories both must
//! grant, refuse, open, reset and close the same.
//!
//! The model leaves out what needs chance or several workers (ages, probes, affinity); the pauses after failures it takes from the core.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::bench::{Bench, HOME, LIMITS, asker, ms};
use crate::pool::action::{Action, Outcome};
use crate::pool::id::{ConnId, IdentityId, WaiterId};
use crate::pool::limits::Limits;
use crate::pool::reason::{CloseReason, Condition, Failure, RefuseReason};
use crate::pool::turns::PASSED_OVER;

/// A connection that ends so soon after it was opened did not last.
const SHORT: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
enum Step {
    Acquire(u16),
    Cancel(usize),
    Release(usize, Condition),
    Connected(usize),
    ConnectFailed(usize, Failure),
    Reset(usize, bool),
    ServerClosed(usize),
    Pass(u64),
    Resize { max: u32, queue_length: u32, wait_ms: u64 },
}

/// What a step led to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Effects {
    granted_at_once: Option<ConnId>,
    refused_at_once: Option<RefuseReason>,
    grants: Vec<(WaiterId, ConnId)>,
    refusals: Vec<(WaiterId, RefuseReason)>,
    resets: Vec<ConnId>,
    closes: BTreeSet<(ConnId, u8)>,
    opens: usize,
}

#[derive(Debug)]
struct Waits {
    id: WaiterId,
    identity: u16,
    since: Instant,
}

/// The pool, simply.
#[derive(Debug)]
struct Model {
    limits: Limits,
    connecting: Vec<ConnId>,
    /// The last one used is the last.
    idle: Vec<ConnId>,
    leased: Vec<ConnId>,
    resetting: Vec<ConnId>,
    waiters: Vec<Waits>,
    holders: BTreeMap<ConnId, u16>,
    /// The rank of each identity with waiters, and when it came to that.
    turns: BTreeMap<u16, (u32, usize)>,
    changes: usize,
    /// How many were served from the queue.
    served: usize,
    /// How many had been when each identity with waiters had its last turn, its first waiter, or gave its loan back; and in which order.
    had: BTreeMap<u16, (usize, usize)>,
    loans: BTreeMap<u16, ConnId>,
    /// How the last connect failed, since one worked.
    failing: Option<Failure>,
    /// Connects work, and their connections do not last.
    held: bool,
    /// When the next connect may be tried.
    until: Option<Instant>,
    /// When connections became open, and when one was lost that was hardly open.
    opened: BTreeMap<ConnId, Instant>,
    lost: Option<Instant>,
}

impl Model {
    fn open(&self) -> usize {
        self.idle.len() + self.leased.len() + self.resetting.len()
    }

    fn total(&self) -> usize {
        self.connecting.len() + self.open()
    }

    fn pauses(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    fn loses(&self, now: Instant) -> bool {
        self.lost.is_some_and(|lost| now - lost < SHORT)
    }

    fn too_many(&self) -> bool {
        self.total() > self.limits.max as usize
    }

    fn acquire(&mut self, now: Instant, identity: u16, queued: Option<WaiterId>, effects: &mut Effects) {
        let refused = self.failing == Some(Failure::Permanent) && self.pauses(now) && self.open() == 0;
        if let Some(conn) = self.idle.pop() {
            self.lease(conn, identity);
            effects.granted_at_once = Some(conn);
        } else if refused {
            effects.refused_at_once = Some(RefuseReason::LoginFailing);
        } else if !self.has_room(identity, effects) {
            effects.refused_at_once = Some(RefuseReason::QueueFull);
        } else {
            self.waiters.push(Waits { id: queued.expect("the core queues too"), identity, since: now });
            self.note(identity);
        }
    }

    fn waiting(&self, identity: u16) -> usize {
        self.waiters.iter().filter(|waits| waits.identity == identity).count()
    }

    /// One of its waiters or connections came or went.
    fn note(&mut self, identity: u16) {
        let held = self.holders.values().filter(|holder| **holder == identity).count();
        let waiting = self.waiting(identity);
        let rank = u32::try_from(held).unwrap() * (1 + u32::try_from(held + waiting).unwrap().max(1).ilog2());
        self.changes += 1;
        if waiting == 0 {
            self.turns.remove(&identity);
            self.had.remove(&identity);
            return;
        }
        self.had.entry(identity).or_insert((self.served, self.changes));
        if self.turns.get(&identity).is_none_or(|(before, _)| *before != rank) {
            self.turns.insert(identity, (rank, self.changes));
        }
    }

    /// The identity that has been passed over for too long.
    fn passed_over(&self) -> Option<u16> {
        let (identity, (had, _)) =
            self.had.iter().filter(|(identity, _)| !self.loans.contains_key(identity)).min_by_key(|(_, had)| **had)?;
        (self.served - had >= self.had.len() * PASSED_OVER as usize).then_some(*identity)
    }

    /// The identities with waiters in the order of their ranks.
    fn turns(&self) -> Vec<u16> {
        let mut turns: Vec<u16> = self.turns.keys().copied().collect();
        turns.sort_by_key(|identity| self.turns[identity]);
        turns
    }

    fn lease(&mut self, conn: ConnId, identity: u16) {
        self.leased.push(conn);
        self.holders.insert(conn, identity);
        self.note(identity);
    }

    /// A waiter leaves the queue.
    fn remove(&mut self, place: usize) -> Waits {
        let left = self.waiters.remove(place);
        self.note(left.identity);
        left
    }

    /// Whether there is room in the queue, made by the youngest of the identity with most waiters if need be.
    fn has_room(&mut self, identity: u16, effects: &mut Effects) -> bool {
        let (length, most) = (self.waiters.len(), self.limits.queue_length as usize);
        if length < most {
            return true;
        }
        let longest = self.turns().into_iter().max_by_key(|identity| self.waiting(*identity));
        let Some(longest) = longest.filter(|longest| length == most && self.waiting(*longest) >= self.waiting(identity) + 2) else {
            return false;
        };
        let youngest = self.waiters.iter().rposition(|waits| waits.identity == longest).expect("it has waiters");
        effects.refusals.push((self.remove(youngest).id, RefuseReason::QueueFull));
        true
    }

    fn free(&mut self, conn: ConnId, effects: &mut Effects) {
        // Counting the connection itself, which is in no list right now.
        if self.total() + 1 > self.limits.max as usize {
            effects.closes.insert((conn, CloseReason::Shrunk as u8));
            return;
        }
        let passed_over = self.passed_over();
        if let Some(identity) = passed_over.or_else(|| self.turns().first().copied()) {
            self.served += 1;
            self.changes += 1;
            self.had.insert(identity, (self.served, self.changes));
            if passed_over.is_some() {
                self.loans.insert(identity, conn);
            }
            let place = self.waiters.iter().position(|waits| waits.identity == identity).expect("it has waiters");
            effects.grants.push((self.remove(place).id, conn));
            return self.lease(conn, identity);
        }
        self.idle.push(conn);
    }

    fn time_out(&mut self, now: Instant, effects: &mut Effects) {
        let Some(timeout) = self.limits.wait_timeout else { return };
        while let Some(oldest) = self.waiters.first()
            && oldest.since + timeout <= now
        {
            effects.refusals.push((self.remove(0).id, RefuseReason::WaitTimeout));
        }
    }

    fn refuse_all(&mut self, effects: &mut Effects) {
        while !self.waiters.is_empty() {
            effects.refusals.push((self.remove(0).id, RefuseReason::UpstreamRefuses));
        }
    }

    /// Closes what is too much, then says how many are to be opened.
    fn settle(&mut self, now: Instant, effects: &mut Effects) {
        while self.too_many() && !self.idle.is_empty() {
            effects.closes.insert((self.idle.remove(0), CloseReason::Shrunk as u8));
        }
        if self.pauses(now) {
            return;
        }
        let parallel = if self.failing.is_some() || self.held { 1 } else { self.limits.connect_parallelism as usize };
        let room = (self.limits.max as usize).saturating_sub(self.total()).min(parallel.saturating_sub(self.connecting.len()));
        effects.opens = self.waiters.len().saturating_sub(self.connecting.len() + self.resetting.len()).min(room);
    }

    fn step(&mut self, now: Instant, step: Step, queued: Option<WaiterId>, retry_in: Option<Duration>) -> Effects {
        let mut effects = Effects::default();
        self.time_out(now, &mut effects);
        // It may have become shorter, because somebody asks.
        if let (Some(until), Some(pause)) = (&mut self.until, retry_in) {
            *until = (*until).min(now + pause);
        }
        match step {
            Step::Acquire(identity) => self.acquire(now, identity, queued, &mut effects),
            Step::Cancel(place) => {
                self.remove(place);
            }
            Step::Release(place, condition) => {
                let conn = self.leased.remove(place);
                let holder = self.holders.remove(&conn).expect("somebody held it");
                self.note(holder);
                if self.loans.get(&holder) == Some(&conn) {
                    self.loans.remove(&holder);
                    self.had.entry(holder).and_modify(|had| *had = (self.served, self.changes));
                }
                match condition {
                    Condition::Unused | Condition::Clean => self.free(conn, &mut effects),
                    Condition::Broken => {
                        effects.closes.insert((conn, CloseReason::Broken as u8));
                    }
                    Condition::Lost => {
                        effects.closes.insert((conn, CloseReason::ServerClosed as u8));
                    }
                    Condition::Dirty if self.total() + 1 > self.limits.max as usize => {
                        effects.closes.insert((conn, CloseReason::Shrunk as u8));
                    }
                    Condition::Dirty => {
                        self.resetting.push(conn);
                        effects.resets.push(conn);
                    }
                }
            }
            Step::Connected(place) => {
                let conn = self.connecting.remove(place);
                self.opened.insert(conn, now);
                self.failing = None;
                self.held &= self.loses(now);
                self.until = self.until.filter(|_| self.held);
                self.free(conn, &mut effects);
            }
            Step::ConnectFailed(place, failure) => {
                self.connecting.remove(place);
                self.failing = Some(failure);
                self.until = Some(now + retry_in.expect("a pause follows a failure"));
                if failure == Failure::Permanent && self.open() == 0 {
                    self.refuse_all(&mut effects);
                }
            }
            Step::Reset(place, ok) => {
                let conn = self.resetting.remove(place);
                if ok {
                    self.free(conn, &mut effects);
                } else {
                    effects.closes.insert((conn, CloseReason::ResetFailed as u8));
                }
            }
            Step::ServerClosed(place) => {
                let conn = self.idle.remove(place);
                effects.closes.insert((conn, CloseReason::ServerClosed as u8));
                if now - self.opened[&conn] < SHORT {
                    // The server closes what was opened a moment ago, again and again.
                    if self.loses(now) && !self.pauses(now) {
                        self.held = true;
                        self.until = Some(now + retry_in.expect("a pause follows"));
                    }
                    self.lost = Some(now);
                }
            }
            Step::Pass(_) => {}
            Step::Resize { max, queue_length, wait_ms } => {
                self.limits = Limits { max, queue_length, wait_timeout: Some(ms(wait_ms)), ..self.limits };
                self.time_out(now, &mut effects);
            }
        }
        self.settle(now, &mut effects);
        effects
    }

    /// The step with a place that exists, if there is one. Waiters that are about to time out are no such place.
    fn fit(&self, now: Instant, step: Step) -> Option<Step> {
        let fits = |place: usize, list: &[ConnId]| (!list.is_empty()).then(|| place % list.len());
        Some(match step {
            Step::Cancel(place) => {
                let timeout = self.limits.wait_timeout.unwrap_or(Duration::MAX);
                assert!(self.waiters.first().is_none_or(|oldest| now.saturating_duration_since(oldest.since) < timeout));
                Step::Cancel(if self.waiters.is_empty() { return None } else { place % self.waiters.len() })
            }
            Step::Release(place, condition) => Step::Release(fits(place, &self.leased)?, condition),
            Step::Connected(place) => Step::Connected(fits(place, &self.connecting)?),
            Step::ConnectFailed(place, failure) => Step::ConnectFailed(fits(place, &self.connecting)?, failure),
            Step::Reset(place, ok) => Step::Reset(fits(place, &self.resetting)?, ok),
            Step::ServerClosed(place) => Step::ServerClosed(fits(place, &self.idle)?),
            Step::Acquire(_) | Step::Pass(_) | Step::Resize { .. } => step,
        })
    }
}

/// Gives the core the step, and collects what it led to.
fn drive(bench: &mut Bench, model: &Model, step: Step) -> (Effects, Option<WaiterId>, Vec<ConnId>) {
    let (core, now) = (&mut bench.core, bench.now);
    let (mut effects, mut queued, mut opened) = (Effects::default(), None, Vec::new());
    match step {
        Step::Acquire(identity) => match core.acquire(now, asker(HOME, IdentityId(identity))) {
            Outcome::Granted(conn) => effects.granted_at_once = Some(conn),
            Outcome::Queued(waiter) => queued = Some(waiter),
            Outcome::Refused(refusal) => effects.refused_at_once = Some(refusal.reason),
        },
        Step::Cancel(place) => assert!(core.cancel(now, model.waiters[place].id)),
        Step::Release(place, condition) => core.release(now, model.leased[place], condition),
        Step::Connected(place) => core.on_connected(now, model.connecting[place]),
        Step::ConnectFailed(place, failure) => core.on_connect_failed(now, model.connecting[place], failure),
        Step::Reset(place, ok) => core.on_reset(now, model.resetting[place], ok),
        Step::ServerClosed(place) => core.on_closed(now, model.idle[place]),
        Step::Pass(_) => core.handle_timeout(now),
        Step::Resize { max, queue_length, wait_ms } => {
            core.resize(now, Limits { max, queue_length, wait_timeout: Some(ms(wait_ms)), ..model.limits });
        }
    }
    for action in bench.actions() {
        match action {
            Action::Open { conn, .. } => opened.push(conn),
            Action::Grant { waiter, conn, .. } => effects.grants.push((waiter, conn)),
            Action::Refuse { waiter, refusal, .. } => effects.refusals.push((waiter, refusal.reason)),
            Action::Notify { .. } => panic!("nobody is told that it waits here"),
            Action::Reset { conn, .. } => effects.resets.push(conn),
            Action::Probe { .. } => panic!("nothing is probed here"),
            Action::Close { conn, reason, .. } => {
                effects.closes.insert((conn, reason as u8));
            }
        }
    }
    effects.opens = opened.len();
    (effects, queued, opened)
}

fn steps() -> impl Strategy<Value = Step> {
    let condition = prop_oneof![4 => Just(Condition::Clean), 1 => Just(Condition::Dirty), 1 => Just(Condition::Broken)];
    let failure = prop_oneof![Just(Failure::Transient), Just(Failure::Permanent)];
    let place = 0..8_usize;
    prop_oneof![
        6 => (0..3_u16).prop_map(Step::Acquire),
        1 => place.clone().prop_map(Step::Cancel),
        4 => (place.clone(), condition).prop_map(|(place, condition)| Step::Release(place, condition)),
        3 => place.clone().prop_map(Step::Connected),
        1 => (place.clone(), failure).prop_map(|(place, failure)| Step::ConnectFailed(place, failure)),
        1 => (place.clone(), any::<bool>()).prop_map(|(place, ok)| Step::Reset(place, ok)),
        1 => place.prop_map(Step::ServerClosed),
        2 => (0..150_u64).prop_map(Step::Pass),
        1 => (0..4_u32, 0..6_u32, 50..500_u64).prop_map(|(max, queue_length, wait_ms)| Step::Resize { max, queue_length, wait_ms }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_core_does_what_the_model_does(history in proptest::collection::vec(steps(), 1..120)) {
        let limits = Limits { max: 3, queue_length: 5, connect_parallelism: 2, wait_timeout: Some(ms(300)), ..LIMITS };
        let mut bench = Bench::new(limits);
        let mut model = Model {
            limits,
            connecting: Vec::new(),
            idle: Vec::new(),
            leased: Vec::new(),
            resetting: Vec::new(),
            waiters: Vec::new(),
            holders: BTreeMap::new(),
            turns: BTreeMap::new(),
            changes: 0,
            served: 0,
            had: BTreeMap::new(),
            loans: BTreeMap::new(),
            failing: None,
            held: false,
            until: None,
            opened: BTreeMap::new(),
            lost: None,
        };
        for step in history {
            let Some(step) = model.fit(bench.now, step) else { continue };
            if let Step::Pass(time) = step {
                bench.now += ms(time);
            }
            let (effects, queued, opened) = drive(&mut bench, &model, step);
            let snapshot = bench.core.snapshot(bench.now);
            let expected = model.step(bench.now, step, queued, snapshot.retry_in);
            prop_assert_eq!(effects, expected, "after {:?}", step);
            model.connecting.extend(opened);
            let counts = [snapshot.connecting, snapshot.idle, snapshot.leased, snapshot.resetting, snapshot.waiters];
            let lists = [model.connecting.len(), model.idle.len(), model.leased.len(), model.resetting.len(), model.waiters.len()];
            prop_assert_eq!(counts.map(|count| count as usize), lists);
        }
    }
}
