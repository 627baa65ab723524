//! What a Redis server did not execute is asked again, in order; what takes too long is given up without hurting anybody else.

use std::time::{Duration, Instant};

use sidepool_tests::fault::{Behaviour, FaultProxy};
use sidepool_tests::pooler::Pooler;
use sidepool_tests::process::Signal;
use sidepool_tests::redis::wire::request;
use sidepool_tests::redis::{RedisServer, Reply};
use sidepool_tests::scrape::Scrape;
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;

const SHA: &str = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db";

#[tokio::test(flavor = "multi_thread")]
async fn a_script_survives_a_server_that_has_never_seen_it() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let (mut first, mut second) = (pool.redis_wire().await, pool.redis_wire().await);
    assert_eq!(first.command(&["EVAL", "return 1", "0"]).await, Reply::Integer(1));
    assert_eq!(second.command(&["EVALSHA", SHA, "0"]).await, Reply::Integer(1));
    let mut direct = server.direct().await;
    for version in ["2", "3"] {
        second.command(&["HELLO", version]).await;
        // A connection that was opened later would bring the script along.
        second.command(&["GET", "k"]).await;
        direct.command(&["SCRIPT", "FLUSH"]).await;
        // What is sent behind it waits.
        second.send(&request(&["EVALSHA", SHA, "0"])).await;
        assert_eq!(second.reply().await, Reply::Integer(1), "loaded again, RESP{version}");
        assert_eq!(second.command(&["SET", "k", version]).await.text(), "OK");
    }
    assert!(first.command(&["EVALSHA", &"0".repeat(40), "0"]).await.is_error("NOSCRIPT"), "nobody knows that one");
    assert_eq!(first.command(&["SCRIPT", "FLUSH"]).await.text(), "OK");
    assert!(second.command(&["EVALSHA", SHA, "0"]).await.is_error("NOSCRIPT"), "who says flush means it");
    pool.metrics_show("both retries", |now| now.sum("sidepool_redis_retries_total", &[]) >= 2.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_write_now_is_given_time() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server).set("redis.main.retry_timeout", "20s")).await;
    let mut direct = server.direct().await;
    let mut wire = pool.redis_wire().await;
    assert_eq!(wire.command(&["SET", "n", "0"]).await.text(), "OK");
    // A replica of nobody: it reads and does not write.
    direct.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
    wire.send(&request(&["INCR", "n"])).await;
    assert!(wire.is_silent().await);
    // Behind it, in order, and not before.
    wire.send(&request(&["INCR", "n"])).await;
    assert!(wire.is_silent().await);
    direct.command(&["REPLICAOF", "NO", "ONE"]).await;
    assert_eq!(wire.reply().await, Reply::Integer(1));
    assert_eq!(wire.reply().await, Reply::Integer(2));
    // Without time for it, the client hears the server.
    let pool = Pooler::start(Settings::redis(&server)).await;
    let mut wire = pool.redis_wire().await;
    direct.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
    assert!(wire.command(&["INCR", "n"]).await.is_error("READONLY"));
}

/// For how long writes are halted.
const HALT: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_again_keeps_its_place_although_others_wait_for_room() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server).set("redis.main.retry_timeout", "30s")).await;
    let mut direct = server.direct().await;
    let mut wire = pool.redis_wire().await;
    assert_eq!(wire.command(&["SET", "n", "0"]).await.text(), "OK");
    let mut crowd = Vec::new();
    for _ in 0..40 {
        crowd.push(pool.redis_wire().await);
    }
    // While writes are halted they go down a connection of their own …
    assert_eq!(crowd[0].command(&["CLIENT", "PAUSE", &HALT.as_millis().to_string(), "WRITE"]).await.text(), "OK");
    let halted = Instant::now();
    wire.send(&request(&["INCR", "n"])).await;
    assert!(wire.is_silent().await);
    // … and when this one is refused by what is a replica by then, it goes down the usual one, for which others stand in line.
    assert_eq!(direct.command(&["REPLICAOF", "127.0.0.1", "1"]).await.text(), "OK");
    server.process().signal(Signal::STOP);
    for one in &mut crowd {
        one.send(&request(&["GET", "n"]).repeat(1_000)).await;
    }
    pool.metrics_show("that some wait", |scrape| scrape.sum("sidepool_pool_client_connections", &[("state", "waiting")]) >= 1.0).await;
    tokio::time::sleep(HALT.saturating_sub(halted.elapsed())).await;
    server.process().signal(Signal::CONT);
    for one in &mut crowd {
        for _ in 0..1_000 {
            one.reply().await;
        }
    }
    assert_eq!(direct.command(&["REPLICAOF", "NO", "ONE"]).await.text(), "OK");
    assert_eq!(wire.reply().await, Reply::Integer(1));
    assert_eq!(wire.command(&["GET", "n"]).await.text(), "1", "and what comes behind it has a reply of its own");
}

/// Nobody waits for a reply for long: only while none comes, for one that does come may take its time.
fn impatient(settings: &Settings) -> Settings {
    settings.clone().set("redis.main.request_timeout", "400ms")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_reply_costs_only_the_one_who_asked() {
    let server = RedisServer::start().await;
    let network = FaultProxy::start(server.port()).await;
    let settings = Settings::redis(&server).set("redis.main.port", i64::from(network.port())).set("redis.main.shared_connections", 1);
    let mut pool = Pooler::start(settings.clone()).await;
    let (mut first, mut second) = (pool.redis_wire().await, pool.redis_wire().await);
    first.command(&["SET", "a", "of the first"]).await;
    second.command(&["SET", "b", "of the second"]).await;
    network.behave(Behaviour::Stall);
    pool.reload(impatient(&settings)).await;
    first.send(&[request(&["GET", "a"]), request(&["INCR", "n"])].concat()).await;
    for _ in 0..2 {
        let late = first.reply().await;
        assert!(late.is_error("UPSTREAM") && late.text().contains("request_timeout"), "{late:?}");
    }
    pool.reload(settings.clone()).await;
    second.send(&request(&["GET", "b"])).await;
    network.behave(Behaviour::Pass);
    assert_eq!(second.reply().await.text(), "of the second", "the late replies are nobody's");
    assert_eq!(first.command(&["GET", "a"]).await.text(), "of the first");
    // A connection that says nothing for much longer is given up.
    network.behave(Behaviour::Stall);
    pool.reload(impatient(&settings)).await;
    first.send(&request(&["GET", "a"])).await;
    assert!(first.reply().await.is_error("UPSTREAM"));
    pool.metrics_show("the dead connection to be given up", |now| now.sum("sidepool_redis_connections", &[("use", "shared")]) < 0.5).await;
    pool.reload(settings).await;
    network.cut();
    network.behave(Behaviour::Pass);
    assert_eq!(first.command(&["GET", "a"]).await.text(), "of the first");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_reply_on_a_connection_of_ones_own_ends_that() {
    let server = RedisServer::start().await;
    let network = FaultProxy::start(server.port()).await;
    let settings = Settings::redis(&server).set("redis.main.port", i64::from(network.port()));
    let mut pool = Pooler::start(settings.clone()).await;
    let leased = |now: &Scrape| now.sum("sidepool_redis_connections", &[("use", "leased")]);
    let late = |reply: Reply| assert!(reply.is_error("UPSTREAM") && reply.text().contains("request_timeout"), "{reply:?}");
    let mut blocked = pool.redis_wire().await;
    blocked.send(&request(&["BLPOP", "list", "0"])).await;
    let mut wire = pool.redis_wire().await;
    wire.command(&["WATCH", "k"]).await;
    pool.metrics_show("two leased connections", |now| leased(now) == 2.0).await;
    network.behave(Behaviour::Stall);
    pool.reload(impatient(&settings)).await;
    wire.send(&request(&["GET", "k"])).await;
    late(wire.reply().await);
    pool.metrics_show("a connection that is given back", |now| leased(now) == 1.0).await;
    pool.reload(settings.clone()).await;
    network.behave(Behaviour::Pass);
    // It watched, and cannot any more: as if the key had changed.
    assert_eq!(wire.command(&["MULTI"]).await.text(), "OK");
    assert_eq!(wire.command(&["SET", "k", "v"]).await.text(), "QUEUED");
    assert_eq!(wire.command(&["EXEC"]).await, Reply::Null);
    // Of a transaction that is not executed the server keeps nothing.
    for command in [&["MULTI"][..], &["SET", "k", "of the first"]] {
        wire.command(command).await;
    }
    network.behave(Behaviour::Stall);
    pool.reload(impatient(&settings)).await;
    wire.send(&request(&["SET", "k", "of the second"])).await;
    assert!(wire.reply().await.is_error("UPSTREAM"));
    pool.reload(settings).await;
    network.behave(Behaviour::Pass);
    assert!(wire.command(&["EXEC"]).await.is_error("EXECABORT"));
    assert_eq!(wire.command(&["GET", "k"]).await, Reply::Null);
    // Whoever waits for somebody else has all the time that it takes.
    wire.command(&["RPUSH", "list", "late"]).await;
    assert_eq!(blocked.reply().await.elements()[1].text(), "late");
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_do_not_put_off_what_is_late() {
    let server = RedisServer::start().await;
    let network = FaultProxy::start(server.port()).await;
    let settings = Settings::redis(&server).set("redis.main.port", i64::from(network.port()));
    let mut pool = Pooler::start(settings.clone()).await;
    let mut wire = pool.redis_wire().await;
    wire.command(&["HELLO", "3"]).await;
    assert_eq!(wire.command(&["CLIENT", "TRACKING", "ON"]).await.text(), "OK");
    let push = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n";
    network.behave(Behaviour::Chatter(push.to_vec(), Duration::from_millis(100)));
    assert!(matches!(wire.reply().await, Reply::Push(_)));
    pool.reload(impatient(&settings)).await;
    wire.send(&request(&["GET", "k"])).await;
    // What it tracks is lost with the connection: it is closed without a word.
    let all_until_the_end = async { while let Some(Reply::Push(_)) = wire.read().await {} };
    wait::soon("the end", all_until_the_end).await;
    assert_eq!(wire.read().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_scripts_survive_a_server_that_starts_empty() {
    let mut server = RedisServer::start().await;
    let settings = Settings::redis(&server).set("workers", 2).set("redis.main.server_connect_backoff", "10ms");
    let pool = Pooler::start(settings).await;
    let mut loader = pool.redis_wire().await;
    let sha = loader.command(&["SCRIPT", "LOAD", "return ARGV[1]"]).await.text();
    let other = loader.command(&["SCRIPT", "LOAD", "return redis.call('INCR', KEYS[1])"]).await.text();
    let (finish, finished) = tokio::sync::watch::channel(false);
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..8 {
        let (mut wire, sha, other, finished) = (pool.redis_wire().await, sha.clone(), other.clone(), finished.clone());
        clients.spawn(async move {
            let (mut answered, mut after) = (0, 0);
            let one = [request(&["EVALSHA", &sha, "0", "said"]), request(&["EVALSHA", &other, "1", &format!("n{client}")])].concat();
            // Some rounds more once the server is back.
            while after < 20 {
                after += u32::from(*finished.borrow());
                wire.send(&one.repeat(5)).await;
                for _ in 0..10 {
                    let reply = wire.reply().await;
                    assert!(!reply.is_error("NOSCRIPT"), "{reply:?}");
                    assert!(!matches!(reply, Reply::Error(_)) || reply.is_error("UPSTREAM"), "{reply:?}");
                    answered += u32::from(!matches!(reply, Reply::Error(_)));
                }
            }
            answered
        });
    }
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.stop();
        server.launch().await;
    }
    finish.send(true).expect("the clients listen");
    while let Some(done) = clients.join_next().await {
        assert!(done.expect("every client finished") > 100);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_that_the_server_loses_are_loaded_again_for_pipelines_too() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let mut wire = pool.redis_wire().await;
    wire.command(&["SCRIPT", "LOAD", "return 1"]).await;
    server.direct().await.command(&["SCRIPT", "FLUSH"]).await;
    let twice = request(&["EVALSHA", SHA, "0"]).repeat(2);
    wait::until("the script to be there again", async || {
        wire.send(&twice).await;
        let both = [wire.reply().await, wire.reply().await];
        (both == [Reply::Integer(1), Reply::Integer(1)]).then_some(())
    })
    .await;
}
