//! The one connection of a process that listens in a database, for the clients of all workers.
//!
//! It is opened when somebody LISTENs, as the pool's user whose client came first, from a pool of its own that counts toward `max_db_connections`
//! and `max_user_connections`; each channel is listened to once. When nobody listens any more the connection goes back and soon closes. When it
//! is to be another one, the new one takes over without a gap (`succession`); when it is lost, it is opened again and listens to what is still wanted; what was notified meanwhile is lost, and the clients are told ([`ListenGap`]).
//! Not here: what the server's words mean (`protocol::postgres::subscriber`), or who listens on a worker (`branch`).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use sidepool_config::model::ListenGap;
use sidepool_protocol::postgres::fault::Fault;
use sidepool_protocol::postgres::subscriber::{Channel, Event, Subscriber};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::flight::Flight;
use super::succession::{Confirmed, Heir, Line};
use super::{HubKey, MAX_CHANNELS, News, tell, words};
use crate::clock;
use crate::observe::record::{PoolCounter, PoolGauge, PoolRecord};
use crate::pool::id::IdentityId;
use crate::pool::lease::Lease;
use crate::pool::reason::Condition;
use crate::session::postgres::route::{self, PoolKey};
use crate::upstream::postgres::connector::PgConnector;
use crate::worker::{Worker, WorkerId};

/// How long a connection is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long to wait before trying again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// How often the connection is looked after.
const TICK: Duration = Duration::from_secs(1);

/// After so many ticks without a word the server is asked for one.
const QUIET_TICKS: u32 = 30;

/// It has so many to give it.
const ANSWER_TICKS: u32 = 10;

/// After so many ticks it is tried again to replace it.
const RETRY_TICKS: u32 = 5;

/// Most pools as whose user the connection may be opened that are kept in mind.
const MAX_POOLS: usize = 16;

/// What the connection is prepared with. Texts are converted here and nowhere else, so that all clients that listen here use the one encoding.
const PREPARE: &str = "SET client_encoding = 'UTF8'; SET application_name = 'sidepool listen'";

/// The hub of one database.
pub struct Hub {
    key: HubKey,
    topics: RefCell<HashMap<Channel, Topic>>,
    /// As whose user the connection may be opened.
    pools: RefCell<Vec<PoolKey>>,
    subscriber: RefCell<Subscriber>,
    /// A connection that is to take over.
    heir: RefCell<Option<Heir>>,
    /// Whether there is a connection that commands can be given to.
    open: Cell<bool>,
    numbers: Cell<u64>,
    task: RefCell<Option<Waker>>,
    /// What has been sent to other workers and is not there yet.
    flight: Arc<Flight>,
    /// How many channels the metrics show.
    counted: Cell<i64>,
}

/// A channel.
struct Topic {
    /// Of the last LISTEN that was sent for it.
    number: u64,
    standing: Standing,
    /// Which workers want it, each with its last request.
    workers: Vec<(WorkerId, u64)>,
}

/// How far a channel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// The server has not confirmed it yet.
    Asked,
    /// It is listened to.
    Heard,
    /// It was, and the connection was lost since.
    Lost,
}

/// How a connection ended.
enum Ended {
    /// Nobody listens any more.
    Idle,
    /// It was lost.
    Lost(String),
    /// The configuration leads nobody there any more.
    Gone,
}

impl Hub {
    /// A hub without channels, with its task.
    pub(super) fn start(key: HubKey, worker: &Rc<Worker>) -> Rc<Self> {
        let hub = Rc::new(Self::new(key));
        tokio::task::spawn_local(run(Rc::clone(&hub), Rc::clone(worker)));
        hub
    }

    fn new(key: HubKey) -> Self {
        Self {
            key,
            topics: RefCell::default(),
            pools: RefCell::default(),
            subscriber: RefCell::default(),
            heir: RefCell::default(),
            open: Cell::new(false),
            numbers: Cell::new(0),
            task: RefCell::new(None),
            flight: Arc::default(),
            counted: Cell::new(0),
        }
    }

    /// A worker wants to hear a channel.
    pub(super) fn join(&self, from: WorkerId, channel: Channel, turn: u64, pool: PoolKey, worker: &Worker) {
        self.remember(pool);
        if let Some(news) = self.enter(from, channel, turn) {
            self.post(worker, from, news);
        }
        self.wake();
    }

    /// The answer, if there is one already.
    fn enter(&self, from: WorkerId, channel: Channel, turn: u64) -> Option<News> {
        let mut topics = self.topics.borrow_mut();
        if topics.len() >= MAX_CHANNELS && !topics.contains_key(&channel) {
            let fault = Arc::new(words::too_many_channels_in_all());
            return Some(News::Refused { channel, turn, fault });
        }
        let is_new = !topics.contains_key(&channel);
        let topic =
            topics.entry(Arc::clone(&channel)).or_insert_with(|| Topic { number: 0, standing: Standing::Asked, workers: Vec::new() });
        topic.workers.retain(|(other, _)| *other != from);
        topic.workers.push((from, turn));
        if topic.standing == Standing::Heard {
            return Some(News::Joined { channel, turn });
        }
        if is_new && self.open.get() {
            topic.number = self.next_number();
            self.listen(&channel, topic.number);
        }
        None
    }

    /// A worker does not want it any more.
    pub(super) fn leave(&self, from: WorkerId, channel: &Channel) {
        let mut topics = self.topics.borrow_mut();
        let Some(topic) = topics.get_mut(channel) else { return };
        topic.workers.retain(|(other, _)| *other != from);
        if topic.workers.is_empty() {
            topics.remove(channel);
            if self.open.get() {
                self.subscriber.borrow_mut().unlisten(channel);
                if let Some(heir) = &mut *self.heir.borrow_mut() {
                    heir.subscriber.unlisten(channel);
                }
            }
        }
        self.wake();
    }

    /// Sends a LISTEN where it has to be sent.
    fn listen(&self, channel: &Channel, number: u64) {
        let mut heir = self.heir.borrow_mut();
        if !heir.as_ref().is_some_and(Heir::is_told) {
            self.subscriber.borrow_mut().listen(channel, number);
        }
        if let Some(heir) = &mut *heir {
            heir.subscriber.listen(channel, number);
        }
    }

    fn remember(&self, pool: PoolKey) {
        let mut pools = self.pools.borrow_mut();
        if pools.len() < MAX_POOLS && !pools.contains(&pool) {
            pools.push(pool);
        }
    }

    fn next_number(&self) -> u64 {
        self.numbers.set(self.numbers.get() + 1);
        self.numbers.get()
    }

    fn wake(&self) {
        if let Some(task) = &*self.task.borrow() {
            task.wake_by_ref();
        }
    }

    fn post(&self, worker: &Worker, to: WorkerId, news: News) {
        let key = self.key.clone();
        worker.mailboxes.post(to, move |worker| tell(worker, &key, &news));
    }

    /// Tells all workers that want something.
    fn post_to_all(&self, worker: &Worker, news: &News) {
        for id in worker.mailboxes.ids() {
            self.post(worker, id, news.clone());
        }
    }

    /// There is a new connection: everything that somebody wants is listened to.
    fn begin(&self) {
        let mut subscriber = Subscriber::default();
        subscriber.run(PREPARE);
        for (channel, topic) in &mut *self.topics.borrow_mut() {
            topic.number = self.next_number();
            subscriber.listen(channel, topic.number);
        }
        *self.subscriber.borrow_mut() = subscriber;
        self.open.set(true);
    }

    /// There is no connection to be had: who waits for it is told. Answers whether somebody still wants one.
    fn refuse(&self, worker: &Worker, fault: Fault) -> bool {
        let fault = Arc::new(fault);
        let refused: Vec<_> = self.topics.borrow_mut().extract_if(|_, topic| topic.standing == Standing::Asked).collect();
        for (channel, topic) in refused {
            for (to, turn) in topic.workers {
                self.post(worker, to, News::Refused { channel: Arc::clone(&channel), turn, fault: Arc::clone(&fault) });
            }
        }
        self.post_to_all(worker, &News::Down(fault));
        !self.topics.borrow().is_empty()
    }

    /// The connection is gone.
    fn lose(&self, worker: &Worker, cause: &str) {
        let gap = worker.config.borrow().postgres.as_ref().map_or(ListenGap::Close, |postgres| postgres.listen_gap);
        let mut topics = self.topics.borrow_mut();
        let before = topics.len();
        match gap {
            ListenGap::Close => topics.retain(|_, topic| topic.standing == Standing::Asked),
            ListenGap::Warn => {
                topics.values_mut().filter(|topic| topic.standing == Standing::Heard).for_each(|topic| topic.standing = Standing::Lost);
            }
        }
        tracing::warn!(database = &*self.key.dbname, channels = before, cause, "the connection that listens for notifications was lost");
        drop(topics);
        self.post_to_all(worker, &News::Lost(gap));
    }

    fn is_idle(&self) -> bool {
        self.topics.borrow().is_empty() && self.subscriber.borrow().is_quiet()
    }
}

/// Serves a database's clients for as long as some of them listen.
async fn run(hub: Rc<Hub>, worker: Rc<Worker>) {
    let mut pause = RETRY.0;
    while !hub.topics.borrow().is_empty() {
        let lease = match hub.open(&worker).await {
            Ok(Some(lease)) => lease,
            Ok(None) => {
                hub.give_up(&worker);
                break;
            }
            Err(fault) => {
                if hub.refuse(&worker, fault) {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY.1);
                }
                continue;
            }
        };
        pause = RETRY.0;
        hub.serve(lease, &worker).await;
    }
    // Nothing runs between the last look and this: whoever comes from now on makes a new one.
    worker.postgres.listening.hubs.borrow_mut().remove(&hub.key);
}

/// The future of a connection.
type Opening<'a> = Pin<Box<dyn Future<Output = Result<Option<Lease<PgConnector>>, Fault>> + 'a>>;

/// The connection.
struct Held<'a> {
    line: Line,
    tick: Pin<Box<Interval>>,
    /// Ticks since the server said something.
    silent: u32,
    /// Another one is being opened in its place.
    opening: Option<Opening<'a>>,
    /// Ticks before that is tried again.
    pause: u32,
}

impl Hub {
    /// A connection; `None`: the configuration leads nobody there any more.
    async fn open(&self, worker: &Rc<Worker>) -> Result<Option<Lease<PgConnector>>, Fault> {
        let config = Arc::clone(&worker.config.borrow());
        let Some(postgres) = &config.postgres else { return Ok(None) };
        let found = self.pools.borrow().iter().find_map(|pool| route::listening_route(postgres, pool));
        let Some(route) = found else { return Ok(None) };
        if let Some((_, max)) = route.caps.iter().find(|(_, max)| *max == 1) {
            return Err(words::too_few_connections(*max));
        }
        let pool = worker.postgres.pools.get(&route, worker).map_err(|_| words::no_database())?;
        let acquire = pool.pool.acquire(IdentityId::default()).within(Some(PATIENCE));
        acquire.await.map(Some).map_err(|error| words::no_connection(&error))
    }

    async fn serve(&self, lease: Lease<PgConnector>, worker: &Rc<Worker>) {
        self.begin();
        self.say(&lease);
        let mut tick = Box::pin(interval(TICK));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut held = Held { line: Line::new(lease), tick, silent: 0, opening: None, pause: 0 };
        let ended = poll_fn(|cx| self.drive(&mut held, cx, worker)).await;
        self.open.set(false);
        self.heir.take();
        self.count(&held.line, true);
        let lease = held.line.lease;
        match ended {
            Ended::Idle => lease.release(Condition::Clean),
            Ended::Lost(cause) => {
                lease.pool().record().add(PoolCounter::ListenLost, 1);
                lease.release(Condition::Broken);
                self.lose(worker, &cause);
            }
            Ended::Gone => {
                lease.release(Condition::Broken);
                self.give_up(worker);
            }
        }
    }

    fn say(&self, lease: &Lease<PgConnector>) {
        let (channels, pool) = (self.topics.borrow().len(), lease.pool().name());
        tracing::info!(database = &*self.key.dbname, channels, pool = &**pool, "listening for notifications");
    }

    /// There is no such database any more.
    fn give_up(&self, worker: &Worker) {
        self.refuse(worker, words::no_database());
        self.topics.take();
        self.post_to_all(worker, &News::Gone);
    }

    fn drive<'a>(&'a self, held: &mut Held<'a>, cx: &mut Context<'_>, worker: &'a Rc<Worker>) -> Poll<Ended> {
        match &mut *self.task.borrow_mut() {
            Some(known) => known.clone_from(cx.waker()),
            unknown @ None => *unknown = Some(cx.waker().clone()),
        }
        while held.tick.as_mut().poll_tick(cx).is_ready() {
            if let Err(cause) = self.look_after(held, worker) {
                return Poll::Ready(Ended::Lost(cause));
            }
        }
        if let Err(cause) = self.drive_line(&mut held.line, &mut held.silent, cx, worker) {
            return Poll::Ready(Ended::Lost(cause));
        }
        if let Some(opening) = &mut held.opening
            && let Poll::Ready(opened) = opening.as_mut().poll(cx)
        {
            held.opening = None;
            match opened {
                Ok(Some(lease)) => self.appoint(lease),
                Ok(None) => return Poll::Ready(Ended::Gone),
                Err(fault) => tracing::warn!(database = &*self.key.dbname, %fault, "the connection that listens cannot be replaced yet"),
            }
        }
        if let Err(cause) = self.drive_heir(held, cx, worker) {
            return Poll::Ready(Ended::Lost(cause));
        }
        self.count(&held.line, false);
        if self.is_idle() { Poll::Ready(Ended::Idle) } else { Poll::Pending }
    }

    fn drive_line(&self, line: &mut Line, silent: &mut u32, cx: &mut Context<'_>, worker: &Worker) -> Result<(), String> {
        loop {
            line.write(&mut self.subscriber.borrow_mut(), cx)?;
            if self.flight.is_full(cx) {
                return Ok(());
            }
            let mut buffer = worker.buffers.read.borrow_mut();
            let Some(read) = line.read(cx, &mut buffer)? else { return Ok(()) };
            *silent = 0;
            let record = line.lease.pool().record();
            record.add(PoolCounter::BytesFromServer, read as u64);
            self.subscriber.borrow_mut().on_bytes(&buffer[..read], |event| self.on_event(event, record, worker))?;
        }
    }

    /// A connection is open that is to take over.
    fn appoint(&self, lease: Lease<PgConnector>) {
        let topics = self.topics.borrow();
        let heir = Heir::new(lease, PREPARE, topics.iter().map(|(channel, topic)| (Arc::clone(channel), topic.number)));
        self.subscriber.borrow_mut().listen(heir.mark(), 0);
        *self.heir.borrow_mut() = Some(heir);
        self.wake();
    }

    /// An error: what the new connection had taken over is lost with it.
    fn drive_heir(&self, held: &mut Held<'_>, cx: &mut Context<'_>, worker: &Worker) -> Result<(), String> {
        let mut place = self.heir.borrow_mut();
        let Some(heir) = &mut *place else { return Ok(()) };
        let quiet = !self.subscriber.borrow().is_owed();
        let confirmed = match heir.drive(cx, &mut worker.buffers.read.borrow_mut(), quiet) {
            Ok(confirmed) => confirmed,
            Err(cause) if heir.is_told() => return Err(cause),
            Err(cause) => {
                tracing::warn!(database = &*self.key.dbname, cause, "the connection that was to listen from now on is of no use");
                *place = None;
                return Ok(());
            }
        };
        for one in confirmed {
            match one {
                Confirmed::Before => {}
                Confirmed::Behind(channel, number) => self.on_listening(&channel, number, worker),
            }
        }
        if heir.is_ready()
            && let Some(heir) = place.take()
        {
            let (line, subscriber, kept) = heir.into_parts();
            drop(place);
            self.count(&held.line, true);
            std::mem::replace(&mut held.line, line).lease.release(Condition::Broken);
            *self.subscriber.borrow_mut() = subscriber;
            held.silent = 0;
            self.say(&held.line.lease);
            for (channel, message) in kept {
                self.hand_out(&channel, &message, held.line.lease.pool().record(), worker);
            }
            self.wake();
        }
        Ok(())
    }
}

impl Hub {
    fn on_event(&self, event: Event<'_>, record: &PoolRecord, worker: &Worker) {
        match event {
            Event::Listening(channel, number) => self.on_listening(&channel, number, worker),
            Event::Refused(channel, number, refusal) => {
                let mut topics = self.topics.borrow_mut();
                if topics.get(&channel).is_some_and(|topic| topic.number == number)
                    && let Some(topic) = topics.remove(&channel)
                {
                    let fault = Arc::new(words::refused(&refusal));
                    for (to, turn) in topic.workers {
                        self.post(worker, to, News::Refused { channel: Arc::clone(&channel), turn, fault: Arc::clone(&fault) });
                    }
                }
            }
            Event::Heard(name, message) => {
                let is_ours = self.heir.borrow_mut().as_mut().is_none_or(|heir| heir.on_old(name));
                if is_ours {
                    self.hand_out(name, &message.into(), record, worker);
                }
            }
        }
    }

    fn on_listening(&self, channel: &Channel, number: u64, worker: &Worker) {
        let mut topics = self.topics.borrow_mut();
        let asked = topics.get_mut(channel).filter(|topic| topic.number == number && topic.standing != Standing::Heard);
        if let Some(topic) = asked {
            topic.standing = Standing::Heard;
            for (to, turn) in &topic.workers {
                self.post(worker, *to, News::Joined { channel: Arc::clone(channel), turn: *turn });
            }
        }
    }

    /// A notification, for all workers that want it.
    fn hand_out(&self, name: &[u8], message: &Arc<[u8]>, record: &PoolRecord, worker: &Worker) {
        record.add(PoolCounter::NotificationsReceived, 1);
        let topics = self.topics.borrow();
        let Some((channel, topic)) = topics.get_key_value(name) else { return };
        for (to, _) in &topic.workers {
            let (channel, message) = (Arc::clone(channel), Arc::clone(message));
            let (key, parcel) = (self.key.clone(), self.flight.begin(message.len()));
            worker.mailboxes.post(*to, move |worker| {
                tell(worker, &key, &News::Heard { channel, message });
                drop(parcel);
            });
        }
    }

    /// Whether the connection is alive, and still the right one: if not, another one is opened that takes over.
    fn look_after<'a>(&'a self, held: &mut Held<'a>, worker: &'a Rc<Worker>) -> Result<(), String> {
        held.silent += 1;
        held.pause = held.pause.saturating_sub(1);
        if let Some(heir) = &mut *self.heir.borrow_mut() {
            heir.tick()?;
        } else if held.opening.is_none() && held.pause == 0 {
            let lease = &held.line.lease;
            if lease.is_stale() || lease.pool().snapshot(clock::now()).draining {
                held.pause = RETRY_TICKS;
                held.opening = Some(Box::pin(self.open(worker)));
            }
        }
        let mut subscriber = self.subscriber.borrow_mut();
        if held.silent >= QUIET_TICKS + ANSWER_TICKS && subscriber.is_owed() {
            return Err("the server does not answer".to_owned());
        }
        if held.silent >= QUIET_TICKS && !subscriber.is_owed() {
            held.silent = QUIET_TICKS;
            subscriber.run("");
        }
        Ok(())
    }

    /// Shows in the metrics how many channels there are.
    fn count(&self, line: &Line, ended: bool) {
        let now = if ended { 0 } else { i64::try_from(self.topics.borrow().len()).unwrap_or(i64::MAX) };
        let before = self.counted.replace(now);
        if now != before {
            line.lease.pool().record().shift(PoolGauge::ListenChannels, now - before);
        }
    }
}

#[cfg(test)]
mod tests {
    use sidepool_protocol::postgres::fault::SqlState;

    use super::*;

    #[test]
    fn there_is_a_bound_to_the_channels_of_a_database() {
        let hub = Hub::new(HubKey { entry: "a".into(), dbname: "a".into() });
        let enter = |from: u16, index: usize| hub.enter(WorkerId(from), format!("c{index}").into_bytes().into(), 1);
        assert!((0..MAX_CHANNELS).all(|index| enter(0, index).is_none()));
        assert!(enter(1, 5).is_none(), "one that is known already");
        let Some(News::Refused { fault, .. }) = enter(1, MAX_CHANNELS) else { panic!("one more than there may be") };
        assert_eq!(fault.sqlstate, SqlState::CONFIGURATION_LIMIT);
        assert_eq!(hub.topics.borrow().len(), MAX_CHANNELS);
        hub.leave(WorkerId(0), &b"c7"[..].into());
        assert!(enter(1, MAX_CHANNELS).is_none(), "another one has gone");
    }
}
