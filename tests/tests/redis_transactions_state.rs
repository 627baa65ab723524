//! Commands about the client itself inside a Redis transaction: queued, answered and felt as with the bare server.

use sidepool_tests::pooler::Pooler;
use sidepool_tests::redis::wire::request;
use sidepool_tests::redis::{RedisServer, Reply, Wire};
use sidepool_tests::settings::Settings;

/// Runs the same words on the bare server and through the proxy; every reply must be the same, but for numbers that name a client.
async fn same(server: &RedisServer, pool: &Pooler, conversation: &[&[&str]]) {
    let (mut direct, mut proxied) = (Wire::connect(server.port()).await, pool.redis_wire().await);
    for words in conversation {
        let (expected, got) = (direct.command(words).await, proxied.command(words).await);
        assert_eq!(plain(&got), plain(&expected), "{words:?} of {conversation:?}");
    }
}

/// Without what differs between any two clients.
fn plain(reply: &Reply) -> Reply {
    match reply {
        Reply::Array(elements) => {
            let mut elements: Vec<Reply> = elements.iter().map(plain).collect();
            let id = elements.iter().position(|element| element.text() == "id");
            if let Some(id) = id {
                elements[id + 1] = Reply::Null;
            }
            Reply::Array(elements)
        }
        Reply::Map(pairs) => Reply::Map(
            pairs.iter().map(|(key, value)| (key.clone(), if key.text() == "id" { Reply::Null } else { plain(value) })).collect(),
        ),
        other => other.clone(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_about_the_client_are_queued_and_run_as_by_the_server() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let conversations: [&[&[&str]]; 12] = [
        &[&["MULTI"], &["CLIENT", "SETNAME", "x"], &["CLIENT", "GETNAME"], &["SET", "a", "1"], &["EXEC"], &["CLIENT", "GETNAME"]],
        &[&["MULTI"], &["HELLO", "3"], &["GET", "no"], &["HGETALL", "no"], &["EXEC"], &["GET", "no"], &["HELLO", "2"], &["GET", "no"]],
        &[&["MULTI"], &["HELLO", "3", "SETNAME", "n"], &["EXEC"], &["CLIENT", "GETNAME"]],
        &[&["MULTI"], &["HELLO", "9"], &["HELLO", "3", "FOO"], &["EXEC"], &["GET", "no"]],
        &[&["MULTI"], &["AUTH", "a", "b", "c"], &["AUTH", "default", "x"], &["EXEC"]],
        &[&["MULTI"], &["CLIENT", "KILL", "ID", "99999"], &["CLIENT", "UNBLOCK", "99999"], &["CLIENT", "NO-EVICT", "on"], &["EXEC"]],
        &[&["MULTI"], &["CLIENT", "ID", "x"], &["EXEC"], &["GET", "no"]],
        &[&["MULTI"], &["CLIENT", "NONSENSE"], &["EXEC"]],
        &[&["MULTI"], &["SELECT", "999"], &["SELECT", "3"], &["SET", "b", "3"], &["EXEC"], &["GET", "b"], &["SELECT", "0"], &["GET", "b"]],
        &[&["MULTI"], &["SELECT", "4"], &["SELECT", "999"], &["EXEC"], &["SET", "c", "4"], &["SELECT", "4"], &["GET", "c"]],
        &[&["MULTI"], &["MULTI"], &["WATCH", "a"], &["CLIENT", "GETREDIR"], &["MONITOR"], &["SSUBSCRIBE", "s"], &["EXEC"], &["PING"]],
        &[&["MULTI"], &["CLIENT", "SETNAME", "gone"], &["DISCARD"], &["CLIENT", "GETNAME"]],
    ];
    for conversation in conversations {
        same(&server, &pool, conversation).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_is_watched_for_leaves_the_client_as_it_was() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let (mut wire, mut other) = (pool.redis_wire().await, pool.redis_wire().await);
    wire.command(&["WATCH", "w"]).await;
    other.command(&["SET", "w", "1"]).await;
    for words in [&["MULTI"][..], &["SELECT", "5"], &["CLIENT", "SETNAME", "never"]] {
        wire.command(words).await;
    }
    assert_eq!(wire.command(&["EXEC"]).await, Reply::Null);
    assert_eq!(wire.command(&["GET", "w"]).await.text(), "1", "still in database 0");
    assert_eq!(wire.command(&["CLIENT", "GETNAME"]).await, Reply::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_in_a_transaction_are_the_proxys() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let mut wire = pool.redis_wire().await;
    let id = wire.command(&["CLIENT", "ID"]).await;
    let all = [request(&["MULTI"]), request(&["CLIENT", "ID"]), request(&["CLIENT", "INFO"]), request(&["HELLO"]), request(&["EXEC"])];
    wire.send(&all.concat()).await;
    for expected in ["OK", "QUEUED", "QUEUED", "QUEUED"] {
        assert_eq!(wire.reply().await.text(), expected);
    }
    let answered = wire.reply().await;
    assert_eq!(answered.elements()[0], id);
    assert!(answered.elements()[1].text().starts_with(&format!("id={} ", id.text())));
    let hello = answered.elements()[2].elements();
    assert_eq!(hello[7], id, "{hello:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_switched_in_a_transaction() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let mut wire = pool.redis_wire().await;
    for words in [&["MULTI"][..], &["CLIENT", "REPLY", "SKIP"], &["PING"]] {
        wire.command(words).await;
    }
    // The server promises two and sends one: the silence is for the next request.
    wire.send(&request(&["EXEC"])).await;
    let mut got = [0; 11];
    tokio::io::AsyncReadExt::read_exact(wire.stream(), &mut got).await.expect("a reply");
    assert_eq!(&got, b"*2\r\n+PONG\r\n");
    wire.send(&[request(&["ECHO", "silent"]), request(&["ECHO", "heard"])].concat()).await;
    assert_eq!(wire.reply().await.text(), "heard");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_subscribes_in_a_transaction_is_a_subscriber_until_it_leaves() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let mut publisher = server.direct().await;
    let (mut direct, mut proxied) = (Wire::connect(server.port()).await, pool.redis_wire().await);
    for version in ["2", "3"] {
        for (words, replies) in [
            (&["HELLO", version][..], 1),
            (&["MULTI"], 1),
            (&["SET", "k", "v"], 1),
            (&["SUBSCRIBE", "a"], 1),
            (&["PSUBSCRIBE", "p*"], 1),
            (&["EXEC"], 1),
            (&["PING"], 1),
            (&["GET", "k"], 1),
        ] {
            for wire in [&mut direct, &mut proxied] {
                wire.send(&request(words)).await;
            }
            for _ in 0..replies {
                assert_eq!(plain(&proxied.reply().await), plain(&direct.reply().await), "{words:?} in RESP{version}");
            }
        }
        publisher.command(&["PUBLISH", "a", "message"]).await;
        publisher.command(&["PUBLISH", "pattern", "message"]).await;
        for wire in [&mut direct, &mut proxied] {
            assert_eq!(wire.reply().await.elements()[2].text(), "message");
            assert_eq!(wire.reply().await.elements()[3].text(), "message");
            wire.send(&[request(&["UNSUBSCRIBE"]), request(&["PUNSUBSCRIBE"])].concat()).await;
            for left in [1, 0] {
                assert_eq!(wire.reply().await.elements()[2], Reply::Integer(left));
            }
            assert_eq!(wire.command(&["GET", "k"]).await.text(), "v", "a plain client again");
        }
    }
}

/// Such a reply to EXEC is gathered, because a part of it is the proxy's own: as far as a client's output may grow.
#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_has_to_be_gathered_is_bounded() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server).set("redis.main.client_output_buffer_limit", "normal 1mb 0 0")).await;
    let mut wire = pool.redis_wire().await;
    wire.command(&["SET", "large", &"x".repeat(600_000)]).await;
    for (times, fits) in [(1, true), (2, false)] {
        wire.command(&["MULTI"]).await;
        wire.command(&["CLIENT", "SETNAME", "x"]).await;
        for _ in 0..times {
            wire.command(&["GET", "large"]).await;
        }
        wire.send(&request(&["EXEC"])).await;
        if fits {
            assert_eq!(wire.reply().await.elements()[1].text().len(), 600_000);
        } else {
            assert!(wire.read().await.is_none(), "closed");
        }
    }
    assert_eq!(pool.redis_wire().await.command(&["PING"]).await.text(), "PONG");
}
