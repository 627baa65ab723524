//! A worker with everything real but the time and the server: seeds choose what clients do and what goes wrong, hours pass in milliseconds.
//!
//! ```text
//!   clients ══ pairs of sockets ══ sessions, pools, dialer ══ socket ══ a server that says back what it was asked, or fails to
//! ```
//! After each seed: every answer was its client's own and in order, nobody hung past the timeouts, no statement got into another client's
//! transaction, and nothing is left over. Not here: what a client does (`client`), what the server does (`server`).

mod client;
mod server;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sidepool_config::model::{AuthType, Config, Following, PgDatabase, PgUser, PoolMode, Postgres, Upstream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, LocalSet};
use tokio::time::sleep;

use self::server::Server;
use crate::clock;
use crate::pool::random::Random;
use crate::pool::snapshot::Snapshot;
use crate::worker::{Commons, Mailboxes, Worker, WorkerId};

/// How many worlds are looked at.
const SEEDS: u64 = 2000;

/// How many of them at a time.
const THREADS: usize = 4;

/// What all in one world share.
struct World {
    random: RefCell<Random>,
    /// Things go wrong.
    faults: bool,
    /// The proxy itself cancels queries that take too long.
    cancels_the_overdue: Cell<bool>,
    /// What should not have been.
    wrong: RefCell<Vec<String>>,
}

impl World {
    fn between(&self, low: u32, high: u32) -> u32 {
        self.random.borrow_mut().between(low, high)
    }

    /// True in so many of a thousand cases.
    fn chance(&self, thousandths: u32) -> bool {
        self.between(1, 1000) <= thousandths
    }

    /// True in so many of a thousand cases, where things go wrong.
    fn fault(&self, thousandths: u32) -> bool {
        self.faults && self.chance(thousandths)
    }

    /// Some time, short ones more often than long ones.
    fn while_up_to(&self, longest: Duration) -> Duration {
        let share = self.between(0, 1000);
        longest.mul_f64((f64::from(share) / 1000.0).powi(6))
    }

    /// No answer may take longer: all timeouts together, where there are any.
    fn patience(&self) -> Duration {
        Duration::from_secs(if self.faults { 100 } else { 100_000 })
    }

    fn complain(&self, what: String) {
        self.wrong.borrow_mut().push(what);
    }
}

fn settings(world: &World, server: &Server) -> Config {
    let mut postgres = Postgres { auth_type: AuthType::Trust, ..Postgres::default() };
    let mut shop = PgDatabase::at(Upstream::Unix(server.path()));
    shop.limits.pool_size = world.between(1, 3);
    shop.limits.server_idle_timeout = Duration::from_secs(u64::from(world.between(10, 600)));
    if world.faults && world.chance(100) {
        shop.pool_mode = PoolMode::Session;
    }
    shop.limits.query_wait_timeout = Duration::from_secs(if world.faults { 5 } else { 100_000 });
    if world.faults {
        postgres.timeouts.query_timeout = Duration::from_secs(10);
        postgres.timeouts.query_timeout_cancels = world.chance(300);
        world.cancels_the_overdue.set(postgres.timeouts.query_timeout_cancels);
        postgres.timeouts.idle_transaction_timeout = Duration::from_secs(30);
        postgres.timeouts.client_idle_timeout = Duration::from_secs(100);
    }
    postgres.base.session_state.following = if world.chance(500) { Following::Off } else { Following::Follow };
    postgres.base.session_state.audit = Duration::ZERO;
    postgres.databases.insert("shop".into(), shop);
    postgres.users.insert("bob".into(), PgUser::default());
    Config { postgres: Some(postgres), ..Config::default() }
}

/// A worker, and what runs what others post to it.
fn start(config: &Arc<Config>) -> (Rc<Worker>, JoinHandle<()>) {
    let (post, mut jobs) = mpsc::unbounded_channel::<crate::worker::Job>();
    let worker = Worker::new(WorkerId(0), Mailboxes::new(vec![post]), Commons::new(1).unwrap());
    worker.apply(config);
    let at_work = Rc::clone(&worker);
    let task = tokio::task::spawn_local(async move {
        while let Some(job) = jobs.recv().await {
            job(&at_work);
        }
    });
    (worker, task)
}

async fn live(world: Rc<World>) {
    let server = Server::start(&world);
    let (worker, jobs) = start(&Arc::new(settings(&world, &server)));
    let clients: Vec<_> = (0..world.between(1, 6))
        .map(|number| tokio::task::spawn_local(client::live(number, Rc::clone(&world), Rc::clone(&worker))))
        .collect();
    for client in clients {
        if let Err(error) = client.await {
            world.complain(format!("a client: {error}"));
        }
    }
    look_for_remains(&world, &worker, &server).await;
    if worker.postgres.arriving.get() > 0 {
        world.complain("somebody is still arriving".to_owned());
    }
    worker.stop();
    sleep(Duration::from_secs(600)).await;
    if server.open() > 0 {
        world.complain(format!("{} connections are left open", server.open()));
    }
    jobs.abort();
}

/// Everybody is gone: what is not in the pools' hands soon is lost.
async fn look_for_remains(world: &World, worker: &Worker, server: &Server) {
    let facts = || worker.postgres.pools.facts(clock::now(), &worker.postgres.cancel_lines);
    let busy = |now: &Snapshot| now.leased + now.waiters + now.connecting + now.resetting + now.probing + now.pinned.connections > 0;
    // A probe or a reset may be under way.
    for _ in 0..10 {
        sleep(Duration::from_secs(20)).await;
        if !facts().iter().any(|facts| busy(&facts.snapshot)) {
            break;
        }
    }
    for now in facts().iter().map(|facts| &facts.snapshot) {
        if busy(now) {
            world.complain(format!("left over: {now:?}"));
        }
        if now.idle > now.max || server.open() > now.max {
            world.complain(format!("too many connections: {} of {now:?}", server.open()));
        }
    }
}

/// What went wrong in the world of this seed, and what chance says at its end.
fn play(seed: u64) -> (Vec<String>, u32) {
    // One of four is a world without faults, in which everything has to work.
    let world = Rc::new(World {
        random: RefCell::new(Random::new(seed)),
        faults: !seed.is_multiple_of(4),
        cancels_the_overdue: Cell::new(false),
        wrong: RefCell::default(),
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(LocalSet::new().run_until(live(Rc::clone(&world))));
    (world.wrong.take(), world.between(0, u32::MAX - 1))
}

#[test]
fn a_seed_tells_the_same_story_each_time() {
    for seed in 0..20 {
        assert_eq!(play(seed), play(seed), "{seed}");
    }
}

#[test]
fn in_thousands_of_worlds_answers_are_right_nobody_hangs_and_nothing_is_left() {
    // SIMULATION_SEED=N plays one world again.
    if let Ok(seed) = std::env::var("SIMULATION_SEED") {
        return assert_eq!(play(seed.parse().unwrap()).0, [""; 0]);
    }
    let part =
        |first: u64| (first..SEEDS).step_by(THREADS).map(|seed| (seed, play(seed).0)).filter(|(_, wrong)| !wrong.is_empty()).collect();
    let failed: Vec<(u64, Vec<String>)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS as u64).map(|first| scope.spawn(move || -> Vec<_> { part(first) })).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let shown: Vec<String> = failed.iter().take(5).map(|(seed, wrong)| format!("SIMULATION_SEED={seed}: {}", wrong.join("; "))).collect();
    assert!(failed.is_empty(), "{} worlds went wrong, such as\n{}", failed.len(), shown.join("\n"));
}
