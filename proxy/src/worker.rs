//! One worker: a thread with its own single-threaded runtime, and all that the sessions on it share. Nothing here is synchronised.
//!
//! What another thread wants of a worker it sends as a [`Job`], which runs between two tasks of that worker. Not here: starting and stopping
//! threads (`runtime`), or accepting clients (`listener`).

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use sidepool_config::model::Config;
use tokio::sync::mpsc;

use crate::chance::Chance;
use crate::console::control::Control;
use crate::console::guest::Guests;
use crate::drain::DrainSignal;
use crate::observe::record::WorkerRecord;
use crate::pool::identities::Identities;
use crate::pool::registry::PoolTable;
use crate::runtime::pressure::Step as Pressure;
use crate::session::postgres::side::{PostgresCommons, PostgresSide};
use crate::session::redis::side::{RedisCommons, RedisSide};
use crate::suspension::Suspension;
use crate::transport::buffer::Buffers;

/// Names a worker. Worker ids run from 0 without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub u16);

/// Work for a worker, sent from another thread; runs on the worker's own thread with the worker in hand.
pub type Job = Box<dyn FnOnce(&Rc<Worker>) + Send>;

/// Where jobs for each worker are posted.
#[derive(Clone)]
pub struct Mailboxes(Arc<[mpsc::UnboundedSender<Job>]>);

impl Mailboxes {
    /// One mailbox for each worker, in the order of their ids.
    #[must_use]
    pub fn new(senders: Vec<mpsc::UnboundedSender<Job>>) -> Self {
        Self(senders.into())
    }

    /// How many workers there are.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.0.len()
    }

    /// The ids of all workers.
    pub fn ids(&self) -> impl Iterator<Item = WorkerId> + use<> {
        (0..u16::try_from(self.0.len()).unwrap_or(u16::MAX)).map(WorkerId)
    }

    /// Runs `job` on worker `to`; false when that worker has ended.
    pub fn post(&self, to: WorkerId, job: impl FnOnce(&Rc<Worker>) + Send + 'static) -> bool {
        self.0.get(usize::from(to.0)).is_some_and(|sender| sender.send(Box::new(job)).is_ok())
    }
}

/// What the workers of a process have in common.
#[derive(Clone)]
pub struct Commons {
    /// The PostgreSQL side.
    pub postgres: PostgresCommons,
    /// What the Redis side needs.
    pub redis: RedisCommons,
    /// A way to the control loop.
    pub control: Control,
    /// The identities of clients.
    pub identities: Identities,
}

impl Commons {
    /// For a process with so many workers.
    pub fn new(workers: usize) -> io::Result<Self> {
        Ok(Self {
            postgres: PostgresCommons::new(workers)?,
            redis: RedisCommons::new(workers),
            control: Control::default(),
            identities: Identities::default(),
        })
    }
}

/// What the sessions of one worker share.
pub struct Worker {
    /// Who we are.
    pub id: WorkerId,
    /// Ways to the others (and to ourselves).
    pub mailboxes: Mailboxes,
    /// Memory lent to whoever is on the thread right now.
    pub buffers: Buffers,
    /// Random bytes for logins.
    pub chance: Chance,
    /// The configuration in force; replaced whole by a reload.
    pub config: RefCell<Arc<Config>>,
    /// Handles of pools, for what other workers post.
    pub pools: PoolTable,
    /// Pools, cancel keys and statements of the PostgreSQL side.
    pub postgres: PostgresSide,
    /// Pools and lanes of the Redis side.
    pub redis: RedisSide,
    /// The clients of the admin console.
    pub guests: Guests,
    /// A way to the control loop.
    pub control: Control,
    /// The identities of clients, between which queues are fair.
    pub identities: Identities,
    /// What this worker counts that belongs to no pool.
    pub record: WorkerRecord,
    /// Whether the process is on its way out; wakes idle sessions when it is.
    pub drain: DrainSignal,
    /// Whether PostgreSQL sessions are to keep still (SUSPEND).
    pub suspension: Suspension,
    /// How much less is done because memory runs out.
    pub pressure: Cell<Pressure>,
    /// Set by the last job of all.
    stopping: Cell<bool>,
}

impl Worker {
    /// A worker that serves nothing yet: the sides are empty until [`apply`](Self::apply) is called.
    #[must_use]
    pub fn new(id: WorkerId, mailboxes: Mailboxes, commons: Commons) -> Rc<Self> {
        let posts = mailboxes.clone();
        commons.postgres.dialing.dns.on_change(Box::new(move |name, addresses| {
            for id in posts.ids() {
                let (name, addresses) = (name.to_owned(), Arc::clone(addresses));
                posts.post(id, move |worker| {
                    worker.postgres.pools.retire_gone(&name, &addresses);
                    worker.redis.retire_gone(&name, &addresses);
                });
            }
        }));
        Rc::new(Self {
            id,
            mailboxes,
            buffers: Buffers::default(),
            chance: Chance::default(),
            config: RefCell::new(Arc::new(Config::default())),
            pools: PoolTable::default(),
            postgres: PostgresSide::new(id, commons.postgres),
            redis: RedisSide::new(commons.redis),
            guests: Guests::default(),
            control: commons.control,
            identities: commons.identities,
            record: WorkerRecord::default(),
            drain: DrainSignal::default(),
            suspension: Suspension::default(),
            pressure: Cell::default(),
            stopping: Cell::new(false),
        })
    }

    /// Puts a (new) configuration into force. The first one is applied over the empty configuration, so that starting and reloading are one path.
    pub fn apply(self: &Rc<Self>, new: &Arc<Config>) {
        let old = self.config.replace(Arc::clone(new));
        self.postgres.apply(&old, new, self);
        self.redis.apply(&old, new, self);
    }

    /// Ends the worker's thread after the job that calls this. Upstream connections are closed politely; sessions that still run are dropped.
    pub fn stop(&self) {
        self.postgres.drain();
        self.redis.drain();
        self.stopping.set(true);
    }

    /// Whether [`stop`](Self::stop) was called.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.get()
    }
}
