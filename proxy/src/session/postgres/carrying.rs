//! A connection that a client has just been given is brought into the client's state.
//!
//! ```text
//!   nothing to do                          the client's message goes on
//!   the server ends a session at an error  [carry][the client's message] in one write: where the carry fails, the message behind it never runs
//!   it does not, or nobody knows yet       [carry] and the message waits for its end
//! ```
//! PostgreSQL ends a session at any error under `exit_on_error`, which the carry sets for itself alone. Whether a server knows that setting is asked
//! behind the first carry on each connection. Not here: what is carried (`matching`, `following`).

use std::task::Context;

use super::following::{self, Own};
use super::outbound::{Rare, Reported, field};
use super::refusal;
use super::relay::Turn;
use super::run::{End, Phase, Session};
use crate::observe::record::PoolCounter;
use crate::pool::lease::Lease;
use crate::upstream::postgres::connector::PgConnector;
use crate::upstream::postgres::link::{Exits, Hold, Link};

/// The setting by which a session ends at any error.
const EXIT_ON_ERROR: &str = "exit_on_error";

/// Switches it on up to the end of the transaction, which is the end of the query.
const EXITS: &str = "SELECT pg_catalog.set_config('exit_on_error','on',true)";

/// The query that brings a connection into a state.
pub(super) fn carry(link: &mut Link, sql: &str) -> Own {
    match link.exits {
        Exits::Unknown => {
            link.exits = Exits::Asked;
            Own::one(sql).and_connect(Some(EXITS))
        }
        // A client may have set it itself.
        Exits::Yes if !sql.contains(EXIT_ON_ERROR) => Own::one(&format!("{EXITS};{sql}")).ahead(),
        Exits::Yes | Exits::Asked | Exits::No => Own::one(sql),
    }
}

impl Session {
    /// Takes a connection into use and sends `input` on, behind or after what brings the connection into the client's state.
    pub(super) fn link(&mut self, cx: &mut Context<'_>, mut lease: Lease<PgConnector>, input: &[u8]) -> Result<(), End> {
        self.quiet.server = false;
        self.ticket.presence().has_asked(self.worker.postgres.micros(lease.since()));
        self.pool.record().add(PoolCounter::Assignments, 1);
        self.keep_rules(&mut lease.link);
        let channels = if self.ticket.listens() { self.channels_query(&mut lease) } else { None };
        let own = self.arrival(&mut lease);
        let own = if channels.is_some() { Own::both(own, channels.as_deref()) } else { own };
        let Some(own) = own else {
            self.ticket.running(&lease.cancel);
            self.phase = Phase::Linked(lease);
            return self.send_on(cx, input);
        };
        // A cancel is meant for the client's query, and not for this one.
        self.ticket.waiting(cx.waker());
        lease.link.matching = true;
        lease.link.ahead = own.is_ahead();
        self.phase = Phase::Linked(lease);
        if own.is_ahead() {
            return self.send_behind(cx, Some(own), input);
        }
        self.pending = input.to_vec();
        self.send_own(cx, own)
    }

    /// The connection is in the client's state: what waited for it goes on, unless it was cancelled meanwhile.
    pub(super) fn after_matching(&mut self, cx: &mut Context<'_>) -> Result<Turn, End> {
        let Phase::Linked(lease) = &mut self.phase else { return Ok(Turn::Unlinked) };
        lease.link.matching = false;
        if lease.link.exits == Exits::Asked {
            lease.link.exits = Exits::Yes;
        }
        if std::mem::take(&mut lease.link.ahead) {
            // What a cancel was meant for runs already.
            self.ticket.running_late(&lease.cancel);
            let pending = std::mem::take(&mut self.pending);
            self.send_on(cx, &pending)?;
            return Ok(Turn::Moved);
        }
        if !self.ticket.is_cancelled() || !lease.link.is_quiet() {
            self.ticket.running(&lease.cancel);
            let pending = std::mem::take(&mut self.pending);
            self.send_on(cx, &pending)?;
            return Ok(Turn::Moved);
        }
        self.ticket.idle();
        self.hold = Hold::No;
        self.refuse_with(&refusal::cancelled());
        // It may carry what it has to be asked for, and to forget.
        Ok(if self.unlink_if_free(cx)? { Turn::Unlinked } else { Turn::Moved })
    }

    /// Acts on what hardly ever comes by.
    #[cold]
    pub(super) fn take_in_rare(&mut self, cx: &mut Context<'_>, rare: &Rare) -> Result<(), End> {
        if let Some(error) = &rare.own_error {
            let message = String::from_utf8_lossy(field(error, b'M').unwrap_or(b"no message")).into_owned();
            self.with_connection(|connection| connection.link.applied = None);
            return Err(self.say_goodbye(cx, &refusal::state_not_set(&message), End::Mode));
        }
        for id in &rare.outdated {
            self.renew(*id, None);
        }
        for (id, shape) in &rare.reshaped {
            self.renew(*id, Some(*shape));
        }
        Ok(())
    }

    /// What the server reports is true of the connection, and of the client whose statement changed it.
    pub(super) fn take_in_parameters(&mut self, reported: &[Reported]) {
        let mut present = self.state();
        let Phase::Linked(lease) = &mut self.phase else { return };
        let asking = lease.link.asking.is_some();
        let mut changed = None;
        for Reported { name, value, own } in reported {
            // Full, or not a name: then it is not one that is tracked either.
            let _ = lease.parameters.set(name, value);
            if asking {
                // What is taken back on the connection stays the client's.
                continue;
            }
            if !own && present.get(name).is_none() {
                following::on_untracked(&mut lease.link, name);
            }
            if lease.link.dirt.may_reset(name) {
                // Perhaps the server's default, where the client is back at what it began with: the answer to the question will tell.
                continue;
            }
            if present.get(name).is_some_and(|present| present != &**value) {
                let _ = changed.get_or_insert_with(|| (*present).clone()).set(name, value);
            }
        }
        if let Some(changed) = changed {
            present = self.worker.postgres.states.intern(changed);
            self.ticket.set_state(&present);
        }
        if !lease.link.doubtful && !asking && lease.link.dirt.is_clean() {
            lease.link.applied = Some(present);
        }
    }
}
