//! Worker threads: started, given their mailbox, and joined. What runs on them is elsewhere (`listener`, `session`).
//!
//! Each worker is one thread with one `LocalRuntime`: no task ever moves between threads, so nothing on the data path is synchronised.

pub mod backend;
pub mod descriptors;
mod groups;
pub mod memory;
pub mod pressure;
pub mod quota;
pub mod shortage;

use std::convert::Infallible;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvError, Sender};
use std::thread;

use sidepool_config::model;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;

use self::backend::Worked;

use crate::worker::{Commons, Job, Mailboxes, Worker, WorkerId};

/// How many more turns of its loop a worker makes after its last job.
const LAST_TURNS: usize = 8;

/// The running workers.
pub struct Workers {
    mailboxes: Mailboxes,
    commons: Commons,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Workers {
    /// Starts `count` workers, which serve nothing until they are told to. When it answers they have the files that they need for themselves.
    pub fn start(count: u16, backend: model::IoBackend) -> io::Result<Self> {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::unbounded_channel()).unzip();
        let mailboxes = Mailboxes::new(senders);
        let commons = Commons::new(mailboxes.workers())?;
        let mut threads = Vec::with_capacity(receivers.len());
        let (ready, all_ready) = std::sync::mpsc::channel::<Infallible>();
        for (id, jobs) in mailboxes.ids().zip(receivers) {
            let runtime = Runtime { id, mailboxes: mailboxes.clone(), commons: commons.clone(), jobs, backend };
            let ready = ready.clone();
            threads.push(thread::Builder::new().name(format!("worker-{}", id.0)).spawn(move || runtime.run(ready))?);
        }
        // Nothing is ever sent: each end that is dropped is a worker that has begun.
        drop(ready);
        let Err(RecvError) = all_ready.recv();
        Ok(Self { mailboxes, commons, threads })
    }

    /// Ways to the workers.
    #[must_use]
    pub fn mailboxes(&self) -> &Mailboxes {
        &self.mailboxes
    }

    /// What the workers have in common.
    #[must_use]
    pub fn commons(&self) -> &Commons {
        &self.commons
    }

    /// Ends all workers, and whatever session still runs on them, and waits for their threads.
    pub fn stop(self) {
        for id in self.mailboxes.ids() {
            self.mailboxes.post(id, |worker| worker.stop());
        }
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a worker thread panicked");
            }
        }
    }
}

/// How many workers to start.
#[must_use]
pub fn worker_count(configured: model::Workers) -> u16 {
    match configured {
        model::Workers::Count(count) => count.max(1),
        model::Workers::Auto => quota::workers_for(quota::available()),
    }
}

/// What a worker thread is born with.
struct Runtime {
    id: WorkerId,
    mailboxes: Mailboxes,
    commons: Commons,
    jobs: mpsc::UnboundedReceiver<Job>,
    backend: model::IoBackend,
}

impl Runtime {
    fn run(self, ready: Sender<Infallible>) {
        let runtime = match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(worker = self.id.0, %error, "cannot start the worker's runtime");
                return;
            }
        };
        // Dropped after the runtime, and with it all sockets.
        let mut ring = None;
        let worker = Worker::new(self.id, self.mailboxes, self.commons);
        runtime.block_on(async {
            // A ring has files, too.
            ring = Some(Worked::begin(self.backend));
            drop(ready);
            serve(worker, self.jobs).await;
        });
        drop(runtime);
        drop(ring);
    }
}

/// Runs jobs until one of them stops the worker. Sessions run as tasks beside it.
async fn serve(worker: std::rc::Rc<Worker>, mut jobs: mpsc::UnboundedReceiver<Job>) {
    while let Some(job) = jobs.recv().await {
        // The panic hook has logged it; a job that fails must not take the worker's sessions along.
        let _ = catch_unwind(AssertUnwindSafe(|| job(&worker)));
        if worker.is_stopping() {
            break;
        }
    }
    // What the last job has woken (goodbyes to upstreams) still has its turn.
    for _ in 0..LAST_TURNS {
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_run_on_their_worker_and_a_panicking_one_harms_nobody() {
        let workers = Workers::start(2, model::IoBackend::Epoll).expect("threads start");
        let (sender, receiver) = std::sync::mpsc::channel();
        for id in workers.mailboxes().ids() {
            assert!(workers.mailboxes().post(id, |_| panic!("on purpose")));
            let sender = sender.clone();
            assert!(
                workers.mailboxes().post(id, move |worker| sender.send((worker.id, thread::current().name().map(str::to_owned))).unwrap())
            );
        }
        let mut answers = vec![receiver.recv().unwrap(), receiver.recv().unwrap()];
        answers.sort();
        assert_eq!(answers, [(WorkerId(0), Some("worker-0".to_owned())), (WorkerId(1), Some("worker-1".to_owned()))]);
        let mailboxes = workers.mailboxes().clone();
        workers.stop();
        assert!(!mailboxes.post(WorkerId(0), |_| ()), "a worker that has ended takes no jobs");
    }
}
