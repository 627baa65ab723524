//! What a scrape costs with many clients and pools, and what the clients feel of it.
//!
//! Prints figures and asserts no times: machines differ. `SIDEPOOL_SCRAPE_CLIENTS=10000 cargo test --test scrape_cost -- --nocapture` measures the
//! large case.

use std::time::{Duration, Instant};

use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::cluster::PASSWORD;
use sidepool_tests::postgres::{Cluster, Wire};
use sidepool_tests::scrape;
use sidepool_tests::settings::Settings;
use tokio::task::JoinSet;

/// How many pools.
const POOLS: usize = 50;

/// How many clients when nobody says otherwise.
const FEW: usize = 200;

/// How many queries each of two busy clients measures.
const QUERIES: usize = 1_000;

/// How many scrapes are measured.
const SCRAPES: u32 = 30;

fn middle_and_p99(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

async fn login(port: u16, pool: usize) -> Wire {
    let database = format!("d{pool}");
    Wire::try_login(port, &[("user", "app"), ("database", &*database)], PASSWORD).await.expect("a login")
}

/// The times of queries, by two clients at once.
async fn queries(port: u16) -> Vec<Duration> {
    let mut busy = JoinSet::new();
    for pool in 0..2 {
        busy.spawn(async move {
            let mut wire = login(port, pool).await;
            let mut times = Vec::with_capacity(QUERIES);
            for _ in 0..QUERIES {
                let start = Instant::now();
                wire.query("SELECT 1").await;
                times.push(start.elapsed());
            }
            times
        });
    }
    busy.join_all().await.concat()
}

/// What an answer costs the process, in seconds of CPU.
async fn cpu(pool: &Pooler, path: &str) -> f64 {
    let before = pool.process().cpu_seconds();
    for _ in 0..SCRAPES {
        scrape::get(pool.settings().admin_port(), path).await.expect("an answer");
    }
    // The clock of processes ticks a hundred times a second: many together.
    (pool.process().cpu_seconds() - before) / f64::from(SCRAPES)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrape_stays_within_bounds_whatever_the_number_of_clients() {
    let clients = std::env::var("SIDEPOOL_SCRAPE_CLIENTS").map_or(FEW, |text| text.parse().expect("a number"));
    let cluster = Cluster::start().await;
    let mut settings = Settings::postgres(&cluster)
        .set("postgres.max_client_conn", i64::try_from(clients + 100).expect("some"))
        .without("postgres.databases.app");
    for pool in 0..POOLS {
        settings = settings.database(&format!("d{pool}"), &cluster).set(&format!("postgres.databases.d{pool}.dbname"), "app");
    }
    let pool = Pooler::start(settings).await;
    let (port, admin) = (pool.postgres_port(), pool.settings().admin_port());
    let mut few = Vec::new();
    for index in 0..POOLS {
        few.push(login(port, index).await);
    }
    // Series are counted where all workers have answered.
    let small = pool.scrape().await.samples.len();
    let mut idle = few;
    for index in POOLS..clients {
        idle.push(login(port, index % POOLS).await);
    }
    let quiet = middle_and_p99(queries(port).await);
    let scraping = tokio::spawn(async move {
        let mut times = Vec::new();
        loop {
            let start = Instant::now();
            let answer = scrape::get(admin, "/metrics").await.expect("an answer");
            times.push(start.elapsed());
            assert_eq!(answer.status, 200);
            tokio::time::sleep(Duration::from_millis(100)).await;
            if times.len() >= SCRAPES as usize {
                return times;
            }
        }
    });
    let scraped = middle_and_p99(queries(port).await);
    let scrapes = middle_and_p99(scraping.await.expect("no panic"));
    let cpu = cpu(&pool, "/metrics").await;
    let (status_cpu, status) =
        (self::cpu(&pool, "/statusz?compact").await, scrape::get(admin, "/statusz?compact").await.expect("an answer"));
    let text = scrape::get(admin, "/metrics").await.expect("an answer").body;
    let grown = pool.scrape().await;
    let series = grown.samples.len();
    println!(
        "{clients} clients, {POOLS} pools: {} series, {} kB; a scrape takes {:?} (median), {:?} (p99), {:.1} ms of CPU",
        series,
        text.len() / 1000,
        scrapes.0,
        scrapes.1,
        cpu * 1000.0
    );
    println!("what the status page asks: {} kB, {:.1} ms of CPU", status.body.len() / 1000, status_cpu * 1000.0);
    println!(
        "queries: {:?} (median), {:?} (p99); while it is scraped ten times a second: {:?}, {:?}",
        quiet.0, quiet.1, scraped.0, scraped.1
    );
    assert_eq!(small, series, "clients add no series");
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    let wanted = clients as f64;
    assert_eq!(grown.sum("sidepool_pool_client_connections", &[]), wanted);
    assert!(series < POOLS * 250 + 500, "{series} series");
}
