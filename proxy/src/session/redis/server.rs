//! One configured server as one worker sees it: who may come in, the groups of clients that share connections, and the clients themselves.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Instant;

use sha2::{Digest as _, Sha256};
use sidepool_config::model::{Redis, RedisAuth};
use sidepool_config::secret::Secret;
use sidepool_protocol::redis::command::Gates;
use sidepool_protocol::redis::handshake::{Credentials, Selects, WRONGPASS};
use subtle::ConstantTimeEq;
use tokio::sync::oneshot;

use super::client::Client;
use super::end::End;
use super::gate::gates;
use super::group::{self, Group, Key, Renewal};
use super::hub::Hub;
use super::passed::{Left, Passed};
use super::pause::Pause;
use super::side::RedisCommons;
use super::slow::{self, Slow};
use super::topics::Kind;
use super::verdicts::{Known, Verdicts};
use crate::arrivals::Arrivals;
use crate::observe::report::PoolReport;
use crate::pool::handle::{Pool, PoolSetup};
use crate::pool::random::Random;
use crate::upstream::redis::connector::RedisConnector;
use crate::upstream::redis::facts::Facts;
use crate::upstream::redis::scripts::Scripts;
use crate::worker::Worker;

/// A configured server.
pub struct Server {
    /// Its configured name.
    pub name: Arc<str>,
    /// What it says about itself.
    pub facts: Rc<Facts>,
    config: RefCell<Arc<Redis>>,
    commons: RedisCommons,
    groups: RefCell<BTreeMap<Key, Rc<Group>>>,
    hubs: RefCell<BTreeMap<Rc<str>, Rc<Hub>>>,
    /// Databases that the server has let somebody select: never more than it has.
    databases: RefCell<BTreeSet<u32>>,
    clients: RefCell<BTreeMap<u64, Weak<Client>>>,
    /// Whom it concerns when a client leaves: never more than connections are held for that.
    watched: RefCell<BTreeMap<u64, Vec<oneshot::Sender<()>>>>,
    next_id: Cell<u64>,
    /// Clients that have to say who they are, and have not.
    pub arrivals: Rc<Arrivals>,
    /// Commands that turned out to be slow.
    pub slow: Slow,
    /// Lanes are being looked at.
    looking: Cell<bool>,
    /// Commands that are not sent.
    denied: Cell<Gates>,
    /// What one in so many of is traced; 0: nothing is.
    sampling: Cell<u32>,
    random: RefCell<Random>,
    /// Whether a `CLIENT PAUSE` that came through here halts writes.
    pub pause: Rc<Pause>,
    /// What the server said to clients that log in as themselves.
    verdicts: Verdicts,
    /// The passwords of those that it let in.
    passed: Passed,
    me: Weak<Self>,
}

/// Who a client is, once it may do something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// As the client calls itself.
    pub name: Rc<str>,
    /// As the server knows it.
    pub upstream: Rc<str>,
}

/// What credentials come to.
pub enum Identity {
    /// This account.
    Is(Rc<Account>),
    /// Nobody, in these words.
    Not(Rc<str>),
    /// The server has to be asked.
    Unknown,
}

impl Server {
    /// A server without connections.
    pub fn new(name: Arc<str>, config: Arc<Redis>, commons: RedisCommons) -> Rc<Self> {
        Rc::new_cyclic(|me| Self {
            arrivals: Rc::default(),
            slow: Slow::default(),
            looking: Cell::new(false),
            denied: Cell::new(gates(&config)),
            sampling: Cell::new(sampling(&config)),
            random: RefCell::new(Random::new(getrandom::u64().unwrap_or_default())),
            pause: Rc::default(),
            verdicts: Verdicts::default(),
            passed: Passed::default(),
            me: Weak::clone(me),
            name,
            facts: Rc::default(),
            config: RefCell::new(config),
            commons,
            groups: RefCell::default(),
            hubs: RefCell::default(),
            databases: RefCell::default(),
            clients: RefCell::default(),
            watched: RefCell::default(),
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
        self.denied.set(gates(&config));
        self.sampling.set(sampling(&config));
        self.listen_to(&config, worker);
        for (key, group) in &*self.groups.borrow() {
            let (password, before) = (self.secret_of(&config, &key.user), self.secret_of(&old, &key.user));
            let elsewhere = old.upstream != config.upstream || old.tls != config.tls || old.server_tls != config.server_tls;
            let moved = elsewhere || old.tcp != config.tcp || password.is_none() && before.is_some();
            let times = |config: &Redis| (config.limits.server_connect_timeout, config.limits.server_login_retry);
            let renewal = match (moved, password != before || times(&old) != times(&config)) {
                (true, _) => Renewal::Elsewhere,
                (false, true) => Renewal::Opening,
                (false, false) => Renewal::None,
            };
            let target =
                || RedisConnector::new(group::target(key, &config, password.clone(), self.selects(), worker), Rc::clone(&self.facts));
            group.apply(&config, worker.mailboxes.workers(), renewal, target);
        }
        for hub in self.hubs.borrow().values() {
            hub.wake();
        }
    }

    /// How many strangers are listened to at a time.
    pub fn listen_to(&self, config: &Redis, worker: &Worker) {
        let workers = u32::try_from(worker.mailboxes.workers()).unwrap_or(1).max(1);
        self.arrivals.resize(config.max_client_logins.div_ceil(workers));
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
        // Whoever is to log in as itself cannot be known before it comes.
        if config.limits.min_pool_size > 0 && config.auth() != RedisAuth::PassThrough {
            let user = Rc::from(upstream_user(&config));
            self.group(&Key::new(user, config.database), worker);
        }
    }

    /// Who somebody is that has said nothing yet; `None`: it must authenticate.
    pub fn welcome(&self) -> Option<Rc<Account>> {
        let config = self.config.borrow();
        let welcome = match config.auth() {
            RedisAuth::Inject => true,
            RedisAuth::Map => false,
            RedisAuth::PassThrough => self.verdicts.known(crate::clock::now(), None) == Known::Yes,
        };
        welcome.then(|| Rc::new(Account { name: Rc::from("default"), upstream: Rc::from(upstream_user(&config)) }))
    }

    /// Whether it must be found out first if somebody who says nothing may do something.
    pub fn must_knock(&self) -> bool {
        self.passes_through() && self.verdicts.known(crate::clock::now(), None) == Known::Nothing
    }

    /// Asks the server itself about `credentials`, or about somebody who says nothing, unless it has lately said. The error is a line for the client:
    /// nobody could be asked.
    pub async fn ask(&self, client: &Rc<Client>, credentials: Option<&Credentials>, worker: &Worker) -> Result<(), String> {
        let _turn = self.verdicts.turn(client, credentials).await;
        if self.verdicts.known(crate::clock::now(), credentials) != Known::Nothing {
            return Ok(());
        }
        let config = self.config();
        let key = Key::new(Rc::from("default"), 0);
        let proved = RedisConnector::prove(&group::target(&key, &config, None, Selects::Last, worker), credentials).await;
        let now = crate::clock::now();
        match proved {
            Ok(said) => {
                self.verdicts.keep(now, credentials, &said);
                Ok(())
            }
            Err(fault) => {
                if credentials.is_none() {
                    self.verdicts.assume(now);
                }
                Err(format!("UPSTREAM {}", fault.message))
            }
        }
    }

    /// Whether clients come in as themselves.
    pub fn passes_through(&self) -> bool {
        self.config.borrow().auth() == RedisAuth::PassThrough
    }

    /// The server does not let a user in any more as it did, with the password of this mark: clients that came in like that are closed, as the server
    /// closes those of a user that is deleted. Whether there is another way in, which the user's other clients came by.
    pub fn on_denied(&self, user: &Rc<str>, mark: Option<u64>) -> bool {
        self.verdicts.forget(user.as_bytes());
        match self.passed.refuse(user, mark) {
            Left::Others(secret, good) => {
                tracing::info!(
                    server = &*self.name,
                    user = &**user,
                    "the server does not take this user's old password any more; its clients are closed"
                );
                self.groups.borrow().values().filter(|group| group.key.user == *user).for_each(|group| group.use_secret(&secret));
                // Those whose password is not kept any more, too: nobody can say that it is still good.
                self.close_clients(|name| name == user && !good.iter().any(|good| Rc::ptr_eq(name, good)));
                true
            }
            Left::Nothing => {
                tracing::info!(
                    server = &*self.name,
                    user = &**user,
                    "the server does not let this user in any more; its clients are closed"
                );
                self.forget_user(user);
                self.close_clients(|name| name == user);
                false
            }
        }
    }

    fn forget_user(&self, user: &Rc<str>) {
        self.hubs.borrow_mut().remove(user);
        let gone: Vec<Rc<Group>> = {
            let mut groups = self.groups.borrow_mut();
            let keys: Vec<Key> = groups.keys().filter(|key| key.user == *user).cloned().collect();
            keys.iter().filter_map(|key| groups.remove(key)).collect()
        };
        for group in gone {
            group.drain();
            self.commons.directory.forget(group.shared.name());
            self.commons.directory.forget(group.leased.name());
        }
    }

    fn close_clients(&self, of: impl Fn(&Rc<str>) -> bool) {
        for client in self.clients() {
            if client.shown.user.borrow().as_ref().is_some_and(&of) {
                client.doom(End::Denied);
            }
        }
    }

    /// Whether anything is traced.
    #[inline]
    pub fn is_traced(&self) -> bool {
        self.sampling.get() > 0
    }

    /// Whether what begins now is traced.
    pub fn samples(&self) -> bool {
        self.is_traced() && self.random.borrow_mut().chooses(self.sampling.get())
    }

    /// Commands that are not sent.
    pub fn denied(&self) -> Gates {
        self.denied.get()
    }

    /// Who these credentials belong to. As long for a user that does not exist as for a wrong password.
    pub fn authenticate(&self, credentials: &Credentials) -> Identity {
        let config = self.config.borrow();
        match config.auth() {
            RedisAuth::Inject => {
                let name = String::from_utf8_lossy(&credentials.user);
                Identity::Is(Rc::new(Account { name: Rc::from(&*name), upstream: Rc::from(upstream_user(&config)) }))
            }
            RedisAuth::Map => mapped(&config, credentials).map_or_else(|| Identity::Not(WRONGPASS.into()), Identity::Is),
            RedisAuth::PassThrough => {
                drop(config);
                self.passed(credentials)
            }
        }
    }

    /// Who a client is that logs in as itself.
    fn passed(&self, credentials: &Credentials) -> Identity {
        let texts = (std::str::from_utf8(&credentials.user), std::str::from_utf8(&credentials.password));
        let (Ok(user), Ok(password)) = texts else { return Identity::Not(WRONGPASS.into()) };
        match self.verdicts.known(crate::clock::now(), Some(credentials)) {
            Known::Nothing => Identity::Unknown,
            Known::No(line) => Identity::Not(line),
            Known::Yes => {
                let user = self.passed.enter(user, password);
                Identity::Is(Rc::new(Account { name: Rc::clone(&user), upstream: user }))
            }
        }
    }

    /// The server let these credentials in.
    pub fn accept(&self, credentials: &Credentials) {
        self.verdicts.keep(crate::clock::now(), Some(credentials), &Ok(()));
    }

    /// The password of an upstream user, as configured or as a client gave it.
    pub fn secret(&self, user: &str) -> Option<Secret> {
        self.secret_of(&self.config.borrow(), user)
    }

    /// When connections select their database: as in a session that selects first and logs in then, where that is possible.
    fn selects(&self) -> Selects {
        let open = self.config.borrow().auth() == RedisAuth::PassThrough && self.welcome().is_some();
        if open { Selects::First } else { Selects::Last }
    }

    /// The password that goes with an upstream user.
    fn secret_of(&self, config: &Redis, user: &str) -> Option<Secret> {
        match config.auth() {
            RedisAuth::PassThrough => self.passed.secret(user),
            RedisAuth::Inject | RedisAuth::Map => password_of(config, user),
        }
    }

    /// The group of this key.
    pub fn group(&self, key: &Key, worker: &Rc<Worker>) -> Rc<Group> {
        if let Some(group) = self.groups.borrow().get(key) {
            return Rc::clone(group);
        }
        let config = self.config();
        let group = Group::new(
            key.clone(),
            Weak::clone(&self.me),
            &self.name,
            &config,
            worker.mailboxes.workers(),
            &self.commons.bounds,
            |name, limits, record| {
                let seed =
                    name.bytes().fold(u64::from(worker.id.0) + 1, |seed, byte| seed.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte));
                let (id, core) = self.commons.directory.join(crate::clock::now(), Arc::clone(&name), limits, seed);
                let setup = PoolSetup { name, id, core, worker: worker.id, mailboxes: worker.mailboxes.clone(), record, shared: None };
                let target = group::target(key, &config, self.secret_of(&config, &key.user), self.selects(), worker);
                Pool::new(setup, RedisConnector::new(target, Rc::clone(&self.facts)), &worker.pools)
            },
        );
        self.groups.borrow_mut().insert(key.clone(), Rc::clone(&group));
        group
    }

    /// All groups.
    #[cfg(test)]
    pub fn groups(&self) -> Vec<Rc<Group>> {
        self.groups.borrow().values().map(Rc::clone).collect()
    }

    /// Whether the server is known to have this database.
    pub fn has_database(&self, database: u32) -> bool {
        database == self.config.borrow().database || self.databases.borrow().contains(&database)
    }

    /// The server has let somebody select this database.
    pub fn saw_database(&self, database: u32) {
        self.databases.borrow_mut().insert(database);
    }

    /// The server has no such database.
    pub fn forget_group(&self, key: &Key) {
        self.groups.borrow_mut().remove(key);
    }

    /// The source of a script went by: all workers remember it.
    pub fn saw_script(&self, source: &[u8], worker: &Worker) {
        let Some(source) = self.facts.scripts.saw(source) else { return };
        self.tell_others(worker, move |scripts| {
            scripts.saw(&source);
        });
    }

    /// The server was told to forget all scripts.
    pub fn forget_scripts(&self, worker: &Worker) {
        self.facts.scripts.forget();
        self.tell_others(worker, Scripts::forget);
    }

    fn tell_others(&self, worker: &Worker, news: impl Fn(&Scripts) + Clone + Send + 'static) {
        for other in worker.mailboxes.ids().filter(|other| *other != worker.id) {
            let (name, news) = (Arc::clone(&self.name), news.clone());
            worker.mailboxes.post(other, move |worker| {
                if let Some(server) = worker.redis.server(&name) {
                    news(&server.facts.scripts);
                }
            });
        }
    }

    /// There is work for lanes: somebody looks at them for as long as there is.
    pub fn keep_looking(&self) {
        if !self.looking.replace(true) {
            tokio::task::spawn_local(slow::look(Weak::clone(&self.me)));
        }
    }

    /// Nobody looks at the lanes any more.
    pub fn stop_looking(&self) {
        self.looking.set(false);
    }

    /// Looks at all lanes, so many milliseconds after the last look; whether there is work. While writes are halted, nothing can be said about them.
    pub fn look(&self, ms: u32) -> bool {
        let paused = self.pause.is_on();
        let mut busy = false;
        for group in self.groups.borrow().values() {
            busy |= group.look(ms, |command| !paused && self.slow.stalled(command));
        }
        self.slow.on_look();
        busy
    }

    /// Where clients of this upstream user subscribe.
    pub fn hub(&self, user: &Rc<str>, worker: &Rc<Worker>) -> Rc<Hub> {
        if let Some(hub) = self.hubs.borrow().get(user) {
            return Rc::clone(hub);
        }
        let key = Key::new(Rc::clone(user), self.config.borrow().database);
        let hub = Hub::start(self.group(&key, worker), worker);
        self.hubs.borrow_mut().insert(Rc::clone(user), Rc::clone(&hub));
        hub
    }

    /// The same, if any client of the user ever did.
    pub fn known_hub(&self, user: &Rc<str>) -> Option<Rc<Hub>> {
        self.hubs.borrow().get(user).cloned()
    }

    /// Whether several clients of this worker listen to the same.
    pub fn is_crowded(&self) -> bool {
        self.hubs.borrow().values().any(|hub| hub.is_crowded())
    }

    /// How many clients of this worker listen to a channel beyond those that the server counts.
    pub fn unseen(&self, kind: Kind, name: &[u8]) -> u32 {
        self.hubs.borrow().values().map(|hub| hub.unseen(kind, name)).sum()
    }

    /// The same of those who listen by a pattern.
    pub fn unseen_by_pattern(&self, name: &[u8]) -> u32 {
        self.hubs.borrow().values().map(|hub| hub.unseen_by_pattern(name)).sum()
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
        self.watched.borrow_mut().remove(&id);
    }

    /// What comes to an end when this client leaves; `None`: there is none.
    pub fn watch(&self, id: u64) -> Option<oneshot::Receiver<()>> {
        self.client(id).filter(|client| client.is_alive())?;
        let (sender, receiver) = oneshot::channel();
        let mut watched = self.watched.borrow_mut();
        let concerned = watched.entry(id).or_default();
        concerned.retain(|sender| !sender.is_closed());
        concerned.push(sender);
        Some(receiver)
    }

    /// Whether a client could be this user, as far as that is known here.
    pub fn knows_user(&self, name: &str) -> bool {
        let configured = self.config.borrow().users.contains_key(name) || self.passed.knows(name);
        configured || name == "default" || self.clients().iter().any(|client| client.shown.user.borrow().as_deref() == Some(name))
    }

    /// A client by its number.
    pub fn client(&self, id: u64) -> Option<Rc<Client>> {
        self.clients.borrow().get(&id).and_then(Weak::upgrade)
    }

    /// The server's number of the connection that a client leases; 0: it leases none.
    pub fn leased_by(&self, id: i64) -> i64 {
        u64::try_from(id).ok().and_then(|id| self.client(id)).map_or(0, |client| client.shown.leased.get())
    }

    /// All clients, in the order in which they came.
    pub fn clients(&self) -> Vec<Rc<Client>> {
        self.clients.borrow().values().filter_map(Weak::upgrade).collect()
    }

    /// The host `name` leads to these addresses from now on: connections to others are closed when nobody uses them.
    pub fn retire_gone(&self, name: &str, addresses: &[IpAddr]) {
        for group in self.groups.borrow().values() {
            group.shared.retire_gone(name, addresses);
            group.leased.retire_gone(name, addresses);
        }
    }

    /// What the pools have to report.
    pub fn reports(&self, now: Instant) -> Vec<PoolReport> {
        self.groups.borrow().values().flat_map(|group| group.reports(now)).collect()
    }
}

/// What one in so many of is traced; 0: nothing is.
fn sampling(config: &Redis) -> u32 {
    if config.traces.endpoint.is_some() { config.traces.sample_one_in } else { 0 }
}

/// Who a client is, as one of the configured users.
fn mapped(config: &Redis, credentials: &Credentials) -> Option<Rc<Account>> {
    let name = std::str::from_utf8(&credentials.user).ok();
    let known = name.and_then(|name| config.users.get(name));
    let expected = known.map_or("", |user| user.password.reveal());
    let given = Sha256::digest(&*credentials.password);
    // As the server's ACL writes it: # and the hash in hexadecimal.
    let expected = match expected.strip_prefix('#').and_then(unhex) {
        Some(hash) => hash,
        None => Sha256::digest(expected).into(),
    };
    let same: bool = expected.ct_eq(&given).into();
    let (name, known) = (name?, known?);
    same.then(|| {
        let upstream = known.upstream_user.as_deref().unwrap_or_else(|| upstream_user(config));
        Rc::new(Account { name: Rc::from(name), upstream: Rc::from(upstream) })
    })
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    let digits: Vec<u8> = text.chars().map(|digit| digit.to_digit(16).map(|digit| digit as u8)).collect::<Option<_>>()?;
    if digits.len() != bytes.len() * 2 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    Some(bytes)
}

/// The user of connections that no client's name decides.
#[must_use]
pub fn upstream_user(config: &Redis) -> &str {
    config.user.as_deref().unwrap_or("default")
}

/// The password that goes with an upstream user, as the configuration says it: that of the first user who becomes this one, or the server's own.
#[must_use]
pub fn password_of(config: &Redis, user: &str) -> Option<Secret> {
    let mapped = config.users.values().find(|mapped| mapped.upstream_user.as_deref() == Some(user));
    match mapped.and_then(|mapped| mapped.upstream_password.clone()) {
        Some(password) => Some(password),
        None => config.password.clone().filter(|_| user == upstream_user(config)),
    }
}
