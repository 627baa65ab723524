//! What becomes of a session of which something takes too long, and of one that has to wait.

use std::rc::Rc;
use std::task::Context;

use sidepool_protocol::postgres::encode;
use sidepool_protocol::postgres::fault::{Fault, Severity};

use super::deadlines::{Overdue, Stage};
use super::refusal;
use super::run::{End, Phase, Session};
use crate::observe::record::PoolCounter;
use crate::pool::handle::Pool;
use crate::upstream::postgres::cancellable::Cancellable;
use crate::upstream::postgres::connector::PgConnector;
use crate::upstream::postgres::link::Hold;

impl Session {
    /// At the end of a turn of a session that is bounded in time: says what it is doing, and acts when something took too long. `None`: the
    /// turn stays over; otherwise the session goes on, or ends.
    pub(super) fn keep_time(&mut self, cx: &mut Context<'_>) -> Option<Result<(), End>> {
        let account = self.member.account();
        let untaken = self.untaken();
        // What it takes to see that a transaction is long is kept for the next one.
        if !account.is_bounded() && !account.tells_open() && self.pins().is_empty() && untaken.is_none() {
            self.watched = None;
            return None;
        }
        let stage = self.stage();
        let watched = Rc::clone(self.watched.get_or_insert_with(|| self.worker.postgres.deadlines.watch(account, cx.waker())));
        self.worker.postgres.deadlines.list(&watched, stage);
        watched.is_doing(stage);
        watched.waits_for_client(untaken);
        if watched.take_long() {
            self.tell_open();
        }
        let overdue = watched.take_overdue()?;
        let cancels = account.bounds().cancelled.is_some();
        match overdue {
            Overdue::Query if cancels => {
                watched.cancel();
                self.cancel_query();
                None
            }
            Overdue::QueuedQuery if cancels => {
                let fault = Fault { severity: Severity::Error, ..refusal::overdue(overdue, &account.bounds()) };
                (self.phase, self.hold) = (Phase::Idle, Hold::No);
                self.ticket.idle();
                self.refuse_with(&fault);
                Some(Ok(()))
            }
            Overdue::Pin => Some(Err(self.pin_timed_out(cx))),
            Overdue::Query
            | Overdue::CancelledQuery
            | Overdue::QueuedQuery
            | Overdue::IdleTransaction
            | Overdue::Transaction
            | Overdue::Stall
            | Overdue::Client => Some(Err(self.time_out(cx, overdue, stage))),
        }
    }

    /// Tells a client that it waits.
    pub(super) fn notify(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let mut notice = Vec::new();
        encode::notice_response(&refusal::queued(), &mut notice);
        self.to_client.send(&mut self.client, cx, &notice).map_err(|_| End::Lost)
    }

    /// How many bytes the client has not taken, where its connection waits for that and not the other way round.
    pub(super) fn untaken(&self) -> Option<usize> {
        let waits = matches!(self.phase, Phase::Linked(_)) && !self.to_client.is_empty() && !self.quiet.server;
        (waits && self.member.account().bounds().stall.is_some()).then(|| self.to_client.len())
    }

    fn stage(&self) -> Stage {
        match &self.phase {
            Phase::Idle if self.hold == Hold::Channels => Stage::Waiting,
            Phase::Idle => Stage::Idle,
            Phase::Waiting(_) => Stage::Waiting,
            Phase::Linked(lease) if lease.link.tracker.is_idle_in_transaction() => Stage::Paused,
            Phase::Linked(lease) if lease.link.tracker.is_free() && lease.link.counted.is_waited_for() => Stage::Pinned,
            Phase::Linked(lease) if lease.link.tracker.is_free() => Stage::Idle,
            Phase::Linked(_) => Stage::Running,
        }
    }

    /// Has the server cancel what runs; the session goes on.
    #[cold]
    fn cancel_query(&self) {
        let Phase::Linked(lease) = &self.phase else { return };
        let (pool, flight) = (Rc::clone(&self.pool), Rc::clone(&lease.cancel).begin());
        tokio::task::spawn_local(async move {
            if cancel(&pool, flight.target()).await {
                flight.delivered();
            }
        });
    }

    /// Ends the session, and what it runs.
    #[cold]
    fn time_out(&mut self, cx: &mut Context<'_>, overdue: Overdue, stage: Stage) -> End {
        tracing::warn!(pool = %self.pool.name(), client = self.presence().id, reason = overdue.label(), "client closed: something took longer than it may");
        let fault = refusal::overdue(overdue, &self.member.account().bounds());
        if overdue == Overdue::Stall {
            self.pool.record().add(PoolCounter::ClientStalls, 1);
        }
        self.abandon_journal();
        if let Phase::Linked(lease) = std::mem::replace(&mut self.phase, Phase::Idle) {
            self.ticket.idle();
            let half_told = lease.link.remaining > 0 && lease.link.forward;
            if stage == Stage::Running {
                // A server notices only at its next word that nobody listens any more: until then it would work for nothing.
                let (pool, connection) = (Rc::clone(&self.pool), Rc::clone(&lease.cancel));
                tokio::task::spawn_local(async move { cancel(&pool, &connection).await });
            }
            if let Some(entry) = &lease.entry {
                entry.ends_because(&fault.message);
            }
            drop(lease);
            if half_told {
                // Nothing may be put into the middle of a message.
                return End::TimedOut(overdue);
            }
        }
        self.say_goodbye(cx, &fault, End::TimedOut(overdue))
    }
}

/// Asks the server to cancel what this connection runs; says whether it has taken that.
async fn cancel(pool: &Pool<PgConnector>, connection: &Cancellable) -> bool {
    match pool.connector().cancel(connection).await {
        Ok(()) => {
            pool.record().add(PoolCounter::CancelSent, 1);
            true
        }
        Err(fault) => {
            pool.record().add(PoolCounter::CancelFailed, 1);
            tracing::warn!(pool = %pool.name(), fault = %fault.message, "the cancel of a query that took too long was not delivered");
            false
        }
    }
}
