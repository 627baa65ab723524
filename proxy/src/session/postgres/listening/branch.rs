//! One worker's part in a hub: which of its clients listen to which channel. Each notification comes to a worker once.
//!
//! What it asks of the hub and what it is told travels by mailbox, also where the hub lives on the same worker. An answer counts only for the last
//! request about its channel.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use sidepool_config::model::ListenGap;
use sidepool_protocol::postgres::fault::Fault;
use sidepool_protocol::postgres::subscriber::Channel;

use super::listener::{Listener, Why};
use super::{Ask, HubKey, News};
use crate::session::postgres::route::PoolKey;
use crate::worker::{Mailboxes, WorkerId};

/// One worker's part in a hub.
pub struct Branch {
    key: HubKey,
    mailboxes: Mailboxes,
    me: WorkerId,
    home: WorkerId,
    topics: RefCell<HashMap<Channel, Topic>>,
}

/// A channel that somebody here listens to.
struct Topic {
    turn: u64,
    /// The hub listens to it.
    joined: bool,
    members: HashMap<u64, Rc<Listener>>,
}

impl Branch {
    /// Nobody listens yet.
    pub(super) fn new(key: HubKey, mailboxes: Mailboxes, me: WorkerId) -> Self {
        let home = key.home(mailboxes.workers());
        Self { key, mailboxes, me, home, topics: RefCell::default() }
    }

    /// Whether the hub listens to this channel.
    pub(super) fn is_listening(&self, channel: &[u8]) -> bool {
        self.topics.borrow().get(channel).is_some_and(|topic| topic.joined)
    }

    /// One more who wants to listen to a channel.
    pub(super) fn join(&self, channel: Channel, listener: &Rc<Listener>, pool: &PoolKey, turn: &mut impl FnMut() -> u64) {
        let mut topics = self.topics.borrow_mut();
        if let Some(topic) = topics.get_mut(&channel) {
            topic.members.insert(listener.id(), Rc::clone(listener));
            return;
        }
        let turn = turn();
        let members = HashMap::from([(listener.id(), Rc::clone(listener))]);
        topics.insert(Arc::clone(&channel), Topic { turn, joined: false, members });
        self.ask(Ask::Join { channel, turn, pool: pool.clone() });
    }

    /// One fewer.
    pub(super) fn leave(&self, channel: &Channel, listener: u64) {
        let mut topics = self.topics.borrow_mut();
        let Some(topic) = topics.get_mut(channel) else { return };
        // What is dropped here may leave other channels when it goes.
        let gone = topic.members.remove(&listener);
        if topic.members.is_empty() {
            topics.remove(channel);
            self.ask(Ask::Leave { channel: Arc::clone(channel) });
        }
        drop(topics);
        drop(gone);
    }

    fn ask(&self, ask: Ask) {
        super::ask(&self.mailboxes, self.home, self.me, &self.key, ask);
    }

    /// What the hub has to say.
    pub(super) fn on_news(&self, news: &News) {
        match news {
            News::Joined { channel, turn } => self.on_joined(channel, *turn),
            News::Refused { channel, turn, fault } => self.on_refused(channel, *turn, fault),
            News::Heard { channel, message } => {
                if let Some(topic) = self.topics.borrow().get(channel) {
                    topic.members.values().for_each(|member| member.hear(channel, message));
                }
            }
            News::Lost(gap) => self.on_lost(*gap),
            News::Down(fault) => self.for_each_member(|member| member.down(fault)),
            News::Gone => {
                for (_, topic) in self.topics.take() {
                    topic.members.into_values().for_each(|member| member.close(Why::Gone));
                }
            }
        }
    }

    fn on_joined(&self, channel: &Channel, turn: u64) {
        if let Some(topic) = self.topics.borrow_mut().get_mut(channel).filter(|topic| topic.turn == turn) {
            topic.joined = true;
            topic.members.values().for_each(|member| member.joined());
        }
    }

    fn on_refused(&self, channel: &Channel, turn: u64, fault: &Arc<Fault>) {
        let refused = {
            let mut topics = self.topics.borrow_mut();
            if topics.get(channel).is_some_and(|topic| topic.turn == turn) { topics.remove(channel) } else { None }
        };
        if let Some(topic) = refused {
            topic.members.into_values().for_each(|member| member.refused(channel, fault));
        }
    }

    /// What the hub had listened to is lost: it comes again, or its clients go.
    fn on_lost(&self, gap: ListenGap) {
        let mut topics = self.topics.borrow_mut();
        let lost = match gap {
            ListenGap::Warn => {
                for topic in topics.values_mut().filter(|topic| topic.joined) {
                    topic.joined = false;
                    topic.members.values().for_each(|member| member.miss());
                }
                return;
            }
            ListenGap::Close => topics.extract_if(|_, topic| topic.joined).collect::<Vec<_>>(),
        };
        drop(topics);
        for (_, topic) in lost {
            topic.members.into_values().for_each(|member| member.close(Why::Gap));
        }
    }

    fn for_each_member(&self, tell: impl Fn(&Listener)) {
        self.topics.borrow().values().flat_map(|topic| topic.members.values()).for_each(|member| tell(member));
    }
}
