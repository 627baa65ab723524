//! `max_client_conn`: one client too many is told why in its own protocol, cancel requests come through all the same, and room is used again.

use std::process::Command;

use sidepool_tests::conformance::proves;
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::cancel::runs;
use sidepool_tests::postgres::cluster::PASSWORD;
use sidepool_tests::postgres::{Cluster, Wire, frame, tags};
use sidepool_tests::redis::{RedisServer, Reply};
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;

const LOGIN: &[(&str, &str)] = &[("user", "app"), ("database", "app")];

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_client_too_many_is_told_and_cancels_come_through() {
    let _proof = proves(&["setting max_client_conn"]);
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.max_client_conn", 2)).await;
    let (mut first, mut second) = (pool.wire().await, pool.wire().await);
    let Err(error) = Wire::try_login(pool.postgres_port(), LOGIN, PASSWORD).await else { panic!("the third is refused") };
    assert_eq!(error.field(b'C').as_deref(), Some("53300"));
    assert!(error.field(b'D').is_some_and(|detail| detail.contains("2 of 2")), "{error:?}");
    assert!(error.field(b'H').is_some_and(|hint| hint.contains("max_client_conn")));

    first.send(&frame::query("SELECT pg_sleep(60)")).await;
    runs(&cluster, "pg_sleep").await;
    let (process, key) = first.cancel_key.clone().expect("a key");
    let mut messenger = Wire::connect(pool.postgres_port()).await;
    messenger.send(&frame::cancel(process, &key)).await;
    messenger.until_closed().await;
    assert_eq!(tags(&first.until_ready().await), "TEZ", "cancelled although every place is taken");

    drop(first);
    wait::until("the place that is free again", async || Wire::try_login(pool.postgres_port(), LOGIN, PASSWORD).await.ok()).await;
    assert_eq!(second.value("SELECT 'unharmed'").await, "unharmed");
    let refused = pool.scrape().await.sum("sidepool_listener_rejections_total", &[("listener", "postgres"), ("reason", "max_client_conn")]);
    assert!(refused >= 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_shows_the_reason() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.max_client_conn", 1)).await;
    let _only = pool.wire().await;
    let url = format!("postgres://app:{PASSWORD}@127.0.0.1:{}/app", pool.postgres_port());
    for sslmode in ["disable", "prefer"] {
        let output = Command::new("psql").args([&format!("{url}?sslmode={sslmode}"), "-c", "SELECT 1"]).output().expect("psql");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("no more connections allowed (max_client_conn)"), "{sslmode}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_client_too_many_is_told_as_redis_tells_it() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server).set("redis.main.max_client_conn", 1)).await;
    let mut only = pool.redis_wire().await;
    assert_eq!(only.command(&["SET", "key", "value"]).await.text(), "OK");
    let mut refused = pool.redis_wire().await;
    assert_eq!(refused.read().await, Some(Reply::Error("ERR max number of clients reached".to_owned())));
    assert_eq!(only.command(&["GET", "key"]).await.text(), "value");
}
