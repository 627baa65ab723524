//! What the simulations of both protocols have in common: chance, time that stands until everybody waits, a worker, and a look at many seeds.
//!
//! Not here: what a world is made of, what may go wrong in it and what is looked at in the end (`postgres::simulation`, `redis::simulation`).

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sidepool_config::model::Config;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, LocalSet};
use tokio::time::timeout;

use crate::pool::random::Random;
use crate::worker::{Commons, Mailboxes, Worker, WorkerId};

/// How many seeds are played at a time.
const THREADS: usize = 4;

/// What chance decides, and what went wrong.
pub(super) struct Chances {
    random: RefCell<Random>,
    /// Things go wrong.
    pub(super) faults: bool,
    wrong: RefCell<Vec<String>>,
    patience: Duration,
}

/// What went wrong with a seed, and what chance says at its end.
pub(super) type Story = (Vec<String>, u32);

impl Chances {
    /// One of four is a world without faults, in which everything has to work. No answer may take longer than its patience: all timeouts together,
    /// `with_faults` if there are any.
    pub(super) fn of(seed: u64, with_faults: Duration, without: Duration) -> Self {
        let faults = !seed.is_multiple_of(4);
        let patience = if faults { with_faults } else { without };
        Self { random: RefCell::new(Random::new(seed)), faults, wrong: RefCell::default(), patience }
    }

    pub(super) fn between(&self, low: u32, high: u32) -> u32 {
        self.random.borrow_mut().between(low, high)
    }

    /// True in so many of a thousand cases.
    pub(super) fn chance(&self, thousandths: u32) -> bool {
        self.between(1, 1000) <= thousandths
    }

    /// True in so many of a thousand cases, where things go wrong.
    pub(super) fn fault(&self, thousandths: u32) -> bool {
        self.faults && self.chance(thousandths)
    }

    /// Some time, short ones more often than long ones.
    pub(super) fn while_up_to(&self, longest: Duration) -> Duration {
        let share = self.between(0, 1000);
        longest.mul_f64((f64::from(share) / 1000.0).powi(6))
    }

    /// No answer may take longer.
    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    pub(super) fn complain(&self, what: String) {
        self.wrong.borrow_mut().push(what);
    }

    /// The client called so has lived its life, and its session has to end.
    pub(super) async fn see_end(&self, name: &str, session: JoinHandle<()>) {
        match timeout(self.patience(), session).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.complain(format!("the session of {name}: {error}")),
            Err(_) => self.complain(format!("the session of {name} outlives its client")),
        }
    }

    /// Waits for the lives of all clients.
    pub(super) async fn see_all_live(&self, clients: Vec<JoinHandle<()>>) {
        for client in clients {
            if let Err(error) = client.await {
                self.complain(format!("a client: {error}"));
            }
        }
    }

    pub(super) fn story(&self) -> Story {
        (self.wrong.take(), self.between(0, u32::MAX - 1))
    }
}

/// A worker, and what runs what others post to it.
pub(super) fn worker(config: Config) -> (Rc<Worker>, JoinHandle<()>) {
    let (post, mut jobs) = mpsc::unbounded_channel::<crate::worker::Job>();
    let worker = Worker::new(WorkerId(0), Mailboxes::new(vec![post]), Commons::new(1).unwrap());
    worker.apply(&Arc::new(config));
    let at_work = Rc::clone(&worker);
    let task = tokio::task::spawn_local(async move {
        while let Some(job) = jobs.recv().await {
            job(&at_work);
        }
    });
    (worker, task)
}

/// Runs it where an hour passes as soon as everybody waits for it.
pub(super) fn in_no_time<T>(what: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(LocalSet::new().run_until(what))
}

/// Plays all seeds up to this one; or, with `SIMULATION_SEED=N`, one again.
pub(super) fn play_all(seeds: u64, play: fn(u64) -> Story) {
    if let Ok(seed) = std::env::var("SIMULATION_SEED") {
        return assert_eq!(play(seed.parse().unwrap()).0, [""; 0]);
    }
    let part =
        |first: u64| (first..seeds).step_by(THREADS).map(|seed| (seed, play(seed).0)).filter(|(_, wrong)| !wrong.is_empty()).collect();
    let failed: Vec<(u64, Vec<String>)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS as u64).map(|first| scope.spawn(move || -> Vec<_> { part(first) })).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let shown: Vec<String> = failed.iter().take(5).map(|(seed, wrong)| format!("SIMULATION_SEED={seed}: {}", wrong.join("; "))).collect();
    assert!(failed.is_empty(), "{} worlds went wrong, such as\n{}", failed.len(), shown.join("\n"));
}

/// Plays some seeds twice.
pub(super) fn play_twice(play: fn(u64) -> Story) {
    for seed in 0..20 {
        assert_eq!(play(seed), play(seed), "{seed}");
    }
}
