//! Room on a shared Redis connection: who asks for much does not make others wait, and nobody waits for room for ever or beside any number of others.

use std::time::{Duration, Instant};

use sidepool_tests::calm::least;
use sidepool_tests::fault::{Behaviour, FaultProxy};
use sidepool_tests::pooler::Pooler;
use sidepool_tests::redis::wire::request;
use sidepool_tests::redis::{RedisServer, Reply, Wire};
use sidepool_tests::scrape::{self, Scrape};
use sidepool_tests::settings::Settings;
use sidepool_tests::tls::{Authority, Files};
use tokio::process::Command;
use tokio::task::JoinSet;

/// Clients of the greedy service, and how many commands each keeps on the way.
const MANY: usize = 50;
const DEEP: usize = 20;

/// How long the network takes for one command, and how many bytes that has: time passes there that no processor is asked for, so that what is measured is
/// who waits for whom.
const WORK: Duration = Duration::from_millis(3);
const WORK_BYTES: usize = 3_000;

async fn named(pool: &Pooler, name: &str) -> Wire {
    let mut client = pool.redis_wire().await;
    assert_eq!(client.command(&["CLIENT", "SETNAME", name]).await.text(), "OK");
    client
}

fn work() -> Vec<u8> {
    request(&[&b"SET"[..], b"k", &[b'x'; WORK_BYTES - 40]])
}

/// The median time of one such command of the small service.
async fn median(client: &mut Wire, command: &[u8]) -> Duration {
    median_of(60, client, command).await
}

async fn median_of(rounds: u64, client: &mut Wire, command: &[u8]) -> Duration {
    let mut times = Vec::new();
    for round in 0..rounds {
        // Not in step with what the others do.
        tokio::time::sleep(Duration::from_millis(round * 7 % 11)).await;
        let begun = Instant::now();
        client.send(command).await;
        assert!(!matches!(client.reply().await, Reply::Error(_)), "it is served");
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    times[times.len() / 2]
}

/// Clients that never stop and keep pipelines full of this: all of them have been served once.
async fn crowd(pool: &Pooler, command: &[u8]) -> JoinSet<()> {
    let mut crowd = JoinSet::new();
    let (served, mut first) = tokio::sync::mpsc::channel(MANY);
    for _ in 0..MANY {
        let (mut client, served, command) = (named(pool, "greedy").await, served.clone(), command.to_vec());
        crowd.spawn(async move {
            client.send(&command.repeat(DEEP)).await;
            client.reply().await;
            served.send(()).await.expect("somebody counts");
            loop {
                client.send(&command).await;
                client.reply().await;
            }
        });
    }
    for _ in 0..MANY {
        first.recv().await.expect("each is served");
    }
    crowd
}

/// How many times as long a small service's commands take beside a greedy one.
async fn slowdown(server: &RedisServer, fairness: &str) -> f64 {
    let network = FaultProxy::start(server.port()).await;
    network.behave(Behaviour::Narrow(WORK_BYTES, WORK));
    let settings = Settings::redis(server).set("redis.main.port", i64::from(network.port())).set("redis.main.query_wait_timeout", "60s");
    let pool = Pooler::start(settings.set("redis.main.shared_connections", 1).set("redis.main.queue_fairness", fairness)).await;
    let mut client = named(&pool, "small").await;
    let alone = median(&mut client, &work()).await;
    let _crowd = crowd(&pool, &work()).await;
    let beside = median(&mut client, &work()).await;
    println!("{fairness}: {alone:?} alone, {beside:?} beside {MANY} others");
    beside.as_secs_f64() / alone.as_secs_f64()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_service_that_floods_a_lane_does_not_make_another_wait() {
    let server = RedisServer::start().await;
    let times = least(2.0, async || slowdown(&server, "application_name").await).await;
    assert!(times <= 2.0, "{times:.1} times as long");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_identities_whoever_comes_first_comes_first() {
    let server = RedisServer::start().await;
    let client = slowdown(&server, "off");
    let times = tokio::time::timeout(Duration::from_secs(20), client).await.unwrap_or(f64::MAX);
    assert!(times > 20.0, "it takes only {times:.1} times as long: the other test shows nothing");
}

/// A value of which seventy fill a lane.
const VALUE_BYTES: usize = 60_000;

/// So many uses make a command a quick one, although one of them is then waited for in vain: it would be held to be slow at half as many
/// looks, of which there are a hundred in a second.
const QUICK: usize = 8_000;

/// Clients that each want to set their key, through a network in front of a server with one lane that has just fallen silent.
async fn before_a_silent_server(
    settings: &[(&str, &str)],
    clients: usize,
) -> (RedisServer, FaultProxy, Pooler, JoinSet<(Duration, Reply)>) {
    let server = RedisServer::start().await;
    let network = FaultProxy::start(server.port()).await;
    let all = Settings::redis(&server).set("redis.main.port", i64::from(network.port())).set("redis.main.shared_connections", 1);
    let all = settings.iter().fold(all, |all, (key, value)| match value.parse::<i64>() {
        Ok(number) => all.set(&format!("redis.main.{key}"), number),
        Err(_) => all.set(&format!("redis.main.{key}"), *value),
    });
    let pool = Pooler::start(all).await;
    let mut setup = pool.redis_wire().await;
    // So often that it is not taken for a slow command, which goes down another lane, while it is waited for and clients are slow to come.
    for _ in 0..QUICK / 1_000 {
        setup.send(&request(&["SET", "k", "v"]).repeat(1_000)).await;
        for _ in 0..1_000 {
            assert_eq!(setup.reply().await.text(), "OK");
        }
    }
    drop(setup);
    network.behave(Behaviour::Stall);
    let mut waiting = JoinSet::new();
    for client in 0..clients {
        let mut wire = pool.redis_wire().await;
        waiting.spawn(async move {
            let begun = Instant::now();
            wire.send(&request(&[&b"SET"[..], format!("k{client}").as_bytes(), &vec![b'x'; VALUE_BYTES]])).await;
            (begun.elapsed(), wire.read_patiently().await.expect("an answer"))
        });
    }
    (server, network, pool, waiting)
}

fn refused(now: &Scrape, reason: &str) -> f64 {
    now.sum("sidepool_pool_rejections_total", &[("reason", reason)])
}

/// How many were refused, with these words; all others have set their keys, once the server answers again.
async fn outcome(server: &RedisServer, network: &FaultProxy, waiting: JoinSet<(Duration, Reply)>, words: &str) -> usize {
    network.behave(Behaviour::Pass);
    let answers = waiting.join_all().await;
    let refused = answers.iter().filter(|(_, reply)| reply.is_error("POOLEXHAUSTED")).inspect(|(_, reply)| {
        assert!(reply.text().contains(words) && reply.text().contains("shared_connections"), "{reply:?}");
    });
    let (refused, all) = (refused.count(), answers.len());
    assert_eq!(answers.iter().filter(|(_, reply)| reply.text() == "OK").count(), all - refused, "served or told");
    let keys = server.direct().await.command(&["DBSIZE"]).await;
    assert_eq!(keys, Reply::Integer((all - refused + 1) as i64), "nothing of what was refused has run");
    refused
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_room_longer_than_for_a_connection() {
    let (server, network, pool, mut waiting) = before_a_silent_server(&[("query_wait_timeout", "2s")], 100).await;
    pool.metrics_show("a full lane", |now| now.sum("sidepool_redis_inflight_commands", &[]) >= 69.0).await;
    // A transaction is refused as a whole, and its client goes on.
    let mut wire = pool.redis_wire().await;
    let pipeline = [&["GET", "k"][..], &["MULTI"], &["INCR", "n"], &["EXEC"], &["CLIENT", "ID"]];
    wire.command(&["CLIENT", "SETNAME", "x"]).await;
    let begun = Instant::now();
    wire.send(&pipeline.iter().flat_map(|command| request(command)).collect::<Vec<u8>>()).await;
    let mut told = Vec::new();
    while told.len() < pipeline.len() {
        told.push(wire.read_patiently().await.expect("an answer"));
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert!(told[..2].iter().all(|reply| reply.is_error("POOLEXHAUSTED")), "{told:?}");
    assert!(told[3].is_error("EXECABORT"), "{told:?}");
    let now = pool.metrics_show("refusals", |now| refused(now, "wait_timeout") >= 30.0).await;
    let first = waiting.join_next().await.expect("somebody is answered").expect("it lives");
    assert!(first.1.is_error("POOLEXHAUSTED") && first.1.text().contains("within query_wait_timeout"), "{first:?}");
    let counted = refused(&now, "wait_timeout");
    let more = outcome(&server, &network, waiting, "within query_wait_timeout").await;
    assert!((counted - 1.0) as usize - 1 <= more && more < 40, "{counted} counted, {more} of the others were told");
    assert_eq!(wire.command(&["INCR", "n"]).await, Reply::Integer(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_line_before_a_full_lane_is_bounded() {
    let settings = [("query_wait_timeout", "60s"), ("max_queue_length", "10")];
    let (server, network, pool, waiting) = before_a_silent_server(&settings, 100).await;
    pool.metrics_show("refusals", |now| refused(now, "queue_full") >= 19.0).await;
    let refused = outcome(&server, &network, waiting, "the line before them is full").await;
    assert!((16..=21).contains(&refused), "{refused} of 100 were refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn under_tls_too_whoever_stands_before_a_full_lane_is_served_or_told() {
    let authority = Authority::new("sidepool tests");
    let identity = authority.issue("sidepool", &["127.0.0.1", "localhost"]);
    let files = Files::new(&[("ca.crt", &authority.pem()), ("proxy.crt", &identity.cert), ("proxy.key", &identity.key)]);
    let server = RedisServer::start().await;
    let network = FaultProxy::start(server.port()).await;
    let settings = Settings::redis(&server).set("redis.main.port", i64::from(network.port())).set("redis.main.shared_connections", 1);
    let settings = settings.set("redis.main.max_queue_length", 5).set("redis.main.query_wait_timeout", "60s").set("workers", 1);
    let settings = settings.set("redis.main.client_tls_sslmode", "require");
    let settings = settings.set("redis.main.client_tls_cert_file", files.path("proxy.crt"));
    let pool = Pooler::start(settings.set("redis.main.client_tls_key_file", files.path("proxy.key"))).await;
    let cli = |words: &[&str]| {
        let mut command = Command::new("redis-cli");
        command.args(["-h", "127.0.0.1", "-p", &pool.redis_port().to_string(), "--tls", "--cacert", &files.path("ca.crt")]).args(words);
        async move { String::from_utf8_lossy(&command.output().await.expect("redis-cli is installed").stdout).trim().to_owned() }
    };
    assert_eq!(cli(&["SET", "k", "v"]).await, "OK");
    network.behave(Behaviour::Stall);
    let value = "x".repeat(VALUE_BYTES);
    let mut waiting = JoinSet::new();
    for client in 0..100 {
        waiting.spawn(cli(&["SET", &format!("k{client}"), &value]));
    }
    pool.metrics_show("refusals", |now| refused(now, "queue_full") >= 10.0).await;
    network.behave(Behaviour::Pass);
    let answers = waiting.join_all().await;
    let told = answers.iter().filter(|answer| answer.contains("the line before them is full")).count();
    assert!(told >= 10, "{told} were told");
    assert_eq!(answers.iter().filter(|answer| *answer == "OK").count(), 100 - told, "served or told");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_says_of_its_replies_holds_although_there_is_no_room() {
    let settings = [("query_wait_timeout", "60s"), ("max_queue_length", "1")];
    let (server, network, pool, waiting) = before_a_silent_server(&settings, 80).await;
    pool.metrics_show("refusals", |now| refused(now, "queue_full") >= 1.0).await;
    let mut wire = pool.redis_wire().await;
    let pipeline = [&["CLIENT", "REPLY", "OFF"][..], &["GET", "k"], &["GET", "k"], &["CLIENT", "REPLY", "ON"], &["GET", "k"]];
    wire.send(&pipeline.iter().flat_map(|command| request(command)).collect::<Vec<u8>>()).await;
    assert_eq!(wire.reply().await.text(), "OK");
    assert!(wire.reply().await.is_error("POOLEXHAUSTED"));
    outcome(&server, &network, waiting, "the line before them is full").await;
    assert_eq!(wire.command(&["GET", "k"]).await.text(), "v", "not one reply too many");
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_for_room_are_seen_to_wait() {
    let (server, network, pool, waiting) = before_a_silent_server(&[("query_wait_timeout", "60s"), ("max_queue_length", "50")], 100).await;
    let shared = ("pool", "main/default/0/resp2/shared");
    let state = |now: &Scrape, state| now.sum("sidepool_pool_client_connections", &[shared, ("state", state)]);
    let now = pool
        .metrics_show("those who wait for a second", |now| {
            let all = state(now, "waiting") + state(now, "idle") >= 100.0;
            all && state(now, "waiting") >= 29.0 && now.sum("sidepool_pool_waiting_max_age_seconds", &[shared]) > 1.0
        })
        .await;
    assert!(state(&now, "waiting") <= 31.0, "{}", state(&now, "waiting"));
    assert!(now.sum("sidepool_pool_queue_limit", &[shared]) >= 50.0, "more may wait than do");
    let answer = scrape::get(pool.settings().admin_port(), "/statusz").await.expect("an answer");
    let status: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
    let pools = status["pools"].as_array().expect("a list");
    let seen = pools.iter().find(|pool| pool["pool"] == "main/default/0/resp2/shared").expect("it is listed");
    assert!(seen["waiters"].as_u64() >= Some(29) && seen["oldest_wait_seconds"].as_f64() > Some(1.0), "{seen}");
    let words = &seen["says"];
    assert!(words["text"].as_str().is_some_and(|text| text.contains("for room on them")), "{words}");
    assert!(words["advice"].as_str().is_some_and(|advice| advice.contains("shared_connections")), "{words}");
    outcome(&server, &network, waiting, "nobody is refused").await;
    let nobody = |now: &Scrape| state(now, "waiting") == 0.0 && now.sum("sidepool_pool_waiting_max_age_seconds", &[shared]) == 0.0;
    pool.metrics_show("nobody who waits", nobody).await;
}

/// So long the network takes for one value.
const VALUE_TIME: Duration = Duration::from_millis(100);

#[tokio::test(flavor = "multi_thread")]
async fn who_would_wait_for_room_in_vain_is_told_at_once_where_that_is_wanted() {
    let server = RedisServer::start().await;
    let network = FaultProxy::start(server.port()).await;
    network.behave(Behaviour::Narrow(VALUE_BYTES, VALUE_TIME));
    let settings = Settings::redis(&server).set("redis.main.port", i64::from(network.port())).set("redis.main.shared_connections", 1);
    let settings = settings.set("redis.main.query_wait_timeout", "10s").set("redis.main.refuse_early", true).set("workers", 1);
    let pool = Pooler::start(settings).await;
    // Seventy of them have room for 7 s, a hundred others have it within 10 s, and then there are those who would not.
    let mut crowd = JoinSet::new();
    for client in 0..250 {
        let mut wire = pool.redis_wire().await;
        let value = request(&[&b"SET"[..], format!("k{client}").as_bytes(), &vec![b'x'; VALUE_BYTES]]);
        crowd.spawn(async move {
            loop {
                let begun = Instant::now();
                wire.send(&value).await;
                let reply = wire.read_patiently().await.expect("an answer");
                if reply.text().contains("they would take this client's in about") {
                    return (begun.elapsed(), reply.text());
                }
            }
        });
    }
    for _ in 0..10 {
        let (took, words) = crowd.join_next().await.expect("there are more").expect("it lives");
        assert!(took < Duration::from_secs(5), "it was told after {took:?}: {words}");
        assert!(words.starts_with("POOLEXHAUSTED") && words.contains("Retry after") && words.contains("(10s)"), "{words}");
    }
    pool.metrics_show("refusals", |now| refused(now, "would_time_out") >= 10.0).await;
}

/// How long a script keeps the server busy, and nobody else is served.
const SCRIPT: Duration = Duration::from_millis(5);

/// How many scripts' time a small service waits for its own, which takes one, and for a command that takes none, beside a service that floods the server
/// with scripts.
async fn scripts_before(fairness: &str, rounds: u64) -> (f64, f64) {
    let server = RedisServer::start().await;
    let settings = Settings::redis(&server).set("redis.main.query_wait_timeout", "60s").set("redis.main.queue_fairness", fairness);
    let pool = Pooler::start(settings).await;
    let source = format!(
        "local function now() local t = redis.call('TIME') return t[1] * 1000000 + t[2] end local end_of = now() + {} \
         while now() < end_of do end return 1",
        SCRIPT.as_micros()
    );
    let (script, get) = (request(&["EVAL", &source, "0"]), request(&["GET", "k"]));
    let mut client = named(&pool, "small").await;
    let _crowd = crowd(&pool, &script).await;
    let of = |time: Duration| time.as_secs_f64() / SCRIPT.as_secs_f64();
    (of(median_of(rounds, &mut client, &script).await), of(median_of(rounds, &mut client, &get).await))
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_flood_of_scripts_a_small_service_waits_for_few_of_them() {
    let times = least(4.0, async || {
        let (script, get) = scripts_before("application_name", 60).await;
        println!("a script takes {script:.1} times as long as alone, a GET {get:.1} times as long as a script");
        script.max(get + 1.0)
    })
    .await;
    assert!(times <= 4.0, "it waits for {times:.1} scripts");
    let (without, _) = scripts_before("off", 5).await;
    println!("without identities it waits for {without:.1}");
    assert!(without > 40.0, "it waits for {without:.1} without identities: the figure above shows nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_the_server_halts_wait_for_that_and_not_for_each_other() {
    let server = RedisServer::start().await;
    let settings = Settings::redis(&server).set("workers", 1).set("redis.main.query_wait_timeout", "3s");
    let pool = Pooler::start(settings).await;
    let mut writers = Vec::new();
    for _ in 0..100 {
        let mut writer = pool.redis_wire().await;
        assert_eq!(writer.command(&["PING"]).await.text(), "PONG");
        writers.push(writer);
    }
    let mut operator = pool.redis_wire().await;
    assert_eq!(operator.command(&["CLIENT", "PAUSE", "5000", "WRITE"]).await.text(), "OK");
    for (number, writer) in writers.iter_mut().enumerate() {
        writer.send(&request(&["SET", &format!("k{number}"), "v"])).await;
    }
    for writer in &mut writers {
        assert_eq!(writer.reply().await.text(), "OK", "nobody is refused");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_changes_lanes_is_measured_by_the_one_it_comes_to() {
    let server = RedisServer::start().await;
    let network = FaultProxy::start(server.port()).await;
    let settings = Settings::redis(&server).set("redis.main.port", i64::from(network.port())).set("workers", 1);
    let pool = Pooler::start(settings).await;
    let mut wire = pool.redis_wire().await;
    let script = request(&["EVAL", "return redis.call('INCR', 'n')", "0"]);
    wire.send(&script).await;
    assert_eq!(wire.reply().await, Reply::Integer(1), "there is a connection for scripts");
    assert_eq!(wire.command(&["GET", "n"]).await.text(), "1");
    network.behave(Behaviour::Stall);
    wire.send(&script.repeat(500)).await;
    let now = pool.metrics_show("as many scripts as may be under way", |now| in_flight(now) >= 32.0).await;
    assert!(in_flight(&now) <= 32.0 + 8.0, "{} at once", in_flight(&now));
    network.behave(Behaviour::Pass);
    for number in 2..=501 {
        assert_eq!(wire.reply().await, Reply::Integer(number));
    }
}

fn in_flight(now: &Scrape) -> f64 {
    now.sum("sidepool_redis_inflight_commands", &[])
}

#[tokio::test(flavor = "multi_thread")]
async fn who_breaks_the_protocol_behind_what_is_refused_is_told_and_closed() {
    let settings = [("query_wait_timeout", "60s"), ("max_queue_length", "1")];
    let (server, network, pool, waiting) = before_a_silent_server(&settings, 80).await;
    pool.metrics_show("refusals", |now| refused(now, "queue_full") >= 1.0).await;
    for (broken, fault) in [(&b"*1\r\n!x\r\n"[..], "expected '$'"), (b"GET \"k\r\n", "unbalanced quotes")] {
        let mut wire = pool.redis_wire().await;
        wire.send(&[&request(&["GET", "k"]), broken].concat()).await;
        assert!(wire.reply().await.is_error("POOLEXHAUSTED"));
        let told = wire.reply().await;
        assert!(told.is_error("ERR") && told.text().contains(fault), "{told:?}");
        assert_eq!(wire.read().await, None);
    }
    outcome(&server, &network, waiting, "the line before them is full").await;
}
