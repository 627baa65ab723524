//! Publish and subscribe: channels and patterns for both protocol versions, over few upstream connections.

use sidepool_tests::pooler::Pooler;
use sidepool_tests::redis::wire::request;
use sidepool_tests::redis::{RedisServer, Reply, Wire};
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;

/// A push (or, in RESP2, an array) as its words.
fn words(reply: &Reply) -> Vec<String> {
    reply.elements().iter().map(Reply::text).collect()
}

async fn subscriber(pool: &Pooler, version: &str, command: &[&str]) -> Wire {
    let mut wire = pool.redis_wire().await;
    wire.command(&["HELLO", version]).await;
    let answer = wire.command(command).await;
    assert_eq!(words(&answer), [command[0].to_lowercase().as_str(), command[1], "1"]);
    assert_eq!(matches!(answer, Reply::Push(_)), version == "3");
    wire
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_reach_all_subscribers_of_both_versions() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let mut subscribers = Vec::new();
    for index in 0..30 {
        subscribers.push(subscriber(&pool, if index % 2 == 0 { "2" } else { "3" }, &["SUBSCRIBE", "news"]).await);
    }
    let mut by_pattern = subscriber(&pool, "3", &["PSUBSCRIBE", "n*"]).await;
    let mut publisher = pool.redis_wire().await;
    for number in 0..20 {
        let text = format!("message {number}");
        assert!(matches!(publisher.command(&["PUBLISH", "news", &text]).await, Reply::Integer(_)));
        for wire in &mut subscribers {
            assert_eq!(words(&wire.reply().await), ["message", "news", &text]);
        }
        assert_eq!(words(&by_pattern.reply().await), ["pmessage", "n*", "news", &text]);
    }
    assert!(server.direct().await.command(&["CLIENT", "LIST"]).await.text().lines().count() < 15, "few upstream connections");
    // Published past the proxy, heard through it.
    server.direct().await.command(&["PUBLISH", "news", "direct"]).await;
    assert_eq!(words(&subscribers[0].reply().await), ["message", "news", "direct"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_and_unsubscribing_are_the_clients_own() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let (mut direct, mut proxied) = (server.direct().await, pool.redis_wire().await);
    let _other = subscriber(&pool, "2", &["SUBSCRIBE", "a"]).await;
    let conversation: [(&[&str], usize); 8] = [
        (&["SUBSCRIBE", "a", "b"], 2),
        (&["PSUBSCRIBE", "c*"], 1),
        (&["SUBSCRIBE", "a"], 1),
        (&["UNSUBSCRIBE", "a", "unknown"], 2),
        (&["PUNSUBSCRIBE"], 1),
        (&["UNSUBSCRIBE"], 1),
        (&["UNSUBSCRIBE"], 1),
        (&["PUNSUBSCRIBE", "none"], 1),
    ];
    for (command, replies) in conversation {
        for wire in [&mut direct, &mut proxied] {
            wire.send(&request(command)).await;
        }
        for _ in 0..replies {
            assert_eq!(direct.reply().await, proxied.reply().await, "{command:?}");
        }
    }
    assert_eq!(proxied.command(&["ECHO", "a plain client again"]).await.text(), "a plain client again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_may_do_what_its_version_allows() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let mut old = subscriber(&pool, "2", &["SUBSCRIBE", "a"]).await;
    let mut direct = server.direct().await;
    direct.command(&["SUBSCRIBE", "a"]).await;
    for command in [&["GET", "k"][..], &["PING"], &["PING", "text"]] {
        assert_eq!(direct.command(command).await, old.command(command).await, "{command:?}");
    }
    let mut new = subscriber(&pool, "3", &["SUBSCRIBE", "a"]).await;
    assert_eq!(new.command(&["SET", "k", "v"]).await.text(), "OK");
    assert_eq!(new.command(&["PUBLISH", "other", "x"]).await, Reply::Integer(0));
    assert_eq!(new.command(&["PING"]).await.text(), "PONG");
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribers_hear_again_after_the_server_was_restarted() {
    let mut server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let mut wire = subscriber(&pool, "3", &["SUBSCRIBE", "news"]).await;
    server.stop();
    server.launch().await;
    // Either the hub subscribes again, or the client is closed and knows that it must: silence for ever is the one wrong answer.
    let publishing = async {
        loop {
            server.direct().await.command(&["PUBLISH", "news", "after"]).await;
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    let heard = async {
        while let Some(reply) = wire.read_patiently().await {
            if words(&reply).last().is_some_and(|word| word == "after") {
                return;
            }
        }
    };
    wait::soon("a message or the end", async {
        tokio::select! {
            () = publishing => {}
            () = heard => {}
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_leaves_is_forgotten_upstream() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let first = subscriber(&pool, "3", &["SUBSCRIBE", "news"]).await;
    let second = subscriber(&pool, "2", &["SUBSCRIBE", "news"]).await;
    let mut direct = server.direct().await;
    assert_ne!(words(&direct.command(&["PUBSUB", "NUMSUB", "news"]).await)[1], "0");
    drop(first);
    drop(second);
    wait::until("nobody to be subscribed", async || {
        let count = words(&direct.command(&["PUBSUB", "NUMSUB", "news"]).await);
        (count[1] == "0").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_who_listens_is_counted() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let mut publisher = pool.redis_wire().await;
    let mut listeners = Vec::new();
    for _ in 0..3 {
        let mut wire = pool.redis_wire().await;
        wire.command(&["SUBSCRIBE", "news"]).await;
        listeners.push(wire);
    }
    let mut by_pattern = [pool.redis_wire().await, pool.redis_wire().await];
    for wire in &mut by_pattern {
        wire.command(&["PSUBSCRIBE", "n?ws*"]).await;
    }
    assert_eq!(publisher.command(&["PUBLISH", "news", "x"]).await, Reply::Integer(5));
    assert_eq!(publisher.command(&["PUBLISH", "newspaper", "x"]).await, Reply::Integer(2));
    assert_eq!(publisher.command(&["PUBLISH", "elsewhere", "x"]).await, Reply::Integer(0));
    let counted = publisher.command(&["PUBSUB", "NUMSUB", "news", "none"]).await;
    assert_eq!(counted.elements()[1], Reply::Integer(3));
    assert_eq!(counted.elements()[3], Reply::Integer(0));
    assert_eq!(publisher.command(&["PUBSUB", "NUMPAT"]).await, Reply::Integer(1));
    // In one pipeline each reply is still its own.
    publisher.send(&[request(&["SET", "k", "v"]), request(&["PUBLISH", "news", "y"]), request(&["GET", "k"])].concat()).await;
    assert_eq!(publisher.reply().await.text(), "OK");
    assert_eq!(publisher.reply().await, Reply::Integer(5));
    assert_eq!(publisher.reply().await.text(), "v");
    // Whoever has heard that it left is not counted any more.
    for left in [4, 3, 2] {
        let mut wire = listeners.pop().expect("three came");
        for heard in ["x", "y"] {
            assert_eq!(wire.reply().await.elements()[2].text(), heard);
        }
        wire.send(&request(&["UNSUBSCRIBE"])).await;
        while wire.reply().await.elements()[0].text() != "unsubscribe" {}
        assert_eq!(publisher.command(&["PUBLISH", "news", "z"]).await, Reply::Integer(left));
    }
}

/// Cuts the connection that subscribes for everybody, on the server's side.
async fn cut_subscribers(server: &RedisServer) {
    let mut direct = server.direct().await;
    assert_eq!(direct.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await, Reply::Integer(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribers_that_may_have_missed_something_can_be_closed() {
    let server = RedisServer::start().await;
    let mut pool = Pooler::start(Settings::redis(&server)).await;
    let mut subscribers = [
        subscriber(&pool, "2", &["SUBSCRIBE", "news"]).await,
        subscriber(&pool, "3", &["PSUBSCRIBE", "n*"]).await,
        subscriber(&pool, "3", &["SSUBSCRIBE", "shard"]).await,
    ];
    let mut plain = pool.redis_wire().await;
    assert_eq!(plain.command(&["PING"]).await.text(), "PONG");
    let settings = pool.settings().clone().set("redis.main.subscriber_gap", "close");
    pool.reload(settings).await;
    cut_subscribers(&server).await;
    for wire in &mut subscribers {
        assert_eq!(wire.read().await, None, "it is to know, and to subscribe again");
    }
    assert_eq!(plain.command(&["PING"]).await.text(), "PONG", "whoever did not subscribe stays");
    let mut again = subscriber(&pool, "2", &["SUBSCRIBE", "news"]).await;
    assert_eq!(plain.command(&["PUBLISH", "news", "after"]).await, Reply::Integer(1));
    assert_eq!(words(&again.reply().await), ["message", "news", "after"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribers_hear_again_and_are_not_told_twice() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let mut subscribers = [
        subscriber(&pool, "2", &["SUBSCRIBE", "news"]).await,
        subscriber(&pool, "3", &["PSUBSCRIBE", "n*"]).await,
        subscriber(&pool, "3", &["SSUBSCRIBE", "shard"]).await,
    ];
    let mut direct = server.direct().await;
    for round in 0..3 {
        cut_subscribers(&server).await;
        let text = format!("after {round}");
        wait::until("all to be subscribed again", async || {
            let counts = [
                words(&direct.command(&["PUBSUB", "NUMSUB", "news"]).await)[1].clone(),
                words(&direct.command(&["PUBSUB", "SHARDNUMSUB", "shard"]).await)[1].clone(),
                direct.command(&["PUBSUB", "NUMPAT"]).await.text(),
            ];
            (counts == ["1", "1", "1"]).then_some(())
        })
        .await;
        direct.command(&["PUBLISH", "news", &text]).await;
        direct.command(&["SPUBLISH", "shard", &text]).await;
        for wire in &mut subscribers {
            assert_eq!(words(&wire.reply().await).last(), Some(&text), "and no second confirmation");
        }
    }
}
