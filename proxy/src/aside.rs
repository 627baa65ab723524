//! Long computations (a password's key, a signature) away from the worker's thread, a few at a time: a thousand clients who log in at once shall not
//! stand between others and their queries, nor take the machine from those who have work to do.

use std::io;
use std::sync::Arc;
use std::thread::available_parallelism;

use tokio::sync::Semaphore;

thread_local! {
    /// How many of this thread's are computed at the same time: half of the machine.
    static SEATS: Arc<Semaphore> = Arc::new(Semaphore::new(available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))));
}

/// Computes on another thread, when it is its turn. It goes on to its end when nobody waits for it any more.
pub async fn compute<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let seats = SEATS.with(Arc::clone);
    let seat = seats.acquire_owned().await.map_err(io::Error::other)?;
    let computed = tokio::task::spawn_blocking(move || {
        let result = work();
        drop(seat);
        result
    });
    computed.await.map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "it stands for a long computation, and blocks no worker")]
    async fn no_more_than_half_of_the_machine_computes_at_a_time() {
        static NOW: AtomicUsize = AtomicUsize::new(0);
        static MOST: AtomicUsize = AtomicUsize::new(0);
        let work = || {
            let now = NOW.fetch_add(1, Ordering::SeqCst) + 1;
            MOST.fetch_max(now, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(5));
            NOW.fetch_sub(1, Ordering::SeqCst);
        };
        side_by_side((0..20).map(|_| compute(work))).await;
        let cores = available_parallelism().map_or(1, |cores| cores.get().div_ceil(2));
        assert!((1..=cores).contains(&MOST.load(Ordering::SeqCst)), "{MOST:?} of {cores}");
        assert!(compute(|| panic!("on purpose")).await.is_err(), "a panic there is an error here");
    }

    /// Waits for all of them side by side.
    async fn side_by_side(all: impl Iterator<Item = impl Future<Output = io::Result<()>>>) {
        let mut waiting: Vec<_> = all.map(Box::pin).collect();
        std::future::poll_fn(|cx| {
            waiting.retain_mut(|one| one.as_mut().poll(cx).is_pending());
            if waiting.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    }
}
