//! Gathers a copy of every worker's numbers, and adds them up.
//!
//! A worker that does not answer in time is shown with its last known numbers: leaving it out would look as if all counters had been reset.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, oneshot};

use crate::clock;
use crate::observe::record::WorkerNumbers;
use crate::observe::report::PoolReport;
use crate::worker::{Mailboxes, Worker, WorkerId};

/// How long a scrape waits for a worker.
const PATIENCE: Duration = Duration::from_secs(1);

/// The numbers of one worker.
#[derive(Debug, Clone)]
struct Answer {
    busy: Duration,
    numbers: WorkerNumbers,
    pools: Vec<PoolReport>,
}

/// The numbers of all workers together.
#[derive(Debug, Clone)]
pub struct Collected {
    /// CPU time of each worker's thread.
    pub busy: Vec<(WorkerId, Duration)>,
    /// Numbers that belong to no pool, added up; `None` before the first answer.
    pub numbers: Option<WorkerNumbers>,
    /// The pools by name: cells added up, the state that all workers share taken once.
    pub pools: Vec<PoolReport>,
}

/// Asks the workers; one scrape at a time.
pub struct Collector {
    mailboxes: Mailboxes,
    last: Mutex<Vec<Option<Answer>>>,
}

impl Collector {
    /// Asks these workers.
    #[must_use]
    pub fn new(mailboxes: Mailboxes) -> Self {
        let last = Mutex::new(vec![None; mailboxes.workers()]);
        Self { mailboxes, last }
    }

    /// The numbers of this moment.
    pub async fn collect(&self) -> Collected {
        let mut last = self.last.lock().await;
        let questions: Vec<_> = self
            .mailboxes
            .ids()
            .map(|id| {
                let (sender, receiver) = oneshot::channel();
                self.mailboxes.post(id, move |worker| {
                    // Nobody listens any more when the worker was too late.
                    let _ = sender.send(answer(worker));
                });
                receiver
            })
            .collect();
        let deadline = tokio::time::Instant::from_std(clock::now() + PATIENCE);
        for (question, last) in questions.into_iter().zip(last.iter_mut()) {
            if let Ok(Ok(answer)) = tokio::time::timeout_at(deadline, question).await {
                *last = Some(answer);
            }
        }
        add_up(&last)
    }
}

/// Runs on the worker.
fn answer(worker: &Rc<Worker>) -> Answer {
    let now = clock::now();
    let pools = worker.postgres.pools(now).into_iter().chain(worker.redis.pools(now)).collect();
    Answer { busy: clock::thread_cpu(), numbers: worker.record.numbers(), pools }
}

fn add_up(answers: &[Option<Answer>]) -> Collected {
    let mut busy = Vec::new();
    let mut numbers: Option<WorkerNumbers> = None;
    let mut pools: BTreeMap<Arc<str>, PoolReport> = BTreeMap::new();
    for (id, answer) in (0..).map(WorkerId).zip(answers) {
        let Some(answer) = answer else { continue };
        busy.push((id, answer.busy));
        match &mut numbers {
            Some(sum) => sum.add(&answer.numbers),
            None => numbers = Some(answer.numbers.clone()),
        }
        for pool in &answer.pools {
            match pools.get_mut(&pool.name) {
                Some(sum) => sum.add(pool),
                None => drop(pools.insert(Arc::clone(&pool.name), pool.clone().first())),
            }
        }
    }
    Collected { busy, numbers, pools: pools.into_values().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::record::{PoolCounter, PoolRecord, WorkerRecord};
    use crate::observe::report::{Line, PoolInfo, PoolState, Protocol};

    fn row(name: &str, queries: u64, leased: u32) -> PoolReport {
        let record = PoolRecord::default();
        record.add(PoolCounter::Queries, queries);
        let info =
            PoolInfo { protocol: Protocol::Postgres, database: "d".into(), user: "u".into(), mode: "transaction", upstream: "h:1".into() };
        let line = Line { waiters: 3, limit: 10, oldest: Duration::from_secs(queries) };
        PoolReport { name: name.into(), info, numbers: record.numbers(), state: PoolState { leased, ..PoolState::default() }, line }
    }

    #[test]
    fn counters_add_up_and_the_shared_state_is_taken_once() {
        let answer = |pools| Some(Answer { busy: Duration::from_secs(1), numbers: WorkerRecord::default().numbers(), pools });
        let sum = add_up(&[answer(vec![row("a", 2, 7), row("b", 1, 1)]), None, answer(vec![row("a", 3, 7)])]);
        let pools: Vec<_> =
            sum.pools.iter().map(|pool| (&*pool.name, pool.numbers.counters[PoolCounter::Queries as usize], pool.state.leased)).collect();
        assert_eq!(pools, [("a", 5, 7), ("b", 1, 1)]);
        let waiting =
            |pool: &PoolReport| (pool.state.waiters, pool.state.in_line, pool.state.queue_limit, pool.state.oldest_wait.as_secs());
        assert_eq!(sum.pools.iter().map(waiting).collect::<Vec<_>>(), [(6, 6, 20, 3), (3, 3, 10, 1)], "each worker has a line of its own");
        assert_eq!(sum.busy.iter().map(|(id, _)| id.0).collect::<Vec<_>>(), [0, 2]);
    }
}
