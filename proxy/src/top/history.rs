//! The last minutes of a few numbers, and the rates between documents. Pure.

use std::collections::{HashMap, VecDeque};

use super::document::{Document, Pool};
use crate::admin::quantile::quantile;

/// So many documents are remembered.
pub const KEPT: usize = 240;

/// Quantiles are those of the waits since so many documents ago.
const RECENT: usize = 10;

/// The last minutes of one pool, or of all together.
#[derive(Debug, Clone, Default)]
pub struct Past {
    /// Connections in use.
    pub in_use: VecDeque<u64>,
    /// Clients that wait.
    pub waiting: VecDeque<u64>,
    /// The 99th percentile of the last waits, in microseconds.
    pub p99: VecDeque<u64>,
    /// Transactions or commands a second.
    pub rate: VecDeque<u64>,
    waits: VecDeque<Vec<u64>>,
    done: u64,
}

impl Past {
    fn note(&mut self, in_use: u64, waiting: u64, waits: Vec<u64>, bounds: &[f64]) {
        if self.waits.len() == RECENT {
            self.waits.pop_front();
        }
        let recent: Vec<u64> = match self.waits.front() {
            Some(then) if then.len() == waits.len() => waits.iter().zip(then).map(|(now, then)| now.saturating_sub(*then)).collect(),
            Some(_) | None => waits.clone(),
        };
        self.waits.push_back(waits);
        keep(&mut self.in_use, in_use);
        keep(&mut self.waiting, waiting);
        // A time in microseconds is far from the bounds of the type.
        keep(&mut self.p99, quantile(bounds, &recent, 0.99).map_or(0, |seconds| (seconds * 1e6) as u64));
    }

    /// The present rate.
    #[must_use]
    pub fn rate_now(&self) -> u64 {
        self.rate.back().copied().unwrap_or(0)
    }

    /// The present 99th percentile, in seconds.
    #[must_use]
    pub fn p99_now(&self) -> f64 {
        self.p99.back().map_or(0.0, |micros| *micros as f64 / 1e6)
    }
}

fn keep(list: &mut VecDeque<u64>, value: u64) {
    if list.len() == KEPT {
        list.pop_front();
    }
    list.push_back(value);
}

/// What is remembered.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// Of all pools together.
    pub all: Past,
    pools: HashMap<String, Past>,
    nothing: Past,
}

impl History {
    /// The next document, so many seconds after the last one; none: it is the first, or sidepool has begun anew.
    pub fn take(&mut self, document: &Document, gap: Option<f64>) {
        if gap.is_none() {
            *self = Self::default();
        }
        let (mut total, bounds) = (0, &document.wait_bounds_seconds);
        let mut waits = vec![0; bounds.len() + 1];
        for pool in &document.pools {
            let known = self.pools.contains_key(&pool.name);
            let past = self.pools.entry(pool.name.clone()).or_default();
            past.note(pool.busy(), pool.waiters, pool.wait_counts.clone(), bounds);
            let rate = gap.filter(|_| known).map_or(0, |gap| per_second(pool, past.done, gap));
            past.done = pool.done();
            keep(&mut past.rate, rate);
            total += rate;
            waits.iter_mut().zip(&pool.wait_counts).for_each(|(sum, count)| *sum += count);
        }
        self.pools.retain(|name, _| document.pools.iter().any(|pool| pool.name == *name));
        self.all.note(document.pools.iter().map(Pool::busy).sum(), document.pools.iter().map(|pool| pool.waiters).sum(), waits, bounds);
        keep(&mut self.all.rate, total);
    }

    /// Of this pool.
    #[must_use]
    pub fn of(&self, pool: &str) -> &Past {
        self.pools.get(pool).unwrap_or(&self.nothing)
    }
}

fn per_second(pool: &Pool, before: u64, gap: f64) -> u64 {
    // Rounded to whole ones: what is shown is a few digits.
    (pool.done().saturating_sub(before) as f64 / gap).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(transactions: u64, waits: u64) -> Document {
        let pool = Pool { name: "a".to_owned(), transactions, waiters: 3, wait_counts: vec![waits, 0], ..Pool::default() };
        Document { pools: vec![pool], wait_bounds_seconds: vec![0.1], ..Document::default() }
    }

    #[test]
    fn rates_are_differences_and_begin_anew_with_the_process() {
        let mut history = History::default();
        history.take(&document(1000, 0), None);
        assert_eq!((history.of("a").rate_now(), history.of("unknown").rate_now()), (0, 0));
        history.take(&document(1500, 100), Some(2.0));
        assert_eq!((history.of("a").rate_now(), history.all.rate_now(), history.all.waiting.back()), (250, 250, Some(&3)));
        assert!((history.of("a").p99_now() - 0.099).abs() < 1e-6, "{}", history.of("a").p99_now());
        history.take(&document(7, 1), None);
        assert_eq!((history.of("a").rate_now(), history.of("a").in_use.len()), (0, 1));
    }

    #[test]
    fn the_past_is_bounded_and_pools_that_are_gone_are_forgotten() {
        let mut history = History::default();
        history.take(&document(0, 0), None);
        for _ in 0..2 * KEPT {
            history.take(&document(1, 1), Some(1.0));
        }
        assert_eq!((history.all.in_use.len(), history.of("a").p99.len(), history.of("a").waits.len()), (KEPT, KEPT, RECENT));
        history.take(&Document::default(), Some(1.0));
        assert!(history.pools.is_empty());
    }
}
