//! How many clients may hold a leased connection for something that only others can end: a push, a replica, their own leaving. Without a bound of
//! their own they would hold all connections that transactions need. One bound for each pool and process; whoever comes first goes first.
//!
//! Not here: the pool itself, from which the connection is then leased (`pool`).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::pool::reason::RefuseReason;

/// The bounds of all pools of the process, by the pool's name.
#[derive(Debug, Clone, Default)]
pub struct Bounds(Arc<Mutex<BTreeMap<Arc<str>, Weak<Bound>>>>);

impl Bounds {
    /// The bound of a pool: made if it is the first time that a worker asks.
    pub fn join(&self, pool: &Arc<str>, most: u32) -> Arc<Bound> {
        let mut bounds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bound) = bounds.get(pool).and_then(Weak::upgrade) {
            return bound;
        }
        bounds.retain(|_, bound| bound.strong_count() > 0);
        let bound = Arc::new(Bound::new(most));
        bounds.insert(Arc::clone(pool), Arc::downgrade(&bound));
        bound
    }
}

/// How many may hold a connection at the same time.
#[derive(Debug)]
pub struct Bound {
    seats: Arc<Semaphore>,
    size: Mutex<Size>,
    waiting: AtomicU32,
}

#[derive(Debug)]
struct Size {
    most: u32,
    /// How many seats are to go as soon as somebody leaves them.
    too_many: u32,
}

/// The right to hold one connection.
#[derive(Debug)]
pub struct Seat {
    bound: Arc<Bound>,
    permit: Option<OwnedSemaphorePermit>,
}

/// Why there is no seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full {
    /// The queue is full, or the wait was too long.
    pub reason: RefuseReason,
    /// How many seats there are.
    pub most: u32,
}

impl Bound {
    fn new(most: u32) -> Self {
        let size = Mutex::new(Size { most, too_many: 0 });
        Self { seats: Arc::new(Semaphore::new(most as usize)), size, waiting: AtomicU32::new(0) }
    }

    /// Another bound is in force. Whoever has a seat keeps it.
    pub fn resize(&self, most: u32) {
        let mut size = self.size();
        let before = std::mem::replace(&mut size.most, most);
        if most >= before {
            let forgiven = size.too_many.min(most - before);
            size.too_many -= forgiven;
            self.seats.add_permits((most - before - forgiven) as usize);
        } else {
            let gone = self.seats.forget_permits((before - most) as usize);
            size.too_many += before - most - u32::try_from(gone).unwrap_or(u32::MAX);
        }
    }

    /// A seat, in the order of asking; `patience`: how long at most, beside at most `queue_length` others.
    pub async fn enter(self: &Arc<Self>, patience: Option<Duration>, queue_length: u32) -> Result<Seat, Full> {
        let seat = |permit| Seat { bound: Arc::clone(self), permit: Some(permit) };
        if let Ok(permit) = Arc::clone(&self.seats).try_acquire_owned() {
            return Ok(seat(permit));
        }
        let full = |reason| Full { reason, most: self.size().most };
        if self.waiting.load(Ordering::Relaxed) >= queue_length {
            return Err(full(RefuseReason::QueueFull));
        }
        let _waiting = Waiting::new(&self.waiting);
        let coming = Arc::clone(&self.seats).acquire_owned();
        let permit = match patience {
            Some(patience) => tokio::time::timeout(patience, coming).await.map_err(|_elapsed| full(RefuseReason::WaitTimeout))?,
            None => coming.await,
        };
        // The semaphore is never closed.
        permit.map(seat).map_err(|_closed| full(RefuseReason::Draining))
    }

    fn size(&self) -> MutexGuard<'_, Size> {
        self.size.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut size = self.bound.size();
        if size.too_many > 0
            && let Some(permit) = self.permit.take()
        {
            size.too_many -= 1;
            permit.forget();
        }
    }
}

/// One more in the queue, for as long as this lives.
struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Option<Duration> = Some(Duration::from_millis(20));

    #[tokio::test(start_paused = true)]
    async fn whoever_finds_no_seat_waits_for_one_or_is_refused() {
        let bound = Bounds::default().join(&Arc::from("a"), 2);
        let (first, _second) = (bound.enter(None, 1).await.unwrap(), bound.enter(None, 1).await.unwrap());
        assert_eq!(bound.enter(SHORT, 1).await.unwrap_err(), Full { reason: RefuseReason::WaitTimeout, most: 2 });
        let mut next = std::pin::pin!(bound.enter(None, 1));
        tokio::select! {
            biased;
            _early = &mut next => panic!("there was no seat"),
            () = tokio::task::yield_now() => {}
        }
        assert_eq!(bound.enter(SHORT, 1).await.unwrap_err(), Full { reason: RefuseReason::QueueFull, most: 2 });
        drop(first);
        assert!(next.await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn another_size_counts_those_who_sit() {
        let bounds = Bounds::default();
        let (bound, name) = (bounds.join(&Arc::from("a"), 3), Arc::from("a"));
        assert!(Arc::ptr_eq(&bound, &bounds.join(&name, 9)), "one for all workers");
        let mut seats = Vec::new();
        for _ in 0..3 {
            seats.push(bound.enter(None, 1).await.unwrap());
        }
        bound.resize(1);
        seats.truncate(1);
        assert!(bound.enter(SHORT, 1).await.is_err(), "the two that left took their seats with them");
        bound.resize(2);
        seats.push(bound.enter(SHORT, 1).await.unwrap());
        bound.resize(1);
        bound.resize(3);
        seats.push(bound.enter(SHORT, 1).await.unwrap());
        assert!(bound.enter(SHORT, 1).await.is_err());
        seats.clear();
        for _ in 0..3 {
            seats.push(bound.enter(SHORT, 1).await.unwrap());
        }
        assert!(bound.enter(SHORT, 1).await.is_err());
    }
}
