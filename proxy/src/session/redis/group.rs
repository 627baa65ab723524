//! What clients with the same upstream user, database and RESP version share: the lanes, and two pools of connections that add up to the one
//! configured limit. Lanes draw from a pool of their own, so that blocked clients can never take the last connection from everybody else.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sidepool_config::model::{LoadBalance, OutputLimits, Redis, SubscriberGap};
use sidepool_config::secret::Secret;
use sidepool_protocol::redis::command::Command;
use sidepool_protocol::redis::encode::Resp;
use sidepool_protocol::redis::handshake::{Habits, Selects};
use sidepool_protocol::redis::request::Arguments;

use super::bound::{self, Bound};
use super::flow::Meeting;
use super::lane::{Lane, Looked};
use super::leased::patience;
use super::pause::Pause;
use super::redo::load_scripts;
use super::server::Server;
use super::turns::Bounds;
use crate::observe::record::{PoolCounter, PoolRecord};
use crate::observe::report::{Line, PoolInfo, PoolReport, PoolState, Protocol};
use crate::pool::acquire::AcquireError;
use crate::pool::fault::ConnectFaultKind;
use crate::pool::handle::Pool;
use crate::pool::id::IdentityId;
use crate::pool::limits::Limits;
use crate::pool::reason::RefuseReason;
use crate::transport::ends::Ends;
use crate::upstream::redis::connector::{Blame, RedisConnector, Target, shown};
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
    /// What the server does otherwise for them.
    pub habits: Habits,
}

impl Key {
    /// RESP2 and nothing special.
    pub fn new(user: Rc<str>, database: u32) -> Self {
        Self { user, database, version: Resp::Two, habits: Habits::default() }
    }

    /// The same without habits.
    pub fn plain(self) -> Self {
        Self { habits: Habits::default(), ..self }
    }

    /// The name of the pool of its shared connections.
    pub fn shared_name(&self, server: &str) -> String {
        format!("{}/shared", self.base(server))
    }

    /// What names of pools begin with.
    fn base(&self, server: &str) -> String {
        let mut base = format!("{server}/{}/{}/resp{}", self.user, self.database, self.version.number());
        for name in self.habits.names() {
            base.extend(["/", &name.to_ascii_lowercase()]);
        }
        base
    }
}

/// What new settings mean for connections that are open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// Nothing.
    None,
    /// How they are opened has changed, or the same user has another password: they go on, with it.
    Opening,
    /// They lead elsewhere, or in another way: they are closed when nobody uses them.
    Elsewhere,
}

/// Clients with the same [`Key`].
pub struct Group {
    /// What they have in common.
    pub key: Key,
    /// Connections of lanes and of the hub.
    pub shared: Rc<Pool<RedisConnector>>,
    /// Connections that one client has for itself for a while.
    pub leased: Rc<Pool<RedisConnector>>,
    /// How many of those may be held for something that only others can end.
    blocking: Arc<Bound>,
    /// That is fewer than there are.
    is_bounded: Cell<bool>,
    records: [Rc<PoolRecord>; 2],
    lanes: RefCell<Vec<Rc<Lane>>>,
    /// Whether clients of several identities use the lanes.
    pub meeting: Rc<Meeting>,
    /// Whether the server halts writes.
    pub pause: Rc<Pause>,
    /// For how many milliseconds lanes have been looked at.
    worked_ms: Cell<u32>,
    /// How many may stand in line before a full one, and for how long.
    line: Cell<Bounds>,
    lanes_max: Cell<u32>,
    /// Commands that keep the server busy have a lane of their own.
    has_heavy: Cell<bool>,
    /// The workers' lanes together are more than their pool holds: each gives its connection back whenever it is quiet.
    scarce: Cell<bool>,
    output_limits: Cell<OutputLimits>,
    request_timeout: Cell<Duration>,
    log_min_duration: Cell<Duration>,
    retries: Cell<bool>,
    subscriber_gap: Cell<SubscriberGap>,
    /// Scripts are being loaded.
    loading: Cell<bool>,
    info: RefCell<PoolInfo>,
    owner: Weak<Server>,
}

impl Group {
    /// A group without lanes. `open` makes a pool of a name and its limits.
    pub fn new(
        key: Key,
        owner: Weak<Server>,
        server: &str,
        config: &Redis,
        workers: usize,
        bounds: &bound::Bounds,
        open: impl Fn(Arc<str>, Limits, Rc<PoolRecord>) -> Rc<Pool<RedisConnector>>,
    ) -> Rc<Self> {
        let records = [Rc::new(PoolRecord::default()), Rc::new(PoolRecord::default())];
        let split = Split::of(config, workers);
        let (shared, leased) = split.limits(config);
        let base = key.base(server);
        let name: Arc<str> = format!("{base}/leased").into();
        Rc::new(Self {
            shared: open(key.shared_name(server).into(), shared, Rc::clone(&records[0])),
            blocking: bounds.join(&name, split.blocking(config)),
            is_bounded: Cell::new(split.blocking(config) < split.leased),
            leased: open(name, leased, Rc::clone(&records[1])),
            records,
            lanes: RefCell::default(),
            meeting: Rc::default(),
            pause: owner.upgrade().map(|owner| Rc::clone(&owner.pause)).unwrap_or_default(),
            worked_ms: Cell::new(0),
            line: Cell::new(line(config)),
            lanes_max: Cell::new(split.lanes),
            has_heavy: Cell::new(split.heavy > 0),
            scarce: Cell::new(split.scarce),
            output_limits: Cell::new(config.client_output_buffer_limit),
            request_timeout: Cell::new(config.request_timeout),
            log_min_duration: Cell::new(config.log_min_duration_command),
            retries: Cell::new(!config.retry_timeout.is_zero()),
            subscriber_gap: Cell::new(config.subscriber_gap),
            loading: Cell::new(false),
            info: RefCell::new(info(&key, config)),
            owner,
            key,
        })
    }

    /// The lane for one more client, or for its next heavy command.
    pub fn lane(self: &Rc<Self>, worker: &Rc<Worker>, heavy: bool) -> Rc<Lane> {
        let mut lanes = self.lanes.borrow_mut();
        let heavy = heavy && self.has_heavy.get();
        let alike = || lanes.iter().filter(|lane| lane.is_heavy() == heavy);
        let least = alike().min_by_key(|lane| lane.attached()).cloned();
        let more = !heavy && (alike().count() as u32) < self.lanes_max.get();
        match least {
            Some(lane) if !more || lane.attached() < CLIENTS_PER_LANE => lane,
            Some(_) | None => {
                let lane = Lane::start(self, worker, heavy);
                lanes.push(Rc::clone(&lane));
                lane
            }
        }
    }

    /// Looks at the lanes; whether there is work. `is_news` says whether a command that is waited for is slow and was not before.
    /// The last look was so many milliseconds ago.
    pub fn look(&self, ms: u32, is_news: impl Fn(&'static Command) -> bool) -> bool {
        let mut busy = false;
        self.worked_ms.set(self.worked_ms.get().wrapping_add(ms));
        self.meeting.on_look();
        let (limit, patience) = (self.log_min_duration(), self.line.get().patience);
        for lane in &*self.lanes.borrow() {
            if lane.waiting() > 0 {
                lane.look_at_line(crate::clock::now(), patience);
                // A halt of writes has begun, perhaps: there is more room.
                lane.call_next();
            }
            let looked = lane.look(self.worked_ms.get());
            match limit {
                None => lane.forget_slow(),
                Some(limit) => {
                    if let Some((waited, took)) = lane.look_for_slow(crate::clock::now(), limit) {
                        self.log_slow(self.shared.name(), waited.client, waited.command.name, waited.arguments, took);
                    }
                }
            }
            match looked {
                Looked::Idle => {}
                Looked::Busy => busy = true,
                Looked::Stalled(command) => {
                    busy = true;
                    if is_news(command) {
                        tracing::info!(command = command.name, "a Redis command turns out to be slow: for a while nobody waits behind it");
                        self.shared.record().add(PoolCounter::RedisSlow, 1);
                    }
                }
            }
        }
        busy
    }

    /// Logs that the server took so long for a command of this client, which may have left.
    pub fn log_slow(&self, pool: &str, client: u64, command: &str, arguments: usize, took: Duration) {
        let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let found = self.owner.upgrade().and_then(|owner| owner.client(client));
        let peer = found.as_ref().and_then(|client| client.with_stream(Ends::of)).unwrap_or(Ends::Unknown).peer();
        let user = found.and_then(|client| client.shown.user.borrow().clone()).unwrap_or_else(|| "".into());
        tracing::warn!(pool, client, peer, user = &*user, command, arguments, duration_ms, "slow command");
    }

    /// From how long on a command is slow for the log; `None`: it does not ask.
    pub fn log_min_duration(&self) -> Option<Duration> {
        Some(self.log_min_duration.get()).filter(|limit| !limit.is_zero())
    }

    /// What bounds leases that only others can end; `None`: nothing but their number.
    pub fn blocking(&self) -> Option<&Arc<Bound>> {
        self.is_bounded.get().then_some(&self.blocking)
    }

    /// Whether heavy commands have a lane of their own: where connections are few, they ride with the others.
    pub fn has_heavy(&self) -> bool {
        self.has_heavy.get()
    }

    /// How many may stand in line before a full lane, and for how long.
    pub fn line(&self) -> Bounds {
        self.line.get()
    }

    /// For how many milliseconds lanes have been looked at: the time stands still while there is no work.
    pub fn worked_ms(&self) -> u32 {
        self.worked_ms.get()
    }

    /// What lanes have that nobody waits for any more.
    #[cfg(test)]
    pub fn remains(&self) -> Vec<String> {
        let lanes = self.lanes.borrow();
        lanes.iter().filter(|lane| !lane.is_at_rest()).map(|lane| format!("a lane with {} in line", lane.waiting())).collect()
    }

    /// The most bytes of requests that a lane keeps now.
    #[cfg(test)]
    pub fn most_kept(&self) -> usize {
        self.lanes.borrow().iter().map(|lane| lane.kept()).max().unwrap_or(0)
    }

    /// What counts for the lanes.
    pub fn shared_record(&self) -> &Rc<PoolRecord> {
        &self.records[0]
    }

    /// Lanes that have retired are given to nobody any more.
    pub fn forget_retired(&self) {
        self.lanes.borrow_mut().retain(|lane| !lane.is_retired());
    }

    /// How much may wait for a client that does not read, and for how long.
    pub fn output_limits(&self) -> OutputLimits {
        self.output_limits.get()
    }

    /// How long a reply may take; zero: as long as it likes.
    pub fn request_timeout(&self) -> Duration {
        self.request_timeout.get()
    }

    /// Whether what a server cannot do now is asked again.
    pub fn retries(&self) -> bool {
        self.retries.get()
    }

    /// What becomes of subscribers that may have missed something.
    pub fn subscriber_gap(&self) -> SubscriberGap {
        self.subscriber_gap.get()
    }

    /// Whether lanes give their connection back whenever they are quiet.
    pub fn is_scarce(&self) -> bool {
        self.scarce.get()
    }

    /// There is no connection of `pool` to be had: what that means beyond this request. Whether there may be one now.
    pub fn on_refused(&self, pool: &Pool<RedisConnector>, error: &AcquireError) -> bool {
        // Who was refused for another reason would be again.
        let tried = matches!(error.refusal.reason, RefuseReason::UpstreamRefuses | RefuseReason::LoginFailing);
        let Some(fault) = error.fault.as_ref().filter(|fault| tried && fault.kind == ConnectFaultKind::Auth) else { return false };
        let Some(owner) = self.owner.upgrade().filter(|owner| owner.passes_through()) else { return false };
        match pool.connector().blames(fault) {
            Blame::Present => owner.on_denied(&self.key.user, fault.credentials),
            Blame::Another => {
                pool.try_again();
                true
            }
            Blame::AnotherEver => false,
        }
    }

    /// Connections are opened with another password from now on.
    pub fn use_secret(&self, secret: &Secret) {
        for pool in [&self.shared, &self.leased] {
            pool.renew_connector(pool.connector().with_secret(secret.clone()));
        }
        for lane in &*self.lanes.borrow() {
            lane.renew();
        }
    }

    /// The server does not know a script that it should: all that it should know are loaded, once at a time. For those who cannot be made to wait.
    pub fn reload_scripts(self: &Rc<Self>, request: &[u8]) {
        let Some(owner) = self.owner.upgrade() else { return };
        let known = Arguments::new(request).nth(1).is_some_and(|name| owner.facts.scripts.source(name).is_some());
        if !known || self.loading.replace(true) {
            return;
        }
        let group = Rc::clone(self);
        tokio::task::spawn_local(async move {
            if let Ok(lease) = group.leased.acquire(IdentityId::default()).await {
                load_scripts(lease).await;
            }
            group.loading.set(false);
        });
    }

    /// Where the hub takes its connection from: beside the lanes, when their pool is large enough for both.
    pub fn hub_pool(&self) -> &Rc<Pool<RedisConnector>> {
        if self.shared.snapshot(crate::clock::now()).max > self.lanes_max.get() + u32::from(self.has_heavy.get()) {
            &self.shared
        } else {
            &self.leased
        }
    }

    /// New settings are in force. `target` says what connections are opened with from now on.
    pub fn apply(&self, config: &Redis, workers: usize, renewal: Renewal, target: impl Fn() -> RedisConnector) {
        let split = Split::of(config, workers);
        let (shared, leased) = split.limits(config);
        self.line.set(line(config));
        self.lanes_max.set(split.lanes);
        self.has_heavy.set(split.heavy > 0);
        self.scarce.set(split.scarce);
        self.output_limits.set(config.client_output_buffer_limit);
        self.request_timeout.set(config.request_timeout);
        self.log_min_duration.set(config.log_min_duration_command);
        self.retries.set(!config.retry_timeout.is_zero());
        self.subscriber_gap.set(config.subscriber_gap);
        *self.info.borrow_mut() = info(&self.key, config);
        self.blocking.resize(split.blocking(config));
        self.is_bounded.set(split.blocking(config) < split.leased);
        for (pool, limits) in [(&self.shared, shared), (&self.leased, leased)] {
            pool.resize(limits);
            match renewal {
                Renewal::None => {}
                Renewal::Opening => pool.renew_connector(target()),
                Renewal::Elsewhere => pool.replace_connector(target()),
            }
        }
        for lane in &*self.lanes.borrow() {
            lane.renew();
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
    pub fn reports(&self, now: Instant) -> [PoolReport; 2] {
        let lines = [self.in_line(now), Line::default()];
        let pools = [(&self.shared, &self.records[0]), (&self.leased, &self.records[1])];
        std::array::from_fn(|place| {
            let (pool, record) = pools[place];
            PoolReport {
                name: Arc::clone(pool.name()),
                info: self.info.borrow().clone(),
                numbers: record.numbers(),
                state: PoolState::from(&pool.snapshot(now)),
                line: lines[place],
            }
        })
    }

    /// Who waits for room on the lanes.
    fn in_line(&self, now: Instant) -> Line {
        let (lanes, limit) = (self.lanes.borrow(), u32::try_from(self.line.get().length).unwrap_or(u32::MAX));
        let crowded = lanes.iter().filter(|lane| lane.waiting() > 0);
        crowded.fold(Line::default(), |sum, lane| Line {
            waiters: sum.waiters + u32::try_from(lane.waiting()).unwrap_or(u32::MAX),
            limit: sum.limit.saturating_add(limit),
            oldest: sum.oldest.max(lane.oldest_in_line().map_or(Duration::ZERO, |since| now.saturating_duration_since(since))),
        })
    }
}

/// What connections of this group are opened with.
pub fn target(key: &Key, config: &Redis, password: Option<Secret>, selects: Selects, worker: &Worker) -> Target {
    let hosts = std::slice::from_ref(&config.upstream);
    let dialer = worker.postgres.dialing.dialer(hosts, LoadBalance::default(), &config.tcp, config.limits.server_login_retry);
    Target {
        upstream: config.upstream.clone(),
        dialer: Rc::new(dialer),
        tls: config.tls,
        tls_context: config.server_tls.context.clone(),
        user: Arc::from(&*key.user),
        password,
        database: key.database,
        selects,
        version: key.version,
        habits: key.habits,
        timeout: config.limits.server_connect_timeout,
    }
}

/// How the configured limit divides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Split {
    /// Lanes of each worker.
    lanes: u32,
    /// Lanes of each worker for heavy commands: one, where there are connections enough.
    heavy: u32,
    /// Connections of lanes and of the hub, on all workers together.
    shared: u32,
    /// Connections that can be leased.
    leased: u32,
    /// Not every lane can have a connection at the same time.
    scarce: bool,
}

impl Split {
    /// Lanes, as many again to take over from lanes that retire, one for each worker's hub; but at least half can be leased. At least 2
    /// connections are assumed, as the configuration demands.
    fn of(config: &Redis, workers: usize) -> Self {
        let workers = u32::try_from(workers).unwrap_or(u32::MAX).max(1);
        let total = config.limits.pool_size.max(2);
        let lanes = (config.shared_connections.min(total / 2) / workers).max(1);
        let heavy = u32::from((lanes + 1).saturating_mul(workers) <= total / 2);
        let all = (lanes + heavy).saturating_mul(workers);
        let shared = all.saturating_mul(2).saturating_add(workers).min(total / 2);
        Self { lanes, heavy, shared, leased: total - shared, scarce: all > shared }
    }

    /// How many of the leased ones may be held by those who wait for others: some stay free for transactions, unless it is said otherwise or there is
    /// but one.
    fn blocking(self, config: &Redis) -> u32 {
        match config.blocking_connections {
            0 => (self.leased - (self.leased / 4).max(1)).max(1),
            most => most.min(self.leased),
        }
    }

    fn limits(self, config: &Redis) -> (Limits, Limits) {
        let all = Limits::from(&config.limits);
        let shared = Limits { max: self.shared, min: all.min.min(self.lanes).min(self.shared), ..all };
        let min = all.min.saturating_sub(shared.min).min(self.leased);
        let leased = Limits { max: self.leased, min, spare: config.spare_connections, ..all };
        (shared, leased)
    }
}

fn line(config: &Redis) -> Bounds {
    let (patience, length) = patience(&config.limits);
    Bounds { length: length as usize, patience, refuse_early: config.limits.refuse_early, waited: Duration::ZERO }
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

#[cfg(test)]
mod tests {
    use sidepool_config::model::{PoolLimits, Upstream};

    use super::*;

    fn config(pool_size: u32, shared_connections: u32) -> Redis {
        Redis {
            shared_connections,
            limits: PoolLimits { pool_size, min_pool_size: 3.min(pool_size), ..PoolLimits::default() },
            ..Redis::at(Upstream::Tcp { host: "localhost".to_owned(), port: 6379 })
        }
    }

    #[test]
    fn the_two_pools_add_up_to_the_one_limit_and_both_have_some() {
        for pool_size in 2..40 {
            for shared_connections in 1..pool_size {
                for workers in [1, 2, 4, 64] {
                    let config = config(pool_size, shared_connections);
                    let split = Split::of(&config, workers);
                    assert_eq!(split.shared + split.leased, pool_size);
                    assert!(split.lanes > 0 && split.shared > 0 && split.leased >= split.shared, "{split:?}");
                    assert_eq!(split.scarce, u64::from(split.lanes + split.heavy) * workers as u64 > u64::from(split.shared));
                    assert!(split.heavy == 0 || !split.scarce, "a lane for heavy commands makes nothing scarce: {split:?}");
                    let (shared, leased) = split.limits(&config);
                    assert_eq!((shared.max, leased.max), (split.shared, split.leased));
                    let blocking = split.blocking(&config);
                    assert!(blocking > 0 && (blocking < split.leased || split.leased == 1), "{split:?}");
                    assert!(shared.min <= shared.max && leased.min <= leased.max && shared.min + leased.min <= 3);
                }
            }
        }
        assert_eq!(Split::of(&config(20, 2), 1), Split { lanes: 2, heavy: 1, shared: 7, leased: 13, scarce: false });
    }
}
