//! Load by the field's own tools: a thousand pgbench clients on twenty connections, five hundred of redis-benchmark, and not one error.

use sidepool_tests::load::{pgbench, pgbench_tables, redis_benchmark, script};
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::Cluster;
use sidepool_tests::redis::RedisServer;
use sidepool_tests::settings::Settings;

async fn a_thousand_clients(mode: &str) {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster).set("postgres.default_pool_size", 20).set("postgres.query_wait_timeout", "120s");
    let pool = Pooler::start_fast(settings).await;
    pgbench_tables(cluster.port(), 2).await;
    let run = pgbench(pool.postgres_port(), &["-M", mode, "-n", "-c", "1000", "-j", "2", "-t", "20", "-S"]).await;
    assert_eq!(run.transactions, 20_000);
    println!("pgbench -M {mode}, 1,000 clients on 20 connections: {:.0} transactions/s", run.per_second);
    let update = "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :a;\n";
    let transfer = match mode {
        // pgbench prepares in a blocking call: while it waits for one client's connection, its other clients cannot end the transactions
        // that hold all twenty. No pooler can help it out of that, so here each transaction is one statement.
        "prepared" => script(&format!("\\set a random(1, 100000 * :scale)\n{update}")),
        _ => script(&format!(
            "\\set a random(1, 100000 * :scale)\nBEGIN;\n{update}SELECT abalance FROM pgbench_accounts WHERE aid = :a;\nEND;\n"
        )),
    };
    let run = pgbench(pool.postgres_port(), &["-M", mode, "-n", "-s", "2", "-c", "1000", "-j", "2", "-t", "5", "-f", &transfer]).await;
    assert_eq!(run.transactions, 5_000);
    assert!(cluster.connections().await <= 20);
    let row = cluster.superuser("app").await.query_one("SELECT sum(abalance) FROM pgbench_accounts", &[]).await.expect("a sum");
    assert_eq!(row.get::<_, i64>(0), 5_000, "each update is there once");
}

#[tokio::test(flavor = "multi_thread")]
async fn pgbench_simple() {
    a_thousand_clients("simple").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pgbench_extended() {
    a_thousand_clients("extended").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pgbench_prepared() {
    a_thousand_clients("prepared").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pgbench_that_connects_for_each_transaction() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start_fast(Settings::postgres(&cluster).set("postgres.auth_type", "scram-sha-256")).await;
    let one = script("SELECT 1;\n");
    let run = pgbench(pool.postgres_port(), &["-n", "-C", "-c", "50", "-j", "2", "-t", "20", "-f", &one]).await;
    assert_eq!(run.transactions, 1_000);
}

async fn five_hundred_clients(pipeline: &str) {
    let server = RedisServer::start().await;
    let pool = Pooler::start_fast(Settings::redis(&server)).await;
    let tests = "ping,set,get,incr,lpush,rpush,lpop,sadd,hset,zadd,lrange_100,mset";
    let arguments = ["-c", "500", "-P", pipeline, "-n", "20000", "-r", "10000", "-d", "100", "-t", tests];
    let lines = redis_benchmark(pool.redis_port(), &arguments).await;
    assert!(lines.len() >= 12, "{lines:?}");
    println!("redis-benchmark -c 500 -P {pipeline}:\n  {}", lines.join("\n  "));
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_benchmark_one_at_a_time() {
    five_hundred_clients("1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_benchmark_pipelined() {
    five_hundred_clients("16").await;
}
