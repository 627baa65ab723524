//! Pins: a client whose state lives on its server connection keeps that past its transaction, as long as the cause is there.
//!
//! ```text
//!   transaction ends ──▶ anything left on the connection?
//!        no ───────────▶ the connection goes back
//!        yes, room ────▶ pinned: counted, logged, shown; looked at again after each transaction
//!        yes, no room ─▶ the client is told why and closed, the connection is cleaned
//!   pinned and idle for longer than pin_idle_timeout ─▶ the same
//! ```
//! Nothing here costs a client anything that leaves nothing behind. In session mode nothing pins: the connection is the client's anyway.
//! Not here: how it is found out what was left (`Link::pins` says it), or how a connection is cleaned (`connector`).

use std::task::Context;

use sidepool_protocol::postgres::encode;
use sidepool_protocol::postgres::fault::{Fault, Severity};

use super::deadlines::Overdue;
use super::refusal;
use super::run::{End, Phase, Session};
use crate::observe::record::{PoolCounter, PoolRecord};
use crate::pool::handle::Pool;
use crate::pool::id::ConnId;
use crate::pool::lease::Lease;
use crate::pool::pinned::PROMISED;
use crate::upstream::postgres::connector::PgConnector;
use crate::upstream::postgres::pins::{Cause, Pins};
use crate::upstream::postgres::roll::{Held, seconds_now};

/// What is counted of pins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// A connection was pinned.
    Pinned,
    /// A connection was not to be pinned.
    Refused,
    /// A pinned client was idle for too long.
    TimedOut,
}

impl Session {
    /// What the connection is pinned for; nothing where there is none.
    pub(super) fn pins(&self) -> Pins {
        match &self.phase {
            Phase::Linked(lease) => lease.link.counted,
            Phase::Idle | Phase::Waiting(_) => Pins::NONE,
        }
    }

    /// At a moment when the connection could go back but for what is left on it: says whether it can after all.
    pub(super) fn settle_pins(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let client = self.presence().id;
        let Phase::Linked(lease) = &mut self.phase else { return Ok(true) };
        let (before, now) = (lease.link.counted, lease.link.pins);
        if before == now && !lease.link.promised {
            return Ok(now.is_empty());
        }
        lease.link.promised = false;
        if !lease.pin(now.bits()) {
            return Err(self.refuse_pin(cx, now));
        }
        lease.link.counted = now;
        if let Some(entry) = &lease.entry {
            let since = entry.server().held.get().map_or_else(seconds_now, |held| held.since);
            entry.server().held.set((!now.is_empty()).then_some(Held { pins: now, since, client }));
        }
        count(self.pool.record(), Event::Pinned, now.without(before));
        for cause in now.without(before).iter() {
            tracing::debug!(pool = %self.pool.name(), client, reason = cause.label(), "pinned: the client keeps its server connection");
        }
        log_ends(&self.pool, client, before.without(now));
        Ok(now.is_empty())
    }

    /// The session ends with this connection in its hands.
    pub(super) fn forget_pins(&self, lease: &Lease<PgConnector>) {
        if let Some(entry) = &lease.entry {
            entry.server().held.set(None);
        }
        log_ends(&self.pool, self.presence().id, lease.link.counted);
    }

    /// As many connections are pinned as may be: the client is told, and what it left is cleaned away.
    fn refuse_pin(&mut self, cx: &mut Context<'_>, pins: Pins) -> End {
        count(self.pool.record(), Event::Refused, pins);
        tracing::warn!(pool = %self.pool.name(), reason = %pins, "client closed: no more connections may be pinned (max_pinned_connections)");
        let fault = refusal::pinned_too_many(self.pool.name(), pins, &self.pool.pinned());
        self.say_goodbye(cx, &fault, End::Pinned)
    }

    /// A pinned client was idle for too long: it is told, and what it left is cleaned away.
    pub(super) fn pin_timed_out(&mut self, cx: &mut Context<'_>) -> End {
        let pins = self.pins();
        count(self.pool.record(), Event::TimedOut, pins);
        tracing::warn!(pool = %self.pool.name(), reason = %pins, "client closed: idle for too long with a pinned connection (pin_idle_timeout)");
        let fault = refusal::pinned_too_long(pins, &self.member.account().bounds());
        self.say_goodbye(cx, &fault, End::TimedOut(Overdue::Pin))
    }
}

/// Keeps a place among the pinned connections for what a text is certain to leave on this one; `Some`: there is none, and this is what the client
/// is told.
pub(super) fn admit(pool: &Pool<PgConnector>, connection: ConnId, pins: Pins) -> Option<Box<[u8]>> {
    if pool.pin(connection, PROMISED) {
        return None;
    }
    count(pool.record(), Event::Refused, pins);
    pool.record().add(PoolCounter::ErrorRefused, 1);
    tracing::warn!(pool = %pool.name(), reason = %pins, "refused: no more connections may be pinned (max_pinned_connections)");
    let fault = Fault { severity: Severity::Error, ..refusal::pinned_too_many(pool.name(), pins, &pool.pinned()) };
    let mut told = Vec::new();
    encode::error_response(&fault, &mut told);
    Some(told.into())
}

fn log_ends(pool: &Pool<PgConnector>, client: u64, ended: Pins) {
    for cause in ended.iter() {
        tracing::debug!(pool = %pool.name(), client, reason = cause.label(), "no longer pinned");
    }
}

fn count(record: &PoolRecord, event: Event, causes: Pins) {
    for cause in causes.iter() {
        let counter = match (event, cause) {
            (Event::Pinned, Cause::TemporaryTables) => PoolCounter::PinnedForTables,
            (Event::Pinned, Cause::HeldCursors) => PoolCounter::PinnedForCursors,
            (Event::Pinned, Cause::AdvisoryLocks) => PoolCounter::PinnedForLocks,
            (Event::Pinned, Cause::Library) => PoolCounter::PinnedForLibrary,
            (Event::Pinned, Cause::Statements) => PoolCounter::PinnedForStatements,
            (Event::Pinned, Cause::Listening) => PoolCounter::PinnedForListening,
            (Event::Refused, Cause::TemporaryTables) => PoolCounter::PinRefusedTables,
            (Event::Refused, Cause::HeldCursors) => PoolCounter::PinRefusedCursors,
            (Event::Refused, Cause::AdvisoryLocks) => PoolCounter::PinRefusedLocks,
            (Event::Refused, Cause::Library) => PoolCounter::PinRefusedLibrary,
            (Event::Refused, Cause::Statements) => PoolCounter::PinRefusedStatements,
            (Event::Refused, Cause::Listening) => PoolCounter::PinRefusedListening,
            (Event::TimedOut, Cause::TemporaryTables) => PoolCounter::PinTimedOutTables,
            (Event::TimedOut, Cause::HeldCursors) => PoolCounter::PinTimedOutCursors,
            (Event::TimedOut, Cause::AdvisoryLocks) => PoolCounter::PinTimedOutLocks,
            (Event::TimedOut, Cause::Library) => PoolCounter::PinTimedOutLibrary,
            (Event::TimedOut, Cause::Statements) => PoolCounter::PinTimedOutStatements,
            (Event::TimedOut, Cause::Listening) => PoolCounter::PinTimedOutListening,
        };
        record.add(counter, 1);
    }
}
