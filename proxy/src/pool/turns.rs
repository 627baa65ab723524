//! Whose turn it is among identities: of those with waiters the one of the lowest rank, of equals the one that came to it first. The rank grows with
//! the connections that an identity holds, so that each gets a share of the connections and not merely of the turns: who uses one for long does not
//! take it from who uses one for a moment. It grows a little with all that it asks for, too: an identity that asks for fifty times as much as another
//! has the smaller share, and the other hardly feels it. Who holds nothing is never passed over twice by the same.
//!
//! A step costs a constant, but for a search over ranks that nobody has. Not here: the order of waiters within an identity (`queue`).

use super::list::{Chain, List};

/// The highest rank; those who would have a higher one take turns.
const HIGHEST: u32 = 4095;

/// The rank of an identity that holds so many connections while so many of its sessions wait for more.
pub(super) fn rank(held: u32, waiters: u32) -> u32 {
    held.saturating_mul(weight(held, waiters)).min(HIGHEST)
}

/// The part of the connections that such an identity has beside others, as a number to compare.
pub(super) fn share(held: u32, waiters: u32) -> u64 {
    WHOLE / u64::from(weight(held, waiters))
}

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
}

impl Turns {
    /// How many lanes have waiters.
    pub(super) fn lanes(&self) -> u32 {
        self.lanes
    }

    /// Has its first waiter now.
    pub(super) fn join(&mut self, lane: u32, rank: u32) {
        self.chain.reach(lane);
        self.put(lane, rank);
        self.lanes += 1;
    }

    /// Has no waiter any more.
    pub(super) fn leave(&mut self, lane: u32, rank: u32) {
        self.by_rank[rank as usize].remove(&mut self.chain, lane);
        self.lanes -= 1;
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
        loop {
            let first = self.by_rank.get(self.lowest)?.first();
            if first.is_some() {
                return first;
            }
            self.lowest += 1;
        }
    }

    /// All lanes with their ranks, in the order of their turns.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, u32)> {
        (0_u32..).zip(&self.by_rank).flat_map(|(rank, list)| list.iter(&self.chain).map(move |lane| (lane, rank)))
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

    #[test]
    fn a_rank_grows_with_what_is_held_and_a_little_with_what_is_asked_for() {
        assert_eq!((rank(0, 1), rank(0, 10_000)), (0, 0));
        assert_eq!((rank(1, 0), rank(1, 1), rank(3, 5), rank(1, 399)), (1, 2, 12, 9));
        assert_eq!(rank(100_000, 100_000), HIGHEST);
    }
}
