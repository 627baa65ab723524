//! Strangers who keep us waiting (slow loris): they cost nobody a place, and only so many of them are listened to at a time.

use std::time::Duration;

use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::cancel::{cancel_at, is_cancelled, runs};
use sidepool_tests::postgres::cluster::{PASSWORD, USER};
use sidepool_tests::postgres::wire::first_error;
use sidepool_tests::postgres::{Cluster, Wire, frame};
use sidepool_tests::redis::{self, RedisServer};
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;

const LOGIN: &[(&str, &str)] = &[("user", USER), ("database", "app")];

/// SCRAM, and nobody has to leave because of a timeout.
fn settings(cluster: &Cluster) -> Settings {
    Settings::postgres(cluster).set("postgres.auth_type", "scram-sha-256").set("postgres.client_login_timeout", "5m")
}

/// Somebody who says nothing, a part of the first message, or nothing behind it.
async fn slow(pool: &Pooler, number: usize) -> Wire {
    let startup = frame::startup(LOGIN);
    let mut wire = Wire::connect(pool.postgres_port()).await;
    wire.send(&startup[..[0, 1, 12, startup.len()][number % 4]]).await;
    wire
}

async fn crowded_out(pool: &Pooler, protocol: &str) -> f64 {
    pool.scrape().await.sum("sidepool_client_logins_total", &[("protocol", protocol), ("result", "crowded_out")])
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_useful_costs_nobody_a_place() {
    let cluster = Cluster::start().await;
    for workers in [1, 2] {
        let pool = Pooler::start(settings(&cluster).set("postgres.max_client_conn", 20).set("workers", workers)).await;
        let mut idle = pool.wire().await;
        let mut strangers = Vec::new();
        for number in 0..19 {
            strangers.push(slow(&pool, number).await);
        }
        let mut clients = Vec::new();
        let enter = async || Wire::try_login(pool.postgres_port(), LOGIN, PASSWORD).await.ok();
        while clients.len() < 19 {
            clients.push(wait::until("a place", enter).await);
        }
        assert!(enter().await.is_none(), "there are no places but theirs");
        assert_eq!(crowded_out(&pool, "postgres").await, 19.0, "each made room for one");
        let told = strangers[3].until_closed().await;
        let error = first_error(&told).expect("it is told why");
        assert_eq!(error.field(b'C').as_deref(), Some("53300"));
        assert!(error.field(b'H').is_some_and(|hint| hint.contains("max_client_logins")), "{error:?}");
        assert_eq!(idle.value("SELECT 'unharmed'").await, "unharmed", "who is in stays");
        for client in &mut clients {
            assert_eq!(client.value("SELECT 1").await, "1");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn few_are_listened_to_at_a_time_and_the_others_have_their_turn() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(settings(&cluster).set("postgres.max_client_logins", 4).set("workers", 1)).await;
    let mut busy = pool.wire().await;
    busy.send(&frame::query("SELECT pg_sleep(60), 'to be cancelled'")).await;
    runs(&cluster, "to be cancelled").await;
    let mut strangers = Vec::new();
    for number in 0..20 {
        strangers.push(slow(&pool, number).await);
    }
    // A cancel waits for no turn.
    cancel_at(pool.postgres_port(), &busy).await;
    is_cancelled(&mut busy).await;
    // Ten that say next to nothing take no turn; of the ten others four make room each second.
    let mut client = wait::soon("a turn", Wire::login(pool.postgres_port(), USER, "app", PASSWORD)).await;
    assert_eq!(client.value("SELECT 1").await, "1");
    assert!(crowded_out(&pool, "postgres").await >= 7.0, "all who had a turn before, but for three");
    for number in [0, 1] {
        assert!(strangers[number].is_silent().await, "who says next to nothing takes no turn, and there are places");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_who_does_not_authenticate_costs_nobody_a_place() {
    let server = RedisServer::start_with_password("secret").await;
    let settings = Settings::redis(&server)
        .set("redis.main.max_client_conn", 10)
        .set("redis.main.client_login_timeout", "5m")
        .set("redis.main.users.default.password", "a-secret");
    let pool = Pooler::start(settings).await;
    let enter = async || {
        let mut wire = pool.redis_wire().await;
        wire.try_send(&redis::wire::request(&["AUTH", "a-secret"])).await.ok()?;
        (wire.read_patiently().await?.text() == "OK").then_some(wire)
    };
    let mut idle = enter().await.expect("there is room");
    let mut strangers = Vec::new();
    for number in 0..9 {
        let mut wire = pool.redis_wire().await;
        wire.send(&b"*3\r\n$4\r\nAU"[..number]).await;
        strangers.push(wire);
    }
    let mut clients = Vec::new();
    while clients.len() < 9 {
        clients.push(wait::until("a place", enter).await);
    }
    assert!(enter().await.is_none(), "there are no places but theirs");
    assert_eq!(crowded_out(&pool, "redis").await, 9.0);
    assert_eq!(idle.command(&["PING"]).await.text(), "PONG", "who is in stays");
    for client in &mut clients {
        assert_eq!(client.command(&["SET", "k", "v"]).await.text(), "OK");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_who_does_not_read_is_sent_away_all_the_same() {
    let server = RedisServer::start_with_password("secret").await;
    let settings = Settings::redis(&server)
        .set("workers", 1)
        .set("redis.main.max_client_conn", 3)
        .set("redis.main.client_login_timeout", "2s")
        .set("redis.main.users.default.password", "a-secret");
    let pool = Pooler::start(settings).await;
    let mut strangers = Vec::new();
    for _ in 0..3 {
        let mut wire = pool.redis_wire().await;
        // More answers than the sockets hold, none of which is read; what does not go out any more is no fault of the test.
        let _ = tokio::time::timeout(Duration::from_millis(300), wire.try_send(&b"PING\r\n".repeat(300_000))).await;
        strangers.push(wire);
    }
    pool.metrics_show("the end of their time", |now| {
        now.sum("sidepool_client_logins_total", &[("protocol", "redis"), ("result", "timeout")]) >= 3.0
    })
    .await;
    // Whoever comes now has as little time: on a slow machine it takes more than one try.
    let _client = wait::until("a place", async || {
        let mut wire = pool.redis_wire().await;
        wire.try_send(&redis::wire::request(&["AUTH", "a-secret"])).await.ok()?;
        (wire.read().await?.text() == "OK").then_some(wire)
    })
    .await;
    pool.metrics_show("them to be gone", |now| now.sum("sidepool_listener_client_connections", &[]) <= 1.5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_few_may_be_in_the_middle_of_what_they_say() {
    let server = RedisServer::start_with_password("secret").await;
    let settings = Settings::redis(&server)
        .set("workers", 1)
        .set("redis.main.max_client_logins", 3)
        .set("redis.main.client_login_timeout", "5m")
        .set("redis.main.users.default.password", "a-secret");
    let pool = Pooler::start(settings).await;
    let mut silent = pool.redis_wire().await;
    let mut strangers = Vec::new();
    for number in 0..10 {
        let mut wire = pool.redis_wire().await;
        wire.send(b"*2\r\n$4\r\nAUTH\r\n$1000\r\nxyz").await;
        pool.metrics_show("those who make room", |now| {
            let labels = [("protocol", "redis"), ("result", "crowded_out")];
            now.sum("sidepool_client_logins_total", &labels) >= f64::from(number - 2)
        })
        .await;
        strangers.push(wire);
    }
    for stranger in &mut strangers[..7] {
        assert!(stranger.read_patiently().await.is_none(), "who has kept us waiting longest");
    }
    for client in [strangers.last_mut().expect("ten came"), &mut silent] {
        assert!(client.is_silent().await, "there is room for these");
    }
    silent.send(&redis::wire::request(&["AUTH", "a-secret"])).await;
    assert_eq!(silent.reply().await.text(), "OK", "who says it in one go needs no room");
    assert_eq!(crowded_out(&pool, "redis").await, 7.0);
}
