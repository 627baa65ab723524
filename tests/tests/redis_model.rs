//! Random clients through sidepool and, one by one, at a plain server: each is told the same in the same order. They share few connections and go
//! back and forth between shared ones, leased ones, the hub, databases, users and protocol versions. And with connections cut all the time:
//! whatever a client is told, there is a history in which it is true.
//!
//! A seed that fails is named in the failure; `SIDEPOOL_MODEL_SEED` runs that one alone.

#[path = "redis_model/script.rs"]
mod script;
#[path = "redis_model/worlds.rs"]
mod worlds;

use sidepool_tests::fault::FaultProxy;
use sidepool_tests::pooler::Pooler;
use sidepool_tests::redis::{RedisServer, Reply, Wire};
use sidepool_tests::settings::Settings;
use tokio::task::JoinSet;

use self::script::{Author, Batch};

const SEEDS: u64 = 120;
const CUT_SEEDS: u64 = 60;
const CLIENTS: u64 = 8;
const BATCHES: usize = 10;

fn seeds(count: u64) -> impl Iterator<Item = u64> {
    let one = std::env::var("SIDEPOOL_MODEL_SEED").ok().map(|seed| seed.parse().expect("a number"));
    let range = one.map_or(1..count + 1, |seed: u64| seed..seed + 1);
    println!("seeds {range:?}");
    range
}

/// What depends on the connection and not on what is asked.
fn without_names(reply: Reply) -> Reply {
    let named = |key: &Reply| matches!(key.text().as_str(), "id" | "version" | "modules");
    match reply {
        Reply::Map(entries) => Reply::Map(entries.into_iter().filter(|(key, _)| !named(key)).collect()),
        Reply::Array(elements) if elements.first().is_some_and(|first| first.text() == "server") => {
            Reply::Array(elements.chunks(2).filter(|pair| !named(&pair[0])).flatten().cloned().collect())
        }
        other => other,
    }
}

async fn play(mut wire: Wire, script: &[Batch]) -> Vec<Vec<Reply>> {
    let mut told = Vec::new();
    for batch in script {
        // In two pieces, so that a request may come in two.
        let (first, second) = batch.bytes.split_at(batch.bytes.len() / 3);
        wire.send(first).await;
        wire.send(second).await;
        let mut replies = Vec::new();
        for _ in 0..batch.replies {
            replies.push(without_names(wire.reply().await));
        }
        told.push(replies);
    }
    told
}

async fn with_another_user(server: &RedisServer) {
    let granted = server.direct().await.command(&["ACL", "SETUSER", "other", "on", ">secret", "~*", "&*", "+@all"]).await;
    assert_eq!(granted.text(), "OK");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_is_told_what_a_plain_server_tells_it() {
    let (shared, plain) = (RedisServer::start().await, RedisServer::start().await);
    with_another_user(&shared).await;
    with_another_user(&plain).await;
    let settings = Settings::redis(&shared).set("redis.main.pool_size", 6).set("redis.main.shared_connections", 2);
    let pool = Pooler::start(settings).await;
    for seed in seeds(SEEDS) {
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            let (wire, direct) = (pool.redis_wire().await, plain.direct().await);
            clients.spawn(async move {
                let script = Author::new(seed, client).script(BATCHES);
                let (told, expected) = (play(wire, &script).await, play(direct, &script).await);
                for (batch, (told, expected)) in script.iter().zip(told.iter().zip(&expected)) {
                    assert!(
                        told == expected,
                        "seed {seed}, client {client}:\n{:#?}\nsidepool: {told:?}\nplain:    {expected:?}",
                        batch.shown
                    );
                }
            });
        }
        while let Some(done) = clients.join_next().await {
            done.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_cut_there_is_a_history_in_which_every_reply_is_true() {
    let server = RedisServer::start().await;
    let network = FaultProxy::start(server.port()).await;
    let settings = Settings::redis(&server)
        .set("redis.main.port", i64::from(network.port()))
        .set("redis.main.pool_size", 6)
        .set("redis.main.server_connect_backoff", "10ms");
    let pool = Pooler::start(settings).await;
    let cutting = tokio::spawn(async move {
        loop {
            tokio::time::sleep(std::time::Duration::from_millis(12)).await;
            network.cut();
        }
    });
    let mut lost = 0;
    for seed in seeds(CUT_SEEDS) {
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            clients.spawn(worlds::live(seed, client, pool.redis_port(), server.port()));
        }
        while let Some(done) = clients.join_next().await {
            lost += done.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        }
    }
    cutting.abort();
    println!("{lost} commands were lost");
}
