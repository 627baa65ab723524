//! A client that does not read its replies hurts nobody: the others are served, memory stays bounded, and large values arrive whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sidepool_tests::pooler::Pooler;
use sidepool_tests::redis::wire::request;
use sidepool_tests::redis::{RedisServer, Reply, Wire};
use sidepool_tests::scrape::Scrape;
use sidepool_tests::settings::Settings;
use sidepool_tests::stream::{send_all, stands_still};
use sidepool_tests::wait;
use tokio::io::{AsyncReadExt as _, BufReader};

const MIB: usize = 1024 * 1024;

/// Waits until so much of a reply lies in the proxy before this client, which does not read it, that nobody is put behind it any more. The proxy says
/// so: that no more of it comes for a moment may also be because a process stands still.
async fn lies_there(id: &str, other: &mut Wire) {
    // More than a client may leave there before others are given another connection.
    const MUCH: usize = 64 * 1024;
    wait::until("a reply that nobody reads", async || {
        let line = other.command(&["CLIENT", "LIST", "ID", id]).await.text();
        let lies = line.split(' ').find_map(|pair| pair.strip_prefix("omem=")).expect("what waits for it");
        (lies.parse::<usize>().expect("a number") > MUCH).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_reply_that_nobody_reads_stops_nobody() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server).set("redis.main.shared_connections", 1)).await;
    server.direct().await.command(&[&b"SET"[..], b"large", &vec![b'x'; 48 * MIB]]).await;
    let (mut slow, mut quick) = (pool.redis_wire().await, pool.redis_wire().await);
    slow.command(&["PING"]).await;
    quick.command(&["PING"]).await;
    let id = slow.command(&["CLIENT", "ID"]).await.text();
    let before = pool.process().resident_bytes();
    slow.send(&request(&["GET", "large"])).await;
    // Whoever is already behind it has to wait for it; whoever comes later does not.
    lies_there(&id, &mut quick).await;
    for round in 0..200 {
        assert_eq!(quick.command(&["INCR", "n"]).await, Reply::Integer(round + 1));
    }
    let grown = pool.process().resident_bytes().saturating_sub(before);
    assert!(grown < 8 * MIB as u64, "the value is not gathered: {grown} bytes more");
    let value = slow.reply().await;
    assert!(matches!(value, Reply::Bulk(bytes) if bytes.len() == 48 * MIB && bytes.iter().all(|byte| *byte == b'x')));
    assert_eq!(slow.command(&["INCR", "n"]).await, Reply::Integer(201), "and it goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_never_reads_is_not_read_and_then_closed() {
    let server = RedisServer::start().await;
    let settings =
        Settings::redis(&server).set("redis.main.shared_connections", 1).set("redis.main.client_output_buffer_limit", "normal 1mb 0 0");
    let pool = Pooler::start(settings).await;
    server.direct().await.command(&[&b"SET"[..], b"medium", &vec![b'x'; 30_000]]).await;
    let (mut slow, mut quick) = (pool.redis_wire().await, pool.redis_wire().await);
    // More replies than sockets and limit hold together.
    let many = request(&["GET", "medium"]).repeat(1500);
    let _ = slow.try_send(&many).await;
    for round in 0..200 {
        assert_eq!(quick.command(&["INCR", "n"]).await, Reply::Integer(round + 1));
    }
    let memory = pool.process().resident_bytes();
    assert!(memory < 100 * MIB as u64, "{memory} bytes for one client that does not read");
    let mut rest = Vec::new();
    let _ = slow.stream().read_to_end(&mut rest).await;
    assert!(rest.len() < 1500 * 30_000, "it was closed before it got everything");
    assert_eq!(quick.command(&["PING"]).await.text(), "PONG");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_fills_all_buffers_both_ways_goes_on_when_its_client_reads() {
    const ROUNDS: usize = 150;
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let (mut wire, mut other) = (pool.redis_wire().await, pool.redis_wire().await);
    assert_eq!(other.command(&["PING"]).await.text(), "PONG");
    let before = pool.process().resident_bytes();
    // 45 MB there and 45 MB back, and the client begins to read when nothing moves any more.
    let value = |round: usize| round.to_string().repeat(300_000 / round.to_string().len());
    let both = |round| [request(&["SET", "large", &value(round)]), request(&["GET", "large"])].concat();
    let bytes = Arc::new((0..ROUNDS).flat_map(both).collect::<Vec<u8>>());
    let sent = Arc::new(AtomicUsize::new(0));
    let (from, to) = wire.stream().split();
    let reads = async {
        stands_still(&sent).await;
        assert!(sent.load(Ordering::Relaxed) < bytes.len(), "the buffers hold less than everything");
        for round in 0..20 {
            assert_eq!(other.command(&["INCR", "n"]).await, Reply::Integer(round + 1), "others go on meanwhile");
        }
        let grown = pool.process().resident_bytes().saturating_sub(before);
        assert!(grown < 16 * MIB as u64, "{grown} bytes for one client that does not read");
        let mut from = BufReader::new(from);
        for round in 0..ROUNDS {
            let value = value(round);
            let expected = format!("+OK\r\n${}\r\n{value}\r\n", value.len());
            let mut reply = vec![0; expected.len()];
            wait::soon("two replies", from.read_exact(&mut reply)).await.expect("a live connection");
            assert!(reply == expected.as_bytes(), "replies come whole and in their order: {round}");
        }
    };
    tokio::join!(send_all(to, Arc::clone(&bytes), Arc::clone(&sent)), reads);
    assert_eq!(wire.command(&["PING"]).await.text(), "PONG");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_values_both_ways_beside_small_ones() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let mut tasks = tokio::task::JoinSet::new();
    for client in 0..4_u8 {
        let mut wire = pool.redis_wire().await;
        tasks.spawn(async move {
            let key = format!("large{client}");
            for size in [MIB, 10, 5 * MIB, 70_000, 65_536, 0] {
                let value: Vec<u8> = (0..size).map(|at| (at as u8).wrapping_mul(31).wrapping_add(client)).collect();
                wire.send(
                    &[request(&["INCR", "small"]), request(&[&b"SET"[..], key.as_bytes(), &value]), request(&["GET", &key])].concat(),
                )
                .await;
                assert!(matches!(wire.reply().await, Reply::Integer(_)));
                assert_eq!(wire.reply().await.text(), "OK");
                assert!(wire.reply().await == Reply::Bulk(value));
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("every client finished");
    }
}

/// How many clients have been closed because they did not read.
fn slow_ones(now: &Scrape) -> f64 {
    now.sum("sidepool_client_faults_total", &[("protocol", "redis"), ("kind", "slow")])
}

/// Reads what it was sent until it was closed.
async fn closed_in_the_end(wire: &mut Wire) -> usize {
    let mut rest = Vec::new();
    let _ = wait::soon("the end of a connection", wire.stream().read_to_end(&mut rest)).await;
    rest.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn past_the_soft_limit_it_is_a_matter_of_time() {
    let server = RedisServer::start().await;
    let limits = "normal 500mb 1mb 1 pubsub 500mb 1mb 1";
    let pool = Pooler::start(Settings::redis(&server).set("redis.main.client_output_buffer_limit", limits)).await;
    server.direct().await.command(&[&b"SET"[..], b"medium", &vec![b'x'; 30_000]]).await;
    // Replies.
    let mut slow = pool.redis_wire().await;
    let _ = slow.try_send(&request(&["GET", "medium"]).repeat(1000)).await;
    pool.metrics_show("a client that is closed", |now| slow_ones(now) == 1.0).await;
    assert!(closed_in_the_end(&mut slow).await < 1000 * 30_000);
    // Messages.
    let (mut subscriber, mut publisher) = (pool.redis_wire().await, pool.redis_wire().await);
    subscriber.command(&["SUBSCRIBE", "channel"]).await;
    let message = vec![b'x'; 100_000];
    for _ in 0..200 {
        publisher.command(&[&b"PUBLISH"[..], b"channel", &message]).await;
    }
    pool.metrics_show("a subscriber that is closed", |now| slow_ones(now) == 2.0).await;
    assert!(closed_in_the_end(&mut subscriber).await < 200 * 100_000);
    // The server is told on another connection than this one.
    wait::until("nobody to be subscribed", async || {
        (publisher.command(&["PUBLISH", "channel", "x"]).await == Reply::Integer(0)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_class_has_its_own_hard_limit() {
    let server = RedisServer::start().await;
    let limits = "normal 500mb 0 0 pubsub 1mb 0 0";
    let pool = Pooler::start(Settings::redis(&server).set("redis.main.client_output_buffer_limit", limits)).await;
    let (mut subscriber, mut publisher) = (pool.redis_wire().await, pool.redis_wire().await);
    subscriber.command(&["SUBSCRIBE", "channel"]).await;
    let message = vec![b'x'; MIB];
    let mut heard = 0;
    while publisher.command(&[&b"PUBLISH"[..], b"channel", &message]).await == Reply::Integer(1) {
        heard += 1;
        assert!(heard < 100, "it is closed when the sockets are full");
    }
    let mut slow = pool.redis_wire().await;
    publisher.command(&[&b"SET"[..], b"medium", &vec![b'x'; 30_000]]).await;
    slow.send(&request(&["GET", "medium"]).repeat(500)).await;
    assert_eq!(publisher.command(&["PING"]).await.text(), "PONG");
    for _ in 0..500 {
        assert!(matches!(slow.reply().await, Reply::Bulk(value) if value.len() == 30_000));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_holds_no_connection_for_ever() {
    let server = RedisServer::start().await;
    let settings = Settings::redis(&server).set("redis.main.client_output_buffer_limit", "normal 64mb 16mb 1");
    let pool = Pooler::start(settings).await;
    server.direct().await.command(&[&b"SET"[..], b"large", &vec![b'x'; 32 * MIB]]).await;
    let (mut shared, mut leased) = (pool.redis_wire().await, pool.redis_wire().await);
    leased.command(&["WATCH", "k"]).await;
    for wire in [&mut shared, &mut leased] {
        wire.send(&request(&["GET", "large"])).await;
    }
    pool.metrics_show("two clients that are closed", |now| slow_ones(now) == 2.0).await;
    for wire in [&mut shared, &mut leased] {
        assert!(closed_in_the_end(wire).await < 32 * MIB);
    }
    let held = |now: &Scrape| now.sum("sidepool_pool_server_connections", &[("state", "leased")]);
    pool.metrics_show("that nobody holds a connection", |now| held(now) == 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_that_let_large_replies_lie_leave_connections_for_the_others() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    server.direct().await.command(&[&b"SET"[..], b"large", &vec![b'x'; 32 * MIB]]).await;
    let (mut slow, mut other) = (Vec::new(), pool.redis_wire().await);
    for round in 0..30 {
        let mut wire = pool.redis_wire().await;
        wire.send(&request(&["GET", "large"])).await;
        slow.push(wire);
        assert_eq!(other.command(&["INCR", "n"]).await, Reply::Integer(round + 1));
    }
}
