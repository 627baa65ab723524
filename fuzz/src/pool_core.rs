//! Bytes as a history of one pool: inputs in any order, with names that exist, existed, or never did. The core asserts its invariants after
//! each; at the end the pool is drained and must come to rest empty.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use sidepool::pool::action::{Action, Outcome};
use sidepool::pool::core::Core;
use sidepool::pool::id::{Asker, ConnId, IdentityId, WaiterId};
use sidepool::pool::limits::Limits;
use sidepool::pool::reason::{CloseReason, Condition, Failure, OpenReason};
use sidepool::worker::WorkerId;

/// The history's bytes.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// The next byte, or zero.
    fn or_zero(&mut self) -> u8 {
        self.next().unwrap_or(0)
    }

    fn flag(&mut self) -> bool {
        self.or_zero() & 1 == 1
    }

    fn worker(&mut self) -> WorkerId {
        WorkerId(u16::from(self.or_zero() % 3))
    }

    fn millis(&mut self) -> Option<Duration> {
        let byte = self.or_zero();
        (byte > 0).then(|| Duration::from_millis(u64::from(byte) * 10))
    }

    fn limits(&mut self) -> Limits {
        let max = u32::from(self.or_zero() % 8);
        Limits {
            max,
            min: u32::from(self.or_zero() % 8).min(max),
            min_always: max % 2 == 0,
            spare: max % 3,
            reserve: u32::from(self.or_zero() % 3),
            reserve_after: self.millis(),
            max_pinned: max.div_ceil(2),
            queue_length: u32::from(self.or_zero() % 16),
            refuse_early: max % 4 == 1,
            wait_timeout: self.millis(),
            notify_after: self.millis(),
            idle_timeout: self.millis(),
            lifetime: self.millis(),
            used_once: false,
            probe_after: self.millis(),
            probe_always: self.flag(),
            round_robin: self.flag(),
            connect_parallelism: u32::from(self.or_zero() % 5),
            backoff_initial: Duration::from_millis(u64::from(self.or_zero())),
            backoff_max: Duration::from_millis(u64::from(self.or_zero()) * 4),
            fail_fast_after: None,
            affinity_patience: Duration::from_millis(u64::from(self.or_zero())),
        }
    }
}

/// The core, with all names it ever gave.
struct Pool {
    core: Core,
    now: Instant,
    conns: Vec<ConnId>,
    waiters: Vec<WaiterId>,
    /// Who has had no answer.
    waiting: BTreeSet<WaiterId>,
    leased: BTreeSet<ConnId>,
    closing: Vec<ConnId>,
    opening: BTreeSet<ConnId>,
    draining: bool,
}

/// Runs a history.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    #[expect(clippy::disallowed_methods, reason = "any time will do")]
    let now = Instant::now();
    let mut pool = Pool {
        core: Core::new(now, bytes.limits(), u64::from(bytes.or_zero())),
        now,
        conns: Vec::new(),
        waiters: Vec::new(),
        waiting: BTreeSet::new(),
        leased: BTreeSet::new(),
        closing: Vec::new(),
        opening: BTreeSet::new(),
        draining: false,
    };
    while let Some(code) = bytes.next() {
        pool.input(code, &mut bytes);
        pool.perform();
        pool.core.check_invariants();
    }
    pool.end();
}

impl Pool {
    fn input(&mut self, code: u8, bytes: &mut Bytes<'_>) {
        let now = self.now;
        match code % 28 {
            0..=4 => self.acquire(bytes),
            5 => {
                if let Some(waiter) = pick(&self.waiters, bytes.or_zero()) {
                    assert_eq!(self.core.cancel(now, waiter), self.waiting.remove(&waiter), "I5: each waiter ends exactly once");
                }
            }
            6..=9 => {
                if let Some(conn) = pick(&self.conns, bytes.or_zero()) {
                    let condition =
                        [Condition::Clean, Condition::Clean, Condition::Dirty, Condition::Broken][usize::from(bytes.or_zero() % 4)];
                    self.leased.remove(&conn);
                    self.core.release(now, conn, condition);
                }
            }
            10..=17 => {
                if let Some(conn) = pick(&self.conns, bytes.or_zero()) {
                    self.report(code % 28, conn, bytes.flag());
                }
            }
            18 => self.core.resize(now, bytes.limits()),
            19 => self.core.mark_stale(now),
            20 => match bytes.or_zero() {
                0..16 => {
                    self.draining = true;
                    self.core.drain(now);
                }
                16..128 => self.core.pause(now),
                _ => self.core.resume(now),
            },
            21 => match bytes.flag() {
                true => self.core.attach_worker(now, bytes.worker()),
                false => self.detach(bytes.worker()),
            },
            22 => self.share(bytes),
            23 => match bytes.flag() {
                true => self.core.enter(now, bytes.worker()),
                false => self.core.leave(now, bytes.worker()),
            },
            _ => {
                self.now += Duration::from_millis(u64::from(bytes.or_zero()));
                self.core.handle_timeout(self.now);
            }
        }
    }

    /// What other pools do that share a limit with this one.
    fn share(&mut self, bytes: &mut Bytes<'_>) {
        match bytes.or_zero() % 5 {
            0 => self.core.uncap(self.now),
            1 => {
                self.core.evict(self.now);
            }
            2 => self.core.owe_one(self.now),
            reason => {
                if let Some(conn) = pick(&self.conns, bytes.or_zero()) {
                    self.opening.remove(&conn);
                    self.core.on_capped(self.now, conn, if reason == 3 { OpenReason::Demand } else { OpenReason::Minimum });
                }
            }
        }
    }

    fn acquire(&mut self, bytes: &mut Bytes<'_>) {
        let asker =
            Asker { worker: bytes.worker(), identity: IdentityId(u16::from(bytes.or_zero() % 5)), seat: 0, patience: bytes.millis() };
        let outcome = match bytes.or_zero() {
            0..8 => self.core.acquire_again(self.now, asker, self.now - Duration::from_millis(u64::from(bytes.or_zero()))),
            _ => self.core.acquire(self.now, asker),
        };
        match outcome {
            Outcome::Granted(conn) => self.lease(conn),
            Outcome::Queued(waiter) => {
                self.waiters.push(waiter);
                assert!(self.waiting.insert(waiter), "a name is given once");
            }
            Outcome::Refused(_) => {}
        }
    }

    /// What a driver may say, of any connection and in any state.
    fn report(&mut self, code: u8, conn: ConnId, ok: bool) {
        let (core, now) = (&mut self.core, self.now);
        match code {
            10 | 11 => {
                self.opening.remove(&conn);
                core.on_connected(now, conn);
            }
            12 => {
                self.opening.remove(&conn);
                core.on_connect_failed(now, conn, if ok { Failure::Transient } else { Failure::Permanent });
            }
            13 => core.on_reset(now, conn, ok),
            14 => core.on_probe(now, conn, ok),
            15 => {
                core.on_opening(conn, u32::from(ok));
            }
            16 => {
                self.leased.remove(&conn);
                core.on_closed(now, conn);
            }
            _ => {
                self.leased.remove(&conn);
                core.discard(now, conn, CloseReason::Broken);
            }
        }
        let _ = self.core.is_recalled(conn);
    }

    fn detach(&mut self, worker: WorkerId) {
        self.core.detach_worker(self.now, worker);
        // Which waiters and leases went with it is the core's business; those it still knows are asked for by name.
        self.waiting.clear();
        self.waiters.clear();
        self.leased.clear();
    }

    fn perform(&mut self) {
        while let Some(action) = self.core.poll_action() {
            match action {
                Action::Open { conn, .. } => {
                    assert!(!self.conns.contains(&conn), "a name is given once");
                    self.opening.insert(conn);
                    self.conns.push(conn);
                }
                Action::Grant { waiter, conn, .. } => {
                    self.waiting.remove(&waiter);
                    self.lease(conn);
                }
                Action::Refuse { waiter, .. } => {
                    self.waiting.remove(&waiter);
                }
                Action::Notify { .. } | Action::Reset { .. } | Action::Probe { .. } => {}
                Action::Close { conn, .. } => {
                    self.opening.remove(&conn);
                    self.leased.remove(&conn);
                    self.closing.push(conn);
                }
            }
        }
    }

    fn lease(&mut self, conn: ConnId) {
        assert!(!self.draining, "I11: a drained pool grants nothing");
        assert!(!self.opening.contains(&conn) && !self.closing.contains(&conn), "I7: only what is open is granted");
        assert!(self.leased.insert(conn), "I6: a connection has one holder");
    }

    /// Drains the pool, answers all that is under way, and looks whether anything is left.
    fn end(mut self) {
        self.core.drain(self.now);
        self.draining = true;
        self.perform();
        for conn in self.conns.clone() {
            self.core.release(self.now, conn, Condition::Clean);
            self.core.on_reset(self.now, conn, true);
            self.core.on_probe(self.now, conn, true);
            self.core.on_connected(self.now, conn);
            self.perform();
            self.core.on_closed(self.now, conn);
        }
        assert!(self.core.is_drained(), "I11: after a drain, all closes");
        assert_eq!(self.core.snapshot(self.now).waiters, 0);
    }
}

/// One of `names`, recent ones more often.
fn pick<T: Copy>(names: &[T], choice: u8) -> Option<T> {
    let recent = names.len().min(if choice < 32 { names.len() } else { 12 });
    let place = usize::from(choice).checked_rem(recent)?;
    names.get(names.len() - 1 - place).copied()
}
