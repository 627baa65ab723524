//! The cells that the data path adds to. Counting is one addition to a plain `Cell`; names and help live in the catalogue.

use std::cell::Cell;
use std::time::Duration;

use super::catalog::Kind;
pub use super::cells::{PoolCounter, PoolGauge, PoolHistogram, Scope, Series, WorkerCounter, WorkerHistogram};
use super::histogram::{Histogram, HistogramNumbers};

/// The cells of one pool on one worker.
#[derive(Debug)]
pub struct PoolRecord {
    counters: [Cell<u64>; PoolCounter::COUNT],
    gauges: [Cell<i64>; PoolGauge::COUNT],
    histograms: [Histogram; PoolHistogram::COUNT],
}

impl PoolRecord {
    /// Adds to a counter.
    pub fn add(&self, counter: PoolCounter, amount: u64) {
        let cell = &self.counters[counter as usize];
        cell.set(cell.get() + amount);
    }

    /// Moves a gauge up, or down by a negative amount.
    pub fn shift(&self, gauge: PoolGauge, amount: i64) {
        let cell = &self.gauges[gauge as usize];
        cell.set(cell.get() + amount);
    }

    /// Counts a duration.
    pub fn observe(&self, histogram: PoolHistogram, duration: Duration) {
        self.histograms[histogram as usize].observe(duration);
    }

    /// Counts a number.
    pub fn count(&self, histogram: PoolHistogram, number: u64) {
        self.histograms[histogram as usize].count(number);
    }

    /// What a counter has reached.
    #[cfg(test)]
    pub(crate) fn counter(&self, counter: PoolCounter) -> u64 {
        self.counters[counter as usize].get()
    }

    /// How many durations a histogram has counted.
    #[cfg(test)]
    pub(crate) fn observations(&self, histogram: PoolHistogram) -> u64 {
        self.histograms[histogram as usize].numbers().counts.iter().sum()
    }

    /// A copy of the cells.
    #[must_use]
    pub fn numbers(&self) -> PoolNumbers {
        PoolNumbers {
            counters: self.counters.iter().map(Cell::get).collect(),
            gauges: self.gauges.iter().map(Cell::get).collect(),
            histograms: self.histograms.iter().map(Histogram::numbers).collect(),
        }
    }
}

impl Default for PoolRecord {
    fn default() -> Self {
        Self {
            counters: std::array::from_fn(|_| Cell::new(0)),
            gauges: std::array::from_fn(|_| Cell::new(0)),
            histograms: std::array::from_fn(|index| histogram_of(PoolHistogram::ALL[index].series())),
        }
    }
}

/// A copy of a [`PoolRecord`]'s cells, to be added to those of other workers. Indexed by the enums.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolNumbers {
    /// By [`PoolCounter`].
    pub counters: Box<[u64]>,
    /// By [`PoolGauge`].
    pub gauges: Box<[i64]>,
    /// By [`PoolHistogram`].
    pub histograms: Box<[HistogramNumbers]>,
}

impl PoolNumbers {
    /// Adds another worker's numbers for the same pool.
    pub fn add(&mut self, other: &Self) {
        for (number, more) in self.counters.iter_mut().zip(&other.counters) {
            *number += more;
        }
        for (number, more) in self.gauges.iter_mut().zip(&other.gauges) {
            *number += more;
        }
        for (number, more) in self.histograms.iter_mut().zip(&other.histograms) {
            number.add(more);
        }
    }
}

/// The cells of one worker that belong to no pool.
#[derive(Debug)]
pub struct WorkerRecord {
    counters: [Cell<u64>; WorkerCounter::COUNT],
    histograms: [Histogram; WorkerHistogram::COUNT],
}

impl WorkerRecord {
    /// Adds to a counter.
    pub fn add(&self, counter: WorkerCounter, amount: u64) {
        let cell = &self.counters[counter as usize];
        cell.set(cell.get() + amount);
    }

    /// Counts a duration.
    pub fn observe(&self, histogram: WorkerHistogram, duration: Duration) {
        self.histograms[histogram as usize].observe(duration);
    }

    /// A copy of the cells.
    #[must_use]
    pub fn numbers(&self) -> WorkerNumbers {
        WorkerNumbers {
            counters: self.counters.iter().map(Cell::get).collect(),
            histograms: self.histograms.iter().map(Histogram::numbers).collect(),
        }
    }
}

impl Default for WorkerRecord {
    fn default() -> Self {
        Self {
            counters: std::array::from_fn(|_| Cell::new(0)),
            histograms: std::array::from_fn(|index| histogram_of(WorkerHistogram::ALL[index].series())),
        }
    }
}

/// A copy of a [`WorkerRecord`]'s cells. Indexed by the enums.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerNumbers {
    /// By [`WorkerCounter`].
    pub counters: Box<[u64]>,
    /// By [`WorkerHistogram`].
    pub histograms: Box<[HistogramNumbers]>,
}

impl WorkerNumbers {
    /// Adds another worker's numbers.
    pub fn add(&mut self, other: &Self) {
        for (number, more) in self.counters.iter_mut().zip(&other.counters) {
            *number += more;
        }
        for (number, more) in self.histograms.iter_mut().zip(&other.histograms) {
            number.add(more);
        }
    }
}

fn histogram_of(series: Series) -> Histogram {
    match series.family.info().kind {
        Kind::Histogram(buckets) => Histogram::new(buckets),
        Kind::Counter | Kind::CounterSeconds | Kind::Gauge => unreachable!("a test holds that histograms belong to histogram families"),
    }
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
