//! The limit on open files, where it is nearer than `max_client_conn`: clients do not use up what the pools need.

use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::{Cluster, Wire, tags};
use sidepool_tests::redis::{RedisServer, Reply};
use sidepool_tests::scrape;
use sidepool_tests::settings::Settings;

#[tokio::test(flavor = "multi_thread")]
async fn files_are_kept_for_the_servers_and_clients_beyond_are_told() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start_with_files(Settings::postgres(&cluster).set("workers", 1), 90).await;
    pool.process().log().line_with("the limit on open files is nearer than max_client_conn").await;
    let mut clients = Vec::new();
    let refusal = loop {
        match Wire::try_login(pool.postgres_port(), &[("user", "app"), ("database", "app")], "").await {
            Ok(client) => clients.push(client),
            Err(refusal) => break refusal,
        }
        assert!(clients.len() < 90, "there are more clients than files");
    };
    assert_eq!(refusal.field(b'C').as_deref(), Some("53300"));
    assert!(refusal.field(b'M').is_some_and(|message| message.contains("limit on open files")));
    assert!(refusal.field(b'H').is_some_and(|hint| hint.contains("ulimit -n")));
    assert!(clients.len() > 10, "{} came in", clients.len());
    // Those who are in get all the connections that the pool may have, at the same time.
    for client in &mut clients[..5] {
        assert_eq!(tags(&client.query("BEGIN").await), "CZ");
    }
    assert_eq!(cluster.connections().await, 5);
    let now = pool.scrape().await;
    assert!(now.sum("sidepool_listener_rejections_total", &[("reason", "open_files")]) >= 1.0);
    assert!(now.sum("sidepool_listener_client_connections_max", &[]) < 90.0);
    for client in &mut clients[..5] {
        assert_eq!(tags(&client.query("COMMIT").await), "CZ");
    }
    let ready = async || scrape::get(pool.settings().admin_port(), "/readyz").await.expect("it answers").status;
    assert_eq!(ready().await, 503, "others may have files left");
    // One that leaves makes room.
    clients.pop();
    pool.metrics_show("room", |now| {
        now.sum("sidepool_listener_client_connections", &[]) < now.sum("sidepool_listener_client_connections_max", &[])
    })
    .await;
    assert_eq!(ready().await, 200);
    assert_eq!(pool.wire().await.value("SELECT 'let in'").await, "let in");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_on_open_files_is_raised_to_what_may_be() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start_with_soft_files(Settings::postgres(&cluster).set("workers", 1), 64, 512).await;
    let most = pool.scrape().await.sum("process_max_fds", &[]);
    assert!((most - 512.0).abs() < 0.5, "{most}");
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(pool.wire().await);
    }
    for client in &mut clients {
        assert_eq!(client.value("SELECT 'in'").await, "in");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_kept_for_all_connections_that_a_redis_pool_may_lease() {
    let server = RedisServer::start().await;
    let settings = Settings::redis(&server).set("workers", 1).set("redis.main.pool_size", 60);
    let pool = Pooler::start_with_files(settings, 128).await;
    let mut clients = Vec::new();
    let refusal = loop {
        let mut client = pool.redis_wire().await;
        match client.command(&["PING"]).await {
            Reply::Error(line) => break line,
            _served => clients.push(client),
        }
        assert!(clients.len() < 128, "there are more clients than files");
    };
    assert!(refusal.contains("max number of clients"), "{refusal}");
    // Those who are in get connections of their own, many at the same time.
    for client in &mut clients[..30] {
        assert_eq!(client.command(&["MULTI"]).await.text(), "OK");
        assert_eq!(client.command(&["GET", "key"]).await.text(), "QUEUED");
    }
    for client in &mut clients[..30] {
        assert_eq!(client.command(&["EXEC"]).await, Reply::Array(vec![Reply::Null]));
    }
}
