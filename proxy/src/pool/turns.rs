//! Whose turn it is among identities: of those with waiters the one of the lowest rank, of equals the one that came to it first. The rank grows with
//! the connections that an identity holds, so that each gets a share of the connections and not merely of the turns: who uses one for long does not
//! take it from who uses one for a moment. It grows a little with all that it asks for, too: an identity that asks for fifty times as much as another
//! has the smaller share, and the other hardly feels it.
//!
//! Nobody is passed over for ever: who holds one connection for long would be, where the others give theirs back at once and there are always some that
//! hold none. After [`PASSED_OVER`] times as many turns of others as there are identities with waiters, an identity has its turn whatever its rank is: a
//! loan, of which it has one at a time. So it gets on, and yet cannot take the connections of others by using each for long.
//!
//! A step costs a constant, but for a search over ranks that nobody has. Not here: the order of waiters within an identity (`queue`).

use super::list::{Chain, List};

/// The highest rank; those who would have a higher one take turns.
const HIGHEST: u32 = 4095;

/// How many turns each of the others has, on average, before an identity gets a loan.
pub(super) const PASSED_OVER: u32 = 2;

/// The rank of an identity that holds so many connections while so many of its sessions wait for more.
pub(super) fn rank(held: u32, waiters: u32) -> u32 {
    held.saturating_mul(weight(held, waiters)).min(HIGHEST)
}

/// The part of the connections that such an identity has beside others, as a number to compare.
pub(super) fn share(held: u32, waiters: u32) -> u64 {
    SHARES[weight(held, waiters) as usize]
}

/// The parts by weight: worked out once, for divisions are slow.
const SHARES: [u64; MOST_WEIGHT + 1] = {
    let mut shares = [WHOLE; MOST_WEIGHT + 1];
    let mut weight = 1;
    while weight <= MOST_WEIGHT {
        shares[weight] = WHOLE / weight as u64;
        weight += 1;
    }
    shares
};

/// No weight is greater: the logarithm of a number of 32 bits, and one.
const MOST_WEIGHT: usize = 32;

/// So much that parts of it can be told apart.
const WHOLE: u64 = 1 << 20;

fn weight(held: u32, waiters: u32) -> u32 {
    1 + held.saturating_add(waiters).max(1).ilog2()
}

/// The lanes with waiters, by their ranks.
#[derive(Debug, Clone, Default)]
pub(super) struct Turns {
    chain: Chain,
    by_rank: Vec<List>,
    /// No lane has a lower rank.
    lowest: usize,
    lanes: u32,
    order: Chain,
    /// The lanes with waiters and without a loan, first the one whose last turn is longest ago.
    by_turn: List,
    /// What is known of each lane.
    accounts: Vec<Account>,
    turns: u64,
}

/// One lane's turns.
#[derive(Debug, Clone, Copy, Default)]
struct Account {
    /// The number of its last turn; who comes anew begins as if it had just had one.
    had: u64,
    loan: Loan,
}

/// Whether a lane has a connection beyond its rank.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Loan {
    #[default]
    None,
    /// It gets one with this turn.
    Due,
    /// This one.
    Of(u32),
}

impl Turns {
    /// How many lanes have waiters.
    pub(super) fn lanes(&self) -> u32 {
        self.lanes
    }

    /// Has its first waiter now.
    pub(super) fn join(&mut self, lane: u32, rank: u32) {
        self.chain.reach(lane);
        self.order.reach(lane);
        if self.accounts.len() <= lane as usize {
            self.accounts.resize_with(lane as usize + 1, Account::default);
        }
        self.put(lane, rank);
        self.lanes += 1;
        self.line_up(lane);
    }

    /// Has no waiter any more.
    pub(super) fn leave(&mut self, lane: u32, rank: u32) {
        self.by_rank[rank as usize].remove(&mut self.chain, lane);
        self.lanes -= 1;
        if self.accounts[lane as usize].loan == Loan::None {
            self.by_turn.remove(&mut self.order, lane);
        }
    }

    /// The first of its waiters is served.
    pub(super) fn serve(&mut self, lane: u32) {
        let lent = self.passed_over() == Some(lane);
        self.turns += 1;
        let account = &mut self.accounts[lane as usize];
        if account.loan == Loan::None {
            self.by_turn.remove(&mut self.order, lane);
            account.loan = if lent { Loan::Due } else { Loan::None };
            self.line_up(lane);
        }
    }

    /// Has this connection now.
    pub(super) fn took(&mut self, lane: u32, connection: u32) {
        if let Some(account) = self.accounts.get_mut(lane as usize)
            && account.loan == Loan::Due
        {
            account.loan = Loan::Of(connection);
        }
    }

    /// Has given this connection back.
    pub(super) fn gave(&mut self, lane: u32, connection: u32, waits: bool) {
        if let Some(account) = self.accounts.get_mut(lane as usize)
            && account.loan == Loan::Of(connection)
        {
            account.loan = Loan::None;
            if waits {
                self.line_up(lane);
            }
        }
    }

    /// Has another rank: it comes behind those that have it already.
    pub(super) fn shift(&mut self, lane: u32, before: u32, rank: u32) {
        self.by_rank[before as usize].remove(&mut self.chain, lane);
        self.put(lane, rank);
    }

    /// The lane whose turn it is.
    pub(super) fn first(&mut self) -> Option<u32> {
        if self.lanes == 0 {
            return None;
        }
        let passed_over = self.passed_over();
        if passed_over.is_some() {
            return passed_over;
        }
        loop {
            let first = self.by_rank.get(self.lowest)?.first();
            if first.is_some() {
                return first;
            }
            self.lowest += 1;
        }
    }

    /// All lanes with their ranks, in the order of these.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, u32)> {
        (0_u32..).zip(&self.by_rank).flat_map(|(rank, list)| list.iter(&self.chain).map(move |lane| (lane, rank)))
    }

    /// The lane that has been passed over for too long.
    fn passed_over(&self) -> Option<u32> {
        let ago = |lane: &u32| self.turns - self.accounts[*lane as usize].had;
        self.by_turn.first().filter(|lane| ago(lane) >= u64::from(self.lanes * PASSED_OVER))
    }

    /// Has to be passed over from now on before it gets a loan.
    fn line_up(&mut self, lane: u32) {
        let account = &mut self.accounts[lane as usize];
        account.had = self.turns;
        if account.loan == Loan::None {
            self.by_turn.push_last(&mut self.order, lane);
        }
    }

    fn put(&mut self, lane: u32, rank: u32) {
        let place = rank as usize;
        if self.by_rank.len() <= place {
            self.by_rank.resize_with(place + 1, List::default);
        }
        self.by_rank[place].push_last(&mut self.chain, lane);
        self.lowest = self.lowest.min(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_rank_comes_first_and_of_equals_who_had_it_first() {
        let mut turns = Turns::default();
        assert_eq!(turns.first(), None);
        turns.join(7, 2);
        turns.join(3, 1);
        turns.join(5, 1);
        assert_eq!(turns.iter().collect::<Vec<_>>(), [(3, 1), (5, 1), (7, 2)]);
        turns.shift(3, 1, 2);
        assert_eq!(turns.first(), Some(5));
        turns.leave(5, 1);
        assert_eq!((turns.first(), turns.lanes()), (Some(7), 2));
        turns.shift(3, 2, 0);
        assert_eq!(turns.first(), Some(3));
    }

    /// So many turns of lanes that all have the rank 0, but for the first, and who had them.
    fn serve(turns: &mut Turns, count: u32) -> Vec<u32> {
        let next = |_| {
            let first = turns.first().expect("they wait");
            turns.serve(first);
            turns.took(first, 70);
            if first != 1 {
                turns.shift(first, 0, 0);
            }
            first
        };
        (0..count).map(next).collect()
    }

    #[test]
    fn who_is_passed_over_too_often_gets_a_loan_and_no_second_before_it_is_given_back() {
        let mut turns = Turns::default();
        turns.join(1, 9);
        (2..5).for_each(|lane| turns.join(lane, 0));
        let passed_over = 4 * PASSED_OVER;
        assert!(!serve(&mut turns, passed_over).contains(&1));
        assert_eq!(serve(&mut turns, 1), [1]);
        assert!(!serve(&mut turns, 3 * passed_over).contains(&1), "it has its loan");
        turns.gave(1, 71, true);
        assert!(!serve(&mut turns, passed_over).contains(&1), "it gave back another");
        turns.gave(1, 70, true);
        assert!(!serve(&mut turns, passed_over).contains(&1), "it begins anew");
        assert_eq!(serve(&mut turns, 1), [1]);
        turns.leave(1, 9);
        turns.gave(1, 70, false);
        turns.join(1, 9);
        assert_ne!(turns.first(), Some(1), "it begins anew");
    }

    #[test]
    fn a_rank_grows_with_what_is_held_and_a_little_with_what_is_asked_for() {
        assert_eq!((rank(0, 1), rank(0, 10_000)), (0, 0));
        assert_eq!((rank(1, 0), rank(1, 1), rank(3, 5), rank(1, 399)), (1, 2, 12, 9));
        assert_eq!(rank(100_000, 100_000), HIGHEST);
    }
}
