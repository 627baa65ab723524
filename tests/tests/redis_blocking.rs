//! Blocking commands: they wait on a connection of their own, first come first served, and nobody else waits with them.

use std::time::{Duration, Instant};

use sidepool_tests::calm::least;
use sidepool_tests::fault::{Behaviour, FaultProxy};
use sidepool_tests::pooler::Pooler;
use sidepool_tests::process::Signal;
use sidepool_tests::redis::wire::request;
use sidepool_tests::redis::{RedisServer, Reply, Wire};
use sidepool_tests::scrape::Scrape;
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;
use tokio::io::AsyncWriteExt as _;

async fn blocked_clients(server: &RedisServer) -> u32 {
    let info = server.direct().await.command(&["INFO", "clients"]).await.text();
    let line = info.lines().find_map(|line| line.strip_prefix("blocked_clients:")).expect("Redis tells");
    line.trim().parse().expect("a number")
}

async fn are_blocked(server: &RedisServer, count: u32) {
    wait::until("clients to be blocked", async || (blocked_clients(server).await == count).then_some(())).await;
}

async fn blocking(pool: &Pooler, command: &[&str]) -> Wire {
    let mut wire = pool.redis_wire().await;
    wire.send(&request(command)).await;
    wire
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_client_holds_up_nobody() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let commands: [&[&str]; 6] = [
        &["BLPOP", "list", "0"],
        &["BRPOP", "list", "0"],
        &["BLMOVE", "list", "other", "LEFT", "RIGHT", "0"],
        &["BZPOPMIN", "sorted", "0"],
        &["BLMPOP", "0", "1", "list", "LEFT"],
        &["XREAD", "BLOCK", "0", "STREAMS", "stream", "$"],
    ];
    let mut waiting = Vec::new();
    for (before, command) in (0..).zip(commands) {
        waiting.push(blocking(&pool, command).await);
        are_blocked(&server, before + 1).await;
    }
    let mut free = pool.redis_wire().await;
    for round in 0..20 {
        assert_eq!(free.command(&["INCR", "counter"]).await, Reply::Integer(round + 1));
    }
    for value in ["a", "b", "c", "d"] {
        free.command(&["RPUSH", "list", value]).await;
    }
    free.command(&["ZADD", "sorted", "1", "member"]).await;
    free.command(&["XADD", "stream", "1-1", "field", "value"]).await;
    assert_eq!(waiting[0].reply().await.elements()[1].text(), "a");
    assert_eq!(waiting[1].reply().await.elements()[1].text(), "b");
    assert_eq!(waiting[2].reply().await.text(), "c");
    assert_eq!(waiting[3].reply().await.elements()[1].text(), "member");
    assert_eq!(waiting[4].reply().await.elements()[1].elements()[0].text(), "d");
    assert!(matches!(waiting[5].reply().await, Reply::Array(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_is_called_like_an_option_holds_up_nobody() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server).set("redis.main.shared_connections", 1)).await;
    let mut free = pool.redis_wire().await;
    assert_eq!(free.command(&["XGROUP", "CREATE", "s", "streams", "$", "MKSTREAM"]).await.text(), "OK");
    let mut waiting = blocking(&pool, &["XREADGROUP", "GROUP", "streams", "c", "BLOCK", "0", "STREAMS", "s", ">"]).await;
    are_blocked(&server, 1).await;
    assert_eq!(free.command(&["GET", "k"]).await, Reply::Null);
    free.command(&["XADD", "s", "*", "field", "value"]).await;
    assert_eq!(last_field(&waiting.reply().await), "value");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_wakes_them_in_the_order_they_came() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server).set("redis.main.pool_size", 30)).await;
    let mut queue = Vec::new();
    for index in 0..15 {
        queue.push(blocking(&pool, &["BLPOP", "list", "0"]).await);
        are_blocked(&server, index + 1).await;
    }
    let mut giver = pool.redis_wire().await;
    for index in 0..15 {
        giver.command(&["RPUSH", "list", &index.to_string()]).await;
    }
    for (index, wire) in queue.iter_mut().enumerate() {
        assert_eq!(wire.reply().await.elements()[1].text(), index.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_wake_up_is_lost_while_connections_are_slow_to_open() {
    let server = RedisServer::start().await;
    let network = FaultProxy::start(server.port()).await;
    let settings = Settings::redis(&server).set("redis.main.port", i64::from(network.port())).set("redis.main.spare_connections", 2);
    let pool = Pooler::start(settings).await;
    let (mut giver, mut reader, mut taker) = (pool.redis_wire().await, pool.redis_wire().await, pool.redis_wire().await);
    for wire in [&mut giver, &mut reader, &mut taker] {
        wire.command(&["PING"]).await;
    }
    pool.metrics_show("two connections that are ready", |now| ready(now) == 2.0).await;
    // From here on a connection that is opened only when it is needed comes too late.
    network.behave(Behaviour::StallNew);
    for round in 0..20 {
        let value = round.to_string();
        reader.send(&request(&["XREAD", "BLOCK", "0", "STREAMS", "stream", "$"])).await;
        taker.send(&request(&["BLPOP", "list", "0"])).await;
        are_blocked(&server, 2).await;
        giver.send(&[request(&["XADD", "stream", "*", "round", &value]), request(&["LPUSH", "list", &value])].concat()).await;
        assert_eq!(last_field(&reader.reply().await), value);
        assert_eq!(taker.reply().await.elements()[1].text(), value);
        giver.reply().await;
        giver.reply().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_blocks_misses_nothing_that_is_sent_right_behind_it() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server).set("workers", 1)).await;
    let (mut giver, mut reader) = (pool.redis_wire().await, pool.redis_wire().await);
    giver.command(&["PING"]).await;
    reader.command(&["PING"]).await;
    pool.metrics_show("a connection that is ready", |now| ready(now) > 0.0).await;
    let mut direct = server.direct().await;
    for round in 0..200 {
        let value = round.to_string();
        // A server that was stopped before it looked for more would look first at the connection that it has read last, which is the
        // giver's: what comes first is read first when it has looked since.
        assert_eq!(direct.command(&["PING"]).await.text(), "PONG");
        reader.send(&request(&["XREAD", "BLOCK", "0", "STREAMS", "stream", "$"])).await;
        giver.send(&request(&["XADD", "stream", "*", "round", &value])).await;
        assert_eq!(last_field(&reader.reply().await), value);
        giver.reply().await;
    }
}

fn ready(now: &Scrape) -> f64 {
    now.sum("sidepool_pool_server_connections", &[("pool", "main/default/0/resp2/leased"), ("state", "idle")])
}

/// The value in the one entry of the one stream that `XREAD` gives.
fn last_field(reply: &Reply) -> String {
    reply.elements()[0].elements()[1].elements()[0].elements()[1].elements()[1].text()
}

#[tokio::test(flavor = "multi_thread")]
async fn its_time_limit_is_the_servers() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let mut wire = pool.redis_wire().await;
    assert_eq!(wire.command(&["BLPOP", "empty", "0.1"]).await, Reply::Null);
    assert!(wire.command(&["BLPOP", "empty", "never"]).await.is_error("ERR"));
    assert_eq!(wire.command(&["XREAD", "BLOCK", "50", "STREAMS", "none", "$"]).await, Reply::Null);
    assert_eq!(wire.command(&["PING"]).await.text(), "PONG");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_while_blocked_takes_no_element() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let leaver = blocking(&pool, &["BLPOP", "list", "0"]).await;
    are_blocked(&server, 1).await;
    drop(leaver);
    are_blocked(&server, 0).await;
    let mut wire = pool.redis_wire().await;
    wire.command(&["RPUSH", "list", "kept"]).await;
    assert_eq!(wire.command(&["LPOP", "list"]).await.text(), "kept");
}

/// No connection is leased, and nobody is blocked.
async fn all_are_given_back(server: &RedisServer, pool: &Pooler) {
    are_blocked(server, 0).await;
    pool.metrics_show("connections that are given back", |now| now.sum("sidepool_redis_connections", &[("use", "leased")]) == 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_client_waits_for_the_server_forgets_it_once_it_has_left() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let get = request(&["GET", "k"]);
    let blpop = request(&["BLPOP", "list", "0"]);
    let tracking = request(&["CLIENT", "TRACKING", "ON"]);
    let waits = [
        ("one element", blpop.clone()),
        ("a replica that there is not", request(&["WAIT", "1", "0"])),
        ("an entry of a stream", request(&["XREAD", "BLOCK", "0", "STREAMS", "stream", "$"])),
        ("one element, with something behind it", [blpop.clone(), get.clone()].concat()),
        ("the same on a connection that it keeps", [request(&["HELLO", "3"]), tracking, blpop.clone(), get.clone()].concat()),
        ("the same with more behind it than is read", [blpop, get.repeat(5_000)].concat()),
        ("one of more keys than are gathered", request(&[&["BLPOP"][..], &["some list"; 20_000], &["0"]].concat())),
    ];
    for (what, requests) in waits {
        let mut leaver = pool.redis_wire().await;
        leaver.send(&requests).await;
        are_blocked(&server, 1).await;
        drop(leaver);
        println!("left while it waited for {what}");
        all_are_given_back(&server, &pool).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_gone_is_not_waited_for_by_a_server_that_says_nothing() {
    let server = RedisServer::start().await;
    let network = FaultProxy::start(server.port()).await;
    let pool = Pooler::start(Settings::redis(&server).set("redis.main.port", i64::from(network.port()))).await;
    let mut leaver = pool.redis_wire().await;
    assert_eq!(leaver.command(&["WATCH", "k"]).await.text(), "OK");
    network.behave(Behaviour::Stall);
    leaver.send(&request(&["GET", "k"])).await;
    pool.metrics_show("a leased connection", |now| now.sum("sidepool_redis_connections", &[("use", "leased")]) == 1.0).await;
    // As by a process that is killed with something unread, or a machine that is reset: nobody will read the answer.
    leaver.stream().set_zero_linger().expect("a TCP socket");
    drop(leaver);
    all_are_given_back(&server, &pool).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_behind_a_blocking_command_waits_for_it() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let mut wire = pool.redis_wire().await;
    wire.send(&[request(&["SET", "k", "1"]), request(&["BLPOP", "list", "0"]), request(&["INCR", "k"])].concat()).await;
    assert_eq!(wire.reply().await.text(), "OK");
    are_blocked(&server, 1).await;
    let mut other = pool.redis_wire().await;
    assert_eq!(other.command(&["GET", "k"]).await.text(), "1", "INCR has not overtaken BLPOP");
    other.command(&["RPUSH", "list", "x"]).await;
    assert_eq!(wire.reply().await.elements()[1].text(), "x");
    assert_eq!(wire.reply().await, Reply::Integer(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn inside_a_transaction_nothing_blocks() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let mut wire = pool.redis_wire().await;
    wire.command(&["MULTI"]).await;
    assert_eq!(wire.command(&["BLPOP", "empty", "0"]).await.text(), "QUEUED");
    assert_eq!(wire.command(&["EXEC"]).await, Reply::Array(vec![Reply::Null]));
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_tells_the_truth_about_replicas() {
    let (primary, replica) = (RedisServer::start().await, RedisServer::start().await);
    let pool = Pooler::start(Settings::redis(&primary)).await;
    replica.direct().await.command(&["REPLICAOF", "127.0.0.1", &primary.port().to_string()]).await;
    let mut wire = pool.redis_wire().await;
    wait::until("the replica to follow", async || {
        wire.command(&["SET", "k", "1"]).await;
        (wire.command(&["WAIT", "1", "100"]).await == Reply::Integer(1)).then_some(())
    })
    .await;
    replica.process().signal(Signal::STOP);
    wire.command(&["SET", "k", "2"]).await;
    let while_stopped = wire.command(&["WAIT", "1", "200"]).await;
    replica.process().signal(Signal::CONT);
    assert_eq!(while_stopped, Reply::Integer(0), "the write of a shared connection is not on the replica");
    assert_eq!(wire.command(&["WAIT", "1", "20000"]).await, Reply::Integer(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn blocked_clients_leave_connections_for_transactions_and_wait_for_each_other() {
    let server = RedisServer::start().await;
    let settings = Settings::redis(&server).set("redis.main.pool_size", 8).set("redis.main.blocking_connections", 2);
    let mut pool = Pooler::start(settings.clone()).await;
    let mut first = blocking(&pool, &["BLPOP", "list", "0"]).await;
    are_blocked(&server, 1).await;
    let _second = blocking(&pool, &["XREAD", "BLOCK", "0", "STREAMS", "stream", "$"]).await;
    are_blocked(&server, 2).await;
    // Only who is to wait in vain has so little time.
    pool.reload(settings.clone().set("redis.main.query_wait_timeout", "400ms")).await;
    let mut third = blocking(&pool, &["BLPOP", "list", "0"]).await;
    let refusal = third.reply().await;
    assert!(refusal.is_error("POOLEXHAUSTED"), "{refusal:?}");
    assert!(refusal.text().contains("blocking_connections") && refusal.text().contains("all 2 connections"), "{refusal:?}");
    pool.reload(settings).await;
    // Transactions do not care.
    let mut watching = pool.redis_wire().await;
    assert_eq!(watching.command(&["WATCH", "k"]).await.text(), "OK");
    assert_eq!(watching.command(&["MULTI"]).await.text(), "OK");
    assert_eq!(watching.command(&["SET", "k", "v"]).await.text(), "QUEUED");
    assert_eq!(watching.command(&["EXEC"]).await.elements().len(), 1);
    // Whoever waits in time gets the place of whoever leaves.
    third.send(&request(&["BLPOP", "list", "0"])).await;
    pool.metrics_show("one that waits", |now| now.sum("sidepool_redis_blocking_waiting_clients", &[]) > 0.5).await;
    pool.redis_wire().await.command(&["RPUSH", "list", "a"]).await;
    assert_eq!(first.reply().await.elements()[1].text(), "a");
    are_blocked(&server, 2).await;
    pool.redis_wire().await.command(&["RPUSH", "list", "b"]).await;
    assert_eq!(third.reply().await.elements()[1].text(), "b");
    pool.metrics_show("the refusal", |now| now.sum("sidepool_pool_rejections_total", &[("reason", "wait_timeout")]) >= 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_ready_before_it_is_leased() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server).set("redis.main.spare_connections", 2)).await;
    let mut wire = pool.redis_wire().await;
    wire.command(&["SET", "k", "v"]).await;
    pool.metrics_show("two connections ready", |now| ready(now) == 2.0).await;
    let _blocked = blocking(&pool, &["BLPOP", "list", "0"]).await;
    are_blocked(&server, 1).await;
    pool.metrics_show("one more to make up for it", |now| ready(now) == 2.0).await;
}

/// All that is answered to a client that sends `requests` and then, in the same moment, says that it has no more to say.
async fn answers_to_half_closed(pool: &Pooler, requests: &[u8]) -> Vec<String> {
    let mut wire = pool.redis_wire().await;
    wire.send(requests).await;
    wire.stream().shutdown().await.expect("a socket that can be half closed");
    let mut answers = Vec::new();
    while let Some(reply) = wire.read().await {
        answers.push(reply.text());
    }
    answers
}

/// Who says no more and is to be blocked is waited for a tenth of a second. What came of the first of a few tries that was as it should be,
/// or was over sooner than that: any other may have found a machine that stood still for so long.
async fn at_once<T>(mut attempt: impl AsyncFnMut() -> (bool, Duration, T)) -> T {
    let mut tries = 10;
    loop {
        let (is_right, took, outcome) = attempt().await;
        tries -= 1;
        if is_right || took < Duration::from_millis(90) || tries == 0 {
            return outcome;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_no_more_gets_all_that_is_answered_at_once() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let wait =
        |replicas: &str, limit: &str| [request(&["SET", "a", "1"]), request(&["WAIT", replicas, limit]), request(&["GET", "a"])].concat();
    assert_eq!(answers_to_half_closed(&pool, &wait("0", "0")).await, ["OK", "0", "1"]);
    assert_eq!(answers_to_half_closed(&pool, &wait("1", "300")).await, ["OK", "0", "1"], "a limit ends it");
    let mut giver = pool.redis_wire().await;
    let blpop = request(&["BLPOP", "l", "0"]);
    let set = [request(&["SET", "x", "1"]), request(&["GET", "x"])].concat();
    let given = format!("{:?}", Reply::Array(vec![Reply::Bulk(b"l".to_vec()), Reply::Bulk(b"given".to_vec())]));
    let pinned = [request(&["WATCH", "k"]), blpop.clone(), set.clone()].concat();
    for (requests, expected) in [(pinned, vec!["OK", &given, "OK", "1"]), ([blpop.clone(), set].concat(), vec![&given, "OK", "1"])] {
        let answers = at_once(async || {
            giver.command(&["DEL", "l"]).await;
            giver.command(&["RPUSH", "l", "given"]).await;
            let begun = Instant::now();
            let answers = answers_to_half_closed(&pool, &requests).await;
            let took = begun.elapsed();
            are_blocked(&server, 0).await;
            (answers == expected, took, answers)
        })
        .await;
        assert_eq!(answers, expected);
    }
    giver.command(&["DEL", "l"]).await;
    let before = [request(&["WATCH", "k"]), request(&["GET", "x"]), blpop].concat();
    assert_eq!(answers_to_half_closed(&pool, &before).await, ["OK", "1"], "there is none, and what was owed before that came");
    are_blocked(&server, 0).await;
    giver.command(&["RPUSH", "l", "kept"]).await;
    assert_eq!(giver.command(&["LPOP", "l"]).await.text(), "kept");
    all_are_given_back(&server, &pool).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_no_more_while_blocked_takes_no_element() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let leave = async || {
        let mut leaver = blocking(&pool, &["BLPOP", "list", "0"]).await;
        are_blocked(&server, 1).await;
        assert!(tokio::time::timeout(Duration::from_millis(500), leaver.read()).await.is_err(), "nobody has given anything");
        leaver.stream().shutdown().await.expect("a socket that can be half closed");
        let left = Instant::now();
        assert_eq!(leaver.read().await, None);
        let took = left.elapsed().as_secs_f64();
        are_blocked(&server, 0).await;
        took
    };
    // Who comes and goes at once is waited for a tenth of a second.
    let took = least(0.09, leave).await;
    assert!(took < 0.09, "at once: {took} s");
    let mut wire = pool.redis_wire().await;
    wire.command(&["RPUSH", "list", "kept"]).await;
    assert_eq!(wire.command(&["LPOP", "list"]).await.text(), "kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_said_good_bye_behind_a_blocking_command_and_left_takes_no_element() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let mut leaver = pool.redis_wire().await;
    assert!(matches!(leaver.command(&["HELLO", "3"]).await, Reply::Map(_)));
    let pinned = [request(&["CLIENT", "TRACKING", "ON"]), request(&["BLPOP", "list", "0"]), request(&["QUIT"])].concat();
    leaver.send(&pinned).await;
    assert_eq!(leaver.reply().await.text(), "OK");
    are_blocked(&server, 1).await;
    drop(leaver);
    all_are_given_back(&server, &pool).await;
    let mut giver = pool.redis_wire().await;
    giver.command(&["LPUSH", "list", "kept"]).await;
    assert_eq!(giver.command(&["LLEN", "list"]).await, Reply::Integer(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_no_more_gets_all_that_it_has_asked_of_a_connection_that_it_keeps() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let transaction = [request(&["MULTI"]), request(&["SET", "k", "v"]), request(&["EXEC"])].concat();
    // What the proxy answers itself waits until all else is answered, and what stands behind it waits for that.
    for own in [&["CLIENT", "ID"][..], &["CLIENT", "LIST"], &["CLIENT", "GETNAME"]] {
        let all = [request(&["WATCH", "k"]), request(own), transaction.clone()].concat();
        let answers = answers_to_half_closed(&pool, &all).await;
        assert_eq!(answers.len(), 5, "{own:?}: {answers:?}");
        assert_eq!((&*answers[0], &*answers[2], &*answers[3]), ("OK", "OK", "QUEUED"), "{own:?}");
    }
    // The transaction that it has not finished is nobody's.
    let open = [request(&["WATCH", "k"]), request(&["CLIENT", "ID"]), request(&["MULTI"]), request(&["SET", "k", "never"])].concat();
    assert_eq!(answers_to_half_closed(&pool, &open).await.len(), 4);
    all_are_given_back(&server, &pool).await;
    assert_eq!(pool.redis_wire().await.command(&["GET", "k"]).await.text(), "v");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_proxy_refuses_holds_up_nothing_behind_it() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let mut wire = pool.redis_wire().await;
    assert_eq!(wire.command(&["WATCH", "k"]).await.text(), "OK");
    let begun = Instant::now();
    wire.send(&[request(&["ASKING"]), request(&["CLIENT", "GETNAME"])].concat()).await;
    assert!(wire.reply().await.is_error("ERR"));
    assert_eq!(wire.reply().await, Reply::Null);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}: at once, not when somebody looks again", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_again_is_no_blocking_command_for_standing_before_one() {
    let server = RedisServer::start().await;
    let network = FaultProxy::start(server.port()).await;
    let settings = Settings::redis(&server).set("redis.main.port", i64::from(network.port())).set("redis.main.retry_timeout", "10s");
    let pool = Pooler::start(settings).await;
    let (first, second) = (&["SET", "k", "v"][..], &["BLPOP", "list", "0"][..]);
    let mut giver = server.direct().await;
    let retries = |now: &Scrape| now.sum("sidepool_redis_retries_total", &[]);
    let given = at_once(async || {
        let mut wire = pool.redis_wire().await;
        assert_eq!(wire.command(first).await.text(), "OK");
        giver.command(&["DEL", "list"]).await;
        giver.command(&["RPUSH", "list", "given"]).await;
        let before = retries(&pool.scrape().await);
        // A read-only replica of nobody does not execute it for a while.
        assert_eq!(giver.command(&["REPLICAOF", "127.0.0.1", "1"]).await.text(), "OK");
        wire.send(&[request(first), request(second)].concat()).await;
        wire.stream().shutdown().await.expect("a socket that can be half closed");
        // Each pause is twice the one before: some are longer than a client that is to be blocked is waited for.
        pool.metrics_show("that it is asked again", |now| retries(now) >= before + 6.0).await;
        let begun = Instant::now();
        assert_eq!(giver.command(&["REPLICAOF", "NO", "ONE"]).await.text(), "OK");
        assert_eq!(wire.reply().await.text(), "OK");
        let given = wire.read().await;
        let took = begun.elapsed();
        are_blocked(&server, 0).await;
        (given.is_some(), took, given)
    })
    .await;
    assert_eq!(given.expect("it is given what is there").elements()[1].text(), "given");
}
