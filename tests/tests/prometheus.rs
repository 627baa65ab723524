//! Metrics against their table and against the traffic: every family is there, the numbers add up, a real Prometheus answers with them.

use sidepool::observe::catalog::Family;
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::{Cluster, Wire};
use sidepool_tests::prometheus::Prometheus;
use sidepool_tests::redis::RedisServer;
use sidepool_tests::settings::Settings;
use sidepool_tests::{scrape, tls, wait};

async fn busy_pool() -> (Cluster, RedisServer, Pooler) {
    let (cluster, server) = (Cluster::start().await, RedisServer::start().await);
    // With a limit of its own, so that its numbers are there on machines that set none.
    let settings = Settings::postgres(&cluster).and_redis(&server).set("memory_limit", "1GiB").set("admin.metrics_names", "both");
    let pool = Pooler::start(tls::offered(settings)).await;
    let mut wire = pool.wire().await;
    for _ in 0..10 {
        assert_eq!(wire.value("SELECT 1").await, "1");
    }
    wire.query("SELECT 1 / 0").await;
    let mut redis = pool.redis_wire().await;
    for _ in 0..10 {
        redis.command(&["INCR", "n"]).await;
    }
    (cluster, server, pool)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_family_of_the_table_is_there() {
    let (_cluster, _server, pool) = busy_pool().await;
    let now = pool.scrape().await;
    let described = |name: &str| now.comments.iter().any(|line| line.starts_with(&format!("# TYPE {name} ")));
    let missing: Vec<&str> =
        Family::ALL.iter().map(|family| family.info().name).filter(|name| !now.has(name) && !described(name)).collect();
    assert!(missing.is_empty(), "in the table, not in the scrape: {missing:?}");
    let known = |name: &str| Family::ALL.iter().any(|family| family.info().name == name);
    let base = |name: &str| ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name).to_owned();
    let strange: Vec<&str> =
        now.samples.iter().map(|sample| sample.name.as_str()).filter(|name| !known(name) && !known(&base(name))).collect();
    assert!(strange.is_empty(), "in the scrape, not in the table: {strange:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_numbers_are_those_of_the_traffic() {
    let (cluster, _server, pool) = busy_pool().await;
    let now = pool.scrape().await;
    let postgres = now.matching("sidepool_pool_info", &[("protocol", "postgres")]).next().expect("a pool").clone();
    let label = |key: &str| postgres.labels.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone()).unwrap_or_default();
    let name = label("pool");
    assert_eq!((label("database").as_str(), label("user").as_str()), ("app", "app"));
    let of = |family: &str| now.sum(family, &[("pool", &name)]);
    assert_eq!(of("sidepool_transactions_total"), 11.0);
    assert_eq!(of("sidepool_queries_total"), 11.0);
    assert!(of("sidepool_pool_wait_seconds_count") >= 11.0, "those that did not wait count too");
    assert_eq!(of("sidepool_pool_server_connections_max"), 5.0);
    #[expect(clippy::cast_precision_loss, reason = "a handful")]
    let connections = cluster.connections().await as f64;
    assert_eq!(of("sidepool_pool_server_connections"), connections);
    assert!(of("sidepool_bytes_total") > 100.0);
    assert_eq!(now.sum("sidepool_errors_total", &[("pool", &name), ("class", "22")]), 1.0);
    assert_eq!(now.sum("sidepool_client_logins_total", &[("protocol", "postgres"), ("result", "ok")]), 1.0);
    let mut holder = pool.wire().await;
    holder.query("BEGIN").await;
    let utilisation = pool.scrape().await.sum("sidepool_pool_utilization_ratio", &[("pool", &name)]);
    assert!((utilisation - 0.2).abs() < 1e-9, "one of five: {utilisation}");
    // The Redis side has two pools, one of which has nothing to do here.
    assert_eq!(now.sum("sidepool_queries_total", &[]), 11.0 + 10.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_logins_are_counted_by_result() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.auth_type", "plain")).await;
    let before = pool.scrape().await.sum("sidepool_client_logins_total", &[]);
    let refused = Wire::try_login(pool.postgres_port(), &[("user", "app"), ("database", "app")], "wrong").await;
    assert!(refused.is_err());
    let now = pool.metrics_show("the failed login", |now| now.sum("sidepool_client_logins_total", &[]) > before).await;
    assert_eq!(now.sum("sidepool_client_logins_total", &[("result", "ok")]), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_answered() {
    let (_cluster, _server, pool) = busy_pool().await;
    for path in ["/livez", "/readyz", "/startupz"] {
        assert_eq!(scrape::get(pool.settings().admin_port(), path).await.expect("an answer").status, 200, "{path}");
    }
    assert_eq!(scrape::get(pool.settings().admin_port(), "/nowhere").await.expect("an answer").status, 404);
    let answer = scrape::get(pool.settings().admin_port(), "/metrics").await.expect("an answer");
    assert!(answer.head.to_lowercase().contains("content-type: text/plain"), "{}", answer.head);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_prometheus_scrapes_and_answers() {
    let (_cluster, _server, pool) = busy_pool().await;
    let prometheus = Prometheus::start(&[pool.settings().admin_port()], &[]).await;
    let value = async |query: &str| prometheus.value(query).await;
    let utilisation = wait::until("the utilisation", async || value("max(sidepool_pool_utilization_ratio)").await).await;
    assert!((0.0..=1.0).contains(&utilisation));
    let used = "sum(sidepool_pool_server_connections)/sum(sidepool_pool_server_connections_max)";
    // Where a scrape takes longer than the second that Prometheus gives it, there is nothing to be asked for until the next.
    let ratio = wait::until("what a dashboard asks for", async || value(used).await).await;
    assert!(ratio > 0.0, "the query of a dashboard gives data: {ratio}");
}
