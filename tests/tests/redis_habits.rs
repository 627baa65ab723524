//! `CLIENT NO-EVICT` and `CLIENT NO-TOUCH`: what the server does otherwise for one client it does for that client, and for no other.

use sidepool_tests::pooler::Pooler;
use sidepool_tests::redis::wire::request;
use sidepool_tests::redis::{RedisServer, Reply, Wire};
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;

async fn pooled() -> (RedisServer, Pooler) {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server).set("redis.main.spare_connections", 0)).await;
    (server, pool)
}

/// The flags that the server shows for the connection down which this client's next command goes: one that nobody has sent before.
async fn flags_upstream(server: &RedisServer, wire: &mut Wire, command: &str) -> String {
    wire.command(&[command, "k"]).await;
    let list = server.direct().await.command(&["CLIENT", "LIST"]).await.text();
    let line = list.lines().find(|line| line.contains(&format!(" cmd={command} "))).unwrap_or_else(|| panic!("{command}: {list}"));
    flags(line)
}

fn flags(line: &str) -> String {
    line.split(" flags=").nth(1).and_then(|rest| rest.split(' ').next()).expect("flags").to_owned()
}

/// What a client's own line says.
async fn shown(wire: &mut Wire) -> String {
    flags(&wire.command(&["CLIENT", "INFO"]).await.text())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_evict_is_in_force_where_the_clients_commands_run() {
    let (server, pool) = pooled().await;
    let (mut other, mut wire) = (pool.redis_wire().await, pool.redis_wire().await);
    other.command(&["PING"]).await;
    assert_eq!(wire.command(&["CLIENT", "NO-EVICT", "ON"]).await.text(), "OK");
    assert_eq!(flags_upstream(&server, &mut wire, "get").await, "e");
    assert_eq!((shown(&mut wire).await, shown(&mut other).await), ("e".to_owned(), "N".to_owned()));
    // On a connection of its own, too.
    wire.command(&["WATCH", "k"]).await;
    wire.command(&["PING"]).await;
    assert_eq!(flags_upstream(&server, &mut wire, "strlen").await, "e");
    wire.command(&["UNWATCH"]).await;
    assert_eq!(wire.command(&["CLIENT", "NO-EVICT", "OFF"]).await.text(), "OK");
    assert_eq!(flags_upstream(&server, &mut wire, "ttl").await, "N");
    wire.command(&["CLIENT", "NO-EVICT", "ON"]).await;
    wire.command(&["RESET"]).await;
    assert_eq!(shown(&mut wire).await, "N");
    assert_eq!(flags_upstream(&server, &mut wire, "type").await, "N");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_switched_in_a_transaction_or_under_watch_holds_behind_it() {
    let (server, pool) = pooled().await;
    let (mut other, mut wire) = (pool.redis_wire().await, pool.redis_wire().await);
    for (begin, end, command) in [(["WATCH", "k"].as_slice(), ["UNWATCH"].as_slice(), "get"), (&["MULTI"], &["EXEC"], "strlen")] {
        wire.command(begin).await;
        wire.command(&["CLIENT", "NO-EVICT", "ON"]).await;
        wire.command(end).await;
        assert_eq!(shown(&mut wire).await, "e", "{begin:?}");
        assert_eq!(flags_upstream(&server, &mut wire, command).await, "e", "{begin:?}");
        wire.command(&["CLIENT", "NO-EVICT", "OFF"]).await;
    }
    // The connection on which it was switched is nobody else's with it.
    other.command(&["WATCH", "k"]).await;
    assert_eq!(flags_upstream(&server, &mut other, "ttl").await, "N");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_touch_leaves_keys_as_unused_as_they_are() {
    let (server, pool) = pooled().await;
    let (mut other, mut wire) = (pool.redis_wire().await, pool.redis_wire().await);
    let direct = server.direct().await.command(&["CLIENT", "NO-TOUCH", "ON"]).await;
    assert_eq!(wire.command(&["CLIENT", "NO-TOUCH", "ON"]).await, direct, "a server before 7.2 does not know it");
    if direct.text() != "OK" {
        assert_eq!(shown(&mut wire).await, "N");
        return;
    }
    assert_eq!(shown(&mut wire).await, "T");
    other.command(&["SET", "k", "v"]).await;
    let idle = async |wire: &mut Wire| match wire.command(&["OBJECT", "IDLETIME", "k"]).await {
        Reply::Integer(seconds) => seconds,
        other => panic!("{other:?}"),
    };
    wait::until("the key to be idle", async || (idle(&mut other).await > 1).then_some(())).await;
    assert_eq!(wire.command(&["GET", "k"]).await.text(), "v");
    assert!(idle(&mut other).await > 1, "read without a touch");
    wait::until("the others to touch", async || {
        assert_eq!(other.command(&["GET", "k"]).await.text(), "v");
        (idle(&mut other).await <= 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn skip_silences_what_is_answered_in_a_step_and_only_that() {
    let (server, pool) = pooled().await;
    let steps: [&[&str]; 7] = [
        &["SELECT", "7"],
        &["SELECT", "99"],
        &["CLIENT", "NO-EVICT", "ON"],
        &["CLIENT", "LIST"],
        &["NOSUCHCOMMAND"],
        &["HELLO", "2"],
        &["PUNSUBSCRIBE", "x"],
    ];
    for step in steps {
        for mut wire in [pool.redis_wire().await, server.direct().await] {
            wire.send(&[request(&["CLIENT", "REPLY", "SKIP"]), request(step), request(&["ECHO", "heard"])].concat()).await;
            let mut next = wire.reply().await;
            if step[0] == "PUNSUBSCRIBE" && next != Reply::Bulk(b"heard".to_vec()) {
                next = wire.reply().await;
            }
            assert_eq!(next.text(), "heard", "{step:?}");
        }
    }
}
