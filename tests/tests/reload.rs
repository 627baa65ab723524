//! Hot reload: pools grow and shrink, databases come and go, secrets change, broken files are refused, and no client notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::cluster::PASSWORD;
use sidepool_tests::postgres::{Cluster, Wire, frame, tags};
use sidepool_tests::process::Signal;
use sidepool_tests::redis::RedisServer;
use sidepool_tests::scrape::Scrape;
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;
use tokio::task::JoinSet;

fn server_connections(now: &Scrape) -> f64 {
    now.sum("sidepool_pool_server_connections", &[])
}

fn failures(now: &Scrape) -> f64 {
    let all = now.sum("sidepool_config_reloads_total", &[]);
    all - now.sum("sidepool_config_reloads_total", &[("result", "ok")])
}

#[tokio::test(flavor = "multi_thread")]
async fn growing_serves_those_who_wait() {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster).set("postgres.default_pool_size", 1);
    let mut pool = Pooler::start(settings.clone()).await;
    let (mut holder, mut waiter) = (pool.wire().await, pool.wire().await);
    holder.query("BEGIN").await;
    waiter.send(&frame::query("SELECT 'served'")).await;
    pool.metrics_show("a waiter", |now| now.sum("sidepool_pool_client_connections", &[("state", "waiting")]) > 0.0).await;
    pool.reload(settings.set("postgres.default_pool_size", 2)).await;
    assert_eq!(tags(&waiter.until_ready().await), "TDCZ");
    holder.query("COMMIT").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shrinking_closes_the_idle_now_and_the_leased_at_their_release() {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster).set("postgres.default_pool_size", 4);
    let mut pool = Pooler::start(settings.clone()).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut wire = pool.wire().await;
        wire.query("BEGIN").await;
        clients.push(wire);
    }
    for idle in &mut clients[..2] {
        idle.query("COMMIT").await;
    }
    pool.reload(settings.set("postgres.default_pool_size", 1)).await;
    pool.metrics_show("the two that are leased", |now| server_connections(now) == 2.0).await;
    for wire in &mut clients[2..] {
        assert_eq!(wire.value("SELECT 'still there'").await, "still there");
    }
    clients[2].query("COMMIT").await;
    pool.metrics_show("one connection", |now| server_connections(now) == 1.0).await;
    clients[3].query("COMMIT").await;
    for wire in &mut clients {
        assert_eq!(wire.value("SELECT 1").await, "1");
    }
    assert_eq!(cluster.connections().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_come_and_go() {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster);
    let mut pool = Pooler::start(settings.clone()).await;
    let mut stays = pool.wire().await;
    let with_other = settings.clone().database("other", &cluster);
    pool.reload(with_other).await;
    let mut other = Wire::login(pool.postgres_port(), "app", "other", PASSWORD).await;
    assert_eq!(other.value("SELECT current_database()").await, "other");
    pool.reload(settings).await;
    let refused = Wire::try_login(pool.postgres_port(), &[("user", "app"), ("database", "other")], PASSWORD).await;
    assert!(refused.is_err(), "the database is gone for new clients");
    wait::until("the connections to it to close", async || {
        let row = cluster.superuser("app").await.query_one("SELECT count(*) FROM pg_stat_activity WHERE datname = 'other'", &[]).await;
        (row.expect("a count").get::<_, i64>(0) == 0).then_some(())
    })
    .await;
    assert_eq!(stays.value("SELECT 1").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_secret_is_used_for_new_connections() {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster).set("postgres.databases.app.user", "app").set("postgres.databases.app.password", PASSWORD);
    let mut pool = Pooler::start(settings.clone()).await;
    let mut wire = pool.wire().await;
    let before = wire.value("SELECT pg_backend_pid()").await;
    cluster.sql("ALTER ROLE app PASSWORD 'rotated-secret'").await;
    pool.reload(settings.set("postgres.databases.app.password", "rotated-secret")).await;
    wait::until("a connection with the new secret", async || (wire.value("SELECT pg_backend_pid()").await != before).then_some(())).await;
    cluster.terminate_connections().await;
    let mut fresh = pool.wire().await;
    assert_eq!(fresh.value("SELECT current_user").await, "app");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_changes_nothing_and_is_reported() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster)).await;
    let mut wire = pool.wire().await;
    for broken in ["this is no TOML [", "[postgres]\nlisten = [\"127.0.0.1:0\"]\nnonsense_setting = 1\n", ""] {
        let before = failures(&pool.scrape().await);
        std::fs::write(pool.file(), broken).expect("our own file");
        pool.process().signal(Signal::HUP);
        let now = pool.metrics_show("the failed reload", |now| failures(now) > before).await;
        assert!(now.sum("sidepool_config_last_reload_successful", &[]) == 0.0);
        assert_eq!(wire.value("SELECT 'as before'").await, "as before");
        assert_eq!(pool.wire().await.value("SELECT 1").await, "1");
    }
    std::fs::write(pool.file(), pool.settings().toml()).expect("our own file");
    pool.process().signal(Signal::HUP);
    pool.metrics_show("the mended file", |now| now.sum("sidepool_config_last_reload_successful", &[]) == 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_noticed_without_a_signal() {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster);
    let mut pool = Pooler::start(settings.clone()).await;
    pool.write(settings.set("postgres.default_pool_size", 9));
    pool.wire().await.query("SELECT 1").await;
    pool.metrics_show("the new size", |now| now.sum("sidepool_pool_server_connections_max", &[]) == 9.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_map_swaps_its_symlink_and_is_noticed_each_time() {
    // As kubelet does it: sidepool.toml -> ..data/sidepool.toml, ..data -> ..TIMESTAMP; a new directory, then ..data is renamed over.
    let cluster = Cluster::start().await;
    let directory = sidepool_tests::place::directory("config-map");
    let base = Settings::postgres(&cluster);
    let publish = |generation: i64| {
        let data = directory.join(format!("..{generation}"));
        std::fs::create_dir(&data).expect("a new name");
        let text = base.clone().set("postgres.default_pool_size", generation).toml();
        std::fs::write(data.join("sidepool.toml"), text).expect("our own directory");
        let link = directory.join("..data_tmp");
        std::os::unix::fs::symlink(data.file_name().expect("a name"), &link).expect("a new name");
        std::fs::rename(&link, directory.join("..data")).expect("the same directory");
        let _ = std::fs::remove_dir_all(directory.join(format!("..{}", generation - 1)));
    };
    publish(11);
    std::os::unix::fs::symlink("..data/sidepool.toml", directory.join("sidepool.toml")).expect("a new name");
    let pool = Pooler::start_file(base.clone(), &directory).await;
    let mut wire = pool.wire().await;
    for generation in 12..15_i32 {
        publish(i64::from(generation));
        wire.query("SELECT 1").await;
        let size = f64::from(generation);
        pool.metrics_show("the new size", |now| now.sum("sidepool_pool_server_connections_max", &[]) == size).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_client_notices_reloads_under_load() {
    let (cluster, server) = (Cluster::start().await, RedisServer::start().await);
    let settings = Settings::postgres(&cluster).and_redis(&server);
    let mut pool = Pooler::start(settings.clone()).await;
    let over = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for client in 0..20 {
        let (over, served) = (Arc::clone(&over), Arc::clone(&served));
        let (mut wire, mut redis) = (pool.wire().await, pool.redis_wire().await);
        clients.spawn(async move {
            let mut round = 0;
            while !over.load(Ordering::Relaxed) {
                let token = format!("{client}-{round}");
                assert_eq!(wire.value(&format!("BEGIN; SELECT '{token}'; COMMIT")).await, token);
                assert_eq!(redis.command(&["ECHO", &token]).await.text(), token);
                assert_eq!(redis.command(&["SET", &format!("key-{client}"), &token]).await.text(), "OK");
                assert_eq!(redis.command(&["GET", &format!("key-{client}")]).await.text(), token);
                round += 1;
                served.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    for size in [2, 8, 1, 20, 3, 5] {
        let before = served.load(Ordering::Relaxed);
        pool.reload(settings.clone().set("postgres.default_pool_size", size).set("redis.main.pool_size", size + 2)).await;
        wait::until("everybody to go on", async || (served.load(Ordering::Relaxed) > before + 60).then_some(())).await;
    }
    over.store(true, Ordering::Relaxed);
    while let Some(done) = clients.join_next().await {
        done.expect("no client noticed");
    }
}
