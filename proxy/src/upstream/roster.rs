//! Which of a database's addresses are tried next, and in which order. Pure: times, addresses and results go in, an order comes out.
//!
//! Each address has a breaker of its own: while it is open the address comes after all others, which carry on. When its pause is over, one connect
//! tries it again; those that come meanwhile still pass it by. It is never left out: when there is no other it is tried as often as the pool tries.
//!
//! Not here: when a breaker opens (`breaker`), connecting (`dial`), names (`dns`), or how often the pool tries at all (`pool::backoff`).

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sidepool_config::model::LoadBalance;

use super::breaker::{Breaker, Change, Outcome, Phase};
use crate::pool::random::Random;

/// Most addresses that are remembered.
const MAX_REMEMBERED: usize = 256;

/// Where one connect leads.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// An address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Place {
    /// The address or the path, and a port if it has one, as traces have them.
    #[must_use]
    pub fn address(&self) -> (Box<str>, Option<u16>) {
        match self {
            Self::Tcp(address) => (address.ip().to_string().into(), Some(address.port())),
            Self::Unix(path) => (path.to_string_lossy().into(), None),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A place to try, and which of the configured hosts it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The host's position in the list.
    pub host: usize,
    /// Where.
    pub place: Place,
}

/// What is known of an address before it is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing.
    Unknown,
    /// The last connect that says something of it worked.
    Works,
    /// It failed.
    Fails,
}

/// The memory of one list of hosts.
#[derive(Debug)]
pub struct Roster {
    policy: LoadBalance,
    /// The host whose turn is next, or (without load balancing) the one that is stayed on.
    host: usize,
    /// How many connects were planned: turns the addresses of a name.
    turn: usize,
    known: BTreeMap<Place, Known>,
    openings: Openings,
    random: Random,
}

/// What is known of an address.
#[derive(Debug)]
struct Known {
    /// The host it belongs to.
    host: usize,
    /// Whether anything was heard of it: what concerns us alone says nothing.
    heard_of: bool,
    breaker: Breaker,
}

/// How often a breaker of each host of a list opened: a count that may be read when the list is gone.
#[derive(Debug, Clone, Default)]
pub struct Openings(Arc<Mutex<Vec<u64>>>);

impl Openings {
    /// How often one of the host at this position did.
    #[must_use]
    pub fn of(&self, host: usize) -> u64 {
        self.lock().get(host).copied().unwrap_or(0)
    }

    fn count(&self, host: usize) {
        let mut counts = self.lock();
        let length = counts.len().max(host + 1);
        counts.resize(length, 0);
        counts[host] += 1;
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Roster {
    /// Nothing has been tried. `seed` decides how pauses are spread.
    #[must_use]
    pub fn new(policy: LoadBalance, seed: u64) -> Self {
        Self { policy, host: 0, turn: 0, known: BTreeMap::new(), openings: Openings::default(), random: Random::new(seed) }
    }

    /// How connects are spread.
    #[must_use]
    pub fn policy(&self) -> LoadBalance {
        self.policy
    }

    /// The places to try for one connect, the best first; `found` has the addresses of each host. Those that failed a moment ago come last.
    pub fn plan(&mut self, now: Instant, found: &[Vec<Place>]) -> Vec<Choice> {
        if found.is_empty() {
            return Vec::new();
        }
        let first = self.host % found.len();
        if self.policy == LoadBalance::RoundRobin {
            self.host = (first + 1) % found.len();
        }
        let turn = self.turn / found.len();
        self.turn = self.turn.wrapping_add(1);
        let mut plan = Vec::new();
        for host in (first..found.len()).chain(0..first) {
            let places = &found[host];
            for index in 0..places.len() {
                plan.push(Choice { host, place: places[(turn + index) % places.len()].clone() });
            }
        }
        self.known.retain(|place, _| found.iter().any(|places| places.contains(place)));
        // A host that is stayed on is passed over only when it fails, not for what concerns one pool: all pools of these hosts move together.
        let stays = self.policy == LoadBalance::Disable;
        plan.sort_by_cached_key(|choice| {
            let breaker = &self.known.get(&choice.place)?.breaker;
            breaker.avoid_until(now).filter(|_| !stays || breaker.phase(now) != Phase::Closed)
        });
        if let Some(known) = plan.first().and_then(|choice| self.known.get_mut(&choice.place)) {
            known.breaker.taken(now);
        }
        plan
    }

    /// A connect has ended like this. A pause is at most `longest`.
    pub fn ended(&mut self, now: Instant, choice: &Choice, outcome: Outcome, longest: Duration) -> Option<Change> {
        if outcome == Outcome::Worked && self.policy == LoadBalance::Disable && self.is_failing(now, self.host) {
            self.host = choice.host;
        }
        if self.known.len() >= MAX_REMEMBERED && !self.known.contains_key(&choice.place) {
            return None;
        }
        let known = self.known.entry(choice.place.clone()).or_insert_with(|| Known {
            host: choice.host,
            heard_of: false,
            breaker: Breaker::new(now),
        });
        known.host = choice.host;
        known.heard_of |= outcome != Outcome::Ours;
        let change = known.breaker.ended(now, outcome, longest, &mut self.random);
        if matches!(change, Some(Change::Opened(..))) {
            self.openings.count(choice.host);
        }
        change
    }

    /// A connect was given up before it said anything of its address. A pause is at most `longest`.
    pub(super) fn dropped(&mut self, now: Instant, place: &Place, longest: Duration) {
        if let Some(known) = self.known.get_mut(place) {
            known.breaker.dropped(now, longest, &mut self.random);
        }
    }

    /// What is known of an address.
    #[must_use]
    pub fn standing(&self, now: Instant, place: &Place) -> Standing {
        match self.known.get(place) {
            None => Standing::Unknown,
            Some(known) if known.breaker.is_failing(now) => Standing::Fails,
            Some(known) if !known.heard_of => Standing::Unknown,
            Some(_) => Standing::Works,
        }
    }

    /// Whether no connect to the host works: the last one to each of its addresses that are known has failed. Of a host of which nothing is known,
    /// because its first connect takes long or its name is not resolved yet, nobody can say so.
    fn is_failing(&self, now: Instant, host: usize) -> bool {
        let mut known = self.known.values().filter(|known| known.host == host).peekable();
        known.peek().is_some() && known.all(|known| known.breaker.is_failing(now))
    }

    /// The addresses that are known of the host at this position, with the states of their breakers.
    pub fn phases(&self, now: Instant, host: usize) -> impl Iterator<Item = (&Place, Phase)> {
        self.known.iter().filter(move |(_, known)| known.host == host).map(move |(place, known)| (place, known.breaker.phase(now)))
    }

    /// How often breakers of its hosts opened, now and later.
    #[must_use]
    pub fn openings(&self) -> &Openings {
        &self.openings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(15);

    fn place(last: u8) -> Place {
        Place::Tcp(SocketAddr::from(([10, 0, 0, last], 5432)))
    }

    fn hosts(hosts: &[&[u8]]) -> Vec<Vec<Place>> {
        hosts.iter().map(|places| places.iter().map(|last| place(*last)).collect()).collect()
    }

    fn plan(roster: &mut Roster, now: Instant, found: &[Vec<Place>]) -> Vec<u8> {
        roster.plan(now, found).iter().map(|choice| last_of(&choice.place)).collect()
    }

    fn last_of(place: &Place) -> u8 {
        let Place::Tcp(SocketAddr::V4(address)) = place else { panic!() };
        address.ip().octets()[3]
    }

    #[test]
    fn hosts_and_the_addresses_of_a_host_take_turns() {
        let (now, mut roster) = (crate::clock::now(), Roster::new(LoadBalance::RoundRobin, 1));
        let found = hosts(&[&[1, 2], &[3]]);
        let firsts: Vec<u8> = (0..4).map(|_| plan(&mut roster, now, &found)[0]).collect();
        assert_eq!(firsts, [1, 3, 2, 3]);
        let mut all = plan(&mut roster, now, &found);
        all.sort_unstable();
        assert_eq!(all, [1, 2, 3], "each is tried before giving up");
        assert!(plan(&mut roster, now, &[]).is_empty());
    }

    #[test]
    fn one_dead_host_is_left_alone_while_the_others_carry_on() {
        let (now, mut roster) = (crate::clock::now(), Roster::new(LoadBalance::RoundRobin, 1));
        let found = hosts(&[&[1], &[2], &[3]]);
        let dead = Choice { host: 0, place: place(1) };
        assert!(matches!(roster.ended(now, &dead, Outcome::Silent, LONGEST), Some(Change::Opened(..))));
        for _ in 0..6 {
            let order = plan(&mut roster, now, &found);
            assert_ne!(order[0], 1);
            assert_eq!(order[2], 1);
        }
        // The pause is over: one tries it, the others do not.
        let later = now + LONGEST;
        let tried = (0..6).filter(|_| plan(&mut roster, later, &found)[0] == 1).count();
        assert_eq!(tried, 1);
        assert_eq!(roster.ended(later, &dead, Outcome::Worked, LONGEST), Some(Change::Closed));
        assert_eq!((0..6).filter(|_| plan(&mut roster, later, &found)[0] == 1).count(), 2);
    }

    #[test]
    fn without_load_balancing_a_host_is_stayed_on_until_it_fails() {
        let (now, mut roster) = (crate::clock::now(), Roster::new(LoadBalance::Disable, 1));
        let found = hosts(&[&[1], &[2]]);
        for _ in 0..3 {
            let order = roster.plan(now, &found);
            assert_eq!(last_of(&order[0].place), 1);
            roster.ended(now, &order[0], Outcome::Worked, LONGEST);
        }
        let order = roster.plan(now, &found);
        roster.ended(now, &order[0], Outcome::Silent, LONGEST);
        roster.ended(now, &order[1], Outcome::Worked, LONGEST);
        // The first is back, and is not gone back to.
        let later = now + LONGEST;
        assert_eq!(plan(&mut roster, later, &found)[0], 2);
    }

    #[test]
    fn without_load_balancing_a_host_of_which_nothing_is_known_is_not_moved_away_from() {
        let (now, mut roster) = (crate::clock::now(), Roster::new(LoadBalance::Disable, 1));
        let found = hosts(&[&[1], &[2]]);
        let order = roster.plan(now, &found);
        // The second was quicker, and then the first was merely slower.
        roster.ended(now, &order[1], Outcome::Worked, LONGEST);
        roster.ended(now, &order[0], Outcome::Ours, LONGEST);
        assert_eq!(roster.standing(now, &place(1)), Standing::Unknown);
        assert_eq!(plan(&mut roster, now, &found), [1, 2]);
        // Its name is not resolved for a moment.
        let order = roster.plan(now, &hosts(&[&[], &[2]]));
        roster.ended(now, &order[0], Outcome::Worked, LONGEST);
        assert_eq!(plan(&mut roster, now, &found), [1, 2]);
        // It is silent: the next connect that works elsewhere moves all.
        roster.ended(now, &Choice { host: 0, place: place(1) }, Outcome::Silent, LONGEST);
        assert_eq!(plan(&mut roster, now, &found), [2, 1]);
        roster.ended(now, &order[0], Outcome::Worked, LONGEST);
        assert_eq!(plan(&mut roster, now + LONGEST, &found)[0], 2);
    }

    #[test]
    fn without_load_balancing_what_concerns_one_pool_moves_no_other() {
        let (now, mut roster) = (crate::clock::now(), Roster::new(LoadBalance::Disable, 1));
        let found = hosts(&[&[1], &[2]]);
        for outcome in [Outcome::Denied, Outcome::Ours] {
            let order = roster.plan(now, &found);
            roster.ended(now, &order[0], outcome, LONGEST);
            assert_eq!(plan(&mut roster, now, &found), [1, 2], "{outcome:?}");
            roster.ended(now, &order[1], Outcome::Worked, LONGEST);
            assert_eq!(plan(&mut roster, now, &found), [1, 2], "{outcome:?}");
        }
        // A failure moves all of them, as soon as the next host works.
        let order = roster.plan(now, &found);
        roster.ended(now, &order[0], Outcome::Failed, LONGEST);
        roster.ended(now, &order[1], Outcome::Worked, LONGEST);
        assert_eq!(plan(&mut roster, now, &found), [2, 1]);
    }

    #[test]
    fn when_all_fail_they_are_all_tried_the_one_whose_pause_ends_first_before_the_others() {
        let (now, mut roster) = (crate::clock::now(), Roster::new(LoadBalance::RoundRobin, 1));
        let found = hosts(&[&[1], &[2]]);
        roster.ended(now + LONGEST, &Choice { host: 0, place: place(1) }, Outcome::Silent, LONGEST);
        roster.ended(now, &Choice { host: 1, place: place(2) }, Outcome::Silent, LONGEST);
        assert_eq!(plan(&mut roster, now, &found), [2, 1]);
        assert_eq!(plan(&mut roster, now, &found), [2, 1], "and again, as often as the pool likes");
        // An only one is tried whatever its breaker says.
        assert_eq!(plan(&mut roster, now, &hosts(&[&[1]])), [1]);
    }

    #[test]
    fn a_server_that_denies_one_user_is_passed_over_and_its_breaker_stays_closed() {
        let (now, mut roster) = (crate::clock::now(), Roster::new(LoadBalance::RoundRobin, 1));
        let found = hosts(&[&[1], &[2]]);
        for _ in 0..20 {
            assert_eq!(roster.ended(now, &Choice { host: 0, place: place(1) }, Outcome::Denied, LONGEST), None);
        }
        assert!((0..4).all(|_| plan(&mut roster, now, &found) == [2, 1]));
        assert_eq!(roster.phases(now, 0).collect::<Vec<_>>(), [(&place(1), Phase::Closed)]);
        assert_eq!(roster.openings().of(0), 0);
    }

    #[test]
    fn states_are_told_by_host() {
        let (now, mut roster) = (crate::clock::now(), Roster::new(LoadBalance::RoundRobin, 1));
        roster.ended(now, &Choice { host: 1, place: place(3) }, Outcome::Silent, LONGEST);
        roster.ended(now, &Choice { host: 1, place: place(4) }, Outcome::Worked, LONGEST);
        assert_eq!(roster.phases(now, 0).count(), 0);
        assert_eq!(roster.phases(now, 1).collect::<Vec<_>>(), [(&place(3), Phase::Open), (&place(4), Phase::Closed)]);
        assert_eq!(roster.phases(now + LONGEST, 1).next(), Some((&place(3), Phase::HalfOpen)));
        assert_eq!((roster.openings().of(0), roster.openings().of(1)), (0, 1));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (now, mut roster) = (crate::clock::now(), Roster::new(LoadBalance::RoundRobin, 1));
        for port in 0..2000 {
            let place = Place::Tcp(SocketAddr::from(([10, 0, 0, 1], port)));
            roster.ended(now, &Choice { host: 0, place }, Outcome::Silent, LONGEST);
        }
        assert_eq!(roster.known.len(), MAX_REMEMBERED);
        roster.plan(now, &hosts(&[&[1]]));
        assert!(roster.known.is_empty(), "addresses that are gone are forgotten");
    }
}
