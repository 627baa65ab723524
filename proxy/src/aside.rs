//! Long computations (a password's key, a signature) away from the worker's thread, a few at a time in the whole process: a thousand clients who log
//! in at once shall not stand between others and their queries, nor take the machine from those who have work to do. Logins to servers do not stand
//! in the line of the clients: pools have to grow just then.

use std::io;
use std::sync::{Arc, LazyLock};
use std::thread::available_parallelism;

use tokio::sync::Semaphore;

/// For whose login something is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum For {
    /// That of a client here.
    Client,
    /// Ours at a server.
    Server,
}

/// For clients: half of the machine.
static CLIENTS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(half_of_the_machine())));

/// For servers: what is left of it, one at a time.
static SERVERS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(1)));

fn half_of_the_machine() -> usize {
    available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))
}

/// Computes on another thread, when it is its turn. It goes on to its end when nobody waits for it any more.
pub async fn compute<T: Send + 'static>(whose: For, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let seats = match whose {
        For::Client => &CLIENTS,
        For::Server => &SERVERS,
    };
    let seat = Arc::clone(seats).acquire_owned().await.map_err(io::Error::other)?;
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
    use std::sync::{Condvar, Mutex, PoisonError};

    use super::*;

    /// Holds up what is computed, until it is opened.
    #[derive(Default)]
    struct Gate {
        open: Mutex<bool>,
        opened: Condvar,
    }

    impl Gate {
        fn pass(&self) {
            let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            drop(self.opened.wait_while(open, |open| !*open));
        }

        fn open(&self) {
            *self.open.lock().unwrap_or_else(PoisonError::into_inner) = true;
            self.opened.notify_all();
        }
    }

    fn worker() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().build().unwrap()
    }

    /// The seats are the process's, and so one test sits on all of them.
    #[test]
    fn clients_of_all_workers_share_half_of_the_machine_and_servers_wait_for_none_of_them() {
        static NOW: AtomicUsize = AtomicUsize::new(0);
        static MOST: AtomicUsize = AtomicUsize::new(0);
        let gate = Arc::new(Gate::default());
        let clients = |count: usize| {
            let gate = Arc::clone(&gate);
            move || {
                let work = || {
                    let gate = Arc::clone(&gate);
                    move || {
                        MOST.fetch_max(NOW.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        gate.pass();
                        NOW.fetch_sub(1, Ordering::SeqCst);
                    }
                };
                let all = (0..count).map(|_| compute(For::Client, work()));
                worker().block_on(side_by_side(all));
            }
        };
        let seats = half_of_the_machine();
        let workers = [std::thread::spawn(clients(seats + 10)), std::thread::spawn(clients(seats + 10))];
        while NOW.load(Ordering::SeqCst) < seats {
            std::thread::yield_now();
        }
        // All seats are taken, and there is a line behind them.
        assert_eq!(worker().block_on(compute(For::Server, || 7)).unwrap(), 7);
        gate.open();
        for worker in workers {
            worker.join().unwrap();
        }
        assert_eq!(MOST.load(Ordering::SeqCst), seats);
        assert!(worker().block_on(compute(For::Client, || panic!("on purpose"))).is_err(), "a panic there is an error here");
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
