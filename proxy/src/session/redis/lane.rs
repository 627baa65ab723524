//! One connection that many clients share. Sessions put requests in; the lane's task writes them once a turn, reads the replies, and hands each
//! to the client that it belongs to, straight from the read buffer.
//!
//! ```text
//!   session ──send──▶ ┌ pipeline ┐ ──one write a turn──▶ server
//!   session ──send──▶ │          │
//!   client  ◀─deliver─└──────────┘ ◀──────replies──────── server
//! ```
//! A large reply to a client that does not keep up retires the lane: others get a new one, and the reply then flows at the client's own pace.
//! Not here: which requests may come (`run`), how replies are handed out (`lane_replies`), and who owns which (`protocol::redis::tracker`).

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use sidepool_config::model::OutputLimit;
use sidepool_protocol::redis::command::Command;
use sidepool_protocol::redis::frame::FrameScanner;
use sidepool_protocol::redis::request::{RequestScanner, Scanned};
use sidepool_protocol::redis::tracker::{Own, Pipeline, Work};
use tokio::time::Sleep;

use super::client::{Client, Owner};
use super::end::End;
use super::flow::{Flow, Meeting};
use super::group::Group;
use super::lane_line::under_way;
use super::pause::Pause;
use super::reach::Reach;
use super::refusal;
use super::requests::resolve;
use super::slow_log::{SlowLog, Waited};
use super::throttle::Throttle;
use super::turns::{self, Turns};
use crate::clock;
use crate::observe::record::{PoolCounter, PoolGauge, PoolHistogram, PoolRecord};
use crate::pool::handle::Pool;
use crate::pool::lease::Lease;
use crate::pool::reason::Condition;
use crate::upstream::redis::connector::RedisConnector;
use crate::worker::Worker;

/// A shared connection.
pub struct Lane {
    pub(super) pipeline: RefCell<Pipeline<Owner>>,
    task: RefCell<Option<Waker>>,
    /// The task knows that there is something to do.
    scheduled: Cell<bool>,
    /// How many sessions use it.
    attached: Cell<u32>,
    heavy: bool,
    /// How many clients wait for replies.
    pub(super) active: Cell<u32>,
    pub(super) retired: Cell<bool>,
    /// The connection may have to log in again, with another secret.
    renews: Cell<bool>,
    /// Sessions that wait for it to be less full.
    pub(super) turns: Turns<Rc<Client>>,
    /// What may be under way while several identities use it.
    pub(super) flow: Flow,
    /// What may be, whoever uses it, where commands may take long.
    pub(super) reach: Option<Reach>,
    /// Whether the server halts writes, which wait here then.
    pub(super) pause: Rc<Pause>,
    /// Whether they do.
    pub(super) meeting: Rc<Meeting>,
    pub(super) record: Rc<PoolRecord>,
    /// Changes whenever something comes from the server, and when it is lost: what is at the front afterwards may be somebody else's.
    pub(super) progress: Cell<u32>,
    /// How far it was when it was last looked at with something owed.
    looked: Cell<Option<u32>>,
    /// What has been waited for, where the log is to know.
    slow: SlowLog,
    /// How many commands the gauge counts for it.
    in_flight: Cell<u64>,
}

impl Lane {
    /// A lane of `group`, with its task.
    pub fn start(group: &Rc<Group>, worker: &Rc<Worker>, heavy: bool) -> Rc<Self> {
        let mut pipeline = Pipeline::default();
        pipeline.at(group.worked_ms());
        let lane = Rc::new(Self {
            pipeline: RefCell::new(pipeline),
            task: RefCell::new(None),
            scheduled: Cell::new(false),
            attached: Cell::new(0),
            heavy,
            active: Cell::new(0),
            retired: Cell::new(false),
            renews: Cell::new(false),
            turns: Turns::default(),
            flow: Flow::default(),
            reach: heavy.then(Reach::default),
            pause: Rc::clone(&group.pause),
            meeting: Rc::clone(&group.meeting),
            record: Rc::clone(group.shared_record()),
            progress: Cell::new(0),
            looked: Cell::new(None),
            slow: SlowLog::default(),
            in_flight: Cell::new(0),
        });
        tokio::task::spawn_local(run(Rc::clone(&lane), Rc::downgrade(group), Rc::clone(worker)));
        lane
    }

    /// Queues requests that stand in `bytes`. `runs` says how they divide.
    pub fn send(&self, owner: &Rc<Client>, runs: &[(Work, u32, usize)], bytes: &[u8], muted: bool) {
        let key = Owner(Rc::clone(owner));
        let mut pipeline = self.pipeline.borrow_mut();
        for (work, replies, length) in runs {
            pipeline.push(&key, *work, *replies, *length, muted);
            self.owe(owner, *replies);
        }
        pipeline.extend(bytes);
        drop(pipeline);
        self.has_been_sent(owner, runs.iter().map(|(_, replies, _)| *replies).sum(), bytes);
    }

    /// Queues one request of which the numbers in the reply have to be raised.
    pub fn send_raised(&self, owner: &Rc<Client>, bytes: &[u8], muted: bool, raise: Box<[u32]>) {
        let mut pipeline = self.pipeline.borrow_mut();
        pipeline.push_raised(&Owner(Rc::clone(owner)), Work::Writes, bytes.len(), muted, raise);
        pipeline.extend(bytes);
        drop(pipeline);
        self.owe(owner, 1);
        self.has_been_sent(owner, 1, bytes);
    }

    /// `owner` has queued requests with so many replies.
    fn has_been_sent(&self, owner: &Client, replies: u32, bytes: &[u8]) {
        self.meeting.uses(owner.place.identity.get());
        if !self.turns.is_empty() {
            owner.place.took(turns::cost(replies as usize, bytes.len()));
        }
        self.schedule();
    }

    /// Queues a reply of our own behind what is owed to `owner`.
    pub fn send_own(&self, owner: &Rc<Client>, text: &[u8], muted: bool) {
        self.pipeline.borrow_mut().push_own(&Owner(Rc::clone(owner)), text, muted);
        self.owe(owner, 1);
        self.schedule();
    }

    /// Whether something is owed, and what has been waited for since the last look. There has been work for so many milliseconds.
    pub fn look(&self, worked_ms: u32) -> Looked {
        self.pipeline.borrow_mut().at(worked_ms);
        let pipeline = self.pipeline.borrow();
        let (now, waits) = (self.progress.get(), pipeline.awaits());
        let stuck = self.looked.replace(waits.then_some(now)) == Some(now) && waits;
        let request = if stuck { pipeline.nth_request(0) } else { None };
        match request.and_then(at_front) {
            Some(command) => Looked::Stalled(command),
            None if pipeline.is_empty() && self.turns.is_empty() => Looked::Idle,
            None => Looked::Busy,
        }
    }

    /// No log wants to know.
    pub fn forget_slow(&self) {
        self.slow.forget();
    }

    /// The same for the log, to which what took as long as `limit` is news: what was waited for, and how long.
    pub fn look_for_slow(&self, now: Instant, limit: Duration) -> Option<(Waited, Duration)> {
        let progress = self.progress.get();
        let pipeline = self.pipeline.borrow();
        let front = pipeline.next().filter(|_| self.looked.get() == Some(progress) && pipeline.awaits());
        let Some(front) = front else { return self.slow.note(None, now, limit) };
        if !self.slow.is_news(progress) {
            return None;
        }
        let found = pipeline.nth_request(0).and_then(|request| at_front(request).map(|command| (command, request)));
        let waited = found.map(|(command, request)| Waited::new(command, request, front.owner.0.id, now, progress));
        self.slow.note(waited, now, limit)
    }

    /// A session uses it from now on.
    pub fn attach(&self) {
        self.attached.set(self.attached.get() + 1);
    }

    /// A session does not use it any more.
    pub fn detach(&self) {
        self.attached.set(self.attached.get() - 1);
        if self.attached.get() == 0 {
            self.schedule();
        }
    }

    /// How many sessions use it.
    pub fn attached(&self) -> u32 {
        self.attached.get()
    }

    /// Whether it is for commands that keep the server busy: nobody expects quick answers behind one.
    pub fn is_heavy(&self) -> bool {
        self.heavy
    }

    /// What counts its commands.
    pub fn commands(&self) -> PoolCounter {
        if self.heavy { PoolCounter::LaneHeavyCommands } else { PoolCounter::LaneCommands }
    }

    /// Whether it takes no new requests.
    pub fn is_retired(&self) -> bool {
        self.retired.get()
    }

    /// Has the task look at its connection: the configuration has changed.
    pub fn wake(&self) {
        self.schedule();
    }

    /// The same: perhaps there is a new secret.
    pub fn renew(&self) {
        self.renews.set(true);
        self.schedule();
    }

    /// Has the connection log in again where its secret is not the present one, in turn with everybody's requests.
    fn log_in_again(&self, lease: &mut Lease<RedisConnector>) {
        self.renews.set(false);
        let connector = lease.pool().connector();
        if let Some(request) = connector.renewal(lease) {
            self.send(&Client::nobody(clock::now()), &[(Work::Reads, 1, request.len())], &request, true);
        }
    }

    fn schedule(&self) {
        if !self.scheduled.replace(true)
            && let Some(task) = &*self.task.borrow()
        {
            task.wake_by_ref();
        }
    }

    /// Replies of our own whose turn has come.
    pub(super) fn deliver_own(&self) {
        loop {
            let own = self.pipeline.borrow_mut().take_own();
            let Some(own) = own else { return };
            self.hand_over(&own);
        }
    }

    pub(super) fn hand_over(&self, own: &Own<Owner>) {
        if !own.muted {
            own.owner.0.deliver(&own.text, false);
        }
        self.pay(&own.owner.0, own.replies);
    }
}

/// The connection a lane has at the moment.
pub(super) struct Held {
    pub(super) lease: Lease<RedisConnector>,
    pub(super) scanner: FrameScanner,
    pub(super) limit: OutputLimit,
    /// The connection is given back whenever the lane is quiet.
    scarce: bool,
    pub(super) throttle: Option<Throttle>,
    /// The beginning of a reply whose numbers have to be raised.
    pub(super) kept: Vec<u8>,
    /// Another server may be meant by now: given up once nothing is owed.
    pub(super) stale: bool,
    /// The next look at how long replies take.
    pub(super) watch: Option<Pin<Box<Sleep>>>,
}

enum Ended {
    /// Nothing is owed, and nobody needs it or the pool wants it back.
    Quiet,
    /// It is out of step, or leads to what is not meant any more.
    Broken,
    /// The server closed it.
    Lost,
}

async fn run(lane: Rc<Lane>, group: Weak<Group>, worker: Rc<Worker>) {
    loop {
        poll_fn(|cx| lane.poll_work(cx)).await;
        let Some(pool) = group.upgrade().map(|group| Rc::clone(&group.shared)) else { return };
        if lane.is_retired() && lane.pipeline.borrow().is_empty() {
            return;
        }
        let mut lease = match lane.acquire(&pool).await {
            Ok(lease) => lease,
            Err(error) => {
                if group.upgrade().is_some_and(|group| group.on_refused(&pool, &error)) {
                    continue;
                }
                let says_so = worker.config.borrow().log.pooler_errors;
                lane.refuse(&pool, error, says_so);
                continue;
            }
        };
        lane.log_in_again(&mut lease);
        let Some((limit, scarce)) = group.upgrade().map(|group| (group.output_limits().normal, group.is_scarce())) else { return };
        let mut held =
            Held { lease, scanner: FrameScanner::default(), limit, scarce, throttle: None, kept: Vec::new(), stale: false, watch: None };
        pool.record().shift(PoolGauge::RedisShared, 1);
        let ended = poll_fn(|cx| {
            let ended = lane.drive(&mut held, cx, &worker, &group);
            lane.count_in_flight(pool.record());
            ended
        })
        .await;
        pool.record().shift(PoolGauge::RedisShared, -1);
        match ended {
            Ended::Quiet => held.lease.release(Condition::Clean),
            Ended::Broken | Ended::Lost => {
                let lost = matches!(ended, Ended::Lost);
                held.lease.release(if lost { Condition::Lost } else { Condition::Broken });
                // Of a reply that is kept back nothing has been handed over.
                lane.on_loss(held.scanner.is_between() || !held.kept.is_empty(), &pool);
            }
        }
        lane.count_in_flight(pool.record());
        lane.deliver_own();
        lane.call_next();
    }
}

impl Lane {
    /// Brings the gauge up to date, once a turn.
    pub(super) fn count_in_flight(&self, record: &PoolRecord) {
        let (now, before) = (self.pipeline.borrow().owed(), self.in_flight.get());
        if now != before {
            self.in_flight.set(now);
            record.shift(PoolGauge::RedisInFlight, now as i64 - before as i64);
        }
    }

    fn poll_work(&self, cx: &Context<'_>) -> Poll<()> {
        self.remember(cx);
        self.deliver_own();
        let idle = self.pipeline.borrow().is_empty();
        if idle && !self.is_retired() { Poll::Pending } else { Poll::Ready(()) }
    }

    fn remember(&self, cx: &Context<'_>) {
        let mut task = self.task.borrow_mut();
        if !task.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *task = Some(cx.waker().clone());
        }
        self.scheduled.set(false);
    }

    /// A turn of the lane: write what has been queued, read what is there.
    fn drive(&self, held: &mut Held, cx: &mut Context<'_>, worker: &Worker, group: &Weak<Group>) -> Poll<Ended> {
        self.remember(cx);
        self.deliver_own();
        if self.renews.get() {
            self.log_in_again(&mut held.lease);
        }
        let record = Rc::clone(held.lease.pool());
        let record = record.record();
        loop {
            if self.write(held, cx, record).is_err() {
                return Poll::Ready(Ended::Lost);
            }
            if held.throttle.is_some() && held.throttled(self, cx) {
                return Poll::Pending;
            }
            let mut buffer = worker.buffers.read.borrow_mut();
            match held.lease.stream.poll_read(cx, &mut buffer) {
                Poll::Pending => break,
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Ended::Lost),
                Poll::Ready(Ok(read)) => {
                    record.add(PoolCounter::BytesFromServer, read as u64);
                    if self.dispatch(held, &buffer[..read], record, group).is_err() {
                        return Poll::Ready(Ended::Broken);
                    }
                }
            }
            drop(buffer);
            self.call_next();
        }
        if self.watch(held, cx, group, record).is_err() {
            return Poll::Ready(Ended::Broken);
        }
        let quiet = self.pipeline.borrow().is_empty();
        if quiet && held.stale {
            return Poll::Ready(Ended::Broken);
        }
        if quiet && (held.scarce || self.attached() == 0 || self.is_retired() || held.lease.is_recalled()) {
            Poll::Ready(Ended::Quiet)
        } else {
            Poll::Pending
        }
    }

    fn write(&self, held: &mut Held, cx: &mut Context<'_>, record: &PoolRecord) -> Result<(), ()> {
        let mut pipeline = self.pipeline.borrow_mut();
        if pipeline.unsent().is_empty() {
            return Ok(());
        }
        while !pipeline.unsent().is_empty() {
            match held.lease.stream.poll_write(cx, pipeline.unsent()) {
                Poll::Pending => break,
                Poll::Ready(Ok(0) | Err(_)) => return Err(()),
                Poll::Ready(Ok(written)) => {
                    record.add(PoolCounter::BytesToServer, written as u64);
                    record.add(if self.heavy { PoolCounter::LaneHeavyWrites } else { PoolCounter::LaneWrites }, 1);
                    record.count(PoolHistogram::RedisDepth, pipeline.owed());
                    pipeline.on_sent(written);
                }
            }
        }
        if !self.turns.is_empty() && self.meeting.is_on() && self.flow.wants_mark() {
            self.flow.mark(clock::now(), pipeline.owed(), pipeline.slots() == 1);
        }
        match &self.reach {
            Some(reach) if self.pause.is_on() => reach.let_be(),
            Some(reach) => reach.on_sent(pipeline.owed(), under_way(&pipeline, reach.full()).cost(), clock::now),
            None => {}
        }
        match held.lease.stream.poll_sent(cx) {
            Poll::Ready(Err(_)) => Err(()),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    /// The connection is lost: what may be asked again stays, the rest is answered.
    fn on_loss(&self, between: bool, pool: &Pool<RedisConnector>) {
        let record = pool.record();
        self.progress.set(self.progress.get().wrapping_add(1));
        self.flow.forget();
        self.reach.iter().for_each(Reach::forget);
        let mut pipeline = self.pipeline.borrow_mut();
        if pipeline.is_empty() {
            return;
        }
        if !between && let Some(slot) = pipeline.next().filter(|slot| !slot.muted && !slot.abandoned) {
            // Half a reply has been handed over; nothing that could follow would be understood.
            let client = Rc::clone(&slot.owner.0);
            drop(pipeline);
            client.doom(End::ServerLost);
            pipeline = self.pipeline.borrow_mut();
        }
        let loss = pipeline.on_loss(refusal::LOST);
        let known = pipeline.take_known();
        drop(pipeline);
        for own in known {
            self.hand_over(&own);
        }
        record.add(PoolCounter::ErrorUpstreamLost, loss.unknown);
        record.add(PoolCounter::RetriedUnsent, loss.moved);
        record.add(PoolCounter::RetriedRead, loss.replayed);
        tracing::warn!(
            pool = &**pool.name(),
            moved = loss.moved,
            replayed = loss.replayed,
            unknown = loss.unknown,
            "a shared Redis connection was lost with requests on it"
        );
    }
}

/// What a look at a lane says.
pub enum Looked {
    /// Nothing is owed.
    Idle,
    /// Replies come, or there is nothing to be said about them.
    Busy,
    /// No reply has come since the last look, and this command is waited for.
    Stalled(&'static Command),
}

/// The table's row for a whole request.
fn at_front(request: &[u8]) -> Option<&'static Command> {
    match RequestScanner::default().scan(request, false) {
        Ok(Scanned::Request(found)) => resolve(request, &found),
        Ok(Scanned::Incomplete { .. } | Scanned::Nothing { .. } | Scanned::Inline { .. }) | Err(_) => None,
    }
}
