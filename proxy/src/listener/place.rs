//! Which worker a new client goes to: the one with the fewest, its own where that makes no difference.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::worker::WorkerId;

/// How many clients each worker has. (A `Vec` inside, so that each client holds one word of it.)
#[derive(Debug, Clone)]
pub struct Places(Arc<Vec<AtomicU32>>);

impl Places {
    /// No clients on so many workers.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self(Arc::new((0..workers).map(|_| AtomicU32::new(0)).collect()))
    }

    /// Takes a place on the worker with the fewest clients; on `here` if that is one of them.
    #[must_use]
    pub fn take(&self, here: WorkerId) -> Place {
        let load = |id: WorkerId| self.0[usize::from(id.0)].load(Ordering::Relaxed);
        let mut best = here;
        for id in (0..u16::try_from(self.0.len()).unwrap_or(u16::MAX)).map(WorkerId) {
            if load(id) < load(best) {
                best = id;
            }
        }
        self.0[usize::from(best.0)].fetch_add(1, Ordering::Relaxed);
        Place { places: self.clone(), worker: best }
    }
}

/// A client's place on a worker; given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    places: Places,
    worker: WorkerId,
}

impl Place {
    /// Where it is.
    #[must_use]
    pub fn worker(&self) -> WorkerId {
        self.worker
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.0[usize::from(self.worker.0)].fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_spread_evenly_whoever_accepts_them() {
        let places = Places::new(3);
        let mut taken: Vec<Place> = (0..9).map(|_| places.take(WorkerId(1))).collect();
        for worker in 0..3 {
            assert_eq!(taken.iter().filter(|place| place.worker() == WorkerId(worker)).count(), 3);
        }
        assert_eq!(taken[0].worker(), WorkerId(1), "the own worker first");
        taken.retain(|place| place.worker() != WorkerId(2));
        assert_eq!(places.take(WorkerId(0)).worker(), WorkerId(2));
    }
}
