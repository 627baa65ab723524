//! How many clients there may be. The gate is shared by all workers; a [`Permit`] is the right to be connected.
//!
//! The atomics here are touched once when a client connects and once when it leaves, never per message.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use sidepool_config::model::Config;

use crate::runtime::descriptors::{Files, Shares};

/// Where the clients of one kind come in.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Door {
    /// All PostgreSQL listeners together.
    Postgres,
    /// All listeners of one configured Redis server.
    Redis(Arc<str>),
}

impl Door {
    /// Its name in logs and metrics.
    #[must_use]
    pub fn label(&self) -> String {
        match self {
            Self::Postgres => "postgres".to_owned(),
            Self::Redis(name) => format!("redis/{name}"),
        }
    }
}

/// Counts the clients that came through one door.
#[derive(Debug, Default)]
pub struct Gate {
    open: AtomicU32,
    max: AtomicU32,
    /// As many as there are files to be had for them.
    files: AtomicU32,
    accepted: AtomicU64,
    rejected: AtomicU64,
    rejected_for_files: AtomicU64,
    short_of_memory: AtomicBool,
    rejected_for_memory: AtomicU64,
    rejected_while_draining: AtomicU64,
    accept_errors: AtomicU64,
    /// How many are being told that there is no file for them, at all doors together.
    excuses: Arc<AtomicU32>,
}

/// How many are told at a time that there is no file for them: each takes one, of those that the process keeps for itself.
const MOST_EXCUSES: u32 = 8;

/// What a gate has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GateNumbers {
    /// Clients that are connected.
    pub open: u32,
    /// The most there may be (`max_client_conn`).
    pub max: u32,
    /// The most for which the limit on open files has room.
    pub files: u32,
    /// Connections accepted, the refused ones included.
    pub accepted: u64,
    /// Connections refused because there were too many.
    pub rejected: u64,
    /// Connections refused because of the limit on open files.
    pub rejected_for_files: u64,
    /// Connections refused because memory was running out.
    pub rejected_for_memory: u64,
    /// Connections refused because the listener was closing.
    pub rejected_while_draining: u64,
    /// Accepts that failed.
    pub accept_errors: u64,
}

impl Gate {
    /// A gate that lets so many in.
    #[must_use]
    pub fn new(max: u32) -> Arc<Self> {
        Arc::new(Self { max: AtomicU32::new(max), files: AtomicU32::new(u32::MAX), ..Self::default() })
    }

    /// Changes the most there may be, and for how many of them there are files. Those above it stay.
    pub fn resize(&self, max: u32, files: u32) {
        self.max.store(max, Ordering::Relaxed);
        self.files.store(files, Ordering::Relaxed);
    }

    /// A permit, if there is room. Counts the attempt.
    pub fn enter(self: &Arc<Self>) -> Option<Permit> {
        self.enter_or(|| false)
    }

    /// The same, where somebody may be made to leave at once who has no right to stay: until that has happened there is one too many.
    pub fn enter_or(self: &Arc<Self>, make_room: impl FnOnce() -> bool) -> Option<Permit> {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        if let Some(permit) = self.permit() {
            return Some(permit);
        }
        if make_room() {
            return Some(self.enter_again());
        }
        let (max, files) = (self.max.load(Ordering::Relaxed), self.files.load(Ordering::Relaxed));
        let rejected = if files < max { &self.rejected_for_files } else { &self.rejected };
        rejected.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// A permit, if there is room. Counts nothing.
    fn permit(self: &Arc<Self>) -> Option<Permit> {
        let most = self.max.load(Ordering::Relaxed).min(self.files.load(Ordering::Relaxed));
        let entered = self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| (open < most).then_some(open + 1));
        entered.ok().map(|_| Permit(Arc::clone(self)))
    }

    /// The right to tell a client that there is no file for it; `None` when as many are told so as may be.
    pub fn excuse(&self) -> Option<Excuse> {
        let excuses = &self.excuses;
        let begun =
            excuses.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |under_way| (under_way < MOST_EXCUSES).then_some(under_way + 1));
        begun.ok().map(|_| Excuse(Arc::clone(excuses)))
    }

    /// Whether nobody is let in because memory is running out. Counts the attempt if so.
    pub fn refuses_for_memory(&self) -> bool {
        let short = self.short_of_memory.load(Ordering::Relaxed);
        if short {
            self.accepted.fetch_add(1, Ordering::Relaxed);
            self.rejected_for_memory.fetch_add(1, Ordering::Relaxed);
        }
        short
    }

    /// A permit to be told that one comes too late, if there is room. Counts the attempt, and one rejection however full it is.
    pub fn enter_too_late(self: &Arc<Self>) -> Option<Permit> {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.rejected_while_draining.fetch_add(1, Ordering::Relaxed);
        self.permit()
    }

    /// A permit for somebody who has been let in elsewhere: there is always room.
    pub fn enter_again(self: &Arc<Self>) -> Permit {
        self.open.fetch_add(1, Ordering::Relaxed);
        Permit(Arc::clone(self))
    }

    /// Counts a failed accept.
    pub fn count_accept_error(&self) {
        self.accept_errors.fetch_add(1, Ordering::Relaxed);
    }

    /// What it has counted.
    #[must_use]
    pub fn numbers(&self) -> GateNumbers {
        GateNumbers {
            open: self.open.load(Ordering::Relaxed),
            max: self.max.load(Ordering::Relaxed),
            files: self.files.load(Ordering::Relaxed),
            accepted: self.accepted.load(Ordering::Relaxed),
            rejected: self.rejected.load(Ordering::Relaxed),
            rejected_for_files: self.rejected_for_files.load(Ordering::Relaxed),
            rejected_for_memory: self.rejected_for_memory.load(Ordering::Relaxed),
            rejected_while_draining: self.rejected_while_draining.load(Ordering::Relaxed),
            accept_errors: self.accept_errors.load(Ordering::Relaxed),
        }
    }
}

impl GateNumbers {
    /// Whether there are more than there may be.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.open > self.most()
    }

    /// The most that are let in.
    #[must_use]
    pub fn most(&self) -> u32 {
        self.max.min(self.files)
    }
}

/// The right to be connected; given back when it is dropped.
#[derive(Debug)]
pub struct Permit(Arc<Gate>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The right to take a file for saying that there is none; given back when it is dropped.
#[derive(Debug)]
pub struct Excuse(Arc<AtomicU32>);

impl Drop for Excuse {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The gates of the process by door. Owned by the control thread; accept loops hold theirs.
#[derive(Debug, Default)]
pub struct Gates {
    doors: BTreeMap<Door, Arc<Gate>>,
    /// Without a limit there is no shortage.
    files: Option<Files>,
    excuses: Arc<AtomicU32>,
}

impl Gates {
    /// How many files there are from now on.
    pub fn set_files(&mut self, files: Files) {
        self.files = Some(files);
    }

    /// Brings the gates in line with the configuration: new doors get one, known ones their new limit, and those that are gone are forgotten
    /// (their clients keep their permits). Where there are fewer files than there may be clients, each door has its share of them.
    pub fn apply(&mut self, config: &Config) {
        let postgres = config.postgres.iter().map(|postgres| (Door::Postgres, postgres.max_client_conn));
        let redis = config.redis.iter().map(|(name, redis)| (Door::Redis(name.as_str().into()), redis.max_client_conn));
        let wanted: BTreeMap<Door, u32> = postgres.chain(redis).collect();
        self.doors.retain(|door, _| wanted.contains_key(door));
        let all: u64 = wanted.values().copied().map(u64::from).sum();
        let shares = self.files.map(|files| (files, files.shares(config))).filter(|(_, shares)| shares.clients < all);
        if let Some((Files { limit, .. }, Shares { clients, servers })) = shares {
            tracing::warn!(
                limit,
                clients,
                servers,
                max_client_conn = all,
                "the limit on open files is nearer than max_client_conn: clients beyond will be refused, so that the pools can connect; raise it (ulimit -n, LimitNOFILE)"
            );
        }
        for (door, max) in wanted {
            let files = shares.map_or(u32::MAX, |(_, shares)| u32::try_from(shares.clients * u64::from(max) / all).unwrap_or(u32::MAX));
            let new = || Arc::new(Gate { excuses: Arc::clone(&self.excuses), ..Gate::default() });
            self.doors.entry(door).or_insert_with(new).resize(max, files);
        }
    }

    /// Whether memory is running out, so that nobody new is let in.
    pub fn set_short_of_memory(&self, short: bool) {
        for gate in self.doors.values() {
            gate.short_of_memory.store(short, Ordering::Relaxed);
        }
    }

    /// The gate of a door.
    #[must_use]
    pub fn get(&self, door: &Door) -> Option<&Arc<Gate>> {
        self.doors.get(door)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&Door, &Arc<Gate>)> {
        self.doors.iter()
    }

    /// All clients of the process.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.doors.values().map(|gate| u64::from(gate.numbers().open)).sum()
    }
}

#[cfg(test)]
mod tests {
    use sidepool_config::model::{Postgres, Redis, Upstream};

    use super::*;

    #[test]
    fn a_gate_lets_in_as_many_as_it_may_and_again_when_one_leaves() {
        let gate = Gate::new(2);
        let first = gate.enter().unwrap();
        let _second = gate.enter().unwrap();
        assert!(gate.enter().is_none());
        let third = gate.enter_or(|| true).unwrap();
        assert!(gate.numbers().is_over(), "until somebody has left");
        drop(third);
        drop(first);
        let _third = gate.enter().unwrap();
        gate.resize(1, u32::MAX);
        assert!(gate.enter().is_none());
        gate.resize(5, 2);
        assert!(gate.enter().is_none());
        let numbers = gate.numbers();
        assert_eq!((numbers.open, numbers.max, numbers.files, numbers.most()), (2, 5, 2, 2));
        assert_eq!((numbers.accepted, numbers.rejected, numbers.rejected_for_files, numbers.rejected_for_memory), (7, 2, 1, 0));
    }

    #[test]
    fn who_comes_too_late_is_rejected_once_however_full_it_is() {
        let gate = Gate::new(1);
        let told = gate.enter_too_late();
        assert!(told.is_some() && gate.enter_too_late().is_none());
        let numbers = gate.numbers();
        assert_eq!((numbers.accepted, numbers.rejected_while_draining), (2, 2));
        assert_eq!((numbers.open, numbers.rejected, numbers.rejected_for_files), (1, 0, 0));
    }

    #[test]
    fn few_at_a_time_are_told_that_there_is_no_file_at_all_doors_together() {
        let redis = Redis::at(Upstream::Unix("/nowhere".into()));
        let config = Config { postgres: Some(Postgres::default()), redis: [("cache".into(), redis)].into(), ..Config::default() };
        let mut gates = Gates::default();
        gates.apply(&config);
        let mut doors = gates.iter().map(|(_, gate)| gate);
        let (one, other) = (doors.next().unwrap(), doors.next().unwrap());
        let mut told: Vec<Excuse> = (0..MOST_EXCUSES).map_while(|turn| if turn % 2 == 0 { one.excuse() } else { other.excuse() }).collect();
        assert_eq!((told.len(), one.excuse().is_some(), other.excuse().is_some()), (MOST_EXCUSES as usize, false, false));
        told.pop();
        assert!(other.excuse().is_some());
    }

    #[test]
    fn doors_have_their_share_of_the_files() {
        let redis = Redis { max_client_conn: 100, ..Redis::at(Upstream::Unix("/nowhere".into())) };
        let postgres = Postgres { max_client_conn: 300, ..Postgres::default() };
        let config = Config { postgres: Some(postgres), redis: [("cache".into(), redis)].into(), ..Config::default() };
        let mut gates = Gates::default();
        let most = |gates: &Gates| gates.iter().map(|(_, gate)| gate.numbers().most()).collect::<Vec<_>>();
        gates.apply(&config);
        assert_eq!(most(&gates), [300, 100]);
        let limit = |clients: u64| {
            let files = Files { limit: 100_000, own: 0 };
            let rest = files.shares(&config);
            Files { limit: 100_000 - (rest.clients - clients), own: 0 }
        };
        gates.set_files(limit(200));
        gates.apply(&config);
        assert_eq!(most(&gates), [150, 50]);
        gates.set_files(limit(400));
        gates.apply(&config);
        assert_eq!(most(&gates), [300, 100]);
    }
}
