//! Redis transactions: one that arrives whole rides a shared connection, one that is talked through has its own; neither mixes with anybody's
//! commands, and one whose connection is lost runs nowhere.

use sidepool_tests::fault::FaultProxy;
use sidepool_tests::pooler::Pooler;
use sidepool_tests::redis::wire::request;
use sidepool_tests::redis::{RedisServer, Reply, Wire};
use sidepool_tests::settings::Settings;
use tokio::task::JoinSet;

fn all(commands: &[&[&str]]) -> Vec<u8> {
    commands.iter().flat_map(|words| request(words)).collect()
}

async fn through_a_cutting_network() -> (RedisServer, FaultProxy, Pooler) {
    let server = RedisServer::start().await;
    let network = FaultProxy::start(server.port()).await;
    let pool = Pooler::start(Settings::redis(&server).set("redis.main.port", i64::from(network.port()))).await;
    (server, network, pool)
}

/// Cuts, and waits until the proxy knows.
async fn cut(network: &FaultProxy, pool: &Pooler) {
    network.cut();
    pool.metrics_show("no leased connection", |now| now.sum("sidepool_redis_connections", &[("use", "leased")]) < 0.5).await;
}

async fn ok(wire: &mut Wire, words: &[&str]) {
    assert_eq!(wire.command(words).await.text(), "OK", "{words:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_transaction_takes_no_connection_of_its_own() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server).set("redis.main.shared_connections", 1)).await;
    let mut clients = JoinSet::new();
    for client in 0..20 {
        let mut wire = pool.redis_wire().await;
        clients.spawn(async move {
            for round in 0..20 {
                let mark = format!("{client}.{round}");
                let bytes = all(&[&["GET", "x"], &["MULTI"], &["SET", "x", &mark], &["GET", "x"], &["INCR", "n"], &["EXEC"], &["PING"]]);
                wire.send(&bytes).await;
                wire.reply().await;
                for expected in ["OK", "QUEUED", "QUEUED", "QUEUED"] {
                    assert_eq!(wire.reply().await.text(), expected);
                }
                let results = wire.reply().await;
                assert_eq!(results.elements()[1].text(), mark, "nobody came in between");
                assert_eq!(wire.reply().await.text(), "PONG");
            }
        });
    }
    while let Some(done) = clients.join_next().await {
        done.expect("every client finished");
    }
    assert_eq!(server.direct().await.command(&["GET", "n"]).await.text(), "400");
    let waits = pool.scrape().await;
    let leased = waits.sum("sidepool_server_assignments_total", &[("pool", "main/default/0/resp2/leased")]);
    assert!(leased < 0.5, "no connection was leased");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_while_queueing_discard_it() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let mut wire = pool.redis_wire().await;
    // Whole and shared: wrong number of arguments.
    wire.send(&all(&[&["MULTI"], &["SET", "a"], &["SET", "b", "1"], &["EXEC"], &["GET", "b"]])).await;
    assert_eq!(wire.reply().await.text(), "OK");
    assert!(wire.reply().await.is_error("ERR"));
    assert_eq!(wire.reply().await.text(), "QUEUED");
    assert!(wire.reply().await.is_error("EXECABORT"));
    assert_eq!(wire.reply().await, Reply::Null);
    // Talked through: something about the client itself, with too few arguments.
    ok(&mut wire, &["MULTI"]).await;
    assert_eq!(wire.command(&["SET", "b", "1"]).await.text(), "QUEUED");
    assert!(wire.command(&["CLIENT", "SETNAME"]).await.is_error("ERR"));
    assert!(wire.command(&["EXEC"]).await.is_error("EXECABORT"));
    assert_eq!(wire.command(&["GET", "b"]).await, Reply::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn select_inside_a_transaction_counts_from_its_exec() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let mut wire = pool.redis_wire().await;
    wire.send(&all(&[&["SET", "k", "zero"], &["MULTI"], &["SELECT", "3"], &["SET", "k", "three"], &["EXEC"], &["GET", "k"]])).await;
    for expected in ["OK", "OK", "QUEUED", "QUEUED"] {
        assert_eq!(wire.reply().await.text(), expected);
    }
    assert_eq!(wire.reply().await.elements().len(), 2);
    assert_eq!(wire.reply().await.text(), "three");
    ok(&mut wire, &["SELECT", "0"]).await;
    assert_eq!(wire.command(&["GET", "k"]).await.text(), "zero");
    let mut other = pool.redis_wire().await;
    ok(&mut other, &["MULTI"]).await;
    assert_eq!(other.command(&["GET", "k"]).await.text(), "QUEUED");
    assert_eq!(other.command(&["EXEC"]).await.elements()[0].text(), "zero", "the returned connection was cleaned");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_transaction_runs_nowhere() {
    let (server, network, pool) = through_a_cutting_network().await;
    let mut wire = pool.redis_wire().await;
    ok(&mut wire, &["MULTI"]).await;
    assert_eq!(wire.command(&["SET", "a", "1"]).await.text(), "QUEUED");
    cut(&network, &pool).await;
    assert!(wire.command(&["SET", "b", "1"]).await.is_error("UPSTREAM"));
    assert!(wire.command(&["EXEC"]).await.is_error("EXECABORT"));
    assert_eq!(wire.command(&["PING"]).await.text(), "PONG", "the client goes on");
    ok(&mut wire, &["SET", "c", "1"]).await;
    let mut direct = server.direct().await;
    assert_eq!(direct.command(&["MGET", "a", "b", "c"]).await, Reply::Array(vec![Reply::Null, Reply::Null, Reply::Bulk(b"1".to_vec())]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_watch_fails_the_transaction_that_relies_on_it() {
    let (_server, network, pool) = through_a_cutting_network().await;
    let mut wire = pool.redis_wire().await;
    ok(&mut wire, &["WATCH", "k"]).await;
    cut(&network, &pool).await;
    assert_eq!(wire.command(&["GET", "k"]).await, Reply::Null, "reads go on");
    ok(&mut wire, &["MULTI"]).await;
    assert_eq!(wire.command(&["SET", "k", "blind"]).await.text(), "QUEUED");
    assert_eq!(wire.command(&["EXEC"]).await, Reply::Null, "as if a watched key had changed");
    ok(&mut wire, &["WATCH", "k"]).await;
    ok(&mut wire, &["MULTI"]).await;
    assert_eq!(wire.command(&["SET", "k", "seen"]).await.text(), "QUEUED");
    assert_eq!(wire.command(&["EXEC"]).await.elements()[0].text(), "OK", "the next try succeeds");
}

#[tokio::test(flavor = "multi_thread")]
async fn unwatch_gives_the_connection_back() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server).set("redis.main.pool_size", 2).set("redis.main.shared_connections", 1)).await;
    let (mut first, mut second) = (pool.redis_wire().await, pool.redis_wire().await);
    for _ in 0..5 {
        ok(&mut first, &["WATCH", "k"]).await;
        ok(&mut first, &["UNWATCH"]).await;
        ok(&mut second, &["WATCH", "k"]).await;
        ok(&mut second, &["MULTI"]).await;
        ok(&mut second, &["DISCARD"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_know_whether_its_transaction_has_begun_is_told_and_closed() {
    let (server, network, pool) = through_a_cutting_network().await;
    let mut wire = pool.redis_wire().await;
    // A connection that can be leased is there.
    ok(&mut wire, &["WATCH", "k"]).await;
    ok(&mut wire, &["UNWATCH"]).await;
    network.behave(sidepool_tests::fault::Behaviour::Stall);
    wire.send(&all(&[&["WATCH", "k"], &["MULTI"]])).await;
    pool.metrics_show("a leased connection", |now| now.sum("sidepool_redis_connections", &[("use", "leased")]) > 0.5).await;
    assert!(wire.is_silent().await);
    network.cut();
    // What follows was sent before the client could know, and must not run by itself.
    let _ = wire.try_send(&all(&[&["SET", "k", "1"], &["EXEC"]])).await;
    let mut told = Vec::new();
    // It is closed, unless what follows came early enough to be told the same.
    while told.len() < 4
        && let Some(reply) = wire.read().await
    {
        assert!(matches!(reply, Reply::Error(_)), "{reply:?}");
        told.push(reply);
    }
    assert!([2, 4].contains(&told.len()), "{told:?}");
    network.behave(sidepool_tests::fault::Behaviour::Pass);
    assert_eq!(server.direct().await.command(&["EXISTS", "k"]).await, Reply::Integer(0));
}
