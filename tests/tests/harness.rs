//! The harness itself: its servers start and stop, its raw clients log in, its proxies misbehave. When this fails, look here first.

use sidepool_tests::fault::{Behaviour, FaultProxy};
use sidepool_tests::postgres::{Cluster, Wire, frame, tags};
use sidepool_tests::redis::{self, RedisServer, Reply};
use sidepool_tests::scrape::Scrape;

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_takes_each_kind_of_login() {
    let cluster = Cluster::start().await;
    let logins = [("app", "app-secret-0815"), ("legacy", "legacy-secret"), ("clear", "clear-secret"), ("open", "")];
    for (user, password) in logins {
        let mut wire = Wire::login(cluster.port(), user, "app", password).await;
        assert_eq!(wire.value("SELECT current_user").await, user);
        assert!(wire.cancel_key.is_some());
    }
    let refused = Wire::try_login(cluster.port(), &[("user", "app"), ("database", "app")], "wrong").await;
    assert_eq!(refused.err().and_then(|error| error.field(b'C')).as_deref(), Some("28P01"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_stops_and_starts_again() {
    let mut cluster = Cluster::start().await;
    let mut wire = Wire::login(cluster.port(), "app", "app", "app-secret-0815").await;
    wire.query("CREATE TABLE kept (n int)").await;
    cluster.stop();
    assert!(wire.until_closed().await.iter().all(|message| message.tag != b'Z'));
    cluster.launch().await;
    let mut wire = Wire::login(cluster.port(), "app", "app", "app-secret-0815").await;
    let messages = wire.ask(&[frame::parse("", "SELECT 1"), frame::bind("", "", &[]), frame::execute("", 0), frame::sync()].concat()).await;
    assert_eq!(tags(&messages), "12DCZ");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_server_speaks_both_versions() {
    let server = RedisServer::start_with_password("hidden").await;
    let mut stranger = redis::Wire::connect(server.port()).await;
    assert!(stranger.command(&["GET", "key"]).await.is_error("NOAUTH"));
    let mut wire = server.direct().await;
    assert_eq!(wire.command(&["HSET", "hash", "field", "value"]).await, Reply::Integer(1));
    let pair = [Reply::Bulk(b"field".to_vec()), Reply::Bulk(b"value".to_vec())];
    assert_eq!(wire.command(&["HGETALL", "hash"]).await, Reply::Array(pair.to_vec()));
    assert!(matches!(wire.command(&["HELLO", "3"]).await, Reply::Map(_)));
    let [field, value] = pair;
    assert_eq!(wire.command(&["HGETALL", "hash"]).await, Reply::Map(vec![(field, value)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_proxy_stalls_cuts_and_lies() {
    let server = RedisServer::start().await;
    let proxy = FaultProxy::start(server.port()).await;
    let mut wire = redis::Wire::connect(proxy.port()).await;
    assert_eq!(wire.command(&["PING"]).await.text(), "PONG");
    proxy.behave(Behaviour::Stall);
    wire.send(&redis::wire::request(&["ECHO", "late"])).await;
    assert!(wire.is_silent().await);
    proxy.behave(Behaviour::Pass);
    assert_eq!(wire.reply().await.text(), "late");
    proxy.cut();
    assert_eq!(wire.read().await, None);
    proxy.behave(Behaviour::Answer(b"+lie\r\n".to_vec()));
    assert_eq!(redis::Wire::connect(proxy.port()).await.reply().await.text(), "lie");
    proxy.has_accepted(2).await;
}

#[test]
fn a_scrape_is_taken_apart() {
    let scrape = Scrape::parse("# HELP a b\na{pool=\"x\",state=\"idle, now\"} 2\na{pool=\"y\",state=\"idle\"} 3\nb 0.5\nc_count 1\n");
    assert!((scrape.sum("a", &[]) - 5.0).abs() < 1e-9);
    assert!((scrape.sum("a", &[("state", "idle, now")]) - 2.0).abs() < 1e-9);
    assert!(scrape.has("b") && scrape.has("c") && !scrape.has("d"));
}
