//! Redis commands that concern the whole server: busy scripts, replication, pauses, and which classes of them a configuration lets through.

use sidepool_tests::fault::{Behaviour, FaultProxy};
use sidepool_tests::pooler::Pooler;
use sidepool_tests::redis::wire::request;
use sidepool_tests::redis::{RedisServer, Reply};
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;

#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_does_not_end_can_be_ended() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let (mut stuck, mut other, mut third) = (pool.redis_wire().await, pool.redis_wire().await, pool.redis_wire().await);
    assert_eq!(other.command(&["CONFIG", "SET", "lua-time-limit", "10"]).await.text(), "OK");
    third.command(&["SELECT", "2"]).await;
    stuck.send(&request(&["EVAL", "while true do end", "0"])).await;
    wait::until("the server to be busy", async || other.command(&["GET", "k"]).await.is_error("BUSY").then_some(())).await;
    assert!(third.command(&["GET", "k"]).await.is_error("BUSY"), "each is told by the server itself");
    // Another database: a connection for it cannot be opened now.
    assert_eq!(third.command(&["SCRIPT", "KILL"]).await.text(), "OK");
    assert!(matches!(stuck.reply().await, Reply::Error(_)));
    assert_eq!(other.command(&["GET", "k"]).await, Reply::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_behind_a_heavy_command() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server).set("redis.main.shared_connections", 1)).await;
    let (mut heavy, mut light) = (pool.redis_wire().await, pool.redis_wire().await);
    light.command(&["PING"]).await;
    heavy.command(&["PING"]).await;
    // The order of one client holds across both lanes.
    let mixed = [request(&["SET", "k", "1"]), request(&["EVAL", "return redis.call('INCR', KEYS[1])", "1", "k"]), request(&["INCR", "k"])];
    for round in 0..50 {
        heavy.send(&mixed.concat()).await;
        assert_eq!(heavy.reply().await.text(), "OK");
        assert_eq!(heavy.reply().await, Reply::Integer(2), "round {round}");
        assert_eq!(heavy.reply().await, Reply::Integer(3));
    }
    // A paused write holds up its own lane, and no reads.
    assert_eq!(light.command(&["CLIENT", "PAUSE", "60000", "WRITE"]).await.text(), "OK");
    heavy.send(&request(&["SET", "k", "after the pause"])).await;
    assert!(heavy.is_silent().await);
    assert_eq!(light.command(&["GET", "k"]).await.text(), "3");
    assert_eq!(light.command(&["CLIENT", "UNPAUSE"]).await.text(), "OK");
    assert_eq!(heavy.reply().await.text(), "OK");
    // Nor does one that a transaction asked for.
    for words in [&["MULTI"][..], &["CLIENT", "PAUSE", "60000", "WRITE"], &["EXEC"]] {
        assert!(!matches!(light.command(words).await, Reply::Error(_)), "{words:?}");
    }
    heavy.send(&request(&["SET", "k", "after the pause"])).await;
    assert!(heavy.is_silent().await);
    assert_eq!(light.command(&["GET", "k"]).await.text(), "after the pause");
    assert_eq!(light.command(&["CLIENT", "UNPAUSE"]).await.text(), "OK");
    assert_eq!(heavy.reply().await.text(), "OK");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_can_come_through() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let (mut replica, mut other) = (pool.redis_wire().await, pool.redis_wire().await);
    replica.command(&["PING"]).await;
    replica.send(b"SYNC\r\n").await;
    // The snapshot: a length, and so many bytes without a line end.
    let Reply::Bulk(snapshot) = read_snapshot(&mut replica).await else { panic!("a snapshot comes first") };
    assert!(snapshot.starts_with(b"REDIS"));
    other.command(&["SET", "k", "replicated"]).await;
    let mut set = replica.reply().await;
    // Every ten seconds the server says PING among what it replicates.
    while ["select", "ping"].iter().any(|other| set.elements()[0].text().eq_ignore_ascii_case(other)) {
        set = replica.reply().await;
    }
    assert_eq!(set.elements()[2].text(), "replicated");
}

async fn read_snapshot(replica: &mut sidepool_tests::redis::Wire) -> Reply {
    use tokio::io::AsyncReadExt as _;
    let stream = replica.stream();
    let mut head = Vec::new();
    while !head.ends_with(b"\n") || head.iter().all(|byte| *byte == b'\n') {
        head.push(wait::soon("a byte of the snapshot", stream.read_u8()).await.expect("the server goes on"));
    }
    let text = String::from_utf8_lossy(&head).trim().trim_start_matches('$').to_owned();
    let mut snapshot = vec![0; text.parse().expect("a length")];
    wait::soon("the snapshot", stream.read_exact(&mut snapshot)).await.expect("all of it");
    Reply::Bulk(snapshot)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_lets_through_what_applications_need() {
    let server = RedisServer::start().await;
    let settings = Settings::redis(&server)
        .set("redis.main.command_policy", "sidecar")
        .set("redis.main.command_allow", vec!["config".to_owned()])
        .set("redis.main.command_deny", vec!["flush".to_owned()]);
    let mut pool = Pooler::start(settings.clone()).await;
    let mut wire = pool.redis_wire().await;
    assert_eq!(wire.command(&["SET", "k", "v"]).await.text(), "OK");
    for words in
        [&["SHUTDOWN"][..], &["DEBUG", "SLEEP", "0"], &["CLIENT", "PAUSE", "1"], &["MONITOR"], &["SYNC"], &["FLUSHALL"], &["acl", "list"]]
    {
        let refused = wire.command(words).await;
        assert!(refused.is_error("NOPERM") && refused.text().contains("command_policy"), "{words:?}: {refused:?}");
    }
    assert_eq!(wire.command(&["CONFIG", "SET", "maxmemory", "0"]).await.text(), "OK", "allowed after all");
    assert!(matches!(wire.command(&["KEYS", "*"]).await, Reply::Array(_)));
    // Not inside a transaction either, whether it comes whole or word by word.
    wire.send(&[request(&["MULTI"]), request(&["SET", "k", "w"]), request(&["FLUSHALL"]), request(&["EXEC"])].concat()).await;
    assert_eq!(wire.reply().await.text(), "OK");
    assert_eq!(wire.reply().await.text(), "QUEUED");
    assert!(wire.reply().await.is_error("NOPERM"));
    assert!(wire.reply().await.is_error("EXECABORT"));
    assert_eq!(wire.command(&["GET", "k"]).await.text(), "v");
    pool.reload(settings.set("redis.main.command_deny", Vec::<String>::new())).await;
    assert_eq!(wire.command(&["FLUSHALL"]).await.text(), "OK", "in force at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_turns_out_to_be_slow_goes_where_nobody_waits_behind_it() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let mut direct = server.direct().await;
    // A gigabit of ones: counting them takes a while, and the reply is a number.
    direct.command(&["SETRANGE", "bits", "134217727", "x"]).await;
    let mut wire = pool.redis_wire().await;
    wire.command(&["SET", "k", "v"]).await;
    let heavy = |now: &sidepool_tests::scrape::Scrape| now.sum("sidepool_redis_lane_commands_total", &[("lane", "heavy")]);
    assert!(heavy(&pool.scrape().await) < 0.5);
    wait::until("the command to be taken for a slow one", async || {
        // Two at a time are waited for long enough, however fast the machine is.
        let bytes = request(&["BITCOUNT", "bits"]).repeat(2);
        wire.send(&bytes).await;
        assert_eq!((wire.reply().await, wire.reply().await), (Reply::Integer(4), Reply::Integer(4)));
        (heavy(&pool.scrape().await) > 0.5).then_some(())
    })
    .await;
    assert!(pool.scrape().await.sum("sidepool_redis_slow_commands_total", &[]) >= 1.0);
    let (before, rest) = (heavy(&pool.scrape().await), ["GET", "k"]);
    assert_eq!(wire.command(&rest).await.text(), "v", "other commands go where they went");
    assert!((heavy(&pool.scrape().await) - before).abs() < 0.5);
    assert_eq!(wire.command(&["BITCOUNT", "bits"]).await, Reply::Integer(4));
    assert!(heavy(&pool.scrape().await) > before + 0.5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_time_for_opening_holds_for_the_next_connection() {
    let server = RedisServer::start().await;
    let network = FaultProxy::start(server.port()).await;
    let settings = Settings::redis(&server).set("redis.main.port", i64::from(network.port()));
    let mut pool = Pooler::start(settings.clone()).await;
    let mut wire = pool.redis_wire().await;
    assert_eq!(wire.command(&["PING"]).await.text(), "PONG");
    pool.reload(settings.set("redis.main.server_connect_timeout", "300ms")).await;
    network.behave(Behaviour::Stall);
    network.cut();
    wire.send(&request(&["GET", "k"])).await;
    // As it was before, it would be 15 seconds. A machine that stands still is late to look, and one of several connects is looked at in time.
    let is_in_time = |line: &String| {
        let waited = line.split_once(" ms").and_then(|(before, _)| before.rsplit(' ').next()?.parse::<u32>().ok());
        line.contains("cannot open an upstream connection") && waited.is_some_and(|waited| (200..=300).contains(&waited))
    };
    wait::until("a connect that failed in time", async || pool.process().log().lines().into_iter().find(is_in_time)).await;
    network.behave(Behaviour::Pass);
    assert_eq!(wire.reply().await, Reply::Null);
}
