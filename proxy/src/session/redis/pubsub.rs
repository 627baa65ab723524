//! `SUBSCRIBE` and its kin, as a session deals with them. The subscriptions themselves are the hub's.

use std::rc::Rc;
use std::task::Poll;

use sidepool_protocol::redis::command::{Command, Handling, Kind as CommandKind};
use sidepool_protocol::redis::encode::{self, Resp};
use sidepool_protocol::redis::handshake;
use sidepool_protocol::redis::request::Arguments;

use super::hub::Hub;
use super::refusal;
use super::run::Session;
use super::steps::{After, Next};
use super::topics::{Kind, Subscriber};
use crate::observe::record::PoolCounter;

impl Session {
    /// Whether the client may say nothing but a few words: it is subscribed and speaks RESP2.
    pub(super) fn is_subscribed_resp2(&self) -> bool {
        self.version == Resp::Two && self.subscriber.as_ref().is_some_and(|subscriber| subscriber.is_subscribed())
    }

    /// What a subscribed RESP2 client may say; `None`: it is dealt with as ever.
    pub(super) fn while_subscribed(&mut self, whole: &[u8], name: &[u8], command: Option<&Command>) -> Option<Next> {
        if name.eq_ignore_ascii_case(b"ping") {
            return Some(self.ping_subscribed(whole));
        }
        match command.map(|command| command.handling) {
            Some(Handling::Subscribe | Handling::Unsubscribe | Handling::Quit | Handling::Reset) => None,
            None if self.server.facts.flags(&name.to_ascii_lowercase()).is_none() => Some(self.say_error(unknown_command(whole))),
            Some(_) | None => Some(self.say_error(refusal::while_subscribed(name, command))),
        }
    }

    fn ping_subscribed(&mut self, whole: &[u8]) -> Next {
        let arguments: Vec<&[u8]> = Arguments::new(whole).collect();
        if arguments.len() > 2 {
            return self.say_error(handshake::wrong_arity("ping"));
        }
        let mut out = Vec::new();
        encode::array(&mut out, 2);
        encode::bulk(&mut out, b"pong");
        encode::bulk(&mut out, arguments.get(1).copied().unwrap_or_default());
        self.say(&out);
        Next::Done
    }

    /// Subscribes to what the request at the front of `carry` says.
    pub(super) async fn subscribe(&mut self) -> After {
        let Some(whole) = self.take_front() else { return After::GoOn };
        let mut arguments = Arguments::new(&whole);
        let kind = Kind::of_command(arguments.next().unwrap_or_default());
        let names: Vec<&[u8]> = arguments.collect();
        if names.is_empty() {
            self.say_error(handshake::wrong_arity(kind.subscribe()));
            return After::GoOn;
        }
        let (Some(hub), subscriber) = (self.hub(), self.subscriber()) else { return After::GoOn };
        let ticket = hub.subscribe(&subscriber, kind, &names);
        let answered = self
            .wait_for(std::future::poll_fn(|_cx| match ticket.outcome() {
                Some(outcome) => Poll::Ready(outcome),
                None => Poll::Pending,
            }))
            .await;
        match answered {
            None => {
                hub.abandon(&ticket);
                return After::End;
            }
            Some(Ok(())) => {}
            Some(Err(text)) => {
                self.say_error(&text);
            }
        }
        After::GoOn
    }

    /// Leaves what the request at the front of `carry` says. It is confirmed when the server knows of it: what is published from then on is counted
    /// without this client.
    pub(super) async fn unsubscribe(&mut self) -> After {
        let Some(whole) = self.take_front() else { return After::GoOn };
        let mut arguments = Arguments::new(&whole);
        let kind = Kind::of_command(arguments.next().unwrap_or_default());
        let subscriber = self.subscriber();
        let mut names: Vec<Rc<[u8]>> = arguments.map(Rc::from).collect();
        if names.is_empty() {
            names = subscriber.names(kind);
            if names.is_empty() {
                subscriber.confirm(kind.unsubscribe(), kind, None);
            }
        }
        let joined: Vec<&Rc<[u8]>> = names.iter().filter(|name| subscriber.is_on(kind, name)).collect();
        if !joined.is_empty()
            && let Some(hub) = self.hub()
        {
            let before = hub.position();
            joined.iter().for_each(|name| hub.leave(&subscriber, kind, name));
            let (position, client) = (hub.position(), Rc::clone(&self.client));
            let told =
                position == before || self.wait_for(std::future::poll_fn(|_cx| hub.poll_answered(&client, position))).await.is_some();
            if !told {
                return After::End;
            }
        }
        for name in &names {
            subscriber.remove(kind, name);
            subscriber.confirm(kind.unsubscribe(), kind, Some(name));
        }
        After::GoOn
    }

    /// `PUBLISH` and `PUBSUB NUMSUB` while several clients listen to the same: the server counts them as one. `None`: as ever.
    pub(super) fn raised(&self, whole: &[u8], command: &Command) -> Option<Box<[u32]>> {
        if command.kind != CommandKind::PubSub || !self.server.is_crowded() {
            return None;
        }
        let words: Vec<&[u8]> = Arguments::new(whole).collect();
        let raise: Box<[u32]> = match (command.name, words.as_slice()) {
            ("publish", [_, channel, _]) => Box::new([self.server.unseen(Kind::Channel, channel) + self.server.unseen_by_pattern(channel)]),
            ("spublish", [_, channel, _]) => Box::new([self.server.unseen(Kind::Shard, channel)]),
            ("pubsub|numsub", [_, _, channels @ ..]) => channels.iter().map(|channel| self.server.unseen(Kind::Channel, channel)).collect(),
            ("pubsub|shardnumsub", [_, _, channels @ ..]) => {
                channels.iter().map(|channel| self.server.unseen(Kind::Shard, channel)).collect()
            }
            (_any_other, _) => return None,
        };
        raise.iter().any(|more| *more > 0).then_some(raise)
    }

    /// Leaves everything, without telling the client.
    pub(super) fn leave_hub(&mut self) {
        let Some(subscriber) = self.subscriber.take() else { return };
        for kind in Kind::ALL {
            for name in subscriber.names(kind) {
                self.leave(&subscriber, kind, &name);
            }
        }
    }

    fn leave(&self, subscriber: &Rc<Subscriber>, kind: Kind, name: &[u8]) {
        if subscriber.remove(kind, name)
            && let Some(hub) = self.account.as_ref().and_then(|account| self.server.known_hub(&account.upstream))
        {
            hub.leave(subscriber, kind, name);
        }
    }

    fn hub(&self) -> Option<Rc<Hub>> {
        let account = self.account.as_ref()?;
        let hub = self.server.hub(&account.upstream, &self.worker);
        hub.count_command(PoolCounter::CommandPubsub);
        Some(hub)
    }

    fn subscriber(&mut self) -> Rc<Subscriber> {
        let subscriber = self.subscriber.get_or_insert_with(|| Subscriber::new(Rc::clone(&self.client), self.version));
        subscriber.version.set(self.version);
        Rc::clone(subscriber)
    }
}

/// What Redis says to a command that it does not know, which it looks at first.
pub(super) fn unknown_command(whole: &[u8]) -> String {
    let mut arguments = Arguments::new(whole).map(String::from_utf8_lossy);
    let name: String = arguments.next().unwrap_or_default().chars().take(128).collect();
    let mut shown = String::new();
    for argument in arguments {
        if shown.len() >= 128 {
            break;
        }
        shown.extend(["'", &argument.chars().take(128 - shown.len()).collect::<String>(), "' "]);
    }
    format!("ERR unknown command '{name}', with args beginning with: {shown}")
}
