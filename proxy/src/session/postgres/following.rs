//! State that follows the client: before a connection is given back, the server is asked what has become of it, where anything may have changed.
//!
//! ```text
//!   ReadyForQuery (idle) ─▶ client          nothing dirty ───────────────────────────────▶ given back
//!            └─ dirty ─▶ ask ─▶ server ─▶ answer ─▶ the client's state, interned ────────▶ given back
//!                          │ cancelled: asked again      │ pinned: the connection is brought into that state, and kept
//!                          └ failed: the client is told why, and the connection is closed
//! ```
//! The client has its ReadyForQuery meanwhile; what it sends next waits. A session that is dropped while the server is asked closes the connection.
//! Not here: what is asked (`asking`), what the answer means (`concluding`).

use std::rc::Rc;
use std::task::Context;

use sidepool_config::model::PoolMode;
use sidepool_protocol::postgres::hints::Kinds;
use sidepool_protocol::postgres::parameters::ParameterSet;
use sidepool_protocol::postgres::tracker::Owed;

use super::carrying::carry;
use super::concluding::{self, Before, Concluded};
use super::listening;
use super::matching::{self, Found, USER};
use super::refusal;
use super::relay::{Turn, give_back, query};
use super::run::{End, Phase, Session};
use crate::observe::record::PoolCounter;
use crate::upstream::postgres::asking::{Answer, Asking, CLEANING, Ended, Question};
use crate::upstream::postgres::connection::PgConnection;
use crate::upstream::postgres::dirt::Dirt;
use crate::upstream::postgres::link::Link;
use crate::worker::Worker;

/// Queries of the proxy itself.
pub(super) struct Own {
    messages: Vec<u8>,
    count: u8,
    /// Which of them may fail.
    may_fail: Option<u8>,
    /// The client's message may be sent right behind it.
    ahead: bool,
}

impl Own {
    /// One query that may not fail.
    pub(super) fn one(sql: &str) -> Self {
        Self { messages: query(sql), count: 1, may_fail: None, ahead: false }
    }

    /// With `connect_query` behind it, which may fail.
    pub(super) fn and_connect(mut self, connect_query: Option<&str>) -> Self {
        if let Some(sql) = connect_query {
            self.may_fail = Some(self.count);
            self.messages.extend_from_slice(&query(sql));
            self.count += 1;
        }
        self
    }

    /// With one more, or that one alone.
    pub(super) fn both(own: Option<Self>, sql: Option<&str>) -> Option<Self> {
        match (own, sql) {
            (Some(own), Some(sql)) => Some(own.and(sql)),
            (None, Some(sql)) => Some(Self::one(sql)),
            (own, None) => own,
        }
    }

    /// That the client's message may be sent right behind it: where it fails, the server reads no further.
    pub(super) fn ahead(mut self) -> Self {
        self.ahead = true;
        self
    }

    /// Whether it may.
    pub(super) fn is_ahead(&self) -> bool {
        self.ahead
    }

    /// Puts the messages out, and notes what is owed for them.
    pub(super) fn announce(&self, link: &mut Link, out: &mut Vec<u8>) {
        (link.own_done, link.own_may_fail) = (0, self.may_fail);
        // A simple query destroys it.
        link.statements.unnamed = None;
        for _ in 0..self.count {
            link.tracker.owe(Owed::OwnQuery);
        }
        out.extend_from_slice(&self.messages);
    }

    /// How many there are.
    pub(super) fn count(&self) -> u8 {
        self.count
    }

    pub(super) fn and(mut self, sql: &str) -> Self {
        self.messages.extend_from_slice(&query(sql));
        self.count += 1;
        self.ahead = false;
        self
    }
}

impl Session {
    /// The connection knows the rules by which this session's state follows it.
    pub(super) fn keep_rules(&self, link: &mut Link) {
        match self.mode {
            PoolMode::Session => link.rules = None,
            PoolMode::Transaction | PoolMode::Statement => self.pool.with_connector(|connector| connector.keep_rules(&mut link.rules)),
        }
    }

    /// Gives the connection back when the mode and the server allow it, and when it is known what has become of the session.
    pub(super) fn unlink_if_free(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if self.mode == PoolMode::Session || self.is_half_sent() || !self.with_connection(|connection| connection.link.is_quiet()) {
            return Ok(false);
        }
        if self.ask(cx)? { Ok(false) } else { self.give_back_if_free(cx) }
    }

    /// The same when nothing is to be asked.
    fn give_back_if_free(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if self.mode == PoolMode::Session || self.is_half_sent() || !self.with_connection(|connection| connection.link.is_quiet()) {
            return Ok(false);
        }
        let free = self.settle_pins(cx)?;
        if free && let Phase::Linked(lease) = std::mem::replace(&mut self.phase, Phase::Idle) {
            self.note_statements(&lease);
            self.note_sequences(&lease.link);
            self.ticket.idle();
            give_back(lease);
        }
        Ok(free)
    }

    /// A transaction is over.
    pub(super) fn on_transaction(&mut self) {
        let Phase::Linked(lease) = &mut self.phase else { return };
        if lease.link.rules.as_ref().is_some_and(|rules| rules.always) {
            lease.link.dirt.add_unknown();
        }
    }

    /// DISCARD ALL: the client is where it began.
    pub(super) fn on_discard(&mut self) {
        let Phase::Linked(lease) = &mut self.phase else { return };
        if lease.link.rules.is_none() {
            return;
        }
        if self.pool.connector().target().connect_query.is_some() {
            // The next client expects what it has set.
            lease.link.dirt.add_unknown();
        }
        let start = self.ticket.presence().start();
        self.ticket.set_state(start);
    }

    /// Asks the server what has become of the session, if there is anything to ask before the quiet connection may be given back. True: the
    /// answer has to be awaited.
    fn ask(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let Phase::Linked(lease) = &mut self.phase else { return Ok(false) };
        if lease.link.dirt.kinds().has(Kinds::DEFAULTS) {
            lease.link.dirt.forget_defaults();
            self.renew_connections();
        }
        let Phase::Linked(lease) = &mut self.phase else { return Ok(false) };
        let PgConnection { link, parameters, .. } = &mut **lease;
        if link.rules.is_none() || link.dirt.is_clean() {
            link.dirt.forget();
            if link.hearing.carries {
                let mut question = Question::default();
                listening::session::ask(link, &mut question);
                if !question.is_empty() {
                    return self.put(cx, question);
                }
            } else {
                link.hearing.forgets = false;
            }
            if !self.is_audit_due() {
                return Ok(false);
            }
            let Some(audit) = self.audit() else { return Ok(false) };
            return self.put(cx, audit);
        }
        let rules = link.rules.clone().unwrap_or_default();
        let connect_query = self.pool.connector().target().connect_query.clone();
        if connect_query.is_some() && link.dirt.has_resets() {
            // What connect_query has set is gone, too, and the next client expects it.
            link.dirt.add_unknown();
        }
        let state = self.ticket.presence().state();
        link.dirt.names().iter().for_each(|name| rules.remember(name));
        let mut question = Question::about(&link.dirt, &state, rules.custom(), !link.pins.is_empty());
        question.is_utf8 = parameters.get("client_encoding").is_none_or(|encoding| encoding == "UTF8");
        question.seed = link.dirt.kinds().has(Kinds::SEED).then(seed);
        listening::session::ask(link, &mut question);
        if question.is_empty() {
            link.dirt = Dirt::default();
            return Ok(false);
        }
        self.put(cx, question)
    }

    fn put(&mut self, cx: &mut Context<'_>, question: Question) -> Result<bool, End> {
        let connect_query = self.pool.connector().target().connect_query.clone();
        let cleans = question.cleans;
        let (sql, asking) = question.put();
        self.put_question(cx, &sql, asking, connect_query.as_deref().filter(|_| cleans))?;
        Ok(true)
    }

    /// What sessions begin with has changed: connections that were opened before are replaced as soon as nobody uses them, so that clients do not
    /// find other defaults from one transaction to the next.
    fn renew_connections(&self) {
        // Apart from the numbers that the console gives out.
        let token = self.worker.postgres.numbers.next() | 1 << 63;
        let hosts = self.pool.connector().target().hosts.clone();
        let renew = move |worker: &Rc<Worker>| worker.postgres.pools.reconnect_to(token, &hosts);
        for id in self.worker.mailboxes.ids() {
            self.worker.mailboxes.post(id, renew.clone());
        }
    }

    fn put_question(&mut self, cx: &mut Context<'_>, sql: &str, asking: Asking, connect_query: Option<&str>) -> Result<(), End> {
        self.pool.record().add(PoolCounter::StateAsked, 1);
        // A cancel that comes from now on is about nothing.
        self.ticket.idle();
        self.with_connection(|connection| connection.link.asking = Some(Box::new(asking)));
        self.send_own(cx, Own::one(sql).and_connect(connect_query))
    }

    /// Sends queries of the proxy itself.
    pub(super) fn send_own(&mut self, cx: &mut Context<'_>, own: Own) -> Result<(), End> {
        self.with_connection(|connection| {
            let mut messages = Vec::new();
            own.announce(&mut connection.link, &mut messages);
            connection.link.to_server.send(&mut connection.stream, cx, &messages)
        })
        .or_else(|error| self.on_lost(cx, &error.to_string()))
    }

    /// The queries that come before a client's first message on a connection, if there are any.
    pub(super) fn arrival(&self, connection: &mut PgConnection) -> Option<Own> {
        let own = self.state_query(connection);
        self.forget_values(&mut connection.link, own)
    }

    /// The queries that bring the connection into this client's state, if it is not in it.
    pub(super) fn state_query(&self, connection: &mut PgConnection) -> Option<Own> {
        let PgConnection { link, parameters, baseline, entry, .. } = connection;
        let state = self.state();
        if link.applied.as_ref().is_some_and(|applied| Rc::ptr_eq(applied, &state)) {
            return None;
        }
        let superuser = baseline.get("is_superuser") == Some("on");
        let found = Found { reported: parameters, carried: &link.carried, doubtful: link.doubtful, superuser };
        let connector = self.pool.connector();
        let connect_query = connector.target().connect_query.as_deref();
        let own = if connect_query.is_some() && matching::resets(&state, found) {
            // Back to what connect_query has made of it.
            let nothing = Default::default();
            let cleaned = Found { reported: baseline, carried: &nothing, doubtful: false, superuser };
            let own = Own::one(CLEANING).and_connect(connect_query);
            Some(match matching::plan(&state, cleaned) {
                Some(sql) => own.and(&sql),
                None => own,
            })
        } else {
            matching::plan(&state, found).map(|sql| carry(link, &sql))
        };
        // From here on the connection carries what the server does not report, too.
        link.carried = Rc::clone(&state);
        link.doubtful = false;
        if let Some(entry) = entry {
            *entry.server().applied.borrow_mut() = Some(Rc::clone(&state));
        }
        link.applied = Some(state);
        if own.is_some() {
            self.pool.record().add(PoolCounter::StateCarried, 1);
        }
        own
    }

    /// The server has been asked: the connection is given back, or kept in the client's state.
    pub(super) fn after_answer(&mut self, cx: &mut Context<'_>) -> Result<Turn, End> {
        if self.after_asking(cx)? {
            return Ok(Turn::Moved);
        }
        if matches!(self.phase, Phase::Idle) {
            return Ok(Turn::Unlinked);
        }
        if self.unlink_if_free(cx)? {
            return Ok(Turn::Unlinked);
        }
        if self.with_connection(|connection| connection.link.asking.is_some()) {
            return Ok(Turn::Moved);
        }
        self.carry_on(cx)?;
        Ok(Turn::Moved)
    }

    /// The question is through. True: more has to be awaited.
    fn after_asking(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let connection = match &mut self.phase {
            Phase::Linked(lease) => &mut **lease,
            Phase::Idle | Phase::Waiting(_) => return Ok(false),
        };
        let Some(asking) = connection.link.asking.take() else { return Ok(false) };
        if let Some(stage) = asking.audit() {
            self.after_audit(cx, *asking, stage)?;
            return match &self.phase {
                Phase::Linked(lease) => Ok(lease.link.asking.is_some()),
                Phase::Idle | Phase::Waiting(_) => Ok(false),
            };
        }
        match asking.end() {
            Ended::Again(sql, again) => {
                let connect_query = self.pool.connector().target().connect_query.clone();
                let cleans = again.cleans();
                self.put_question(cx, &sql, again, connect_query.as_deref().filter(|_| cleans))?;
                Ok(true)
            }
            Ended::Failed(error) => {
                self.pool.record().add(PoolCounter::StateLost, 1);
                let code = String::from_utf8_lossy(&error.code).into_owned();
                Err(self.say_goodbye(cx, &refusal::state_not_known(&code, &error.message), End::Mode))
            }
            Ended::Answered(mut answer, cleaned) => {
                let channels = answer.channels.take();
                let more = self.take_in_answer(cx, &answer, cleaned)?;
                if let Some(channels) = channels {
                    self.take_in_channels(cx, channels);
                }
                Ok(more)
            }
        }
    }

    fn take_in_answer(&mut self, cx: &mut Context<'_>, answer: &Answer, cleaned: bool) -> Result<bool, End> {
        let state = self.state();
        let Phase::Linked(lease) = &mut self.phase else { return Ok(false) };
        let PgConnection { link, baseline, .. } = &mut **lease;
        let start = self.ticket.presence().start();
        let before = Before { state: &state, start, carried: &link.carried, user: baseline.get(USER) };
        let Concluded { state, carried } = match concluding::conclude(before, &link.dirt, answer, cleaned) {
            Ok(concluded) => concluded,
            Err(error) => {
                self.pool.record().add(PoolCounter::StateLost, 1);
                return Err(self.say_goodbye(cx, &refusal::state_too_large(error), End::Mode));
            }
        };
        link.dirt = Dirt::default();
        link.applied = None;
        link.carried = Rc::new(carried);
        for (cause, is) in &answer.pins {
            link.pins.set(*cause, *is);
        }
        link.squatted |= answer.squatted;
        let state = self.worker.postgres.states.intern(state);
        self.ticket.set_state(&state);
        self.note_if_applied(&state);
        Ok(false)
    }

    /// Where the connection is in the client's state, later comparisons are of pointers alone.
    fn note_if_applied(&mut self, state: &Rc<ParameterSet>) {
        let Phase::Linked(lease) = &mut self.phase else { return };
        let PgConnection { link, parameters, .. } = &mut **lease;
        let found = Found { reported: parameters, carried: &link.carried, doubtful: link.doubtful, superuser: false };
        if matching::plan(state, found).is_none() {
            link.applied = Some(Rc::clone(state));
            link.carried = Rc::clone(state);
        }
    }

    /// A client that keeps its connection goes on with it in its own state.
    fn carry_on(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let Phase::Linked(mut lease) = std::mem::replace(&mut self.phase, Phase::Idle) else { return Ok(()) };
        let own = self.state_query(&mut lease);
        lease.link.matching = own.is_some();
        self.ticket.running(&lease.cancel);
        self.phase = Phase::Linked(lease);
        own.map_or(Ok(()), |own| self.send_own(cx, own))
    }
}

/// What the server reports of a client's own statement says that something has changed, too.
pub(super) fn on_untracked(link: &mut Link, name: &str) {
    // These say something of the server, or follow from others.
    const OTHERS: [&str; 5] = ["is_superuser", "in_hot_standby", "server_version", "server_encoding", "integer_datetimes"];
    if link.rules.is_some() && !OTHERS.contains(&name) {
        link.dirt.add_name(name);
    }
}

/// A seed for random numbers that nobody knows.
fn seed() -> f64 {
    let mut bytes = [0; 4];
    // Without random numbers it is merely always the same.
    let _ = getrandom::fill(&mut bytes);
    f64::from(i32::from_ne_bytes(bytes)) / -f64::from(i32::MIN)
}
