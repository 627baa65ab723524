//! What a client is subscribed to, and the frames that tell it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use sidepool_protocol::redis::encode::{self, Resp};

use super::client::Client;

/// What can be subscribed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `SUBSCRIBE`.
    Channel,
    /// `PSUBSCRIBE`.
    Pattern,
    /// `SSUBSCRIBE`.
    Shard,
}

impl Kind {
    /// All kinds; their order is the index of arrays by kind.
    pub const ALL: [Self; 3] = [Self::Channel, Self::Pattern, Self::Shard];

    /// The kind that a command (un)subscribes, by its name in any case.
    pub fn of_command(name: &[u8]) -> Self {
        match name.first() {
            Some(b'p' | b'P') => Self::Pattern,
            // `SUBSCRIBE` and `SSUBSCRIBE`, `UNSUBSCRIBE` and `SUNSUBSCRIBE`.
            Some(b's' | b'S') if matches!(name.get(1), Some(b's' | b'S')) || name.len() == "sunsubscribe".len() => Self::Shard,
            Some(_) | None => Self::Channel,
        }
    }

    /// The command that subscribes.
    pub fn subscribe(self) -> &'static str {
        match self {
            Self::Channel => "subscribe",
            Self::Pattern => "psubscribe",
            Self::Shard => "ssubscribe",
        }
    }

    /// The command that unsubscribes.
    pub fn unsubscribe(self) -> &'static str {
        match self {
            Self::Channel => "unsubscribe",
            Self::Pattern => "punsubscribe",
            Self::Shard => "sunsubscribe",
        }
    }

    /// The first word of a message.
    pub fn message(self) -> &'static str {
        match self {
            Self::Channel => "message",
            Self::Pattern => "pmessage",
            Self::Shard => "smessage",
        }
    }
}

/// The channel of the message that moves a connection's offset to where everybody's writes are (`WAIT`).
pub const WAIT_CHANNEL: &[u8] = b"sidepool:wait";

/// How channels begin that mark a place in what a server tells its subscribers.
const MARK: &str = "sidepool:mark:";

/// A channel that nobody else uses.
pub fn new_mark() -> Rc<[u8]> {
    let mut random = [0; 16];
    // Without random numbers the name is one that somebody might use, and would have to.
    let _ = getrandom::fill(&mut random);
    format!("{MARK}{:032x}", u128::from_ne_bytes(random)).into_bytes().into()
}

/// Whether a channel is one on which we say something to ourselves.
pub fn is_ours(channel: &[u8]) -> bool {
    channel == WAIT_CHANNEL || channel.starts_with(MARK.as_bytes())
}

/// A client as the hub knows it.
pub struct Subscriber {
    /// The client.
    pub client: Rc<Client>,
    /// The RESP version it speaks at the moment.
    pub version: Cell<Resp>,
    names: RefCell<[BTreeSet<Rc<[u8]>>; 3]>,
}

impl Subscriber {
    /// A client that is subscribed to nothing.
    pub fn new(client: Rc<Client>, version: Resp) -> Rc<Self> {
        Rc::new(Self { client, version: Cell::new(version), names: RefCell::default() })
    }

    /// Remembers a subscription.
    pub fn add(&self, kind: Kind, name: &Rc<[u8]>) {
        self.names.borrow_mut()[kind as usize].insert(Rc::clone(name));
        self.show();
    }

    /// Forgets a subscription; whether there was one.
    pub fn remove(&self, kind: Kind, name: &[u8]) -> bool {
        let removed = self.names.borrow_mut()[kind as usize].remove(name);
        self.show();
        removed
    }

    /// Whether it is subscribed to this.
    pub fn is_on(&self, kind: Kind, name: &[u8]) -> bool {
        self.names.borrow()[kind as usize].contains(name)
    }

    /// What it is subscribed to.
    pub fn names(&self, kind: Kind) -> Vec<Rc<[u8]>> {
        self.names.borrow()[kind as usize].iter().cloned().collect()
    }

    /// Whether it is subscribed to anything.
    pub fn is_subscribed(&self) -> bool {
        self.names.borrow().iter().any(|names| !names.is_empty())
    }

    /// The number that stands in confirmations: channels and patterns together, shard channels apart.
    fn count(&self, kind: Kind) -> usize {
        let names = self.names.borrow();
        match kind {
            Kind::Channel | Kind::Pattern => names[0].len() + names[1].len(),
            Kind::Shard => names[2].len(),
        }
    }

    /// Tells the client that it is subscribed, or no longer. `None`: there was nothing to unsubscribe from.
    pub fn confirm(&self, word: &str, kind: Kind, name: Option<&[u8]>) {
        let mut out = Vec::with_capacity(64);
        encode::push(&mut out, self.version.get(), 3);
        encode::bulk(&mut out, word.as_bytes());
        match name {
            Some(name) => encode::bulk(&mut out, name),
            None => encode::null(&mut out, self.version.get()),
        }
        encode::integer(&mut out, self.count(kind) as i64);
        self.client.deliver_message(&out);
    }

    fn show(&self) {
        let counts = {
            let names = self.names.borrow();
            [0, 1, 2].map(|kind| names[kind].len() as u32)
        };
        self.client.shown.rename(|words| words.subscriptions = counts);
    }
}

#[cfg(test)]
mod tests {
    use super::Kind;

    #[test]
    fn commands_say_their_kind() {
        for (name, kind) in [
            ("SUBSCRIBE", Kind::Channel),
            ("unsubscribe", Kind::Channel),
            ("PSubscribe", Kind::Pattern),
            ("punsubscribe", Kind::Pattern),
            ("ssubscribe", Kind::Shard),
            ("SUNSUBSCRIBE", Kind::Shard),
        ] {
            assert_eq!(Kind::of_command(name.as_bytes()), kind, "{name}");
        }
    }
}
