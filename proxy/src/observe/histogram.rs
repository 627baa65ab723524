//! A histogram of durations (or of numbers) as plain cells: exact counts per bucket, an exact sum, nothing sampled and nothing stored.

use std::cell::Cell;
use std::time::Duration;

use super::catalog::Buckets;

/// The most bounds a histogram has.
pub const MAX_BOUNDS: usize = 17;

const MICRO: u64 = 1_000;
const MILLI: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;

const WAIT: [u64; 17] = [
    100 * MICRO,
    250 * MICRO,
    500 * MICRO,
    MILLI,
    2_500 * MICRO,
    5 * MILLI,
    10 * MILLI,
    25 * MILLI,
    50 * MILLI,
    100 * MILLI,
    250 * MILLI,
    500 * MILLI,
    SECOND,
    2_500 * MILLI,
    5 * SECOND,
    10 * SECOND,
    30 * SECOND,
];

const WORK: [u64; 11] =
    [250 * MICRO, 500 * MICRO, MILLI, 5 * MILLI, 10 * MILLI, 50 * MILLI, 100 * MILLI, 500 * MILLI, SECOND, 5 * SECOND, 10 * SECOND];

/// No server lets anybody in within less than a millisecond.
const OPENING: [u64; 9] = [MILLI, 5 * MILLI, 10 * MILLI, 50 * MILLI, 100 * MILLI, 500 * MILLI, SECOND, 5 * SECOND, 10 * SECOND];

const COUNT: [u64; 14] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192];

impl Buckets {
    /// The upper bounds in nanoseconds, or as they are, smallest first; what is above the last is counted too, without a bound.
    #[must_use]
    pub const fn bounds(self) -> &'static [u64] {
        match self {
            Self::Wait => &WAIT,
            Self::Work => &WORK,
            Self::Opening => &OPENING,
            Self::Count => &COUNT,
        }
    }
}

/// The cells of one histogram.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    counts: [Cell<u64>; MAX_BOUNDS + 1],
    sum_nanos: Cell<u64>,
}

impl Histogram {
    /// An empty histogram.
    #[must_use]
    pub fn new(buckets: Buckets) -> Self {
        Self { bounds: buckets.bounds(), counts: Default::default(), sum_nanos: Cell::new(0) }
    }

    /// Counts one duration.
    pub fn observe(&self, duration: Duration) {
        self.count(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Counts one number.
    pub fn count(&self, number: u64) {
        let cell = &self.counts[self.bounds.partition_point(|bound| *bound < number)];
        cell.set(cell.get() + 1);
        self.sum_nanos.set(self.sum_nanos.get().saturating_add(number));
    }

    /// A copy of the cells.
    #[must_use]
    pub fn numbers(&self) -> HistogramNumbers {
        let mut counts = [0; MAX_BOUNDS + 1];
        for (count, cell) in counts.iter_mut().zip(&self.counts) {
            *count = cell.get();
        }
        HistogramNumbers { counts, sum_nanos: self.sum_nanos.get() }
    }
}

/// A copy of a histogram's cells, to be added to those of other workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HistogramNumbers {
    /// How many fell between each bound and the one below it; the one after the last bound has those above all.
    pub counts: [u64; MAX_BOUNDS + 1],
    /// All of them added up.
    pub sum_nanos: u64,
}

impl HistogramNumbers {
    /// Adds another worker's numbers.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.sum_nanos = self.sum_nanos.saturating_add(other.sum_nanos);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_the_bucket_below_it() {
        let histogram = Histogram::new(Buckets::Work);
        histogram.observe(Duration::ZERO);
        histogram.observe(Duration::from_micros(250));
        histogram.observe(Duration::from_nanos(250_001));
        histogram.observe(Duration::from_secs(3600));
        let numbers = histogram.numbers();
        assert_eq!(numbers.counts[..3], [2, 1, 0]);
        assert_eq!(numbers.counts[WORK.len()], 1);
        assert_eq!(numbers.sum_nanos, 250_000 + 250_001 + 3600 * SECOND);
    }

    #[test]
    fn bounds_grow() {
        for buckets in [Buckets::Wait, Buckets::Work, Buckets::Opening, Buckets::Count] {
            assert!(buckets.bounds().windows(2).all(|pair| pair[0] < pair[1]));
            assert!(buckets.bounds().len() <= MAX_BOUNDS);
        }
    }
}
