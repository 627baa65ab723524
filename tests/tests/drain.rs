//! SIGTERM: not ready at once, no new clients, open transactions finish, idle clients are told, exit status 0.

use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::wire::first_error;
use sidepool_tests::postgres::{Cluster, frame, tags};
use sidepool_tests::process::Signal;
use sidepool_tests::redis::{self, RedisServer};
use sidepool_tests::scrape;
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread")]
async fn with_nobody_there_it_ends_at_once() {
    let (cluster, server) = (Cluster::start().await, RedisServer::start().await);
    let mut pool = Pooler::start(Settings::postgres(&cluster).and_redis(&server).set("drain.timeout", "60s")).await;
    assert!(pool.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_clients_are_told_and_open_transactions_finish() {
    let cluster = Cluster::start().await;
    cluster.sql("CREATE TABLE kept (n int); GRANT ALL ON kept TO app").await;
    let mut pool = Pooler::start(Settings::postgres(&cluster).set("drain.timeout", "60s")).await;
    let (mut idle, mut busy) = (pool.wire().await, pool.wire().await);
    busy.query("BEGIN; INSERT INTO kept VALUES (1)").await;
    pool.process().signal(Signal::TERM);
    let told = idle.until_closed().await;
    let error = first_error(&told).expect("an idle client is told why");
    assert_eq!(error.field(b'C').as_deref(), Some("57P01"));
    let admin = pool.settings().admin_port();
    let ready = scrape::get(admin, "/readyz").await.expect("the admin listener is still there");
    assert_eq!(ready.status, 503);
    assert_eq!(scrape::get(admin, "/livez").await.expect("alive").status, 200);
    assert_eq!(busy.value("SELECT count(*) FROM kept").await, "1", "the transaction goes on");
    assert!(tags(&busy.query("COMMIT").await).starts_with('C'));
    assert!(pool.process_mut().ended().await.success());
    let row = cluster.superuser("app").await.query_one("SELECT count(*) FROM kept", &[]).await.expect("a count");
    assert_eq!(row.get::<_, i64>(0), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn new_clients_are_not_accepted() {
    let cluster = Cluster::start().await;
    let mut pool = Pooler::start(Settings::postgres(&cluster).set("drain.timeout", "60s")).await;
    let mut busy = pool.wire().await;
    busy.query("BEGIN").await;
    pool.process().signal(Signal::TERM);
    let port = pool.postgres_port();
    wait::until("the door to be closed", async || {
        let Ok(mut stream) = tokio::net::TcpStream::connect(("127.0.0.1", port)).await else { return Some(()) };
        // It may close at any time from here on: who is cut off has not been let in either.
        let mut said = [0];
        let login = frame::startup(&[("user", "app"), ("database", "app")]);
        let answered = stream.write_all(&login).await.is_ok() && stream.read_exact(&mut said).await.is_ok();
        (!answered || said == *b"E").then_some(())
    })
    .await;
    busy.query("COMMIT").await;
    assert!(pool.process_mut().ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_drain_timeout_is_a_hard_stop() {
    let cluster = Cluster::start().await;
    let mut pool = Pooler::start(Settings::postgres(&cluster).set("drain.timeout", "1s")).await;
    let mut busy = pool.wire().await;
    busy.query("BEGIN").await;
    assert!(pool.terminate().await.success(), "the exit status is 0 all the same");
    busy.until_closed().await;
    wait::until("the server to be rid of us", async || (cluster.connections().await == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_is_answered_under_load() {
    let (cluster, server) = (Cluster::start().await, RedisServer::start().await);
    cluster.sql("CREATE TABLE entry (id text primary key); GRANT ALL ON entry TO app").await;
    let mut pool = Pooler::start(Settings::postgres(&cluster).and_redis(&server).set("drain.timeout", "60s")).await;
    let mut clients = JoinSet::new();
    for client in 0..30 {
        let (mut wire, mut redis) = (pool.wire().await, pool.redis_wire().await);
        clients.spawn(async move {
            let mut done = 0;
            loop {
                // A transaction of three steps: once begun, it ends well, or the client is told before it begins.
                if wire.try_send(&frame::query("BEGIN")).await.is_err() || first_error(&wire.until_ready().await).is_some() {
                    break;
                }
                let inserted = wire.query(&format!("INSERT INTO entry VALUES ('{client}-{done}')")).await;
                assert_eq!(tags(&inserted), "CZ", "cut inside a transaction");
                let committed = wire.query("COMMIT").await;
                if !tags(&committed).starts_with('C') {
                    // Closed between two messages: allowed only at a boundary.
                    assert!(committed.is_empty(), "{}", tags(&committed));
                    break;
                }
                done += 1;
                if redis.try_send(&redis::wire::request(&["INCR", "done"])).await.is_err() || redis.read().await.is_none() {
                    break;
                }
            }
            done
        });
    }
    let committed = async || {
        let row = cluster.superuser("app").await.query_one("SELECT count(*) FROM entry", &[]).await.expect("a count");
        row.get::<_, i64>(0)
    };
    wait::until("traffic", async || (committed().await > 200).then_some(())).await;
    assert!(pool.terminate().await.success());
    let mut done = 0;
    while let Some(finished) = clients.join_next().await {
        done += finished.expect("no client saw a broken transaction");
    }
    assert_eq!(committed().await, done, "every COMMIT that was answered is there, and no other");
}
