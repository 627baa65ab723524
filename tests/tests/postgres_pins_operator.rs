//! Pinned clients and those who run the pooler and the server: KILL, PAUSE, RECONNECT, SIGTERM, an administrator of the server; several workers.

use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::wire::first_error;
use sidepool_tests::postgres::{Cluster, Wire, frame, tags};
use sidepool_tests::process::Signal;
use sidepool_tests::settings::Settings;
use sidepool_tests::{console, wait};

const PIN: &str = "CREATE TEMP TABLE kept AS SELECT 1";
const LEFT: &str = "SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()";
const PID: &str = "SELECT pg_backend_pid()";

fn settings(cluster: &Cluster) -> Settings {
    Settings::postgres(cluster).set("postgres.admin_users", vec!["app".to_owned()])
}

/// A client that is pinned.
async fn keeper(pool: &Pooler) -> Wire {
    let mut wire = pool.wire().await;
    assert_eq!(tags(&wire.query(PIN).await), "CZ");
    wire
}

async fn operator(pool: &Pooler) -> Wire {
    Wire::login(pool.postgres_port(), "app", "pgbouncer", "").await
}

async fn pinned(pool: &Pooler, count: u32) {
    let is = |now: &sidepool_tests::scrape::Scrape| (now.sum("sidepool_pinned_clients", &[]) - f64::from(count)).abs() < 0.5;
    pool.metrics_show(&format!("{count} pinned clients"), is).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_an_operator_kills_leaves_nothing_behind() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(settings(&cluster).set("postgres.default_pool_size", 1)).await;
    let mut keeper = keeper(&pool).await;
    let pid = keeper.value(PID).await;
    let mut operator = operator(&pool).await;
    let row = console::rows(&mut operator, "SHOW PINS").await.remove(0);
    assert_eq!(tags(&operator.query(&format!("KILL_CLIENT {}", console::value(&row, "client_id"))).await), "CZ");
    let last = keeper.until_closed().await.pop().expect("it is told");
    assert_eq!(last.field(b'M').as_deref(), Some("admin forced disconnect"));
    let mut next = pool.wire().await;
    assert_eq!([next.value(LEFT).await, next.value(PID).await], ["0", &pid], "cleaned, and kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_connection_that_the_server_ends_is_gone_and_others_go_on() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(settings(&cluster).set("postgres.default_pool_size", 1)).await;
    let mut keeper = keeper(&pool).await;
    pinned(&pool, 1).await;
    cluster.terminate_connections().await;
    let last = keeper.until_closed().await.pop().expect("it is told");
    assert_eq!(last.field(b'C').as_deref(), Some("57P01"));
    assert_eq!(pool.wire().await.value(LEFT).await, "0");
    pinned(&pool, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_and_reconnect_wait_for_the_end_of_a_pin() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(settings(&cluster)).await;
    let mut keeper = keeper(&pool).await;
    let mut operator = operator(&pool).await;
    for command in ["WAIT_CLOSE", "PAUSE"] {
        if command == "WAIT_CLOSE" {
            assert_eq!(tags(&operator.query("RECONNECT").await), "CZ");
        } else {
            assert_eq!(tags(&keeper.query(PIN).await), "CZ");
        }
        operator.send(&frame::query(command)).await;
        assert!(operator.is_silent().await, "{command}");
        assert_eq!(keeper.value("SELECT count(*) FROM kept").await, "1", "{command}: it goes on meanwhile");
        assert_eq!(tags(&keeper.query("DROP TABLE kept").await), "CZ");
        assert_eq!(tags(&operator.until_ready().await), "CZ", "{command}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_client_that_is_idle_does_not_hold_up_the_end_of_the_process() {
    let cluster = Cluster::start().await;
    let mut pool = Pooler::start(settings(&cluster).set("drain.timeout", "60s")).await;
    let mut keeper = keeper(&pool).await;
    pool.process().signal(Signal::TERM);
    let told = keeper.until_closed().await;
    assert_eq!(first_error(&told).and_then(|error| error.field(b'C')).as_deref(), Some("57P01"));
    assert!(pool.process_mut().ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_have_one_bound_for_all() {
    let cluster = Cluster::start().await;
    let bounded = settings(&cluster).set("workers", 2).set("postgres.default_pool_size", 8).set("postgres.max_pinned_connections", 3);
    let pool = Pooler::start(bounded).await;
    let mut wires = Vec::new();
    for _ in 0..8 {
        wires.push(pool.wire().await);
    }
    for wire in &mut wires {
        wire.send(&frame::query(PIN)).await;
    }
    let mut refused = 0;
    for wire in &mut wires {
        refused += usize::from(first_error(&wire.until_ready().await).is_some());
    }
    assert_eq!(refused, 5);
    pinned(&pool, 3).await;
    let mut operator = operator(&pool).await;
    let shown =
        wait::until("three rows", async || Some(console::rows(&mut operator, "SHOW PINS").await).filter(|rows| rows.len() == 3)).await;
    assert!(shown.iter().all(|row| console::value(row, "reasons") == "temporary_tables"));
}
