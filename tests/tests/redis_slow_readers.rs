//! A client that does not read its replies hurts nobody: the others are served, memory stays bounded, and large values arrive whole.

use sidepool_tests::pooler::Pooler;
use sidepool_tests::redis::wire::request;
use sidepool_tests::redis::{RedisServer, Reply};
use sidepool_tests::settings::Settings;
use tokio::io::AsyncReadExt as _;

const MIB: usize = 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn a_large_reply_that_nobody_reads_stops_nobody() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server).set("redis.main.shared_connections", 1)).await;
    server.direct().await.command(&[&b"SET"[..], b"large", &vec![b'x'; 48 * MIB]]).await;
    let (mut slow, mut quick) = (pool.redis_wire().await, pool.redis_wire().await);
    slow.command(&["PING"]).await;
    quick.command(&["PING"]).await;
    let before = pool.process().resident_bytes();
    slow.send(&request(&["GET", "large"])).await;
    // Whoever is already behind it has to wait for it; whoever comes later does not.
    assert!(quick.is_silent().await);
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
    let settings = Settings::redis(&server).set("redis.main.shared_connections", 1).set("redis.main.client_output_limit", "1MiB");
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
