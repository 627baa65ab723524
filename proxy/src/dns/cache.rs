//! What is known of host names: their addresses, for how long those hold, who waits for an answer. Pure: times and answers go in, what to do
//! comes out.
//!
//! An answer that holds no more is still better than none: when a name cannot be resolved again, the last good answer stays. An address that is
//! missing from an answer is not gone at once: large sets of records come a few at a time, and in another order each time.
//!
//! Not here: asking (`lookup`), or the thread that does (`service`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Most names that are remembered. They come from the configuration, so more are not to be expected.
pub const MAX_NAMES: usize = 1024;

/// Most addresses of one name that are used.
pub const MAX_ADDRESSES: usize = 64;

/// No answer holds for less, whatever its records say: nobody is asked more often than once a second for one name.
const SHORTEST: Duration = Duration::from_secs(1);

/// In how many answers in a row an address has to be missing, where other addresses stayed, before it counts as gone.
const MISSES: u8 = 3;

/// The addresses of a name.
pub type Addresses = Arc<[IpAddr]>;

/// What a name server (or a file) said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The addresses, none twice.
    pub addresses: Vec<IpAddr>,
    /// For how long they hold.
    pub ttl: Duration,
}

/// How long answers are believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// The longest that an answer is believed (`dns_max_ttl`).
    pub max_ttl: Duration,
    /// For how long a name without an answer is not asked again (`dns_nxdomain_ttl`).
    pub nxdomain_ttl: Duration,
}

/// What somebody who asks gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// Addresses that hold.
    Fresh(Addresses),
    /// Ask; if that takes too long, these were right a while ago.
    Ask(Option<Addresses>),
    /// The name could not be resolved a moment ago, and this is why.
    Failed(Arc<str>),
}

/// What an answer changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Nothing that matters to open connections.
    None,
    /// Addresses other than these are gone.
    Gone(Addresses),
    /// The name cannot be resolved any more; the last good answer stays.
    Stale,
}

/// One line of SHOW DNS_HOSTS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The name.
    pub name: String,
    /// For how long its addresses still hold.
    pub ttl: Duration,
    /// The addresses; none while it cannot be resolved.
    pub addresses: Vec<IpAddr>,
}

/// Everything known of names.
#[derive(Debug)]
pub struct Cache {
    terms: Terms,
    entries: BTreeMap<Box<str>, Entry>,
}

/// What is known of one name.
#[derive(Debug)]
struct Entry {
    /// The last good answer; `None` before the first.
    good: Option<Addresses>,
    /// Addresses that open connections may have: those of the last answer, and those that were missing only a few times.
    kept: Vec<(IpAddr, u8)>,
    /// Until when `good` (or the failure) is not asked again.
    until: Instant,
    /// Why the last question had no answer.
    failure: Option<Arc<str>>,
    /// Whether a question is under way.
    asked: bool,
    /// How many pools lead there: the name is asked again by itself.
    watchers: u32,
    used: Instant,
}

impl Cache {
    /// Nothing is known.
    #[must_use]
    pub fn new(terms: Terms) -> Self {
        Self { terms, entries: BTreeMap::new() }
    }

    /// New terms: answers that would hold for longer are shortened.
    pub fn set_terms(&mut self, now: Instant, terms: Terms) {
        self.terms = terms;
        for entry in self.entries.values_mut() {
            let most = if entry.failure.is_some() { terms.nxdomain_ttl } else { terms.max_ttl };
            entry.until = entry.until.min(now + most.max(SHORTEST));
        }
    }

    /// What is known of `name` now.
    pub fn look(&mut self, now: Instant, name: &str) -> Known {
        let Some(entry) = self.entries.get_mut(name) else { return Known::Ask(None) };
        entry.used = now;
        match (&entry.good, &entry.failure) {
            (Some(good), _) if now < entry.until => Known::Fresh(Arc::clone(good)),
            (Some(good), _) => Known::Ask(Some(Arc::clone(good))),
            (None, Some(why)) if now < entry.until => Known::Failed(Arc::clone(why)),
            (None, _) => Known::Ask(None),
        }
    }

    /// Whether the one who is about to ask for `name` should; if not, somebody does already.
    pub fn begin(&mut self, now: Instant, name: &str) -> bool {
        let entry = self.entry(now, name);
        !std::mem::replace(&mut entry.asked, true)
    }

    /// An answer came, or none.
    pub fn answer(&mut self, now: Instant, name: &str, answer: Result<Answer, Arc<str>>) -> Change {
        let terms = self.terms;
        let entry = self.entry(now, name);
        entry.asked = false;
        match answer {
            Ok(Answer { mut addresses, ttl }) if !addresses.is_empty() => {
                addresses.truncate(MAX_ADDRESSES);
                entry.until = now + ttl.min(terms.max_ttl).max(SHORTEST);
                entry.failure = None;
                entry.take(&addresses)
            }
            Ok(_) => entry.fail(now, "it has no address".into(), terms),
            Err(why) => entry.fail(now, why, terms),
        }
    }

    /// A pool leads to `name`: it is asked again whenever its answer holds no more, until as many [`Cache::unwatch`] have come.
    pub fn watch(&mut self, now: Instant, name: &str) {
        self.entry(now, name).watchers += 1;
    }

    /// A pool leads there no more.
    pub fn unwatch(&mut self, name: &str) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.watchers = entry.watchers.saturating_sub(1);
        }
    }

    /// The watched names whose answers hold no more. Names that nobody has asked for yet are left alone.
    #[must_use]
    pub fn due(&self, now: Instant) -> Vec<Box<str>> {
        self.entries.iter().filter(|(_, entry)| entry.is_repeated() && entry.until <= now).map(|(name, _)| name.clone()).collect()
    }

    /// When [`Cache::due`] has something next.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.entries.values().filter(|entry| entry.is_repeated()).map(|entry| entry.until).min()
    }

    /// All names, for people.
    #[must_use]
    pub fn hosts(&self, now: Instant) -> Vec<Host> {
        let known = self.entries.iter().filter(|(_, entry)| entry.good.is_some() || entry.failure.is_some());
        known
            .map(|(name, entry)| Host {
                name: name.to_string(),
                ttl: entry.until.saturating_duration_since(now),
                addresses: entry.good.as_deref().unwrap_or_default().to_vec(),
            })
            .collect()
    }

    /// How many questions are under way.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.entries.values().filter(|entry| entry.asked).count()
    }

    fn entry(&mut self, now: Instant, name: &str) -> &mut Entry {
        if !self.entries.contains_key(name) && self.entries.len() >= MAX_NAMES {
            self.forget_one();
        }
        self.entries.entry(name.into()).or_insert_with(|| Entry {
            good: None,
            kept: Vec::new(),
            until: now,
            failure: None,
            asked: false,
            watchers: 0,
            used: now,
        })
    }

    /// Forgets the name that nobody has used for longest; one that pools lead to only if there is no other.
    fn forget_one(&mut self) {
        let oldest = self.entries.iter().min_by_key(|(_, entry)| (entry.watchers > 0 || entry.asked, entry.used));
        if let Some(name) = oldest.map(|(name, _)| name.clone()) {
            self.entries.remove(&name);
        }
    }
}

impl Entry {
    fn is_repeated(&self) -> bool {
        self.watchers > 0 && !self.asked && (self.good.is_some() || self.failure.is_some())
    }

    /// Takes in a good answer.
    fn take(&mut self, addresses: &[IpAddr]) -> Change {
        let before = self.kept.len();
        let overlaps = self.kept.iter().any(|(kept, _)| addresses.contains(kept));
        for (address, missed) in &mut self.kept {
            *missed = if addresses.contains(address) { 0 } else { *missed + 1 };
        }
        // A wholly different answer is a move, and not a turn of the records.
        self.kept.retain(|(_, missed)| *missed == 0 || (overlaps && *missed < MISSES));
        let gone = self.kept.len() < before;
        for address in addresses {
            if self.kept.iter().all(|(kept, _)| kept != address) && self.kept.len() < 2 * MAX_ADDRESSES {
                self.kept.push((*address, 0));
            }
        }
        self.good = Some(addresses.into());
        if gone { Change::Gone(self.kept.iter().map(|(address, _)| *address).collect()) } else { Change::None }
    }

    fn fail(&mut self, now: Instant, why: Arc<str>, terms: Terms) -> Change {
        let first = self.failure.replace(why).is_none();
        self.until = now + terms.nxdomain_ttl.max(SHORTEST);
        if first && self.good.is_some() { Change::Stale } else { Change::None }
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
