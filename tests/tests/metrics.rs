//! What Prometheus sees: every kind of number moves when what it counts happens, promtool has nothing to say, and pools that go leave no series.

use std::io::Write as _;
use std::process::{Command, Stdio};

use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::Cluster;
use sidepool_tests::redis::RedisServer;
use sidepool_tests::settings::Settings;
use sidepool_tests::{scrape, wait};

#[tokio::test(flavor = "multi_thread")]
async fn traffic_shows_in_the_numbers() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster)).await;
    let mut wire = pool.wire().await;
    for _ in 0..5 {
        wire.query("BEGIN; SELECT 1; COMMIT").await;
    }
    wire.query("SELECT 1/0").await;
    wire.query("SELECT no_such_column").await;
    let now = pool.scrape().await;
    let at_least = |name: &str, labels: &[(&str, &str)], least: f64| {
        let value = now.sum(name, labels);
        assert!(value >= least, "{name} {labels:?} is {value}, less than {least}");
    };
    at_least("sidepool_transactions_total", &[], 7.0);
    at_least("sidepool_queries_total", &[], 7.0);
    at_least("sidepool_pool_wait_seconds_count", &[], 7.0);
    at_least("sidepool_pool_use_seconds_count", &[], 7.0);
    at_least("sidepool_server_connects_total", &[("result", "ok")], 1.0);
    at_least("sidepool_server_connect_seconds_count", &[], 1.0);
    at_least("sidepool_client_logins_total", &[("protocol", "postgres"), ("result", "ok")], 1.0);
    at_least("sidepool_client_login_seconds_count", &[("protocol", "postgres")], 1.0);
    at_least("sidepool_errors_total", &[("source", "server"), ("class", "22")], 1.0);
    at_least("sidepool_errors_total", &[("source", "server"), ("class", "42")], 1.0);
    for side in ["client", "server"] {
        for direction in ["in", "out"] {
            at_least("sidepool_bytes_total", &[("side", side), ("direction", direction)], 100.0);
        }
    }
    at_least("sidepool_pool_client_connections", &[("state", "idle")], 1.0);
    at_least("sidepool_pool_server_connections", &[("state", "idle")], 1.0);
    at_least("sidepool_server_up", &[], 1.0);
    at_least("sidepool_listener_client_connections", &[("listener", "postgres")], 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn promtool_has_nothing_to_say() {
    let (cluster, server) = (Cluster::start().await, RedisServer::start().await);
    let settings = Settings::postgres(&cluster).and_redis(&server);
    let mut pool = Pooler::start(settings.clone()).await;
    pool.wire().await.query("SELECT 1").await;
    pool.redis_wire().await.command(&["INCR", "n"]).await;
    assert_eq!(check_metrics(&pool, "sidepool_pool_server_connections{").await, "");
    pool.reload(settings.set("admin.metrics_names", "both")).await;
    // That name is OpenTelemetry's own.
    let only = "db_client_connection_count non-histogram and non-summary metrics should not have \"_count\" suffix";
    assert_eq!(check_metrics(&pool, "db_client_connection_count{").await.trim(), only);
}

/// What promtool has to say about a scrape that has this series: one that a worker answers too late is without its pools.
async fn check_metrics(pool: &Pooler, series: &str) -> String {
    let text = wait::until(series, async || {
        let text = scrape::get(pool.settings().admin_port(), "/metrics").await.expect("metrics").body;
        text.contains(series).then_some(text)
    })
    .await;
    let mut promtool = Command::new("promtool");
    let mut child = promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("promtool");
    child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("promtool reads");
    let output = child.wait_with_output().expect("promtool ends");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_goes_takes_its_series_along() {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster);
    let mut pool = Pooler::start(settings.clone().database("other", &cluster)).await;
    let login = [("user", "app"), ("database", "other")];
    let password = sidepool_tests::postgres::cluster::PASSWORD;
    let mut other = sidepool_tests::postgres::Wire::try_login(pool.postgres_port(), &login, password).await.expect("a login");
    other.query("SELECT 1").await;
    let of_other = |now: &scrape::Scrape| now.matching("sidepool_pool_info", &[("database", "other")]).count();
    pool.metrics_show("the pool", |now| of_other(now) == 1).await;
    drop(other);
    pool.reload(settings).await;
    pool.metrics_show("no such pool", |now| of_other(now) == 0).await;
}
