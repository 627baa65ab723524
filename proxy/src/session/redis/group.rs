//! What clients with the same upstream user, database and RESP version share: the lanes, and two pools of connections that add up to the one
//! configured limit. Lanes draw from a pool of their own, so that blocked clients can never take the last connection from everybody else.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use sidepool_config::model::{PoolLimits, Redis};
use sidepool_config::secret::Secret;
use sidepool_protocol::redis::encode::Resp;

use super::lane::Lane;
use crate::observe::record::PoolRecord;
use crate::observe::report::{PoolInfo, PoolReport, PoolState, Protocol};
use crate::pool::handle::Pool;
use crate::pool::limits::Limits;
use crate::pool::snapshot::Snapshot;
use crate::upstream::redis::connector::{RedisConnector, Target, shown};
use crate::upstream::redis::facts::Facts;
use crate::worker::Worker;

/// A lane for every so many clients, up to the configured number: fewer lanes merge more requests into one write.
const CLIENTS_PER_LANE: u32 = 16;

/// What makes connections interchangeable.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The upstream user.
    pub user: Rc<str>,
    /// The selected database.
    pub database: u32,
    /// The RESP version.
    pub version: Resp,
}

/// Clients with the same [`Key`].
pub struct Group {
    /// What they have in common.
    pub key: Key,
    /// Connections of lanes and of the hub.
    pub shared: Rc<Pool<RedisConnector>>,
    /// Connections that one client has for itself for a while.
    pub leased: Rc<Pool<RedisConnector>>,
    records: [Rc<PoolRecord>; 2],
    lanes: RefCell<Vec<Rc<Lane>>>,
    lanes_max: Cell<u32>,
    output_limit: Cell<u64>,
    info: RefCell<PoolInfo>,
}

impl Group {
    /// A group without lanes. `open` makes a pool of a name and its limits.
    pub fn new(
        key: Key,
        server: &str,
        config: &Redis,
        open: impl Fn(Arc<str>, Limits, Rc<PoolRecord>) -> Rc<Pool<RedisConnector>>,
    ) -> Rc<Self> {
        let records = [Rc::new(PoolRecord::default()), Rc::new(PoolRecord::default())];
        let (shared, leased) = limits(config);
        let base = format!("{server}/{}/{}/resp{}", key.user, key.database, key.version.number());
        Rc::new(Self {
            shared: open(format!("{base}/shared").into(), shared, Rc::clone(&records[0])),
            leased: open(format!("{base}/leased").into(), leased, Rc::clone(&records[1])),
            records,
            lanes: RefCell::default(),
            lanes_max: Cell::new(lanes(&config.limits, config.shared_connections)),
            output_limit: Cell::new(config.client_output_limit_bytes),
            info: RefCell::new(info(&key, config)),
            key,
        })
    }

    /// The lane for one more client.
    pub fn lane(self: &Rc<Self>, worker: &Rc<Worker>) -> Rc<Lane> {
        let mut lanes = self.lanes.borrow_mut();
        let least = lanes.iter().min_by_key(|lane| lane.attached()).cloned();
        let more = (lanes.len() as u32) < self.lanes_max.get();
        match least {
            Some(lane) if !more || lane.attached() < CLIENTS_PER_LANE => lane,
            Some(_) | None => {
                let lane = Lane::start(self, worker);
                lanes.push(Rc::clone(&lane));
                lane
            }
        }
    }

    /// Lanes that have retired are given to nobody any more.
    pub fn forget_retired(&self) {
        self.lanes.borrow_mut().retain(|lane| !lane.is_retired());
    }

    /// How much may wait for a client that does not read.
    pub fn output_limit(&self) -> usize {
        usize::try_from(self.output_limit.get()).unwrap_or(usize::MAX)
    }

    /// Where the hub takes its connection from: beside the lanes, when their pool is large enough for both.
    pub fn hub_pool(&self) -> &Rc<Pool<RedisConnector>> {
        if self.shared.snapshot(crate::clock::now()).max > self.lanes_max.get() { &self.shared } else { &self.leased }
    }

    /// New settings are in force. `target`: address or credentials have changed.
    pub fn apply(&self, config: &Redis, target: Option<(Target, &Rc<Facts>)>) {
        let (shared, leased) = limits(config);
        self.lanes_max.set(lanes(&config.limits, config.shared_connections));
        self.output_limit.set(config.client_output_limit_bytes);
        *self.info.borrow_mut() = info(&self.key, config);
        for (pool, limits) in [(&self.shared, shared), (&self.leased, leased)] {
            pool.resize(limits);
            if let Some((target, facts)) = &target {
                pool.replace_connector(RedisConnector::new(target.clone(), Rc::clone(facts)));
            }
        }
        for lane in &*self.lanes.borrow() {
            lane.wake();
        }
    }

    /// The server is no longer configured.
    pub fn drain(&self) {
        self.shared.drain();
        self.leased.drain();
        for lane in &*self.lanes.borrow() {
            lane.wake();
        }
    }

    /// What the two pools have to report.
    pub fn reports(&self, now: std::time::Instant) -> [PoolReport; 2] {
        [(&self.shared, &self.records[0]), (&self.leased, &self.records[1])].map(|(pool, record)| PoolReport {
            name: Arc::clone(pool.name()),
            info: self.info.borrow().clone(),
            numbers: record.numbers(),
            state: state(&pool.snapshot(now)),
        })
    }
}

/// What connections of this group are opened with.
pub fn target(key: &Key, config: &Redis, password: Option<Secret>) -> Target {
    Target {
        upstream: config.upstream.clone(),
        tls: config.tls,
        user: Arc::from(&*key.user),
        password,
        database: key.database,
        version: key.version,
        timeout: config.limits.server_connect_timeout,
    }
}

fn lanes(limits: &PoolLimits, configured: u32) -> u32 {
    configured.clamp(1, (limits.pool_size / 2).max(1))
}

/// How the configured limit divides: lanes, as many again to take over from lanes that retire, one for the hub; the rest can be leased.
fn limits(config: &Redis) -> (Limits, Limits) {
    let total = config.limits.pool_size.max(2);
    let lanes = lanes(&config.limits, config.shared_connections);
    let shared_max = (lanes * 2 + 1).min(total / 2).max(1);
    let all = Limits::from(&config.limits);
    let shared = Limits { max: shared_max, min: all.min.min(lanes).min(shared_max), ..all };
    let leased_max = total - shared_max;
    let leased = Limits { max: leased_max, min: all.min.saturating_sub(shared.min).min(leased_max), ..all };
    (shared, leased)
}

fn info(key: &Key, config: &Redis) -> PoolInfo {
    PoolInfo {
        protocol: Protocol::Redis,
        database: key.database.to_string().into(),
        user: Arc::from(&*key.user),
        mode: "multiplexed",
        upstream: shown(&config.upstream).into(),
    }
}

fn state(snapshot: &Snapshot) -> PoolState {
    PoolState {
        connecting: snapshot.connecting,
        idle: snapshot.idle,
        leased: snapshot.leased,
        resetting: snapshot.resetting,
        probing: snapshot.probing,
        closing: snapshot.closing,
        max: snapshot.max,
        min: snapshot.min,
        waiters: snapshot.waiters,
        queue_limit: snapshot.queue_length,
        oldest_wait: snapshot.oldest_wait.unwrap_or_default(),
        saturated: snapshot.saturated,
        paused: snapshot.paused,
        up: snapshot.failures == 0,
    }
}
