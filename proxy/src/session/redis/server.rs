//! One configured server as one worker sees it: who may come in, the groups of clients that share connections, and the clients themselves.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use sidepool_config::model::Redis;
use sidepool_config::secret::Secret;
use sidepool_protocol::redis::encode::Resp;
use sidepool_protocol::redis::handshake::Credentials;
use subtle::ConstantTimeEq;

use super::client::Client;
use super::group::{self, Group, Key};
use super::hub::Hub;
use crate::observe::report::PoolReport;
use crate::pool::handle::{Pool, PoolSetup};
use crate::pool::registry::Directory;
use crate::upstream::redis::connector::RedisConnector;
use crate::upstream::redis::facts::Facts;
use crate::worker::Worker;

/// A configured server.
pub struct Server {
    /// Its configured name.
    pub name: Arc<str>,
    /// What it says about itself.
    pub facts: Rc<Facts>,
    config: RefCell<Arc<Redis>>,
    directory: Directory<Arc<str>>,
    groups: RefCell<BTreeMap<Key, Rc<Group>>>,
    hubs: RefCell<BTreeMap<Rc<str>, Rc<Hub>>>,
    clients: RefCell<BTreeMap<u64, Weak<Client>>>,
    next_id: Cell<u64>,
}

/// Who a client is, once it may do something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// As the client calls itself.
    pub name: Rc<str>,
    /// As the server knows it.
    pub upstream: Rc<str>,
}

impl Server {
    /// A server without connections.
    pub fn new(name: Arc<str>, config: Arc<Redis>, directory: Directory<Arc<str>>) -> Rc<Self> {
        Rc::new(Self {
            name,
            facts: Rc::default(),
            config: RefCell::new(config),
            directory,
            groups: RefCell::default(),
            hubs: RefCell::default(),
            clients: RefCell::default(),
            next_id: Cell::new(1),
        })
    }

    /// The settings in force.
    pub fn config(&self) -> Arc<Redis> {
        Arc::clone(&self.config.borrow())
    }

    /// Puts new settings into force.
    pub fn apply(&self, config: Arc<Redis>, worker: &Worker) {
        let old = self.config.replace(Arc::clone(&config));
        for (key, group) in &*self.groups.borrow() {
            let (password, before) = (password_of(&config, &key.user), password_of(&old, &key.user));
            let moved = old.upstream != config.upstream || old.tls != config.tls || password != before;
            let target = moved.then(|| (group::target(key, &config, password), &self.facts));
            group.apply(&config, worker.mailboxes.workers(), target);
        }
        for hub in self.hubs.borrow().values() {
            hub.wake();
        }
    }

    /// It is no longer configured.
    pub fn drain(&self) {
        for group in self.groups.borrow().values() {
            group.drain();
        }
        for hub in self.hubs.borrow().values() {
            hub.wake();
        }
    }

    /// Opens the configured minimum before anybody asks.
    pub fn warm(&self, worker: &Rc<Worker>) {
        let config = self.config();
        if config.limits.min_pool_size > 0 {
            let user = Rc::from(upstream_user(&config));
            self.group(&Key { user, database: config.database, version: Resp::Two }, worker);
        }
    }

    /// Who somebody is that has said nothing yet; `None`: it must authenticate.
    pub fn welcome(&self) -> Option<Rc<Account>> {
        let config = self.config.borrow();
        config.users.is_empty().then(|| Rc::new(Account { name: Rc::from("default"), upstream: Rc::from(upstream_user(&config)) }))
    }

    /// Who these credentials belong to. As long for a user that does not exist as for a wrong password.
    pub fn authenticate(&self, credentials: &Credentials) -> Option<Rc<Account>> {
        let config = self.config.borrow();
        if config.users.is_empty() {
            let name = String::from_utf8_lossy(&credentials.user);
            return Some(Rc::new(Account { name: Rc::from(&*name), upstream: Rc::from(upstream_user(&config)) }));
        }
        let name = std::str::from_utf8(&credentials.user).ok();
        let known = name.and_then(|name| config.users.get(name));
        let expected = known.map_or("", |user| user.password.reveal());
        let same: bool = expected.as_bytes().ct_eq(&credentials.password).into();
        let (name, known) = (name?, known?);
        same.then(|| {
            let upstream = known.upstream_user.as_deref().unwrap_or_else(|| upstream_user(&config));
            Rc::new(Account { name: Rc::from(name), upstream: Rc::from(upstream) })
        })
    }

    /// The group of this key.
    pub fn group(&self, key: &Key, worker: &Rc<Worker>) -> Rc<Group> {
        if let Some(group) = self.groups.borrow().get(key) {
            return Rc::clone(group);
        }
        let config = self.config();
        let group = Group::new(key.clone(), &self.name, &config, worker.mailboxes.workers(), |name, limits, record| {
            let seed = name.bytes().fold(u64::from(worker.id.0) + 1, |seed, byte| seed.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte));
            let (id, core) = self.directory.join(crate::clock::now(), Arc::clone(&name), limits, seed);
            let setup = PoolSetup { name, id, core, worker: worker.id, mailboxes: worker.mailboxes.clone(), record, shared: None };
            let target = group::target(key, &config, password_of(&config, &key.user));
            Pool::new(setup, RedisConnector::new(target, Rc::clone(&self.facts)), &worker.pools)
        });
        self.groups.borrow_mut().insert(key.clone(), Rc::clone(&group));
        group
    }

    /// Whether the server is known to have this database.
    pub fn has_database(&self, database: u32) -> bool {
        database == self.config.borrow().database || self.groups.borrow().keys().any(|key| key.database == database)
    }

    /// The server has no such database.
    pub fn forget_group(&self, key: &Key) {
        self.groups.borrow_mut().remove(key);
    }

    /// Where clients of this upstream user subscribe.
    pub fn hub(&self, user: &Rc<str>, worker: &Rc<Worker>) -> Rc<Hub> {
        if let Some(hub) = self.hubs.borrow().get(user) {
            return Rc::clone(hub);
        }
        let key = Key { user: Rc::clone(user), database: self.config.borrow().database, version: Resp::Two };
        let hub = Hub::start(self.group(&key, worker), worker);
        self.hubs.borrow_mut().insert(Rc::clone(user), Rc::clone(&hub));
        hub
    }

    /// A number for a new client, unique in the process.
    pub fn next_id(&self, worker: &Worker) -> u64 {
        let count = self.next_id.get();
        self.next_id.set(count + 1);
        (count - 1) * worker.mailboxes.workers().max(1) as u64 + u64::from(worker.id.0) + 1
    }

    /// A client has come.
    pub fn enter(&self, client: &Rc<Client>) {
        self.clients.borrow_mut().insert(client.id, Rc::downgrade(client));
    }

    /// A client has left.
    pub fn leave(&self, id: u64) {
        self.clients.borrow_mut().remove(&id);
    }

    /// A client by its number.
    pub fn client(&self, id: u64) -> Option<Rc<Client>> {
        self.clients.borrow().get(&id).and_then(Weak::upgrade)
    }

    /// All clients, in the order in which they came.
    pub fn clients(&self) -> Vec<Rc<Client>> {
        self.clients.borrow().values().filter_map(Weak::upgrade).collect()
    }

    /// What the pools have to report.
    pub fn reports(&self, now: std::time::Instant) -> Vec<PoolReport> {
        self.groups.borrow().values().flat_map(|group| group.reports(now)).collect()
    }
}

fn upstream_user(config: &Redis) -> &str {
    config.user.as_deref().unwrap_or("default")
}

/// The password that goes with an upstream user.
fn password_of(config: &Redis, user: &str) -> Option<Secret> {
    let mapped = config.users.values().find(|mapped| mapped.upstream_user.as_deref() == Some(user));
    match mapped.and_then(|mapped| mapped.upstream_password.clone()) {
        Some(password) => Some(password),
        None => config.password.clone().filter(|_| user == upstream_user(config)),
    }
}
