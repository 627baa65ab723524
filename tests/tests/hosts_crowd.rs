//! Many pools of one server: while it is away they do not stampede towards it, and when it is back all are served.

use std::time::{Duration, Instant};

use sidepool_tests::fault::{Behaviour, FaultProxy};
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::cancel::{cancel_at, is_cancelled, runs};
use sidepool_tests::postgres::cluster::{PASSWORD, USER};
use sidepool_tests::postgres::wire::first_error;
use sidepool_tests::postgres::{Cluster, Wire, frame};
use sidepool_tests::scrape::Scrape;
use sidepool_tests::settings::Settings;

/// So many databases by name, each with a pool of its own.
const POOLS: usize = 50;

/// How long the server is away.
const AWAY: Duration = Duration::from_secs(3);

/// So many connects a second at most, from all pools together, while it is.
const PACE: f64 = 12.0;

/// So many at once while it works: nobody knows that it is away before somebody has tried.
const AT_ONCE: f64 = 64.0;

fn over(cluster: &Cluster, proxy: &FaultProxy, workers: i64) -> Settings {
    // Clients wait for as long as the server is away, however long a busy machine takes for the rest.
    let mut settings = Settings::postgres(cluster).set("workers", workers).set("postgres.query_wait_timeout", "60s");
    for number in 0..POOLS {
        let name = format!("d{number}");
        settings = settings.database(&name, cluster);
        let section = format!("postgres.databases.{name}");
        settings = settings.set(&format!("{section}.port"), i64::from(proxy.port())).set(&format!("{section}.dbname"), "app");
    }
    settings
}

async fn clients(pool: &Pooler) -> Vec<Wire> {
    let mut clients = Vec::new();
    for number in 0..POOLS {
        let mut client = Wire::login(pool.postgres_port(), USER, &format!("d{number}"), PASSWORD).await;
        assert_eq!(client.value("SELECT 1").await, "1");
        clients.push(client);
    }
    clients
}

#[tokio::test(flavor = "multi_thread")]
async fn many_pools_of_a_server_that_is_away_try_one_at_a_time_and_all_are_served_when_it_is_back() {
    let cluster = Cluster::start().await;
    for workers in [1, 2] {
        let proxy = FaultProxy::start(cluster.port()).await;
        let pool = Pooler::start(over(&cluster, &proxy, workers)).await;
        let mut clients = clients(&pool).await;
        proxy.behave(Behaviour::Refuse);
        proxy.cut();
        let gone = |now: &Scrape| now.sum("sidepool_pool_server_connections", &[]) < 0.5;
        pool.metrics_show("the connections to be gone", gone).await;
        let asked = Instant::now();
        for client in &mut clients {
            client.send(&frame::query("SELECT 2")).await;
        }
        tokio::time::sleep(AWAY).await;
        let times: Vec<Instant> = proxy.accepted_at().into_iter().filter(|at| *at >= asked).collect();
        // All in all: who stands still for a moment sees what came meanwhile as if it had come at once.
        let away = asked.elapsed();
        println!("{} connects in {away:?}", times.len());
        assert!(times.len() as f64 <= AT_ONCE + PACE * away.as_secs_f64(), "{} in {away:?}", times.len());
        // It is looked for all the while.
        proxy.has_accepted(proxy.accepted() + 1).await;

        let (back, before) = (Instant::now(), proxy.accepted());
        proxy.behave(Behaviour::Pass);
        for client in &mut clients {
            let answer = client.until_ready().await;
            assert!(first_error(&answer).is_none(), "{answer:?}");
        }
        let connects = proxy.accepted() - before;
        println!("all served after {:?} with {connects} connects", back.elapsed());
        assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
        assert!(connects as f64 <= POOLS as f64 + PACE, "{connects} connects for {POOLS} pools");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_does_not_stand_in_line() {
    let cluster = Cluster::start().await;
    let proxy = FaultProxy::start(cluster.port()).await;
    let pool = Pooler::start(over(&cluster, &proxy, 1)).await;
    let mut clients = clients(&pool).await;
    let mut sleeper = clients.pop().expect("there are some");
    sleeper.send(&frame::query("SELECT pg_sleep(60)")).await;
    runs(&cluster, "pg_sleep(60)").await;
    // New connects hang, many of them, and then the server is known to be silent.
    proxy.behave(Behaviour::Refuse);
    cluster.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle' AND backend_type = 'client backend'").await;
    let all_but_one_are_gone = |now: &Scrape| now.sum("sidepool_pool_server_connections", &[]) < 1.5;
    pool.metrics_show("the connections to be gone", all_but_one_are_gone).await;
    let before = proxy.accepted();
    for client in &mut clients {
        client.send(&frame::query("SELECT 2")).await;
    }
    proxy.has_accepted(before + 10).await;
    proxy.behave(Behaviour::Pass);
    cancel_at(pool.postgres_port(), &sleeper).await;
    is_cancelled(&mut sleeper).await;
}
