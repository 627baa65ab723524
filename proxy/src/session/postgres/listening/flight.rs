//! How much of what a hub has read is still on its way to other workers: past a bound it reads no more until some of it has arrived.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};

/// The most that may be on its way, in bytes.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// What a notification weighs beside its text.
const OVERHEAD: usize = 256;

/// What is on its way.
#[derive(Debug, Default)]
pub struct Flight {
    bytes: AtomicUsize,
    /// The hub, while it waits.
    waiting: Mutex<Option<Waker>>,
}

/// Something that is on its way, until it is dropped.
#[derive(Debug)]
pub struct Parcel {
    flight: Arc<Flight>,
    bytes: usize,
}

impl Flight {
    /// Something of this size sets out.
    pub fn begin(self: &Arc<Self>, bytes: usize) -> Parcel {
        let bytes = bytes + OVERHEAD;
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
        Parcel { flight: Arc::clone(self), bytes }
    }

    /// Whether no more may; then the task is woken when it may again.
    pub fn is_full(&self, cx: &Context<'_>) -> bool {
        if self.bytes.load(Ordering::Acquire) < MAX_BYTES {
            return false;
        }
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        // Something may have arrived before we could be woken for it.
        self.bytes.load(Ordering::Acquire) >= MAX_BYTES
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        let before = self.flight.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        if before >= MAX_BYTES
            && before - self.bytes < MAX_BYTES
            && let Some(hub) = self.flight.waiting.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            hub.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn who_is_full_is_woken_when_there_is_room() {
        let (flight, woken) = (Arc::<Flight>::default(), Arc::<Woken>::default());
        let waker = Waker::from(Arc::clone(&woken));
        let cx = Context::from_waker(&waker);
        let mut parcels = Vec::new();
        while !flight.is_full(&cx) {
            parcels.push(flight.begin(8000));
        }
        assert!(parcels.len() * 8000 <= MAX_BYTES && !woken.0.load(Ordering::Relaxed));
        parcels.pop();
        assert!(woken.0.load(Ordering::Relaxed) && !flight.is_full(&cx));
    }
}
