//! What a Redis client asks about itself and about others is about the proxy's clients; switching replies off silences nobody else.

use sidepool_tests::pooler::Pooler;
use sidepool_tests::redis::wire::request;
use sidepool_tests::redis::{RedisServer, Reply, Wire};
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;

async fn pair() -> (RedisServer, Pooler, Wire, Wire) {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let (first, second) = (pool.redis_wire().await, pool.redis_wire().await);
    (server, pool, first, second)
}

async fn id(wire: &mut Wire) -> String {
    wire.command(&["CLIENT", "ID"]).await.text()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_listed_with_their_own_state() {
    let (_server, _pool, mut first, mut second) = pair().await;
    first.command(&["CLIENT", "SETNAME", "first"]).await;
    first.command(&["SELECT", "2"]).await;
    second.command(&["SUBSCRIBE", "a", "b"]).await;
    second.reply().await;
    let list = first.command(&["CLIENT", "LIST"]).await.text();
    assert_eq!(list.lines().count(), 2, "{list}");
    let mine = list.lines().find(|line| line.contains("name=first")).expect("it is listed");
    assert!(mine.contains(" db=2 ") && mine.contains(" resp=2"), "{mine}");
    let other = list.lines().find(|line| line.contains("sub=2")).expect("it is listed");
    assert!(other.contains("flags=P"), "{other}");
    let info = first.command(&["CLIENT", "INFO"]).await.text();
    assert!(info.starts_with(&format!("id={} ", id(&mut first).await)));
    assert!(first.command(&["CLIENT", "LIST", "TYPE", "nonsense"]).await.is_error("ERR"));
    assert_eq!(first.command(&["CLIENT", "LIST", "TYPE", "pubsub"]).await.text().lines().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_ends_the_client_that_is_meant() {
    let (_server, pool, mut first, mut second) = pair().await;
    let mut third = pool.redis_wire().await;
    third.command(&["PING"]).await;
    let victim = id(&mut second).await;
    assert_eq!(first.command(&["CLIENT", "KILL", "ID", &victim]).await, Reply::Integer(1));
    assert_eq!(second.read().await, None);
    assert_eq!(third.command(&["PING"]).await.text(), "PONG");
    assert_eq!(first.command(&["CLIENT", "KILL", "ID", &victim]).await, Reply::Integer(0));
    assert!(first.command(&["CLIENT", "KILL", "1.2.3.4:5"]).await.is_error("ERR"));
    let myself = id(&mut first).await;
    assert_eq!(first.command(&["CLIENT", "KILL", "ID", &myself, "SKIPME", "no"]).await, Reply::Integer(1));
    assert_eq!(first.read().await, None, "behind its reply");
}

#[tokio::test(flavor = "multi_thread")]
async fn unblock_reaches_a_blocked_client_by_the_proxys_number() {
    let (_server, _pool, mut first, mut second) = pair().await;
    let blocked = id(&mut second).await;
    assert_eq!(first.command(&["CLIENT", "UNBLOCK", &blocked]).await, Reply::Integer(0));
    for (how, check) in [("TIMEOUT", Reply::Null), ("ERROR", Reply::Error("UNBLOCKED client unblocked via CLIENT UNBLOCK".to_owned()))] {
        second.send(&request(&["BLPOP", "nothing", "0"])).await;
        wait::until("the client to be blocked", async || {
            (first.command(&["CLIENT", "UNBLOCK", &blocked, how]).await == Reply::Integer(1)).then_some(())
        })
        .await;
        assert_eq!(second.reply().await, check);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_can_be_switched_off_for_one_client() {
    let (_server, _pool, mut first, mut second) = pair().await;
    let quiet = [
        request(&["CLIENT", "REPLY", "OFF"]),
        request(&["SET", "k", "1"]),
        request(&["GET", "k"]),
        request(&["PING"]),
        request(&["CLIENT", "REPLY", "ON"]),
        request(&["INCR", "k"]),
        request(&["CLIENT", "REPLY", "SKIP"]),
        request(&["INCR", "k"]),
        request(&["INCR", "k"]),
    ];
    first.send(&quiet.concat()).await;
    for round in 0..20 {
        assert_eq!(second.command(&["ECHO", &round.to_string()]).await.text(), round.to_string(), "nobody else is silenced or shifted");
    }
    assert_eq!(first.reply().await.text(), "OK");
    assert_eq!(first.reply().await, Reply::Integer(2));
    assert_eq!(first.reply().await, Reply::Integer(4));
    assert!(first.is_silent().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn reset_and_quit() {
    let (_server, _pool, mut first, _second) = pair().await;
    first.command(&["HELLO", "3", "SETNAME", "x"]).await;
    first.command(&["SELECT", "4"]).await;
    first.command(&["SET", "k", "four"]).await;
    assert_eq!(first.command(&["RESET"]).await.text(), "RESET");
    assert_eq!(first.command(&["GET", "k"]).await, Reply::Null, "back in database 0");
    assert!(!first.command(&["CLIENT", "GETNAME"]).await.text().contains('x'));
    first.send(&[request(&["SET", "k", "v"]), request(&["GET", "k"]), request(&["QUIT"]), request(&["SET", "k", "after"])].concat()).await;
    for expected in ["OK", "v", "OK"] {
        assert_eq!(first.reply().await.text(), expected);
    }
    assert_eq!(first.read().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_commands_are_answered_by_the_server() {
    let (server, _pool, mut first, mut second) = pair().await;
    let mut direct = server.direct().await;
    for words in [&["NOSUCH", "a", "b"][..], &["JSON.GET", "k"], &["CLIENT", "NONSENSE"], &["OBJECT", "NONSENSE", "x"], &["", "x"]] {
        for _ in 0..2 {
            assert_eq!(first.command(words).await, direct.command(words).await, "{words:?}");
        }
    }
    first.send(&[request(&["SET", "k", "1"]), request(&["NOSUCH"]), request(&["INCR", "k"])].concat()).await;
    assert_eq!(first.reply().await.text(), "OK");
    assert!(first.reply().await.is_error("ERR"));
    assert_eq!(first.reply().await, Reply::Integer(2), "in order");
    assert_eq!(second.command(&["PING"]).await.text(), "PONG");
}

#[tokio::test(flavor = "multi_thread")]
async fn monitor_and_tracking_have_connections_of_their_own() {
    let (_server, pool, mut monitor, mut other) = pair().await;
    assert_eq!(monitor.command(&["MONITOR"]).await.text(), "OK");
    other.command(&["SET", "seen", "1"]).await;
    // The proxy's own logins show as well.
    while !monitor.reply().await.text().contains("\"seen\"") {}
    monitor.send(&request(&["QUIT"])).await;
    let mut tracker = pool.redis_wire().await;
    tracker.command(&["HELLO", "3"]).await;
    assert_eq!(tracker.command(&["CLIENT", "TRACKING", "ON"]).await.text(), "OK");
    assert_eq!(tracker.command(&["GET", "seen"]).await.text(), "1");
    other.command(&["SET", "seen", "2"]).await;
    let Reply::Push(parts) = tracker.reply().await else { panic!("an invalidation comes out of band") };
    assert_eq!(parts[0].text(), "invalidate");
    assert_eq!(tracker.command(&["CLIENT", "TRACKING", "OFF"]).await.text(), "OK");
    assert_eq!(tracker.command(&["GET", "seen"]).await.text(), "2");
}
