//! What the configuration says about the metrics: their names, how many pools have series of their own, and how long certificates hold.

use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::cluster::PASSWORD;
use sidepool_tests::postgres::{Cluster, Wire};
use sidepool_tests::redis::RedisServer;
use sidepool_tests::scrape::Scrape;
use sidepool_tests::settings::Settings;
use sidepool_tests::tls::{Authority, Files};

#[tokio::test(flavor = "multi_thread")]
async fn opentelemetry_names_stand_beside_ours_or_in_their_place() {
    let (cluster, server) = (Cluster::start().await, RedisServer::start().await);
    let settings = Settings::postgres(&cluster).and_redis(&server);
    let mut pool = Pooler::start(settings.clone()).await;
    pool.wire().await.query("SELECT 1").await;
    let both_ways = |now: &Scrape| (now.has("sidepool_pool_wait_seconds"), now.has("db_client_connection_wait_time_seconds"));
    assert_eq!(both_ways(&pool.scrape().await), (true, false));
    pool.reload(settings.clone().set("admin.metrics_names", "both")).await;
    let now = pool.scrape().await;
    assert_eq!(both_ways(&now), (true, true));
    for (ours, theirs) in [
        ("sidepool_pool_wait_seconds_count", "db_client_connection_wait_time_seconds_count"),
        ("sidepool_pool_use_seconds_sum", "db_client_connection_use_time_seconds_sum"),
        ("sidepool_server_connect_seconds_count", "db_client_connection_create_time_seconds_count"),
        ("sidepool_pool_server_connections_max", "db_client_connection_max"),
        ("sidepool_pool_server_connections", "db_client_connection_count"),
    ] {
        let (ours, theirs) = (now.sum(ours, &[("pool", "app.app")]), now.sum(theirs, &[("db_client_connection_pool_name", "app.app")]));
        assert!(ours > 0.0 && (ours - theirs).abs() < 1e-9, "{ours} {theirs}");
    }
    pool.reload(settings.set("admin.metrics_names", "otel")).await;
    assert_eq!(both_ways(&pool.scrape().await), (false, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_beyond_the_bound_are_one() {
    let cluster = Cluster::start().await;
    let mut settings = Settings::postgres(&cluster).set("admin.metrics_max_pools", 3);
    for index in 0..8 {
        settings = settings.database(&format!("d{index}"), &cluster).set(&format!("postgres.databases.d{index}.dbname"), "app");
    }
    let pool = Pooler::start(settings).await;
    for index in 0..8 {
        let login = [("user", "app"), ("database", &*format!("d{index}"))];
        let mut wire = Wire::try_login(pool.postgres_port(), &login, PASSWORD).await.expect("a login");
        for _ in 0..=index {
            wire.query("SELECT 1").await;
        }
        // Seen in the order in which they come: the first three keep their names.
        pool.scrape().await;
    }
    let now = pool.scrape().await;
    let of = |name: &str| now.sum("sidepool_queries_total", &[("pool", name)]);
    assert_eq!([of("d0.app"), of("d1.app"), of("d2.app")], [1.0, 2.0, 3.0]);
    assert_eq!(of("_other/postgres"), 4.0 + 5.0 + 6.0 + 7.0 + 8.0);
    assert_eq!(now.matching("sidepool_pool_info", &[]).count(), 4);
    assert_eq!(now.sum("sidepool_metrics_pools_folded", &[]), 5.0);
    let connections = now.sum("sidepool_pool_server_connections", &[]);
    assert_eq!(connections, 8.0, "nothing is left out of the sum");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_show_until_when_they_hold() {
    let cluster = Cluster::start().await;
    let authority = Authority::new("the authority");
    let (good, old) = (authority.issue("localhost", &["localhost"]), authority.issue_expired("localhost", &["localhost"]));
    let files = Files::new(&[("server.crt", &good.cert), ("server.key", &good.key), ("ca.crt", &authority.pem())]);
    let settings = Settings::postgres(&cluster)
        .set("postgres.client_tls_sslmode", "allow")
        .set("postgres.client_tls_key_file", files.path("server.key"))
        .set("postgres.client_tls_cert_file", files.path("server.crt"))
        .set("postgres.client_tls_ca_file", files.path("ca.crt"));
    let mut pool = Pooler::start(settings.clone()).await;
    let until = |now: &Scrape, setting: &str| {
        let labels = [("section", "postgres"), ("setting", setting)];
        now.sum("sidepool_tls_certificate_not_after_timestamp_seconds", &labels)
    };
    let started = pool.scrape().await.sum("process_start_time_seconds", &[]);
    let now = pool.scrape().await;
    assert!(until(&now, "client_tls_cert_file") > started && until(&now, "client_tls_ca_file") > started);
    files.put("server.crt", &old.cert);
    files.put("server.key", &old.key);
    pool.reload(settings).await;
    let now = pool.scrape().await;
    assert!((1.0..started).contains(&until(&now, "client_tls_cert_file")), "it has run out");
}
