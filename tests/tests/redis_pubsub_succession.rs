//! The connection that hears for all subscribers is replaced while messages come: none is lost, none is told twice, and all are in order.

use std::time::Duration;

use sidepool_tests::fault::{Behaviour, FaultProxy};
use sidepool_tests::pooler::Pooler;
use sidepool_tests::redis::wire::request;
use sidepool_tests::redis::{RedisServer, Reply, Wire};
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;

/// The server's numbers of the connections that are subscribed to something.
async fn hearing(server: &mut Wire) -> Vec<String> {
    let list = server.command(&["CLIENT", "LIST", "TYPE", "PUBSUB"]).await.text();
    list.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

/// Waits until another connection than these hears, and only that.
async fn another_hears(server: &mut Wire, before: &[String]) {
    wait::until("another connection that hears", async || {
        let now = hearing(server).await;
        (now.len() == before.len() && now.iter().all(|id| !before.contains(id))).then_some(())
    })
    .await;
}

/// Numbers are published without a pause while `work` is done.
async fn under_messages(publisher: Wire, channel: &'static str, work: impl AsyncFnOnce()) -> u32 {
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let mut publisher = publisher;
    let publishing = tokio::spawn(async move {
        let mut number = 0_u32;
        while stopped.try_recv().is_err() {
            number += 1;
            // The same twice, and something else now and then: a sequence that cannot be told apart by its content.
            let text = if number.is_multiple_of(3) { "same".to_owned() } else { number.to_string() };
            assert!(matches!(publisher.command(&["PUBLISH", channel, &text]).await, Reply::Integer(_)));
        }
        number
    });
    work().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    stop.send(()).expect("it runs");
    publishing.await.expect("it ends well")
}

/// Each number once and in order, as the last word of each message; then nothing.
async fn heard_all(wire: &mut Wire, last: u32) {
    for number in 1..=last {
        let text = if number.is_multiple_of(3) { "same".to_owned() } else { number.to_string() };
        let message = wire.reply().await;
        assert_eq!(message.elements().last().map(Reply::text), Some(text), "number {number} of {last}: {message:?}");
    }
    assert!(wire.is_silent().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_secret_takes_no_message_from_anybody() {
    let server = RedisServer::start_with_password("secret-0").await;
    let settings = Settings::redis(&server);
    let mut pool = Pooler::start(settings.clone()).await;
    let mut direct = server.direct().await;
    let mut subscribers = Vec::new();
    for (version, command) in [("2", ["SUBSCRIBE", "a"]), ("3", ["SUBSCRIBE", "a"]), ("2", ["PSUBSCRIBE", "*"])] {
        let mut wire = pool.redis_wire().await;
        wire.command(&["HELLO", version]).await;
        wire.command(&command).await;
        subscribers.push(wire);
    }
    let publisher = server.direct().await;
    let last = under_messages(publisher, "a", async || {
        for round in 1..4 {
            let (before, secret) = (hearing(&mut direct).await, format!("secret-{round}"));
            assert_eq!(direct.command(&["CONFIG", "SET", "requirepass", &secret]).await.text(), "OK");
            pool.reload(settings.clone().set("redis.main.password", secret.as_str())).await;
            another_hears(&mut direct, &before).await;
        }
    })
    .await;
    for wire in &mut subscribers {
        heard_all(wire, last).await;
    }
    let mut late = pool.redis_wire().await;
    assert_eq!(late.command(&["SUBSCRIBE", "b"]).await.elements()[1].text(), "b");
    assert_eq!(direct.command(&["PUBLISH", "b", "x"]).await, Reply::Integer(2), "it, and who listens to everything");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_subscribes_or_leaves_meanwhile_is_told_as_ever() {
    let server = RedisServer::start_with_password("secret-0").await;
    let settings = Settings::redis(&server);
    let mut pool = Pooler::start(settings.clone()).await;
    let mut direct = server.direct().await;
    let mut stays = pool.redis_wire().await;
    stays.command(&["SSUBSCRIBE", "shard"]).await;
    let mut comes = pool.redis_wire().await;
    let before = hearing(&mut direct).await;
    direct.command(&["CONFIG", "SET", "requirepass", "secret-1"]).await;
    pool.reload(settings.clone().set("redis.main.password", "secret-1")).await;
    let mut round = 0;
    wait::until("another connection that hears", async || {
        for command in ["SUBSCRIBE", "UNSUBSCRIBE"] {
            let channel = format!("c{round}");
            let said = comes.command(&[command, &channel]).await;
            assert_eq!(said.elements()[..2].iter().map(Reply::text).collect::<Vec<_>>(), [command.to_lowercase(), channel.clone()]);
            let Reply::Integer(heard) = direct.command(&["PUBLISH", &channel, "x"]).await else { panic!("PUBLISH gives a number") };
            if command == "SUBSCRIBE" {
                // The server counts both connections while both hear; the client hears it once, or its next answer is another one.
                assert!((1..=2).contains(&heard), "{command} {channel}: {heard}");
                assert_eq!(comes.reply().await.elements()[2].text(), "x");
            } else {
                assert_eq!(heard, 0, "{command} {channel}");
            }
        }
        round += 1;
        let now = hearing(&mut direct).await;
        (now.len() == 1 && now != before).then_some(())
    })
    .await;
    assert_eq!(direct.command(&["SPUBLISH", "shard", "x"]).await, Reply::Integer(1));
    assert_eq!(stays.reply().await.elements()[2].text(), "x");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_is_heard_as_soon_as_it_is_configured() {
    let (one, other) = (RedisServer::start().await, RedisServer::start().await);
    let settings = Settings::redis(&one);
    let mut pool = Pooler::start(settings.clone()).await;
    let mut wire = pool.redis_wire().await;
    wire.command(&["SUBSCRIBE", "a"]).await;
    let (mut old, mut new) = (one.direct().await, other.direct().await);
    pool.reload(settings.set("redis.main.port", i64::from(other.port()))).await;
    wait::until("the other server's subscriber", async || (hearing(&mut new).await.len() == 1).then_some(())).await;
    wait::until("nobody to hear the old one", async || hearing(&mut old).await.is_empty().then_some(())).await;
    assert_eq!(new.command(&["PUBLISH", "a", "from the other"]).await, Reply::Integer(1));
    assert_eq!(wire.reply().await.elements()[2].text(), "from the other");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_may_not_use_the_mark_keeps_its_connection() {
    let server = RedisServer::start().await;
    let mut direct = server.direct().await;
    let rights = ["on", ">secret-0", "~*", "resetchannels", "&app:*", "+@all"];
    direct.command(&[&["ACL", "SETUSER", "app"][..], &rights].concat()).await;
    let settings = Settings::redis(&server).set("redis.main.user", "app").set("redis.main.password", "secret-0");
    let mut pool = Pooler::start(settings.clone()).await;
    let mut wire = pool.redis_wire().await;
    wire.command(&["SUBSCRIBE", "app:a"]).await;
    let before = hearing(&mut direct).await;
    let publisher = server.direct().await;
    let last = under_messages(publisher, "app:a", async || {
        direct.command(&["ACL", "SETUSER", "app", ">secret-1"]).await;
        pool.reload(settings.clone().set("redis.main.password", "secret-1")).await;
        wait::soon("a warning", pool.process().log().line_with("could not be replaced")).await;
    })
    .await;
    heard_all(&mut wire, last).await;
    assert_eq!(hearing(&mut direct).await, before);
    let mut late = pool.redis_wire().await;
    assert_eq!(late.command(&["SUBSCRIBE", "app:b"]).await.elements()[1].text(), "app:b");
}

/// The first two words of what a subscriber is told.
fn told(said: &Reply) -> [String; 2] {
    [0, 1].map(|word| said.elements()[word].text())
}

/// One client is subscribed to `a` and `b` on a server that then falls silent; another server is configured, and hears somebody subscribe.
async fn moved_from_silence(gap: &str) -> (Pooler, Wire, Wire, [RedisServer; 2], FaultProxy) {
    let servers = [RedisServer::start().await, RedisServer::start().await];
    let network = FaultProxy::start(servers[0].port()).await;
    let settings = Settings::redis(&servers[0]).set("redis.main.subscriber_gap", gap);
    let mut pool = Pooler::start(settings.clone().set("redis.main.port", i64::from(network.port()))).await;
    let mut wire = pool.redis_wire().await;
    for channel in ["a", "b"] {
        assert_eq!(told(&wire.command(&["SUBSCRIBE", channel]).await), ["subscribe", channel]);
    }
    network.behave(Behaviour::Stall);
    pool.reload(settings.set("redis.main.port", i64::from(servers[1].port()))).await;
    let mut new = servers[1].direct().await;
    wait::until("the other server's subscriber", async || (hearing(&mut new).await.len() == 1).then_some(())).await;
    (pool, wire, new, servers, network)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_falls_silent_leaves_nobody_waiting_and_takes_nothing_with_it() {
    let (pool, mut wire, mut new, _servers, _network) = moved_from_silence("resume").await;
    assert_eq!(new.command(&["PUBLISH", "a", "early"]).await, Reply::Integer(1));
    let mut late = pool.redis_wire().await;
    late.send(&request(&["SUBSCRIBE", "c"])).await;
    wire.send(&request(&["UNSUBSCRIBE", "b"])).await;
    assert_eq!(wire.reply().await.elements()[2].text(), "early", "the new connection has heard it before it took over");
    assert_eq!(told(&wire.reply().await), ["unsubscribe", "b"]);
    assert_eq!(told(&late.reply().await), ["subscribe", "c"]);
    wait::until("nobody to hear what nobody wants, the mark included", async || {
        let mut channels: Vec<String> = new.command(&["PUBSUB", "CHANNELS"]).await.elements().iter().map(Reply::text).collect();
        channels.sort();
        (channels == ["a", "c"]).then_some(())
    })
    .await;
    // Each answer is for the one who asked, at once: no other command pushes it.
    for round in 0..3 {
        let channel = format!("round {round}");
        for (command, name) in [("SUBSCRIBE", "c"), ("PSUBSCRIBE", &channel), ("UNSUBSCRIBE", "c"), ("SSUBSCRIBE", &channel)] {
            assert_eq!(told(&wire.command(&[command, name]).await), [command.to_lowercase().as_str(), name]);
        }
    }
    assert_eq!(new.command(&["PUBLISH", "a", "late"]).await, Reply::Integer(1));
    assert_eq!(wire.reply().await.elements()[2].text(), "late");
    wait::soon("a warning", pool.process().log().line_with("may have been missed")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_to_know_of_a_loss_is_closed_when_the_old_server_has_fallen_silent() {
    let (pool, mut wire, mut new, _servers, _network) = moved_from_silence("close").await;
    assert_eq!(wire.read().await, None, "it is to know, and to subscribe again");
    let mut again = pool.redis_wire().await;
    assert_eq!(told(&again.command(&["SUBSCRIBE", "b"]).await), ["subscribe", "b"]);
    assert_eq!(new.command(&["PUBLISH", "b", "x"]).await, Reply::Integer(1));
    assert_eq!(again.reply().await.elements()[2].text(), "x");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_hear_the_same_on_another_server_is_closed() {
    let (one, other) = (RedisServer::start().await, RedisServer::start().await);
    let mut new = other.direct().await;
    new.command(&["ACL", "SETUSER", "default", "resetchannels", "&app:*"]).await;
    let settings = Settings::redis(&one);
    let mut pool = Pooler::start(settings.clone()).await;
    let (mut stays, mut goes) = (pool.redis_wire().await, pool.redis_wire().await);
    stays.command(&["SUBSCRIBE", "app:a"]).await;
    goes.command(&["SUBSCRIBE", "secret"]).await;
    pool.reload(settings.set("redis.main.port", i64::from(other.port()))).await;
    assert_eq!(goes.read().await, None, "as by a server that takes the right away");
    for command in ["SUBSCRIBE", "UNSUBSCRIBE"] {
        assert_eq!(told(&stays.command(&[command, "app:b"]).await), [&command.to_lowercase(), "app:b"]);
    }
    assert_eq!(new.command(&["PUBLISH", "app:a", "x"]).await, Reply::Integer(1));
    assert_eq!(stays.reply().await.elements()[2].text(), "x");
}
