//! Chance for the pool core and others: jitter, spread and samples, reproducible from a seed. Not for anything that must be hard to guess.

use std::time::Duration;

/// A SplitMix64 sequence.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// The sequence of this seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number from `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u32, high: u32) -> u32 {
        let span = u64::from(high.saturating_sub(low)) + 1;
        low.saturating_add(u32::try_from(self.next() % span).unwrap_or(0))
    }

    /// A time between `low` and `high` thousandths of `whole`.
    pub(crate) fn share(&mut self, whole: Duration, low: u32, high: u32) -> Duration {
        (whole / 1000).saturating_mul(self.between(low, high))
    }

    /// Whether the next one is chosen, of which one in so many is.
    pub(crate) fn chooses(&mut self, one_in: u32) -> bool {
        self.next().is_multiple_of(u64::from(one_in.max(1)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_one_in_so_many_is_chosen() {
        let mut random = Random::new(7);
        assert!((0..100).all(|_| random.chooses(1)));
        let chosen = (0..10_000).filter(|_| random.chooses(10)).count();
        assert!((800..1200).contains(&chosen), "{chosen}");
    }

    #[test]
    fn shares_stay_in_their_range_and_differ() {
        let mut random = Random::new(7);
        let whole = Duration::from_secs(10);
        let shares: Vec<Duration> = (0..1000).map(|_| random.share(whole, 900, 1100)).collect();
        assert!(shares.iter().all(|share| (Duration::from_secs(9)..=Duration::from_secs(11)).contains(share)));
        assert!(shares.iter().any(|share| *share < Duration::from_millis(9_100)));
        assert!(shares.iter().any(|share| *share > Duration::from_millis(10_900)));
    }
}
