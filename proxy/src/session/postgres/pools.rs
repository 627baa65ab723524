//! One worker's pools of PostgreSQL connections: made when somebody is led to them, changed by a reload, drained when nobody is any more.
//!
//! Not here: which pool a client is led to (`route`), or how a pool works (`pool`).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sidepool_config::model::{PoolMode, Postgres, TcpOptions, Upstream};
use sidepool_config::secret::Secret;
use sidepool_protocol::postgres::login::keys::ScramKeys;
use sidepool_protocol::postgres::parameters::ParameterSet;

use super::cancel_lines::{CancelLines, LineKey};
use super::keyring::Keyring;
use super::route::{self, PoolKey, Purpose, Route, Way};
use super::switches::Switches;
use super::welcome::Greetings;
use crate::clock;
use crate::observe::record::{PoolNumbers, PoolRecord};
use crate::observe::report::{Line, PoolInfo, PoolReport, PoolState, Protocol};
use crate::pool::acquire::AcquireError;
use crate::pool::caps::{CapKey, Caps};
use crate::pool::handle::{Pool, PoolSetup};
use crate::pool::id::IdentityId;
use crate::pool::limits::Limits;
use crate::pool::reason::{CloseReason, Condition};
use crate::pool::registry::Directory;
use crate::pool::sharing::Shared;
use crate::pool::snapshot::Snapshot;
use crate::upstream::dial::{Dialer, Dialing};
use crate::upstream::postgres::connector::{Learned, PgConnector};
use crate::upstream::postgres::derived::PoolKeys;
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
    pub(super) greetings: Greetings,
    passed: Passed,
    limits: Limits,
    mode: PoolMode,
    /// Since when it is known to have neither clients nor connections.
    idle_since: Cell<Option<Instant>>,
}

impl PgPool {
    /// What the server reports to a client that sets nothing. Known after the first connection; before, one is opened, with the pool's own bounds.
    pub async fn baseline(&self, patience: Option<Duration>) -> Result<Rc<ParameterSet>, AcquireError> {
        if let Some(known) = self.learned.get() {
            return Ok(known);
        }
        let lease = self.pool.acquire(IdentityId::default()).within(patience).await?;
        let baseline = Rc::clone(&lease.baseline);
        self.learned.set(&baseline);
        lease.release(Condition::Unused);
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

/// How often idle pools are looked for: as often as this in the time after which they are forgotten,
const LOOKS: u32 = 10;

/// but not more often than this,
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);

/// and not less often than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// One worker's pools.
pub struct PgPools {
    directory: Directory<PoolKey>,
    /// Whether a task looks for idle pools.
    looking: Cell<bool>,
    keyring: Keyring,
    /// The limits that pools have together.
    caps: Caps,
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
    /// Cancels of the whole process that wait for their turn.
    pub waiting_cancels: u32,
    /// Connections of this worker that they are for.
    pub being_cancelled: u32,
}

impl PgPools {
    /// No pools yet. The directory, the keyring and what is known of hosts are those of the process.
    #[must_use]
    pub fn new(directory: Directory<PoolKey>, keyring: Keyring, dialing: Dialing, roll: Rc<Roll>, caps: Caps) -> Self {
        let (looking, pools, switches) = (Cell::new(false), RefCell::default(), RefCell::default());
        Self { directory, looking, keyring, caps, dialing, pools, switches, roll }
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

    /// The same for all pools that lead to these servers.
    pub fn reconnect_to(&self, token: u64, hosts: &[Upstream]) {
        let leads_there = |entry: &PgPool| entry.pool.connector().target().hosts.iter().any(|host| hosts.contains(host));
        for (key, entry) in self.pools.borrow().iter().filter(|(_, entry)| leads_there(entry)) {
            entry.pool.reconnect(token);
            self.note_stale(key);
        }
    }

    /// A statement of a client wants nobody else to be connected to `database` on these servers: connections that nobody uses are closed.
    pub fn leave_alone(&self, database: &str, hosts: &[Upstream]) {
        let pools: Vec<Rc<PgPool>> =
            self.pools.borrow().iter().filter(|(key, _)| *key.dbname == *database).map(|(_, entry)| Rc::clone(entry)).collect();
        for entry in pools {
            if entry.pool.connector().target().hosts == hosts {
                entry.pool.retire_all(CloseReason::Asked);
            }
        }
    }

    /// Clients of `database` on these servers ask for values that sequences have given.
    pub fn ask_sequences(&self, database: &str, hosts: &[Upstream]) {
        for (_, entry) in self.pools.borrow().iter().filter(|(key, _)| *key.dbname == *database) {
            let connector = entry.pool.connector();
            if connector.target().hosts == hosts
                && let Some(rules) = connector.state_rules()
            {
                let _ = rules.ask_sequences();
            }
        }
    }

    /// The pools as the admin console sees them.
    #[must_use]
    pub fn facts(&self, now: Instant, lines: &CancelLines) -> Vec<PoolFacts> {
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
                waiting_cancels: lines.numbers(LineKey::Pool(entry.pool.id())).waiting,
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

    /// Which pool this is; `None`: one that is not led to any more.
    #[must_use]
    pub fn key_of(&self, pool: &Rc<Pool<PgConnector>>) -> Option<PoolKey> {
        self.pools.borrow().iter().find(|(_, entry)| Rc::ptr_eq(&entry.pool, pool)).map(|(key, _)| key.clone())
    }

    /// The pool at the end of this way, made if it is not there.
    pub fn at_the_end_of(&self, way: &Way<'_>, worker: &Rc<Worker>) -> Result<Rc<PgPool>, TooManyPools> {
        let known = self.pools.borrow().get(&way.key).map(Rc::clone);
        known.map_or_else(|| self.get(&way.route(), worker), Ok)
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
        let mut pools = self.pools.borrow_mut();
        let database = route.key.database();
        if route.key.is_auto() && pool.pool.is_alone() && !pools.keys().any(|key| key.is_auto() && key.database() == database) {
            tracing::info!("registered new auto-database: {database}");
        }
        pools.insert(route.key.clone(), Rc::clone(&pool));
        drop(pools);
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
        if config.is_some() && !self.looking.replace(true) {
            tokio::task::spawn_local(look_for_idle_pools(Rc::downgrade(worker)));
        }
    }

    /// Forgets pools that have had neither clients nor connections for long enough; answers how long to wait for the next look, and `None` when
    /// the configuration keeps all pools for ever.
    fn forget_idle(&self, now: Instant, config: &Postgres) -> Option<Duration> {
        let bound = |time: Duration| (!time.is_zero()).then_some(time);
        let (any, auto) = (bound(config.pool_idle_timeout), bound(config.autodb_idle_timeout));
        let mut pools = self.pools.borrow_mut();
        let mut gone = BTreeSet::new();
        pools.retain(|key, entry| {
            let timeout = any.into_iter().chain(auto.filter(|_| key.is_auto())).min();
            if !is_unused(entry) || entry.pool.snapshot(now).connections() > 0 {
                entry.idle_since.set(None);
                return true;
            }
            let since = entry.idle_since.get().unwrap_or(now);
            entry.idle_since.set(Some(since));
            let stays = timeout.is_none_or(|timeout| now.saturating_duration_since(since) < timeout);
            if !stays && key.is_auto() && entry.pool.is_alone() {
                gone.insert(Arc::clone(&key.dbname));
            }
            stays
        });
        for database in gone.iter().filter(|name| !pools.keys().any(|key| key.is_auto() && key.dbname == **name)) {
            tracing::warn!("dropping database '{}' as it does not exist anymore or inactive auto-database", database.escape_debug());
        }
        any.into_iter().chain(auto).min().map(|timeout| (timeout / LOOKS).clamp(SHORTEST_PAUSE, LONGEST_PAUSE))
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
        // Those that listen for clients are nobody's, and are never given back while somebody listens.
        let pools = self.pools.borrow();
        let of_sessions = pools.iter().filter(|(key, _)| key.purpose != Purpose::Listening);
        of_sessions.map(|(_, entry)| u64::from(entry.pool.snapshot(now).leased)).sum()
    }

    /// The limits that pools have together: each with how many connections there are and how many there may be.
    #[must_use]
    pub fn shared_limits(&self) -> Vec<(CapKey, u32, u32)> {
        self.caps.limited()
    }

    /// What the pools have to report to a scrape.
    #[must_use]
    pub fn reports(&self, now: Instant) -> Vec<PoolReport> {
        self.pools.borrow().iter().map(|(key, pool)| report(key, pool, now)).collect()
    }

    fn make(&self, route: &Route, worker: &Rc<Worker>) -> PgPool {
        self.cap(route);
        let mut seed = [0; 8];
        // It spreads lifetimes and retries: without random numbers they are merely not spread.
        let _ = getrandom::fill(&mut seed);
        let (id, core) = self.directory.join(clock::now(), route.key.clone(), route.limits, u64::from_ne_bytes(seed));
        let (learned, passed) = (Learned::default(), self.keyring.join(&route.key.of_clients()));
        let record = Rc::<PoolRecord>::default();
        let setup = PoolSetup {
            name: route.key.name(),
            id,
            core,
            worker: worker.id,
            mailboxes: worker.mailboxes.clone(),
            record: Rc::clone(&record),
            shared: Some(Shared { caps: self.caps.clone(), keys: route.caps.clone().map(|(key, _)| key) }),
        };
        let pool = Pool::new(setup, self.connector(route, (&learned, &passed), record, &tcp_of(worker)), &worker.pools);
        if self.switches.borrow().is_paused(route.key.database()) {
            pool.pause();
        }
        PgPool {
            pool,
            learned,
            greetings: Greetings::default(),
            passed,
            limits: route.limits,
            mode: route.mode,
            idle_since: Cell::default(),
        }
    }

    fn change(&self, route: &Route, tcp: &TcpOptions) {
        self.cap(route);
        let mut pools = self.pools.borrow_mut();
        let Some(entry) = pools.get_mut(&route.key) else { return };
        if entry.limits != route.limits {
            entry.pool.resize(route.limits);
        }
        let current = entry.pool.connector();
        if *current.target() == route.target {
            current.set_timeout(route.connect_timeout);
            current.set_check_query(&route.check_query);
            current.set_context(route.tls_context.clone());
            current.set_reset(&route.reset.query, route.reset.always);
            current.set_state_rules(&route.session_state);
            current.set_dialer(self.dialer(route, tcp));
        } else {
            // The address may be another server: what it reports is learned anew by the next connection.
            entry.pool.replace_connector(self.connector(route, (&entry.learned, &entry.passed), entry.pool.shared_record(), tcp));
            self.note_stale(&route.key);
        }
        if entry.limits != route.limits || entry.mode != route.mode {
            let (pool, learned, passed) = (Rc::clone(&entry.pool), entry.learned.clone(), entry.passed.clone());
            *entry = Rc::new(PgPool {
                pool,
                learned,
                greetings: Greetings::default(),
                passed,
                limits: route.limits,
                mode: route.mode,
                idle_since: Cell::default(),
            });
        }
    }

    fn cap(&self, route: &Route) {
        for (key, max) in &route.caps {
            self.caps.set_max(key, *max);
        }
    }

    fn connector(&self, route: &Route, (learned, passed): (&Learned, &Passed), record: Rc<PoolRecord>, tcp: &TcpOptions) -> PgConnector {
        let page = Page { roll: Rc::clone(&self.roll), database: Arc::clone(route.key.database()), user: Arc::clone(&route.key.user) };
        let (dialer, timeout) = (self.dialer(route, tcp), route.connect_timeout);
        let connector = PgConnector::new(route.target.clone(), dialer, timeout, learned.clone()).written_on(page);
        connector.set_check_query(&route.check_query);
        connector.set_context(route.tls_context.clone());
        connector.set_reset(&route.reset.query, route.reset.always);
        connector.set_state_rules(&route.session_state);
        connector.with_passed(passed.clone()).with_keys(PoolKeys::new(self.keyring.derived.clone(), record))
    }

    fn dialer(&self, route: &Route, tcp: &TcpOptions) -> Dialer {
        self.dialing.dialer(&route.target.hosts, route.target.balance, tcp, route.limits.backoff_max)
    }

    fn drain(&self, key: &PoolKey) {
        if let Some(entry) = self.pools.borrow_mut().remove(key) {
            self.directory.forget(key);
            entry.pool.drain();
        }
    }
}

/// Forgets idle pools of a worker, for as long as the configuration says that they are to be forgotten.
async fn look_for_idle_pools(worker: Weak<Worker>) {
    loop {
        let pause = {
            let Some(worker) = worker.upgrade() else { return };
            let config = Arc::clone(&worker.config.borrow());
            let pools = &worker.postgres.pools;
            let pause = config.postgres.as_ref().and_then(|postgres| pools.forget_idle(clock::now(), postgres));
            pools.looking.set(pause.is_some());
            pause
        };
        let Some(pause) = pause else { return };
        tokio::time::sleep(pause).await;
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
        line: Line::default(),
    }
}
