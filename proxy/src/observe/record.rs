//! The cells that the data path adds to. Counting is one addition to a plain `Cell`; names, units and help live in the catalogue.

use std::cell::Cell;

/// A counter of one pool. Variants that share a metric differ in a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolCounter {
    /// Transactions finished.
    Transactions,
    /// Statements (or Redis commands) sent.
    Queries,
}

/// A histogram of one pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolHistogram {
    /// How long sessions waited for a connection.
    Wait,
}

/// The cells of one pool on one worker.
#[derive(Debug, Default)]
pub struct PoolRecord {
    counters: [Cell<u64>; 2],
}

impl PoolRecord {
    /// Adds to a counter.
    pub fn add(&self, counter: PoolCounter, amount: u64) {
        let cell = &self.counters[counter as usize];
        cell.set(cell.get() + amount);
    }
}
