//! Cancels under pressure and at odd moments (row P8): a storm of them is held in a line, and one that comes while a connection is being made
//! ready reaches the query that waits for it.

use sidepool_tests::fault::{Behaviour, FaultProxy};
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::cancel::runs;
use sidepool_tests::postgres::wire::first_error;
use sidepool_tests::postgres::{Cluster, Wire, frame, tags};
use sidepool_tests::settings::Settings;
use tokio::task::JoinSet;

async fn behind(cluster: &Cluster, size: i64) -> (FaultProxy, Settings) {
    let proxy = FaultProxy::start(cluster.port()).await;
    let port = i64::from(proxy.port());
    let settings = Settings::postgres(cluster).set("postgres.databases.app.port", port).set("postgres.default_pool_size", size);
    (proxy, settings)
}

async fn messenger(pool: &Pooler, wire: &Wire) -> Wire {
    let (process, key) = wire.cancel_key.clone().expect("a key");
    let mut messenger = Wire::connect(pool.postgres_port()).await;
    messenger.send(&frame::cancel(process, &key)).await;
    messenger
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_cancels_takes_no_more_connections_than_the_pool_may() {
    let cluster = Cluster::start().await;
    let (proxy, settings) = behind(&cluster, 2).await;
    let pool = Pooler::start(settings.set("postgres.cancel_wait_timeout", "1s")).await;
    let mut client = pool.wire().await;
    client.send(&frame::query("SELECT pg_sleep(60)")).await;
    // A cancel that comes to the server before the query hits nothing.
    runs(&cluster, "pg_sleep").await;
    proxy.behave(Behaviour::Stall);
    let before = proxy.accepted();
    let mut storm = JoinSet::new();
    for _ in 0..20 {
        let mut messenger = messenger(&pool, &client).await;
        storm.spawn(async move { messenger.until_closed().await.len() });
    }
    for _ in 0..18 {
        // cancel_wait_timeout ends the wait of all but those that are on their way.
        assert_eq!(storm.join_next().await.expect("a messenger").expect("no panic"), 0);
    }
    // They were sent before the others gave up, and may be accepted after that.
    proxy.has_accepted(before + 2).await;
    assert_eq!(proxy.accepted() - before, 2, "cancels that the server sees");
    pool.process().log().line_with("cancel_wait_timeout").await;
    assert!(Wire::try_login(pool.postgres_port(), &[("user", "app"), ("database", "app")], "").await.is_ok(), "logins go on");
    proxy.behave(Behaviour::Pass);
    let answer = client.until_ready().await;
    assert_eq!(first_error(&answer).and_then(|error| error.field(b'C')).as_deref(), Some("57014"));
    while let Some(done) = storm.join_next().await {
        assert_eq!(done.expect("no panic"), 0);
    }
    assert_eq!(client.value("SELECT 'unharmed'").await, "unharmed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_that_waited_does_not_hit_the_next_transaction() {
    let cluster = Cluster::start().await;
    let (proxy, settings) = behind(&cluster, 1).await;
    let pool = Pooler::start(settings).await;
    let (mut client, mut other) = (pool.wire().await, pool.wire().await);
    client.query("BEGIN").await;
    proxy.behave(Behaviour::Stall);
    let before = proxy.accepted();
    // The first is on its way and stuck; the second stands in the line behind it, meant for this transaction.
    let mut first = messenger(&pool, &client).await;
    proxy.has_accepted(before + 1).await;
    let mut second = messenger(&pool, &client).await;
    client.send(&frame::query("COMMIT")).await;
    other.send(&frame::query("SELECT 'next', pg_sleep(0.2)")).await;
    proxy.behave(Behaviour::Pass);
    assert!(first.until_closed().await.is_empty() && second.until_closed().await.is_empty());
    // The first may hit the COMMIT, as on a server; nobody after it may be hit.
    client.until_ready().await;
    assert_eq!(tags(&other.until_ready().await), "TDCZ");
    for round in 0..10 {
        assert_eq!(client.value(&format!("SELECT {round}, pg_sleep(0.01)")).await, round.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_while_the_connection_is_brought_into_state_ends_the_query_that_waits_for_it() {
    let cluster = Cluster::start().await;
    let (proxy, settings) = behind(&cluster, 1).await;
    let pool = Pooler::start(settings).await;
    assert_eq!(pool.wire().await.value("SELECT 1").await, "1");
    let tokyo = [("user", "app"), ("database", "app"), ("TimeZone", "Asia/Tokyo")];
    let mut client = Wire::try_login(pool.postgres_port(), &tokyo, "").await.expect("a login");
    proxy.behave(Behaviour::Stall);
    client.send(&frame::query("CREATE TABLE never (n int)")).await;
    let in_use = |now: &sidepool_tests::scrape::Scrape| now.sum("sidepool_pool_server_connections", &[("state", "leased")]) == 1.0;
    pool.metrics_show("the connection being brought into state", in_use).await;
    assert!(messenger(&pool, &client).await.until_closed().await.is_empty());
    proxy.behave(Behaviour::Pass);
    let answer = client.until_ready().await;
    assert_eq!(tags(&answer), "EZ");
    assert_eq!(first_error(&answer).and_then(|error| error.field(b'C')).as_deref(), Some("57014"));
    assert_eq!(client.value("SHOW TimeZone").await, "Asia/Tokyo");
    assert_eq!(client.value("SELECT count(*) FROM pg_class WHERE relname = 'never'").await, "0");
}
