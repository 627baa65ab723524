//! The rules of sharing a Redis connection (`tests/REDIS.md` has all of them, with the test that shows each), and probes of those that no other file has.

use std::path::Path;

use sidepool_tests::pooler::Pooler;
use sidepool_tests::redis::wire::request;
use sidepool_tests::redis::{RedisServer, Reply, Wire};
use sidepool_tests::settings::Settings;

async fn shared(connections: i64) -> (RedisServer, Pooler) {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server).set("redis.main.shared_connections", connections)).await;
    (server, pool)
}

#[test]
fn each_rule_names_a_test_that_there_is() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = std::fs::read_to_string(here.join("REDIS.md")).expect("the table of rules");
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| b.")).collect();
    assert!(rows.len() > 40, "{} rules", rows.len());
    for row in rows {
        let names: Vec<&str> = row.rsplit('|').nth(1).expect("two columns").split(',').map(|name| name.trim().trim_matches('`')).collect();
        for name in names {
            let (file, test) = name.split_once("::").unwrap_or_else(|| panic!("no test: {row}"));
            let source = std::fs::read_to_string(here.join(format!("tests/{file}.rs"))).unwrap_or_else(|_| panic!("no such file: {row}"));
            assert!(source.contains(&format!("async fn {test}(")), "no such test: {name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_client_was_told_is_so_for_all() {
    let (_server, pool) = shared(4).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(pool.redis_wire().await);
    }
    for round in 0..200_usize {
        let (value, writer) = (round.to_string(), round % clients.len());
        // By the shared connection, and by one of its own.
        if round % 3 == 0 {
            clients[writer].command(&["WATCH", "other"]).await;
        }
        assert_eq!(clients[writer].command(&["SET", "k", &value]).await.text(), "OK");
        for reader in &mut clients {
            assert_eq!(reader.command(&["GET", "k"]).await.text(), value);
        }
        if round % 3 == 0 {
            clients[writer].command(&["UNWATCH"]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_with_requests_in_flight_shifts_nobodys_replies() {
    let (server, pool) = shared(1).await;
    let mut other = pool.redis_wire().await;
    for round in 0..50 {
        let mut leaver = pool.redis_wire().await;
        leaver.command(&["PING"]).await;
        let mut asked = request(&["INCR", "n"]).repeat(100);
        // And half of one more.
        asked.extend_from_slice(b"*2\r\n$4\r\nINCR\r\n$1");
        leaver.send(&asked).await;
        drop(leaver);
        for word in ["first", "second"] {
            let text = format!("{word} {round}");
            assert_eq!(other.command(&["ECHO", &text]).await.text(), text);
        }
    }
    let written = server.direct().await.command(&["GET", "n"]).await.text().parse::<u32>().expect("a number");
    assert!(written <= 5000, "nothing is done twice: {written}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_takes_one_place_in_a_pipeline() {
    let (_server, pool) = shared(1).await;
    let (mut one, mut other) = (pool.redis_wire().await, pool.redis_wire().await);
    let wrong: [&[&str]; 7] = [
        &["LPUSH", "text", "x"],
        &["NOSUCHCOMMAND"],
        &["GET"],
        &["SET", "text", "v", "XX", "NX"],
        &["EVAL", "return redis.error_reply('MINE')", "0"],
        &["EXEC"],
        &["SELECT", "no number"],
    ];
    one.command(&["SET", "text", "v"]).await;
    for round in 0..20 {
        let mark = round.to_string();
        let pipeline: Vec<u8> = wrong.iter().flat_map(|words| [request(words), request(&["ECHO", &mark])].concat()).collect();
        one.send(&pipeline).await;
        other.send(&request(&["ECHO", "other"])).await;
        for words in wrong {
            assert!(matches!(one.reply().await, Reply::Error(_)), "{words:?}");
            assert_eq!(one.reply().await.text(), mark, "behind {words:?}");
        }
        assert_eq!(other.reply().await.text(), "other");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_message_overtakes_the_confirmation_of_its_channel() {
    let (_server, pool) = shared(2).await;
    for version in ["2", "3"] {
        let mut publisher = pool.redis_wire().await;
        for round in 0..30 {
            let mut subscriber = pool.redis_wire().await;
            subscriber.command(&["HELLO", version]).await;
            publisher.send(&request(&["PUBLISH", "busy", "message"]).repeat(50)).await;
            subscriber.send(&[request(&["SUBSCRIBE", "busy"]), request(&["PING"])].concat()).await;
            publisher.send(&request(&["PUBLISH", "busy", "message"]).repeat(50)).await;
            let first = subscriber.reply().await;
            assert_eq!(first.elements()[0].text(), "subscribe", "RESP{version}, round {round}: {first:?}");
            for _ in 0..100 {
                assert!(matches!(publisher.reply().await, Reply::Integer(_)));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn block_is_an_option_wherever_it_stands_and_nothing_else() {
    let (_server, pool) = shared(1).await;
    let (mut waiter, mut other) = (pool.redis_wire().await, pool.redis_wire().await);
    for words in [
        &["XREAD", "COUNT", "1", "BLOCK", "0", "STREAMS", "s", "$"][..],
        &["XREAD", "block", "0", "COUNT", "1", "streams", "s", "$"],
        &["XREADGROUP", "GROUP", "g", "c", "COUNT", "1", "BLOCK", "0", "STREAMS", "s", ">"],
    ] {
        other.command(&["DEL", "s"]).await;
        other.command(&["XGROUP", "CREATE", "s", "g", "$", "MKSTREAM"]).await;
        waiter.send(&request(words)).await;
        blocked(&mut other).await;
        assert!(matches!(other.command(&["XADD", "s", "*", "field", "value"]).await, Reply::Bulk(_)), "nobody waits with it: {words:?}");
        assert_eq!(waiter.reply().await.elements().len(), 1, "{words:?}");
    }
    // A stream of that name waits for nothing.
    assert_eq!(waiter.command(&["XREAD", "STREAMS", "block", "0"]).await, Reply::Null);
}

/// Waits until one client is blocked at the server, which is asked through the proxy.
async fn blocked(wire: &mut Wire) {
    sidepool_tests::wait::until("a blocked client", async || {
        wire.command(&["INFO", "clients"]).await.text().contains("blocked_clients:1").then_some(())
    })
    .await;
}
