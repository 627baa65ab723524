//! Clients that do not read, or read late: they never hold up the others, a connection is free as soon as its server is through, up to a bound,
//! and what is sent both ways at once never stands still as long as the client reads at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::wire::{first_column, first_error};
use sidepool_tests::postgres::{Cluster, Wire, frame, tags};
use sidepool_tests::settings::Settings;
use sidepool_tests::stream::{send_all, stands_still};
use sidepool_tests::wait;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// One connection for all, and sockets that hold little: what waits, waits in the pooler or in the server.
fn one_connection(cluster: &Cluster) -> Settings {
    Settings::postgres(cluster)
        .set("postgres.default_pool_size", 1)
        .set("postgres.query_wait_timeout", "60s")
        .set("postgres.tcp_socket_buffer", 64 * KIB as i64)
}

/// An answer of so many bytes, which the client does not read.
async fn ask_for(wire: &mut Wire, bytes: usize) {
    wire.send(&frame::query(&format!("SELECT repeat('x', 1000) FROM generate_series(1, {})", bytes / 1000))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_slow_reader_has_still_to_read_holds_no_connection() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(one_connection(&cluster)).await;
    let (mut lazy, mut other) = (pool.wire().await, pool.wire().await);
    for _ in 0..3 {
        ask_for(&mut lazy, 900 * KIB).await;
        assert_eq!(other.value("SELECT 'served'").await, "served");
        // Not a byte was read until now.
        assert_eq!(first_column(&lazy.until_ready().await).len(), 900 * KIB / 1000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn past_the_bound_a_slow_reader_holds_its_connection_and_a_stuck_one_is_closed() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(one_connection(&cluster).set("postgres.client_stall_timeout", "4s")).await;
    let (mut slow, mut other) = (pool.wire().await, pool.wire().await);
    // It takes something every now and then, for longer than the timeout.
    ask_for(&mut slow, 6 * MIB).await;
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(6) {
        slow.read_exactly(100 * KIB).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    other.send(&frame::query("SELECT 'served'")).await;
    assert!(other.is_silent().await, "there is one connection, and its server has not said all");
    // Now it takes nothing any more.
    assert_eq!(first_column(&other.until_ready().await), ["served"]);
    pool.metrics_show("a client that was closed", |now| now.sum("sidepool_client_stalls_total", &[]) == 1.0).await;
    pool.process().log().line_with("client_stall_timeout").await;
    assert!(swallow(slow.stream()).await < 6 * MIB);
}

/// Reads to the end, or to the break.
async fn swallow(stream: &mut (impl AsyncRead + Unpin)) -> usize {
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    rest.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_for_all_slow_readers_together_has_a_bound() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(one_connection(&cluster).set("workers", 1)).await;
    let mut warm = pool.wire().await;
    warm.value("SELECT 1").await;
    let before = pool.process().resident_bytes();
    let mut lazy = Vec::new();
    for _ in 0..60 {
        let mut wire = pool.wire().await;
        ask_for(&mut wire, 900 * KIB).await;
        lazy.push(wire);
    }
    // As many are through as there is room for; the next one holds the connection until it reads.
    let answered = |count: f64| move |now: &sidepool_tests::scrape::Scrape| now.sum("sidepool_transactions_total", &[]) >= count;
    pool.metrics_show("thirty answers taken in", answered(31.0)).await;
    warm.send(&frame::query("SELECT 'served'")).await;
    assert!(warm.is_silent().await, "there is no room for more");
    let grown = pool.process().resident_bytes().saturating_sub(before);
    assert!(grown < 56 * MIB as u64, "{grown} bytes for 60 clients that do not read");
    for wire in &mut lazy {
        assert_eq!(first_column(&wire.until_ready().await).len(), 900 * KIB / 1000);
    }
    assert_eq!(first_column(&warm.until_ready().await), ["served"]);
}

/// A message of the server: its tag and its body.
async fn message(from: &mut (impl AsyncRead + Unpin)) -> (u8, Vec<u8>) {
    let (tag, length) = wait::soon("a message", async { (from.read_u8().await.unwrap(), from.read_u32().await.unwrap()) }).await;
    let mut body = vec![0; length as usize - 4];
    wait::soon("its body", from.read_exact(&mut body)).await.unwrap();
    (tag, body)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_fills_all_buffers_both_ways_goes_on_when_its_client_reads() {
    const QUERIES: usize = 300;
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.default_pool_size", 2)).await;
    let (mut wire, mut other) = (pool.wire().await, pool.wire().await);
    other.value("SELECT 1").await;
    let before = pool.process().resident_bytes();
    // 60 MB there, 90 MB back, and the client begins to read when nothing moves any more.
    let query = |index: usize| frame::query(&format!("SELECT {index}, repeat('y', 300000) /* {} */", "x".repeat(200_000)));
    let bytes = Arc::new((0..QUERIES).flat_map(query).collect::<Vec<u8>>());
    let sent = Arc::new(AtomicUsize::new(0));
    let (from, to) = wire.stream().split();
    let reads = async {
        stands_still(&sent).await;
        assert!(sent.load(Ordering::Relaxed) < bytes.len(), "the buffers hold less than everything");
        for round in 0..20 {
            assert_eq!(other.value(&format!("SELECT {round}")).await, round.to_string(), "others go on meanwhile");
        }
        let grown = pool.process().resident_bytes().saturating_sub(before);
        assert!(grown < 8 * MIB as u64, "{grown} bytes for one client that does not read");
        let mut from = BufReader::new(from);
        for index in 0..QUERIES {
            let expected = index.to_string();
            let tags: Vec<u8> = [message(&mut from).await.0].into();
            let (row, body) = message(&mut from).await;
            assert_eq!((&tags[..], row), (&b"T"[..], b'D'));
            assert_eq!(&body[6..6 + expected.len()], expected.as_bytes(), "answers come in their order");
            assert_eq!(body.len(), 2 + 4 + expected.len() + 4 + 300_000);
            assert_eq!((message(&mut from).await.0, message(&mut from).await.0), (b'C', b'Z'));
        }
    };
    tokio::join!(send_all(to, Arc::clone(&bytes), Arc::clone(&sent)), reads);
    assert_eq!(wire.value("SELECT 'and on'").await, "and on");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_for_ever_and_never_reads_is_closed_and_holds_nobody() {
    let cluster = Cluster::start().await;
    let settings = one_connection(&cluster).set("postgres.client_stall_timeout", "1s");
    let pool = Pooler::start(settings).await;
    let (mut deaf, mut other) = (pool.wire().await, pool.wire().await);
    let query = frame::query(&format!("SELECT repeat('y', 300000) /* {} */", "x".repeat(200_000)));
    let sends = async { while deaf.stream().write_all(&query).await.is_ok() {} };
    wait::soon("the end of its connection", sends).await;
    assert_eq!(other.value("SELECT 'served'").await, "served");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stall_is_told_where_it_can_be_and_the_setting_is_each_users_own() {
    let cluster = Cluster::start().await;
    let settings =
        one_connection(&cluster).set("postgres.client_stall_timeout", "0s").set("postgres.users.app.client_stall_timeout", "500ms");
    let pool = Pooler::start(settings).await;
    let (mut deaf, mut other) = (pool.wire().await, pool.wire().await);
    ask_for(&mut deaf, 8 * MIB).await;
    deaf.read().await.expect("its turn has come");
    assert_eq!(other.value("SELECT 'served'").await, "served");
    // Its answer is cut in the middle of rows, and so nothing stands behind it but, where there is room, why.
    let rest = deaf.until_closed().await;
    assert!(!tags(&rest).ends_with('Z') && rest.len() < 8 * MIB / 1000);
    if let Some(error) = first_error(&rest) {
        assert_eq!(error.field(b'M').as_deref(), Some("the client does not take its answer"));
    }
}
