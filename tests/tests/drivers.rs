//! Drivers of other languages, each in a real scenario: `tests/drivers/python` and `tests/drivers/javascript`.

use std::process::Stdio;
use std::time::Duration;

use sidepool_tests::kubernetes::{installed, scripts};
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::Cluster;
use sidepool_tests::redis::RedisServer;
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;
use tokio::process::Command;

/// Runs a script against servers with a pool of three in between; it exits with 0 when it has seen what it wanted.
async fn run(script: &str) {
    let (cluster, server) = (Cluster::start().await, RedisServer::start_with_password("hidden").await);
    let settings =
        Settings::postgres(&cluster).and_redis(&server).set("postgres.auth_type", "scram-sha-256").set("postgres.default_pool_size", 3);
    let pool = Pooler::start(settings).await;
    let mut command = if script.ends_with(".py") {
        let mut command = Command::new(installed().join("venv/bin/python"));
        command.arg("-u").arg(scripts().join(script)).env("PYTHONDONTWRITEBYTECODE", "1");
        command
    } else {
        let mut command = Command::new("node");
        command.arg(scripts().join(script)).env("NODE_PATH", installed().join("javascript/node_modules"));
        command
    };
    command.env("POSTGRES_URL", format!("postgres://app:app-secret-0815@127.0.0.1:{}/app", pool.postgres_port()));
    command.env("REDIS_URL", format!("redis://127.0.0.1:{}", pool.redis_port()));
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = wait::within(Duration::from_secs(90), script, command.output()).await.expect("the interpreter is installed");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{script}:\n{text}");
    let listening = i64::from(script.contains("listen") || script.contains("psycopg2"));
    // One that was told goodbye is seen for a moment longer.
    wait::until("the pool to have kept its limit", async || (cluster.connections().await <= 3 + listening).then_some(())).await;
    print!("{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn psycopg() {
    run("python/psycopg_scenario.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn psycopg2() {
    run("python/psycopg2_scenario.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn asyncpg() {
    run("python/asyncpg_scenario.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlalchemy() {
    run("python/sqlalchemy_scenario.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn django() {
    run("python/django_scenario.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_py() {
    run("python/redis_scenario.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_pg() {
    run("javascript/pg_scenario.js").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_js() {
    run("javascript/postgres_scenario.js").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn psycopg_and_asyncpg_listen() {
    run("python/listen_scenario.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_pg_and_postgres_js_listen() {
    run("javascript/listen_scenario.js").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ioredis() {
    run("javascript/ioredis_scenario.js").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_redis() {
    run("javascript/node_redis_scenario.js").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bullmq() {
    run("javascript/bullmq_scenario.js").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn celery() {
    run("python/celery_scenario.py").await;
}
