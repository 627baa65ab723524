//! One upstream connection that subscribes for all clients of a worker that have the same upstream user. Each message is read once and handed to
//! everybody who wants it; each channel is subscribed once, by whoever comes first, and left when the last one leaves.
//!
//! A client's `SUBSCRIBE` is confirmed when the server has confirmed all of its channels, never before: what is published after the
//! confirmation arrives. When the connection is lost, what is published meanwhile is lost too: its subscribers are closed, so that they know, or stay and
//! are subscribed again ([`SubscriberGap`]). The upstream side always speaks RESP2; for RESP3 clients a message differs in its first byte.
//!
//! Not here: the connection itself (`hub_line`), and how another one takes over (`hub_heir`).

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use sidepool_config::model::SubscriberGap;
use sidepool_protocol::redis::audience;
use sidepool_protocol::redis::encode::{self, Resp};
use sidepool_protocol::redis::request::Arguments;

use super::client::Client;
use super::end::End;
use super::group::Group;
use super::hub_heir::Wanted;
use super::hub_line;
use super::topics::{Kind, Subscriber, is_ours};
use crate::observe::record::{PoolCounter, PoolGauge};
use crate::worker::Worker;

/// Subscriptions of one upstream user on one worker.
pub struct Hub {
    pub(super) group: Rc<Group>,
    topics: RefCell<[HashMap<Rc<[u8]>, Topic>; 3]>,
    pub(super) out: RefCell<Vec<u8>>,
    owed: RefCell<VecDeque<Owed>>,
    task: RefCell<Option<Waker>>,
    changed: Cell<bool>,
    /// How many topics have several members.
    crowded: Cell<usize>,
    /// How many commands were sent, and how many of them are answered.
    sent: Cell<u64>,
    answered: Cell<u64>,
    /// Who waits for the server to have taken in that they left.
    leaving: RefCell<Vec<Rc<Client>>>,
    /// What is to be sent once it is clear on which connection.
    deferred: RefCell<Option<Vec<Deferred>>>,
}

/// A command that waits: of which kind, its name, and its arguments.
type Deferred = (Kind, &'static str, Vec<Rc<[u8]>>);

#[derive(Default)]
struct Topic {
    confirmed: bool,
    members: Vec<Rc<Subscriber>>,
    tickets: Vec<Rc<Ticket>>,
}

/// One command sent upstream, and how many confirmations it still gets.
struct Owed {
    kind: Kind,
    names: Vec<Rc<[u8]>>,
    left: usize,
}

/// A client's request to be subscribed.
pub struct Ticket {
    subscriber: Rc<Subscriber>,
    kind: Kind,
    names: Vec<Rc<[u8]>>,
    missing: Cell<usize>,
    outcome: RefCell<Option<Result<(), String>>>,
}

impl Ticket {
    /// What came of it; `None`: the server has not answered yet. The client's session is woken when it has.
    pub fn outcome(&self) -> Option<Result<(), String>> {
        self.outcome.borrow().clone()
    }

    fn finish(&self, outcome: Result<(), String>) {
        *self.outcome.borrow_mut() = Some(outcome);
        self.subscriber.client.wake_session();
    }
}

impl Hub {
    /// A hub without subscriptions, with its task.
    pub fn start(group: Rc<Group>, worker: &Rc<Worker>) -> Rc<Self> {
        let hub = Rc::new(Self {
            group,
            topics: RefCell::default(),
            out: RefCell::default(),
            owed: RefCell::default(),
            task: RefCell::new(None),
            changed: Cell::new(false),
            crowded: Cell::new(0),
            sent: Cell::new(0),
            answered: Cell::new(0),
            leaving: RefCell::default(),
            deferred: RefCell::new(None),
        });
        tokio::task::spawn_local(hub_line::run(Rc::downgrade(&hub), Rc::clone(worker)));
        hub
    }

    /// Subscribes a client. The hub itself tells the client when it is done.
    pub fn subscribe(&self, subscriber: &Rc<Subscriber>, kind: Kind, names: &[&[u8]]) -> Rc<Ticket> {
        let names: Vec<Rc<[u8]>> = names.iter().map(|name| Rc::from(*name)).collect();
        let ticket = Rc::new(Ticket { subscriber: Rc::clone(subscriber), kind, names, missing: Cell::new(0), outcome: RefCell::new(None) });
        let mut fresh = Vec::new();
        {
            let topics = &mut self.topics.borrow_mut()[kind as usize];
            for name in &ticket.names {
                if !topics.contains_key(name) {
                    fresh.push(Rc::clone(name));
                }
                let topic = topics.entry(Rc::clone(name)).or_default();
                if !topic.confirmed {
                    topic.tickets.push(Rc::clone(&ticket));
                    ticket.missing.set(ticket.missing.get() + 1);
                }
            }
        }
        if !fresh.is_empty() {
            self.count(kind, fresh.len() as i64);
            self.send(kind, kind.subscribe(), fresh);
        }
        if ticket.missing.get() == 0 {
            self.complete(&ticket);
        }
        ticket
    }

    /// A client leaves a channel. It is told by whoever asked.
    pub fn leave(&self, subscriber: &Rc<Subscriber>, kind: Kind, name: &[u8]) {
        let left = {
            let topics = &mut self.topics.borrow_mut()[kind as usize];
            let Some(topic) = topics.get_mut(name) else { return };
            let crowded = topic.members.len() > 1;
            topic.members.retain(|member| !Rc::ptr_eq(member, subscriber));
            if crowded && topic.members.len() < 2 {
                self.crowded.set(self.crowded.get() - 1);
            }
            if !(topic.members.is_empty() && topic.tickets.is_empty()) {
                return;
            }
            topics.remove_entry(name)
        };
        if let Some((name, _)) = left {
            self.count(kind, -1);
            self.send(kind, kind.unsubscribe(), vec![name]);
        }
    }

    /// How many clients listen to what is published on `name`, beyond those that the server counts: for it, all of ours are one.
    pub fn unseen(&self, kind: Kind, name: &[u8]) -> u32 {
        let topics = self.topics.borrow();
        let beyond = |topic: &Topic| u32::try_from(topic.members.len().saturating_sub(1)).unwrap_or(u32::MAX);
        topics[kind as usize].get(name).map_or(0, beyond)
    }

    /// The same of those who listen by a pattern.
    pub fn unseen_by_pattern(&self, name: &[u8]) -> u32 {
        let topics = self.topics.borrow();
        let fitting = topics[Kind::Pattern as usize].iter().filter(|(pattern, _)| audience::fits(pattern, name));
        fitting.map(|(_, topic)| u32::try_from(topic.members.len().saturating_sub(1)).unwrap_or(u32::MAX)).sum()
    }

    /// Whether several clients listen to the same anywhere.
    pub fn is_crowded(&self) -> bool {
        self.crowded.get() > 0
    }

    /// Up to where everything has been sent that was asked so far.
    pub fn position(&self) -> u64 {
        self.sent.get()
    }

    /// Ready when the server has taken in everything up to `position`; until then the client's session is woken from time to time.
    pub fn poll_answered(&self, client: &Rc<Client>, position: u64) -> Poll<()> {
        if self.answered.get() >= position {
            return Poll::Ready(());
        }
        let mut leaving = self.leaving.borrow_mut();
        if !leaving.iter().any(|other| Rc::ptr_eq(other, client)) {
            leaving.push(Rc::clone(client));
        }
        Poll::Pending
    }

    fn on_answered(&self, position: u64) {
        self.answered.set(position);
        for client in self.leaving.borrow_mut().drain(..) {
            client.wake_session();
        }
    }

    /// A client gives up waiting.
    pub fn abandon(&self, ticket: &Rc<Ticket>) {
        for name in &ticket.names {
            if let Some(topic) = self.topics.borrow_mut()[ticket.kind as usize].get_mut(name) {
                topic.tickets.retain(|other| !Rc::ptr_eq(other, ticket));
            }
            self.leave(&ticket.subscriber, ticket.kind, name);
        }
    }

    /// Counts a command of a client.
    pub fn count_command(&self, counter: PoolCounter) {
        self.group.shared.record().add(counter, 1);
    }

    /// Has the task look at its connection.
    pub fn wake(&self) {
        if !self.changed.replace(true)
            && let Some(task) = &*self.task.borrow()
        {
            task.wake_by_ref();
        }
    }

    fn send(&self, kind: Kind, command: &'static str, names: Vec<Rc<[u8]>>) {
        self.sent.set(self.sent.get() + 1);
        if let Some(deferred) = &mut *self.deferred.borrow_mut() {
            deferred.push((kind, command, names));
            return;
        }
        self.write_down(kind, command, names);
    }

    fn write_down(&self, kind: Kind, command: &str, names: Vec<Rc<[u8]>>) {
        let mut arguments: Vec<&[u8]> = vec![command.as_bytes()];
        arguments.extend(names.iter().map(|name| &**name));
        encode::command(&mut self.out.borrow_mut(), &arguments);
        let left = names.len();
        self.owed.borrow_mut().push_back(Owed { kind, names, left });
        self.wake();
    }

    /// Joins the channel of a mark, which is nobody's.
    pub(super) fn join_mark(&self, mark: &Rc<[u8]>) {
        self.send(Kind::Channel, Kind::Channel.subscribe(), vec![Rc::clone(mark)]);
    }

    /// Leaves it.
    pub(super) fn leave_mark(&self, mark: &Rc<[u8]>) {
        self.send(Kind::Channel, Kind::Channel.unsubscribe(), vec![Rc::clone(mark)]);
    }

    /// Leaves what the connection is subscribed to and nobody wants any more.
    pub(super) fn leave_unwanted(&self, joined: Wanted) {
        for (kind, name) in joined {
            if !self.topics.borrow()[kind as usize].contains_key(&name) {
                self.send(kind, kind.unsubscribe(), vec![name]);
            }
        }
    }

    /// From here on nothing is sent until [`catch_up`](Self::catch_up).
    pub(super) fn defer(&self) {
        self.deferred.borrow_mut().get_or_insert_default();
    }

    /// What was asked for meanwhile is sent.
    pub(super) fn catch_up(&self) {
        for (kind, command, names) in self.deferred.borrow_mut().take().unwrap_or_default() {
            self.write_down(kind, command, names);
        }
    }

    /// Everything that was sent is answered.
    pub(super) fn is_quiet(&self) -> bool {
        self.owed.borrow().is_empty() && self.out.borrow().is_empty()
    }

    /// All that somebody wants.
    pub(super) fn wanted(&self) -> Wanted {
        let topics = self.topics.borrow();
        let of = |kind: Kind| topics[kind as usize].keys().map(move |name| (kind, Rc::clone(name)));
        Kind::ALL.into_iter().flat_map(of).collect()
    }

    fn complete(&self, ticket: &Rc<Ticket>) {
        let Ticket { subscriber, kind, names, .. } = &**ticket;
        for name in names {
            if let Some(topic) = self.topics.borrow_mut()[*kind as usize].get_mut(name)
                && !topic.members.iter().any(|member| Rc::ptr_eq(member, subscriber))
            {
                topic.members.push(Rc::clone(subscriber));
                if topic.members.len() == 2 {
                    self.crowded.set(self.crowded.get() + 1);
                }
            }
            subscriber.add(*kind, name);
            subscriber.confirm(kind.subscribe(), *kind, Some(name));
        }
        ticket.finish(Ok(()));
    }

    fn count(&self, kind: Kind, amount: i64) {
        let gauge = match kind {
            Kind::Channel | Kind::Shard => PoolGauge::RedisChannels,
            Kind::Pattern => PoolGauge::RedisPatterns,
        };
        self.group.shared.record().shift(gauge, amount);
    }

    pub(super) fn is_idle(&self) -> bool {
        let waiting = self.deferred.borrow().is_some();
        !waiting && self.owed.borrow().is_empty() && self.topics.borrow().iter().all(HashMap::is_empty)
    }

    /// A frame from the server.
    pub(super) fn on_frame(&self, frame: &[u8], limit: usize) {
        if frame.first() == Some(&b'-') {
            self.on_error(frame);
            return;
        }
        let mut parts = Arguments::new(frame);
        let (Some(word), Some(name)) = (parts.next(), parts.next()) else { return };
        if let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.message().as_bytes() == word) {
            // Whoever listens to everything does not hear what we say to ourselves.
            if kind != Kind::Pattern || !parts.next().is_some_and(is_ours) {
                self.on_message(kind, name, frame, limit);
            }
            return;
        }
        self.on_confirmed(word, name);
    }

    fn on_message(&self, kind: Kind, name: &[u8], frame: &[u8], limit: usize) {
        let topics = self.topics.borrow();
        let Some(topic) = topics[kind as usize].get(name) else { return };
        let mut pushed = Vec::new();
        for member in &topic.members {
            match member.version.get() {
                Resp::Two => member.client.deliver_message(frame),
                Resp::Three => {
                    if pushed.is_empty() {
                        pushed.extend_from_slice(frame);
                        pushed[0] = b'>';
                    }
                    member.client.deliver_message(&pushed);
                }
            }
            if member.client.backlog() > limit {
                member.client.doom(End::OutputLimit);
            }
        }
    }

    fn on_confirmed(&self, word: &[u8], name: &[u8]) {
        let kind = {
            let mut owed = self.owed.borrow_mut();
            let Some(first) = owed.front_mut() else { return };
            first.left = first.left.saturating_sub(1);
            let kind = first.kind;
            if first.left == 0 {
                owed.pop_front();
                drop(owed);
                self.on_answered(self.answered.get() + 1);
            }
            kind
        };
        if word != kind.subscribe().as_bytes() {
            return;
        }
        let tickets = match self.topics.borrow_mut()[kind as usize].get_mut(name) {
            Some(topic) => {
                topic.confirmed = true;
                std::mem::take(&mut topic.tickets)
            }
            // It was left while the confirmation was on its way.
            None => return,
        };
        for ticket in tickets {
            ticket.missing.set(ticket.missing.get() - 1);
            if ticket.missing.get() == 0 && ticket.outcome().is_none() {
                self.complete(&ticket);
            }
        }
    }

    /// The server refuses a whole command.
    fn on_error(&self, frame: &[u8]) {
        let Some(Owed { kind, names, .. }) = self.owed.borrow_mut().pop_front() else { return };
        self.on_answered(self.answered.get() + 1);
        let text = String::from_utf8_lossy(frame.get(1..).unwrap_or_default()).trim_end().to_owned();
        for name in names {
            self.fail(kind, &name, &text);
        }
    }

    /// Nobody hears this any more. Whoever did is closed, as a server closes those that it takes the right from.
    fn fail(&self, kind: Kind, name: &Rc<[u8]>, text: &str) {
        let removed = self.topics.borrow_mut()[kind as usize].remove(name);
        let Some(topic) = removed else { return };
        if topic.members.len() > 1 {
            self.crowded.set(self.crowded.get() - 1);
        }
        self.count(kind, -1);
        doom(&topic.members, End::Denied);
        for ticket in topic.tickets {
            if ticket.outcome().is_none() {
                ticket.finish(Err(text.to_owned()));
                // The other channels of the same request are not wanted any more.
                self.abandon(&ticket);
            }
        }
    }

    /// A new connection: everything that somebody wants is subscribed on it.
    pub(super) fn begin(&self) {
        self.forget_sent();
        for kind in Kind::ALL {
            let names: Vec<Rc<[u8]>> = {
                let topics = &mut self.topics.borrow_mut()[kind as usize];
                topics.values_mut().for_each(|topic| topic.confirmed = false);
                topics.keys().cloned().collect()
            };
            // One command a name: an error then concerns that name alone.
            for name in names {
                self.send(kind, kind.subscribe(), vec![name]);
            }
        }
    }

    /// Messages may have been missed: whoever is to know is closed. Says how many.
    pub(super) fn on_loss(&self) -> usize {
        if self.group.subscriber_gap() == SubscriberGap::Resume {
            return 0;
        }
        let topics = self.topics.borrow();
        doom(topics.iter().flat_map(HashMap::values).flat_map(|topic| &topic.members), End::Gap)
    }

    /// There is no connection to be had: whoever waits for a confirmation is told.
    pub(super) fn refuse_waiting(&self, text: &str) {
        for kind in Kind::ALL {
            let tickets: Vec<Rc<Ticket>> =
                self.topics.borrow_mut()[kind as usize].values_mut().flat_map(|topic| std::mem::take(&mut topic.tickets)).collect();
            for ticket in tickets {
                if ticket.outcome().is_none() {
                    ticket.finish(Err(text.to_owned()));
                    self.abandon(&ticket);
                }
            }
        }
        self.forget_sent();
    }

    /// Nothing that was sent, or was to be, will be answered.
    fn forget_sent(&self) {
        self.out.borrow_mut().clear();
        self.owed.borrow_mut().clear();
        *self.deferred.borrow_mut() = None;
        self.on_answered(self.sent.get());
    }

    pub(super) fn remember(&self, cx: &Context<'_>) {
        *self.task.borrow_mut() = Some(cx.waker().clone());
        self.changed.set(false);
    }
}

/// Closes subscribers. Says how many.
fn doom<'a>(members: impl IntoIterator<Item = &'a Rc<Subscriber>>, end: End) -> usize {
    let alive = members.into_iter().filter(|member| member.client.is_alive());
    alive.map(|member| member.client.doom(end)).count()
}
