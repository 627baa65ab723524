//! The Linked phase: a client and a server connection, and bytes both ways under back-pressure.
//!
//! ```text
//!   client ──read──▶ [worker's buffer] ──▶ inbound ──▶ server        read only when the server took everything before
//!   client ◀──────── outbound ◀── [worker's buffer] ◀──read── server  read only when the client took everything before
//! ```
//! The connection is given back the moment the server is through with the transaction, before the last bytes reach a slow client: up to a bound,
//! what the server has still to say is taken from it while the client is behind.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use sidepool_config::model::PoolMode;
use sidepool_protocol::postgres::splice::Splice;
use sidepool_protocol::postgres::statement::SYNC;
use sidepool_protocol::postgres::tracker::TransactionStatus;

use super::count::error_counter;
use super::following::Own;
use super::inbound::{Inbound, Rewriting, Rules, Stop};
use super::listening::gate::Gate;
use super::outbound::{News, Notifications, Outbound};
use super::prepared::ClientStatements;
use super::presence::Fate;
use super::run::{End, Phase, Session};
use super::{alone, pinning, refusal, replay, say, slow_log};
use crate::clock;
use crate::observe::record::PoolCounter;
use crate::pool::lease::Lease;
use crate::pool::reason::Condition;
use crate::runtime::pressure::Step as Pressure;
use crate::transport::buffer::READ_BYTES;
use crate::upstream::postgres::connection::PgConnection;
use crate::upstream::postgres::connector::PgConnector;
use crate::upstream::postgres::link::{Hold, Link};
use crate::upstream::postgres::pins::{Cause, Pins};

/// How many replies may be owed before the client is not read on: the bound on the tracker's queue, but for what one read adds.
const MAX_OWED: usize = 4096;

/// How much of an answer is taken from the server before its client takes it.
const MOST_AHEAD: usize = 1 << 20;

/// How much that may be of all clients of a worker together.
pub(super) const ALL_AHEAD: usize = 32 << 20;

/// Flush.
const FLUSH: [u8; 5] = [b'H', 0, 0, 0, 4];

/// What reading one side brought.
pub(super) enum Turn {
    /// Something moved.
    Moved,
    /// Nothing to read, or no room to put it.
    Quiet,
    /// The connection was given back.
    Unlinked,
}

impl Session {
    pub(super) fn poll_linked(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        // A connection that is lost early leaves the session without one, and with something to send.
        while self.is_linked() {
            match self.flush_both(cx) {
                Ok(()) => {}
                Err(end) => return Poll::Ready(Err(end)),
            }
            let mut moved = false;
            if self.to_client.is_empty() || self.reads_ahead() {
                match self.read_server(cx) {
                    Ok(Turn::Moved) => moved = true,
                    Ok(Turn::Quiet) => {}
                    Ok(Turn::Unlinked) => return Poll::Ready(Ok(())),
                    Err(end) => return Poll::Ready(Err(end)),
                }
            }
            match self.read_client(cx) {
                Ok(Turn::Moved | Turn::Unlinked) => moved = true,
                Ok(Turn::Quiet) => {}
                Err(end) => return Poll::Ready(Err(end)),
            }
            if !moved {
                if self.ticket.listens() {
                    self.listen_linked(cx)?;
                }
                // The last of what was half-way may have gone just now. What is pending would only come back for the connection.
                if self.pending.is_empty() || self.hold == Hold::Channels {
                    match self.unlink_if_free(cx) {
                        Ok(true) => return Poll::Ready(Ok(())),
                        Ok(false) => {}
                        Err(end) => return Poll::Ready(Err(end)),
                    }
                }
                if self.is_to_be_closed() {
                    return Poll::Ready(Err(self.say_goodbye(cx, &refusal::reconfigured(), End::Reconfigured)));
                }
                let quiet = self.worker.drain.is_draining() && self.pending.is_empty() && !self.is_half_sent();
                let free = quiet && self.with_connection(|connection| connection.link.tracker.is_free());
                if free && self.client.poll_drained(cx).is_ready() {
                    return Poll::Ready(Err(self.say_goodbye(cx, &refusal::draining(), End::Drained)));
                }
                self.note_pause();
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Nothing moves: if that is because nothing is asked, queries take no time meanwhile.
    fn note_pause(&mut self) {
        let half_sent = self.is_half_sent();
        let Phase::Linked(lease) = &mut self.phase else { return };
        let (in_transaction, leased) = (lease.link.tracker.is_idle_in_transaction(), lease.since());
        let link = &mut lease.link;
        if !link.spent.is_idle() && !half_sent && (in_transaction || link.tracker.is_free()) {
            link.spent.pause(leased, clock::now(), in_transaction, self.pool.record());
            lease.entry.iter().for_each(|entry| entry.server().rests.set(in_transaction));
        }
    }

    /// Whether the server is read although the client is behind, so that the connection comes free for others.
    fn reads_ahead(&mut self) -> bool {
        self.mode != PoolMode::Session
            && self.worker.pressure.get() == Pressure::Calm
            && self.to_client.reserve(READ_BYTES, MOST_AHEAD, &self.worker.postgres.ahead)
    }

    fn is_linked(&self) -> bool {
        matches!(self.phase, Phase::Linked(_))
    }

    /// Sends what waits in either direction.
    fn flush_both(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let flushed = self.with_connection(|connection| {
            if connection.link.to_server.is_empty() {
                Poll::Pending
            } else {
                connection.link.to_server.poll_flush(&mut connection.stream, cx)
            }
        });
        if let Poll::Ready(Err(error)) = flushed {
            return self.on_lost(cx, &error.to_string());
        }
        if !self.to_client.is_empty()
            && let Poll::Ready(Err(_)) = self.to_client.poll_flush(&mut self.client, cx)
        {
            return Err(End::Lost);
        }
        Ok(())
    }

    /// Reads the client, if the server can take more.
    fn read_client(&mut self, cx: &mut Context<'_>) -> Result<Turn, End> {
        if !self.is_linked() {
            return Ok(Turn::Unlinked);
        }
        let busy = self.with_connection(|connection| connection.link.is_occupied() || !connection.link.to_server.is_empty());
        if self.hold == Hold::Channels && self.still_waits_for_hub(cx)? {
            return Ok(Turn::Quiet);
        }
        if self.hold != Hold::No {
            let hold = self.hold;
            if busy || self.with_connection(|connection| connection.link.holds(hold)) {
                return Ok(Turn::Quiet);
            }
            let pending = std::mem::take(&mut self.pending);
            self.send_on(cx, &pending)?;
            return Ok(Turn::Moved);
        }
        if busy || self.is_client_silent() {
            return Ok(Turn::Quiet);
        }
        let full = self.with_connection(|connection| connection.link.tracker.len() >= MAX_OWED);
        if full && !self.is_half_sent() {
            return self.ask_to_flush(cx);
        }
        self.with_connection(|connection| connection.link.flush_asked = false);
        let worker = Rc::clone(&self.worker);
        let mut buffer = worker.buffers.read.borrow_mut();
        if self.pending.len() * 2 > buffer.len() {
            return self.read_client_long(cx, &mut buffer);
        }
        let kept = self.take_pending_into(&mut buffer);
        // Where no more may be asked for, the message under way is still brought to its end: nothing can be put into the middle of it.
        let limit = if full { self.body.remaining.min(buffer.len()) } else { buffer.len() };
        let read = match self.poll_client(cx, &mut buffer[kept..limit]) {
            Poll::Ready(Ok(read)) if read > 0 => read,
            Poll::Ready(_) => return Err(self.client_left(kept)),
            Poll::Pending => {
                self.pending = buffer[..kept].to_vec();
                return Ok(Turn::Quiet);
            }
        };
        self.pool.record().add(PoolCounter::BytesFromClient, read as u64);
        self.send_on(cx, &buffer[..kept + read])?;
        Ok(Turn::Moved)
    }

    /// The same while a long message (a Parse of many kilobytes) is gathered: it grows where it is, and is looked at again when more is there.
    fn read_client_long(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Result<Turn, End> {
        let read = match self.poll_client(cx, buffer) {
            Poll::Ready(Ok(read)) if read > 0 => read,
            Poll::Ready(_) => return Err(End::Lost),
            Poll::Pending => return Ok(Turn::Quiet),
        };
        self.pool.record().add(PoolCounter::BytesFromClient, read as u64);
        let mut long = std::mem::take(&mut self.pending);
        long.extend_from_slice(&buffer[..read]);
        self.send_on(cx, &long)?;
        Ok(Turn::Moved)
    }

    /// So much is owed that the client is not read on before some of it is answered; a batch without its Sync may be answered only when asked.
    fn ask_to_flush(&mut self, cx: &mut Context<'_>) -> Result<Turn, End> {
        self.with_connection(|connection| {
            if std::mem::replace(&mut connection.link.flush_asked, true) {
                return Ok(());
            }
            connection.link.to_server.send(&mut connection.stream, cx, &FLUSH)
        })
        .map_err(|error| self.server_lost(cx, &error.to_string()))?;
        Ok(Turn::Quiet)
    }

    /// Whether a client in session mode has a connection that is to be closed, and shall not keep it for longer than a transaction.
    fn is_to_be_closed(&mut self) -> bool {
        if self.mode != PoolMode::Session || !self.member.account().fast_close() || !self.pending.is_empty() || self.is_half_sent() {
            return false;
        }
        let Phase::Linked(lease) = &self.phase else { return false };
        lease.link.tracker.is_free() && lease.is_stale()
    }

    fn client_left(&mut self, unsent: usize) -> End {
        let quiet = self.with_connection(|connection| connection.link.tracker.is_free());
        if quiet && unsent == 0 { End::Gone } else { End::Lost }
    }

    /// Sends the client's bytes on; what cannot be decided yet stays pending.
    pub(super) fn send_on(&mut self, cx: &mut Context<'_>, input: &[u8]) -> Result<(), End> {
        self.send_behind(cx, None, input)
    }

    /// The same behind a query of the proxy itself.
    pub(super) fn send_behind(&mut self, cx: &mut Context<'_>, own: Option<Own>, input: &[u8]) -> Result<(), End> {
        let (worker, state) = (Rc::clone(&self.worker), self.state());
        let Phase::Linked(lease) = &mut self.phase else { return Ok(()) };
        let id = lease.id();
        let PgConnection { link, stream, entry, .. } = &mut **lease;
        if link.spent.is_idle() {
            link.spent.resume(clock::now());
            entry.iter().for_each(|entry| entry.server().rests.set(false));
        }
        slow_log::at_send(link, self.member.account());
        // All that was held back is looked at again.
        self.hold = Hold::No;
        let mut scratch = worker.buffers.scratch.borrow_mut();
        let mut out = Splice::new(input, &mut scratch);
        if let Some(own) = own {
            own.announce(link, out.put());
        }
        let rewriting = Rewriting {
            client: &mut self.statements,
            client_id: self.ticket.number(),
            table: &worker.postgres.statements,
            capacity: if self.rewrites { worker.postgres.statement_capacity.get() } else { 0 },
            state: &state,
        };
        let first = self.mode != PoolMode::Session && replay::prepare(link, self.body, input);
        let gate = link.rules.is_some().then(|| Gate { worker: &worker, ticket: &self.ticket, pool: &self.pool, waker: cx.waker() });
        let admit = |pins: Pins| pinning::admit(&self.pool, id, pins);
        let (link, body, rules) = (&mut *link, &mut self.body, self.rules);
        let scanned = Inbound { link, body, rewriting, rules, gate, admit: &admit, out: &mut out }.scan(input);
        if first && matches!(scanned, Ok((consumed, Stop::NeedMore)) if consumed == input.len()) {
            replay::keep(link, input);
        }
        let bytes = out.finish();
        link.half_sent = body.remaining > 0 && body.forward;
        if self.mode == PoolMode::Statement && link.tracker.status() != TransactionStatus::Idle {
            // Not even the ReadyForQuery is passed: the block has not begun as far as the client can tell.
            return Err(self.say_goodbye(cx, &refusal::no_transactions(), End::Mode));
        }
        if !link.wanted_alone.is_empty() {
            let wanted = std::mem::take(&mut link.wanted_alone);
            alone::make_room(&worker, &self.pool, &wanted);
        }
        let sent = if bytes.is_empty() { Ok(()) } else { link.to_server.send(stream, cx, bytes) };
        let record = self.pool.record();
        record.add(PoolCounter::BytesToServer, bytes.len() as u64);
        let counts = std::mem::take(&mut link.counts);
        if counts.client_parses + counts.server_parses + counts.binds > 0 {
            record.add(PoolCounter::ClientParses, counts.client_parses.into());
            record.add(PoolCounter::ServerParses, counts.server_parses.into());
            record.add(PoolCounter::Binds, counts.binds.into());
        }
        drop(scratch);
        match scanned {
            Err(violation) => return Err(self.on_violation(cx, violation)),
            Ok((_, Stop::Terminate)) => return Err(End::Left),
            Ok((consumed, Stop::NeedMore)) => self.pending = input[consumed..].to_vec(),
            Ok((consumed, Stop::Held(hold))) => {
                self.pending = input[consumed..].to_vec();
                self.hold = hold;
            }
        }
        if let Err(error) = sent {
            return self.on_lost(cx, &error.to_string());
        }
        self.answer_locals(cx)
    }

    /// Gives the proxy's own replies that wait for nothing.
    fn answer_locals(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let Phase::Linked(lease) = &mut self.phase else { return Ok(()) };
        if !lease.link.tracker.has_local() {
            return Ok(());
        }
        let worker = Rc::clone(&self.worker);
        let mut scratch = worker.buffers.scratch.borrow_mut();
        let mut out = Splice::new(&[], &mut scratch);
        outbound(&mut lease.link, &mut self.statements, self.rules, &mut out).answer_locals();
        let bytes = out.finish();
        if bytes.is_empty() {
            return Ok(());
        }
        self.to_client.send(&mut self.client, cx, bytes).map_err(|_| End::Lost)
    }

    /// Reads the server, and gives the connection back when it is through.
    fn read_server(&mut self, cx: &mut Context<'_>) -> Result<Turn, End> {
        if self.quiet.server {
            return Ok(Turn::Quiet);
        }
        let worker = Rc::clone(&self.worker);
        let mut buffer = worker.buffers.read.borrow_mut();
        let notifications = self.notifications();
        let Phase::Linked(lease) = &mut self.phase else { return Ok(Turn::Unlinked) };
        let kept = lease.link.carry.len();
        let read = match poll_server(lease, cx, &notifications, &mut buffer[kept..]) {
            Poll::Pending => {
                self.quiet.server = true;
                return Ok(Turn::Quiet);
            }
            Poll::Ready(Ok(read)) => read,
            Poll::Ready(Err(error)) => {
                drop(buffer);
                return self.on_lost(cx, &error.to_string()).map(|()| Turn::Unlinked);
            }
        };
        let link = &mut lease.link;
        slow_log::at_answer(link, self.member.account());
        buffer[..kept].copy_from_slice(&link.carry);
        link.carry.clear();
        let input = &buffer[..kept + read];
        let mut scratch = worker.buffers.scratch.borrow_mut();
        let mut out = Splice::new(input, &mut scratch);
        let mut outbound = outbound(link, &mut self.statements, self.rules, &mut out);
        outbound.notifications = notifications;
        outbound.rewriting = self.rewrites;
        let scanned = outbound.scan(input);
        let news = outbound.news;
        if news.schema {
            // Before the client hears of it.
            worker.postgres.schema.tick();
        }
        let bytes = out.finish();
        let record = self.pool.record();
        record.add(PoolCounter::BytesFromServer, read as u64);
        record.add(PoolCounter::BytesToClient, bytes.len() as u64);
        match scanned {
            Ok(consumed) => link.carry.extend_from_slice(&input[consumed..]),
            Err(fault) => {
                let cause = refusal::server_fault(fault);
                // What came before the fault is right, and the client's.
                let _ = self.to_client.send(&mut self.client, cx, bytes);
                return Err(self.server_lost(cx, &cause));
            }
        }
        if self.mode == PoolMode::Statement && link.tracker.status() != TransactionStatus::Idle {
            // Not even the ReadyForQuery is passed: the block has not begun as far as the client can tell.
            return Err(self.say_goodbye(cx, &refusal::no_transactions(), End::Mode));
        }
        let sent = if bytes.is_empty() { Ok(()) } else { self.to_client.send(&mut self.client, cx, bytes) };
        // What follows may send on what waits, and needs both for it.
        drop(scratch);
        drop(buffer);
        let turn = self.take_in(cx, news)?;
        sent.map_err(|_| End::Lost)?;
        Ok(turn)
    }

    /// Acts on what the server said.
    fn take_in(&mut self, cx: &mut Context<'_>, news: News) -> Result<Turn, End> {
        let record = self.pool.record();
        record.add(PoolCounter::Queries, news.ready);
        record.add(PoolCounter::Transactions, news.transactions);
        if news.notified > 0 {
            record.add(PoolCounter::NotificationsDelivered, news.notified);
        }
        if let Some(watched) = &self.watched {
            watched.on_ready(news.ready, news.transactions);
        }
        self.tell_slow();
        if news.ready > 0 {
            self.begun_again = 0;
        }
        if let Some(farewell) = news.rare.as_ref().and_then(|rare| rare.unheard.as_ref())
            && self.lost_early(cx, farewell)?
        {
            return Ok(Turn::Unlinked);
        }
        if news.fatal {
            self.with_connection(|connection| connection.link.farewell = true);
        }
        if news.waits {
            self.wait_for_own();
        }
        if news.resumes {
            self.with_connection(|connection| connection.link.to_server.send(&mut connection.stream, cx, &SYNC))
                .map_err(|error| self.server_lost(cx, &error.to_string()))?;
        }
        if let Some(rare) = &news.rare {
            let record = self.pool.record();
            rare.errors.iter().for_each(|class| record.add(error_counter(*class), 1));
            if !rare.parameters.is_empty() {
                self.take_in_parameters(&rare.parameters);
            }
        }
        if news.discarded {
            self.on_discard();
        }
        if news.transactions > 0 {
            self.on_transaction();
        }
        if let Some(rare) = news.rare {
            self.take_in_rare(cx, &rare)?;
        }
        if news.replay && self.send_again(cx)? {
            return Ok(Turn::Moved);
        }
        if news.own_ready {
            if self.with_connection(|connection| connection.link.asking.is_some()) {
                return self.after_answer(cx);
            }
            let turn = self.after_matching(cx)?;
            // Behind it there may be an answer to the client.
            if news.ready == 0 || !self.is_linked() {
                return Ok(turn);
            }
        }
        if news.ready > 0 {
            self.note_time();
        }
        if news.made_way && self.hold == Hold::All && self.with_connection(|connection| !connection.link.holds(Hold::All)) {
            // On this connection: whoever got it in between would have to be made way for again.
            let pending = std::mem::take(&mut self.pending);
            self.send_on(cx, &pending)?;
            return Ok(Turn::Moved);
        }
        Ok(if self.unlink_if_free(cx)? { Turn::Unlinked } else { Turn::Moved })
    }

    /// Leaves behind how many statements there are, for whoever looks.
    pub(super) fn note_statements(&self, lease: &Lease<PgConnector>) {
        let client = self.statements.as_ref().map_or(0, |statements| statements.named.len());
        self.ticket.presence().statements.set(u32::try_from(client).unwrap_or(u32::MAX));
        if let Some(entry) = &lease.entry {
            entry.server().statements.set(u32::try_from(lease.link.statements.len()).unwrap_or(u32::MAX));
        }
    }

    /// Somebody else ends the session, for which the client is told the reason, unless it is in the middle of a message.
    pub(super) fn meet(&mut self, cx: &mut Context<'_>, fate: Fate) -> End {
        let in_message = match &self.phase {
            Phase::Linked(lease) => lease.link.remaining > 0 && lease.link.forward,
            Phase::Idle | Phase::Waiting(_) => false,
        };
        if in_message {
            return End::Ended;
        }
        self.say_goodbye(cx, &refusal::ended(fate), End::Ended)
    }

    /// Whether the server waits for the rest of a message of the client.
    pub(super) fn is_half_sent(&self) -> bool {
        self.body.remaining > 0 && self.body.forward
    }

    /// The connection of the Linked phase, for a short use.
    pub(super) fn with_connection<T>(&mut self, use_it: impl FnOnce(&mut PgConnection) -> T) -> T {
        match &mut self.phase {
            Phase::Linked(lease) => use_it(lease),
            Phase::Idle | Phase::Waiting(_) => unreachable!("only called while linked"),
        }
    }

    /// The server's connection has ended: the session ends, or goes on without it.
    pub(super) fn on_lost(&mut self, cx: &mut Context<'_>, cause: &str) -> Result<(), End> {
        if let Phase::Linked(lease) = &self.phase
            && !lease.link.farewell
        {
            lease.server().lost(clock::now());
            lease.note_lost();
        }
        if self.begin_again(cause) { Ok(()) } else { Err(self.server_lost(cx, cause)) }
    }

    pub(super) fn server_lost(&mut self, cx: &mut Context<'_>, cause: &str) -> End {
        tracing::warn!(pool = %self.pool.name(), reason = "server_lost", cause, "client closed");
        // Nothing may be put into the middle of a message, and who has read the server's own farewell needs none of ours.
        let told =
            self.with_connection(|connection| connection.link.farewell || (connection.link.remaining > 0 && connection.link.forward));
        if told {
            return End::ServerLost;
        }
        let fault = refusal::server_lost(self.pool.name(), cause);
        self.say_goodbye(cx, &fault, End::ServerLost)
    }

    /// The end of a session that still has its connection: in session mode it is reset and kept if it is quiet, else it closes.
    pub(super) fn leave(&mut self, end: End) {
        self.abandon_journal();
        if let Phase::Linked(mut lease) = std::mem::replace(&mut self.phase, Phase::Idle) {
            let listens = lease.link.hearing.carries || lease.link.pins.has(Cause::Listening);
            lease.link.pins.set(Cause::Listening, listens);
            let reusable = lease.link.is_quiet() && !self.is_half_sent() && !lease.link.pins.has(Cause::Library);
            self.forget_pins(&lease);
            self.ticket.idle();
            if reusable {
                lease.release(Condition::Dirty);
            } else if let Some(entry) = &lease.entry {
                entry.ends_because(&say::end_of_server(&self.worker, end));
            }
        }
    }
}

/// One look at the server's bytes, by default for a client that wants nothing special.
fn outbound<'a, 's>(
    link: &'a mut Link,
    client: &'a mut Option<Box<ClientStatements>>,
    rules: Rules,
    out: &'a mut Splice<'s>,
) -> Outbound<'a, 's> {
    let notifications = Notifications::Pinned;
    Outbound { link, client, notifications, rewriting: false, max_packet: rules.max_packet as usize, out, news: News::default() }
}

/// Reads the server. What was held back is looked at again when it has nothing to wait for any more: nothing is read then.
fn poll_server(
    connection: &mut PgConnection,
    cx: &mut Context<'_>,
    notifications: &Notifications,
    buffer: &mut [u8],
) -> Poll<io::Result<usize>> {
    if std::mem::take(&mut connection.link.held) {
        connection.link.held = notifications.awaits_own();
        return if connection.link.held { Poll::Pending } else { Poll::Ready(Ok(0)) };
    }
    match connection.stream.poll_read(cx, buffer) {
        Poll::Ready(Ok(0)) => Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed it"))),
        read => read,
    }
}

/// Releases a connection, after any cancel on its way to it has arrived.
pub(super) fn give_back(lease: Lease<PgConnector>) {
    let dirty = lease.link.squatted || lease.pool().with_connector(PgConnector::resets_always);
    let condition = if dirty { Condition::Dirty } else { Condition::Clean };
    if lease.cancel.is_harmless() {
        lease.release(condition);
        return;
    }
    tokio::task::spawn_local(async move {
        let certain = std::future::poll_fn(|cx| lease.cancel.poll_quiet(cx)).await;
        lease.release(if certain { condition } else { Condition::Broken });
    });
}

/// A simple query of the proxy itself.
pub(super) fn query(sql: &str) -> Vec<u8> {
    let mut message = BytesMut::with_capacity(sql.len() + 6);
    // Fails only on a zero byte, and the plan is made of printable ASCII.
    let _ = frontend::query(sql, &mut message);
    message.to_vec()
}
