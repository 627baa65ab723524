//! Each refusal has a reason of a closed list, the same word in the log and in a metric: at the door, in the login, and for a query or command that gets
//! no connection.

use serde_json::Value;
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::cluster::{PASSWORD, USER};
use sidepool_tests::postgres::{Cluster, Wire, frame};
use sidepool_tests::redis::RedisServer;
use sidepool_tests::scrape::Scrape;
use sidepool_tests::settings::Settings;
use sidepool_tests::{place, wait};

const DENIALS: &str = "sidepool_client_denials_total";

/// The lines with such a message, which are JSON.
fn lines(pool: &Pooler, message: &str) -> Vec<Value> {
    let lines = pool.process().log().lines();
    let parsed = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    parsed.filter(|line| line["message"].as_str().is_some_and(|said| said.starts_with(message))).collect()
}

/// The same, awaited until there are so many.
async fn told(pool: &Pooler, message: &str, count: usize) -> Vec<Value> {
    wait::until(message, async || Some(lines(pool, message)).filter(|told| told.len() >= count)).await
}

fn denials(now: &Scrape, protocol: &str, reason: &str) -> f64 {
    now.sum(DENIALS, &[("protocol", protocol), ("reason", reason)])
}

/// A login that is refused; the log and the metric have this reason for it.
async fn denied(pool: &Pooler, user: &str, database: &str, password: &str, reason: &str) {
    let before = denials(&pool.scrape().await, "postgres", reason);
    let (from, parameters) = (pool.process().log().len(), [("user", user), ("database", database)]);
    assert!(Wire::try_login(pool.postgres_port(), &parameters, password).await.is_err(), "{reason}");
    let line = pool.process().log().line_with_after(from, "login refused").await;
    assert!(line.contains(&format!("\"reason\":\"{reason}\"")), "{reason}: {line}");
    pool.metrics_show(reason, |now| denials(now, "postgres", reason) == before + 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_let_in_is_told_apart() {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster)
        .set("log.format", "json")
        .set("postgres.auth_type", "scram-sha-256")
        .set("postgres.databases.missing.host", "127.0.0.1")
        .set("postgres.databases.missing.port", i64::from(cluster.port()))
        .set("postgres.databases.full.host", "127.0.0.1")
        .set("postgres.databases.full.port", i64::from(cluster.port()))
        .set("postgres.databases.full.dbname", "app")
        .set("postgres.databases.full.max_db_client_connections", 1)
        .set("postgres.databases.away.host", "127.0.0.1")
        .set("postgres.databases.away.port", i64::from(place::free_port()));
    let mut pool = Pooler::start(settings.clone()).await;
    denied(&pool, USER, "app", "wrong", "auth_failed").await;
    denied(&pool, "nobody", "app", "wrong", "auth_failed").await;
    denied(&pool, USER, "nowhere", PASSWORD, "unknown_database").await;
    denied(&pool, USER, "missing", PASSWORD, "no_server_database").await;
    denied(&pool, USER, "pgbouncer", PASSWORD, "console").await;
    let _only = Wire::login(pool.postgres_port(), USER, "full", PASSWORD).await;
    denied(&pool, USER, "full", PASSWORD, "max_db_client_connections").await;
    // Only who is to wait in vain has so little time.
    pool.reload(settings.clone().set("postgres.query_wait_timeout", "500ms")).await;
    denied(&pool, USER, "away", PASSWORD, "wait_timeout").await;
    pool.reload(settings.clone().set("postgres.client_login_timeout", "1s")).await;
    // Who is silent, who speaks otherwise, and who leaves: the last was not denied anything.
    let mut silent = Wire::connect(pool.postgres_port()).await;
    silent.send(&frame::startup(&[("user", USER), ("database", "app")])).await;
    silent.until_closed().await;
    pool.reload(settings).await;
    let mut stranger = Wire::connect(pool.postgres_port()).await;
    stranger.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    stranger.until_closed().await;
    // It has read what was sent to it: otherwise its socket would end with a reset.
    let mut leaver = Wire::connect(pool.postgres_port()).await;
    leaver.send(&frame::startup(&[("user", USER), ("database", "app")])).await;
    assert_eq!(leaver.read().await.map(|asked| asked.tag), Some(b'R'));
    drop(leaver);
    pool.process().log().line_with("client left during login").await;
    // The reasons add up to the results, and a stranger is one fault.
    let failed = |now: &Scrape, result| now.sum("sidepool_client_logins_total", &[("protocol", "postgres"), ("result", result)]);
    let results = |now: &Scrape| {
        let all = ["bad_password", "no_database", "refused", "timeout", "crowded_out", "other"];
        all.map(|result| failed(now, result)).iter().sum::<f64>()
    };
    let one_has_left = |now: &Scrape| results(now) == now.sum(DENIALS, &[("protocol", "postgres")]) + 1.0;
    let now = pool.metrics_show("all, of whom one has left", one_has_left).await;
    assert_eq!((denials(&now, "postgres", "login_timeout"), denials(&now, "postgres", "not_postgres")), (1.0, 1.0));
    assert_eq!((failed(&now, "bad_password"), failed(&now, "no_database"), failed(&now, "refused")), (2.0, 2.0, 2.0));
    assert_eq!(now.sum("sidepool_client_faults_total", &[("protocol", "postgres")]), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gets_no_connection_is_told_apart() {
    let (cluster, server) = (Cluster::start().await, RedisServer::start().await);
    let settings = Settings::postgres(&cluster)
        .and_redis(&server)
        .set("log.format", "json")
        .set("postgres.default_pool_size", 1)
        .set("postgres.max_queue_length", 1)
        .set("redis.main.pool_size", 2)
        .set("redis.main.shared_connections", 1);
    let mut pool = Pooler::start(settings.clone()).await;
    let (mut holder, mut waiter, mut refused) = (pool.wire().await, pool.wire().await, pool.wire().await);
    holder.query("BEGIN").await;
    waiter.send(&frame::query("SELECT 'secret'")).await;
    pool.metrics_show("a waiter", |now| now.sum("sidepool_pool_client_connections", &[("state", "waiting")]) == 1.0).await;
    refused.query("SELECT 'secret'").await;
    holder.query("COMMIT").await;
    waiter.until_ready().await;
    // A command on a connection of its own.
    let (mut blocks, mut wants) = (pool.redis_wire().await, pool.redis_wire().await);
    blocks.command(&["WATCH", "secret"]).await;
    // Only who is to wait in vain has so little time.
    holder.query("BEGIN").await;
    let impatient = settings.set("postgres.query_wait_timeout", "300ms").set("redis.main.query_wait_timeout", "300ms");
    pool.reload(impatient.clone()).await;
    waiter.query("SELECT 'secret'").await;
    let told_so_far = told(&pool, "no connection for a client", 2).await;
    let [full, late] = &told_so_far[..] else { panic!("{told_so_far:?}") };
    assert_eq!((&full["reason"], &late["reason"]), (&"queue_full".into(), &"wait_timeout".into()));
    assert!(full["level"] == "WARN" && full["pool"] == "app.app" && full["user"] == USER && full["database"] == "app", "{full}");
    assert!(full["client"].is_u64() && full["client"] != late["client"] && full["peer"].is_string(), "{full}");
    let counted = |now: &Scrape, reason| now.sum("sidepool_pool_rejections_total", &[("reason", reason)]);
    let now = pool.metrics_show("who waited", |now| counted(now, "wait_timeout") > 0.5).await;
    assert_eq!((counted(&now, "queue_full"), counted(&now, "wait_timeout")), (1.0, 1.0));
    assert!(wants.command(&["WATCH", "secret"]).await.is_error("POOLEXHAUSTED"));
    let exhausted = told(&pool, "no connection for a client: POOLEXHAUSTED", 1).await;
    assert!(exhausted[0]["reason"] == "wait_timeout" && exhausted[0]["pool"] == "main/default/0/resp2/leased", "{exhausted:?}");
    // It can be switched off.
    pool.reload(impatient.set("log.pooler_errors", false)).await;
    assert!(wants.command(&["WATCH", "secret"]).await.is_error("POOLEXHAUSTED"));
    assert_eq!(lines(&pool, "no connection for a client").len(), 3);
    assert!(pool.process().log().lines().iter().all(|line| !line.contains("secret")), "{}", pool.process().log().tail(9));
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_clients_that_are_not_let_in_are_told_apart() {
    let mut server = RedisServer::start().await;
    let settings = Settings::redis(&server)
        .set("log.format", "json")
        .set("redis.main.users.app.password", "a-secret")
        .set("redis.main.client_login_timeout", "4s")
        .set("redis.main.query_wait_timeout", "300ms")
        .set("redis.main.max_client_conn", 3);
    let pool = Pooler::start(settings).await;
    let mut wire = pool.redis_wire().await;
    assert!(wire.command(&["AUTH", "app", "wrong"]).await.is_error("WRONGPASS"));
    let mut stranger = pool.redis_wire().await;
    stranger.send(b"*x\r\n").await;
    while stranger.read().await.is_some() {}
    let mut silent = pool.redis_wire().await;
    assert!(wire.read().await.is_none(), "its time is up");
    assert!(silent.read().await.is_none(), "so is that of one that says nothing");
    let now = pool.metrics_show("both", |now| denials(now, "redis", "login_timeout") == 1.0).await;
    let reasons = ["auth_failed", "protocol_violation", "login_timeout", "crowded_out"].map(|reason| denials(&now, "redis", reason));
    assert_eq!(reasons, [1.0, 1.0, 1.0, 0.0]);
    // Wrong, then right, then wrong again: it is in.
    let mut wire = pool.redis_wire().await;
    for (password, right) in [("wrong", false), ("a-secret", true), ("wrong", false)] {
        assert_eq!(wire.command(&["AUTH", "app", password]).await.text() == "OK", right);
    }
    server.stop();
    assert!(wire.command(&["GET", "a-key"]).await.is_error("UPSTREAM"));
    let away = told(&pool, "no connection for the requests of clients", 1).await;
    assert!(away[0]["requests"] == 1 && away[0]["reason"].is_string(), "{away:?}");
    // At the door.
    let (mut second, mut third) = (pool.redis_wire().await, pool.redis_wire().await);
    for more in [&mut second, &mut third] {
        assert_eq!(more.command(&["AUTH", "app", "a-secret"]).await.text(), "OK");
    }
    assert!(pool.redis_wire().await.reply().await.text().contains("max number of clients"));
    let line = pool.process().log().line_with("too many clients").await;
    assert!(line.contains("\"reason\":\"max_client_conn\""), "{line}");
    drop((wire, second, third));
    let nobody = |now: &Scrape| now.sum("sidepool_listener_client_connections", &[("listener", "redis/main")]) == 0.0;
    assert_eq!(denials(&pool.metrics_show("nobody", nobody).await, "redis", "auth_failed"), 1.0);
}
