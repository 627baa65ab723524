//! Connections that reach their age: one that is in use gets a successor first, so that nobody has to wait for a connect; then it is closed when
//! nobody uses it. One at a time, and at most one in each of as many parts of a lifetime as there may be connections.
//!
//! Where there is no room for a successor, the old one has to go first.

use std::time::{Duration, Instant};

use super::action::Action;
use super::core::Core;
use super::id::ConnId;
use super::reason::{CloseReason, OpenReason};
use super::state::ConnState;
use super::timers::Timer;

/// A connection that was used within so long, or within the head start of a successor, is in use, whoever has it now.
const IN_USE: Duration = Duration::from_secs(10);

/// A connection that is lost so soon after it was opened was never one.
const NEW: Duration = Duration::from_secs(1);

/// The longest pause after such losses, whatever the settings say of connects that fail.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

impl Core {
    /// Whether the connection in `slot` was opened a moment ago.
    pub(super) fn is_new(&self, now: Instant, slot: u32) -> bool {
        self.conns.at(slot).opened.is_some_and(|opened| now.saturating_duration_since(opened) < NEW)
    }

    /// Whether the server has closed one a moment ago that was hardly open.
    pub(super) fn loses_early(&self, now: Instant) -> bool {
        self.lost_early.is_some_and(|last| now.saturating_duration_since(last) < NEW)
    }

    /// The server has closed a connection that was opened a moment ago. Where it has done so before, it is not asked again as fast as that goes: the
    /// next connect comes a first pause later. That is all: a client may have brought it about, and connects do work.
    pub(super) fn lost_early(&mut self, now: Instant) {
        let again = self.loses_early(now);
        self.lost_early = Some(now);
        if again {
            self.backoff.hold(now, self.limits.backoff_initial.min(LONGEST_PAUSE), &mut self.random);
        }
    }

    /// Connections that have reached their age are to be closed when nobody uses them; those that are about to get a successor.
    pub(super) fn expire(&mut self, now: Instant) {
        let (lifetime, head_start) = (self.limits.lifetime, self.limits.head_start());
        let (mut due, mut soon, mut next) = (Vec::new(), Vec::new(), None);
        for (slot, state) in self.conns.all() {
            if state == ConnState::Closing || self.conns.retired(slot).is_some() {
                continue;
            }
            let Some(at) = self.conns.expires(slot, lifetime) else { continue };
            if at <= now {
                due.push((at, slot));
            } else if at <= now + head_start {
                soon.push((at, slot));
                earlier(&mut next, at);
            } else {
                earlier(&mut next, at - head_start);
            }
        }
        // At most one in each of as many parts of a lifetime as there may be connections.
        let turn = self.last_expired.map_or(now, |last| last + lifetime.unwrap_or_default() / self.limits.max.max(1));
        due.sort_unstable();
        soon.sort_unstable();
        for (at, slot) in due.into_iter().chain(soon) {
            if turn > now {
                earlier(&mut next, turn);
                break;
            }
            if self.has_heir(slot) && now < at + head_start {
                // It says when it is there, or that it will not be; this is in case it takes for ever.
                earlier(&mut next, at + head_start);
            } else if self.is_in_use(now, slot) && self.may_replace(now) {
                self.open_heir(slot);
                earlier(&mut next, at.max(now) + head_start);
            } else if at <= now {
                self.last_expired = Some(now);
                self.conns.retire(slot, CloseReason::Lifetime);
                // The next one's turn comes later.
                let pause = lifetime.unwrap_or_default() / self.limits.max.max(1);
                earlier(&mut next, (now + pause).max(now + Duration::from_millis(1)));
                break;
            }
        }
        self.timers.set(Timer::Lifetime, next);
    }

    /// A connection is open: if it was to take the place of an old one, that one's time is over.
    pub(super) fn succeed(&mut self, now: Instant, conn: ConnId) {
        let Some((_, old)) = self.heir.take_if(|(heir, _)| *heir == conn) else { return };
        let Some((slot, state)) = self.conns.find(old) else { return };
        if state != ConnState::Closing && self.conns.retired(slot).is_none() {
            self.last_expired = Some(now);
            self.conns.retire(slot, CloseReason::Lifetime);
        }
        self.timers.lower(Timer::Lifetime, now + Duration::from_millis(1));
    }

    /// Whether a successor of the connection in `slot` is being opened.
    fn has_heir(&self, slot: u32) -> bool {
        let old = self.conns.id(slot);
        self.heir.is_some_and(|(heir, of)| of == old && self.conns.find_in(heir, ConnState::Connecting).is_some())
    }

    fn is_in_use(&self, now: Instant, slot: u32) -> bool {
        let idle = self.conns.find_in(self.conns.id(slot), ConnState::Idle).is_some();
        let recently = IN_USE.min(self.limits.head_start());
        !idle || now.saturating_duration_since(self.conns.at(slot).idle_since) < recently || self.conns.lasting() <= self.floor()
    }

    /// Whether there is room for one more for the time of a change.
    fn may_replace(&self, now: Instant) -> bool {
        let room = self.conns.total() < self.limits.max && !self.ceiling.is_low(self.limits.max) && self.capped.is_none();
        room && !self.paused && !self.draining && self.backoff.retry_at(now).is_none() && self.conns.count(ConnState::Connecting) == 0
    }

    fn open_heir(&mut self, slot: u32) {
        let old = self.conns.id(slot);
        let worker = self.conns.at(slot).home;
        let heir = self.conns.insert(self.now, worker, self.epoch);
        self.heir = Some((self.conns.id(heir), old));
        self.actions.push_back(Action::Open { conn: self.conns.id(heir), worker, reason: OpenReason::Minimum });
    }
}

fn earlier(next: &mut Option<Instant>, at: Instant) {
    *next = Some(next.map_or(at, |next| next.min(at)));
}
