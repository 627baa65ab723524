//! One client that listens: to what, and what has come for it and was not told yet.
//!
//! A channel is *early* while the client's LISTEN has not been committed: what comes in on it waits until that is known. What has come before the
//! client could have committed is not for it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use sidepool_protocol::postgres::fault::Fault;
use sidepool_protocol::postgres::frame::{self, HEAD_BYTES};
use sidepool_protocol::postgres::subscriber::Channel;

use super::branch::Branch;
use super::{MAX_CLIENT_CHANNELS, MAX_INBOX_BYTES, words};
use crate::observe::record::PoolGauge;
use crate::pool::handle::Pool;
use crate::session::postgres::route::PoolKey;
use crate::upstream::postgres::connector::PgConnector;

/// The answer to a client waits for its own notifications among the first so many since it was last told something.
const MAX_EXPECTED: u32 = 100;

/// How far the client is with a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It may yet roll its LISTEN back.
    Early,
    /// It listens.
    Settled,
}

/// Why a client that listens is to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// More waits for it than may.
    TooSlow,
    /// It may have missed something.
    Gap,
    /// The database is not served any more.
    Gone,
}

impl Why {
    /// Its name in the log.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::TooSlow => "too_slow",
            Self::Gap => "listen_gap",
            Self::Gone => "database_gone",
        }
    }
}

/// Whether a LISTEN may be sent.
#[derive(Debug)]
pub enum Wanted {
    /// The hub listens to all of it.
    Ready,
    /// Not yet. The session is woken.
    Wait,
    /// It cannot.
    Refused(Arc<Fault>),
}

/// A client that listens.
pub struct Listener {
    branch: Rc<Branch>,
    /// The pool that it counts for.
    pool: Rc<Pool<PgConnector>>,
    /// How many channels it counts for.
    counted: Cell<usize>,
    id: u64,
    /// Of the session's task.
    waker: Waker,
    channels: RefCell<BTreeMap<Channel, Standing>>,
    inbox: RefCell<VecDeque<(Channel, Arc<[u8]>)>>,
    bytes: Cell<usize>,
    end: Cell<Option<Why>>,
    /// It may have missed something, and is to be told.
    missed: Cell<bool>,
    /// What the session waits for.
    wanted: RefCell<Vec<Channel>>,
    refusal: RefCell<Option<Arc<Fault>>>,
    /// The server process of the client's present or last connection, as in notifications.
    process: Cell<[u8; 4]>,
    /// What the client has notified itself of and the hub has not heard yet.
    awaited: RefCell<Vec<Box<[u8]>>>,
    /// How many of its own it has been told by its connection since it was last told something.
    expected: Cell<u32>,
    /// Counts how often that was waited for.
    waits: Cell<u32>,
}

/// A listener that leaves all channels when it is dropped.
pub struct Ear(pub(super) Rc<Listener>);

impl Drop for Ear {
    fn drop(&mut self) {
        self.0.leave_all();
    }
}

impl Listener {
    /// One that listens to nothing yet.
    #[must_use]
    pub fn new(branch: Rc<Branch>, pool: Rc<Pool<PgConnector>>, id: u64, waker: Waker) -> Self {
        Self {
            branch,
            pool,
            counted: Cell::new(0),
            id,
            waker,
            channels: RefCell::default(),
            inbox: RefCell::default(),
            bytes: Cell::new(0),
            end: Cell::new(None),
            missed: Cell::new(false),
            wanted: RefCell::default(),
            refusal: RefCell::default(),
            process: Cell::default(),
            awaited: RefCell::default(),
            expected: Cell::new(0),
            waits: Cell::new(0),
        }
    }

    /// Its number.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// The client is about to LISTEN to these; `turn` numbers a request to the hub.
    pub fn want(self: &Rc<Self>, names: &[impl AsRef<[u8]>], pool: &PoolKey, mut turn: impl FnMut() -> u64) -> Wanted {
        if let Some(fault) = self.take_refusal() {
            return Wanted::Refused(fault);
        }
        if self.end.get().is_some() {
            // It is closed before it could miss any more.
            return Wanted::Ready;
        }
        for name in names {
            let name: &[u8] = name.as_ref();
            if self.channels.borrow().contains_key(name) {
                continue;
            }
            if self.channels.borrow().len() >= MAX_CLIENT_CHANNELS {
                return Wanted::Refused(Arc::new(words::too_many_channels()));
            }
            let channel: Channel = name.into();
            self.channels.borrow_mut().insert(Arc::clone(&channel), Standing::Early);
            self.branch.join(channel, self, pool, &mut turn);
        }
        let ready = names.iter().all(|name| self.branch.is_listening(name.as_ref()));
        let waits = names.iter().filter(|_| !ready);
        *self.wanted.borrow_mut() = waits.map(|name| Channel::from(name.as_ref())).collect();
        if ready { Wanted::Ready } else { Wanted::Wait }
    }

    /// Whether something was refused that the session has not been told.
    pub fn is_refused(&self) -> bool {
        self.refusal.borrow().is_some()
    }

    /// What was refused.
    pub fn take_refusal(&self) -> Option<Arc<Fault>> {
        self.refusal.take().inspect(|_| drop(self.wanted.take()))
    }

    /// What was refused will be told later.
    pub fn put_back(&self, fault: Arc<Fault>) {
        *self.refusal.borrow_mut() = Some(fault);
    }

    /// Whether the session has to wait on.
    pub fn is_waiting(&self) -> bool {
        !self.is_refused() && self.wanted.borrow().iter().any(|channel| !self.branch.is_listening(channel))
    }

    /// The channels that it listens to, beside those that are not sure yet.
    pub fn settled(&self) -> Vec<Channel> {
        let channels = self.channels.borrow();
        channels.iter().filter(|(_, standing)| **standing == Standing::Settled).map(|(channel, _)| Arc::clone(channel)).collect()
    }

    /// Whether it listens to this channel, or is about to.
    pub fn has(&self, channel: &[u8]) -> bool {
        self.channels.borrow().contains_key(channel)
    }

    /// A transaction has ended, and the server says that these are the channels now. What the client's next message is about stays as it is.
    pub fn settle(&self, truth: &BTreeSet<Box<[u8]>>) {
        let left: Vec<Channel> = {
            let (mut channels, wanted) = (self.channels.borrow_mut(), self.wanted.borrow());
            let gone = channels.extract_if(.., |channel, standing| {
                let is_true = truth.contains(&**channel);
                if is_true {
                    *standing = Standing::Settled;
                }
                let is_next = *standing == Standing::Early && wanted.contains(channel);
                !(is_true || is_next)
            });
            gone.map(|(channel, _)| channel).collect()
        };
        self.leave(&left);
        self.count();
    }

    /// The client is inside of a transaction and has nothing under way: what has come on channels that are not sure yet came before its commit.
    pub fn forget_early(&self) {
        let channels = self.channels.borrow();
        let is_early = |channel: &Channel| channels.get(channel) == Some(&Standing::Early);
        self.keep(|channel| !is_early(channel));
    }

    /// Whether it listens to nothing, not even perhaps.
    pub fn is_idle(&self) -> bool {
        self.channels.borrow().is_empty()
    }

    /// Whether something is to be told, and certainly so: no channel is early.
    pub fn has_news(&self) -> bool {
        !self.inbox.borrow().is_empty() && self.channels.borrow().values().all(|standing| *standing == Standing::Settled)
    }

    /// The next notifications, up to about so many bytes, and how many there are. Only when no channel is early.
    pub fn take(&self, limit: usize, out: &mut Vec<u8>) -> u64 {
        self.expected.set(0);
        let mut inbox = self.inbox.borrow_mut();
        let mut count = 0;
        while out.len() < limit
            && let Some((_, message)) = inbox.pop_front()
        {
            self.bytes.set(self.bytes.get() - message.len());
            out.extend_from_slice(&message);
            count += 1;
        }
        if inbox.is_empty() {
            // An idle client keeps no memory for what it was told.
            *inbox = VecDeque::new();
        }
        count
    }

    /// The client's connection leads to this server process: the start of its key.
    pub fn set_process(&self, key: &[u8]) {
        self.process.set(key.first_chunk().copied().unwrap_or_default());
    }

    /// The client's own connection has heard this (the body of a message). What the client has sent itself it is told within the answer, so that
    /// it waits for the hub, which keeps the order of all.
    pub fn expect(&self, body: &[u8]) {
        let own = body.starts_with(&self.process.get()) && self.process.get() != [0; 4];
        let channel = frame::cstr(body.get(4..).unwrap_or_default()).map_or(&[][..], |(channel, _)| channel);
        if !own || self.end.get().is_some() || self.channels.borrow().get(channel) != Some(&Standing::Settled) {
            return;
        }
        let expected = self.expected.get();
        let is_heard = |(_, message): &(Channel, Arc<[u8]>)| &message[HEAD_BYTES..] == body;
        if expected < MAX_EXPECTED && !self.inbox.borrow().iter().any(is_heard) {
            self.awaited.borrow_mut().push(body.into());
        }
        self.expected.set(expected + 1);
    }

    /// Whether the answer to the client waits for what it has notified itself of.
    pub fn is_awaiting(&self) -> bool {
        !self.awaited.borrow().is_empty()
    }

    /// The answer to the client waits from now on; the number says when it has waited for long enough.
    pub fn begin_waiting(&self) -> u32 {
        self.waits.set(self.waits.get().wrapping_add(1));
        self.waits.get()
    }

    /// It has: what is still to come comes later.
    pub fn end_waiting(&self, number: u32) {
        if self.waits.get() == number && self.is_awaiting() {
            self.forget_awaited();
            self.waker.wake_by_ref();
        }
    }

    /// Nothing is waited for.
    pub fn forget_awaited(&self) {
        self.awaited.take();
    }

    /// Why the client is to be closed, if it is.
    pub fn end(&self) -> Option<Why> {
        self.end.get()
    }

    /// Whether the client is to be told, now, that it may have missed something.
    pub fn take_missed(&self) -> bool {
        self.missed.replace(false)
    }

    /// A notification.
    pub(super) fn hear(&self, channel: &Channel, message: &Arc<[u8]>) {
        if self.end.get().is_some() {
            return;
        }
        let bytes = self.bytes.get() + message.len();
        if bytes > MAX_INBOX_BYTES {
            return self.close(Why::TooSlow);
        }
        self.bytes.set(bytes);
        let mut awaited = self.awaited.borrow_mut();
        if let Some(at) = awaited.iter().position(|body| **body == message[HEAD_BYTES..]) {
            awaited.remove(at);
        }
        self.inbox.borrow_mut().push_back((Arc::clone(channel), Arc::clone(message)));
        self.waker.wake_by_ref();
    }

    /// A channel that the session waited for is there.
    pub(super) fn joined(&self) {
        if !self.wanted.borrow().is_empty() {
            self.waker.wake_by_ref();
        }
    }

    /// A channel cannot be listened to.
    pub(super) fn refused(&self, channel: &[u8], fault: &Arc<Fault>) {
        if self.channels.borrow_mut().remove(channel) == Some(Standing::Settled) {
            return self.close(Why::Gap);
        }
        self.down(fault);
    }

    /// The hub has no connection: who waits for it is told.
    pub(super) fn down(&self, fault: &Arc<Fault>) {
        if !self.wanted.borrow().is_empty() {
            *self.refusal.borrow_mut() = Some(Arc::clone(fault));
            self.waker.wake_by_ref();
        }
    }

    /// It may have missed something, and stays.
    pub(super) fn miss(&self) {
        self.missed.set(true);
        self.forget_awaited();
        self.waker.wake_by_ref();
    }

    /// The client is to be closed at its next moment outside of a transaction.
    pub(super) fn close(&self, why: Why) {
        if self.end.get().is_none() {
            self.end.set(Some(why));
            self.forget_awaited();
            self.inbox.take();
            self.bytes.set(0);
            self.waker.wake_by_ref();
        }
    }

    fn leave_all(&self) {
        let all: Vec<Channel> = std::mem::take(&mut *self.channels.borrow_mut()).into_keys().collect();
        self.leave(&all);
        self.count();
    }

    /// Counts what it listens to now.
    fn count(&self) {
        let (now, record) = (self.channels.borrow().len(), self.pool.record());
        let before = self.counted.replace(now);
        let signed = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        record.shift(PoolGauge::ListenSubscriptions, signed(now) - signed(before));
        record.shift(PoolGauge::ListenClients, i64::from(now > 0) - i64::from(before > 0));
    }

    fn leave(&self, left: &[Channel]) {
        for channel in left {
            self.branch.leave(channel, self.id);
        }
        if !left.is_empty() {
            let channels = self.channels.borrow();
            self.keep(|channel| channels.contains_key(channel));
        }
    }

    fn keep(&self, wanted: impl Fn(&Channel) -> bool) {
        let mut inbox = self.inbox.borrow_mut();
        inbox.retain(|(channel, message)| {
            let keep = wanted(channel);
            if !keep {
                self.bytes.set(self.bytes.get() - message.len());
            }
            keep
        });
    }
}
