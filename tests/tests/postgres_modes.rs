//! Pool modes: when an upstream connection goes back, and what a client may do meanwhile.

use sidepool_tests::conformance::proves;
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::wire::{first_error, tags};
use sidepool_tests::postgres::{Cluster, frame};
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;

const BACKEND: &str = "SELECT pg_backend_pid()";

fn one_connection(cluster: &Cluster, mode: &str) -> Settings {
    Settings::postgres(cluster).set("postgres.pool_mode", mode).set("postgres.default_pool_size", 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn transaction_mode_shares_between_transactions() {
    let _proof = proves(&["setting pool_mode"]);
    let cluster = Cluster::start().await;
    let pool = Pooler::start(one_connection(&cluster, "transaction")).await;
    let (mut first, mut second) = (pool.wire().await, pool.wire().await);
    let backend = first.value(BACKEND).await;
    assert_eq!(second.value(BACKEND).await, backend);
    assert_eq!(cluster.connections().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn transaction_mode_keeps_the_connection_inside_a_transaction() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(one_connection(&cluster, "transaction")).await;
    let (mut first, mut second) = (pool.wire().await, pool.wire().await);
    assert_eq!(tags(&first.query("BEGIN").await), "CZ");
    second.send(&frame::query("SELECT 'second'")).await;
    assert!(second.is_silent().await, "the only connection is taken");
    assert_eq!(first.value("SELECT 'first'").await, "first");
    assert!(first_error(&first.query("SELECT 1 / 0").await).is_some());
    assert!(second.is_silent().await, "a failed transaction is still one");
    let end = first.query("ROLLBACK").await;
    assert_eq!(end.last().map(|ready| ready.body.to_vec()), Some(b"I".to_vec()));
    assert_eq!(tags(&second.until_ready().await), "TDCZ");
}

#[tokio::test(flavor = "multi_thread")]
async fn session_mode_keeps_the_connection_until_the_client_leaves() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(one_connection(&cluster, "session")).await;
    let mut first = pool.wire().await;
    let backend = first.value(BACKEND).await;
    first.query("SET search_path TO pg_catalog; CREATE TEMP TABLE mine (n int); SELECT pg_advisory_lock(7)").await;
    assert_eq!(first.value("SELECT count(*) FROM mine").await, "0");
    // PgBouncer's second client waits at its login, ours may wait at its first query: both are a wait for the same connection.
    let port = pool.postgres_port();
    let second = tokio::spawn(async move {
        let mut second = sidepool_tests::postgres::Wire::login(port, "app", "app", "app-secret-0815").await;
        let path = second.value("SHOW search_path").await;
        let backend = second.value(BACKEND).await;
        let table = second.value("SELECT coalesce(to_regclass('mine')::text, 'none')").await;
        let locks = second.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").await;
        (path, backend, table, locks)
    });
    assert_eq!(first.value(BACKEND).await, backend);
    first.send(&frame::terminate()).await;
    let (path, second_backend, table, locks) = wait::soon("the second session", second).await.expect("it gets its turn");
    assert_eq!((path.as_str(), table.as_str(), locks.as_str()), ("\"$user\", public", "none", "0"), "nothing of the first is left");
    assert_eq!(second_backend, backend, "a reset connection is used again");
}

#[tokio::test(flavor = "multi_thread")]
async fn statement_mode_refuses_transaction_blocks() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(one_connection(&cluster, "statement")).await;
    let (mut first, mut second) = (pool.wire().await, pool.wire().await);
    assert_eq!(first.value(BACKEND).await, second.value(BACKEND).await);
    let refused = first.query("BEGIN").await;
    assert!(first_error(&refused).is_some(), "{}", tags(&refused));
    assert_eq!(second.value("SELECT 'unharmed'").await, "unharmed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_may_have_a_mode_of_its_own() {
    let _proof = proves(&["setting [databases] pool_mode"]);
    let cluster = Cluster::start().await;
    let settings = one_connection(&cluster, "transaction")
        .database("whole", &cluster)
        .set("postgres.databases.whole.dbname", "app")
        .set("postgres.databases.whole.pool_mode", "session");
    let pool = Pooler::start(settings).await;
    let mut whole = sidepool_tests::postgres::Wire::login(pool.postgres_port(), "app", "whole", "app-secret-0815").await;
    whole.query("PREPARE kept AS SELECT 'kept'").await;
    let mut shared = pool.wire().await;
    assert_eq!(shared.value("SELECT 1").await, "1");
    assert_eq!(whole.value("EXECUTE kept").await, "kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_inside_a_transaction_leaves_nothing_behind() {
    let cluster = Cluster::start().await;
    cluster.sql("CREATE TABLE ledger (entry text); GRANT ALL ON ledger TO app").await;
    for mode in ["transaction", "session"] {
        let pool = Pooler::start(one_connection(&cluster, mode)).await;
        for politely in [true, false] {
            let mut leaver = pool.wire().await;
            leaver.query("BEGIN; INSERT INTO ledger VALUES ('never'); LOCK TABLE ledger IN ACCESS EXCLUSIVE MODE").await;
            if politely {
                leaver.send(&frame::terminate()).await;
            }
            drop(leaver);
            let mut other = pool.wire().await;
            assert_eq!(other.value("SELECT count(*) FROM ledger").await, "0", "{mode}, politely: {politely}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parameter_that_is_tracked_beside_the_usual_ones_stays_with_its_client() {
    let _proof = proves(&["setting track_extra_parameters"]);
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster).set("postgres.default_pool_size", 1);
    let pool = Pooler::start(settings.set("postgres.track_extra_parameters", vec!["IntervalStyle".to_owned()])).await;
    let (mut one, mut other) = (pool.wire().await, pool.wire().await);
    one.query("SET IntervalStyle = 'iso_8601'").await;
    for _ in 0..3 {
        assert_eq!(other.value("SELECT interval '1 day'").await, "1 day");
        assert_eq!(one.value("SELECT interval '1 day'").await, "P1D");
    }
}
