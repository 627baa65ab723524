//! Asks the workers what they know. A question is a job that runs on each of them; what comes back is a copy.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::statistics::{PerDatabase, Totals};
use crate::clock;
use crate::session::postgres::pools::PoolFacts;
use crate::session::postgres::route::PoolKey;
use crate::worker::{Mailboxes, Worker, WorkerId};

/// How long a worker may take to answer; what it says later is not waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks one worker; `None` when it does not answer.
pub async fn ask_one<T: Send + 'static>(
    mailboxes: &Mailboxes,
    id: WorkerId,
    question: impl FnOnce(&Rc<Worker>) -> T + Send + 'static,
) -> Option<T> {
    let (answer, answered) = oneshot::channel();
    mailboxes.post(id, move |worker| {
        // Whoever asked may have gone.
        let _ = answer.send(question(worker));
    });
    tokio::time::timeout(PATIENCE, answered).await.ok()?.ok()
}

/// Asks all workers at the same time. Those that do not answer are left out.
pub async fn ask_all<T: Send + 'static>(mailboxes: &Mailboxes, question: impl FnOnce(&Rc<Worker>) -> T + Clone + Send + 'static) -> Vec<T> {
    let questions: Vec<_> = mailboxes
        .ids()
        .map(|id| {
            let (answer, answered) = oneshot::channel();
            let question = question.clone();
            mailboxes.post(id, move |worker| {
                let _ = answer.send(question(worker));
            });
            answered
        })
        .collect();
    let deadline = tokio::time::Instant::from_std(clock::now() + PATIENCE);
    let mut answers = Vec::with_capacity(questions.len());
    for question in questions {
        answers.extend(tokio::time::timeout_at(deadline, question).await.ok().and_then(Result::ok));
    }
    answers
}

/// The pools of the process: cells of all workers added up, the state that they share taken once.
pub async fn pools(mailboxes: &Mailboxes) -> BTreeMap<PoolKey, PoolFacts> {
    let mut pools: BTreeMap<PoolKey, PoolFacts> = BTreeMap::new();
    for facts in
        ask_all(mailboxes, |worker| worker.postgres.pools.facts(clock::now(), &worker.postgres.cancel_lines)).await.into_iter().flatten()
    {
        match pools.get_mut(&facts.key) {
            Some(sum) => {
                sum.numbers.add(&facts.numbers);
                sum.cancels += facts.cancels;
                sum.being_cancelled += facts.being_cancelled;
            }
            None => drop(pools.insert(facts.key.clone(), facts)),
        }
    }
    pools
}

/// What the console itself has done, on all workers: how many guests there are, have been, and how much they have asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConsoleFacts {
    /// Sessions now.
    pub present: u32,
    /// Sessions there have been.
    pub logins: u64,
    /// Commands.
    pub queries: u64,
}

/// What the console itself has done.
pub async fn console(mailboxes: &Mailboxes) -> ConsoleFacts {
    let answers = ask_all(mailboxes, |worker| (worker.guests.present().len(), worker.guests.counts())).await;
    answers.into_iter().fold(ConsoleFacts::default(), |sum, (present, (logins, queries))| ConsoleFacts {
        present: sum.present + u32::try_from(present).unwrap_or(u32::MAX),
        logins: sum.logins + logins,
        queries: sum.queries + queries,
    })
}

/// What each database has done since the start.
pub async fn totals(mailboxes: &Mailboxes) -> PerDatabase {
    let mut totals = PerDatabase::new();
    for (key, facts) in pools(mailboxes).await {
        totals.entry((&**key.database()).into()).or_default().add(&Totals::of(&facts.numbers));
    }
    totals.insert(super::guest::CONSOLE_DATABASE.into(), Totals::of_console(console(mailboxes).await));
    totals
}
