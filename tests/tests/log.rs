//! What the log says of clients that come and go, and of an upstream that does; it names no secret.

use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::Cluster;
use sidepool_tests::postgres::cluster::PASSWORD;
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_logged_when_that_is_wanted() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("log.connections", true)).await;
    pool.wire().await.query("SELECT 1").await;
    let came = pool.process().log().line_with("client connected").await;
    assert!(came.contains("peer=127.0.0.1:") && came.contains("pool=") && came.contains("client="), "{came}");
    let gone = pool.process().log().line_with("client disconnected").await;
    assert!(gone.contains("client=") && gone.contains("reason="), "{gone}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_gone_and_back_is_logged_with_the_cause() {
    let mut cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.query_wait_timeout", "60s")).await;
    let mut wire = pool.wire().await;
    wire.query("SELECT 1").await;
    cluster.stop();
    wire.send(&sidepool_tests::postgres::frame::query("SELECT 'served'")).await;
    let line = pool.process().log().line_with("cannot open an upstream connection").await;
    assert!(line.contains("WARN") && line.contains("pool=") && line.contains("kind="), "{line}");
    cluster.launch().await;
    pool.process().log().line_with("takes connections again").await;
    wait::until("service", async || {
        let mut wire = pool.wire().await;
        (wire.value("SELECT 'back'").await == "back").then_some(())
    })
    .await;
    assert!(pool.process().log().lines().iter().all(|line| !line.contains(PASSWORD)), "a secret in the log");
}
