//! Ten thousand idle clients: what each costs in memory, and that they are still served.

use std::sync::Arc;

use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::{Cluster, Wire};
use sidepool_tests::redis;
use sidepool_tests::redis::RedisServer;
use sidepool_tests::settings::Settings;
use sidepool_tests::tls::{Authority, Files, client};

/// As many as the file descriptors of this process allow, ten thousand at most.
fn count() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX);
    usize::try_from(limit.saturating_sub(500)).unwrap_or(usize::MAX).min(10_000)
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_postgres_clients_cost_little() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start_fast(Settings::postgres(&cluster).set("postgres.max_client_conn", 20_000)).await;
    let mut clients = vec![pool.wire().await];
    clients[0].query("SELECT 1").await;
    let before = pool.process().resident_bytes();
    while clients.len() < count() {
        clients.push(pool.wire().await);
    }
    report("PostgreSQL", before, pool.process().resident_bytes(), clients.len());
    // Each has asked once: the buffers that this took were given back.
    for wire in clients.iter_mut().step_by(4) {
        assert_eq!(wire.value("SELECT repeat('x', 3000)").await.len(), 3000);
    }
    report("PostgreSQL, after a query of every fourth", before, pool.process().resident_bytes(), clients.len());
    assert!(cluster.connections().await <= 5);
    let mut newcomer = Wire::login(pool.postgres_port(), "app", "app", "").await;
    assert_eq!(newcomer.value("SELECT 'room for one more'").await, "room for one more");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_postgres_clients_under_tls_cost_little() {
    /// Keys, the state of both directions, and what rustls keeps of the handshake.
    const MOST_BYTES: u64 = 8 * 1024;
    let cluster = Cluster::start().await;
    let authority = Authority::new("ours");
    let server = authority.issue("localhost", &["localhost"]);
    let files = Files::new(&[("server.crt", &server.cert), ("server.key", &server.key)]);
    let settings = Settings::postgres(&cluster)
        .set("postgres.max_client_conn", 20_000)
        .set("postgres.client_tls_sslmode", "require")
        .set("postgres.client_tls_key_file", files.path("server.key"))
        .set("postgres.client_tls_cert_file", files.path("server.crt"));
    let pool = Pooler::start(settings).await;
    let config = client(&authority, None, &["postgresql"]);
    let secured = async || {
        let mut wire = Wire::connect(pool.postgres_port()).await;
        wire.secure(Arc::clone(&config), false).await.expect("a handshake");
        wire.enter("app", "app", "").await.expect("app comes in");
        wire
    };
    let mut clients = vec![secured().await];
    clients[0].query("SELECT 1").await;
    let before = pool.process().resident_bytes();
    while clients.len() < count().min(2_000) {
        clients.push(secured().await);
    }
    for wire in clients.iter_mut().step_by(4) {
        assert_eq!(wire.value("SELECT repeat('x', 30000)").await.len(), 30_000);
    }
    let each = pool.process().resident_bytes().saturating_sub(before) / clients.len() as u64;
    println!("PostgreSQL under TLS: {} idle clients, {each} bytes of resident memory each", clients.len());
    assert!(each <= MOST_BYTES, "{each} bytes for each idle client under TLS");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_redis_clients_cost_little() {
    let server = RedisServer::start_with_password("hidden").await;
    let pool = Pooler::start_fast(Settings::redis(&server).set("redis.main.max_client_conn", 20_000)).await;
    let mut clients: Vec<redis::Wire> = vec![pool.redis_wire().await];
    clients[0].command(&["SET", "key", "value"]).await;
    let before = pool.process().resident_bytes();
    while clients.len() < count() {
        let mut wire = pool.redis_wire().await;
        assert_eq!(wire.command(&["GET", "key"]).await.text(), "value");
        clients.push(wire);
    }
    report("Redis", before, pool.process().resident_bytes(), clients.len());
    assert_eq!(clients[0].command(&["GET", "key"]).await.text(), "value");
}

/// Prints the figure, and fails when it is more than the aim of 3 kB.
fn report(kind: &str, before: u64, after: u64, clients: usize) {
    let each = after.saturating_sub(before) / clients as u64;
    println!("{kind}: {clients} idle clients, {each} bytes of resident memory each");
    assert!(each <= 3 * 1024, "{kind}: {each} bytes for each idle client");
}
