//! Cancel requests: they reach the query they are meant for, and nobody else's.

use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::cancel::{active_queries, cancel_at, runs, send_cancel};
use sidepool_tests::postgres::wire::first_error;
use sidepool_tests::postgres::{Cluster, Wire, frame, tags};
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;

async fn cancel(pool: &Pooler, wire: &Wire) {
    cancel_at(pool.postgres_port(), wire).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_right_query_and_only_that() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster)).await;
    let (mut meant, mut other) = (pool.wire().await, pool.wire().await);
    meant.send(&frame::query("SELECT pg_sleep(60), 'meant'")).await;
    other.send(&frame::query("SELECT pg_sleep(60), 'other'")).await;
    runs(&cluster, "meant").await;
    runs(&cluster, "other").await;
    cancel(&pool, &meant).await;
    let answer = meant.until_ready().await;
    assert_eq!(first_error(&answer).and_then(|error| error.field(b'C')).as_deref(), Some("57014"));
    assert_eq!(active_queries(&cluster, "other").await, 1, "the other goes on");
    cancel(&pool, &other).await;
    assert!(first_error(&other.until_ready().await).is_some());
    assert_eq!(meant.value("SELECT 'usable'").await, "usable");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_cancels_nothing() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster)).await;
    let mut wire = pool.wire().await;
    let (process, key) = wire.cancel_key.clone().expect("the server gave us a key");
    wire.send(&frame::query("SELECT pg_sleep(60), 'steady'")).await;
    runs(&cluster, "steady").await;
    let wrong: Vec<u8> = key.iter().map(|byte| byte ^ 0x55).collect();
    send_cancel(pool.postgres_port(), process, &wrong).await;
    send_cancel(pool.postgres_port(), process.wrapping_add(1), &key).await;
    for odd in [&key[..3], &[key.as_ref(), &[0; 300]].concat()] {
        Wire::connect(pool.postgres_port()).await.try_send(&frame::cancel(process, odd)).await.expect("it is listened to");
    }
    assert!(wire.is_silent().await, "the query goes on");
    cancel(&pool, &wire).await;
    assert!(first_error(&wire.until_ready().await).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_waits_leaves_the_queue() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.default_pool_size", 1)).await;
    let (mut holder, mut waiter) = (pool.wire().await, pool.wire().await);
    holder.query("BEGIN").await;
    waiter.send(&frame::query("SELECT 'never runs'")).await;
    let waiting = |count: f64| {
        move |now: &sidepool_tests::scrape::Scrape| now.sum("sidepool_pool_client_connections", &[("state", "waiting")]) == count
    };
    pool.metrics_show("one waiter", waiting(1.0)).await;
    cancel(&pool, &waiter).await;
    let answer = waiter.until_ready().await;
    assert_eq!(first_error(&answer).and_then(|error| error.field(b'C')).as_deref(), Some("57014"));
    assert_eq!(tags(&answer), "EZ");
    pool.metrics_show("no waiter", waiting(0.0)).await;
    assert_eq!(holder.value("SELECT 'unharmed'").await, "unharmed");
    holder.query("COMMIT").await;
    assert_eq!(waiter.value("SELECT 'again'").await, "again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_cancel_does_not_hit_the_next_user_of_the_connection() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.default_pool_size", 1)).await;
    let (mut done, mut next) = (pool.wire().await, pool.wire().await);
    assert_eq!(done.value("SELECT 1").await, "1");
    for round in 0..20 {
        next.send(&frame::query(&format!("SELECT pg_sleep(0.05), 'round {round}'"))).await;
        cancel(&pool, &done).await;
        let answer = next.until_ready().await;
        assert_eq!(tags(&answer), "TDCZ", "round {round}: {:?}", first_error(&answer).and_then(|error| error.field(b'M')));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cancels_and_queries_at_the_same_time_never_cross() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.default_pool_size", 2)).await;
    let mut victim = pool.wire().await;
    let mut bystanders = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let mut wire = pool.wire().await;
        bystanders.spawn(async move {
            for round in 0..40 {
                let answer = wire.query("SELECT pg_sleep(0.003)").await;
                assert_eq!(tags(&answer), "TDCZ", "round {round}: {:?}", first_error(&answer).and_then(|error| error.field(b'M')));
            }
        });
    }
    for _ in 0..60 {
        victim.send(&frame::query("SELECT pg_sleep(0.004)")).await;
        cancel(&pool, &victim).await;
        let answer = victim.until_ready().await;
        let code = first_error(&answer).and_then(|error| error.field(b'C'));
        assert!(code.is_none() || code.as_deref() == Some("57014"), "{code:?}");
    }
    while let Some(done) = bystanders.join_next().await {
        done.expect("no bystander was hit");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_cancels() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster)).await;
    let client = pool.client().await;
    let token = client.cancel_token();
    let query = tokio::spawn(async move { client.batch_execute("SELECT pg_sleep(60), 'driver'").await });
    runs(&cluster, "driver").await;
    token.cancel_query(tokio_postgres::NoTls).await.expect("the request is sent");
    let error = wait::soon("the query to end", query).await.expect("no panic").expect_err("it was cancelled");
    assert_eq!(error.code(), Some(&tokio_postgres::error::SqlState::QUERY_CANCELED));
}
