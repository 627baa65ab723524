//! Order: replies come in the order of requests, and each client's commands run in its order, shared and leased ones mixed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use sidepool_tests::fault::{Behaviour, FaultProxy};
use sidepool_tests::pooler::Pooler;
use sidepool_tests::redis::wire::request;
use sidepool_tests::redis::{RedisServer, Reply, Wire};
use sidepool_tests::settings::Settings;
use tokio::task::JoinSet;

async fn read_replies(wire: &mut Wire, count: usize) -> Vec<Reply> {
    let mut replies = Vec::with_capacity(count);
    for _ in 0..count {
        replies.push(wire.reply().await);
    }
    replies
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_come_in_the_order_of_requests() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let mut wire = pool.redis_wire().await;
    // Answered by the proxy, by the shared connection, by a lease, with errors in between.
    let kinds: [fn(usize) -> Vec<u8>; 6] = [
        |index| request(&["ECHO", &format!("{index}")]),
        |index| request(&["PING", &format!("{index}")]),
        |index| [request(&["MULTI"]), request(&["ECHO", &format!("{index}")]), request(&["EXEC"])].concat(),
        |index| request(&["NOSUCH", &format!("{index}")]),
        |_| request(&["SELECT", "0"]),
        |index| [request(&["RPUSH", "list", &format!("{index}")]), request(&["BLPOP", "list", "0"])].concat(),
    ];
    let bytes: Vec<u8> = (0..600).flat_map(|index| kinds[index % kinds.len()](index)).collect();
    wire.send(&bytes).await;
    for index in 0..600 {
        let text = index.to_string();
        match index % kinds.len() {
            0 | 1 => assert_eq!(wire.reply().await.text(), text),
            2 => {
                let replies = read_replies(&mut wire, 3).await;
                assert_eq!((replies[0].text().as_str(), replies[1].text().as_str()), ("OK", "QUEUED"));
                assert_eq!(replies[2], Reply::Array(vec![Reply::Bulk(text.into_bytes())]));
            }
            3 => assert!(wire.reply().await.text().contains(&format!("'{text}'"))),
            4 => assert_eq!(wire.reply().await.text(), "OK"),
            _ => {
                assert_eq!(wire.reply().await, Reply::Integer(1));
                assert_eq!(wire.reply().await.elements()[1].text(), text);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_client_runs_in_its_own_order() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server).set("redis.main.shared_connections", 3)).await;
    let mut clients = JoinSet::new();
    for client in 0..20 {
        let mut wire = pool.redis_wire().await;
        clients.spawn(async move {
            let key = format!("key-{client}");
            let mut bytes = Vec::new();
            // Each command's reply depends on the one before it.
            for step in 0..300 {
                bytes.extend(match step % 5 {
                    0 => [request(&["MULTI"]), request(&["INCR", &key]), request(&["EXEC"])].concat(),
                    1 => [request(&["WATCH", &key]), request(&["INCR", &key]), request(&["UNWATCH"])].concat(),
                    _ => request(&["INCR", &key]),
                });
            }
            wire.send(&bytes).await;
            let mut value = 0;
            for step in 0..300 {
                value += 1;
                let expected = Reply::Integer(value);
                match step % 5 {
                    0 => assert_eq!(read_replies(&mut wire, 3).await[2], Reply::Array(vec![expected])),
                    1 => assert_eq!(read_replies(&mut wire, 3).await[1], expected),
                    _ => assert_eq!(wire.reply().await, expected),
                }
            }
        });
    }
    while let Some(done) = clients.join_next().await {
        done.expect("every client saw its own order");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_go_to_who_asked() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let mut clients = JoinSet::new();
    for client in 0..100 {
        let mut wire = pool.redis_wire().await;
        clients.spawn(async move {
            for round in 0..30 {
                let tokens: Vec<String> = (0..8).map(|index| format!("{client}-{round}-{index}")).collect();
                let bytes: Vec<u8> = tokens.iter().flat_map(|token| request(&["ECHO", token])).collect();
                wire.send(&bytes).await;
                for token in &tokens {
                    assert_eq!(&wire.reply().await.text(), token);
                }
            }
        });
    }
    while let Some(done) = clients.join_next().await {
        done.expect("every client got its own replies");
    }
    let connected = server.direct().await.command(&["CLIENT", "LIST"]).await.text().lines().count();
    assert!(connected <= 25, "{connected} upstream connections for 100 clients");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_does_not_read_hurts_nobody() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let mut setup = pool.redis_wire().await;
    assert_eq!(setup.command(&["SET", "big", &"x".repeat(1_000_000)]).await.text(), "OK");
    let mut lazy = pool.redis_wire().await;
    let bytes: Vec<u8> = (0..200).flat_map(|_| request(&["GET", "big"])).collect();
    // Two hundred megabytes that it never fetches: it is held back or closed, while others are served.
    let _ = tokio::time::timeout(std::time::Duration::from_secs(1), lazy.try_send(&bytes)).await;
    for round in 0..50 {
        assert_eq!(setup.command(&["ECHO", &round.to_string()]).await.text(), round.to_string());
    }
    let memory = pool.process().resident_bytes();
    assert!(memory < 150 << 20, "{memory} bytes are held for one who does not read");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_one_client_leaves_the_others_their_share() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server).set("redis.main.shared_connections", 1)).await;
    let (mut flood, mut polite) = (pool.redis_wire().await, pool.redis_wire().await);
    polite.command(&["PING"]).await;
    // Far more than one client may have on the way, and on until the polite one has its answers; all of it is answered, in order.
    const MANY: usize = 60_000;
    const PIECE: usize = 6_000;
    let piece = request(&["INCR", "flooded"]).repeat(PIECE);
    let served = Arc::new(AtomicBool::new(false));
    let is_served = Arc::clone(&served);
    let sending = tokio::spawn(async move {
        let (mut reads, mut writes) = flood.stream().split();
        // How many there are in all, once that is known.
        let all = AtomicUsize::new(usize::MAX);
        let reading = async {
            let (mut last, mut text) = (0, Vec::new());
            while last < all.load(Ordering::Relaxed) {
                tokio::io::AsyncReadExt::read_buf(&mut reads, &mut text).await.expect("the proxy goes on");
                while let Some(end) = text.windows(2).position(|pair| pair == b"\r\n") {
                    let number: usize = String::from_utf8_lossy(&text[1..end]).parse().expect("a number");
                    assert_eq!(number, last + 1);
                    last = number;
                    text.drain(..end + 2);
                }
            }
        };
        let writing = async {
            let mut sent = 0;
            while sent < MANY || !is_served.load(Ordering::Relaxed) {
                tokio::io::AsyncWriteExt::write_all(&mut writes, &piece).await.expect("the proxy takes it");
                sent += PIECE;
            }
            all.store(sent, Ordering::Relaxed);
        };
        tokio::join!(reading, writing);
    });
    // Each answer to the polite one comes among those of the flood, not behind all of them: that would be never.
    for _ in 0..10 {
        assert_eq!(polite.command(&["ECHO", "here"]).await.text(), "here");
    }
    served.store(true, Ordering::Relaxed);
    sending.await.expect("the flood is answered");
}

/// A network in front of a server with one lane.
async fn behind_a_network() -> (RedisServer, FaultProxy, Pooler) {
    let server = RedisServer::start().await;
    let network = FaultProxy::start(server.port()).await;
    let settings = Settings::redis(&server).set("redis.main.port", i64::from(network.port())).set("redis.main.shared_connections", 1);
    // Everybody has a turn, however long the test takes until then.
    let pool = Pooler::start(settings.set("redis.main.query_wait_timeout", "60s")).await;
    let mut setup = pool.redis_wire().await;
    // So often that neither is taken for a slow command, which goes down another lane, while it is waited for and clients are slow to come:
    // it would be at half as many looks, of which there are a hundred in a second.
    for _ in 0..8 {
        setup.send(&[request(&["SET", "k", "1"]), request(&["INCR", "k"])].concat().repeat(1_000)).await;
        for _ in 0..1_000 {
            assert_eq!(setup.reply().await.text(), "OK");
            assert_eq!(setup.reply().await, Reply::Integer(2));
        }
    }
    (server, network, pool)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_lane_takes_no_more_commands_and_then_everybody_has_a_turn() {
    let (_server, network, pool) = behind_a_network().await;
    network.behave(Behaviour::Stall);
    const EACH: usize = 200;
    let mut clients = JoinSet::new();
    for client in 0..300 {
        let mut wire = pool.redis_wire().await;
        let key = format!("n{client}");
        wire.send(&request(&["INCR", &key]).repeat(EACH)).await;
        clients.spawn(async move {
            for round in 1..=EACH {
                assert_eq!(wire.reply().await, Reply::Integer(round as i64));
            }
        });
    }
    let in_flight = async || pool.scrape().await.sum("sidepool_redis_inflight_commands", &[]);
    pool.metrics_show("a full lane", |now| now.sum("sidepool_redis_inflight_commands", &[]) >= 16_384.0).await;
    for _ in 0..5 {
        let now = in_flight().await;
        assert!(now < 16_384.0 + EACH as f64, "{now} of 60,000 commands are on the lane");
    }
    network.behave(Behaviour::Pass);
    while let Some(done) = clients.join_next().await {
        done.expect("every client has its replies, in order");
    }
    assert!(in_flight().await < 0.5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_lane_takes_no_more_bytes_and_then_everybody_has_a_turn() {
    let (server, network, pool) = behind_a_network().await;
    network.behave(Behaviour::Stall);
    let before = pool.process().resident_bytes();
    let value = vec![b'x'; 60_000];
    let mut clients = JoinSet::new();
    for client in 0..150 {
        let mut wire = pool.redis_wire().await;
        let key = format!("k{client}");
        let bytes = request(&[&b"SET"[..], key.as_bytes(), &value]).repeat(2);
        clients.spawn(async move {
            wire.send(&bytes).await;
            assert_eq!((wire.reply().await.text(), wire.reply().await.text()), ("OK".to_owned(), "OK".to_owned()));
        });
    }
    // 4 MiB of them, and what one client may add in one go.
    pool.metrics_show("a full lane", |now| now.sum("sidepool_redis_inflight_commands", &[]) >= 69.0).await;
    let now = pool.scrape().await.sum("sidepool_redis_inflight_commands", &[]);
    assert!(now <= 73.0, "{now} of 300 values are on the lane");
    let grown = pool.process().resident_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "18 MB wait where they are, not here: {grown} bytes more");
    network.behave(Behaviour::Pass);
    while let Some(done) = clients.join_next().await {
        done.expect("every client has its replies");
    }
    assert_eq!(server.direct().await.command(&["DBSIZE"]).await, Reply::Integer(151));
}
