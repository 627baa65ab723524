//! Whether the workers answer, asked only when somebody wants to know: an idle process is woken by nothing.
//!
//! A question is a job in the worker's mailbox. One at a time stands open for each worker, however many ask, so that the mailbox of a stuck
//! worker does not fill; how long it has stood open says how long the worker has been stuck.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::clock;
use crate::worker::{Mailboxes, WorkerId};

/// A worker that has not answered for so long is stuck.
pub const STUCK_AFTER: Duration = Duration::from_secs(5);

/// Asks the workers for a sign of life.
pub struct Liveness {
    mailboxes: Mailboxes,
    questions: Vec<Arc<Question>>,
}

#[derive(Default)]
struct Question {
    /// Since when it has been open; `None` when it is answered.
    asked: Mutex<Option<Instant>>,
    /// Wakes those who wait for the answer.
    answered: watch::Sender<()>,
}

impl Liveness {
    /// Asks these workers.
    #[must_use]
    pub fn new(mailboxes: Mailboxes) -> Self {
        let questions = mailboxes.ids().map(|_| Arc::default()).collect();
        Self { mailboxes, questions }
    }

    /// Asks every worker that does not owe an answer already.
    pub fn ask(&self, now: Instant) {
        for (id, question) in self.mailboxes.ids().zip(&self.questions) {
            if question.asked().is_some() {
                continue;
            }
            *question.asked() = Some(now);
            let question = Arc::clone(question);
            self.mailboxes.post(id, move |_| question.answer());
        }
    }

    /// For how long each worker has owed an answer: zero if it owes none.
    pub fn owed(&self, now: Instant) -> impl Iterator<Item = (WorkerId, Duration)> {
        let owed = move |question: &Arc<Question>| question.asked().map_or(Duration::ZERO, |asked| now.saturating_duration_since(asked));
        self.mailboxes.ids().zip(self.questions.iter().map(owed))
    }

    /// Asks all workers and waits for them. Gives those that are stuck.
    pub async fn stuck(&self) -> Vec<WorkerId> {
        let mut answers: Vec<_> = self.questions.iter().map(|question| question.answered.subscribe()).collect();
        self.ask(clock::now());
        let mut stuck = Vec::new();
        for ((id, question), answer) in self.mailboxes.ids().zip(&self.questions).zip(&mut answers) {
            let Some(asked) = *question.asked() else { continue };
            let deadline = tokio::time::Instant::from_std(asked + STUCK_AFTER);
            if tokio::time::timeout_at(deadline, answer.changed()).await.is_err() {
                stuck.push(id);
            }
        }
        stuck
    }
}

impl Question {
    /// Runs on the worker.
    fn answer(&self) {
        *self.asked() = None;
        self.answered.send_replace(());
    }

    fn asked(&self) -> MutexGuard<'_, Option<Instant>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;
    use crate::worker::{Commons, Job, Worker};

    /// Two workers: the first answers within `answers_after`, the second never.
    fn workers(answers_after: Duration) -> (Arc<Liveness>, UnboundedReceiver<Job>) {
        let (answering, mut jobs) = unbounded_channel::<Job>();
        let (silent, unread) = unbounded_channel();
        let mailboxes = Mailboxes::new(vec![answering, silent]);
        let worker = Worker::new(WorkerId(0), mailboxes.clone(), Commons::new(1).expect("randomness"));
        tokio::task::spawn_local(async move {
            while let Some(job) = jobs.recv().await {
                tokio::time::sleep(answers_after).await;
                job(&worker);
            }
        });
        (Arc::new(Liveness::new(mailboxes)), unread)
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn a_worker_that_does_not_answer_is_stuck_and_asked_only_once() {
        let (liveness, unread) = workers(Duration::from_secs(4));
        let begun = clock::now();
        assert_eq!(liveness.stuck().await, [WorkerId(1)], "four seconds late is not yet stuck");
        assert_eq!(clock::now() - begun, STUCK_AFTER);
        let again = clock::now();
        let others: Vec<_> = (0..5).map(|_| Arc::clone(&liveness)).collect();
        for other in others {
            assert_eq!(other.stuck().await, [WorkerId(1)]);
        }
        assert!(clock::now() - again < Duration::from_secs(25), "it is known to be stuck: nobody waits for it once more");
        assert_eq!(unread.len(), 1);
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn what_is_owed_grows_until_it_is_paid() {
        let (liveness, mut unread) = workers(Duration::ZERO);
        let begun = clock::now();
        liveness.ask(begun);
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        let owed = |after: u64| liveness.owed(begun + Duration::from_secs(after)).map(|(_, owed)| owed.as_secs()).collect::<Vec<_>>();
        assert_eq!((owed(2), owed(9)), (vec![0, 2], vec![0, 9]));
        let worker = Worker::new(WorkerId(1), liveness.mailboxes.clone(), Commons::new(1).expect("randomness"));
        unread.try_recv().unwrap()(&worker);
        assert_eq!(owed(9), [0, 0]);
        assert_eq!(liveness.stuck().await, [WorkerId(1)], "asked anew");
    }
}
