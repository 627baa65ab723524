//! How long a leased connection worked for its client: its transactions and its queries, without what the client was idle in between.
//!
//! ```text
//!   lease ──────── BEGIN ··· ready   idle   UPDATE ··· ready   idle   COMMIT ··· ready ─── release
//!   query_time       ├────────┤               ├──────────┤               ├─────────────────┤
//!   xact_time        ├─────────────────────────────────────────────────────────────────────┤
//! ```
//! The ends of a lease are known to the pool, so the clock is read for this only where a client is idle and keeps its connection: never for
//! a statement outside of a transaction in transaction mode. Nothing of a transaction is counted before it ends. Pure.

use std::time::{Duration, Instant};

use crate::observe::record::{PoolCounter, PoolHistogram, PoolRecord};
use crate::pool::traits::Used;

/// What of the present lease is not counted yet.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    query: Since,
    transaction: Since,
}

/// Since when something goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Since {
    /// Since the lease began.
    #[default]
    Lease,
    /// Since this moment.
    Moment(Instant),
    /// It does not.
    Never,
}

impl Since {
    /// It ends now, in a lease that began at `leased`: how long it took, if it went on.
    fn end(&mut self, leased: Instant, now: Instant) -> Option<Duration> {
        let since = match std::mem::replace(self, Self::Never) {
            Self::Lease => leased,
            Self::Moment(since) => since,
            Self::Never => return None,
        };
        Some(now.saturating_duration_since(since))
    }
}

fn nanos(took: Duration) -> u64 {
    u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)
}

impl Spent {
    /// Whether the client is known to be idle.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.query == Since::Never
    }

    /// The client is idle from now on, inside of a transaction or not.
    pub fn pause(&mut self, leased: Instant, now: Instant, in_transaction: bool, record: &PoolRecord) {
        if let Some(took) = self.query.end(leased, now) {
            record.observe(PoolHistogram::Query, took);
        }
        if in_transaction {
            return;
        }
        if let Some(took) = self.transaction.end(leased, now) {
            record.add(PoolCounter::TransactionTime, nanos(took));
        }
    }

    /// The client is no longer idle.
    pub fn resume(&mut self, now: Instant) {
        self.query = Since::Moment(now);
        if self.transaction == Since::Never {
            self.transaction = Since::Moment(now);
        }
    }

    /// The lease ends, and with it all that goes on.
    pub fn end(&mut self, used: Used, record: &PoolRecord) {
        if let Self { query: Since::Lease, transaction: Since::Lease } = self {
            // Both are the lease itself: nearly always.
            record.observe(PoolHistogram::Query, used.took);
            record.add(PoolCounter::TransactionTime, nanos(used.took));
            return;
        }
        self.pause(used.since, used.until, false, record);
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    /// Query and transaction time in milliseconds.
    fn times(record: &PoolRecord) -> [u64; 2] {
        let numbers = record.numbers();
        [numbers.histograms[PoolHistogram::Query as usize].sum_nanos, numbers.counters[PoolCounter::TransactionTime as usize]]
            .map(|nanos| nanos / 1_000_000)
    }

    #[test]
    fn a_lease_without_a_pause_is_one_query() {
        let (record, start) = (PoolRecord::default(), clock::now());
        let mut spent = Spent::default();
        spent.end(Used::between(start, start + Duration::from_millis(7)), &record);
        assert_eq!(times(&record), [7, 7]);
        let later = start + Duration::from_millis(100);
        spent.end(Used::between(later, later + Duration::from_millis(2)), &record);
        assert_eq!(times(&record), [9, 9], "the next lease begins anew");
    }

    #[test]
    fn a_pause_inside_of_a_transaction_is_no_query_and_one_outside_is_nothing() {
        let (record, start) = (PoolRecord::default(), clock::now());
        let at = |ms| start + Duration::from_millis(ms);
        let mut spent = Spent::default();
        spent.pause(start, at(10), true, &record);
        assert!(spent.is_idle());
        assert_eq!(times(&record), [10, 0], "the transaction goes on");
        spent.resume(at(60));
        assert!(!spent.is_idle());
        spent.pause(start, at(65), false, &record);
        assert_eq!(times(&record), [15, 65]);
        spent.resume(at(1000));
        spent.end(Used::between(start, at(1001)), &record);
        assert_eq!(times(&record), [16, 66]);
    }

    #[test]
    fn who_leaves_while_idle_ends_only_the_transaction() {
        let (record, start) = (PoolRecord::default(), clock::now());
        let at = |ms| start + Duration::from_millis(ms);
        let mut spent = Spent::default();
        spent.pause(start, at(10), true, &record);
        spent.end(Used::between(start, at(30)), &record);
        assert_eq!(times(&record), [10, 30]);
        spent.pause(start, at(10), false, &record);
        spent.end(Used::between(start, at(30)), &record);
        assert_eq!(times(&record), [20, 40]);
    }
}
