//! A Redis connection is lost under load: what was not executed or only reads is asked again, everything else is called unknown, and nothing is
//! ever written twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sidepool_tests::fault::{Behaviour, FaultProxy};
use sidepool_tests::pooler::Pooler;
use sidepool_tests::redis::wire::request;
use sidepool_tests::redis::{RedisServer, Reply};
use sidepool_tests::scrape::Scrape;
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;
use tokio::task::JoinSet;

fn nothing_is_under_way(now: &Scrape) -> bool {
    under_way(now).abs() < 0.5
}

fn under_way(now: &Scrape) -> f64 {
    now.sum("sidepool_redis_inflight_commands", &[])
}

async fn are_blocked(server: &RedisServer, count: u32) {
    let told = format!("blocked_clients:{count}\r\n");
    let mut direct = server.direct().await;
    wait::until(&told, async || direct.command(&["INFO", "clients"]).await.text().contains(&told).then_some(())).await;
}

async fn through_a_cutting_network() -> (RedisServer, FaultProxy, Pooler) {
    let server = RedisServer::start().await;
    let network = FaultProxy::start(server.port()).await;
    let settings =
        Settings::redis(&server).set("redis.main.port", i64::from(network.port())).set("redis.main.server_connect_backoff", "10ms");
    (server, network, Pooler::start(settings).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_loss_is_not_noticed() {
    let (_server, network, pool) = through_a_cutting_network().await;
    let mut wire = pool.redis_wire().await;
    for round in 0..10 {
        assert_eq!(wire.command(&["INCR", "n"]).await, Reply::Integer(round + 1), "not even by a write");
        network.cut();
        // The proxy learns of it before the next command.
        pool.metrics_show("no shared connection", |now| now.sum("sidepool_redis_connections", &[("use", "shared")]) < 0.5).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_in_flight_are_asked_again() {
    let (_server, network, pool) = through_a_cutting_network().await;
    let mut wire = pool.redis_wire().await;
    wire.command(&["SET", "k", "value"]).await;
    network.behave(Behaviour::Stall);
    wire.send(&[request(&["GET", "k"]), request(&["STRLEN", "k"]), request(&["GET", "k"])].concat()).await;
    pool.metrics_show("all three on the way", |now| under_way(now) > 2.5).await;
    assert!(wire.is_silent().await);
    // In this order: what was held back must not slip through before the cut.
    network.cut();
    network.behave(Behaviour::Pass);
    assert_eq!(wire.reply().await.text(), "value");
    assert_eq!(wire.reply().await, Reply::Integer(5));
    assert_eq!(wire.reply().await.text(), "value");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_is_asked_again_has_waited_already() {
    let server = RedisServer::start().await;
    let network = FaultProxy::start(server.port()).await;
    let settings = Settings::redis(&server).set("redis.main.port", i64::from(network.port())).set("redis.main.query_wait_timeout", "6s");
    let pool = Pooler::start(settings).await;
    let mut wire = pool.redis_wire().await;
    wire.command(&["SET", "k", "value"]).await;
    network.behave(Behaviour::Stall);
    wire.send(&request(&["GET", "k"])).await;
    // Nothing happens for so long: that is what this is about.
    tokio::time::sleep(Duration::from_secs(3)).await;
    network.cut();
    pool.metrics_show("the loss", |now| now.sum("sidepool_redis_retries_total", &[("reason", "read")]) > 0.5).await;
    wire.send(&request(&["SET", "k", "later"])).await;
    let told = wire.reply().await;
    assert!(told.is_error("UPSTREAM") && told.text().contains("no other one within query_wait_timeout"), "{told:?}");
    network.behave(Behaviour::Pass);
    assert_eq!(wire.reply().await.text(), "OK", "what came later goes on waiting");
    pool.metrics_show("nothing under way", nothing_is_under_way).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_not_under_way() {
    let server = RedisServer::start().await;
    let network = FaultProxy::start(server.port()).await;
    network.behave(Behaviour::Refuse);
    let settings = Settings::redis(&server).set("redis.main.port", i64::from(network.port())).set("redis.main.query_wait_timeout", "500ms");
    let pool = Pooler::start(settings).await;
    let mut wire = pool.redis_wire().await;
    // On a slow machine the first may be told that its time is up before it is known why.
    wait::until("a connect that was refused", async || wire.command(&["SET", "k", "x"]).await.is_error("UPSTREAM").then_some(())).await;
    for _ in 0..5 {
        assert!(wire.command(&["SET", "k", "x"]).await.is_error("UPSTREAM"));
    }
    pool.metrics_show("nothing under way", nothing_is_under_way).await;
    network.behave(Behaviour::Pass);
    wait::until("the server", async || (wire.command(&["SET", "k", "x"]).await.text() == "OK").then_some(())).await;
    pool.metrics_show("nothing under way", nothing_is_under_way).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_in_flight_is_called_unknown_and_not_repeated() {
    let (server, network, pool) = through_a_cutting_network().await;
    let mut wire = pool.redis_wire().await;
    wire.command(&["SET", "n", "0"]).await;
    network.behave(Behaviour::Stall);
    wire.send(&[request(&["GET", "n"]), request(&["INCR", "n"]), request(&["GET", "n"])].concat()).await;
    // What has not been sent when the connection is lost is sent down the next one.
    pool.metrics_show("all three on the way", |now| under_way(now) > 2.5).await;
    assert!(wire.is_silent().await);
    // In this order: what was held back must not slip through before the cut.
    network.cut();
    network.behave(Behaviour::Pass);
    assert!(wire.reply().await.is_error("UPSTREAM"), "the read before the write may have been overtaken by it");
    let unknown = wire.reply().await;
    assert!(unknown.is_error("UPSTREAM") && unknown.text().contains("unknown"), "{unknown:?}");
    let value = server.direct().await.command(&["GET", "n"]).await;
    assert_eq!(wire.reply().await, value, "the read behind it says what came of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_twice_however_often_it_is_cut() {
    let (server, network, pool) = through_a_cutting_network().await;
    let (mut clients, rounds) = (JoinSet::new(), Arc::new(AtomicU64::new(0)));
    for client in 0..12 {
        let (mut wire, rounds) = (pool.redis_wire().await, Arc::clone(&rounds));
        clients.spawn(async move {
            let key = format!("n{client}");
            let (mut sure, mut unknown) = (0, 0);
            for round in 0..150 {
                // Pipelines of a read, some writes and a read; each reply must be of its own kind.
                let writes = round % 3 + 1;
                let mut bytes = request(&["ECHO", &key]);
                (0..writes).for_each(|_| bytes.extend(request(&["INCR", &key])));
                bytes.extend(request(&["ECHO", "end"]));
                wire.send(&bytes).await;
                let first = wire.reply().await;
                assert!(first.text() == key || first.is_error("UPSTREAM"), "{first:?}");
                for _ in 0..writes {
                    match wire.reply().await {
                        Reply::Integer(_) => sure += 1,
                        error => {
                            assert!(error.is_error("UPSTREAM"), "{error:?}");
                            unknown += 1;
                        }
                    }
                }
                let last = wire.reply().await;
                assert!(last.text() == "end" || last.is_error("UPSTREAM"), "{last:?}");
                rounds.fetch_add(1, Ordering::Relaxed);
            }
            (key, sure, unknown)
        });
    }
    let cutting = tokio::spawn(async move {
        let mut before = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(15)).await;
            // A slow machine would never get through a login, or to a reply.
            let now = rounds.load(Ordering::Relaxed);
            if now > before {
                before = now;
                network.cut();
            }
        }
    });
    let mut direct = server.direct().await;
    while let Some(done) = clients.join_next().await {
        let (key, sure, unknown) = done.expect("every client finished");
        let value: u64 = direct.command(&["GET", &key]).await.text().parse().unwrap_or(0);
        assert!((sure..=sure + unknown).contains(&value), "{key}: {value} is not between {sure} and {}", sure + unknown);
    }
    cutting.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_client_is_told() {
    let (server, network, pool) = through_a_cutting_network().await;
    let mut wire = pool.redis_wire().await;
    wire.send(&request(&["BLPOP", "list", "0"])).await;
    are_blocked(&server, 1).await;
    network.cut();
    assert!(wire.reply().await.is_error("UPSTREAM"));
    are_blocked(&server, 0).await;
    server.direct().await.command(&["RPUSH", "list", "kept"]).await;
    assert_eq!(wire.command(&["LPOP", "list"]).await.text(), "kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_come_back_by_themselves() {
    let (server, network, pool) = through_a_cutting_network().await;
    let mut subscriber = pool.redis_wire().await;
    subscriber.command(&["SUBSCRIBE", "news"]).await;
    network.cut();
    let mut direct = server.direct().await;
    // What is published into the gap is lost, as with any client that reconnects.
    let heard = wait::until("a message after the gap", async || {
        direct.command(&["PUBLISH", "news", "after the gap"]).await;
        tokio::time::timeout(Duration::from_millis(50), subscriber.read_patiently()).await.ok()
    })
    .await;
    assert_eq!(heard.expect("the client stays").elements()[2].text(), "after the gap");
}
