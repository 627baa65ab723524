//! Large values: they stream through in both directions and are never gathered.

use sidepool_tests::pooler::Pooler;
use sidepool_tests::redis::wire::request;
use sidepool_tests::redis::{RedisServer, Reply, Wire};
use sidepool_tests::scrape::Scrape;
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const MIB: usize = 1 << 20;

/// Sends `SET key` with a value of `size` bytes, a piece at a time.
async fn set(wire: &mut Wire, key: &str, size: usize) {
    let head = format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${size}\r\n", key.len());
    wire.send(head.as_bytes()).await;
    let piece = vec![b'v'; MIB];
    for start in (0..size).step_by(MIB) {
        wire.send(&piece[..MIB.min(size - start)]).await;
    }
    wire.send(b"\r\n").await;
    assert_eq!(wire.reply().await.text(), "OK");
}

/// Sends `GET key` and counts what comes, without keeping it.
async fn get(wire: &mut Wire, key: &str, size: usize) {
    wire.send(&request(&["GET", key])).await;
    let total = format!("${size}\r\n").len() + size + 2;
    let mut buffer = vec![0; MIB];
    let mut seen = 0;
    while seen < total {
        let room = buffer.len().min(total - seen);
        let read = wait::soon("the value", wire.stream().read(&mut buffer[..room])).await.expect("a live connection");
        assert!(read > 0, "closed after {seen} of {total} bytes");
        seen += read;
    }
    assert!(buffer[..2].iter().all(|byte| b"v\r\n".contains(byte)));
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_gigabyte_passes_both_ways() {
    let server = RedisServer::start().await;
    let pool = Pooler::start_fast(Settings::redis(&server)).await;
    let (mut wire, mut other) = (pool.redis_wire().await, pool.redis_wire().await);
    set(&mut wire, "small", 10).await;
    let before = pool.process().peak_resident_bytes();
    set(&mut wire, "big", 512 * MIB).await;
    assert_eq!(other.command(&["STRLEN", "big"]).await.text(), (512 * MIB).to_string());
    get(&mut wire, "big", 512 * MIB).await;
    assert_eq!(wire.command(&["STRLEN", "small"]).await.text(), "10");
    let grown = pool.process().peak_resident_bytes() - before;
    assert!(grown < 64 << 20, "{grown} bytes more for a value of 512 MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_sender_of_a_large_value_holds_up_nobody() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let (mut slow, mut other) = (pool.redis_wire().await, pool.redis_wire().await);
    slow.send(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n", 8 * MIB).as_bytes()).await;
    for _ in 0..8 {
        slow.stream().write_all(&vec![b'v'; MIB]).await.expect("it is listened to");
        assert!(matches!(other.command(&["INCR", "counter"]).await, Reply::Integer(_)));
    }
    slow.send(b"\r\n").await;
    assert_eq!(slow.reply().await.text(), "OK");
    assert_eq!(other.command(&["STRLEN", "k"]).await.text(), (8 * MIB).to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_in_the_middle_of_a_value_breaks_nothing() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let mut other = pool.redis_wire().await;
    set(&mut other, "big", 20 * MIB).await;
    for size in [100, MIB, 5 * MIB] {
        let mut writer = pool.redis_wire().await;
        writer.send(b"*3\r\n$3\r\nSET\r\n$4\r\nhalf\r\n$20971520\r\n").await;
        writer.send(&vec![b'v'; size]).await;
        drop(writer);
        let mut reader = pool.redis_wire().await;
        reader.send(&request(&["GET", "big"])).await;
        let mut some = vec![0; size];
        wait::soon("the beginning of the value", reader.stream().read_exact(&mut some)).await.expect("a live connection");
        drop(reader);
        assert_eq!(other.command(&["EXISTS", "half"]).await.text(), "0");
        assert_eq!(other.command(&["ECHO", "in order"]).await.text(), "in order");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_smaller_than_what_streams_is_gathered_on_a_connection_of_ones_own_too() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server).set("redis.main.stream_threshold", "4MiB")).await;
    let mut wire = pool.redis_wire().await;
    assert_eq!(wire.command(&["WATCH", "k"]).await.text(), "OK");
    set(&mut wire, "other", 2 * MIB).await;
    get(&mut wire, "other", 2 * MIB).await;
    set(&mut wire, "other", 6 * MIB).await;
    get(&mut wire, "other", 6 * MIB).await;
}

/// The proxy has read all that was sent.
async fn is_read(wire: &mut Wire) {
    let port = wire.stream().local_addr().expect("a TCP socket").port();
    wait::until("the proxy to read it", async || {
        let sockets = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
        let theirs = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let queue = theirs.filter(|words| words[2].ends_with(&format!(":{port:04X}"))).map(|words| words[4].to_owned()).next();
        queue.expect("it is open").ends_with(":00000000").then_some(())
    })
    .await;
}

/// A request with the names of so many keys, of which exactly as much as is gathered ends so many bytes into the header of a name.
fn many_keys(into: usize) -> (Vec<u8>, usize) {
    const GATHERED: usize = 64 * 1024;
    let all = |first: usize| request(&[vec![b"DEL".to_vec(), vec![b'k'; first]], vec![b"some key".to_vec(); 6_000]].concat());
    // Each name takes fourteen bytes, the four of its header first.
    let first = (20..34).find(|first| {
        let head = all(*first).len() - 6_000 * 14;
        (GATHERED - head) % 14 == into
    });
    (all(first.expect("one of them")), GATHERED)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_request_may_pause_anywhere_on_a_connection_of_ones_own() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    // Within a header, and within the end of a name.
    for into in [0, 1, 2, 3, 12, 13] {
        let (all, gathered) = many_keys(into);
        for leaves in [false, true] {
            let mut wire = pool.redis_wire().await;
            assert_eq!(wire.command(&["WATCH", "k"]).await.text(), "OK");
            wire.send(&all[..gathered]).await;
            is_read(&mut wire).await;
            if !leaves {
                wire.send(&all[gathered..]).await;
                assert_eq!(wire.reply().await, Reply::Integer(0), "{into} bytes into it");
            }
        }
        let leased = |now: &Scrape| now.sum("sidepool_redis_connections", &[("use", "leased")]);
        pool.metrics_show("connections that are given back", |now| leased(now) == 0.0).await;
    }
}
