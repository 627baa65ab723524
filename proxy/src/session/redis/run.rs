//! A session: reads requests as they come and sends each where it belongs. What can be shared is queued on the client's lane without being
//! copied twice; everything that needs to wait for something is a [`Step`], taken when all earlier replies have been handed over.

use std::num::NonZeroU32;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use sidepool_config::model::TcpOptions;
use sidepool_protocol::redis::command::Kind;
use sidepool_protocol::redis::encode::{self, Resp};
use sidepool_protocol::redis::fault::RequestFault;
use sidepool_protocol::redis::request::{Arguments, RequestScanner, Scanned};
use sidepool_protocol::redis::tracker::Work;

use super::client::{Client, high_water};
use super::count;
use super::end::{End, Standing};
use super::group::{Group, Key};
use super::lane::Lane;
use super::login::Login;
use super::lost::Lost;
use super::requests::{anew, front};
use super::server::{Account, Server};
use super::steps::{After, Next, Replies, Step};
use super::topics::Subscriber;
use super::traced::Traced;
use super::turns::{self, Admission, Bounds};
use crate::observe::record::{PoolCounter, PoolGauge, WorkerCounter};
use crate::transport::ends::Ends;
use crate::transport::options;
use crate::transport::stream::Stream;
use crate::worker::Worker;

/// One client's session.
pub(super) struct Session {
    pub(super) worker: Rc<Worker>,
    pub(super) server: Rc<Server>,
    pub(super) client: Rc<Client>,
    /// Who it is; `None`: it must authenticate first.
    pub(super) account: Option<Rc<Account>>,
    pub(super) attached: Option<Attached>,
    pub(super) scanner: RequestScanner,
    /// What has been read and not dealt with: at most the beginning of one request, unless `fresh`.
    pub(super) carry: Vec<u8>,
    /// `carry` may begin with whole requests.
    pub(super) fresh: bool,
    pub(super) version: Resp,
    pub(super) database: u32,
    pub(super) replies: Replies,
    pub(super) lost: Lost,
    pub(super) subscriber: Option<Rc<Subscriber>>,
    /// When it came to a line with what it has not sent yet, in milliseconds of its life.
    pub(super) lined_up_ms: Option<NonZeroU32>,
    /// Nothing more is dealt with until all earlier replies have been handed over.
    hold: bool,
    /// No more requests are read; the session ends when all replies have been handed over, and this is why.
    pub(super) closing: Option<End>,
    /// How far it has come.
    pub(super) standing: Standing,
    /// Where the client is, once it was let in and the log is to have it.
    pub(super) noted: Option<Box<Ends>>,
    /// What it has sent and what is not answered, if that is traced.
    pub(super) traced: Option<Box<Traced>>,
    /// It still has to say who it is.
    pub(super) login: Option<Box<Login>>,
}

/// Where a session's shared commands go.
pub(super) struct Attached {
    pub(super) group: Rc<Group>,
    pub(super) lane: Rc<Lane>,
}

impl Attached {
    /// Whether the lane is the right one for such a command of this client, as things are.
    pub(super) fn suits(&self, heavy: bool, client: &Client) -> bool {
        match (self.lane.is_heavy(), heavy) {
            (false, heavy) => !heavy || !self.group.has_heavy(),
            (true, true) => true,
            (true, false) => client.pending() > 0,
        }
    }
}

/// Requests of one read that go down the lane, not yet handed to it.
struct Queue {
    from: usize,
    runs: Vec<(Work, u32, usize)>,
    replies: u32,
}

impl Session {
    /// A session for a client that has just come.
    pub(super) fn new(stream: Stream, server: Rc<Server>, worker: Rc<Worker>) -> Self {
        let config = server.config();
        // Connections inherit the listener's options; what is configured comes on top.
        if let Stream::Tcp(socket) = &stream
            && config.tcp != TcpOptions::default()
            && let Err(error) = options::client(socket, &config.tcp)
        {
            tracing::debug!(server = &*server.name, %error, "cannot set the options of a Redis client's connection");
        }
        let client = Client::new(server.next_id(&worker), stream, crate::clock::now());
        server.enter(&client);
        let account = server.welcome();
        let limit = config.client_login_timeout;
        let has_to_say = account.is_none() || config.client_tls.context.is_some();
        let login = (has_to_say && !limit.is_zero()).then(|| Box::new(Login::within(limit, server.arrivals.enter())));
        let session = Self {
            worker,
            client,
            account,
            attached: None,
            scanner: RequestScanner::default(),
            carry: Vec::new(),
            fresh: false,
            version: Resp::Two,
            database: config.database,
            replies: Replies::On,
            lost: Lost::Nothing,
            subscriber: None,
            lined_up_ms: None,
            hold: false,
            closing: None,
            standing: Standing::New,
            noted: None,
            traced: None,
            login,
            server,
        };
        session.show();
        session
    }

    /// Serves the client.
    pub(super) async fn run(&mut self) {
        if self.server.config().client_tls.context.is_some() && Box::pin(self.secure()).await == After::End {
            return;
        }
        self.client.join_ring();
        self.note_in();
        loop {
            let step = std::future::poll_fn(|cx| self.poll_turn(cx)).await;
            let silenced = self.replies == Replies::Skip && step.answers();
            if self.take(step).await == After::End {
                return;
            }
            if silenced {
                self.replies = Replies::On;
            }
        }
    }

    /// Takes a step. All of them are rare, and in a box, so that an idle session is small.
    fn take(&mut self, step: Step) -> Pin<Box<dyn Future<Output = After> + '_>> {
        match step {
            Step::End => Box::pin(std::future::ready(After::End)),
            Step::Lease => Box::pin(self.leased()),
            Step::Others => Box::pin(self.others()),
            Step::Subscribe => Box::pin(self.subscribe()),
            Step::Redo => Box::pin(self.redo()),
            Step::Unsubscribe => Box::pin(self.unsubscribe()),
            Step::Unknown => Box::pin(self.unknown()),
            Step::Knock => Box::pin(self.knock()),
            Step::Verify => Box::pin(self.verify_front()),
            Step::Introduce => Box::pin(self.introduce()),
            Step::Select(database) => Box::pin(self.select_unseen(database)),
            Step::Switch => Box::pin(self.switch_front()),
        }
    }

    /// Reads and deals with requests until there is a step to take.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        let step = self.poll_requests(cx);
        self.end_turn(&step);
        step
    }

    fn poll_requests(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        self.client.set_session(cx);
        loop {
            let flushed = self.poll_flush(false, cx);
            if !self.client.is_alive() {
                return Poll::Ready(Step::End);
            }
            if self.traced.is_some() {
                self.end_traced();
            }
            // Whatever else it waits for: who is not in does not stay.
            if let Some(step) = self.overdue(cx) {
                return Poll::Ready(step);
            }
            if self.client.has_redo() {
                return Poll::Ready(Step::Redo);
            }
            if self.closing.is_some() {
                let paid = self.client.poll_pending_below(1);
                return if paid.is_ready() && flushed { Poll::Ready(Step::End) } else { Poll::Pending };
            }
            if !flushed && self.client.backlog() > high_water(self.worker.pressure.get()) {
                return Poll::Pending;
            }
            if self.client.poll_pending_below(if self.hold { 1 } else { self.window() }).is_pending() {
                return Poll::Pending;
            }
            self.hold = false;
            let next = match std::task::ready!(self.poll_admission(cx)) {
                Some(reason) => std::task::ready!(self.refuse_said(reason, cx)),
                None if std::mem::take(&mut self.fresh) => self.deal_with_carry(),
                None => std::task::ready!(self.poll_read(cx)),
            };
            if let Some(login) = &self.login {
                login.arrival.speaks(matches!(next, Next::Done) && !self.carry.is_empty());
            }
            match next {
                Next::Done => {}
                Next::Hold => (self.hold, self.fresh) = (true, true),
                Next::Later => self.fresh = true,
                Next::Step(step) => {
                    self.fresh = true;
                    return Poll::Ready(step);
                }
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        let worker = Rc::clone(&self.worker);
        let mut buffer = worker.buffers.read.borrow_mut();
        match self.client.poll_read(cx, &mut buffer) {
            Poll::Pending if self.carry.is_empty() && self.client.pending() == 0 && self.is_to_leave(cx) => {
                self.client.doom(End::Drained);
                Poll::Ready(Next::Step(Step::End))
            }
            Poll::Pending => Poll::Pending,
            // Whoever closes only its own direction still gets its replies.
            Poll::Ready(end @ (Ok(0) | Err(_))) => {
                self.closing = Some(if end.is_ok() { End::Gone } else { End::Lost });
                Poll::Ready(Next::Done)
            }
            Poll::Ready(Ok(read)) if self.carry.is_empty() => {
                let (used, next) = self.deal_with(&buffer[..read]);
                if used < read && self.closing.is_none() {
                    self.carry.extend_from_slice(&buffer[used..read]);
                }
                Poll::Ready(next)
            }
            Poll::Ready(Ok(read)) => {
                self.carry.extend_from_slice(&buffer[..read]);
                drop(buffer);
                Poll::Ready(self.deal_with_carry())
            }
        }
    }

    fn deal_with_carry(&mut self) -> Next {
        let mut bytes = std::mem::take(&mut self.carry);
        let (used, next) = self.deal_with(&bytes);
        if used < bytes.len() && self.closing.is_none() {
            bytes.drain(..used);
            self.carry = bytes;
        }
        next
    }

    /// Deals with the requests at the front of `bytes`; says how many bytes that were.
    fn deal_with(&mut self, bytes: &[u8]) -> (usize, Next) {
        let mut at = 0;
        if self.account.is_none() {
            if self.server.must_knock() {
                return (0, Next::Step(Step::Knock));
            }
            self.is_welcome();
        }
        let mut queue = Queue { from: 0, runs: Vec::new(), replies: 0 };
        let (window, helping) = (self.window(), self.attached.as_ref().map_or(turns::QUANTUM, |attached| attached.lane.helping()));
        let lane = self.lane();
        // What went down the lane by itself.
        let mut alone = 0;
        while at < bytes.len() && self.closing.is_none() {
            let enough = alone + turns::cost(queue.replies as usize, at - queue.from) >= helping;
            if self.client.pending() + queue.replies >= window || enough {
                self.send(&mut queue, bytes, at);
                return (at, Next::Later);
            }
            let (length, next) = match self.scanner.scan(&bytes[at..], self.account.is_none()) {
                Ok(Scanned::Request(request)) => {
                    let shared = if request.canonical { self.shareable(&bytes[at..], &request) } else { None };
                    if let Some((work, replies, length)) = shared {
                        queue.add(work, replies, length);
                        at += length;
                        continue;
                    }
                    self.send(&mut queue, bytes, at);
                    let whole = &bytes[at..at + request.length];
                    (request.length, if request.canonical { self.one(whole) } else { self.one(&anew(Arguments::new(whole))) })
                }
                Ok(Scanned::Inline { text, length }) => {
                    self.send(&mut queue, bytes, at);
                    (length, self.inline(&bytes[at + text.start..at + text.end]))
                }
                Ok(Scanned::Nothing { length }) => {
                    self.send(&mut queue, bytes, at);
                    (length, Next::Done)
                }
                Ok(Scanned::Incomplete { .. }) => {
                    self.send(&mut queue, bytes, at);
                    return (at, self.incomplete());
                }
                Err(fault) => {
                    self.send(&mut queue, bytes, at);
                    self.protocol_fault(fault);
                    return (bytes.len(), Next::Done);
                }
            };
            match next {
                Next::Done => {
                    alone += turns::cost(1, length);
                    at += length;
                    // How much may go down another lane is for that one to say.
                    if at < bytes.len() && self.lane() != lane {
                        return (at, Next::Later);
                    }
                }
                Next::Hold | Next::Later | Next::Step(_) => return (at, next),
            }
            queue.from = at;
        }
        self.send(&mut queue, bytes, at);
        (at, Next::Done)
    }

    /// Hands what has been queued to the lane.
    fn send(&mut self, queue: &mut Queue, bytes: &[u8], to: usize) {
        if queue.runs.is_empty() {
            queue.from = to;
            return;
        }
        let Some(Attached { group, lane }) = &self.attached else { return };
        let bytes = &bytes[queue.from..to];
        let replies = queue.replies;
        let record = group.shared.record();
        record.add(PoolCounter::Queries, u64::from(replies));
        record.add(lane.commands(), u64::from(replies));
        record.add(PoolCounter::BytesFromClient, bytes.len() as u64);
        lane.send(&self.client, &queue.runs, bytes, false);
        self.lined_up_ms = None;
        self.server.keep_looking();
        if self.server.is_traced() {
            self.note_sent(bytes, replies);
        }
        queue.runs.clear();
        (queue.from, queue.replies) = (to, 0);
    }

    /// Which lane it has.
    fn lane(&self) -> Option<*const Lane> {
        self.attached.as_ref().map(|attached| Rc::as_ptr(&attached.lane))
    }

    /// How many replies the client may wait for at a time.
    fn window(&self) -> u32 {
        self.attached.as_ref().map_or(u32::MAX, |attached| attached.lane.window())
    }

    /// A request that is not all there.
    fn incomplete(&self) -> Next {
        if self.scanner.understood() <= self.server.config().stream_threshold_bytes || self.account.is_none() {
            return Next::Done;
        }
        self.step(Step::Lease)
    }

    /// Sends one request down the lane.
    pub(super) fn share(&mut self, whole: &[u8], work: Work, kind: Kind, heavy: bool) -> Next {
        match self.attach_admitted(heavy) {
            Ok(_) => self.share_admitted(whole, work, kind),
            Err(next) => next,
        }
    }

    /// Sends one request that has been admitted down the lane that is there.
    pub(super) fn share_admitted(&mut self, whole: &[u8], work: Work, kind: Kind) -> Next {
        self.share_as(whole, kind, |lane, client, muted| lane.send(client, &[(work, 1, whole.len())], whole, muted))
    }

    /// Sends one request down the lane of which the numbers in the reply are to be raised.
    pub(super) fn share_raised(&mut self, whole: &[u8], raise: Box<[u32]>) -> Next {
        match self.attach_admitted(false) {
            Ok(_) => self.share_as(whole, Kind::PubSub, |lane, client, muted| lane.send_raised(client, whole, muted, raise)),
            Err(next) => next,
        }
    }

    /// The same for any request, which `send` hands to the lane.
    fn share_as(&mut self, whole: &[u8], kind: Kind, send: impl FnOnce(&Lane, &Rc<Client>, bool)) -> Next {
        let Some(Attached { group, lane }) = &self.attached else { return Next::Hold };
        let record = group.shared.record();
        record.add(count::command(kind), 1);
        record.add(PoolCounter::Queries, 1);
        record.add(lane.commands(), 1);
        record.add(PoolCounter::BytesFromClient, whole.len() as u64);
        send(lane, &self.client, self.replies != Replies::On);
        self.lined_up_ms = None;
        self.server.keep_looking();
        if self.server.is_traced() {
            self.note_sent(whole, 1);
        }
        Next::Done
    }

    /// Where a shared command goes that may be sent now; if not, what is to be done instead.
    fn attach_admitted(&mut self, heavy: bool) -> Result<&Attached, Next> {
        let client = Rc::clone(&self.client);
        let before = self.attached.as_ref().map(|attached| Rc::clone(&attached.lane));
        let waited = self.waited();
        let Some(attached) = self.attach(heavy) else { return Err(Next::Hold) };
        // Whether there is room on the lane that it has was known before anything was read.
        let has_changed = before.is_none_or(|before| !Rc::ptr_eq(&before, &attached.lane));
        if has_changed {
            match attached.lane.admit(&client, || Bounds { waited, ..attached.group.line() }) {
                Admission::Now => {}
                Admission::Later => return Err(Next::Later),
                Admission::Refused(reason) => {
                    client.place.refuse(reason);
                    return Err(Next::Later);
                }
            }
        }
        Ok(attached)
    }

    /// Where shared commands go; `None`: the lane has retired, or is the wrong one for a heavy command, and earlier replies must come first.
    pub(super) fn attach(&mut self, heavy: bool) -> Option<&Attached> {
        if self.attached.as_ref().is_some_and(|attached| attached.lane.is_retired()) {
            if self.client.pending() > 0 {
                return None;
            }
            self.detach();
        }
        if let Some(Attached { group, lane }) = &mut self.attached
            && lane.is_heavy() != (heavy && group.has_heavy())
        {
            // Behind an unanswered heavy command everything waits in any case: no reason to change back now.
            let stays = lane.is_heavy() && self.client.pending() > 0;
            if !stays && self.client.pending() > 0 {
                return None;
            }
            if !stays {
                let other = group.lane(&self.worker, heavy);
                other.attach();
                let before = std::mem::replace(lane, other);
                before.leave_line(&self.client);
                before.detach();
            }
        }
        if self.attached.is_none() {
            let group = self.server.group(&self.key()?, &self.worker);
            let lane = group.lane(&self.worker, heavy);
            lane.attach();
            group.leased.enter();
            group.shared.record().shift(PoolGauge::Clients, 1);
            self.attached = Some(Attached { group, lane });
            // It stays among whom it is, wherever its commands go.
            if !self.has_identity() {
                self.join_identity();
            }
        }
        self.attached.as_ref()
    }

    /// Another user, database or version: the next shared command goes elsewhere. Only when no replies are owed.
    pub(super) fn detach(&mut self) {
        if let Some(Attached { group, lane }) = self.attached.take() {
            lane.leave_line(&self.client);
            lane.detach();
            group.leased.leave();
            group.shared.record().shift(PoolGauge::Clients, -1);
        }
    }

    /// What makes this client's connections interchangeable with others'.
    pub(super) fn key(&self) -> Option<Key> {
        let user = Rc::clone(&self.account.as_ref()?.upstream);
        Some(Key { user, database: self.database, version: self.version, habits: self.client.shown.state.get().habits })
    }

    /// Takes a step once all earlier replies have been handed over.
    pub(super) fn step(&self, step: Step) -> Next {
        if self.client.pending() > 0 { Next::Hold } else { Next::Step(step) }
    }

    /// Answers one request ourselves, behind all earlier replies.
    pub(super) fn say(&mut self, reply: &[u8]) {
        let muted = self.replies != Replies::On;
        match &self.attached {
            Some(attached) if self.client.pending() > 0 => attached.lane.send_own(&self.client, reply, muted),
            Some(_) | None if muted => {}
            Some(_) | None => self.client.deliver(reply, false),
        }
    }

    /// Answers the request at the front of `carry` with an error; whether it was whole.
    pub(super) fn refuse_front(&mut self, text: impl AsRef<[u8]>) -> bool {
        let whole = self.take_front().is_some();
        self.say_error(text);
        if self.replies == Replies::Skip {
            self.replies = Replies::On;
        }
        whole
    }

    /// Answers one request with an error.
    pub(super) fn say_error(&mut self, text: impl AsRef<[u8]>) -> Next {
        let mut line = Vec::with_capacity(text.as_ref().len() + 3);
        encode::error(&mut line, text);
        self.say(&line);
        Next::Done
    }

    /// The client broke the protocol: it is told as Redis tells it, and closed.
    pub(super) fn protocol_fault(&mut self, fault: RequestFault) {
        self.worker.record.add(WorkerCounter::RedisFaultProtocol, 1);
        tracing::debug!(client = self.client.id, server = &*self.server.name, %fault, "a Redis client broke the protocol and is closed");
        if let Some(line) = fault.line() {
            self.say_error(&line);
        }
        self.closing = Some(End::Violation);
    }

    /// Takes the request at the front of `carry` out; `None`: there is no whole one.
    pub(super) fn take_front(&mut self) -> Option<Vec<u8>> {
        self.scanner = RequestScanner::default();
        let (whole, length) = front(&self.carry).ok()??;
        self.drop_front(length);
        Some(whole)
    }

    /// So much of `carry` has been dealt with.
    pub(super) fn drop_front(&mut self, length: usize) {
        self.scanner = RequestScanner::default();
        self.carry.drain(..length);
        if self.carry.is_empty() {
            self.carry = Vec::new();
        }
    }

    /// What others may see of the client follows what it is.
    pub(super) fn show(&self) {
        let shown = &self.client.shown;
        shown.database.set(self.database);
        shown.version.set(self.version);
        *shown.user.borrow_mut() = self.account.as_ref().map(|account| Rc::clone(&account.name));
    }
}

impl Queue {
    fn add(&mut self, work: Work, replies: u32, length: usize) {
        self.replies += replies;
        match self.runs.last_mut() {
            Some((last, count, bytes)) if *last == work && work != Work::Transaction => {
                *count += replies;
                *bytes += length;
            }
            Some(_) | None => self.runs.push((work, replies, length)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::sync::Arc;

    use super::{Client, Session, Stream, Worker};

    fn size_of_future<F: Future>(_of: fn(Stream, Arc<str>, Rc<Worker>) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_session_is_small() {
        assert!(size_of::<Session>() <= 192, "{}", size_of::<Session>());
        assert!(size_of::<Client>() <= 256, "{}", size_of::<Client>());
        assert!(size_of_future(super::super::serve) <= 256, "{}", size_of_future(super::super::serve));
    }
}
