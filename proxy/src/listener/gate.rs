//! How many clients there may be. The gate is shared by all workers; a [`Permit`] is the right to be connected.
//!
//! The atomics here are touched once when a client connects and once when it leaves, never per message.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use sidepool_config::model::Config;

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
    accepted: AtomicU64,
    rejected: AtomicU64,
    short_of_memory: AtomicBool,
    rejected_for_memory: AtomicU64,
    accept_errors: AtomicU64,
}

/// What a gate has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GateNumbers {
    /// Clients that are connected.
    pub open: u32,
    /// The most there may be.
    pub max: u32,
    /// Connections accepted, the refused ones included.
    pub accepted: u64,
    /// Connections refused because there were too many.
    pub rejected: u64,
    /// Connections refused because memory was running out.
    pub rejected_for_memory: u64,
    /// Accepts that failed.
    pub accept_errors: u64,
}

impl Gate {
    /// A gate that lets so many in.
    #[must_use]
    pub fn new(max: u32) -> Arc<Self> {
        Arc::new(Self { max: AtomicU32::new(max), ..Self::default() })
    }

    /// Changes the most there may be. Those above it stay.
    pub fn resize(&self, max: u32) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// A permit, if there is room. Counts the attempt.
    pub fn enter(self: &Arc<Self>) -> Option<Permit> {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        let max = self.max.load(Ordering::Relaxed);
        let entered = self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| (open < max).then_some(open + 1));
        if entered.is_err() {
            self.rejected.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(Permit(Arc::clone(self)))
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
            accepted: self.accepted.load(Ordering::Relaxed),
            rejected: self.rejected.load(Ordering::Relaxed),
            rejected_for_memory: self.rejected_for_memory.load(Ordering::Relaxed),
            accept_errors: self.accept_errors.load(Ordering::Relaxed),
        }
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

/// The gates of the process by door. Owned by the control thread; accept loops hold theirs.
#[derive(Debug, Default)]
pub struct Gates(BTreeMap<Door, Arc<Gate>>);

impl Gates {
    /// Brings the gates in line with the configuration: new doors get one, known ones their new limit, and those that are gone are forgotten
    /// (their clients keep their permits).
    pub fn apply(&mut self, config: &Config) {
        let postgres = config.postgres.iter().map(|postgres| (Door::Postgres, postgres.max_client_conn));
        let redis = config.redis.iter().map(|(name, redis)| (Door::Redis(name.as_str().into()), redis.max_client_conn));
        let wanted: BTreeMap<Door, u32> = postgres.chain(redis).collect();
        self.0.retain(|door, _| wanted.contains_key(door));
        for (door, max) in wanted {
            self.0.entry(door).or_insert_with(|| Gate::new(max)).resize(max);
        }
    }

    /// Whether memory is running out, so that nobody new is let in.
    pub fn set_short_of_memory(&self, short: bool) {
        for gate in self.0.values() {
            gate.short_of_memory.store(short, Ordering::Relaxed);
        }
    }

    /// The gate of a door.
    #[must_use]
    pub fn get(&self, door: &Door) -> Option<&Arc<Gate>> {
        self.0.get(door)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&Door, &Arc<Gate>)> {
        self.0.iter()
    }

    /// All clients of the process.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.0.values().map(|gate| u64::from(gate.numbers().open)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_lets_in_as_many_as_it_may_and_again_when_one_leaves() {
        let gate = Gate::new(2);
        let first = gate.enter().unwrap();
        let _second = gate.enter().unwrap();
        assert!(gate.enter().is_none());
        drop(first);
        let _third = gate.enter().unwrap();
        gate.resize(1);
        assert!(gate.enter().is_none());
        assert_eq!(gate.numbers(), GateNumbers { open: 2, max: 1, accepted: 5, rejected: 2, rejected_for_memory: 0, accept_errors: 0 });
    }
}
