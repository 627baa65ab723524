//! Several workers: still one limit and one queue for each pool of the process, and no connection is stranded on a worker without clients.

use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::{Cluster, Wire, frame, tags};
use sidepool_tests::redis::{RedisServer, Reply};
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;

fn two_workers(cluster: &Cluster) -> Settings {
    Settings::postgres(cluster).set("workers", 2).set("postgres.default_pool_size", 2)
}

#[tokio::test(flavor = "multi_thread")]
async fn any_two_clients_use_both_connections() {
    // Whichever worker each client lands on, every pair of them can hold a transaction at the same time.
    let cluster = Cluster::start().await;
    let pool = Pooler::start(two_workers(&cluster)).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(pool.wire().await);
    }
    for first in 0..clients.len() {
        for second in 0..first {
            let (head, tail) = clients.split_at_mut(first);
            let (left, right) = (&mut tail[0], &mut head[second]);
            assert_eq!(tags(&left.query("BEGIN").await), "CZ");
            assert_eq!(tags(&right.query("BEGIN").await), "CZ", "clients {first} and {second}");
            assert_ne!(left.value("SELECT pg_backend_pid()").await, right.value("SELECT pg_backend_pid()").await);
            left.query("COMMIT").await;
            right.query("COMMIT").await;
        }
    }
    assert_eq!(cluster.connections().await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_is_one_for_all() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(two_workers(&cluster)).await;
    let mut clients = Vec::new();
    for _ in 0..12 {
        clients.push(pool.wire().await);
    }
    // Whoever has a connection keeps it until all others have been seen waiting.
    let gate = cluster.superuser("app").await;
    gate.batch_execute("SELECT pg_advisory_lock(1)").await.expect("a lock");
    for wire in &mut clients {
        wire.send(&frame::query("SELECT pg_advisory_xact_lock_shared(1)")).await;
    }
    pool.metrics_show("ten who wait", |now| now.sum("sidepool_pool_client_connections", &[("state", "waiting")]) == 10.0).await;
    wait::until("both connections", async || (cluster.connections().await == 2).then_some(())).await;
    gate.batch_execute("SELECT pg_advisory_unlock(1)").await.expect("no lock");
    for wire in &mut clients {
        assert_eq!(tags(&wire.until_ready().await), "TDCZ");
    }
    assert_eq!(cluster.connections().await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_that_lands_on_the_other_worker_finds_its_query() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(two_workers(&cluster)).await;
    for round in 0..8 {
        let mut wire = pool.wire().await;
        wire.send(&frame::query("SELECT pg_sleep(60)")).await;
        // PostgreSQL ignores a cancel that comes before the query.
        let running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep%'";
        let superuser = cluster.superuser("app").await;
        wait::until("a query that runs", async || {
            let count: i64 = superuser.query_one(running, &[]).await.expect(running).get(0);
            (count == 1).then_some(())
        })
        .await;
        let (process, key) = wire.cancel_key.clone().expect("a key");
        let mut messenger = Wire::connect(pool.postgres_port()).await;
        messenger.send(&frame::cancel(process, &key)).await;
        messenger.until_closed().await;
        assert_eq!(tags(&wire.until_ready().await), "TEZ", "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_clients_of_both_workers_see_one_server() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server).set("workers", 2)).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(pool.redis_wire().await);
    }
    for (index, wire) in clients.iter_mut().enumerate() {
        assert_eq!(wire.command(&["INCR", "counter"]).await.text(), (index + 1).to_string());
    }
    // A message that one publishes reaches the subscribers of both.
    for wire in &mut clients[1..] {
        assert_eq!(wire.command(&["SUBSCRIBE", "news"]).await.elements()[0].text(), "subscribe");
    }
    assert!(matches!(clients[0].command(&["PUBLISH", "news", "hello"]).await, Reply::Integer(_)));
    for wire in &mut clients[1..] {
        assert_eq!(wire.reply().await.elements()[2].text(), "hello");
    }
}
