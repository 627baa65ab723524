//! Opens connections to one of the hosts of a database: names are resolved, the best address is tried first, and one that does not answer soon
//! gets company instead of being waited for.
//!
//! ```text
//!   hosts ── dns ──▶ addresses ── roster: in which order ──▶ race: crowd (its turn) ──▶ connect ──▶ enter (TLS, login) ──▶ a connection
//!                                      ▲                      │                          │            │ no: the next one
//!                                      └──── worked / failed ─┴──────────────────────────┴────────────┘
//! ```
//! Not here: TLS and logging in (the caller's `enter`), trying again later (the pool).

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Poll;
use std::time::{Duration, Instant};

use sidepool_config::model::{LoadBalance, TcpOptions, Upstream};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::time::{sleep, timeout};

use super::breaker::{Change, EARLY, Outcome, Phase};
use super::crowd::{Crowd, Crowds, Past, Reached};
use super::race::Race;
use super::roster::{Choice, Openings, Place, Roster, Standing};
use crate::clock;
use crate::dns::{Dns, Watch};
use crate::pool::fault::{ConnectFault, ConnectFaultKind};
use crate::pool::reason::Failure;
use crate::transport::options;
use crate::transport::stream::Stream;

/// How long an address has for itself before the next one is tried beside it (RFC 8305, "Connection Attempt Delay").
pub(super) const HEAD_START: Duration = Duration::from_millis(250);

/// An address that has not answered for so long is knocked at anew: the system asks at ever longer intervals, and would find out late that the network
/// is back.
const KNOCK: Duration = Duration::from_secs(3);

/// How often, where nothing else bounds a connect.
const KNOCKS: u32 = 40;

/// How long names are waited for when others are resolved already.
const RESOLVE_GRACE: Duration = Duration::from_millis(250);

/// What the dialers of a process share: names, and the memory of which addresses fail.
#[derive(Clone, Default)]
pub struct Dialing {
    /// Addresses of names.
    pub dns: Dns,
    rosters: Arc<Mutex<Rosters>>,
    crowds: Crowds,
}

/// The memories of lists of hosts that are in use, each for one way to use it.
#[derive(Default)]
struct Rosters {
    lists: BTreeMap<(Vec<Upstream>, bool), List>,
    /// How often breakers of lists that are gone opened, by host.
    opened: BTreeMap<Upstream, u64>,
}

/// One list's memory.
struct List {
    roster: Weak<Mutex<Roster>>,
    openings: Openings,
}

impl Rosters {
    /// Forgets lists that nobody uses any more, but for what is counted of hosts that others have, too.
    fn prune(&mut self) {
        let Self { lists, opened } = self;
        let gone = lists.extract_if(.., |_, list| list.roster.strong_count() == 0);
        for ((hosts, _), list) in gone {
            for (index, host) in hosts.into_iter().enumerate() {
                *opened.entry(host).or_default() += list.openings.of(index);
            }
        }
        opened.retain(|host, _| lists.keys().any(|(hosts, _)| hosts.contains(host)));
    }
}

/// A server that a connection leads to: what was configured and where that is.
#[derive(Debug)]
pub struct Server {
    /// The configured host.
    pub upstream: Upstream,
    /// Its address.
    pub place: Place,
    /// Until it has lasted for a moment: who wants to know whether the connection does.
    trial: Option<Trial>,
}

/// What becomes of a connection that was opened a moment ago is held against, or for, its address.
#[derive(Debug)]
struct Trial {
    roster: Weak<Mutex<Roster>>,
    host: usize,
    longest: Duration,
    since: Instant,
    over: AtomicBool,
}

impl Server {
    /// Whether there is more to learn of a connection than that it was opened.
    #[must_use]
    pub fn is_on_trial(&self) -> bool {
        self.trial.as_ref().is_some_and(|trial| !trial.over.load(Ordering::Relaxed))
    }

    /// The connection is there, and was of use until now.
    pub fn lasts(&self, now: Instant) {
        if let Some(trial) = &self.trial
            && now.saturating_duration_since(trial.since) >= EARLY
        {
            self.conclude(now, Outcome::Lasted);
        }
    }

    /// The server has closed the connection.
    pub fn lost(&self, now: Instant) {
        if let Some(trial) = &self.trial
            && now.saturating_duration_since(trial.since) < EARLY
        {
            self.conclude(now, Outcome::LostEarly);
        }
    }

    fn conclude(&self, now: Instant, outcome: Outcome) {
        let Some(trial) = self.trial.as_ref().filter(|trial| !trial.over.swap(true, Ordering::Relaxed)) else { return };
        let Some(roster) = trial.roster.upgrade() else { return };
        let choice = Choice { host: trial.host, place: self.place.clone() };
        let change = lock(&roster).ended(now, &choice, outcome, trial.longest);
        say(change, &self.upstream, &self.place);
    }
}

/// Says so when an address has a new state.
fn say(change: Option<Change>, host: &Upstream, address: &Place) {
    match change {
        Some(Change::Opened(why, pause)) => {
            let pause = pause.as_millis();
            tracing::warn!(%host, %address, "a server address is avoided for {pause} ms, while there are others: {why}");
        }
        Some(Change::Closed) => tracing::info!(%host, %address, "a server address works again"),
        None => {}
    }
}

#[cfg(test)]
impl Server {
    /// For tests of connections that lead nowhere.
    pub(crate) fn nowhere() -> Self {
        Self::at("/nowhere".into())
    }

    /// At this socket.
    pub(crate) fn at(path: std::path::PathBuf) -> Self {
        Self { upstream: Upstream::Unix(path.clone()), place: Place::Unix(path), trial: None }
    }
}

/// Opens connections to the hosts of one database.
pub struct Dialer {
    hosts: Vec<Upstream>,
    roster: Arc<Mutex<Roster>>,
    dns: Dns,
    tcp: TcpOptions,
    /// Those who connect to the same addresses; `None`: it does not wait for others.
    crowds: Option<Crowds>,
    /// Whether the last login hung or was broken off.
    is_troubled: AtomicBool,
    /// The longest pause of an address that fails.
    longest: Duration,
    #[expect(dead_code, reason = "kept for its drop: the names are kept up to date as long as this lives")]
    watches: Vec<Watch>,
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer").field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

impl Dialing {
    /// A dialer. Those with the same hosts share what they learn of them.
    #[must_use]
    pub fn dialer(&self, hosts: &[Upstream], policy: LoadBalance, tcp: &TcpOptions, longest: Duration) -> Dialer {
        let mut rosters = self.rosters.lock().unwrap_or_else(PoisonError::into_inner);
        rosters.prune();
        let key = (hosts.to_vec(), policy == LoadBalance::Disable);
        let known = rosters.lists.get(&key).and_then(|list| list.roster.upgrade());
        let roster = known.unwrap_or_else(|| {
            let new = Roster::new(policy, seed());
            let openings = new.openings().clone();
            let new = Arc::new(Mutex::new(new));
            rosters.lists.insert(key, List { roster: Arc::downgrade(&new), openings });
            new
        });
        let names = hosts.iter().filter_map(name_of);
        let watches = names.map(|name| self.dns.watch(name)).collect();
        Dialer {
            hosts: hosts.to_vec(),
            roster,
            dns: self.dns.clone(),
            tcp: tcp.clone(),
            crowds: Some(self.crowds.clone()),
            is_troubled: AtomicBool::new(false),
            longest,
            watches,
        }
    }

    /// What is known of each host that connections are opened to, in the order of their names. A host of several lists has what they know together.
    #[must_use]
    pub fn hosts(&self, now: Instant) -> Vec<HostReport> {
        let mut rosters = self.rosters.lock().unwrap_or_else(PoisonError::into_inner);
        rosters.prune();
        let mut hosts: BTreeMap<&Upstream, (BTreeMap<Place, Phase>, u64)> = BTreeMap::new();
        for ((list, _), List { roster, openings }) in &rosters.lists {
            let Some(roster) = roster.upgrade() else { continue };
            let roster = lock(&roster);
            for (index, host) in list.iter().enumerate() {
                let gone = rosters.opened.get(host).copied().unwrap_or(0);
                let (places, opened) = hosts.entry(host).or_insert_with(|| (BTreeMap::new(), gone));
                *opened += openings.of(index);
                for (place, phase) in roster.phases(now, index) {
                    let worst = places.entry(place.clone()).or_insert(phase);
                    *worst = phase.max(*worst);
                }
            }
        }
        let report = |(host, (places, opened)): (&Upstream, (BTreeMap<Place, Phase>, u64))| HostReport {
            host: host.to_string(),
            addresses: Phase::ALL.map(|phase| places.values().filter(|of| **of == phase).count() as u64),
            opened,
        };
        hosts.into_iter().map(report).collect()
    }
}

/// What is known of a configured host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostReport {
    /// As configured.
    pub host: String,
    /// How many of its addresses are in each phase, in the order of [`Phase::ALL`]. Those that were never connected to are in none.
    pub addresses: [u64; Phase::ALL.len()],
    /// How often one of them became open.
    pub opened: u64,
}

/// What spreads the pauses of one list of hosts.
fn seed() -> u64 {
    let mut seed = [0; 8];
    // Without chance, the pauses are those of every other process in the same plight.
    let _ = getrandom::fill(&mut seed);
    u64::from_ne_bytes(seed)
}

/// The name that has to be resolved to get to a host.
#[must_use]
pub fn name_of(upstream: &Upstream) -> Option<&str> {
    match upstream {
        Upstream::Tcp { host, .. } => host.parse::<IpAddr>().is_err().then_some(host),
        Upstream::Unix(_) => None,
    }
}

impl Dialer {
    /// The same for what must not stand in line.
    #[must_use]
    pub fn at_once(self) -> Self {
        Self { crowds: None, ..self }
    }

    /// The hosts as configured.
    pub(super) fn hosts(&self) -> &[Upstream] {
        &self.hosts
    }

    /// Whether the next host is for when this one has failed, and not for when it is slow.
    pub(super) fn stays(&self) -> bool {
        self.hosts.len() > 1 && lock(&self.roster).policy() == LoadBalance::Disable
    }

    /// What is known of an address.
    pub(super) fn standing(&self, place: &Place) -> Standing {
        lock(&self.roster).standing(clock::now(), place)
    }

    /// Those who connect to an address.
    pub(super) fn crowd(&self, place: &Place) -> Option<Arc<Crowd>> {
        self.crowds.as_ref()?.before(place, seed)
    }

    /// What came of the last login.
    pub(super) fn past(&self) -> Past {
        if self.is_troubled.load(Ordering::Relaxed) { Past::Troubled } else { Past::Clear }
    }

    /// What a connect to an address has found out.
    pub(super) fn tell_crowd(&self, place: &Place, result: Result<(), (&ConnectFault, Reached)>) {
        let past = self.past();
        match result {
            Ok(()) => self.is_troubled.store(false, Ordering::Relaxed),
            Err((_, Reached::Somebody)) => self.is_troubled.store(true, Ordering::Relaxed),
            Err((_, Reached::Nobody)) => {}
        }
        if let Some(crowd) = self.crowd(place) {
            match result {
                Ok(()) => crowd.worked(),
                Err((fault, reached)) => crowd.failed(fault, reached, past),
            }
        }
    }

    /// Connects to one host after the other until `enter` succeeds on one. The caller bounds the whole in time; `patience` is its bound, of which
    /// one dead address may not take everything.
    pub async fn connect<T>(
        &self,
        patience: Duration,
        enter: impl AsyncFn(Stream, &Arc<Server>) -> Result<T, ConnectFault>,
    ) -> Result<T, ConnectFault> {
        let deadline = (!patience.is_zero()).then(|| clock::now() + patience);
        let (mut found, mut faults) = (Vec::with_capacity(self.hosts.len()), Vec::with_capacity(self.hosts.len()));
        for places in self.find().await {
            let (places, unresolved) = places.map_or_else(|unresolved| (Vec::new(), Some(unresolved)), |places| (places, None));
            found.push(places);
            faults.push(unresolved);
        }
        let plan = lock(&self.roster).plan(clock::now(), &found);
        let mut race = Race::new(self, &enter, plan, deadline, faults);
        if let Some(entered) = race.run().await {
            return Ok(entered);
        }
        let mut fault = None;
        race.faults.into_iter().flatten().for_each(|of_host| keep_worse(&mut fault, of_host));
        Err(fault.unwrap_or_else(|| ConnectFault::new(ConnectFaultKind::Resolve, "the server has no address")))
    }

    /// Notes how a connect has ended, and says so when that changes what becomes of its address. Returns whether it did.
    pub(super) fn ended(&self, choice: &Choice, outcome: Outcome) -> bool {
        let change = lock(&self.roster).ended(clock::now(), choice, outcome, self.longest);
        say(change, &self.hosts[choice.host], &choice.place);
        change.is_some()
    }

    /// A connect was given up before it said anything of its address.
    pub(super) fn dropped(&self, choice: &Choice) {
        lock(&self.roster).dropped(clock::now(), &choice.place, self.longest);
    }

    pub(super) fn server(&self, choice: &Choice) -> Server {
        let (host, longest) = (choice.host, self.longest);
        let trial = Trial { roster: Arc::downgrade(&self.roster), host, longest, since: clock::now(), over: AtomicBool::new(false) };
        Server { upstream: self.hosts[host].clone(), place: choice.place.clone(), trial: Some(trial) }
    }

    /// Connects to a server that there is a connection to: for what has to go to the very same.
    pub async fn again(&self, server: &Server) -> Result<Stream, ConnectFault> {
        self.open(&server.place).await.map_err(|error| fault_of(&error, &server.upstream, &server.place))
    }

    /// Where the hosts are, each by itself. Names that are slow are not waited for when others are at hand.
    async fn find(&self) -> Vec<Result<Vec<Place>, ConnectFault>> {
        let mut asking: Vec<_> = self.hosts.iter().map(|host| Box::pin(self.places(host))).collect();
        let mut found: Vec<Option<Result<Vec<Place>, ConnectFault>>> = self.hosts.iter().map(|_| None).collect();
        let mut grace = pin!(sleep(RESOLVE_GRACE));
        poll_fn(|cx| {
            for (asking, found) in asking.iter_mut().zip(&mut found).filter(|(_, found)| found.is_none()) {
                if let Poll::Ready(places) = asking.as_mut().poll(cx) {
                    *found = Some(places);
                }
            }
            let enough = found.iter().any(|found| matches!(found, Some(Ok(_)))) && grace.as_mut().poll(cx).is_ready();
            if enough || found.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        drop(asking);
        let slow = |host: &Upstream| {
            Err(ConnectFault::new(ConnectFaultKind::Resolve, format!("the name of the server {host} is not resolved yet")))
        };
        found.into_iter().zip(&self.hosts).map(|(found, host)| found.unwrap_or_else(|| slow(host))).collect()
    }

    async fn places(&self, host: &Upstream) -> Result<Vec<Place>, ConnectFault> {
        let (name, port) = match host {
            Upstream::Unix(path) => return Ok(vec![Place::Unix(path.clone())]),
            Upstream::Tcp { host, port } => (host, *port),
        };
        if let Ok(address) = name.parse::<IpAddr>() {
            return Ok(vec![Place::Tcp(SocketAddr::new(address, port))]);
        }
        match self.dns.addresses(name).await {
            Ok(addresses) => Ok(addresses.iter().map(|address| Place::Tcp(SocketAddr::new(*address, port))).collect()),
            Err(why) => Err(ConnectFault::new(ConnectFaultKind::Resolve, format!("cannot resolve the name of the server {host}: {why}"))),
        }
    }

    pub(super) async fn open(&self, place: &Place) -> io::Result<Stream> {
        match place {
            Place::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
            Place::Tcp(address) => {
                let stream = self.knock(*address).await?;
                options::server(&stream, &self.tcp)?;
                Ok(Stream::Tcp(stream))
            }
        }
    }

    async fn knock(&self, address: SocketAddr) -> io::Result<TcpStream> {
        for _ in 0..KNOCKS {
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            options::before_connect(&socket, &self.tcp)?;
            if let Ok(connected) = timeout(KNOCK, socket.connect(address)).await {
                return connected;
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}

fn lock(roster: &Mutex<Roster>) -> MutexGuard<'_, Roster> {
    roster.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Of the faults of one host the one to tell. Its addresses are ways to the same server: that nobody is at one of them (`localhost` is `::1`, too)
/// says less than what the server has said at another.
pub(super) fn keep_telling(kept: &mut Option<ConnectFault>, new: ConnectFault) {
    if kept.as_ref().is_none_or(|kept| is_answer(&new) || !is_answer(kept)) {
        *kept = Some(new);
    }
}

/// Whether somebody was there.
fn is_answer(fault: &ConnectFault) -> bool {
    match fault.kind {
        ConnectFaultKind::Refused | ConnectFaultKind::Timeout | ConnectFaultKind::Resolve => false,
        ConnectFaultKind::Tls
        | ConnectFaultKind::Auth
        | ConnectFaultKind::TooMany
        | ConnectFaultKind::Unavailable
        | ConnectFaultKind::NoDatabase
        | ConnectFaultKind::Protocol => true,
        ConnectFaultKind::Other => fault.said.is_some(),
    }
}

/// Of several faults the one to tell: that waiting may help, as long as it may somewhere; of two alike the later.
fn keep_worse(kept: &mut Option<ConnectFault>, new: ConnectFault) {
    let hopeless = |fault: &ConnectFault| match fault.failure() {
        Failure::Permanent | Failure::Missing => true,
        Failure::Transient | Failure::Full | Failure::Starting => false,
    };
    if kept.as_ref().is_none_or(|kept| hopeless(kept) || !hopeless(&new)) {
        *kept = Some(new);
    }
}

/// A failed dial in the pool's terms. Out of descriptors is our own trouble, and waiting helps.
pub(super) fn fault_of(error: &io::Error, upstream: &Upstream, place: &Place) -> ConnectFault {
    let kind = match error.kind() {
        io::ErrorKind::TimedOut => ConnectFaultKind::Timeout,
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::NetworkDown
        | io::ErrorKind::NotFound
        | io::ErrorKind::PermissionDenied => ConnectFaultKind::Refused,
        _ => ConnectFaultKind::Other,
    };
    let at = if name_of(upstream).is_some() { format!(" ({place})") } else { String::new() };
    ConnectFault::new(kind, format!("cannot connect to the server {upstream}{at}: {error}"))
}

#[cfg(test)]
#[path = "dial_tests.rs"]
mod tests;
