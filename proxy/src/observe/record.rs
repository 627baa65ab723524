//! The cells that the data path adds to. Counting is one addition to a plain `Cell`; names, units and help live in the catalogue.

use std::cell::Cell;
use std::time::Duration;

/// A counter of one pool. Variants that share a metric differ in a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolCounter {
    /// Transactions finished.
    Transactions,
    /// Statements (or Redis commands) sent.
    Queries,
    /// Sessions refused: the queue was full.
    RefusedQueueFull,
    /// Sessions refused: they waited too long.
    RefusedWaitTimeout,
    /// Sessions refused: the upstream does not let us in.
    RefusedByUpstream,
    /// Sessions refused: the pool was paused.
    RefusedPaused,
    /// Sessions refused: the pool was draining.
    RefusedDraining,
    /// Connects that worked.
    ConnectOk,
    /// Connects that failed: nobody listened.
    ConnectRefused,
    /// Connects that failed: no answer in time.
    ConnectTimeout,
    /// Connects that failed: the name did not resolve.
    ConnectResolve,
    /// Connects that failed: TLS.
    ConnectTls,
    /// Connects that failed: credentials.
    ConnectAuth,
    /// Connects that failed: the server had no room.
    ConnectTooMany,
    /// Connects that failed: the server was starting or stopping.
    ConnectUnavailable,
    /// Connects that failed: no such database.
    ConnectNoDatabase,
    /// Connects that failed: the server broke the protocol.
    ConnectProtocol,
    /// Connects that failed otherwise.
    ConnectOther,
    /// Connections closed: idle for too long.
    ClosedIdle,
    /// Connections closed: old.
    ClosedLifetime,
    /// Connections closed: more than the limit.
    ClosedShrunk,
    /// Connections closed: given back in no usable state.
    ClosedBroken,
    /// Connections closed: by the server, while idle.
    ClosedByServer,
    /// Connections closed: could not be cleaned.
    ClosedResetFailed,
    /// Connections closed: did not answer.
    ClosedProbeFailed,
    /// Connections closed: address or credentials changed.
    ClosedStale,
    /// Connections closed: the pool was paused.
    ClosedPaused,
    /// Connections closed: the pool was draining.
    ClosedDrain,
}

/// How many counters there are.
const POOL_COUNTERS: usize = PoolCounter::ClosedDrain as usize + 1;

/// A histogram of one pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolHistogram {
    /// How long sessions waited for a connection.
    Wait,
    /// How long opening a connection took, successful or not.
    Connect,
}

/// How many histograms there are.
const POOL_HISTOGRAMS: usize = PoolHistogram::Connect as usize + 1;

/// Buckets of a histogram: the first holds zero, each following one twice the microseconds of the one before.
const BUCKETS: usize = 32;

/// The cells of one histogram.
#[derive(Debug, Default)]
struct Histogram {
    sum_ns: Cell<u64>,
    buckets: [Cell<u64>; BUCKETS],
}

/// The cells of one pool on one worker.
#[derive(Debug, Default)]
pub struct PoolRecord {
    counters: [Cell<u64>; POOL_COUNTERS],
    histograms: [Histogram; POOL_HISTOGRAMS],
}

impl PoolRecord {
    /// Adds to a counter.
    pub fn add(&self, counter: PoolCounter, amount: u64) {
        let cell = &self.counters[counter as usize];
        cell.set(cell.get() + amount);
    }

    /// Adds one measured time to a histogram.
    pub fn observe(&self, histogram: PoolHistogram, time: Duration) {
        let cells = &self.histograms[histogram as usize];
        cells.sum_ns.set(cells.sum_ns.get().saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)));
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = micros.checked_ilog2().map_or(0, |exponent| (exponent as usize + 1).min(BUCKETS - 1));
        cells.buckets[bucket].set(cells.buckets[bucket].get() + 1);
    }

    /// A counter's value.
    #[must_use]
    pub fn counter(&self, counter: PoolCounter) -> u64 {
        self.counters[counter as usize].get()
    }

    /// How many times a histogram measured.
    #[must_use]
    pub fn observations(&self, histogram: PoolHistogram) -> u64 {
        self.histograms[histogram as usize].buckets.iter().map(Cell::get).sum()
    }
}
