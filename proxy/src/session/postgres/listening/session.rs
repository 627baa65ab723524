//! What a session does for a client that listens: it waits for the hub, tells each connection what the client listens to and asks it again when the
//! transaction has ended, and hands notifications over between transactions.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::task::{Context, Poll};

use sidepool_config::model::PoolMode;
use sidepool_protocol::postgres::encode;
use sidepool_protocol::postgres::fault::{Fault, Severity};
use sidepool_protocol::postgres::statement::put_query;
use sidepool_protocol::postgres::subscriber::put_quoted;
use sidepool_protocol::postgres::tracker::Owed;

use super::gate::Gate;
use super::listener::{Listener, Why};
use super::words;
use crate::observe::record::PoolCounter;
use crate::session::postgres::outbound::Notifications;
use crate::session::postgres::refusal;
use crate::session::postgres::run::{End, Phase, Session};
use crate::upstream::postgres::connection::PgConnection;
use crate::upstream::postgres::link::{Asking, Hold};
use crate::upstream::postgres::pins::Cause;

/// How much is handed over in one go.
const BATCH_BYTES: usize = 64 * 1024;

/// How often a connection is asked again that did not answer (a cancel that came late may have hit the question).
const MOST_FAILURES: u8 = 3;

/// What a connection is asked.
const CHANNELS: &[u8] = b"SELECT pg_catalog.pg_listening_channels()";

/// What a session has done for a client that listens.
pub(in crate::session::postgres) enum Step {
    /// Something, or nothing: the session goes on.
    GoOn,
    /// It has nothing to do before somebody wakes it.
    Rest,
}

impl Session {
    /// The client's ear, if it listens.
    fn listener(&self) -> Option<Rc<Listener>> {
        if self.ticket.listens() { self.worker.postgres.listening.ear(self.ticket.number()) } else { None }
    }

    /// Which notifications of its own connection go to the client.
    pub(in crate::session::postgres) fn notifications(&self) -> Notifications {
        match self.mode {
            PoolMode::Session => Notifications::All,
            PoolMode::Transaction | PoolMode::Statement if self.rules.shared_listening => Notifications::Others(self.listener()),
            PoolMode::Transaction | PoolMode::Statement => Notifications::Pinned,
        }
    }

    /// Idle or waiting: ends the session if its client is to be closed, hands over what there is, and waits for the hub if the client has to.
    pub(in crate::session::postgres) fn listen(&mut self, cx: &mut Context<'_>) -> Result<Step, End> {
        let Some(listener) = self.listener() else { return Ok(Step::GoOn) };
        self.meet_end(cx, &listener)?;
        if !self.hand_over(cx, &listener)? {
            return Ok(Step::Rest);
        }
        if self.hold != Hold::Channels {
            return Ok(Step::GoOn);
        }
        if self.ticket.is_cancelled() {
            self.hold = Hold::No;
            self.ticket.idle();
            self.refuse_with(&refusal::cancelled());
            return Ok(Step::GoOn);
        }
        if let Some(fault) = listener.take_refusal() {
            self.hold = Hold::No;
            self.ticket.idle();
            self.refuse_listening(&fault);
            return Ok(Step::GoOn);
        }
        if listener.is_waiting() {
            self.ticket.waiting(cx.waker());
            self.listen_while_waiting(cx)?;
            return Ok(Step::Rest);
        }
        self.hold = Hold::No;
        self.ticket.idle();
        Ok(Step::GoOn)
    }

    /// Refuses the message at the front of what is pending.
    fn refuse_listening(&mut self, fault: &Fault) {
        self.pool.record().add(PoolCounter::ErrorRefused, 1);
        self.refuse_with(fault);
        self.forget_if_idle();
    }

    fn forget_if_idle(&self) {
        if self.listener().is_some_and(|listener| listener.is_idle()) {
            self.worker.postgres.listening.forget(self.ticket.number());
            self.ticket.set_listens(false);
        }
    }

    /// With a connection: whether the client's message that waits for the hub has to wait on. A client that is refused in the middle of a
    /// transaction is closed, because nothing but the server can fail that.
    pub(in crate::session::postgres) fn still_waits_for_hub(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let Some(listener) = self.listener() else { return Ok(false) };
        let Phase::Linked(lease) = &self.phase else { return Ok(false) };
        if !listener.is_refused() {
            return Ok(listener.is_waiting());
        }
        let tracker = &lease.link.tracker;
        // Outside of a transaction the connection goes back, and the client is refused as any that has none.
        if tracker.is_owed() || tracker.is_free() {
            return Ok(true);
        }
        let refused = listener.take_refusal();
        let fault = refused.map_or_else(words::no_database, |fault| (*fault).clone());
        let fault = Fault { severity: Severity::Fatal, ..fault };
        Err(self.say_goodbye(cx, &fault, End::Mode))
    }

    /// With a connection that the client keeps, between two transactions.
    pub(in crate::session::postgres) fn listen_linked(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let Some(listener) = self.listener() else { return Ok(()) };
        let quiet = self.with_connection(|connection| connection.link.is_quiet() && !connection.link.hearing.changed);
        if quiet && !self.is_half_sent() && self.hold == Hold::No {
            self.meet_end(cx, &listener)?;
            self.hand_over(cx, &listener)?;
        }
        Ok(())
    }

    fn meet_end(&mut self, cx: &mut Context<'_>, listener: &Listener) -> Result<(), End> {
        let Some(why) = listener.end() else { return Ok(()) };
        let counter = match why {
            Why::TooSlow => PoolCounter::ListenClosedSlow,
            Why::Gap | Why::Gone => PoolCounter::ListenClosedGap,
        };
        self.pool.record().add(counter, 1);
        tracing::warn!(pool = %self.pool.name(), client = self.ticket.number(), reason = ?why, "client that listens closed");
        Err(self.say_goodbye(cx, &words::farewell(why), End::Ended))
    }

    /// Hands over what there is; false when the client does not take more for now.
    fn hand_over(&mut self, cx: &mut Context<'_>, listener: &Listener) -> Result<bool, End> {
        loop {
            if !self.to_client.is_empty() {
                match self.to_client.poll_flush(&mut self.client, cx) {
                    Poll::Pending => return Ok(false),
                    Poll::Ready(Err(_)) => return Err(End::Lost),
                    Poll::Ready(Ok(())) => {}
                }
            }
            if self.skipping || self.body.remaining > 0 {
                return Ok(true);
            }
            let worker = Rc::clone(&self.worker);
            let mut out = worker.buffers.scratch.borrow_mut();
            out.clear();
            if listener.take_missed() {
                encode::notice_response(&words::missed(), &mut out);
            }
            let count = listener.take(BATCH_BYTES, &mut out);
            if out.is_empty() {
                return Ok(true);
            }
            self.pool.record().add(PoolCounter::NotificationsDelivered, count);
            self.pool.record().add(PoolCounter::BytesToClient, out.len() as u64);
            self.to_client.send(&mut self.client, cx, &out).map_err(|_| End::Lost)?;
        }
    }

    /// The query that tells a connection what the client listens to, if it does.
    pub(in crate::session::postgres) fn channels_query(&self, connection: &mut PgConnection) -> Option<Vec<u8>> {
        let settled = self.listener()?.settled();
        if settled.is_empty() {
            return None;
        }
        let mut sql = Vec::new();
        for channel in settled {
            sql.extend_from_slice(b"LISTEN ");
            put_quoted(&channel, &mut sql);
            sql.push(b';');
        }
        connection.link.hearing.carries = true;
        let mut query = Vec::new();
        put_query(&mut query, &sql);
        Some(query)
    }

    /// The server has answered something of the client. In the middle of a transaction, with nothing under way, what has come on channels that the
    /// client may yet roll back came before it could commit.
    pub(in crate::session::postgres) fn note_time(&mut self) {
        if !self.ticket.listens() {
            return;
        }
        let inside = self.with_connection(|connection| connection.link.tracker.is_idle_in_transaction());
        if let Some(listener) = self.listener().filter(|_| inside) {
            listener.forget_early();
        }
    }

    /// A transaction has ended: asks the connection for the client's channels, where they may be others or the connection is to serve somebody
    /// else. True when it is being asked.
    pub(in crate::session::postgres) fn ask_for_channels(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let asking = self.with_connection(|connection| {
            let link = &connection.link;
            let hearing = &link.hearing;
            let kept = !link.pins.is_empty();
            match () {
                () if !hearing.carries || hearing.asking.is_some() || !link.is_quiet() => None,
                () if kept => hearing.changed.then_some(Asking::Channels),
                // One that nobody saw coming may be among them: then they are not forgotten, but stay on this connection.
                () if hearing.listened => Some(Asking::Channels),
                () => Some(Asking::ChannelsAndForget),
            }
        });
        match asking {
            Some(asking) => self.ask(cx, asking).map(|()| true),
            None => Ok(false),
        }
    }

    fn ask(&mut self, cx: &mut Context<'_>, asking: Asking) -> Result<(), End> {
        // A cancel is meant for what the client runs, and that is over.
        self.ticket.idle();
        let sql = match asking {
            Asking::Channels => CHANNELS.to_vec(),
            Asking::ChannelsAndForget => [CHANNELS, b"; UNLISTEN *"].concat(),
        };
        let mut query = Vec::new();
        put_query(&mut query, &sql);
        self.with_connection(|connection| {
            let hearing = &mut connection.link.hearing;
            (hearing.asking, hearing.failed) = (Some(asking), false);
            hearing.channels.clear();
            // A simple query destroys it.
            connection.link.statements.unnamed = None;
            connection.link.tracker.owe(Owed::OwnQuery);
            connection.link.to_server.send(&mut connection.stream, cx, &query)
        })
        .map_err(|error| self.server_lost(cx, &error.to_string()))
    }

    /// The connection has answered.
    pub(in crate::session::postgres) fn after_asking(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let Phase::Linked(lease) = &mut self.phase else { return Ok(()) };
        let hearing = &mut lease.link.hearing;
        let Some(asked) = hearing.asking.take() else { return Ok(()) };
        if hearing.failed {
            hearing.failures += 1;
            if hearing.failures < MOST_FAILURES {
                return self.ask(cx, asked);
            }
            return Err(self.server_lost(cx, "it does not say what the client listens to"));
        }
        let truth: BTreeSet<Box<[u8]>> = std::mem::take(&mut hearing.channels).into_iter().collect();
        let kept = asked == Asking::Channels;
        (hearing.failures, hearing.carries) = (0, kept);
        (hearing.changed, hearing.listened) = (false, false);
        // The client may go on, and then it is its own queries again that a cancel is meant for.
        self.ticket.running(&lease.cancel);
        let strange = self.settle(cx, &truth, kept);
        self.with_connection(|connection| connection.link.pins.set(Cause::Listening, strange));
        Ok(())
    }

    /// These are the client's channels now. Answers whether some of them are on the present connection alone, where that keeps its channels.
    fn settle(&mut self, cx: &mut Context<'_>, truth: &BTreeSet<Box<[u8]>>, kept: bool) -> bool {
        let known = self.listener();
        let strange: Vec<Cow<'_, [u8]>> = truth
            .iter()
            .filter(|channel| !known.as_ref().is_some_and(|listener| listener.has(channel)))
            .map(|channel| Cow::from(&**channel))
            .collect();
        if !kept && !strange.is_empty() {
            // From a function, on a connection that has forgotten them by now.
            let gate = Gate { worker: &self.worker, ticket: &self.ticket, pool: &self.pool, waker: cx.waker() };
            drop(gate.want(&strange));
        }
        let Some(listener) = self.listener() else { return kept && !strange.is_empty() };
        listener.settle(truth);
        self.forget_if_idle();
        kept && !strange.is_empty()
    }
}
