//! One worker's pools of PostgreSQL connections: made when somebody is led to them, changed by a reload, drained when nobody is any more.
//!
//! Not here: which pool a client is led to (`route`), or how a pool works (`pool`).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use sidepool_config::model::{PoolLimits, PoolMode, Postgres, TcpOptions};
use sidepool_config::secret::Secret;
use sidepool_protocol::postgres::login::keys::ScramKeys;
use sidepool_protocol::postgres::parameters::ParameterSet;

use super::keyring::Keyring;
use super::route::{self, PoolKey, Route};
use super::switches::Switches;
use crate::clock;
use crate::observe::record::{PoolNumbers, PoolRecord};
use crate::observe::report::{PoolInfo, PoolReport, PoolState, Protocol};
use crate::pool::acquire::AcquireError;
use crate::pool::handle::{Pool, PoolSetup};
use crate::pool::id::IdentityId;
use crate::pool::limits::Limits;
use crate::pool::reason::Condition;
use crate::pool::registry::Directory;
use crate::pool::snapshot::Snapshot;
use crate::upstream::dial::{Dialer, Dialing};
use crate::upstream::postgres::connector::{Learned, PgConnector};
use crate::upstream::postgres::passed::{Credential, Passed};
use crate::upstream::postgres::roll::{Page, Roll};
use crate::worker::Worker;

/// Most pools of databases that clients, not the configuration, named: each costs memory and shows up in metrics.
pub const MAX_AUTO_POOLS: usize = 200;

/// A pool and what is kept beside it.
pub struct PgPool {
    /// The pool.
    pub pool: Rc<Pool<PgConnector>>,
    learned: Learned,
    passed: Passed,
    limits: PoolLimits,
    mode: PoolMode,
}

impl PgPool {
    /// What the server reports to a client that sets nothing. Known after the first connection; before, one is opened, with the pool's own bounds.
    pub async fn baseline(&self) -> Result<Rc<ParameterSet>, AcquireError> {
        if let Some(known) = self.learned.get() {
            return Ok(known);
        }
        let lease = self.pool.acquire(IdentityId::default()).await?;
        let baseline = Rc::clone(&lease.baseline);
        self.learned.set(&baseline);
        lease.release(Condition::Clean);
        Ok(baseline)
    }
}

impl PgPool {
    /// Takes what a login brought for logging in upstream as the same user; a failure that it may mend is forgotten.
    pub fn pass(&self, secret: Option<Secret>, keys: Option<ScramKeys>) {
        let configured = self.pool.connector().target().password.clone();
        if self.passed.offer(Credential { configured, secret, keys }) {
            self.pool.try_again();
        }
    }
}

/// There are [`MAX_AUTO_POOLS`] already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyPools;

/// One worker's pools.
pub struct PgPools {
    directory: Directory<PoolKey>,
    keyring: Keyring,
    dialing: Dialing,
    pools: RefCell<BTreeMap<PoolKey, Rc<PgPool>>>,
    switches: RefCell<Arc<Switches>>,
    /// The connections of all pools.
    pub roll: Rc<Roll>,
}

/// A pool as the admin console sees it.
#[derive(Debug, Clone)]
pub struct PoolFacts {
    /// Which pool.
    pub key: PoolKey,
    /// When its connections go back.
    pub mode: PoolMode,
    /// The state of the pool, which all workers share.
    pub snapshot: Snapshot,
    /// This worker's cells.
    pub numbers: PoolNumbers,
    /// Cancels that are on their way from this worker.
    pub cancels: u32,
    /// Connections of this worker that they are for.
    pub being_cancelled: u32,
}

impl PgPools {
    /// No pools yet. The directory, the keyring and what is known of hosts are those of the process.
    #[must_use]
    pub fn new(directory: Directory<PoolKey>, keyring: Keyring, dialing: Dialing, roll: Rc<Roll>) -> Self {
        Self { directory, keyring, dialing, pools: RefCell::default(), switches: RefCell::default(), roll }
    }

    /// The host `name` leads to these addresses and no others any more.
    pub fn retire_gone(&self, name: &str, addresses: &[IpAddr]) {
        let pools: Vec<Rc<PgPool>> = self.pools.borrow().values().cloned().collect();
        for entry in pools {
            entry.pool.retire_gone(name, addresses);
        }
    }

    /// What operators have switched.
    #[must_use]
    pub fn switches(&self) -> Arc<Switches> {
        Arc::clone(&self.switches.borrow())
    }

    /// Brings all pools in line with what operators have switched.
    pub fn switch(&self, switches: &Arc<Switches>) {
        *self.switches.borrow_mut() = Arc::clone(switches);
        for (key, entry) in &*self.pools.borrow() {
            if switches.is_paused(key.database()) {
                entry.pool.pause();
            } else {
                entry.pool.resume();
            }
        }
    }

    /// Has the connections that are open closed when nobody uses them any more, in the pools that are chosen. Each worker has to be told, with the
    /// same `token`.
    pub fn reconnect(&self, token: u64, choose: impl Fn(&PoolKey) -> bool) {
        let pools = self.pools.borrow();
        for (key, entry) in pools.iter().filter(|(key, _)| choose(key)) {
            entry.pool.reconnect(token);
            self.note_stale(key);
        }
    }

    /// The pools as the admin console sees them.
    #[must_use]
    pub fn facts(&self, now: Instant) -> Vec<PoolFacts> {
        let servers: Vec<_> = self.roll.servers().into_iter().filter(|server| server.cancels() > 0).collect();
        let facts = |(key, entry): (&PoolKey, &Rc<PgPool>)| {
            let own = servers.iter().filter(|server| server.database == *key.database() && server.user == key.user);
            let cancels: Vec<u32> = own.map(|server| server.cancels()).collect();
            PoolFacts {
                key: key.clone(),
                mode: entry.mode,
                snapshot: entry.pool.snapshot(now),
                numbers: entry.pool.record().numbers(),
                cancels: cancels.iter().sum(),
                being_cancelled: u32::try_from(cancels.len()).unwrap_or(u32::MAX),
            }
        };
        self.pools.borrow().iter().map(facts).collect()
    }

    fn note_stale(&self, key: &PoolKey) {
        for server in self.roll.servers() {
            if server.database == *key.database() && server.user == key.user {
                server.close_needed.set(true);
            }
        }
    }

    /// The pool at the end of `route`, made if it is not there.
    pub fn get(&self, route: &Route, worker: &Rc<Worker>) -> Result<Rc<PgPool>, TooManyPools> {
        if let Some(pool) = self.pools.borrow().get(&route.key) {
            return Ok(Rc::clone(pool));
        }
        if route.key.is_auto() {
            let mut pools = self.pools.borrow_mut();
            if pools.keys().filter(|key| key.is_auto()).count() >= MAX_AUTO_POOLS {
                pools.retain(|key, pool| !(key.is_auto() && is_unused(pool)));
            }
            if pools.keys().filter(|key| key.is_auto()).count() >= MAX_AUTO_POOLS {
                return Err(TooManyPools);
            }
        }
        let pool = Rc::new(self.make(route, worker));
        self.pools.borrow_mut().insert(route.key.clone(), Rc::clone(&pool));
        Ok(pool)
    }

    /// Forgets a pool of a database that turned out not to exist, if nobody else is in it.
    pub fn forget_if_unused(&self, key: &PoolKey) {
        let mut pools = self.pools.borrow_mut();
        if key.is_auto() && pools.get(key).is_some_and(is_unused) {
            pools.remove(key);
        }
    }

    /// Brings all pools in line with a new configuration; `None`: there is no PostgreSQL side any more.
    pub fn apply(&self, config: Option<&Postgres>, worker: &Rc<Worker>) {
        let keys: Vec<PoolKey> = self.pools.borrow().keys().cloned().collect();
        for key in keys {
            match config.and_then(|config| route::route_again(config, &key)) {
                Some(route) => self.change(&route, &tcp_of(worker)),
                None => self.drain(&key),
            }
        }
        for route in config.into_iter().flat_map(route::known_routes) {
            // Only pools that clients named are bounded in number.
            let _ = self.get(&route, worker);
        }
    }

    /// Drains all pools.
    pub fn drain_all(&self) {
        for entry in self.pools.borrow().values() {
            entry.pool.drain();
        }
    }

    /// How many connections sessions hold. (Pools that several workers share are counted by each of them.)
    #[must_use]
    pub fn in_use(&self, now: Instant) -> u64 {
        self.pools.borrow().values().map(|entry| u64::from(entry.pool.snapshot(now).leased)).sum()
    }

    /// What the pools have to report to a scrape.
    #[must_use]
    pub fn reports(&self, now: Instant) -> Vec<PoolReport> {
        self.pools.borrow().iter().map(|(key, pool)| report(key, pool, now)).collect()
    }

    fn make(&self, route: &Route, worker: &Rc<Worker>) -> PgPool {
        let mut seed = [0; 8];
        // It spreads lifetimes and retries: without random numbers they are merely not spread.
        let _ = getrandom::fill(&mut seed);
        let (id, core) = self.directory.join(clock::now(), route.key.clone(), Limits::from(&route.limits), u64::from_ne_bytes(seed));
        let (learned, passed) = (Learned::default(), self.keyring.join(&route.key));
        let setup = PoolSetup {
            name: route.key.name(),
            id,
            core,
            worker: worker.id,
            mailboxes: worker.mailboxes.clone(),
            record: Rc::new(PoolRecord::default()),
        };
        let pool = Pool::new(setup, self.connector(route, &learned, &passed, &tcp_of(worker)), &worker.pools);
        if self.switches.borrow().is_paused(route.key.database()) {
            pool.pause();
        }
        PgPool { pool, learned, passed, limits: route.limits.clone(), mode: route.mode }
    }

    fn change(&self, route: &Route, tcp: &TcpOptions) {
        let mut pools = self.pools.borrow_mut();
        let Some(entry) = pools.get_mut(&route.key) else { return };
        if entry.limits != route.limits {
            entry.pool.resize(Limits::from(&route.limits));
        }
        if *entry.pool.connector().target() == route.target {
            entry.pool.connector().set_timeout(route.limits.server_connect_timeout);
            entry.pool.connector().set_context(route.tls_context.clone());
            entry.pool.connector().set_reset(&route.reset.query, route.reset.always);
            entry.pool.connector().set_dialer(self.dialer(route, tcp));
        } else {
            // The address may be another server: what it reports is learned anew by the next connection.
            entry.pool.replace_connector(self.connector(route, &entry.learned, &entry.passed, tcp));
            self.note_stale(&route.key);
        }
        if entry.limits != route.limits || entry.mode != route.mode {
            let (pool, learned, passed) = (Rc::clone(&entry.pool), entry.learned.clone(), entry.passed.clone());
            *entry = Rc::new(PgPool { pool, learned, passed, limits: route.limits.clone(), mode: route.mode });
        }
    }

    fn connector(&self, route: &Route, learned: &Learned, passed: &Passed, tcp: &TcpOptions) -> PgConnector {
        let page = Page { roll: Rc::clone(&self.roll), database: Arc::clone(route.key.database()), user: Arc::clone(&route.key.user) };
        let (dialer, timeout) = (self.dialer(route, tcp), route.limits.server_connect_timeout);
        let connector = PgConnector::new(route.target.clone(), dialer, timeout, learned.clone()).written_on(page);
        connector.set_context(route.tls_context.clone());
        connector.set_reset(&route.reset.query, route.reset.always);
        connector.with_passed(passed.clone())
    }

    fn dialer(&self, route: &Route, tcp: &TcpOptions) -> Dialer {
        self.dialing.dialer(&route.target.hosts, route.target.balance, tcp, route.limits.server_login_retry)
    }

    fn drain(&self, key: &PoolKey) {
        if let Some(entry) = self.pools.borrow_mut().remove(key) {
            self.directory.forget(key);
            entry.pool.drain();
        }
    }
}

/// The socket options in force.
fn tcp_of(worker: &Worker) -> TcpOptions {
    worker.config.borrow().postgres.as_ref().map(|postgres| postgres.tcp.clone()).unwrap_or_default()
}

/// Whether no session holds the pool. (The table itself holds it once.)
fn is_unused(entry: &Rc<PgPool>) -> bool {
    Rc::strong_count(entry) == 1 && Rc::strong_count(&entry.pool) == 1
}

fn report(key: &PoolKey, entry: &PgPool, now: Instant) -> PoolReport {
    let upstream = entry.pool.connector().target().shown_hosts();
    let info = PoolInfo {
        protocol: Protocol::Postgres,
        database: Arc::clone(&key.dbname),
        user: Arc::clone(&key.user),
        mode: match entry.mode {
            PoolMode::Session => "session",
            PoolMode::Transaction => "transaction",
            PoolMode::Statement => "statement",
        },
        upstream: upstream.into(),
    };
    PoolReport {
        name: Arc::clone(entry.pool.name()),
        info,
        numbers: entry.pool.record().numbers(),
        state: PoolState::from(&entry.pool.snapshot(now)),
    }
}
