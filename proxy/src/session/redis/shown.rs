//! What others may see of a client: the words, numbers and flags that `CLIENT LIST` shows. Not here: the line itself (`client_list`).

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use sidepool_protocol::redis::command::Command;
use sidepool_protocol::redis::encode::Resp;
use sidepool_protocol::redis::handshake::Habits;

/// What `CLIENT LIST` shows of a client.
#[derive(Default)]
pub struct Shown {
    /// What not every client has.
    pub words: RefCell<Option<Box<Words>>>,
    /// The last command, where that is a known one.
    pub command: Cell<Option<&'static Command>>,
    /// When it last said something, as [`clock::coarse_seconds`].
    pub heard: Cell<u32>,
    /// What it is in the middle of.
    pub state: Cell<State>,
    /// How many commands its open transaction has, and one more; 0: there is none.
    pub multi: Cell<u16>,
    /// The selected database.
    pub database: Cell<u32>,
    /// The RESP version.
    pub version: Cell<Resp>,
    /// The user it logged in as.
    pub user: RefCell<Option<Rc<str>>>,
    /// The server's id of the connection that it leases, while it does.
    pub leased: Cell<i64>,
}

/// What a client calls itself, and what it listens to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Words {
    /// `CLIENT SETNAME`.
    pub name: Box<str>,
    /// `CLIENT SETINFO LIB-NAME`.
    pub library: Box<str>,
    /// `CLIENT SETINFO LIB-VER`.
    pub version: Box<str>,
    /// How many channels, patterns and shard channels it is subscribed to.
    pub subscriptions: [u32; 3],
    /// To which client its invalidations go; 0: to none but itself.
    pub redirect: u64,
    /// That one has left, and one did not get through.
    pub redirect_broken: bool,
}

/// What a client is in the middle of: the flags of `CLIENT LIST` that are not seen otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct State {
    /// It waits for the server.
    pub blocked: bool,
    /// It watches all.
    pub monitor: bool,
    /// Its keys are tracked.
    pub tracking: bool,
    /// It asked for all writes, as a replica does.
    pub replica: bool,
    /// What the server does otherwise for it.
    pub habits: Habits,
}

impl Shown {
    /// Changes what the client calls itself or listens to.
    pub fn rename(&self, change: impl FnOnce(&mut Words)) {
        let mut words = self.words.borrow_mut();
        let mut now = words.take().unwrap_or_default();
        change(&mut now);
        *words = Some(now).filter(|now| **now != Words::default());
    }

    /// Whether it is subscribed to anything.
    pub fn is_subscribed(&self) -> bool {
        self.words.borrow().as_ref().is_some_and(|words| words.subscriptions != [0; 3])
    }

    /// What it calls itself, and what it listens to.
    pub fn words(&self) -> Words {
        self.words.borrow().as_deref().cloned().unwrap_or_default()
    }
}
