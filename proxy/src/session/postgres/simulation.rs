//! A worker with everything real but the time and the server: seeds choose what clients do and what goes wrong, hours pass in milliseconds.
//!
//! ```text
//!   clients ══ pairs of sockets ══ sessions, pools, dialer ══ socket ══ a server that says back what it was asked, or fails to
//! ```
//! After each seed: every answer was its client's own and in order, nobody hung past the timeouts, no statement got into another client's
//! transaction, and nothing is left over. Not here: what a client does (`client`), what the server does (`server`).

mod client;
mod server;

use std::cell::Cell;
use std::ops::Deref;
use std::rc::Rc;
use std::time::Duration;

use sidepool_config::model::{AuthType, Config, Following, PgDatabase, PgUser, PoolMode, Postgres, Upstream};
use tokio::time::sleep;

use self::server::Server;
use crate::clock;
use crate::pool::snapshot::Snapshot;
use crate::session::simulated::{self, Chances, Story};
use crate::worker::Worker;

/// How many worlds are looked at.
const SEEDS: u64 = 2000;

/// What all in one world share.
struct World {
    chances: Chances,
    /// The proxy itself cancels queries that take too long.
    cancels_the_overdue: Cell<bool>,
}

impl Deref for World {
    type Target = Chances;

    fn deref(&self) -> &Chances {
        &self.chances
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

async fn live(world: Rc<World>) {
    let server = Server::start(&world);
    let (worker, jobs) = simulated::worker(settings(&world, &server));
    let clients: Vec<_> = (0..world.between(1, 6))
        .map(|number| tokio::task::spawn_local(client::live(number, Rc::clone(&world), Rc::clone(&worker))))
        .collect();
    world.see_all_live(clients).await;
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

fn play(seed: u64) -> Story {
    let chances = Chances::of(seed, Duration::from_secs(100), Duration::from_secs(100_000));
    let world = Rc::new(World { chances, cancels_the_overdue: Cell::new(false) });
    simulated::in_no_time(live(Rc::clone(&world)));
    world.story()
}

#[test]
fn a_seed_tells_the_same_story_each_time() {
    simulated::play_twice(play);
}

#[test]
fn in_thousands_of_worlds_answers_are_right_nobody_hangs_and_nothing_is_left() {
    simulated::play_all(SEEDS, play);
}
