//! A worker with everything real but the time and the server: seeds choose what clients do and what goes wrong, hours pass in milliseconds.
//!
//! ```text
//!   clients ══ pairs of sockets ══ sessions, lanes, hub, pools, dialer ══ socket ══ a server that says back what it was asked, or fails to
//! ```
//! After each seed: every reply was its client's own and in order, nobody hung past the timeouts, nothing that may have run was run again, nothing that was
//! refused has run, what is kept was bounded, and nothing is left over. Not here: what a client does (`client`), what the server does (`server`).

mod client;
mod server;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ops::Deref;
use std::rc::Rc;
use std::time::Duration;

use sidepool_config::model::{Config, QueueFairness, Redis, Upstream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;

use self::server::Server;
use super::turns::{FULL_BYTES, QUANTUM};
use crate::clock;
use crate::session::simulated::{self, Chances, Story};
use crate::worker::Worker;

/// How many worlds are looked at.
const SEEDS: u64 = 1000;

/// How the configured server is called.
const NAME: &str = "main";

/// What all in one world share.
struct World {
    chances: Chances,
    /// What clients were told has been executed, and what has not.
    told: RefCell<BTreeSet<(String, bool)>>,
    /// What clients got a reply to.
    heard: RefCell<BTreeSet<String>>,
    /// What was executed behind a later write of the same client.
    late: RefCell<BTreeSet<String>>,
    /// The most bytes of requests that a lane kept.
    most: Cell<usize>,
}

impl Deref for World {
    type Target = Chances;

    fn deref(&self) -> &Chances {
        &self.chances
    }
}

impl World {
    fn of(seed: u64) -> Self {
        Self {
            chances: Chances::of(seed, Duration::from_secs(60), Duration::from_secs(1_000)),
            told: RefCell::default(),
            heard: RefCell::default(),
            late: RefCell::default(),
            most: Cell::new(0),
        }
    }

    /// A client was told that this has been executed, or that it has not.
    fn tell(&self, token: &str, executed: bool) {
        self.told.borrow_mut().insert((token.to_owned(), executed));
    }

    /// A client got the reply to this.
    fn was_heard(&self, token: &str) {
        self.heard.borrow_mut().insert(token.to_owned());
    }

    /// A server executed this behind a later write of the same client.
    fn was_late(&self, token: &str) {
        self.late.borrow_mut().insert(token.to_owned());
    }

    /// Sees how much lanes keep.
    fn look_at_memory(&self, worker: &Worker) {
        let groups = worker.redis.server(NAME).map(|server| server.groups()).unwrap_or_default();
        let most = groups.iter().map(|group| group.most_kept()).max().unwrap_or(0);
        self.most.set(self.most.get().max(most));
    }
}

fn settings(world: &World, server: &Server) -> Config {
    let mut redis = Redis::at(Upstream::Unix(server.path()));
    redis.limits.pool_size = world.between(2, 8);
    redis.shared_connections = world.between(1, 2).min(redis.limits.pool_size - 1);
    redis.limits.server_idle_timeout = Duration::from_secs(u64::from(world.between(10, 600)));
    redis.limits.query_wait_timeout = Duration::from_secs(if world.faults { 5 } else { 1_000 });
    redis.queue_fairness = if world.chance(700) { QueueFairness::ApplicationName } else { QueueFairness::Off };
    if world.faults {
        redis.request_timeout = Duration::from_secs(4);
        redis.retry_timeout = Duration::from_secs(u64::from(world.between(0, 2)));
        redis.limits.max_queue_length = if world.chance(200) { world.between(1, 3) } else { 100 };
    }
    Config { redis: [(NAME.to_owned(), redis)].into(), ..Config::default() }
}

async fn live(world: Rc<World>) {
    let server = Server::start(&world);
    let (worker, jobs) = simulated::worker(settings(&world, &server));
    let clients: Vec<_> = (0..world.between(1, 6))
        .map(|number| tokio::task::spawn_local(client::live(number, Rc::clone(&world), Rc::clone(&worker))))
        .collect();
    world.see_all_live(clients).await;
    look_for_remains(&world, &worker, &server).await;
    server.compare(&world);
    worker.apply(&std::sync::Arc::new(Config::default()));
    worker.stop();
    sleep(Duration::from_secs(600)).await;
    if server.open() > 0 {
        world.complain(format!("{} connections are left open", server.open()));
    }
    jobs.abort();
}

/// Everybody is gone: what is not in the pools' hands soon is lost.
async fn look_for_remains(world: &World, worker: &Worker, server: &Server) {
    let Some(redis) = worker.redis.server(NAME) else { return };
    let left = || {
        let pools = redis.groups().into_iter().flat_map(|group| [Rc::clone(&group.shared), Rc::clone(&group.leased)]);
        let now = pools.map(|pool| pool.snapshot(clock::now()));
        let busy = now.filter(|now| now.leased + now.waiters + now.connecting + now.resetting + now.probing > 0);
        let pools = busy.map(|now| format!("{now:?}"));
        let lanes = redis.groups().into_iter().flat_map(|group| group.remains());
        pools.chain(lanes).collect::<Vec<String>>()
    };
    // A probe or a reset may be under way, and what clients left behind on lanes is still answered.
    for _ in 0..10 {
        sleep(Duration::from_secs(20)).await;
        if left().is_empty() {
            break;
        }
    }
    left().into_iter().for_each(|left| world.complain(format!("left over: {left}")));
    let most = redis.config().limits.pool_size * u32::try_from(redis.groups().len()).unwrap_or(1);
    if server.open() > most {
        world.complain(format!("too many connections: {} of {most}", server.open()));
    }
    if !redis.clients().is_empty() {
        world.complain("a client is left over".to_owned());
    }
    // What one client may add in one go, beyond what all may.
    if world.most.get() > FULL_BYTES + QUANTUM {
        world.complain(format!("a lane kept {} bytes", world.most.get()));
    }
}

fn play(seed: u64) -> Story {
    let world = Rc::new(World::of(seed));
    simulated::in_no_time(live(Rc::clone(&world)));
    world.story()
}

/// What a client reads that says nothing for a minute and then asks something.
fn after_a_silent_minute(closed: bool) -> Vec<u8> {
    simulated::in_no_time(async {
        let world = Rc::new(World::of(0));
        let server = Server::start(&world);
        if closed {
            server.close();
        }
        let (worker, jobs) = simulated::worker(settings(&world, &server));
        let (mut stream, session) = client::connect(&worker);
        sleep(Duration::from_secs(60)).await;
        let _ = stream.write_all(b"*1\r\n$4\r\nPING\r\n").await;
        let mut read = [0; 100];
        let length = stream.read(&mut read).await.unwrap_or(0);
        drop(stream);
        session.await.unwrap();
        worker.stop();
        jobs.abort();
        read[..length].to_vec()
    })
}

#[test]
fn only_who_has_to_log_in_is_closed_for_its_silence() {
    assert_eq!(after_a_silent_minute(false), b"+PONG\r\n");
    assert_eq!(after_a_silent_minute(true), b"", "it is closed");
}

#[test]
fn a_seed_tells_the_same_story_each_time() {
    simulated::play_twice(play);
}

#[test]
fn in_a_thousand_worlds_replies_are_right_nobody_hangs_and_nothing_is_left() {
    simulated::play_all(SEEDS, play);
}
