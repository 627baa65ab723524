//! What clients that listen are promised when much happens or something breaks: nothing lost under a storm, on several workers too; a server that
//! restarts; a client that does not read; bounds.

use std::collections::VecDeque;
use std::time::Duration;

use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::wire::{first_column, first_error, tags};
use sidepool_tests::postgres::{Cluster, Message, Wire, frame};
use sidepool_tests::scrape::Scrape;
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;

fn two(cluster: &Cluster) -> Settings {
    Settings::postgres(cluster).set("postgres.default_pool_size", 2)
}

fn said(message: &Message) -> String {
    assert_eq!(message.tag, b'A', "{:?}", message.field(b'M'));
    let text = String::from_utf8_lossy(&message.body[4..]);
    text.trim_end_matches('\0').split('\0').collect::<Vec<_>>().join("=")
}

async fn heard(wire: &mut Wire) -> String {
    said(&wire.read().await.expect("a notification, and not the end"))
}

async fn nobody_has_a_connection(pool: &Pooler) {
    let free = |now: &Scrape| now.sum("sidepool_pool_server_connections", &[("pool", "app.app"), ("state", "leased")]) == 0.0;
    pool.metrics_show("all connections free", free).await;
}

/// A client that comes and goes: between its LISTEN and its UNLISTEN it misses nothing and hears nothing twice. Gives how much it heard.
async fn comes_and_goes(port: u16, last: u64) -> u64 {
    let mut wire = Wire::login(port, "app", "app", "").await;
    let mut heard = 0;
    loop {
        // What is read back is what was counted before the LISTEN was committed; the next one has to be heard.
        wire.query("LISTEN storm").await;
        let answer = wire.query("SELECT n FROM storm").await;
        let mut expected: u64 = first_column(&answer)[0].parse().expect("a number");
        // What has been committed since may come within the answer.
        let mut early: VecDeque<Message> = answer.into_iter().filter(|message| message.tag == b'A').collect();
        let mut rounds = 0;
        while rounds < 20 && expected < last {
            let message = match early.pop_front() {
                Some(message) => message,
                None => wire.read().await.expect("a notification"),
            };
            let number: u64 = said(&message).trim_start_matches("storm=").parse().expect("a number");
            if number <= expected {
                // Committed between the LISTEN and the SELECT.
                assert_eq!(rounds, 0, "{number} came twice or late: {expected} had come");
                continue;
            }
            assert_eq!(number, expected + 1, "none is missing");
            (expected, rounds, heard) = (number, rounds + 1, heard + 1);
        }
        if expected >= last {
            return heard;
        }
        wire.send(&frame::query("UNLISTEN storm")).await;
        // Up to the ReadyForQuery those before it may come, and none behind it.
        wire.until_ready().await;
    }
}

async fn storm(workers: i64) {
    let cluster = Cluster::start().await;
    cluster.sql("CREATE TABLE storm (n int); INSERT INTO storm VALUES (0); GRANT ALL ON storm TO PUBLIC").await;
    let pool = Pooler::start(two(&cluster).set("workers", workers).set("postgres.default_pool_size", 4)).await;
    let (port, last) = (pool.postgres_port(), 1500);
    let mut stays = Vec::new();
    for _ in 0..4 {
        let mut wire = pool.wire().await;
        wire.query("LISTEN storm").await;
        stays.push(wire);
    }
    let mut clients = JoinSet::new();
    for _ in 0..12 {
        clients.spawn(comes_and_goes(port, last));
    }
    let mut notifiers = JoinSet::new();
    for _ in 0..3 {
        notifiers.spawn(async move {
            let mut wire = Wire::login(port, "app", "app", "").await;
            for _ in 0..last / 3 {
                // The row's lock orders the commits.
                let tags =
                    tags(&wire.query("BEGIN; UPDATE storm SET n = n + 1; SELECT pg_notify('storm', n::text) FROM storm; COMMIT").await);
                assert_eq!(tags, "CCTDCCZ");
            }
        });
    }
    let mut all = 0;
    while let Some(heard) = wait::within(Duration::from_secs(120), "all clients", clients.join_next()).await {
        all += heard.expect("no client fails");
    }
    notifiers.join_all().await;
    for wire in &mut stays {
        for number in 1..=last {
            assert_eq!(heard(wire).await, format!("storm={number}"));
        }
        assert!(wire.is_silent().await);
    }
    assert!(all > 100, "{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_in_a_storm() {
    storm(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_on_three_workers() {
    storm(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_listens_for_the_clients_of_all_workers() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(two(&cluster).set("workers", 3)).await;
    let mut listeners = Vec::new();
    for _ in 0..30 {
        let mut wire = pool.wire().await;
        wire.query("LISTEN a").await;
        listeners.push(wire);
    }
    assert_eq!(pool.scrape().await.sum("sidepool_pool_server_connections", &[("pool", "app.app/listen")]), 1.0);
    cluster.sql("NOTIFY a, 'x'").await;
    for wire in &mut listeners {
        assert_eq!(heard(wire).await, "a=x");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_server_closes_who_listens_and_who_comes_again_hears_again() {
    let mut cluster = Cluster::start().await;
    let pool = Pooler::start(two(&cluster)).await;
    let (mut listener, mut other) = (pool.wire().await, pool.wire().await);
    listener.query("LISTEN a").await;
    other.query("SELECT 1").await;
    nobody_has_a_connection(&pool).await;
    cluster.stop();
    let last = listener.until_closed().await;
    let error = first_error(&last).expect("it is told");
    assert_eq!(error.field(b'C').as_deref(), Some("57P01"));
    assert!(error.field(b'M').unwrap().contains("notifications may have been lost"));
    cluster.launch().await;
    assert_eq!(other.value("SELECT 1").await, "1", "who does not listen stays");
    let mut again = pool.wire().await;
    again.query("LISTEN a").await;
    other.query("NOTIFY a, 'after'").await;
    assert_eq!(heard(&mut again).await, "a=after");
    let scrape = pool.scrape().await;
    assert_eq!(scrape.sum("sidepool_listen_connections_lost_total", &[]), 1.0);
    assert_eq!(scrape.sum("sidepool_listen_clients_closed_total", &[("reason", "gap")]), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_to_be_kept_is_warned_and_hears_again() {
    let mut cluster = Cluster::start().await;
    let pool = Pooler::start(two(&cluster).set("postgres.listen_gap", "warn")).await;
    let (mut listener, mut other) = (pool.wire().await, pool.wire().await);
    listener.query("LISTEN a; LISTEN b").await;
    nobody_has_a_connection(&pool).await;
    cluster.stop();
    let warning = listener.read().await.expect("a warning");
    assert_eq!((warning.tag, warning.field(b'S').as_deref(), warning.field(b'C').as_deref()), (b'N', Some("WARNING"), Some("01000")));
    cluster.launch().await;
    pool.metrics_show("it listening again", |now| now.sum("sidepool_listen_channels", &[]) == 2.0).await;
    // Its own LISTEN is confirmed when the channels are listened to again, and not before: both, for they are asked for one after the other.
    listener.query("LISTEN a; LISTEN b").await;
    other.query("NOTIFY a, 'after'; NOTIFY b, 'after'").await;
    assert_eq!(heard(&mut listener).await, "a=after");
    assert_eq!(heard(&mut listener).await, "b=after");
    assert!(listener.is_silent().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_connection_that_listens_is_lost() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(two(&cluster)).await;
    let (mut idle, mut busy) = (pool.wire().await, pool.wire().await);
    idle.query("LISTEN a").await;
    busy.query("LISTEN a").await;
    busy.query("BEGIN").await;
    cluster.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'sidepool listen'").await;
    assert!(first_error(&idle.until_closed().await).is_some());
    assert_eq!(busy.value("SELECT 1").await, "1", "a transaction is not disturbed");
    assert_eq!(tags(&busy.query("COMMIT").await), "CZ");
    assert!(first_error(&busy.until_closed().await).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_is_closed_and_the_others_do_not_notice() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(two(&cluster)).await;
    let (mut slow, mut held, mut quick) = (pool.wire().await, pool.wire().await, pool.wire().await);
    slow.query("LISTEN a").await;
    held.query("LISTEN a").await;
    quick.query("LISTEN a").await;
    held.query("BEGIN").await;
    let admin = cluster.superuser("app").await;
    let (payload, most) = ("x".repeat(7900), 40_u32);
    let closed = |now: &Scrape| now.sum("sidepool_listen_clients_closed_total", &[("reason", "slow")]);
    let mut sent = 0;
    // Until more waits than may, and what its socket takes.
    for _ in 0..most {
        admin.batch_execute(&format!("SELECT pg_notify('a', i || '{payload}') FROM generate_series(1, 100) i")).await.expect("it notifies");
        for _ in 0..100 {
            assert!(heard(&mut quick).await.starts_with("a="));
        }
        sent += 1;
        if closed(&pool.scrape().await) >= 1.0 {
            break;
        }
    }
    assert!(sent < most, "it was closed");
    assert_eq!(held.value("SELECT 1").await, "1");
    held.send(&frame::query("COMMIT")).await;
    let last = held.until_closed().await;
    let error = first_error(&last).expect("it is told");
    assert_eq!(error.field(b'C').as_deref(), Some("53400"));
    assert!(error.field(b'H').is_some());
    // What it was sent before is whole.
    let read = slow.until_closed().await;
    assert!(read.iter().filter(|message| message.tag == b'A').count() < sent as usize * 100);
    cluster.sql("NOTIFY a, 'end'").await;
    assert_eq!(heard(&mut quick).await, "a=end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_have_so_many_channels_and_no_more() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(two(&cluster)).await;
    let mut wire = pool.wire().await;
    for part in 0..10 {
        let sql: String = (0..100).map(|index| format!("LISTEN c{part}_{index};")).collect();
        assert_eq!(tags(&wire.query(&sql).await), format!("{}Z", "C".repeat(100)));
    }
    let refused = wire.query("LISTEN one_more").await;
    assert_eq!(tags(&refused), "EZ");
    assert_eq!(refused[0].field(b'C').as_deref(), Some("53400"));
    assert!(refused[0].field(b'H').is_some());
    assert_eq!(wire.value("SELECT count(*) FROM pg_listening_channels()").await, "1000");
    wire.query("UNLISTEN c0_0").await;
    assert_eq!(tags(&wire.query("LISTEN one_more").await), "CZ");
    cluster.sql("NOTIFY one_more; NOTIFY c9_99; NOTIFY c0_0").await;
    assert_eq!([heard(&mut wire).await, heard(&mut wire).await], ["one_more=", "c9_99="].map(|name| name.trim_end_matches('=').to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_connection_may_be_had_a_listen_is_refused() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(two(&cluster).set("postgres.max_db_connections", 1)).await;
    let mut wire = pool.wire().await;
    let batch = [frame::parse("", "LISTEN a"), frame::bind("", "", &[]), frame::execute("", 0), frame::sync()].concat();
    for listen in [frame::query("LISTEN a"), batch] {
        let refused = wire.ask(&listen).await;
        assert_eq!(tags(&refused), "EZ");
        assert_eq!(refused[0].field(b'C').as_deref(), Some("53400"));
        assert!(refused[0].field(b'D').unwrap().contains("max_db_connections"), "{:?}", refused[0].field(b'D'));
        assert_eq!(wire.value("SELECT 1").await, "1", "the client stays");
    }
    // In the middle of a transaction nobody but the server can fail it.
    wire.query("BEGIN").await;
    wire.send(&frame::query("LISTEN a")).await;
    let last = wire.until_closed().await;
    assert_eq!(first_error(&last).expect("it is told").field(b'S').as_deref(), Some("FATAL"));
    assert_eq!(pool.wire().await.value("SELECT 1").await, "1");
    assert_eq!(pool.scrape().await.sum("sidepool_listen_clients", &[]), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_a_connection_of_its_own_hears_too() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(two(&cluster)).await;
    let mut wire = pool.wire().await;
    // A name that nobody reads before it has run keeps the connection; the others are heard by way of the one that listens for all.
    wire.query("LISTEN a; LISTEN U&\"\\006fwn\"").await;
    wire.query("BEGIN; LISTEN a; LISTEN b; COMMIT").await;
    let pinned = |now: &Scrape| now.sum("sidepool_pool_server_connections", &[("pool", "app.app"), ("state", "leased")]) == 1.0;
    pool.metrics_show("the connection kept", pinned).await;
    for round in 0..3 {
        wire.query("BEGIN").await;
        cluster.sql(&format!("NOTIFY a, '{round}'; NOTIFY b, '{round}'")).await;
        assert_eq!(wire.value("SELECT 1").await, "1");
        assert!(wire.is_silent().await, "not inside of a transaction");
        let mut told: Vec<String> = wire.query("COMMIT").await.iter().filter(|message| message.tag == b'A').map(said).collect();
        while told.len() < 2 {
            told.push(heard(&mut wire).await);
        }
        assert_eq!(told, [format!("a={round}"), format!("b={round}")]);
        assert!(wire.is_silent().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_while_it_waits_for_the_hub_leaves_nothing() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(two(&cluster)).await;
    for _ in 0..20 {
        let mut wire = pool.wire().await;
        wire.send(&frame::query("LISTEN a")).await;
        wire.stream().shutdown().await.expect("it closes");
        drop(wire);
    }
    pool.metrics_show("nobody listening", |now| {
        now.sum("sidepool_listen_clients", &[]) == 0.0 && now.sum("sidepool_listen_channels", &[]) == 0.0
    })
    .await;
}
