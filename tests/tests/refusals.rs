//! Refusals: a full queue at once, a long wait at its end; the error says which pool, how full, and what to do. Others go on.

use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::wire::first_error;
use sidepool_tests::postgres::{Cluster, Message, Wire, frame, tags};
use sidepool_tests::redis::{RedisServer, Reply};
use sidepool_tests::scrape::Scrape;
use sidepool_tests::settings::Settings;

fn waiting(count: f64) -> impl Fn(&Scrape) -> bool {
    move |now| (now.sum("sidepool_pool_client_connections", &[("state", "waiting")]) - count).abs() < 0.5
}

fn assert_refusal(error: &Message, facts: &[&str]) {
    assert_eq!(error.field(b'C').as_deref(), Some("53300"));
    let detail = error.field(b'D').expect("a refusal has a DETAIL");
    for fact in facts {
        assert!(detail.contains(fact), "{fact:?} is not in {detail:?}");
    }
    assert!(error.field(b'H').is_some_and(|hint| hint.len() > 10), "a refusal has a HINT");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_at_once() {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster)
        .set("postgres.default_pool_size", 1)
        .set("postgres.max_queue_length", 2)
        .set("postgres.query_wait_timeout", "60s");
    let pool = Pooler::start(settings).await;
    let mut holder = pool.wire().await;
    holder.query("BEGIN").await;
    let mut queue = Vec::new();
    for index in 0..2 {
        let mut wire = pool.wire().await;
        wire.send(&frame::query(&format!("SELECT {index}"))).await;
        queue.push(wire);
    }
    pool.metrics_show("two waiters", waiting(2.0)).await;
    let mut refused = pool.wire().await;
    let answer = refused.query("SELECT 'too many'").await;
    let error = first_error(&answer).expect("the third is refused");
    assert_refusal(error, &["app", "1", "2"]);
    if tags(&answer).ends_with('Z') {
        // Refused, not thrown out: the client may try again.
        let extended = [frame::parse("", "SELECT 1"), frame::bind("", "", &[]), frame::execute("", 0), frame::sync()].concat();
        assert_eq!(tags(&refused.ask(&extended).await), "EZ", "one error, and one ReadyForQuery");
    }
    let rejections = pool.scrape().await.sum("sidepool_pool_rejections_total", &[("reason", "queue_full")]);
    assert!(rejections >= 1.0, "refusals are counted");
    holder.query("COMMIT").await;
    for (index, wire) in queue.iter_mut().enumerate() {
        let answer = wire.until_ready().await;
        assert_eq!(sidepool_tests::postgres::wire::first_column(&answer), [index.to_string()], "who waited is served in order");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_wait_ends_with_an_error_that_says_how_long() {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster).set("postgres.default_pool_size", 1);
    let mut pool = Pooler::start(settings.clone()).await;
    let (mut holder, mut waiter) = (pool.wire().await, pool.wire().await);
    holder.query("BEGIN").await;
    pool.reload(settings.clone().set("postgres.query_wait_timeout", "1s")).await;
    let answer = waiter.query("SELECT 1").await;
    assert_refusal(first_error(&answer).expect("the wait ends"), &["app", "1"]);
    assert_eq!(holder.value("SELECT 'unharmed'").await, "unharmed");
    let rejections = pool.scrape().await.sum("sidepool_pool_rejections_total", &[("reason", "wait_timeout")]);
    assert!(rejections >= 1.0, "refusals are counted");
    pool.reload(settings).await;
    holder.query("COMMIT").await;
    let mut again = Wire::login(pool.postgres_port(), "app", "app", "").await;
    assert_eq!(again.value("SELECT 'room'").await, "room");
}

#[tokio::test(flavor = "multi_thread")]
async fn waiters_are_served_first_come_first_served() {
    let cluster = Cluster::start().await;
    cluster.sql("CREATE TABLE served (place serial, client int); GRANT ALL ON served TO app; GRANT ALL ON served_place_seq TO app").await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.default_pool_size", 1)).await;
    let mut holder = pool.wire().await;
    holder.query("BEGIN").await;
    let mut queue = Vec::new();
    for client in 0..20 {
        let mut wire = pool.wire().await;
        wire.send(&frame::query(&format!("INSERT INTO served (client) VALUES ({client})"))).await;
        pool.metrics_show("one more waiter", waiting(f64::from(client) + 1.0)).await;
        queue.push(wire);
    }
    // Those who give up in the middle cost the others nothing.
    drop(queue.remove(5));
    drop(queue.remove(10));
    pool.metrics_show("two waiters fewer", waiting(18.0)).await;
    holder.query("COMMIT").await;
    for wire in &mut queue {
        assert_eq!(tags(&wire.until_ready().await), "CZ");
    }
    let order = holder.value("SELECT string_agg(client::text, ' ' ORDER BY place) FROM served").await;
    let expected: Vec<String> = (0..20).filter(|client| ![5, 11].contains(client)).map(|client| client.to_string()).collect();
    assert_eq!(order, expected.join(" "));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_before_its_turn_has_nothing_run() {
    let cluster = Cluster::start().await;
    cluster.superuser("app").await.batch_execute("CREATE TABLE t (x text); GRANT ALL ON t TO PUBLIC").await.expect("a table");
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.default_pool_size", 1)).await;
    let mut holder = pool.wire().await;
    holder.query("BEGIN").await;
    let before = holder.value("SELECT pg_backend_pid()").await;
    // Too large to be read to its end by somebody who only looks whether the client is still there, and all in the sockets.
    let mut leaver = pool.wire().await;
    leaver.send(&frame::query(&format!("INSERT INTO t VALUES ('{}')", "x".repeat(100_000)))).await;
    pool.metrics_show("a waiter", waiting(1.0)).await;
    drop(leaver);
    holder.query("COMMIT").await;
    pool.metrics_show("nobody to wait", waiting(0.0)).await;
    assert_eq!(holder.value("SELECT count(*) FROM t").await, "0");
    assert_eq!(holder.value("SELECT pg_backend_pid()").await, before, "the connection is as good as it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_refuses_with_the_same_facts() {
    let server = RedisServer::start().await;
    let settings = Settings::redis(&server)
        .set("redis.main.pool_size", 2)
        .set("redis.main.shared_connections", 1)
        .set("redis.main.max_queue_length", 1)
        .set("redis.main.query_wait_timeout", "60s");
    let pool = Pooler::start(settings).await;
    let mut plain = pool.redis_wire().await;
    assert_eq!(plain.command(&["SET", "key", "value"]).await.text(), "OK");
    // One blocks on the only connection that is left beside the shared one, one waits for it, one is too many.
    let mut blocked = pool.redis_wire().await;
    blocked.send(&sidepool_tests::redis::wire::request(&["BLPOP", "list", "0"])).await;
    pool.metrics_show("a leased connection", |now| now.sum("sidepool_redis_connections", &[("use", "leased")]) >= 1.0).await;
    let mut waiter = pool.redis_wire().await;
    waiter.send(&sidepool_tests::redis::wire::request(&["BLPOP", "list", "0"])).await;
    pool.metrics_show("a waiter", waiting(1.0)).await;
    let mut refused = pool.redis_wire().await;
    let Reply::Error(text) = refused.command(&["BLPOP", "list", "0"]).await else { panic!("the third is refused") };
    assert!(!text.starts_with("ERR "), "a prefix of its own: {text}");
    for fact in ["main", "2", "1"] {
        assert!(text.contains(fact), "{fact:?} is not in {text:?}");
    }
    assert_eq!(refused.command(&["GET", "key"]).await.text(), "value", "what can be shared still works");
    assert_eq!(plain.command(&["RPUSH", "list", "a", "b"]).await, Reply::Integer(2));
    assert_eq!(blocked.reply().await.elements()[1].text(), "a");
    assert_eq!(waiter.reply().await.elements()[1].text(), "b");
}
