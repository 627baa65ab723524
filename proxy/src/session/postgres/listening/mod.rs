//! LISTEN and NOTIFY for clients that share connections: one connection per database and process listens for all of them.
//!
//! ```text
//!   client ── LISTEN x ──▶ session ── join x ──▶ branch (one a worker) ──▶ hub (one in the process) ── LISTEN x ──▶ server
//!     ▲                       │ waits until the hub listens, and then sends the client's own LISTEN on the connection it has
//!     └──── outside of ───────┴◀──────────────── branch ◀──────────────── hub ◀── notification ──────────────────── server
//!           transactions
//! ```
//! The client's own statements decide: they run on its own connection, in its own transaction, and when that has ended `pg_listening_channels()`
//! says what the client listens to now. Then the connection forgets all channels and serves others; the next one that the client gets is told them
//! again, so that each LISTEN and UNLISTEN finds what it would find without a pooler. Here: what a worker knows, and how workers talk about it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::rc::Rc;
use std::sync::Arc;

use sidepool_config::model::ListenGap;
use sidepool_protocol::postgres::fault::Fault;
use sidepool_protocol::postgres::subscriber::Channel;

use self::branch::Branch;
use self::hub::Hub;
use self::listener::Ear;
use super::route::PoolKey;
use crate::worker::{Mailboxes, Worker, WorkerId};

pub mod branch;
pub mod flight;
pub mod gate;
pub mod hub;
pub mod listener;

pub(super) mod session;
mod succession;
mod words;

/// Most channels that one client may listen to.
pub const MAX_CLIENT_CHANNELS: usize = 1000;

/// Most channels that are listened to in one database.
pub const MAX_CHANNELS: usize = 100_000;

/// How much may wait for a client that does not read, or does not end its transaction, in bytes.
pub const MAX_INBOX_BYTES: usize = 8 * 1024 * 1024;

/// Which hub: a database of the configuration, and its name on the server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HubKey {
    /// The name of the entry in the configuration.
    pub entry: Arc<str>,
    /// The database on the server.
    pub dbname: Arc<str>,
}

impl HubKey {
    /// The hub for the clients of this pool.
    #[must_use]
    pub fn of(pool: &PoolKey) -> Self {
        Self { entry: Arc::clone(&pool.entry), dbname: Arc::clone(&pool.dbname) }
    }

    /// Where the hub lives: on the same worker for everybody who asks.
    fn home(&self, workers: usize) -> WorkerId {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        let worker = hasher.finish() % workers.max(1) as u64;
        WorkerId(u16::try_from(worker).unwrap_or(0))
    }
}

/// What a branch asks of the hub.
#[derive(Debug)]
enum Ask {
    /// Listen to this channel. `turn` comes back with the answer; the connection may be opened as the pool's user.
    Join { channel: Channel, turn: u64, pool: PoolKey },
    /// Nobody here listens to it any more.
    Leave { channel: Channel },
}

/// What a hub tells a branch.
#[derive(Debug, Clone)]
enum News {
    /// It listens to the channel.
    Joined { channel: Channel, turn: u64 },
    /// It cannot.
    Refused { channel: Channel, turn: u64, fault: Arc<Fault> },
    /// A notification, as the server sent it.
    Heard { channel: Channel, message: Arc<[u8]> },
    /// The connection is lost, and with it perhaps notifications.
    Lost(ListenGap),
    /// It is not to be had again so soon: whoever waits for it is told.
    Down(Arc<Fault>),
    /// There is no such database any more.
    Gone,
}

/// What one worker knows of listening.
#[derive(Default)]
pub struct Listening {
    /// Its clients that listen, by their numbers.
    ears: RefCell<HashMap<u64, Ear>>,
    branches: RefCell<HashMap<HubKey, Rc<Branch>>>,
    /// The hubs that live here.
    hubs: RefCell<HashMap<HubKey, Rc<Hub>>>,
    /// Counts requests of branches to hubs.
    turns: Cell<u64>,
}

impl Listening {
    /// The client's ear, if it has one.
    pub(super) fn ear(&self, client: u64) -> Option<Rc<listener::Listener>> {
        self.ears.borrow().get(&client).map(|ear| Rc::clone(&ear.0))
    }

    /// The client is gone, or listens to nothing any more.
    pub(super) fn forget(&self, client: u64) {
        let ear = self.ears.borrow_mut().remove(&client);
        drop(ear);
    }

    /// The branch for the clients of a pool.
    fn branch(&self, pool: &PoolKey, mailboxes: &Mailboxes, me: WorkerId) -> Rc<Branch> {
        let key = HubKey::of(pool);
        let mut branches = self.branches.borrow_mut();
        if let Some(branch) = branches.get(&key) {
            return Rc::clone(branch);
        }
        // Databases may be named by clients: branches that nobody uses are not kept.
        branches.retain(|_, branch| Rc::strong_count(branch) > 1);
        let branch = Rc::new(Branch::new(key.clone(), mailboxes.clone(), me));
        branches.insert(key, Rc::clone(&branch));
        branch
    }

    fn next_turn(&self) -> u64 {
        self.turns.set(self.turns.get() + 1);
        self.turns.get()
    }

    /// The database's hub, made when somebody wants to listen.
    fn hub(&self, key: &HubKey, worker: &Rc<Worker>) -> Rc<Hub> {
        Rc::clone(self.hubs.borrow_mut().entry(key.clone()).or_insert_with(|| Hub::start(key.clone(), worker)))
    }
}

/// Tells the hub of this name, which lives on `home`.
fn ask(mailboxes: &Mailboxes, home: WorkerId, from: WorkerId, key: &HubKey, ask: Ask) {
    let key = key.clone();
    mailboxes.post(home, move |worker| {
        let listening = &worker.postgres.listening;
        match ask {
            Ask::Join { channel, turn, pool } => listening.hub(&key, worker).join(from, channel, turn, pool, worker),
            Ask::Leave { channel } => {
                let hub = listening.hubs.borrow().get(&key).cloned();
                if let Some(hub) = hub {
                    hub.leave(from, &channel);
                }
            }
        }
    });
}

/// Tells a worker's branch. A worker that has none any more has nobody who wants to know.
fn tell(worker: &Worker, key: &HubKey, news: &News) {
    let branch = worker.postgres.listening.branches.borrow().get(key).cloned();
    if let Some(branch) = branch {
        branch.on_news(news);
    }
}
