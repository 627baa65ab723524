//! What a session does for a client that listens: it waits for the hub, tells each connection what the client listens to and asks it again when the
//! transaction has ended, and hands notifications over between transactions.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use sidepool_config::model::PoolMode;
use sidepool_protocol::postgres::encode;
use sidepool_protocol::postgres::fault::{Fault, Severity};
use sidepool_protocol::postgres::subscriber::put_quoted;

use super::gate::Gate;
use super::listener::{Listener, Why};
use super::words;
use crate::observe::record::PoolCounter;
use crate::session::postgres::outbound::Notifications;
use crate::session::postgres::refusal;
use crate::session::postgres::run::{End, Phase, Session};
use crate::upstream::postgres::asking::Question;
use crate::upstream::postgres::connection::PgConnection;
use crate::upstream::postgres::link::{Hearing, Hold, Link};
use crate::upstream::postgres::pins::Cause;

/// How much is handed over in one go.
const BATCH_BYTES: usize = 64 * 1024;

/// How long the answer to a client waits for what it has notified itself of: the connection that listens may be slow, or about to be lost.
const OWN_PATIENCE: Duration = Duration::from_millis(500);

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
        let shared = matches!(&self.phase, Phase::Linked(lease) if lease.link.rules.is_some()) || self.ticket.listens();
        match self.mode {
            PoolMode::Session => Notifications::All,
            PoolMode::Transaction | PoolMode::Statement if shared => Notifications::Others(self.listener()),
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
        tracing::warn!(pool = %self.pool.name(), client = self.ticket.number(), reason = why.label(), "client that listens closed");
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
    pub(in crate::session::postgres) fn channels_query(&self, connection: &mut PgConnection) -> Option<String> {
        let listener = self.listener()?;
        listener.set_process(connection.cancel.key());
        let settled = listener.settled();
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
        // Only names that are UTF-8 get here.
        String::from_utf8(sql).ok()
    }

    /// The answer to the client waits for what it has notified itself of, but not for ever.
    pub(in crate::session::postgres) fn wait_for_own(&self) {
        let Some(listener) = self.listener() else { return };
        let number = listener.begin_waiting();
        let listener = Rc::downgrade(&listener);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(OWN_PATIENCE).await;
            if let Some(listener) = listener.upgrade() {
                listener.end_waiting(number);
            }
        });
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

    /// The connection has said what it listens to, which is what the client listens to now.
    pub(in crate::session::postgres) fn take_in_channels(&mut self, cx: &mut Context<'_>, channels: Vec<Box<[u8]>>) {
        let truth: BTreeSet<Box<[u8]>> = channels.into_iter().collect();
        let Phase::Linked(lease) = &mut self.phase else { return };
        let hearing = &mut lease.link.hearing;
        let kept = !hearing.forgets;
        *hearing = Hearing { carries: kept && !truth.is_empty(), ..Hearing::default() };
        let strange = self.settle(cx, &truth, kept);
        self.with_connection(|connection| connection.link.pins.set(Cause::Listening, strange));
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
        self.with_connection(|connection| listener.set_process(connection.cancel.key()));
        self.forget_if_idle();
        kept && !strange.is_empty()
    }
}

/// A transaction has ended on this connection: adds what is to be asked about channels. It is told to forget them where it is to serve others, but not
/// where one may be among them that nobody saw coming: that one stays on this connection.
pub(in crate::session::postgres) fn ask(link: &mut Link, question: &mut Question) {
    let (kept, hearing) = (!link.pins.is_empty(), &mut link.hearing);
    let strange = hearing.listened || question.cleans;
    question.channels = question.cleans || hearing.carries && (!kept || hearing.changed);
    question.forgets = question.channels && !kept && !strange;
    hearing.forgets = question.forgets;
}
