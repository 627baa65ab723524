//! Which of a database's addresses are tried next, and in which order. Pure: times, addresses and results go in, an order comes out.
//!
//! Each address has a history of its own: one that failed is left alone for a while, longer each time, and the others carry on. When its pause is
//! over, one connect tries it again; those that come meanwhile still pass it by.
//!
//! Not here: connecting (`dial`), names (`dns`), or how often the pool tries at all (`pool::backoff`).

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use sidepool_config::model::LoadBalance;

/// The first pause of an address after a failure; doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// While one connect tries an address whose pause is over, the others pass it by for so long.
const TRIAL: Duration = Duration::from_secs(5);

/// Most addresses that are remembered as failing.
const MAX_FAILING: usize = 256;

/// Where one connect leads.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// An address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
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

/// The memory of one list of hosts.
#[derive(Debug)]
pub struct Roster {
    policy: LoadBalance,
    /// The host whose turn is next, or (without load balancing) the one that is stayed on.
    host: usize,
    /// How many connects were planned: turns the addresses of a name.
    turn: usize,
    failing: BTreeMap<Place, Failing>,
}

#[derive(Debug, Clone, Copy)]
struct Failing {
    failures: u32,
    retry_at: Instant,
}

impl Roster {
    /// Nothing has been tried.
    #[must_use]
    pub fn new(policy: LoadBalance) -> Self {
        Self { policy, host: 0, turn: 0, failing: BTreeMap::new() }
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
        self.failing.retain(|place, _| found.iter().any(|places| places.contains(place)));
        plan.sort_by_cached_key(|choice| self.failing.get(&choice.place).map(|failing| failing.retry_at).filter(|at| now < *at));
        if let Some(failing) = plan.first().and_then(|choice| self.failing.get_mut(&choice.place)) {
            failing.retry_at = failing.retry_at.max(now + TRIAL);
        }
        plan
    }

    /// A connection is open there.
    pub fn worked(&mut self, choice: &Choice) {
        self.failing.remove(&choice.place);
        if self.policy == LoadBalance::Disable {
            self.host = choice.host;
        }
    }

    /// No connection could be opened there. The pause is at most `longest`.
    pub fn failed(&mut self, now: Instant, choice: &Choice, longest: Duration) {
        if self.failing.len() >= MAX_FAILING && !self.failing.contains_key(&choice.place) {
            return;
        }
        let failing = self.failing.entry(choice.place.clone()).or_insert(Failing { failures: 0, retry_at: now });
        let pause = FIRST_PAUSE.saturating_mul(1 << failing.failures.min(16)).min(longest);
        failing.failures = failing.failures.saturating_add(1);
        failing.retry_at = now + pause;
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
        let (now, mut roster) = (crate::clock::now(), Roster::new(LoadBalance::RoundRobin));
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
        let (now, mut roster) = (crate::clock::now(), Roster::new(LoadBalance::RoundRobin));
        let found = hosts(&[&[1], &[2], &[3]]);
        let dead = Choice { host: 0, place: place(1) };
        roster.failed(now, &dead, LONGEST);
        for _ in 0..6 {
            let order = plan(&mut roster, now, &found);
            assert_ne!(order[0], 1);
            assert_eq!(order[2], 1);
        }
        // The pause is over: one tries it, the others do not.
        let later = now + FIRST_PAUSE;
        let tried = (0..6).filter(|_| plan(&mut roster, later, &found)[0] == 1).count();
        assert_eq!(tried, 1);
        roster.worked(&dead);
        assert_eq!((0..6).filter(|_| plan(&mut roster, later, &found)[0] == 1).count(), 2);
    }

    #[test]
    fn pauses_grow_up_to_the_longest() {
        let (now, mut roster) = (crate::clock::now(), Roster::new(LoadBalance::RoundRobin));
        let dead = Choice { host: 0, place: place(1) };
        for _ in 0..40 {
            roster.failed(now, &dead, LONGEST);
        }
        assert_eq!(roster.failing[&place(1)].retry_at, now + LONGEST);
    }

    #[test]
    fn without_load_balancing_a_host_is_stayed_on_until_it_fails() {
        let (now, mut roster) = (crate::clock::now(), Roster::new(LoadBalance::Disable));
        let found = hosts(&[&[1], &[2]]);
        for _ in 0..3 {
            let order = roster.plan(now, &found);
            assert_eq!(last_of(&order[0].place), 1);
            roster.worked(&order[0]);
        }
        let order = roster.plan(now, &found);
        roster.failed(now, &order[0], LONGEST);
        roster.worked(&order[1]);
        // The first is back, and is not gone back to.
        let later = now + LONGEST;
        assert_eq!(plan(&mut roster, later, &found)[0], 2);
    }

    #[test]
    fn when_all_fail_the_one_that_failed_first_is_tried_first() {
        let (now, mut roster) = (crate::clock::now(), Roster::new(LoadBalance::RoundRobin));
        let found = hosts(&[&[1], &[2]]);
        roster.failed(now + Duration::from_millis(1), &Choice { host: 0, place: place(1) }, LONGEST);
        roster.failed(now, &Choice { host: 1, place: place(2) }, LONGEST);
        assert_eq!(plan(&mut roster, now + Duration::from_millis(2), &found), [2, 1]);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (now, mut roster) = (crate::clock::now(), Roster::new(LoadBalance::RoundRobin));
        for port in 0..2000 {
            let place = Place::Tcp(SocketAddr::from(([10, 0, 0, 1], port)));
            roster.failed(now, &Choice { host: 0, place }, LONGEST);
        }
        assert_eq!(roster.failing.len(), MAX_FAILING);
        roster.plan(now, &hosts(&[&[1]]));
        assert!(roster.failing.is_empty(), "addresses that are gone are forgotten");
    }
}
