//! Limits that several pools have together: the connections of one database, and those of one user. One ledger for the whole process.
//!
//! ```text
//!   pool ── take ──▶ a Permit, where all its limits have room           a Permit that is dropped ──▶ the oldest in line that it fits
//!                └─▶ a place in line, where they have not
//! ```
//! A [`Permit`] is the right to have one more connection, and ends when dropped. Pools stand in line in the order in which they came, each once;
//! one that waits for two limits and has waited for long keeps one place of each as it comes free, so that nobody is overtaken for ever. The
//! ledger never calls into a pool while it is locked, and a pool may ask it while its core is locked. Not here: who gives a connection up
//! (`sharing`).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::reason::OpenReason;
use super::registry::PoolId;
use crate::clock;

/// Who has waited for so long keeps what comes free, and has others give up what they use.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);

/// What a limit is on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CapKey {
    /// The connections of all pools of a database.
    Database(Arc<str>),
    /// The connections of all pools of an upstream user.
    User(Arc<str>),
}

/// The limits that a pool shares with others.
pub type Keys = [CapKey; 2];

/// Receives a permit that was waited for.
pub(super) type Offer = Box<dyn FnOnce(Permit) + Send>;

/// Asks a pool to give up a connection.
pub(super) type Press = Arc<dyn Fn() + Send + Sync>;

/// The ledger.
#[derive(Clone, Default)]
pub struct Caps(Arc<Mutex<Ledger>>);

#[derive(Default)]
struct Ledger {
    caps: BTreeMap<CapKey, Cap>,
    holders: BTreeMap<PoolId, Holder>,
    /// In the order in which they came.
    line: Vec<Entry>,
}

#[derive(Default)]
struct Cap {
    used: u32,
    /// Zero: no limit.
    max: u32,
    /// Whether somebody waits because of this one.
    wanted: Arc<AtomicBool>,
    /// Handles of pools that it concerns.
    handles: u32,
}

impl Cap {
    fn room(&self) -> u32 {
        if self.max == 0 { u32::MAX } else { self.max.saturating_sub(self.used) }
    }
}

struct Holder {
    keys: Keys,
    held: u32,
    presses: Vec<Press>,
}

struct Entry {
    pool: PoolId,
    since: Instant,
    reason: OpenReason,
    offer: Offer,
}

/// The right to have one connection.
pub struct Permit {
    caps: Caps,
    pool: PoolId,
    keys: Keys,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let now = clock::now();
        let granted = {
            let mut ledger = self.caps.lock();
            for key in &self.keys {
                ledger.caps.entry(key.clone()).and_modify(|cap| cap.used -= 1);
            }
            ledger.let_go(self.pool, &self.keys);
            ledger.serve(now)
        };
        self.caps.hand_out(granted);
    }
}

impl Caps {
    /// How many connections a limit allows from now on; zero: as many as like. It is forgotten with the last pool that it concerns.
    pub fn set_max(&self, key: &CapKey, max: u32) {
        let granted = {
            let mut ledger = self.lock();
            ledger.caps.entry(key.clone()).or_default().max = max;
            ledger.serve(clock::now())
        };
        self.hand_out(granted);
    }

    /// How many connections there are, and how many there may be (zero: any number).
    #[must_use]
    pub fn numbers(&self, key: &CapKey) -> (u32, u32) {
        self.lock().caps.get(key).map_or((0, 0), |cap| (cap.used, cap.max))
    }

    /// All limits there are, each with how many connections there are and how many there may be.
    #[must_use]
    pub fn limited(&self) -> Vec<(CapKey, u32, u32)> {
        self.lock().caps.iter().filter(|(_, cap)| cap.max > 0).map(|(key, cap)| (key.clone(), cap.used, cap.max)).collect()
    }

    /// One more handle of a pool; gives the flags that say whether somebody waits.
    pub(super) fn join(&self, pool: PoolId, keys: &Keys, press: Press) -> [Arc<AtomicBool>; 2] {
        let mut ledger = self.lock();
        let holder = ledger.holders.entry(pool).or_insert_with(|| Holder { keys: keys.clone(), held: 0, presses: Vec::new() });
        holder.presses.push(press);
        keys.each_ref().map(|key| {
            let cap = ledger.caps.entry(key.clone()).or_default();
            cap.handles += 1;
            Arc::clone(&cap.wanted)
        })
    }

    /// One handle of a pool fewer.
    pub(super) fn part(&self, pool: PoolId, keys: &Keys, press: &Press) {
        let granted = {
            let mut ledger = self.lock();
            if let Some(holder) = ledger.holders.get_mut(&pool) {
                holder.presses.retain(|other| !Arc::ptr_eq(other, press));
                if holder.presses.is_empty() {
                    ledger.line.retain(|entry| entry.pool != pool);
                }
            }
            for key in keys {
                ledger.caps.entry(key.clone()).and_modify(|cap| cap.handles -= 1);
            }
            ledger.let_go_of_nothing(pool, keys);
            ledger.serve(clock::now())
        };
        self.hand_out(granted);
    }

    /// A permit, or a place in line: then `offer` is called with it when there is one.
    pub(super) fn take(&self, now: Instant, pool: PoolId, reason: OpenReason, offer: Offer) -> Option<Permit> {
        let (mine, others) = {
            let mut ledger = self.lock();
            match ledger.line.iter_mut().find(|entry| entry.pool == pool) {
                Some(entry) if reason == OpenReason::Demand => entry.reason = reason,
                Some(_) => {}
                None => ledger.line.push(Entry { pool, since: now, reason, offer }),
            }
            let granted = ledger.serve(now);
            granted.into_iter().partition::<Vec<_>, _>(|entry| entry.pool == pool)
        };
        let permit = mine.into_iter().next().map(|entry| self.permit(entry.pool));
        self.hand_out(others);
        permit
    }

    /// A permit if there is one at once; no place in line.
    pub(super) fn try_take(&self, pool: PoolId) -> Option<Permit> {
        let keys = {
            let mut ledger = self.lock();
            let keys = ledger.holders.get(&pool)?.keys.clone();
            if keys.iter().any(|key| ledger.caps.get(key).is_none_or(|cap| cap.room() == 0)) {
                return None;
            }
            ledger.count(pool, &keys);
            keys
        };
        Some(Permit { caps: self.clone(), pool, keys })
    }

    /// A pool does not need it any more.
    pub(super) fn leave(&self, pool: PoolId) {
        let granted = {
            let mut ledger = self.lock();
            ledger.line.retain(|entry| entry.pool != pool);
            ledger.serve(clock::now())
        };
        self.hand_out(granted);
    }

    /// Whether a pool waits for its turn.
    pub(super) fn is_in_line(&self, pool: PoolId) -> bool {
        self.lock().line.iter().any(|entry| entry.pool == pool)
    }

    /// The limits of a pool that have no room.
    pub(super) fn short(&self, pool: PoolId) -> Vec<CapKey> {
        let ledger = self.lock();
        let keys = ledger.holders.get(&pool).into_iter().flat_map(|holder| &holder.keys);
        keys.filter(|key| ledger.caps.get(key).is_some_and(|cap| cap.room() == 0)).cloned().collect()
    }

    /// How to ask the pool to give one up that has most of what this one, which stands in line, waits for; `None` when none has more than it.
    pub(super) fn richest(&self, pool: PoolId) -> Option<Press> {
        let short = self.short(pool);
        let ledger = self.lock();
        let poor = ledger.holders.get(&pool)?;
        let others = ledger
            .holders
            .iter()
            .filter(|(other, holder)| **other != pool && holder.held > poor.held && holder.keys.iter().any(|key| short.contains(key)));
        others.max_by_key(|(_, holder)| holder.held).and_then(|(_, holder)| holder.presses.first().map(Arc::clone))
    }

    /// Gives what has come free to those whose turn it is. Not while the ledger is locked: they may drop it at once.
    fn hand_out(&self, granted: Vec<Entry>) {
        for entry in granted {
            let permit = self.permit(entry.pool);
            (entry.offer)(permit);
        }
    }

    /// The permit that has been counted for this pool already.
    fn permit(&self, pool: PoolId) -> Permit {
        let keys = self.lock().holders.get(&pool).map(|holder| holder.keys.clone());
        let keys = keys.expect("who holds something is known");
        Permit { caps: self.clone(), pool, keys }
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger {
    /// Counts a permit for each one in line that can have one, and takes them out of the line.
    fn serve(&mut self, now: Instant) -> Vec<Entry> {
        let mut granted = Vec::new();
        let mut room: BTreeMap<CapKey, u32> = self.caps.iter().map(|(key, cap)| (key.clone(), cap.room())).collect();
        let mut wanted: Vec<CapKey> = Vec::new();
        // Who has a client waiting comes before who only keeps connections ready.
        for reason in [OpenReason::Demand, OpenReason::Minimum] {
            let mut place = 0;
            while place < self.line.len() {
                let entry = &self.line[place];
                let Some(keys) = self.holders.get(&entry.pool).filter(|_| entry.reason == reason).map(|holder| holder.keys.clone()) else {
                    place += 1;
                    continue;
                };
                let fits = keys.iter().all(|key| room.get(key).is_some_and(|room| *room > 0));
                let keeps = reason == OpenReason::Demand && now.saturating_duration_since(entry.since) >= PATIENCE;
                if reason == OpenReason::Demand && !fits {
                    wanted.extend(keys.iter().filter(|key| self.caps.get(key).is_some_and(|cap| cap.room() == 0)).cloned());
                }
                if fits || keeps {
                    for key in &keys {
                        room.entry(key.clone()).and_modify(|room| *room = room.saturating_sub(1));
                    }
                }
                if fits {
                    let entry = self.line.remove(place);
                    self.count(entry.pool, &keys);
                    granted.push(entry);
                } else {
                    place += 1;
                }
            }
        }
        for (key, cap) in &self.caps {
            cap.wanted.store(wanted.contains(key), Ordering::Relaxed);
        }
        granted
    }

    fn count(&mut self, pool: PoolId, keys: &Keys) {
        for key in keys {
            self.caps.entry(key.clone()).and_modify(|cap| cap.used += 1);
        }
        self.holders.entry(pool).and_modify(|holder| holder.held += 1);
    }

    fn let_go(&mut self, pool: PoolId, keys: &Keys) {
        if let Some(holder) = self.holders.get_mut(&pool) {
            holder.held -= 1;
        }
        self.let_go_of_nothing(pool, keys);
    }

    /// Forgets what concerns nobody any more.
    fn let_go_of_nothing(&mut self, pool: PoolId, keys: &Keys) {
        if self.holders.get(&pool).is_some_and(|holder| holder.held == 0 && holder.presses.is_empty()) {
            self.holders.remove(&pool);
        }
        for key in keys {
            if self.caps.get(key).is_some_and(|cap| cap.used == 0 && cap.handles == 0) {
                self.caps.remove(key);
            }
        }
    }
}

#[cfg(test)]
#[path = "tests/caps.rs"]
mod tests;
