//! What happens while a session has a connection of its own: requests go up and replies come down in both directions at once, of any size and
//! under back-pressure, while it is known what is owed and why the connection is still needed.
//!
//! ```text
//!   first request ──▶ ┌─ pinned (MULTI, WATCH, MONITOR, tracking): everything goes here ─┐
//!                     └─ not pinned: nothing more is sent; free when nothing is owed ────┘
//! ```

use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use sidepool_protocol::redis::command::{self, Command, Kind};
use sidepool_protocol::redis::encode;
use sidepool_protocol::redis::fault::RequestFault;
use sidepool_protocol::redis::frame::{FrameScanner, Scan};
use sidepool_protocol::redis::inline;
use sidepool_protocol::redis::limits::LINE_BYTES_MAX;
use sidepool_protocol::redis::request::{Arguments, RequestScanner, Scanned};

use super::blocked::{Blocked, Waits};
use super::client::HIGH_WATER;
use super::count;
use super::end::End;
use super::gate;
use super::leased_times::{Asked, Times};
use super::lost::Lost;
use super::others::Told;
use super::redirect::{Redirect, Redirecting};
use super::refusal;
use super::relay_late::Silence;
use super::relay_requests::{is_stateful, is_virtual};
use super::relay_transaction::{Change, Queued};
use super::requests::anew;
use super::run::Session;
use super::steps::Replies;
use super::traced::Operation;
use crate::observe::record::{PoolCounter, WorkerCounter};
use crate::pool::lease::Lease;
use crate::pool::reason::Condition;
use crate::upstream::redis::connector::RedisConnector;

/// Above so many bytes that the server has not taken, nothing more is read from the client.
const OUT_MAX: usize = 64 * 1024;

/// The header of an argument has no more bytes: a sign, a line, and its end.
const HEADER_MAX: u64 = LINE_BYTES_MAX as u64 + 4;

/// How a lease ends.
pub(super) enum Ended {
    /// It is not needed any more.
    Free(Condition),
    /// The client is gone.
    ClientGone,
    /// The server is.
    Lost,
    /// Its reply is.
    Late,
}

/// The state of a lease.
#[derive(Default)]
pub(super) struct Relay {
    pub(super) out: Vec<u8>,
    pub(super) sent: usize,
    pub(super) scanner: FrameScanner,
    pub(super) owed: VecDeque<Owed>,
    /// The rest of a request that is too large to be gathered.
    pub(super) body: Option<FrameScanner>,
    /// In a transaction.
    pub(super) multi: bool,
    /// What the server has queued of it so far.
    pub(super) queued: Option<Box<Queued>>,
    /// The reply to an `EXEC` that changes what the client is has to come first.
    pub(super) settling: bool,
    /// The beginning of a reply or message that is looked at as a whole.
    pub(super) gathered: Vec<u8>,
    /// A RESP2 client has subscribed in a transaction: what comes answers nothing.
    pub(super) subscribed: bool,
    /// To how many channels and patterns, as far as the server has confirmed them.
    pub(super) channels: i64,
    /// What others say of their clients is waited for.
    pub(super) asking: Option<Pin<Box<dyn Future<Output = Told>>>>,
    pub(super) watch: bool,
    /// What `REDIRECT` means to the server is being found out.
    pub(super) redirecting: Option<Redirecting>,
    /// To whom invalidations go, if elsewhere.
    pub(super) redirect: Option<Box<Redirect>>,
    pub(super) tracking: bool,
    /// A RESP3 client has subscribed.
    pub(super) listens: bool,
    /// Tracking is on, or subscriptions live on this connection: it is kept to the end.
    pub(super) kept: bool,
    /// `MONITOR` was asked for.
    pub(super) monitor: bool,
    /// `MONITOR` was granted: what comes answers nothing.
    pub(super) monitoring: bool,
    /// What is answered next waits on the server: a client that leaves is not waited for.
    pub(super) blocked: Blocked,
    /// The client has taken the connection over: bytes flow both ways and nothing is understood.
    pub(super) raw: bool,
    /// `RESET` was asked for.
    pub(super) reset: bool,
    /// `body` is one that is not let through: it is read to its end and goes nowhere.
    pub(super) unwanted: bool,
    /// The client says no more.
    pub(super) deaf: bool,
    /// Half a request was sent and will not be completed.
    pub(super) broken: bool,
    /// Something stood in the transaction that cannot be queued: it must not be executed.
    pub(super) poisoned: bool,
    /// The connection is not as it came.
    pub(super) dirty: bool,
    pub(super) begun: bool,
    /// How long the server takes.
    pub(super) times: Times,
    /// How long it has said nothing.
    pub(super) silence: Silence,
    /// How many commands there were, and which.
    pub(super) commands: u32,
    pub(super) operation: Operation,
}

/// What the next reply answers.
pub(super) struct Owed {
    pub(super) what: What,
    pub(super) muted: bool,
    /// What is timed of it.
    pub(super) asked: Option<Box<Asked>>,
    /// Whether it is up to others when it comes.
    pub(super) waits: Waits,
}

impl Owed {
    /// The next reply answers this, for however long it takes.
    pub(super) fn untimed(what: What, muted: bool) -> Self {
        Self { what, muted, asked: None, waits: Waits::No }
    }
}

#[derive(PartialEq, Eq)]
pub(super) enum What {
    Plain,
    Multi,
    /// A command of a transaction.
    Queued(Option<Box<Change>>),
    /// A command outside of one that means something to us.
    Changed(Box<Change>),
    Exec,
    Select(u32),
    Monitor,
    /// Nobody asked for it.
    Swallow,
    /// Not the server's to answer.
    Own(Vec<u8>),
}

impl Relay {
    /// Moves whatever can be moved, until the lease ends.
    pub(super) fn poll(&mut self, session: &mut Session, lease: &mut Lease<RedisConnector>, cx: &mut Context<'_>) -> Poll<Ended> {
        session.client.set_session(cx);
        loop {
            session.poll_flush(!self.raw, cx);
            if !session.client.is_alive() {
                return Poll::Ready(Ended::ClientGone);
            }
            self.parse(session, lease);
            let told = self.poll_others(session, cx) | self.poll_redirecting(session, cx);
            if self.write(lease, cx).is_err() {
                // A server that takes no more of a request has said why.
                let _ = self.read_server(session, lease, cx);
                return Poll::Ready(Ended::Lost);
            }
            // Of one that says no more nothing is left but what may stand in `carry` and is not whole.
            if self.deaf && !told && self.has_answered_all() && (self.is_pinned() || session.carry.is_empty()) {
                session.closing = session.closing.or(Some(End::Gone));
            }
            if let Some(condition) = self.is_free(session) {
                return Poll::Ready(Ended::Free(condition));
            }
            self.blocked.follows(self.is_blocked());
            if session.is_to_leave(cx) && self.is_at_leisure() {
                session.client.doom(End::Drained);
                return Poll::Ready(Ended::ClientGone);
            }
            let down = match self.read_server(session, lease, cx) {
                Ok(progress) => progress,
                Err(()) => return Poll::Ready(Ended::Lost),
            };
            let Ok(pushed) = self.poll_invalidations(session, cx) else { return Poll::Ready(Ended::Lost) };
            let up = match self.read_client(session, lease, cx) {
                Ok(progress) => progress,
                Err(ended) => return Poll::Ready(ended),
            };
            if !down && !up && !told && !pushed {
                // Whatever else it was owed it has been given.
                if self.deaf && session.client.backlog() == 0 && self.blocked.is_past_its_burst(cx) {
                    session.client.doom(End::Gone);
                    return Poll::Ready(Ended::ClientGone);
                }
                self.show(session, false);
                return if self.is_late(session, cx) { Poll::Ready(Ended::Late) } else { Poll::Pending };
            }
        }
    }

    /// What is owed to the client when the connection is given up, as error lines: `unknown` where it may have been executed.
    pub(super) fn owed(&self, unknown: &'static str) -> Vec<&'static str> {
        // What stands before the `MULTI` of the open transaction is no part of it.
        let begun = match self.owed.iter().rposition(|owed| owed.what == What::Multi) {
            Some(place) if self.multi => place,
            None if self.multi => 0,
            Some(_) | None => self.owed.len(),
        };
        let line = |place| if place >= begun { refusal::TRANSACTION_LOST } else { unknown };
        let told = self.owed.iter().enumerate().filter(|(_, owed)| owed.what != What::Swallow && !owed.muted);
        told.map(|(place, _)| line(place)).collect()
    }

    /// Whether `MULTI` is the last that was sent and has no answer: a client that is told that it failed may go on as if it had never asked, or may
    /// have sent more of its transaction already.
    pub(super) fn has_just_begun(&self) -> bool {
        self.multi && self.owed.back().is_some_and(|owed| owed.what == What::Multi)
    }

    /// What the client lost with the connection, beside replies.
    pub(super) fn lost(&self) -> Lost {
        match (self.multi, self.watch) {
            (true, _) => Lost::Transaction,
            (false, true) => Lost::Watch,
            (false, false) => Lost::Nothing,
        }
    }

    /// Whether the client cannot go on without the connection: something is half done, or it relies on what only this connection knew.
    pub(super) fn is_inside(&self) -> bool {
        self.body.is_some() || self.broken || !self.scanner.is_between() || self.kept || self.monitor || self.raw || self.is_asking()
    }

    /// Whether the client waits for nothing that it could not ask for again elsewhere: the process may end under it. Behind what is up to others
    /// may stand what is on its way, and nobody could tell whether that was executed.
    fn is_at_leisure(&self) -> bool {
        let waits = (self.is_blocked() && self.owed.len() == 1) || self.monitoring || self.raw || self.subscribed;
        !self.multi && self.body.is_none() && (waits || (self.begun && self.owed.is_empty())) && self.scanner.is_between()
    }

    /// Whether what is answered next is up to others.
    pub(super) fn is_blocked(&self) -> bool {
        self.owed.front().is_some_and(|owed| owed.waits == Waits::ForOthers)
    }

    /// Whether others have to be asked before anything else is sent.
    fn is_asking(&self) -> bool {
        self.asking.is_some() || self.redirecting.is_some()
    }

    /// Whether nobody waits for anything that was asked.
    fn has_answered_all(&self) -> bool {
        self.owed.is_empty() && !self.is_asking()
    }

    fn is_pinned(&self) -> bool {
        self.multi || self.watch || self.kept || self.monitor || self.raw
    }

    /// Whether the connection is needed no longer, and how it is then.
    fn is_free(&mut self, session: &mut Session) -> Option<Condition> {
        if !self.begun || !self.has_answered_all() || self.body.is_some() || self.sent < self.out.len() {
            return None;
        }
        let as_it_is = if self.monitor || self.broken || self.raw || self.subscribed {
            Condition::Broken
        } else if self.dirty || self.is_pinned() {
            Condition::Dirty
        } else {
            Condition::Clean
        };
        if self.reset {
            session.forget_state();
            session.say(b"+RESET\r\n");
            return Some(as_it_is);
        }
        (session.closing.is_some() || !self.is_pinned()).then_some(as_it_is)
    }

    /// Sends the requests at the front of `carry`, as long as they belong on this connection.
    fn parse(&mut self, session: &mut Session, lease: &Lease<RedisConnector>) {
        let bytes = std::mem::take(&mut session.carry);
        let mut at = 0;
        if self.raw && self.takes_more(session) {
            self.out.extend_from_slice(&bytes);
            return;
        }
        while at < bytes.len() && self.takes_more(session) && !self.raw {
            match session.scanner.scan(&bytes[at..], false) {
                Ok(Scanned::Request(request)) => {
                    let whole = &bytes[at..at + request.length];
                    let taken = if request.canonical {
                        self.forward(session, whole, lease)
                    } else {
                        self.forward(session, &anew(Arguments::new(whole)), lease)
                    };
                    if !taken {
                        break;
                    }
                    at += request.length;
                }
                Ok(Scanned::Nothing { length }) => at += length,
                Ok(Scanned::Inline { text, length }) => match inline::split(&bytes[at + text.start..at + text.end]) {
                    Ok(arguments) if self.forward(session, &anew(arguments.iter().map(Vec::as_slice)), lease) => at += length,
                    Ok(_not_yet) => break,
                    Err(fault) => self.fault(session, fault),
                },
                Ok(Scanned::Incomplete { .. }) => {
                    if session.scanner.understood() > session.server.config().stream_threshold_bytes {
                        self.begin_body(session, &bytes[at..], lease);
                        at = bytes.len();
                    }
                    break;
                }
                Err(fault) => self.fault(session, fault),
            }
        }
        if self.raw {
            self.out.extend_from_slice(&bytes[at..]);
            return;
        }
        if at < bytes.len() && session.closing.is_none() {
            session.carry = bytes;
            session.carry.drain(..at);
        }
        self.say_own(session);
    }

    fn takes_more(&self, session: &Session) -> bool {
        let room = self.out.len() - self.sent < OUT_MAX;
        room && self.body.is_none()
            && !self.is_asking()
            && !self.is_settling()
            && session.closing.is_none()
            && !self.reset
            && (!self.begun || self.is_pinned())
    }

    /// One more command.
    pub(super) fn count(&mut self, command: Option<&'static Command>) {
        self.commands = self.commands.saturating_add(1);
        self.operation.add(command);
    }

    pub(super) fn fault(&mut self, session: &mut Session, fault: RequestFault) {
        session.worker.record.add(WorkerCounter::RedisFaultProtocol, 1);
        self.begun = true;
        if let Some(line) = fault.line() {
            self.answer_error(session, &line);
        }
        session.closing = Some(End::Violation);
    }

    pub(super) fn send(&mut self, session: &mut Session, bytes: &[u8], what: What) {
        self.send_waiting(session, bytes, what, Waits::No);
    }

    pub(super) fn send_waiting(&mut self, session: &mut Session, bytes: &[u8], what: What, waits: Waits) {
        let silent = session.replies != Replies::On;
        let skips = session.replies == Replies::Skip && what != What::Swallow;
        self.begun = true;
        self.out.extend_from_slice(bytes);
        let asked = self.times.ask(&what, session.client.shown.command.get(), bytes, waits);
        self.owed.push_back(Owed { what, muted: silent, asked, waits });
        if skips {
            session.replies = Replies::On;
        }
    }

    pub(super) fn answer(&mut self, session: &Session, reply: &[u8]) {
        self.begun = true;
        self.owed.push_back(Owed::untimed(What::Own(reply.to_vec()), session.replies != Replies::On));
    }

    pub(super) fn answer_error(&mut self, session: &Session, text: impl AsRef<[u8]>) {
        let mut line = Vec::new();
        encode::error(&mut line, text);
        self.answer(session, &line);
    }

    /// Replies of our own whose turn has come.
    pub(super) fn say_own(&mut self, session: &Session) {
        while let Some(Owed { what: What::Own(reply), muted, asked: _, waits: _ }) = self.owed.front() {
            if !muted {
                session.client.deliver(reply, false);
            }
            self.owed.pop_front();
        }
    }

    /// A request too large to be gathered: from here on its bytes flow past.
    fn begin_body(&mut self, session: &mut Session, head: &[u8], lease: &Lease<RedisConnector>) {
        let command = session.scanner.name(head).and_then(|name| large(name, head));
        let may_be_large = command.is_none_or(|command| !is_virtual(command.handling) && !is_stateful(command.handling));
        let mut scanner = FrameScanner::default();
        session.scanner = RequestScanner::default();
        if !may_be_large || scanner.scan(head).is_err() {
            self.fault(session, RequestFault::BulkLength);
            return;
        }
        if let Some(command) = command.filter(|command| command.is_denied(session.server.denied())) {
            self.poisoned |= self.multi;
            self.answer_error(session, gate::refusal(command));
            (self.body, self.unwanted) = (Some(scanner), true);
            return;
        }
        let kind = command.map_or(Kind::Write, |command| command.kind);
        lease.pool().record().add(count::command(kind), 1);
        self.count(command);
        session.client.shown.command.set(command);
        if self.multi {
            self.send(session, head, What::Queued(None));
        } else {
            self.plain(session, head, command.map(|command| command.handling));
        }
        self.body = Some(scanner);
    }

    fn write(&mut self, lease: &mut Lease<RedisConnector>, cx: &mut Context<'_>) -> Result<(), ()> {
        while self.sent < self.out.len() {
            match lease.stream.poll_write(cx, &self.out[self.sent..]) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0) | Err(_)) => return Err(()),
                Poll::Ready(Ok(written)) => {
                    lease.pool().record().add(PoolCounter::BytesToServer, written as u64);
                    self.sent += written;
                }
            }
        }
        (self.out, self.sent) = (Vec::new(), 0);
        match lease.stream.poll_sent(cx) {
            Poll::Ready(Err(_)) => Err(()),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    fn read_client(&mut self, session: &mut Session, lease: &mut Lease<RedisConnector>, cx: &mut Context<'_>) -> Result<bool, Ended> {
        // A request up to the size from which on they are streamed is gathered, and as much behind that as it takes to understand that it is larger.
        let gathered = session.server.config().stream_threshold_bytes.max(OUT_MAX as u64) + HEADER_MAX;
        let room = if self.body.is_some() { self.out.is_empty() } else { (session.carry.len() as u64) < gathered };
        if session.closing.is_some() || self.deaf || !room {
            if !self.deaf && self.blocked.has_left(&session.client, cx) {
                session.client.doom(End::Gone);
                return Err(Ended::ClientGone);
            }
            return Ok(false);
        }
        let worker = Rc::clone(&session.worker);
        let mut buffer = worker.buffers.read.borrow_mut();
        let (read, end) = match session.client.poll_read(cx, &mut buffer) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(read)) => (read, End::Gone),
            Poll::Ready(Err(_)) => (0, End::Lost),
        };
        if read == 0 {
            // Nobody is left to hear the answers.
            let more = session.client.backlog() > 0 || !session.carry.is_empty();
            let heard_all = self.has_answered_all() && !(self.begun && more);
            if end == End::Lost || self.raw || heard_all || self.body.is_some() {
                session.client.doom(end);
                return Err(Ended::ClientGone);
            }
            // It closed only its own direction and still gets its replies, those to what it has asked behind this, too.
            self.deaf = true;
            return Ok(true);
        }
        let bytes = &buffer[..read];
        let Some(body) = &mut self.body else {
            session.carry.extend_from_slice(bytes);
            return Ok(true);
        };
        match body.scan(bytes) {
            Ok(Scan::More) if self.unwanted => {}
            Ok(Scan::More) => self.out.extend_from_slice(bytes),
            Ok(Scan::End { used, .. }) => {
                if !std::mem::take(&mut self.unwanted) {
                    self.out.extend_from_slice(&bytes[..used]);
                }
                session.carry.extend_from_slice(&bytes[used..]);
                self.body = None;
                if let Some(asked) = self.owed.back_mut().and_then(|owed| owed.asked.as_mut()) {
                    asked.is_sent();
                }
            }
            Err(_) => {
                // It was no request.
                self.owed.pop_back();
                (self.body, self.broken) = (None, true);
                (self.out, self.sent) = (Vec::new(), 0);
                self.fault(session, RequestFault::BulkLength);
                return Ok(true);
            }
        }
        // Straight from the buffer it would be one copy less, but then a slow server would need a second path.
        self.write(lease, cx).map_err(|()| Ended::Lost)?;
        Ok(true)
    }

    fn read_server(&mut self, session: &mut Session, lease: &mut Lease<RedisConnector>, cx: &mut Context<'_>) -> Result<bool, ()> {
        if session.client.backlog() > HIGH_WATER {
            return Ok(false);
        }
        let worker = Rc::clone(&session.worker);
        let mut buffer = worker.buffers.read.borrow_mut();
        match lease.stream.poll_read(cx, &mut buffer) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(0) | Err(_)) => Err(()),
            Poll::Ready(Ok(read)) => {
                self.times.arrived();
                lease.pool().record().add(PoolCounter::BytesFromServer, read as u64);
                // But for a few replies that nobody asked for.
                lease.pool().record().add(PoolCounter::BytesToClient, read as u64);
                self.take_in(session, &buffer[..read]).map(|()| true)
            }
        }
    }
}

/// The command of which only the beginning is there; the sub-command where that is there, too.
fn large(name: &[u8], head: &[u8]) -> Option<&'static Command> {
    let command = command::lookup(name)?;
    let sub = Arguments::new(head).nth(1).filter(|_sub| command::is_container(command));
    Some(sub.and_then(|sub| command::lookup_sub(command, sub)).unwrap_or(command))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_inside_the_lost_transaction_is_known_not_to_have_run() {
        let owed = |all: Vec<What>| all.into_iter().map(|what| Owed::untimed(what, false)).collect();
        let mut relay = Relay { multi: true, owed: owed(vec![What::Plain, What::Multi, What::Plain]), ..Relay::default() };
        assert_eq!(relay.owed(refusal::LOST), [refusal::LOST, refusal::TRANSACTION_LOST, refusal::TRANSACTION_LOST]);
        relay.owed = owed(vec![What::Multi, What::Plain, What::Multi]);
        assert_eq!(relay.owed(refusal::LOST), [refusal::LOST, refusal::LOST, refusal::TRANSACTION_LOST]);
        assert!(relay.has_just_begun());
        relay.owed = owed(vec![What::Plain]);
        assert_eq!(relay.owed(refusal::LOST), [refusal::TRANSACTION_LOST], "its MULTI was answered");
        relay.multi = false;
        assert_eq!(relay.owed(refusal::LOST), [refusal::LOST]);
    }

    #[test]
    fn a_blocked_client_is_at_leisure_only_while_nothing_else_is_on_its_way() {
        let at_leisure = |all: &[Waits]| {
            let owed = all.iter().map(|waits| Owed { waits: *waits, ..Owed::untimed(What::Plain, false) }).collect();
            Relay { begun: true, watch: true, owed, ..Relay::default() }.is_at_leisure()
        };
        assert!(at_leisure(&[]) && at_leisure(&[Waits::ForOthers]));
        assert!(!at_leisure(&[Waits::ForOthers, Waits::No]), "whether it was executed would never be told");
        assert!(!at_leisure(&[Waits::No, Waits::ForOthers]));
        assert!(!at_leisure(&[Waits::AWhile]), "it ends by itself");
        assert!(!at_leisure(&[Waits::No]));
    }
}
