//! One client's life after login, as a machine with three phases:
//!
//! ```text
//!            a message that needs a server            a connection is granted
//!   Idle ─────────────────────────────────▶ Waiting ─────────────────────────▶ Linked
//!    ▲  ▲                                      │ refused, cancelled               │
//!    │  └──────────────────────────────────────┘ error, skip to the end of batch  │
//!    └────────────────────────────────────────────────────────────────────────────┘
//!                    nothing is owed, outside of a transaction, not pinned
//! ```
//! Idle holds no server connection and no buffer. When a connection is free at once, the client's bytes go from the worker's read buffer straight
//! to the server; only who waits keeps a copy. This file: Idle and Waiting. The Linked phase is `relay`.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use sidepool_config::model::PoolMode;
use sidepool_protocol::postgres::encode;
use sidepool_protocol::postgres::fault::Fault;
use sidepool_protocol::postgres::frame::{self, HEAD_BYTES};
use sidepool_protocol::postgres::parameters::ParameterSet;
use sidepool_protocol::postgres::tag::FrontendTag;
use sidepool_protocol::postgres::tracker::TransactionStatus;

use super::account::Member;
use super::cancel::CancelTicket;
use super::deadlines::Overdue;
use super::deadlines::Watched;
use super::inbound::{Body, Rules, Violation};
use super::listening::session::Step;
use super::prepared::ClientStatements;
use super::presence::Presence;
use super::refusal;
use super::say;
use crate::drain::Stage;
use crate::observe::record::PoolCounter;
use crate::pool::acquire::{Acquire, AcquireError};
use crate::pool::handle::Pool;
use crate::pool::lease::Lease;
use crate::pool::reason::Condition;
use crate::suspension;
use crate::transport::backlog::Backlog;
use crate::transport::stream::Stream;
use crate::upstream::postgres::connector::PgConnector;
use crate::upstream::postgres::link::Hold;
use crate::worker::Worker;

/// How much is read from a client that has no server yet: the bound on what a waiting client keeps.
const IDLE_READ_BYTES: usize = 8 * 1024;

/// Why a session ended: a log field and a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The client said goodbye.
    Left,
    /// The client closed its connection between transactions without a word.
    Gone,
    /// The client's connection broke, or closed in the middle of something.
    Lost,
    /// The client broke the protocol.
    Violation,
    /// The server connection was lost while the client used it.
    ServerLost,
    /// The mode of the pool does not allow what the client did.
    Mode,
    /// It left something on its connection that would keep that from others, and no more may be kept.
    Pinned,
    /// Something took longer than it may.
    TimedOut(Overdue),
    /// The database's address or credentials changed, and the client's connection was closed for it.
    Reconfigured,
    /// The proxy shuts down.
    Drained,
    /// Somebody else ended the session.
    Ended,
    /// The client has moved to a new process.
    Moved,
}

impl End {
    /// Its name in the log.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Left => "client_close",
            Self::Gone => "client_eof",
            Self::Lost => "client_lost",
            Self::Violation => "protocol_violation",
            Self::ServerLost => "server_lost",
            Self::Mode => "pool_mode",
            Self::Pinned => "pinned",
            Self::TimedOut(overdue) => overdue.label(),
            Self::Reconfigured => "reconfigured",
            Self::Drained => "draining",
            Self::Ended => "admin",
            Self::Moved => "moved",
        }
    }
}

/// What the client is doing.
pub(super) enum Phase {
    Idle,
    Waiting(Acquire<PgConnector>),
    Linked(Lease<PgConnector>),
}

/// One client after login.
pub struct Session {
    pub(super) client: Stream,
    pub(super) worker: Rc<Worker>,
    pub(super) pool: Rc<Pool<PgConnector>>,
    pub(super) ticket: CancelTicket,
    pub(super) member: Member,
    /// Where the session is bounded in time.
    pub(super) watched: Option<Rc<Watched>>,
    pub(super) phase: Phase,
    pub(super) mode: PoolMode,
    /// Whether names of prepared statements are the proxy's own on server connections; else they are passed as they are.
    pub(super) rewrites: bool,
    pub(super) statements: Option<Box<ClientStatements>>,
    /// What the client sent and could not be sent on yet.
    pub(super) pending: Vec<u8>,
    /// What the client has not taken yet.
    pub(super) to_client: Backlog,
    /// The client's message that is under way.
    pub(super) body: Body,
    /// A batch was refused: everything up to its Sync is dropped.
    pub(super) skipping: bool,
    /// Whoever reads the client has been told to wait, and will be woken.
    pub(super) awaits_client: bool,
    /// How often in a row a message went to another connection because its own was lost.
    pub(super) begun_again: u8,
    /// What is pending waits for this.
    pub(super) hold: Hold,
    /// What the configuration allows.
    pub(super) rules: Rules,
    pub(super) quiet: Quiet,
}

/// Who has said in this turn of the session's task that there is nothing yet, and will wake it. Nothing changes before the turn is over, so
/// none of them is asked twice.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Quiet {
    pub(super) client: bool,
    pub(super) server: bool,
    pub(super) queue: bool,
}

/// What a session starts with.
pub struct Start {
    /// The client's socket.
    pub client: Stream,
    /// What the client has said already.
    pub said: Vec<u8>,
    /// The pool it belongs to.
    pub pool: Rc<Pool<PgConnector>>,
    /// When connections go back.
    pub mode: PoolMode,
    /// Whether server connections keep prepared statements for all clients.
    pub keeps_statements: bool,
    /// What the configuration allows.
    pub rules: Rules,
    /// Its cancel key, and the parameters that follow it.
    pub ticket: CancelTicket,
    /// The right to be a client of its user and database.
    pub member: Member,
}

/// What the first message of an idle client calls for.
enum First {
    NeedMore,
    NeedsServer,
    Terminate,
}

impl Session {
    /// A session of a client that has just logged in.
    #[must_use]
    pub fn new(worker: &Rc<Worker>, start: Start) -> Self {
        let Start { client, said, pool, mode, keeps_statements, rules, ticket, member } = start;
        Self {
            client,
            worker: Rc::clone(worker),
            pool,
            ticket,
            member,
            watched: None,
            phase: Phase::Idle,
            mode,
            // In session mode the connection is the client's own, and so are the names on it.
            rewrites: mode != PoolMode::Session && keeps_statements,
            statements: None,
            pending: said,
            to_client: Backlog::default(),
            body: Body::default(),
            skipping: false,
            awaits_client: false,
            begun_again: 0,
            hold: Hold::No,
            rules,
            quiet: Quiet::default(),
        }
    }

    /// The worker that it lives on.
    #[must_use]
    pub fn worker(&self) -> Rc<Worker> {
        Rc::clone(&self.worker)
    }

    /// The parameters that follow this client.
    pub(super) fn state(&self) -> Rc<ParameterSet> {
        self.presence().state()
    }

    /// What the worker knows of the client.
    #[must_use]
    pub fn presence(&self) -> &Presence {
        self.ticket.presence()
    }

    /// Its task is this one.
    pub(super) fn begin(&self, cx: &Context<'_>) {
        self.ticket.begin(cx.waker());
    }

    /// Goes on until the client is gone, and says why it is. It has to [`leave`](Self::leave) then.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.quiet = Quiet::default();
        let suspension = self.worker.suspension.state();
        if suspension != suspension::State::Off {
            return self.poll_suspended(cx, suspension);
        }
        if let Some(fate) = self.ticket.presence().fate() {
            return Poll::Ready(self.meet(cx, fate));
        }
        loop {
            match self.turn(cx) {
                Poll::Pending if self.is_watched() => match self.keep_time(cx) {
                    Some(Ok(())) => {}
                    Some(Err(end)) => return Poll::Ready(end),
                    None => return Poll::Pending,
                },
                turn => return turn,
            }
        }
    }

    /// Whether something that the session does now has a bound in time.
    fn is_watched(&self) -> bool {
        self.watched.is_some()
            || self.member.account().is_bounded()
            || !self.pins().is_empty()
            || self.untaken().is_some()
            || matches!(self.phase, Phase::Linked(_)) && self.member.account().tells_open()
    }

    /// Goes on until everybody is quiet.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let step = match self.phase {
                Phase::Idle => ready!(self.poll_idle(cx)),
                Phase::Waiting(_) => ready!(self.poll_waiting(cx)),
                Phase::Linked(_) => ready!(self.poll_linked(cx)),
            };
            if let Err(end) = step {
                return Poll::Ready(end);
            }
        }
    }

    /// SUSPEND: sends what is held, and reads nothing.
    #[cold]
    fn poll_suspended(&mut self, cx: &mut Context<'_>, state: suspension::State) -> Poll<End> {
        let (mut sent, mut lost) = (true, None);
        match self.to_client.poll_drain(&mut self.client, cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => lost = Some(End::Lost),
            Poll::Pending => sent = false,
        }
        if let Phase::Linked(lease) = &mut self.phase {
            let connection = &mut **lease;
            match connection.link.to_server.poll_drain(&mut connection.stream, cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => lost = Some(End::ServerLost),
                Poll::Pending => sent = false,
            }
        }
        if let Some(lost) = lost {
            return Poll::Ready(lost);
        }
        if !sent {
            self.worker.suspension.note_unsent();
            if state == suspension::State::Closing {
                return Poll::Ready(End::Lost);
            }
        }
        Poll::Pending
    }

    /// Idle: flushes, then reads one message's worth and decides.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        if self.ticket.listens() {
            match self.listen(cx) {
                Ok(Step::GoOn) => {}
                Ok(Step::Rest) => return Poll::Pending,
                Err(end) => return Poll::Ready(Err(end)),
            }
        }
        if !self.to_client.is_empty() && ready!(self.to_client.poll_flush(&mut self.client, cx)).is_err() {
            return Poll::Ready(Err(End::Lost));
        }
        if !self.pending.is_empty() {
            let pending = std::mem::take(&mut self.pending);
            if let Some(step) = self.on_idle_input(cx, &pending) {
                return Poll::Ready(step);
            }
        }
        if self.worker.drain.stage() > Stage::Serving
            && self.pending.is_empty()
            && let Some(end) = self.on_the_way_out(cx)
        {
            return Poll::Ready(Err(end));
        }
        if self.is_client_silent() {
            return Poll::Pending;
        }
        let worker = Rc::clone(&self.worker);
        let mut buffer = worker.buffers.read.borrow_mut();
        let kept = self.take_pending_into(&mut buffer);
        let limit = (kept + IDLE_READ_BYTES).min(buffer.len());
        let read = match self.poll_client(cx, &mut buffer[kept..limit]) {
            Poll::Ready(Ok(0)) => return Poll::Ready(Err(if kept == 0 { End::Gone } else { End::Lost })),
            Poll::Ready(Ok(read)) => read,
            Poll::Ready(Err(_)) => return Poll::Ready(Err(End::Lost)),
            Poll::Pending => {
                self.pending = buffer[..kept].to_vec();
                return Poll::Pending;
            }
        };
        self.pool.record().add(PoolCounter::BytesFromClient, read as u64);
        if let Some(watched) = &self.watched {
            watched.begin();
        }
        let step = self.on_idle_input(cx, &buffer[..kept + read]);
        Poll::Ready(step.unwrap_or(Ok(())))
    }

    /// The process is on its way out, and this client has nothing under way.
    #[cold]
    fn on_the_way_out(&mut self, cx: &mut Context<'_>) -> Option<End> {
        match self.worker.drain.stage() {
            Stage::Moving => self.is_movable(cx.waker()).then_some(End::Moved),
            Stage::Leaving => self.client.poll_drained(cx).is_ready().then(|| self.say_goodbye(cx, &refusal::draining(), End::Drained)),
            Stage::Serving | Stage::NobodyNew | Stage::NoServers => None,
        }
    }

    /// Moves what is pending to the front of the read buffer and answers how much that is.
    pub(super) fn take_pending_into(&mut self, buffer: &mut [u8]) -> usize {
        let kept = self.pending.len();
        buffer[..kept].copy_from_slice(&self.pending);
        self.pending = Vec::new();
        kept
    }

    /// Looks at what an idle client sent. `None`: more is needed, and what is there is pending.
    fn on_idle_input(&mut self, cx: &mut Context<'_>, input: &[u8]) -> Option<Result<(), End>> {
        let (at, first) = match self.look_at(input) {
            Ok(found) => found,
            Err(violation) => return Some(Err(self.on_violation(cx, violation))),
        };
        let rest = &input[at..];
        let step = match first {
            First::Terminate => Err(End::Left),
            First::NeedsServer => self.seek_server(cx, rest),
            First::NeedMore => {
                self.pending = rest.to_vec();
                if at == 0 {
                    return None;
                }
                Ok(())
            }
        };
        Some(step)
    }

    /// Handles what needs no server, up to the first message that does; answers where that is.
    fn look_at(&mut self, input: &[u8]) -> Result<(usize, First), Violation> {
        let mut at = 0;
        loop {
            // Without a server a body is only ever dropped.
            let dropped = self.body.remaining.min(input.len() - at);
            self.body.remaining -= dropped;
            at += dropped;
            let rest = &input[at..];
            let Some(head) = frame::head(rest).map_err(Violation::Length)? else { return Ok((at, First::NeedMore)) };
            let drop_message = match self.rules.check(head, rest)? {
                FrontendTag::Terminate => return Ok((at, First::Terminate)),
                FrontendTag::Password => return Err(Violation::Tag(head.tag)),
                FrontendTag::Sync => {
                    self.skipping = false;
                    self.put_ready();
                    true
                }
                // Outside of a COPY the server ignores these; without anything to flush, Flush does nothing.
                FrontendTag::Flush | FrontendTag::CopyData | FrontendTag::CopyDone | FrontendTag::CopyFail => true,
                FrontendTag::Query
                | FrontendTag::Parse
                | FrontendTag::Bind
                | FrontendTag::Describe
                | FrontendTag::Execute
                | FrontendTag::Close
                | FrontendTag::FunctionCall => self.skipping,
            };
            if !drop_message {
                // A small message that is still coming in shall not hold a server meanwhile.
                let unfinished = head.message_bytes() > rest.len() && head.message_bytes() <= IDLE_READ_BYTES;
                return Ok((at, if unfinished { First::NeedMore } else { First::NeedsServer }));
            }
            at += HEAD_BYTES;
            self.body = Body { remaining: head.body, forward: false };
        }
    }

    /// Outside of a transaction a Sync needs no server to answer it.
    fn put_ready(&mut self) {
        let mut ready = Vec::new();
        encode::ready_for_query(TransactionStatus::Idle, &mut ready);
        self.to_client.push(&ready);
    }

    /// Gets a server for `input`: at once, or after waiting.
    fn seek_server(&mut self, cx: &mut Context<'_>, input: &[u8]) -> Result<(), End> {
        let mut acquire = self.pool.acquire(self.ticket.presence().identity()).within(self.member.account().patience());
        match Pin::new(&mut acquire).poll(cx) {
            Poll::Ready(Ok(lease)) => self.link(cx, lease, input),
            Poll::Ready(Err(error)) => {
                self.pending = input.to_vec();
                self.refuse(cx, &error)
            }
            Poll::Pending => {
                self.pending = input.to_vec();
                if let Some(since) = acquire.since() {
                    self.ticket.presence().has_asked(self.worker.postgres.micros(since));
                }
                self.ticket.waiting(cx.waker());
                self.phase = Phase::Waiting(acquire);
                self.quiet.queue = true;
                Ok(())
            }
        }
    }

    /// Waiting: for the pool's answer, or a cancel.
    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        if self.ticket.is_cancelled() {
            self.phase = Phase::Idle;
            self.ticket.idle();
            self.refuse_with(&refusal::cancelled());
            return Poll::Ready(Ok(()));
        }
        let Phase::Waiting(acquire) = &mut self.phase else { return Poll::Ready(Ok(())) };
        let granted = if self.quiet.queue { Poll::Pending } else { Pin::new(acquire).poll(cx) };
        let Poll::Ready(granted) = granted else {
            if let Phase::Waiting(acquire) = &self.phase
                && acquire.take_notice()
            {
                self.notify(cx)?;
            }
            if self.ticket.listens() {
                self.listen(cx)?;
            }
            // Only now: who has just been granted a connection reads on as soon as it has used it.
            return match self.listen_while_waiting(cx) {
                Ok(()) => Poll::Pending,
                Err(end) => Poll::Ready(Err(end)),
            };
        };
        self.phase = Phase::Idle;
        Poll::Ready(match granted {
            // What it says is not read to its end while it waits: nobody has seen it leave.
            Ok(lease) if !self.quiet.client && self.client.has_hung_up() => {
                lease.release(Condition::Unused);
                Err(End::Lost)
            }
            Ok(mut lease) => {
                if self.member.account().is_observed() {
                    self.note_wait(&mut lease);
                }
                let pending = std::mem::take(&mut self.pending);
                self.link(cx, lease, &pending)
            }
            Err(error) => {
                self.ticket.idle();
                self.refuse(cx, &error)
            }
        })
    }

    /// Takes in what else the client sends while it waits, up to a bound, so that one who leaves does not stay in the queue.
    pub(super) fn listen_while_waiting(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let worker = Rc::clone(&self.worker);
        let mut buffer = worker.buffers.read.borrow_mut();
        while !self.is_client_silent() && self.pending.len() < 2 * IDLE_READ_BYTES {
            match self.poll_client(cx, &mut buffer[..IDLE_READ_BYTES]) {
                Poll::Pending => {}
                Poll::Ready(Ok(read)) if read > 0 => {
                    self.pool.record().add(PoolCounter::BytesFromClient, read as u64);
                    self.pending.extend_from_slice(&buffer[..read]);
                }
                Poll::Ready(_) => return Err(End::Lost),
            }
        }
        Ok(())
    }

    fn refuse(&mut self, cx: &mut Context<'_>, error: &AcquireError) -> Result<(), End> {
        if self.worker.drain.stage() >= Stage::NoServers {
            return Err(self.say_goodbye(cx, &refusal::servers_going(), End::Drained));
        }
        self.pool.record().add(PoolCounter::ErrorRefused, 1);
        say::refused(&self.worker, self.presence(), error);
        self.refuse_with(&refusal::no_connection(self.pool.name(), error));
        Ok(())
    }

    /// Refuses the batch at the front of `pending`: one error, and one ReadyForQuery at its end.
    pub(super) fn refuse_with(&mut self, fault: &Fault) {
        say::told(&self.worker, self.ticket.presence(), fault, false);
        let mut answer = Vec::new();
        encode::error_response(fault, &mut answer);
        self.to_client.push(&answer);
        let head = frame::head(&self.pending).ok().flatten();
        match head.and_then(|head| FrontendTag::from_byte(head.tag).map(|tag| (tag, head))) {
            Some((FrontendTag::Query | FrontendTag::FunctionCall, head)) => {
                self.put_ready();
                let here = head.message_bytes().min(self.pending.len());
                self.pending.drain(..here);
                self.body = Body { remaining: head.message_bytes() - here, forward: false };
            }
            _ => self.skipping = true,
        }
    }

    pub(super) fn on_violation(&mut self, cx: &mut Context<'_>, violation: Violation) -> End {
        let fault = refusal::violation(violation);
        tracing::warn!(pool = %self.pool.name(), reason = "protocol_violation", detail = %fault, "client closed");
        self.say_goodbye(cx, &fault, End::Violation)
    }

    /// Tells the client why, as far as its socket takes it, and ends the session.
    pub(super) fn say_goodbye(&mut self, cx: &mut Context<'_>, fault: &Fault, end: End) -> End {
        say::told(&self.worker, self.ticket.presence(), fault, true);
        let mut answer = Vec::new();
        encode::error_response(fault, &mut answer);
        let sent: io::Result<()> = self.to_client.send(&mut self.client, cx, &answer);
        if sent.is_err() { End::Lost } else { end }
    }
}
