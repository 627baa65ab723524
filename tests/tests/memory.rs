//! Memory that runs out: new clients are refused and those that hold most are closed before the kernel kills, and all is well again when there is
//! more. The limit is `memory_limit`, which a reload moves up to what the process has.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::cancel::runs;
use sidepool_tests::postgres::cluster::{PASSWORD, USER};
use sidepool_tests::postgres::{Cluster, Message, Wire, frame, tags};
use sidepool_tests::redis::wire::request;
use sidepool_tests::redis::{RedisServer, Reply};
use sidepool_tests::scrape::Scrape;
use sidepool_tests::settings::Settings;
use sidepool_tests::stream::{send_all, stands_still};
use sidepool_tests::wait;
use tokio::io::AsyncReadExt as _;

const LOGIN: &[(&str, &str)] = &[("user", USER), ("database", "app")];

/// A limit of which the process has so many hundredths in use now. It has reloaded and been scraped before: what that takes the first time is in
/// use already then, and does not take it a step further when it is told the limit.
async fn used_to(pool: &mut Pooler, settings: &Settings, percent: f64) -> String {
    pool.reload(settings.clone().set("memory_limit", "64GiB")).await;
    let resident = pool.scrape().await.sum("process_resident_memory_bytes", &[]);
    format!("{:.0}B", resident * 100.0 / percent)
}

/// Commands that were sent to servers.
async fn queries(pool: &Pooler) -> f64 {
    pool.scrape().await.sum("sidepool_queries_total", &[])
}

async fn pressure(pool: &Pooler, step: f64) {
    pool.metrics_show("another step", |now| (now.sum("sidepool_memory_pressure", &[]) - step).abs() < 0.5).await;
}

fn refused(error: &Message) {
    assert_eq!(error.field(b'C').as_deref(), Some("53200"), "{error:?}");
    assert!(error.field(b'D').is_some_and(|detail| detail.contains("memory_limit")) && error.field(b'H').is_some(), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_new_is_refused_while_memory_runs_out_and_others_go_on() {
    let (cluster, server) = (Cluster::start().await, RedisServer::start().await);
    let settings = Settings::postgres(&cluster).and_redis(&server);
    let mut pool = Pooler::start(settings.clone()).await;
    let (mut client, mut cache) = (pool.wire().await, pool.redis_wire().await);
    client.send(&frame::query("SELECT pg_sleep(60)")).await;
    runs(&cluster, "pg_sleep(60)").await;
    let limit = used_to(&mut pool, &settings, 90.0).await;
    pool.reload(settings.clone().set("memory_limit", limit)).await;
    pressure(&pool, 2.0).await;
    let Err(error) = Wire::try_login(pool.postgres_port(), LOGIN, PASSWORD).await else { panic!("nobody new is let in") };
    refused(&error);
    let said = pool.redis_wire().await.read().await;
    assert!(matches!(&said, Some(Reply::Error(line)) if line.starts_with("OOM ")), "{said:?}");
    assert_eq!(cache.command(&["SET", "key", "value"]).await.text(), "OK", "who is in goes on");
    // A cancel is no new client.
    let (process, key) = client.cancel_key.clone().expect("a key");
    let mut messenger = Wire::connect(pool.postgres_port()).await;
    messenger.send(&frame::cancel(process, &key)).await;
    assert_eq!(tags(&client.until_ready().await), "TEZ");
    let counted = |now: &Scrape| now.sum("sidepool_listener_rejections_total", &[("reason", "memory")]) >= 2.0;
    pool.metrics_show("both refusals", counted).await;
    pool.reload(settings).await;
    pressure(&pool, 0.0).await;
    assert_eq!(pool.wire().await.value("SELECT 'in'").await, "in");
}

#[tokio::test(flavor = "multi_thread")]
async fn those_that_hold_most_are_closed_before_the_kernel_kills() {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster);
    let mut pool = Pooler::start(settings.clone()).await;
    let (mut idle, mut busy, mut bare) = (pool.wire().await, pool.wire().await, pool.wire().await);
    for client in [&mut idle, &mut busy] {
        client.send(&[frame::parse("held", "SELECT 1"), frame::sync()].concat()).await;
        assert_eq!(tags(&client.until_ready().await), "1Z");
    }
    busy.query("BEGIN").await;
    let limit = used_to(&mut pool, &settings, 110.0).await;
    pool.reload(settings.set("memory_limit", limit)).await;
    pressure(&pool, 3.0).await;
    let last = idle.until_closed().await;
    refused(last.last().expect("it is told"));
    assert_eq!(busy.value("SELECT 'in a transaction'").await, "in a transaction", "who is at work is left alone");
    assert_eq!(bare.value("SELECT 'idle'").await, "idle", "as is who holds nothing");
    pool.metrics_show("one that was closed", |now| now.sum("sidepool_memory_closes_total", &[]) >= 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_take_its_replies_is_not_read_on() {
    let server = RedisServer::start().await;
    let settings = Settings::redis(&server);
    let mut pool = Pooler::start(settings.clone()).await;
    let mut slow = pool.redis_wire().await;
    assert_eq!(slow.command(&["PING"]).await.text(), "PONG");
    let limit = used_to(&mut pool, &settings, 82.0).await;
    pool.reload(settings.clone().set("memory_limit", limit)).await;
    pressure(&pool, 1.0).await;
    // It asks for more than sockets hold, and takes nothing.
    const ASKED: usize = 800;
    let value = "x".repeat(1 << 16);
    let bytes = Arc::new(request(&["ECHO", &value]).repeat(ASKED));
    let (sent, before) = (Arc::new(AtomicUsize::new(0)), queries(&pool).await);
    let (mut from, to) = slow.stream().split();
    let takes = async {
        // It may be a slow machine that stands still: then more are run a moment later.
        let done = wait::until("that no more are run", async || {
            let done = queries(&pool).await - before;
            stands_still(&sent).await;
            (done > 0.5 && queries(&pool).await - before < done + 0.5).then_some(done)
        })
        .await;
        assert!(done < 600.0, "{done} of {ASKED} were run for a client that takes nothing");
        let mut quick = tokio::time::timeout(Duration::from_secs(10), pool.redis_wire()).await.expect("let in");
        assert_eq!(quick.command(&["PING"]).await.text(), "PONG", "others are served");
        // There is memory again, and it takes what it has asked for: all of it comes.
        pool.reload(settings).await;
        pressure(&pool, 0.0).await;
        let expected = format!("$65536\r\n{value}\r\n");
        let mut reply = vec![0; expected.len()];
        for number in 0..ASKED {
            wait::soon("a reply", from.read_exact(&mut reply)).await.expect("a live connection");
            assert!(reply == expected.as_bytes(), "reply {number}");
        }
        pool.metrics_show("more that were run", |now| now.sum("sidepool_queries_total", &[]) - before > done + 0.5).await;
    };
    tokio::join!(send_all(to, Arc::clone(&bytes), Arc::clone(&sent)), takes);
    assert_eq!(slow.command(&["PING"]).await.text(), "PONG");
}
