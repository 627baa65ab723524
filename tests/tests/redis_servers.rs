//! Redis servers that have no room, let nobody in, or are somewhere else now; and clients whose TLS handshakes never end.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sidepool_tests::dns::NameServer;
use sidepool_tests::fault::FaultProxy;
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::Cluster;
use sidepool_tests::redis::{RedisServer, Reply};
use sidepool_tests::scrape::Scrape;
use sidepool_tests::settings::Settings;
use sidepool_tests::tls::{Authority, Files};
use sidepool_tests::wait;
use tokio::process::Command;
use tokio::task::JoinSet;

/// The pools of clients of the one user, in RESP2: connections that all share, and those that one has for itself.
const SHARED: &str = "main/default/0/resp2/shared";
const LEASED: &str = "main/default/0/resp2/leased";

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_room_is_used_with_what_it_lets_in_and_not_hammered() {
    let server = RedisServer::start().await;
    // One of them is the test's own, one is shared.
    let mut direct = server.direct().await;
    assert_eq!(direct.command(&["CONFIG", "SET", "maxclients", "6"]).await.text(), "OK");
    let pool = Pooler::start(Settings::redis(&server).set("redis.main.pool_size", 12).set("redis.main.shared_connections", 1)).await;
    let mut clients = JoinSet::new();
    for _ in 0..20 {
        let mut client = pool.redis_wire().await;
        clients.spawn(async move {
            for _ in 0..15 {
                let answer = client.command(&["BLPOP", "nothing", "0.02"]).await;
                assert!(matches!(answer, Reply::Null), "everybody is served: {answer:?}");
            }
        });
    }
    let room = |now: &Scrape| now.sum("sidepool_pool_server_connections_room", &[("pool", LEASED)]);
    pool.metrics_show("a pool that is as large as the server allows", |now| (3.5..5.5).contains(&room(now))).await;
    clients.join_all().await;
    let refused = pool.scrape().await.sum("sidepool_server_connects_total", &[("result", "too_many")]);
    assert!((1.0..20.0).contains(&refused), "{refused} connects were tried in vain");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lets_nobody_in_is_told_truly_and_not_hammered() {
    let server = RedisServer::start_with_password("right").await;
    for (retry, seconds, least) in [("200ms", 0.2, 5.0), ("2s", 2.0, 2.0)] {
        let settings = Settings::redis(&server).set("redis.main.password", "wrong").set("redis.main.server_connect_backoff", retry);
        let pool = Pooler::start(settings.set("redis.main.server_login_retry", retry)).await;
        let mut client = pool.redis_wire().await;
        let started = Instant::now();
        // The client does not leave it alone.
        let tried = wait::until("a few attempts", async || {
            let Reply::Error(told) = client.command(&["GET", "k"]).await else { panic!("nobody can answer that") };
            assert!(told.contains("WRONGPASS"), "{told}");
            tokio::time::sleep(Duration::from_millis(20)).await;
            let tried = pool.scrape().await.sum("sidepool_server_connects_total", &[("pool", SHARED)]);
            (started.elapsed() >= Duration::from_secs(3) && tried >= least).then_some(tried)
        })
        .await;
        let most = 1.0 + 2.0 * started.elapsed().as_secs_f64() / seconds;
        assert!(tried <= most, "{retry}: {tried} attempts, and at most {most} are in order");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_moves_takes_shared_connections_along() {
    let (cluster, names) = (Cluster::start().await, NameServer::start().await);
    let (one, two) = (RedisServer::start().await, RedisServer::start().await);
    for (server, name) in [(&one, "one"), (&two, "two")] {
        assert_eq!(server.direct().await.command(&["SET", "who", name]).await.text(), "OK");
    }
    let _door = FaultProxy::start_at(SocketAddr::from(([127, 0, 0, 2], one.port())), two.port()).await;
    names.lead("cache.example", &["127.0.0.1"]);
    let settings = Settings::redis(&one).and_postgres(&cluster).set("redis.main.host", "cache.example").set("postgres.dns_max_ttl", "1s");
    let pool = Pooler::start(settings.set("postgres.resolv_conf", names.resolv_conf().display().to_string())).await;
    let mut client = pool.redis_wire().await;
    assert_eq!(client.command(&["GET", "who"]).await.text(), "one");
    names.lead("cache.example", &["127.0.0.2"]);
    wait::until("the other server", async || (client.command(&["GET", "who"]).await.text() == "two").then_some(())).await;
    assert_eq!(pool.redis_wire().await.command(&["GET", "who"]).await.text(), "two");
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_never_end_keep_nobody_out() {
    let authority = Authority::new("sidepool tests");
    let identity = authority.issue("sidepool", &["127.0.0.1", "localhost"]);
    let files = Files::new(&[("ca.crt", &authority.pem()), ("proxy.crt", &identity.cert), ("proxy.key", &identity.key)]);
    let server = RedisServer::start().await;
    let settings = Settings::redis(&server)
        .set("workers", 1)
        .set("redis.main.max_client_logins", 4)
        .set("redis.main.client_login_timeout", "5m")
        .set("redis.main.client_tls_sslmode", "require")
        .set("redis.main.client_tls_cert_file", files.path("proxy.crt"))
        .set("redis.main.client_tls_key_file", files.path("proxy.key"));
    let pool = Pooler::start(settings).await;
    let mut strangers = Vec::new();
    for _ in 0..20 {
        let mut wire = pool.redis_wire().await;
        // The beginning of a ClientHello of 512 bytes (RFC 8446, section 5.1).
        wire.send(&[0x16, 3, 1, 2, 0, 1]).await;
        strangers.push(wire);
    }
    let mut cli = Command::new("redis-cli");
    cli.args(["-h", "127.0.0.1", "-p", &pool.redis_port().to_string(), "--tls", "--cacert", &files.path("ca.crt"), "SET", "k", "v"]);
    let told = wait::soon("a turn", cli.output()).await.expect("redis-cli is installed");
    assert_eq!(String::from_utf8_lossy(&told.stdout).trim(), "OK");
    let crowded_out = pool.scrape().await.sum("sidepool_client_logins_total", &[("protocol", "redis"), ("result", "crowded_out")]);
    assert!(crowded_out >= 16.0, "{crowded_out} made room");
}
