//! What takes long is in the log with whose it was, how long it waited and ran, and without its values.

use std::time::Instant;

use serde_json::Value;
use sidepool_tests::log::Log;
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::cluster::{PASSWORD, USER};
use sidepool_tests::postgres::{Cluster, Wire, frame};
use sidepool_tests::redis::wire::request;
use sidepool_tests::redis::{RedisServer, Reply};
use sidepool_tests::settings::Settings;

/// The fields of the first line from number `from` on that contains all of these.
async fn line_from(log: &Log, from: usize, message: &str, also: &str) -> Value {
    let mut from = from;
    loop {
        let line = log.line_with_after(from, message).await;
        if line.contains(also) {
            return serde_json::from_str(&line).expect("each line is JSON");
        }
        from = log.lines().iter().skip(from).position(|other| *other == line).expect("the line is there") + from + 1;
    }
}

async fn slow(pool: &Pooler, statement: &str) -> Value {
    line_from(pool.process().log(), 0, "slow statement", statement).await
}

fn number(line: &Value, name: &str) -> f64 {
    line[name].as_f64().unwrap_or_else(|| panic!("{name} in {line}"))
}

fn settings(cluster: &Cluster) -> Settings {
    Settings::postgres(cluster).set("log.format", "json").set("postgres.log_min_duration_statement", "150ms")
}

/// A batch of these statements, each prepared and run.
fn batch(statements: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for sql in statements {
        bytes.extend([frame::parse("", sql), frame::bind("", "", &[]), frame::execute("", 0)].concat());
    }
    [bytes, frame::sync()].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_statements_are_told_with_their_client_and_without_values() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(settings(&cluster)).await;
    let parameters = [("user", USER), ("database", "app"), ("application_name", "shop\nfloor")];
    let mut wire = Wire::try_login(pool.postgres_port(), &parameters, PASSWORD).await.expect("a login");
    wire.query("SELECT 1").await;
    let pid = wire.value("SELECT pg_backend_pid()").await;
    wire.query("SELECT pg_sleep(0.2), 'secret' -- comment").await;
    let line = slow(&pool, "pg_sleep").await;
    assert_eq!(line["statement"], "SELECT pg_sleep(?), ?", "{line}");
    assert_eq!((&line["level"], &line["user"], &line["database"]), (&"WARN".into(), &USER.into(), &"app".into()), "{line}");
    assert_eq!(
        (&line["application_name"], &line["outcome"], &line["tag"]),
        (&"shop?floor".into(), &"completed".into(), &"SELECT 1".into())
    );
    assert_eq!(line["server_pid"].to_string(), pid, "{line}");
    assert!(
        line["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")) && line["pool"].is_string() && line["client"].is_u64()
    );
    assert!((190.0..30_000.0).contains(&number(&line, "duration_ms")) && number(&line, "wait_ms") == 0.0, "{line}");
    assert_eq!(number(&line, "server_ms"), number(&line, "duration_ms"));
    // An error is told with its SQLSTATE, and a password with nothing.
    wire.query("SELECT pg_sleep(0.2); ALTER ROLE no_such_role PASSWORD 'hunter2'").await;
    let line = slow(&pool, "ALTER").await;
    assert_eq!((&line["outcome"], &line["tag"]), (&"failed".into(), &"42704".into()), "{line}");
    assert_eq!(line["statement"], "SELECT pg_sleep(?); ALTER ROLE no_such_role PASSWORD ?");
    wire.query("SELECT 'quick'").await;
    let log = pool.process().log();
    assert!(log.lines().iter().all(|line| !line.contains("hunter2") && !line.contains("quick")), "{}", log.tail(9));
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_and_pipelined_statements_have_times_and_texts_of_their_own() {
    let cluster = Cluster::start().await;
    for mode in ["transaction", "session"] {
        let pool = Pooler::start(settings(&cluster).set("postgres.pool_mode", mode)).await;
        let mut wire = pool.wire().await;
        // A server answers a pipeline at its end, and so nobody can tell which of it was slow.
        wire.ask(&batch(&["SELECT 'before'", "SELECT pg_sleep(0.2), 'middle'", "SELECT 'behind' AS x"])).await;
        let line = slow(&pool, "pg_sleep(?), ?").await;
        assert_eq!(
            (&line["statement"], line["statements"].to_string()),
            (&"SELECT ?; SELECT pg_sleep(?), ?; SELECT ? AS x".into(), "3".to_owned())
        );
        assert!((190.0..30_000.0).contains(&number(&line, "server_ms")), "{line}");
        // Prepared once, run twice, in batches of their own.
        wire.ask(&[frame::parse("named", "SELECT 'named', pg_sleep($1::float8)"), frame::sync()].concat()).await;
        for _ in 0..2 {
            let from = pool.process().log().len();
            wire.ask(&[frame::bind("portal", "named", &["0.2"]), frame::execute("portal", 0), frame::sync()].concat()).await;
            let line = line_from(pool.process().log(), from, "slow statement", "$1").await;
            assert_eq!(
                (&line["statement"], &line["tag"]),
                (&"SELECT ?, pg_sleep($1::float8)".into(), &"SELECT 1".into()),
                "{mode}: {line}"
            );
        }
        // What an error skips is not told of.
        let from = pool.process().log().len();
        wire.ask(&batch(&["SELECT 1/length(pg_sleep(0.2)::text)", "SELECT 'skipped', pg_sleep(9)"])).await;
        let line = line_from(pool.process().log(), from, "slow statement", "?/length").await;
        assert_eq!((&line["outcome"], &line["tag"]), (&"failed".into(), &"22012".into()), "{mode}: {line}");
        // A slow machine may have been slow with others as well.
        let of_these = |line: &&String| line.contains("slow statement") && line.contains("pg_sleep");
        let told = pool.process().log().lines().iter().filter(of_these).count();
        assert_eq!(told, 4, "{mode}: {}", pool.process().log().tail(12));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wait_for_a_connection_is_told_apart_and_so_are_clients() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(settings(&cluster).set("postgres.default_pool_size", 1)).await;
    let (mut first, mut second) = (pool.wire().await, pool.wire().await);
    first.query("BEGIN").await;
    let asked = Instant::now();
    second.send(&frame::query("SELECT 'waited'::text")).await;
    // It waits for all of what the first one does now, however late its worker looked.
    pool.metrics_show("a waiter", |now| now.sum("sidepool_pool_client_connections", &[("state", "waiting")]) == 1.0).await;
    first.query("SELECT pg_sleep(0.3)").await;
    first.query("COMMIT").await;
    second.until_ready().await;
    let took_ms = asked.elapsed().as_secs_f64() * 1000.0;
    let (own, other) = (slow(&pool, "pg_sleep").await, slow(&pool, "::text").await);
    let (wait, server) = (number(&other, "wait_ms"), number(&other, "server_ms"));
    assert!(wait >= 150.0 && wait + server <= took_ms, "neither is a part of the other: {other} of {took_ms} ms");
    assert!(number(&own, "wait_ms") == 0.0, "{own}");
    assert!(own["client"] != other["client"] && own["peer"] != other["peer"], "{own} {other}");
    assert_eq!(own["server_pid"], other["server_pid"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_transaction_is_told_of_while_it_is_open_and_at_its_end() {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster).set("log.format", "json").set("postgres.log_min_duration_transaction", "2s");
    for mode in ["transaction", "session"] {
        let pool = Pooler::start(settings.clone().set("postgres.pool_mode", mode)).await;
        let log = pool.process().log();
        let mut wire = pool.wire().await;
        wire.query("BEGIN").await;
        wire.query("SELECT 'inside'").await;
        let open = line_from(log, 0, "long transaction", "\"open\"").await;
        assert_eq!((&open["last_statement"], open["statements"].to_string()), (&"SELECT ?".into(), "2".to_owned()), "{open}");
        assert!(number(&open, "idle_ms") > 150.0 && number(&open, "duration_ms") >= number(&open, "idle_ms"), "{open}");
        wire.query("COMMIT").await;
        let closed = line_from(log, 0, "long transaction", "\"closed\"").await;
        assert_eq!((&closed["last_statement"], closed["statements"].to_string()), (&"COMMIT".into(), "3".to_owned()), "{closed}");
        assert_eq!(closed["client"], open["client"]);
        // Who leaves ends it, too.
        let from = log.len();
        wire.query("BEGIN").await;
        line_from(log, from, "long transaction", "\"open\"").await;
        drop(wire);
        line_from(log, from, "long transaction", "\"closed\"").await;
        let told = log.lines().iter().filter(|line| line.contains("long transaction")).count();
        assert_eq!(told, 4, "{mode}: {}", log.tail(9));
        // A quick one is nobody's business, however long its client was idle before.
        pool.wire().await.query("SELECT 1").await;
        assert_eq!(log.lines().iter().filter(|line| line.contains("long transaction")).count(), 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_own_limit_beats_the_databases_and_a_reload_changes_both() {
    let cluster = Cluster::start().await;
    let base = Settings::postgres(&cluster)
        .set("log.format", "json")
        .set("postgres.users.second.password", "second-secret")
        .set("postgres.pool_mode", "session");
    let mut pool = Pooler::start(base.clone()).await;
    let mut all = pool.wire().await;
    let mut own = Wire::login(pool.postgres_port(), "second", "app", "second-secret").await;
    for wire in [&mut all, &mut own] {
        wire.query("SELECT 'nobody asks', pg_sleep(0.1)").await;
    }
    pool.reload(
        base.clone().set("postgres.log_min_duration_statement", "50ms").set("postgres.users.second.log_min_duration_statement", "0s"),
    )
    .await;
    own.query("SELECT pg_sleep(0.1) AS own").await;
    all.query("SELECT pg_sleep(0.1) AS all_of_them").await;
    slow(&pool, "all_of_them").await;
    pool.reload(base).await;
    all.query("SELECT pg_sleep(0.1) AS nobody_asks_any_more").await;
    let told = pool.process().log().lines().into_iter().filter(|line| line.contains("slow statement")).collect::<Vec<_>>();
    assert_eq!(told.len(), 1, "{told:?}");
}

/// Keeps the server busy for 300 ms.
const SCRIPT: &str = "local t = redis.call('TIME'); local e = t[1] * 1000000 + t[2] + 300000; \
                      repeat t = redis.call('TIME') until t[1] * 1000000 + t[2] > e; return 'secret'";

/// The lines about slow commands.
fn told(pool: &Pooler) -> Vec<String> {
    pool.process().log().lines().into_iter().filter(|line| line.contains("slow command")).collect()
}

/// How many of them are about this one.
fn of(told: &[String], command: &str) -> usize {
    told.iter().filter(|line| line.contains(&format!("\"{command}\""))).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_redis_command_is_told_without_what_it_was_about() {
    let server = RedisServer::start().await;
    let settings = Settings::redis(&server).set("log.format", "json").set("redis.main.log_min_duration_command", "150ms");
    let pool = Pooler::start(settings).await;
    let (mut wire, mut waiting) = (pool.redis_wire().await, pool.redis_wire().await);
    // Who blocks waits for somebody else.
    waiting.send(&request(&["BLPOP", "secret-list", "0"])).await;
    assert_eq!(wire.command(&["EVAL", SCRIPT, "1", "secret-key"]).await.text(), "secret");
    let line = line_from(pool.process().log(), 0, "slow command", "eval").await;
    assert!((200.0..30_000.0).contains(&number(&line, "duration_ms")), "{line}");
    assert_eq!((line["arguments"].to_string(), &line["level"]), ("3".to_owned(), &"WARN".into()), "{line}");
    assert!(line["pool"].is_string() && line["client"].is_u64() && line["user"] == "default", "{line}");
    assert!(line["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{line}");
    assert_eq!(wire.command(&["LPUSH", "secret-list", "x"]).await, Reply::Integer(1));
    waiting.reply().await;
    assert_eq!(wire.command(&["GET", "quick"]).await, Reply::Null);
    let told = told(&pool);
    assert_eq!(of(&told, "eval"), 1, "{told:?}");
    // A slow machine may have been slow with others, but not with who blocks.
    assert!(of(&told, "blpop") == 0 && told.iter().all(|line| !line.contains("secret")), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_command_on_a_connection_of_ones_own_is_told_and_waiting_is_not_slow() {
    let server = RedisServer::start().await;
    let settings = Settings::redis(&server).set("log.format", "json");
    let mut pool = Pooler::start(settings.clone()).await;
    let (mut wire, mut other) = (pool.redis_wire().await, pool.redis_wire().await);
    // Nobody asks yet, and somebody does in the middle of it.
    wire.command(&["WATCH", "secret-key"]).await;
    wire.command(&["EVAL", SCRIPT, "0"]).await;
    pool.reload(settings.clone().set("redis.main.log_min_duration_command", "150ms")).await;
    wire.command(&["EVAL", SCRIPT, "1", "secret-key"]).await;
    let line = line_from(pool.process().log(), 0, "slow command", "eval").await;
    assert!((200.0..30_000.0).contains(&number(&line, "duration_ms")) && line["arguments"] == 3, "{line}");
    assert!(line["pool"] == "main/default/0/resp2/leased" && line["user"] == "default", "{line}");
    // All of a transaction runs at its EXEC, however late that comes, and however it is sent.
    wire.command(&["MULTI"]).await;
    wire.command(&["EVAL", SCRIPT, "0"]).await;
    assert!(wire.is_silent().await, "the client takes its time");
    wire.command(&["EXEC"]).await;
    let line = line_from(pool.process().log(), 0, "slow command", "exec").await;
    assert!((200.0..30_000.0).contains(&number(&line, "duration_ms")) && line["arguments"] == 0, "{line}");
    let from = pool.process().log().len();
    wire.send(&[request(&["MULTI"]), request(&["EVAL", SCRIPT, "0"]), request(&["SET", "secret-key", "x"]), request(&["EXEC"])].concat())
        .await;
    for _ in 0..4 {
        wire.reply().await;
    }
    line_from(pool.process().log(), from, "slow command", "exec").await;
    let before = told(&pool);
    assert!((of(&before, "eval"), of(&before, "exec")) == (1, 2) && before.iter().all(|line| !line.contains("secret")), "{before:?}");
    // Longer than anything takes on a slow machine, and shorter than all of this.
    pool.reload(settings.set("redis.main.log_min_duration_command", "2s")).await;
    let (mut replicated, mut sender) = (pool.redis_wire().await, pool.redis_wire().await);
    // Who waits for another client, or for a replica, waits; and what it asked meanwhile is not slow for it.
    wire.command(&["WATCH", "secret-key"]).await;
    wire.send(&[request(&["BLPOP", "secret-list", "0"]), request(&["GET", "secret-key"])].concat()).await;
    replicated.send(&request(&["WAIT", "1", "2500"])).await;
    // Nor is a request for the time that the client takes to send it.
    let large = request(&["SET", "secret-large", &"x".repeat(1 << 20)]);
    let (head, rest) = large.split_at(512 << 10);
    sender.send(head).await;
    assert_eq!(replicated.reply().await, Reply::Integer(0));
    other.command(&["RPUSH", "secret-list", "x"]).await;
    wire.reply().await;
    assert_eq!(wire.reply().await.text(), "x");
    sender.send(rest).await;
    assert_eq!(sender.reply().await.text(), "OK");
    assert_eq!(told(&pool).len(), before.len(), "{:?}", told(&pool));
}
