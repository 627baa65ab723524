//! One connection that many clients share. Sessions put requests in; the lane's task writes them once a turn, reads the replies, and hands each
//! to the client that it belongs to, straight from the read buffer.
//!
//! ```text
//!   session ──send──▶ ┌ pipeline ┐ ──one write a turn──▶ server
//!   session ──send──▶ │          │
//!   client  ◀─deliver─└──────────┘ ◀──────replies──────── server
//! ```
//! A large reply to a client that does not keep up retires the lane: others get a new one, and the reply then flows at the client's own pace.
//! Not here: which requests may come (`run`), and who owns which reply (`protocol::redis::tracker`).

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use sidepool_config::model::OutputLimit;
use sidepool_protocol::redis::audience;
use sidepool_protocol::redis::command::Command;
use sidepool_protocol::redis::frame::{FrameScanner, Scan};
use sidepool_protocol::redis::request::{RequestScanner, Scanned};
use sidepool_protocol::redis::tracker::{Pipeline, Work};
use tokio::time::Sleep;

use super::client::{Client, Fate, Owner, Redo};
use super::count;
use super::group::Group;
use super::redo::{NotExecuted, not_executed};
use super::refusal;
use super::requests::resolve;
use super::throttle::Throttle;
use super::turns::{self, Turns};
use crate::observe::record::{PoolCounter, PoolGauge, PoolHistogram, PoolRecord};
use crate::pool::id::IdentityId;
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
    turns: Turns<Rc<Client>>,
    /// Changes whenever something comes from the server.
    progress: Cell<u32>,
    /// How far it was when it was last looked at with something owed.
    looked: Cell<Option<u32>>,
}

impl Lane {
    /// A lane of `group`, with its task.
    pub fn start(group: &Rc<Group>, worker: &Rc<Worker>, heavy: bool) -> Rc<Self> {
        let lane = Rc::new(Self {
            pipeline: RefCell::default(),
            task: RefCell::new(None),
            scheduled: Cell::new(false),
            attached: Cell::new(0),
            heavy,
            active: Cell::new(0),
            retired: Cell::new(false),
            renews: Cell::new(false),
            turns: Turns::default(),
            progress: Cell::new(0),
            looked: Cell::new(None),
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
        if !self.turns.is_empty() {
            let replies: u32 = runs.iter().map(|(_, replies, _)| *replies).sum();
            owner.place.took(turns::cost(replies as usize, bytes.len()));
        }
        self.schedule();
    }

    /// Queues one request of which the numbers in the reply have to be raised.
    pub fn send_raised(&self, owner: &Rc<Client>, bytes: &[u8], muted: bool, raise: Box<[u32]>) {
        let mut pipeline = self.pipeline.borrow_mut();
        pipeline.push_raised(&Owner(Rc::clone(owner)), Work::Writes, bytes.len(), muted, raise);
        pipeline.extend(bytes);
        self.owe(owner, 1);
        drop(pipeline);
        self.schedule();
    }

    /// Queues a reply of our own behind what is owed to `owner`.
    pub fn send_own(&self, owner: &Rc<Client>, text: &[u8], muted: bool) {
        self.pipeline.borrow_mut().push_own(&Owner(Rc::clone(owner)), text, muted);
        self.owe(owner, 1);
        self.schedule();
    }

    /// Hands a batch of replies over.
    fn finish(&self, batch: &mut Option<Batch>, bytes: &[u8], to: usize, inside: bool, record: &PoolRecord) {
        let Some(batch) = batch.take() else { return };
        let client = &batch.owner.0;
        if !batch.muted && to > batch.from {
            record.add(PoolCounter::BytesToClient, (to - batch.from) as u64);
            client.deliver(&bytes[batch.from..to], inside);
        }
        if batch.replies > 0 && !batch.abandoned {
            self.pay(client, batch.replies);
        }
    }

    /// Whether it takes more requests of this client now; when not, the client's session is woken once it does.
    pub fn poll_room(&self, client: &Rc<Client>) -> Poll<()> {
        let (commands, bytes) = self.load();
        if self.turns.admits(commands, bytes, || Rc::clone(client), &client.place) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// How many requests have no answer, and in how many bytes they stand.
    fn load(&self) -> (usize, usize) {
        let pipeline = self.pipeline.borrow();
        (usize::try_from(pipeline.owed()).unwrap_or(usize::MAX), pipeline.unanswered_bytes())
    }

    /// How much a client may add in one go.
    pub fn helping(&self) -> usize {
        let (commands, bytes) = self.load();
        let roomy = self.turns.is_empty() && commands < turns::FULL_COMMANDS / 2 && bytes < turns::FULL_BYTES / 2;
        if roomy { usize::MAX } else { turns::QUANTUM }
    }

    /// Whether something is owed, and what has been waited for since the last look.
    pub fn look(&self) -> Looked {
        let pipeline = self.pipeline.borrow();
        let (now, waits) = (self.progress.get(), pipeline.awaits());
        let stuck = self.looked.replace(waits.then_some(now)) == Some(now) && waits;
        let request = if stuck { pipeline.nth_request(0) } else { None };
        match request.and_then(at_front) {
            Some(command) => Looked::Stalled(command),
            None if pipeline.is_empty() => Looked::Idle,
            None => Looked::Busy,
        }
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
            lease.pool().record().shift(PoolGauge::RedisInFlight, 1);
            self.send(&Client::nobody(crate::clock::now()), &[(Work::Reads, 1, request.len())], &request, true);
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
    fn deliver_own(&self) {
        loop {
            let own = self.pipeline.borrow_mut().take_own();
            let Some(own) = own else { return };
            if !own.muted {
                own.owner.0.deliver(&own.text, false);
            }
            self.pay(&own.owner.0, own.replies);
        }
    }

    fn wake_waiting(&self) {
        if self.turns.is_empty() {
            return;
        }
        let (commands, bytes) = self.load();
        for client in self.turns.next(commands, bytes) {
            client.wake_session();
        }
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
    kept: Vec<u8>,
    /// Another server may be meant by now: given up once nothing is owed.
    stale: bool,
    /// The next look at how long replies take.
    pub(super) watch: Option<Pin<Box<Sleep>>>,
}

enum Ended {
    /// Nothing is owed, and nobody needs it or the pool wants it back.
    Quiet,
    /// The server closed it, or is out of step.
    Lost,
}

async fn run(lane: Rc<Lane>, group: Weak<Group>, worker: Rc<Worker>) {
    loop {
        poll_fn(|cx| lane.poll_work(cx)).await;
        let Some(pool) = group.upgrade().map(|group| Rc::clone(&group.shared)) else { return };
        if lane.is_retired() && lane.pipeline.borrow().is_empty() {
            return;
        }
        let mut lease = match pool.acquire(IdentityId::default()).await {
            Ok(lease) => lease,
            Err(error) => {
                if group.upgrade().is_some_and(|group| group.on_refused(&pool, &error)) {
                    continue;
                }
                let owed = lane.pipeline.borrow().slots() as u64;
                pool.record().add(PoolCounter::ErrorRefused, owed);
                lane.pipeline.borrow_mut().fail_all(&refusal::line(&error));
                lane.deliver_own();
                lane.wake_waiting();
                continue;
            }
        };
        lane.log_in_again(&mut lease);
        let Some((limit, scarce)) = group.upgrade().map(|group| (group.output_limits().normal, group.is_scarce())) else { return };
        let mut held =
            Held { lease, scanner: FrameScanner::default(), limit, scarce, throttle: None, kept: Vec::new(), stale: false, watch: None };
        pool.record().shift(PoolGauge::RedisShared, 1);
        let ended = poll_fn(|cx| lane.drive(&mut held, cx, &worker, &group)).await;
        pool.record().shift(PoolGauge::RedisShared, -1);
        match ended {
            Ended::Quiet => held.lease.release(Condition::Clean),
            Ended::Lost => {
                held.lease.release(Condition::Broken);
                // Of a reply that is kept back nothing has been handed over.
                lane.on_loss(held.scanner.is_between() || !held.kept.is_empty(), &pool);
            }
        }
        lane.deliver_own();
        lane.wake_waiting();
    }
}

impl Lane {
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
                        return Poll::Ready(Ended::Lost);
                    }
                }
            }
            drop(buffer);
            self.wake_waiting();
        }
        if self.watch(held, cx, group, record).is_err() {
            return Poll::Ready(Ended::Lost);
        }
        let quiet = self.pipeline.borrow().is_empty();
        if quiet && held.stale {
            return Poll::Ready(Ended::Lost);
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
        match held.lease.stream.poll_sent(cx) {
            Poll::Ready(Err(_)) => Err(()),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    /// Hands replies to their owners. One delivery for all that stand next to each other.
    fn dispatch(&self, held: &mut Held, bytes: &[u8], record: &PoolRecord, group: &Weak<Group>) -> Result<(), ()> {
        self.progress.set(self.progress.get().wrapping_add(1));
        let mut at = 0;
        let mut batch: Option<Batch> = None;
        while at < bytes.len() {
            let (owner, muted, abandoned, wanted, raised) = {
                let pipeline = self.pipeline.borrow();
                // A reply that nobody is owed: the connection is out of step.
                let Some(slot) = pipeline.next() else { return Err(()) };
                (slot.owner.clone(), slot.muted || slot.abandoned, slot.abandoned, pipeline.next_replies(), !slot.raise.is_empty())
            };
            if wanted == 0 {
                self.finish(&mut batch, bytes, at, false, record);
                self.deliver_own();
                continue;
            }
            if raised {
                self.finish(&mut batch, bytes, at, false, record);
                at += self.dispatch_raised(held, &bytes[at..], &owner, muted, abandoned, record)?;
                continue;
            }
            if batch.as_ref().is_none_or(|batch| batch.owner != owner || batch.muted != muted || batch.abandoned != abandoned) {
                self.finish(&mut batch, bytes, at, false, record);
                batch = Some(Batch { owner: owner.clone(), muted, abandoned, from: at, replies: 0 });
            }
            let mut got = 0;
            let mut redo = None;
            while got < wanted && at < bytes.len() {
                let whole = held.scanner.is_between();
                match held.scanner.scan(&bytes[at..]).map_err(drop)? {
                    Scan::More => at = bytes.len(),
                    Scan::End { used, value } => {
                        if value.is_error() {
                            let line = &bytes[at..at + used];
                            if owner.0.is_nobody() {
                                refused_renewal(line, held.lease.pool());
                            }
                            record.add(count::server_error(line), 1);
                            let before = got + batch.as_ref().map_or(0, |batch| batch.replies);
                            redo = if whole && !muted { self.redo(held, line, &owner, [before, got], group) } else { None };
                        }
                        at += used;
                        got += 1;
                        if redo.is_some() {
                            self.finish(&mut batch, bytes, at - used, false, record);
                            break;
                        }
                    }
                }
            }
            if got > 0 {
                self.pipeline.borrow_mut().on_replies(got);
                record.shift(PoolGauge::RedisInFlight, -i64::from(got));
                if let Some(batch) = &mut batch {
                    batch.replies += got;
                }
            }
            if let Some(redo) = redo {
                // It is the one reply that is owed; what came before it in this batch is paid here as well.
                owner.0.put_redo(redo);
                self.pay(&owner.0, got);
            }
        }
        let inside = !held.scanner.is_between() && held.kept.is_empty();
        let last = batch.as_ref().filter(|batch| !batch.muted).map(|batch| batch.owner.clone());
        self.finish(&mut batch, bytes, at, inside, record);
        self.deliver_own();
        if let Some(Owner(client)) = last {
            self.watch_backlog(held, client, inside, group);
        }
        Ok(())
    }

    /// What becomes of a command that the server did not execute; `None`: its client is told. Replies of the same client come with this
    /// one: `before` in all, and `here` that answer requests of the same slot.
    fn redo(&self, held: &mut Held, line: &[u8], owner: &Owner, [before, here]: [u32; 2], group: &Weak<Group>) -> Option<Redo> {
        let why = not_executed(line)?;
        let alone = owner.0.pending() == before + 1;
        let wanted = why == NotExecuted::NoScript || group.upgrade().is_some_and(|group| group.retries());
        held.stale |= why == NotExecuted::NotHere && wanted;
        if why == NotExecuted::NoScript
            && !alone
            && let Some(group) = group.upgrade()
        {
            group.reload_scripts(self.pipeline.borrow().nth_request(here).unwrap_or_default());
        }
        if !alone || !wanted {
            return None;
        }
        let request = self.pipeline.borrow().nth_request(here)?.to_vec();
        Some(Redo { request, line: line.to_vec(), why })
    }

    /// One reply whose numbers are too low, as far as it is there; says how many bytes that is.
    fn dispatch_raised(
        &self,
        held: &mut Held,
        bytes: &[u8],
        owner: &Owner,
        muted: bool,
        abandoned: bool,
        record: &PoolRecord,
    ) -> Result<usize, ()> {
        let Scan::End { used, .. } = held.scanner.scan(bytes).map_err(drop)? else {
            held.kept.extend_from_slice(bytes);
            return Ok(bytes.len());
        };
        held.kept.extend_from_slice(&bytes[..used]);
        let kept = std::mem::take(&mut held.kept);
        let reply = self.pipeline.borrow().next().map(|slot| audience::raise(&kept, &slot.raise)).unwrap_or(kept);
        self.pipeline.borrow_mut().on_replies(1);
        record.shift(PoolGauge::RedisInFlight, -1);
        if !muted {
            record.add(PoolCounter::BytesToClient, reply.len() as u64);
            owner.0.deliver(&reply, false);
        }
        if !abandoned {
            self.pay(&owner.0, 1);
        }
        Ok(used)
    }

    /// The connection is lost: what may be asked again stays, the rest is answered.
    fn on_loss(&self, between: bool, pool: &crate::pool::handle::Pool<RedisConnector>) {
        let record = pool.record();
        let mut pipeline = self.pipeline.borrow_mut();
        if pipeline.is_empty() {
            return;
        }
        if !between && let Some(slot) = pipeline.next() {
            // Half a reply has been handed over; nothing that could follow would be understood.
            let client = Rc::clone(&slot.owner.0);
            drop(pipeline);
            client.doom(Fate::Gone);
            pipeline = self.pipeline.borrow_mut();
        }
        let loss = pipeline.on_loss(refusal::LOST);
        record.add(PoolCounter::ErrorUpstreamLost, loss.unknown);
        record.add(PoolCounter::RetriedUnsent, loss.moved);
        record.add(PoolCounter::RetriedRead, loss.replayed);
        record.shift(PoolGauge::RedisInFlight, -(loss.unknown as i64));
        tracing::warn!(
            pool = &**pool.name(),
            moved = loss.moved,
            replayed = loss.replayed,
            unknown = loss.unknown,
            "a shared Redis connection was lost with requests on it"
        );
    }
}

/// The connection stays what it was; new ones would not come in.
fn refused_renewal(line: &[u8], pool: &crate::pool::handle::Pool<RedisConnector>) {
    let said = String::from_utf8_lossy(line.get(1..).unwrap_or_default());
    tracing::warn!(pool = &**pool.name(), said = said.trim_end(), "the Redis server does not take the new password on an open connection");
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

/// Replies of one client that stand next to each other.
struct Batch {
    owner: Owner,
    muted: bool,
    /// Its owner waits no longer, and is paid.
    abandoned: bool,
    from: usize,
    replies: u32,
}
