//! A core with a driver that does what it is told, one call at a time.

use std::time::{Duration, Instant};

use crate::pool::action::{Action, Outcome};
use crate::pool::core::Core;
use crate::pool::id::{Asker, ConnId, IdentityId, WaiterId};
use crate::pool::limits::Limits;
use crate::pool::reason::{CloseReason, Condition, Failure, OpenReason, Refusal};
use crate::worker::WorkerId;

pub(super) const HOME: WorkerId = WorkerId(0);
pub(super) const AWAY: WorkerId = WorkerId(1);
pub(super) const ALICE: IdentityId = IdentityId(1);
pub(super) const BOB: IdentityId = IdentityId(2);

/// Limits in which nothing times out.
pub(super) const LIMITS: Limits = Limits {
    max: 2,
    min: 0,
    min_always: true,
    spare: 0,
    reserve: 0,
    reserve_after: None,
    max_pinned: 1,
    queue_length: 10,
    wait_timeout: None,
    refuse_early: false,
    notify_after: None,
    idle_timeout: None,
    lifetime: None,
    used_once: false,
    probe_after: None,
    probe_always: false,
    round_robin: false,
    connect_parallelism: 4,
    backoff_initial: Duration::from_millis(100),
    backoff_max: Duration::from_secs(15),
    fail_fast_after: None,
    affinity_patience: Duration::from_millis(5),
};

pub(super) fn asker(worker: WorkerId, identity: IdentityId) -> Asker {
    Asker { worker, identity, seat: 0, patience: None }
}

pub(super) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A core, the time, and what the core wanted done.
pub(super) struct Bench {
    pub(super) core: Core,
    pub(super) now: Instant,
}

impl Bench {
    pub(super) fn new(limits: Limits) -> Self {
        let now = crate::clock::now();
        let mut core = Core::new(now, limits, 1);
        core.attach_worker(now, HOME);
        Self { core, now }
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
        self.core.handle_timeout(self.now);
    }

    /// What the core wants done now. Closes are performed at once, and what follows from them is in the list.
    pub(super) fn actions(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        while let Some(action) = self.core.poll_action() {
            if let Action::Close { conn, .. } = action {
                self.core.on_closed(self.now, conn);
            }
            actions.push(action);
        }
        actions
    }

    pub(super) fn acquire(&mut self, identity: IdentityId) -> Outcome {
        self.core.acquire(self.now, asker(HOME, identity))
    }

    /// Asks and must wait.
    pub(super) fn queue(&mut self, identity: IdentityId) -> WaiterId {
        match self.acquire(identity) {
            Outcome::Queued(waiter) => waiter,
            other => panic!("{other:?} instead of a place in the queue"),
        }
    }

    /// So many of her sessions ask and must wait.
    pub(super) fn crowd(&mut self, sessions: usize) {
        for _ in 0..sessions {
            self.queue(ALICE);
        }
    }

    /// Asks and must get an idle connection.
    pub(super) fn take(&mut self) -> ConnId {
        match self.acquire(ALICE) {
            Outcome::Granted(conn) => conn,
            other => panic!("{other:?} instead of a connection"),
        }
    }

    /// Asks and must be refused.
    pub(super) fn refused(&mut self) -> Refusal {
        match self.acquire(ALICE) {
            Outcome::Refused(refusal) => *refusal,
            other => panic!("{other:?} instead of a refusal"),
        }
    }

    pub(super) fn release(&mut self, conn: ConnId, condition: Condition) {
        self.core.release(self.now, conn, condition);
    }

    /// The connections that the core wants opened now.
    pub(super) fn opens(&mut self) -> Vec<(ConnId, OpenReason)> {
        self.actions()
            .into_iter()
            .filter_map(|action| match action {
                Action::Open { conn, reason, .. } => Some((conn, reason)),
                _ => None,
            })
            .collect()
    }

    /// The reasons of the connections closed now.
    pub(super) fn closes(&mut self) -> Vec<CloseReason> {
        self.actions()
            .into_iter()
            .filter_map(|action| match action {
                Action::Close { reason, .. } => Some(reason),
                _ => None,
            })
            .collect()
    }

    /// Who is granted a connection now.
    pub(super) fn grants(&mut self) -> Vec<WaiterId> {
        self.actions()
            .into_iter()
            .filter_map(|action| match action {
                Action::Grant { waiter, .. } => Some(waiter),
                _ => None,
            })
            .collect()
    }

    /// Who is refused now.
    pub(super) fn refusals(&mut self) -> Vec<(WaiterId, Refusal)> {
        self.actions()
            .into_iter()
            .filter_map(|action| match action {
                Action::Refuse { waiter, refusal, .. } => Some((waiter, *refusal)),
                _ => None,
            })
            .collect()
    }

    pub(super) fn connect(&mut self, conn: ConnId) {
        self.core.on_connected(self.now, conn);
    }

    pub(super) fn fail(&mut self, conn: ConnId, failure: Failure) {
        self.core.on_connect_failed(self.now, conn, failure);
    }

    /// Opens `count` connections for sessions that hold them from now on.
    pub(super) fn lease(&mut self, count: usize) -> Vec<ConnId> {
        let mut leased = Vec::new();
        for _ in 0..count {
            self.queue(ALICE);
            for (conn, _) in self.opens() {
                self.connect(conn);
                leased.push(conn);
            }
            self.actions();
        }
        assert_eq!(leased.len(), count, "one connection was opened for each session");
        leased
    }

    /// Opens `count` connections and leaves them idle.
    pub(super) fn idle(&mut self, count: usize) -> Vec<ConnId> {
        let leased = self.lease(count);
        for conn in &leased {
            self.release(*conn, Condition::Clean);
        }
        leased
    }
}
