//! SUSPEND and RESUME for all workers.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::{spawn_local, yield_now};
use tokio::time::{Instant, sleep};

use crate::admin::facts::Facts;
use crate::clock;
use crate::suspension::State;
use crate::worker::Worker;

/// How often it is looked whether everything has been sent.
const LOOK: Duration = Duration::from_millis(10);

/// Has all PostgreSQL sessions send what they hold and keep still. Those that have not sent everything within `bound` (zero: however long that takes)
/// are closed. Returns how many those are.
pub async fn suspend(facts: &Facts, bound: Duration) -> usize {
    let deadline = (!bound.is_zero()).then(|| Instant::from_std(clock::now()) + bound);
    let still: Vec<_> = facts
        .mailboxes
        .ids()
        .map(|id| {
            let (answer, still) = oneshot::channel();
            facts.mailboxes.post(id, move |worker| {
                let worker = Rc::clone(worker);
                spawn_local(async move {
                    // Nobody waits for it any more when the process ends meanwhile.
                    let _ = answer.send(keep_still(&worker, deadline).await);
                });
            });
            still
        })
        .collect();
    let mut closed = 0;
    for worker in still {
        closed += worker.await.unwrap_or(0);
    }
    closed
}

/// Everybody goes on.
pub fn resume(facts: &Facts) {
    for id in facts.mailboxes.ids() {
        facts.mailboxes.post(id, |worker| {
            worker.suspension.set(State::Off);
            worker.drain.wake_all();
        });
    }
}

async fn keep_still(worker: &Worker, deadline: Option<Instant>) -> usize {
    worker.suspension.set(State::Flushing);
    while unsent(worker).await > 0 {
        if worker.suspension.state() == State::Off {
            // RESUME came first.
            return 0;
        }
        if deadline.is_some_and(|deadline| Instant::from_std(clock::now()) >= deadline) {
            worker.suspension.set(State::Closing);
            let closed = unsent(worker).await;
            worker.suspension.set(State::Flushing);
            return closed;
        }
        sleep(LOOK).await;
    }
    0
}

/// How many sessions hold something that they could not send.
async fn unsent(worker: &Worker) -> usize {
    let _ = worker.suspension.take_unsent();
    worker.drain.wake_all();
    // They were woken before us and stand before us in the queue; the second turn is for those that it has woken in turn.
    yield_now().await;
    yield_now().await;
    worker.suspension.take_unsent()
}
