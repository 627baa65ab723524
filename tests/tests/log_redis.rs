//! What the log says of Redis clients that come and go: who, where to, and why they left, in words of a closed list.

use serde_json::Value;
use sidepool_tests::pooler::Pooler;
use sidepool_tests::process::Signal;
use sidepool_tests::redis::{RedisServer, Wire};
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;

fn settings(server: &RedisServer) -> Settings {
    Settings::redis(server).set("log.format", "json").set("log.connections", true)
}

/// The line about the client of this number that says so, awaited.
async fn line(pool: &Pooler, message: &str, client: u64) -> Value {
    let about = format!("\"client\":{client},");
    wait::until(&format!("{message:?} of client {client}"), async || {
        let lines = pool.process().log().lines();
        let found = lines.iter().find(|line| line.contains(message) && line.contains(&about))?;
        Some(serde_json::from_str(found).expect("each line is JSON"))
    })
    .await
}

async fn number(wire: &mut Wire) -> u64 {
    wire.command(&["CLIENT", "ID"]).await.text().parse().expect("a number")
}

/// Why the client of this number left.
async fn reason(pool: &Pooler, client: u64) -> String {
    line(pool, "client disconnected", client).await["reason"].as_str().expect("a reason").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_clients_are_logged_when_that_is_wanted() {
    let server = RedisServer::start().await;
    let mut pool = Pooler::start(Settings::redis(&server).set("log.connections", true)).await;
    let mut wire = pool.redis_wire().await;
    wire.command(&["SELECT", "3"]).await;
    drop(wire);
    let came = pool.process().log().line_with("client connected").await;
    assert!(came.contains("peer=\"127.0.0.1:") && came.contains("pool=\"main/default/0/resp2/shared\""), "{came}");
    assert!(came.contains("client=") && came.contains("user=\"default\"") && came.contains("database=0"), "{came}");
    let gone = pool.process().log().line_with("client disconnected").await;
    assert!(gone.contains("reason=\"client_eof\"") && gone.contains("age_s=") && gone.contains("database=3"), "{gone}");
    assert!(gone.contains("peer=\"127.0.0.1:") && gone.contains("pool=\"main/default/3/resp2/shared\""), "{gone}");
    // The one without the other, and none at all.
    for (connections, disconnections) in [(false, true), (true, false), (false, false)] {
        let wanted = Settings::redis(&server).set("log.connections", connections).set("log.disconnections", disconnections);
        let restarted = Pooler::start(wanted).await;
        let mut wire = restarted.redis_wire().await;
        wire.command(&["PING"]).await;
        wire.command(&["QUIT"]).await;
        assert!(wire.read().await.is_none());
        restarted.metrics_show("nobody", |now| now.sum("sidepool_listener_client_connections", &[("listener", "redis/main")]) == 0.0).await;
        let told = |text: &str| restarted.process().log().lines().iter().any(|line| line.contains(text));
        wait::until("the lines that are wanted", async || (told("client connected") == connections).then_some(())).await;
        wait::until("the lines that are wanted", async || (told("client disconnected") == disconnections).then_some(())).await;
    }
    assert!(pool.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_client_leaves_for_a_reason_of_a_closed_list() {
    let mut server = RedisServer::start().await;
    let limited = settings(&server).set("redis.main.client_output_buffer_limit", "pubsub 1mb 0 0");
    let mut pool = Pooler::start(limited.set("redis.main.subscriber_gap", "close")).await;
    let mut wire = pool.redis_wire().await;
    let client = number(&mut wire).await;
    assert_eq!(wire.command(&["QUIT"]).await.text(), "OK");
    assert_eq!(reason(&pool, client).await, "client_close");
    let mut wire = pool.redis_wire().await;
    let client = number(&mut wire).await;
    wire.send(b"*1\r\nhello\r\n").await;
    assert_eq!(reason(&pool, client).await, "protocol_violation");
    // In the middle of a transaction, where its connection is its own.
    let mut wire = pool.redis_wire().await;
    let client = number(&mut wire).await;
    wire.command(&["MULTI"]).await;
    drop(wire);
    assert_eq!(reason(&pool, client).await, "client_eof");
    let (mut wire, mut operator) = (pool.redis_wire().await, pool.redis_wire().await);
    let client = number(&mut wire).await;
    assert_eq!(operator.command(&["CLIENT", "KILL", "ID", &client.to_string()]).await.text(), "1");
    assert_eq!(reason(&pool, client).await, "killed");
    // Itself.
    let client = number(&mut operator).await;
    operator.command(&["CLIENT", "KILL", "ID", &client.to_string(), "SKIPME", "no"]).await;
    assert_eq!(reason(&pool, client).await, "killed");
    // It listens to more than may wait for it, and reads nothing.
    let (mut wire, mut speaker) = (pool.redis_wire().await, pool.redis_wire().await);
    let client = number(&mut wire).await;
    wire.command(&["SUBSCRIBE", "news"]).await;
    for _ in 0..8 {
        speaker.command(&["PUBLISH", "news", &"x".repeat(4 << 20)]).await;
    }
    assert_eq!(reason(&pool, client).await, "output_limit");
    // The server goes: who only asks is told, who listens or watches is closed.
    let (mut listening, mut watching) = (pool.redis_wire().await, pool.redis_wire().await);
    let numbers = (number(&mut listening).await, number(&mut watching).await);
    listening.command(&["SUBSCRIBE", "news"]).await;
    watching.command(&["MONITOR"]).await;
    server.stop();
    assert_eq!(reason(&pool, numbers.0).await, "subscriber_gap");
    assert_eq!(reason(&pool, numbers.1).await, "server_lost");
    server.launch().await;
    let mut wire = pool.redis_wire().await;
    let client = number(&mut wire).await;
    pool.process().signal(Signal::TERM);
    assert_eq!(reason(&pool, client).await, "draining");
    assert!(pool.process_mut().ended().await.success());
    let log = pool.process().log().lines();
    assert!(log.iter().all(|line| !line.contains("xxxx") && !line.contains("news")), "what clients say is no business of the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_let_in_is_no_client_that_connected() {
    let server = RedisServer::start().await;
    let mapped = settings(&server).set("redis.main.users.app.password", "a-secret").set("redis.main.client_login_timeout", "4s");
    let pool = Pooler::start(mapped).await;
    let mut silent = pool.redis_wire().await;
    let mut wrong = pool.redis_wire().await;
    assert!(wrong.command(&["AUTH", "app", "wrong-secret"]).await.is_error("WRONGPASS"));
    assert!(silent.read().await.is_none() && wrong.read().await.is_none());
    let late = pool.process().log().line_with("\"reason\":\"login_timeout\"").await;
    assert!(late.contains("a Redis client was not let in") && late.contains("\"peer\":\"127.0.0.1:"), "{late}");
    let failed = |line: &String| line.contains("a Redis client was not let in") && line.contains("\"reason\":\"auth_failed\"");
    wait::until("the one that was wrong", async || pool.process().log().lines().iter().any(failed).then_some(())).await;
    let mut left = pool.redis_wire().await;
    assert!(left.command(&["GET", "a-key"]).await.is_error("NOAUTH"));
    drop(left);
    let left = pool.process().log().line_with("client left during login").await;
    assert!(left.contains("\"reason\":\"client_eof\""), "{left}");
    // As which user is known when it is in, and not before.
    let mut wire = pool.redis_wire().await;
    assert_eq!(wire.command(&["AUTH", "app", "a-secret"]).await.text(), "OK");
    let client = number(&mut wire).await;
    assert_eq!(line(&pool, "client connected", client).await["user"], "app");
    // To say it again makes it no other client.
    assert_eq!(wire.command(&["AUTH", "app", "a-secret"]).await.text(), "OK");
    drop(wire);
    assert_eq!(line(&pool, "client disconnected", client).await["user"], "app");
    let lines = pool.process().log().lines();
    assert_eq!(lines.iter().filter(|line| line.contains("\"client connected\"")).count(), 1, "{lines:?}");
    assert!(lines.iter().all(|line| !line.contains("secret") && !line.contains("a-key")), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_redis_clients_is_a_few_lines_and_a_count() {
    const CLIENTS: u64 = 2_000;
    let server = RedisServer::start().await;
    let pool = Pooler::start(settings(&server)).await;
    for _ in 0..CLIENTS / 100 {
        let mut wires = Vec::new();
        for _ in 0..100 {
            wires.push(pool.redis_wire().await);
        }
        for wire in &mut wires {
            assert_eq!(wire.command(&["PING"]).await.text(), "PONG");
        }
    }
    let metric = "sidepool_log_messages_dropped_total";
    pool.metrics_show("all lines to be accounted for", |scrape| {
        let lines = pool.process().log().lines();
        let of = |text: &str| lines.iter().filter(|line| line.contains(text)).count() as u64;
        let written = of("\"client connected\"") + of("\"client disconnected\"");
        let left_out = scrape.sum(metric, &[("reason", "repeated")]) as u64;
        left_out > 0 && written + left_out == 2 * CLIENTS
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_been_in_was_in_whatever_the_log_had_of_it() {
    let server = RedisServer::start().await;
    let quiet = Settings::redis(&server)
        .set("log.format", "json")
        .set("log.connections", false)
        .set("log.disconnections", false)
        .set("redis.main.users.app.password", "a-secret");
    let mut pool = Pooler::start(quiet.clone()).await;
    let gone = async || {
        pool.metrics_show("nobody", |now| now.sum("sidepool_listener_client_connections", &[("listener", "redis/main")]) == 0.0).await
    };
    let mut wire = pool.redis_wire().await;
    assert_eq!(wire.command(&["AUTH", "app", "a-secret"]).await.text(), "OK");
    assert_eq!(wire.command(&["RESET"]).await.text(), "RESET");
    drop(wire);
    gone().await;
    let mut wire = pool.redis_wire().await;
    wire.command(&["AUTH", "app", "a-secret"]).await;
    wire.command(&["RESET"]).await;
    wire.send(b"*x\r\n").await;
    while wire.read().await.is_some() {}
    let now = gone().await;
    assert_eq!(now.sum("sidepool_client_denials_total", &[("protocol", "redis")]), 0.0);
    // The line is wanted only when it is about to leave.
    let mut wire = pool.redis_wire().await;
    assert!(matches!(wire.command(&["HELLO", "3", "AUTH", "app", "a-secret"]).await, sidepool_tests::redis::Reply::Map(_)));
    let client = number(&mut wire).await;
    pool.reload(quiet.set("log.disconnections", true)).await;
    drop(wire);
    let left = line(&pool, "client disconnected", client).await;
    assert!(left["user"] == "app" && left["database"] == "0" && left["pool"] == "main/default/0/resp3/shared", "{left}");
    let lines = pool.process().log().lines();
    assert!(lines.iter().all(|line| !line.contains("left during login") && !line.contains("not let in")), "{lines:?}");
}
