//! What can be asked of a pool core. Nothing here changes it.

use std::time::{Duration, Instant};

use super::core::Core;
use super::id::{Asker, ConnId, IdentityId};
use super::limits::{Limits, bounded};
use super::reason::{CloseReason, OpenReason, Refusal, RefuseReason};
use super::snapshot::Snapshot;
use super::state::ConnState;

impl Core {
    /// Whether there are more connections than the pool's size allows without its reserve.
    #[must_use]
    pub fn is_in_reserve(&self) -> bool {
        self.conns.total() > self.limits.max && self.limits.reserve > 0
    }

    /// Whether somebody waits for a connection that may not be opened.
    #[must_use]
    pub fn is_capped(&self) -> bool {
        self.capped == Some(OpenReason::Demand) && !self.queue.is_empty()
    }

    /// Since when the connection is idle that is so for longest.
    #[must_use]
    pub fn coldest(&self) -> Option<Instant> {
        self.conns.coldest().map(|slot| self.conns.at(slot).idle_since)
    }

    /// Whether the holder of this connection should give it back at the next quiet moment.
    #[must_use]
    pub fn is_recalled(&self, conn: ConnId) -> bool {
        self.conns
            .find_in(conn, ConnState::Leased)
            .is_none_or(|slot| self.conns.retired(slot).is_some() || self.draining || self.paused || self.conns.live() > self.limits.most())
    }

    /// Whether the address or the credentials that this connection was opened with are no longer the configured ones.
    #[must_use]
    pub fn is_stale(&self, conn: ConnId) -> bool {
        let slot = self.conns.find_in(conn, ConnState::Leased);
        slot.is_some_and(|slot| self.conns.retired(slot) == Some(CloseReason::Stale))
    }

    /// The limits in force.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// How many connections the server has room for, and how many there may be.
    #[must_use]
    pub fn room(&self) -> (u32, u32) {
        (self.ceiling.room(self.limits.max), self.limits.max)
    }

    /// How many connections there are, in any state.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.conns.total() as usize
    }

    /// Whether there still is such a connection.
    #[must_use]
    pub fn is_open(&self, conn: ConnId) -> bool {
        self.conns.find(conn).is_some()
    }

    /// How often address or credentials changed.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Whether the pool drains and nothing is left.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.draining && self.conns.total() == 0
    }

    /// The state of the pool as numbers.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let since = |earlier: Instant| now.saturating_duration_since(earlier);
        Snapshot {
            connecting: self.conns.count(ConnState::Connecting),
            idle: self.conns.count(ConnState::Idle),
            leased: self.conns.count(ConnState::Leased),
            resetting: self.conns.count(ConnState::Resetting),
            probing: self.conns.count(ConnState::Probing),
            closing: self.conns.count(ConnState::Closing),
            retiring: self.conns.retiring(),
            pinned: self.conns.pinned(),
            max_pinned: self.limits.max_pinned,
            max: self.limits.max,
            reserve: self.limits.reserve,
            room: self.ceiling.room(self.limits.max),
            min: self.limits.min,
            waiters: self.queue.len(),
            queue_length: self.limits.queue_length,
            oldest_wait: self.queue.oldest().map(|oldest| since(oldest.since)),
            saturated: self.saturated + self.saturated_since.map_or(Duration::ZERO, since),
            failures: self.backoff.failures(),
            last_failure: self.backoff.last(),
            retry_in: self.backoff.retry_at(now).map(|at| at - now),
            paused: self.paused,
            draining: self.draining,
        }
    }

    /// The facts of a refusal.
    pub(super) fn refusal(&self, reason: RefuseReason, identity: IdentityId, own: Option<Duration>, waited: Duration) -> Box<Refusal> {
        let patience = self.patience(own);
        let expected = self.expected_wait(self.now, identity);
        // By then so many have been served that the wait fits; one place at least has come free.
        let soonest = |expected: Duration| expected.saturating_sub(patience.unwrap_or_default());
        Box::new(Refusal {
            reason,
            connections: self.conns.total(),
            leased: self.conns.count(ConnState::Leased),
            pinned: self.conns.pinned(),
            max: self.limits.max,
            waiters: self.queue.len(),
            queue_length: self.limits.queue_length,
            waited,
            wait_timeout: patience,
            expected,
            retry_after: expected.and_then(|expected| Some(soonest(expected).max(self.pace.interval(self.now)?))),
        })
    }

    /// How long somebody waits at most who may have a limit of its own; `None`: for ever.
    pub(super) fn patience(&self, own: Option<Duration>) -> Option<Duration> {
        own.map_or(self.limits.wait_timeout, |own| bounded(Some(own)))
    }

    /// How long one more session of `identity` would wait at the pace of the last moments, if there is one.
    fn expected_wait(&self, now: Instant, identity: IdentityId) -> Option<Duration> {
        self.pace.interval(now).map(|interval| interval.saturating_mul(self.queue.turns_before(identity).saturating_add(1)))
    }

    /// Why a session is refused that would wait for longer than it may. Never one that would be next.
    pub(super) fn refuses_early(&self, now: Instant, asker: Asker) -> Option<RefuseReason> {
        if !self.limits.refuse_early || self.queue.turns_before(asker.identity) == 0 {
            return None;
        }
        let (expected, patience) = self.expected_wait(now, asker.identity).zip(self.patience(asker.patience))?;
        (expected > patience).then_some(RefuseReason::WouldTimeOut)
    }
}
