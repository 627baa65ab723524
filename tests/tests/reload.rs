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
    wait::until("the server to know", async || (cluster.connections().await == 1).then_some(())).await;
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
    pool.metrics_show("no connection", |now| server_connections(now) == 0.0).await;
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

/// Clients of both sides who ask all the time, and whom nothing may disturb.
struct Crowd {
    over: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    clients: JoinSet<()>,
}

impl Crowd {
    async fn gather(pool: &Pooler, size: usize) -> Self {
        let mut crowd = Self { over: Arc::default(), served: Arc::default(), clients: JoinSet::new() };
        for client in 0..size {
            let (over, served) = (Arc::clone(&crowd.over), Arc::clone(&crowd.served));
            let (mut wire, mut redis) = (pool.wire().await, pool.redis_wire().await);
            crowd.clients.spawn(async move {
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
        crowd
    }

    /// Waits until they have been served so often again.
    async fn goes_on(&self, times: u64) {
        let before = self.served.load(Ordering::Relaxed);
        wait::until("everybody to go on", async || (self.served.load(Ordering::Relaxed) > before + times).then_some(())).await;
    }

    async fn part(mut self) {
        self.over.store(true, Ordering::Relaxed);
        while let Some(done) = self.clients.join_next().await {
            done.expect("no client noticed");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_client_notices_reloads_under_load() {
    let (cluster, server) = (Cluster::start().await, RedisServer::start().await);
    let settings = Settings::postgres(&cluster).and_redis(&server);
    let mut pool = Pooler::start(settings.clone()).await;
    let crowd = Crowd::gather(&pool, 20).await;
    for size in [2, 8, 1, 20, 3, 5] {
        pool.reload(settings.clone().set("postgres.default_pool_size", size).set("redis.main.pool_size", size + 2)).await;
        crowd.goes_on(60).await;
    }
    crowd.part().await;
}

/// So many reloads by this trigger that ended like this.
fn reloads(now: &Scrape, trigger: &str, result: &str) -> f64 {
    now.sum("sidepool_config_reloads_total", &[("trigger", trigger), ("result", result)])
}

/// The sizes of the two pools, which one file sets together.
fn sizes(now: &Scrape) -> (f64, f64) {
    let of = |protocol: &str| {
        let labels = [("protocol", protocol)];
        let pools = now.matching("sidepool_pool_info", &labels).flat_map(|pool| &pool.labels).filter(|(name, _)| name == "pool");
        pools.map(|(_, pool)| now.sum("sidepool_pool_server_connections_max", &[("pool", pool)])).sum::<f64>()
    };
    (of("postgres"), of("redis"))
}

#[tokio::test(flavor = "multi_thread")]
async fn triggers_that_come_at_once_lose_no_configuration_and_mix_none() {
    const FILES: i64 = 60;
    const ORDERS: u64 = 40;
    let (cluster, server) = (Cluster::start().await, RedisServer::start().await);
    let of_size = {
        let base = Settings::postgres(&cluster).and_redis(&server).set("postgres.admin_users", vec!["app".to_owned()]).set("workers", 2);
        move |size: i64| base.clone().set("postgres.default_pool_size", size).set("redis.main.pool_size", size + 4)
    };
    let pool = Pooler::start(of_size(FILES + 1)).await;
    let crowd = Crowd::gather(&pool, 10).await;
    // The file changes as by a careful editor, whole; every fifth one is broken.
    let file = pool.file();
    let texts: Vec<String> =
        (1..=FILES).map(|size| if size % 5 == 0 && size != FILES { "broken [".to_owned() } else { of_size(size).toml() }).collect();
    let writer = tokio::spawn(async move {
        for text in texts {
            let beside = file.with_extension("new");
            std::fs::write(&beside, text).expect("our own directory");
            std::fs::rename(&beside, &file).expect("the same directory");
            tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        }
    });
    let mut operators = JoinSet::new();
    for _ in 0..2 {
        let mut operator = Wire::login(pool.postgres_port(), "app", "pgbouncer", PASSWORD).await;
        operators.spawn(async move {
            let mut results = (0, 0);
            for _ in 0..ORDERS / 2 {
                match tags(&operator.query("RELOAD").await).as_str() {
                    "CZ" => results.0 += 1,
                    "EZ" => results.1 += 1,
                    other => panic!("{other}"),
                }
            }
            results
        });
    }
    let mut signals = 0;
    while !writer.is_finished() {
        pool.process().signal(Signal::HUP);
        signals += 1;
        let now = pool.scrape().await;
        let (postgres, redis) = sizes(&now);
        assert!((1.0..=61.0).contains(&postgres) && (0.0..=65.0).contains(&redis), "{postgres} and {redis}");
    }
    writer.await.expect("it wrote all");
    let mut ordered = (0, 0);
    while let Some(results) = operators.join_next().await {
        let (good, bad) = results.expect("each is answered");
        ordered = (ordered.0 + good, ordered.1 + bad);
    }
    // The last one wins, whole, with nobody to say so but the file itself.
    let last = pool.metrics_show("the last file", |now| sizes(now) == (60.0, 64.0)).await;
    assert_eq!(last.sum("sidepool_config_last_reload_successful", &[]), 1.0);
    assert_eq!((reloads(&last, "console", "ok"), reloads(&last, "console", "rejected")), (f64::from(ordered.0), f64::from(ordered.1)));
    assert_eq!(u64::try_from(ordered.0 + ordered.1), Ok(ORDERS), "each order is a reload");
    let by_signal = reloads(&last, "sighup", "ok") + reloads(&last, "sighup", "rejected");
    assert!((1.0..=f64::from(signals)).contains(&by_signal), "{by_signal} of {signals}");
    let told = |text: &str| pool.process().log().lines().iter().filter(|line| line.contains(text)).count();
    assert!(told("panic") == 0 && told("defect") == 0, "{}", pool.process().log().tail(20));
    crowd.goes_on(60).await;
    // What is in force is what a process that starts with this file has.
    crowd.part().await;
    let hash = pool.scrape().await.sum("sidepool_config_hash", &[]);
    let directory = pool.file().parent().expect("a directory").to_owned();
    drop(pool);
    let fresh = Pooler::start_file(of_size(FILES), &directory).await;
    assert_eq!(fresh.scrape().await.sum("sidepool_config_hash", &[]), hash);
}
