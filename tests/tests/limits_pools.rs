//! How large pools are and how their connections are used: the reserve, the minimum, turns, checks, ages, and pools that nobody uses.

use std::time::{Duration, Instant};

use sidepool_tests::conformance::proves;
use sidepool_tests::ini::{IniPooler, Program};
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::cluster::PASSWORD;
use sidepool_tests::postgres::wire::first_column;
use sidepool_tests::postgres::{Cluster, Wire, frame, tags};
use sidepool_tests::scrape::Scrape;
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;

fn open(now: &Scrape) -> f64 {
    now.sum("sidepool_pool_server_connections", &[])
}

fn closed(now: &Scrape, reason: &str) -> f64 {
    now.sum("sidepool_server_closes_total", &[("reason", reason)])
}

/// Settings of a database whose clients all are `app` upstream.
fn forced(cluster: &Cluster) -> Settings {
    Settings::postgres(cluster).set("postgres.databases.app.user", "app").set("postgres.databases.app.password", PASSWORD)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reserve_is_opened_for_who_has_waited_for_long() {
    let _proof = proves(&["setting [users] reserve_pool_size", "setting reserve_pool_size", "setting reserve_pool_timeout"]);
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster)
        .set("postgres.default_pool_size", 1)
        .set("postgres.reserve_pool_size", 1)
        .set("postgres.reserve_pool_timeout", "300ms");
    let pool = Pooler::start(settings.clone()).await;
    let (mut holder, mut waiter, mut third) = (pool.wire().await, pool.wire().await, pool.wire().await);
    holder.query("BEGIN").await;
    let asked = Instant::now();
    assert_eq!(first_column(&waiter.query("BEGIN; SELECT 'from the reserve'").await), ["from the reserve"]);
    assert!(asked.elapsed() >= Duration::from_millis(290), "the reserve is not for who has just come: {:?}", asked.elapsed());
    third.send(&frame::query("SELECT 'a turn'")).await;
    assert!(third.is_silent().await && third.is_silent().await && third.is_silent().await, "it has an end");
    assert_eq!(cluster.connections().await, 2);
    let now = pool.scrape().await;
    let reserve = ["sidepool_pool_reserve_connections", "sidepool_pool_reserve_connections_used"].map(|name| now.sum(name, &[]));
    assert_eq!(reserve, [1.0, 1.0]);
    holder.query("COMMIT").await;
    assert_eq!(first_column(&third.until_ready().await), ["a turn"]);
    waiter.query("COMMIT").await;
    drop(pool);
    // A user's own reserve beats the database's.
    let none = Pooler::start(settings.set("postgres.users.app.reserve_pool_size", 0)).await;
    let (mut holder, mut waiter) = (none.wire().await, none.wire().await);
    holder.query("BEGIN").await;
    waiter.send(&frame::query("SELECT 1")).await;
    assert!(waiter.is_silent().await && waiter.is_silent().await && waiter.is_silent().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_minimum_is_kept_where_the_user_is_known_or_a_client_is_there() {
    let _proof = proves(&["setting min_pool_size"]);
    let cluster = Cluster::start().await;
    let minimum = |settings: Settings| settings.set("postgres.min_pool_size", 3).set("postgres.server_idle_timeout", "200ms");
    let known = Pooler::start(minimum(forced(&cluster))).await;
    known.metrics_show("three connections, without any client", |now| open(now) == 3.0).await;
    drop(known);
    let pool = Pooler::start(minimum(Settings::postgres(&cluster))).await;
    assert_eq!(open(&pool.scrape().await), 0.0);
    let mut wire = pool.wire().await;
    pool.metrics_show("three connections for the client", |now| open(now) == 3.0).await;
    assert_eq!(wire.value("SELECT 1").await, "1");
    drop(wire);
    pool.metrics_show("none without it", |now| open(now) == 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn round_robin_uses_all_connections_in_turn() {
    let _proof = proves(&["setting server_round_robin"]);
    let cluster = Cluster::start().await;
    for (round_robin, expected) in [(false, 1), (true, 3)] {
        // A worker uses its own connections first, and machines with many cores have many workers.
        let settings = Settings::postgres(&cluster).set("postgres.server_round_robin", round_robin).set("workers", 1);
        let pool = Pooler::start(settings.set("postgres.default_pool_size", 3)).await;
        let mut clients = Vec::new();
        for _ in 0..3 {
            let mut wire = pool.wire().await;
            wire.query("BEGIN").await;
            clients.push(wire);
        }
        for wire in &mut clients {
            wire.query("COMMIT").await;
        }
        let mut used = std::collections::BTreeSet::new();
        for _ in 0..6 {
            used.insert(clients[0].value("SELECT pg_backend_pid()").await);
        }
        assert_eq!(used.len(), expected, "round robin: {round_robin}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_checked_by_the_query_that_is_set() {
    let _proof = proves(&["setting server_check_query", "setting server_check_delay"]);
    let cluster = Cluster::start_with(&["log_statement=all"]).await;
    let settings = Settings::postgres(&cluster).set("postgres.server_check_delay", "100ms");
    let pool = Pooler::start(settings.clone().set("postgres.server_check_query", "SELECT 'are you there'")).await;
    pool.wire().await.query("SELECT 1").await;
    cluster.process().log().line_with("are you there").await;
    drop(pool);
    // A check that fails closes the connection before anybody gets it.
    let failing = Pooler::start(settings.clone().set("postgres.server_check_query", "SELECT nonsense")).await;
    let mut wire = failing.wire().await;
    let before = wire.value("SELECT pg_backend_pid()").await;
    // The one that logged in may have been idle for long enough before the first query.
    failing.metrics_show("the failed check of what is there", |now| closed(now, "probe_failed") >= 1.0 && open(now) == 0.0).await;
    assert_ne!(wire.value("SELECT pg_backend_pid()").await, before);
    drop(failing);
    // No query, no checks; and without a delay, one after each use.
    let never = Pooler::start(settings.clone().set("postgres.server_check_query", "").set("postgres.server_check_delay", "0s")).await;
    let mut wire = never.wire().await;
    let before = wire.value("SELECT pg_backend_pid()").await;
    assert_eq!(wire.value("SELECT pg_backend_pid()").await, before);
    drop(never);
    let always = settings.set("postgres.server_check_query", "SELECT 'checked ' || 'always'").set("postgres.server_check_delay", "0s");
    let pool = Pooler::start(always).await;
    let mut wire = pool.wire().await;
    for _ in 0..3 {
        assert_eq!(wire.value("SELECT 1").await, "1");
    }
    cluster.process().log().line_with("'checked ' || 'always'").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_connections_are_replaced_one_after_the_other() {
    let _proof = proves(&["setting server_lifetime"]);
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster).set("postgres.default_pool_size", 4).set("postgres.server_lifetime", "2s");
    let pool = Pooler::start(settings).await;
    let mut clients = Vec::new();
    let begun = Instant::now();
    for _ in 0..4 {
        let mut wire = pool.wire().await;
        wire.query("BEGIN").await;
        clients.push(wire);
    }
    for wire in &mut clients {
        wire.query("COMMIT").await;
    }
    pool.metrics_show("all four to be closed", |now| closed(now, "lifetime") >= 4.0).await;
    // A lifetime, which may be a tenth shorter, for the first, and a quarter of one more for each of the others.
    assert!(begun.elapsed() >= Duration::from_millis(3_250), "at most one in each quarter of a lifetime: {:?}", begun.elapsed());
    assert_eq!(clients[0].value("SELECT 'goes on'").await, "goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_connect_when_a_connection_in_use_reaches_its_age() {
    let cluster = Cluster::start().await;
    // A connect takes longer than anybody may wait, and less than the fifth of a lifetime that a successor has to come.
    let settings = Settings::postgres(&cluster)
        .set("postgres.default_pool_size", 2)
        .set("postgres.server_lifetime", "6s")
        .set("postgres.databases.app.connect_query", "SELECT pg_sleep(0.3)");
    let mut pool = Pooler::start(settings.clone()).await;
    let mut wire = pool.wire().await;
    wire.value("SELECT 1").await;
    pool.reload(settings.set("postgres.query_wait_timeout", "100ms")).await;
    let mut seen = std::collections::BTreeSet::new();
    wait::until("four connections one after the other", async || {
        seen.insert(wire.value("SELECT pg_backend_pid()").await);
        (seen.len() >= 4).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_opens_connections_side_by_side() {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster).set("postgres.default_pool_size", 8).set("postgres.server_connect_parallelism", 8);
    let pool = Pooler::start(settings).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(pool.wire().await);
    }
    let gate = cluster.superuser("app").await;
    gate.batch_execute("SELECT pg_advisory_lock(1)").await.expect("nobody else has it");
    for wire in &mut clients {
        wire.send(&frame::query("SELECT pg_advisory_xact_lock_shared(1)")).await;
    }
    let sql = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    wait::until("each query to have its own", async || (gate.query_one(sql, &[]).await.expect(sql).get::<_, i64>(0) == 8).then_some(()))
        .await;
    gate.batch_execute("SELECT pg_advisory_unlock(1)").await.expect("ours");
    for wire in &mut clients {
        assert_eq!(tags(&wire.until_ready().await), "TDCZ");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_that_clients_named_are_forgotten_when_nobody_uses_them() {
    let _proof = proves(&["setting autodb_idle_timeout", "setting pool_idle_timeout"]);
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster)
        .set("postgres.databases.\"*\".host", "127.0.0.1")
        .set("postgres.databases.\"*\".port", i64::from(cluster.port()))
        .set("postgres.server_idle_timeout", "100ms");
    let known = |now: &Scrape| now.sum("sidepool_pool_info", &[]);
    for (setting, left) in [("autodb_idle_timeout", 1.0), ("pool_idle_timeout", 0.0)] {
        let pool = Pooler::start(settings.clone().set(&format!("postgres.{setting}"), "300ms")).await;
        let mut stays = Wire::login(pool.postgres_port(), "app", "other", PASSWORD).await;
        let (named, auto) = (pool.wire().await, Wire::login(pool.postgres_port(), "app", "postgres", PASSWORD).await);
        pool.metrics_show("three pools", |now| known(now) == 3.0).await;
        drop((named, auto));
        pool.metrics_show("the pools that are used or kept", |now| known(now) == 1.0 + left).await;
        assert_eq!(stays.value("SELECT 'in use'").await, "in use");
        let mut again = Wire::login(pool.postgres_port(), "app", "postgres", PASSWORD).await;
        assert_eq!(again.value("SELECT 1").await, "1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fast_close_ends_clients_in_session_mode_whose_database_has_changed() {
    let _proof = proves(&["setting server_fast_close", "message database configuration changed"]);
    let cluster = Cluster::start().await;
    let settings = forced(&cluster).set("postgres.pool_mode", "session").set("postgres.server_fast_close", true);
    let mut pool = Pooler::start(settings.clone()).await;
    let (mut idle, mut busy) = (pool.wire().await, pool.wire().await);
    assert_eq!(idle.value("SELECT 1").await, "1");
    busy.query("BEGIN").await;
    pool.reload(settings.set("postgres.databases.app.host", "localhost")).await;
    let farewell = idle.until_closed().await;
    let message = |messages: &[sidepool_tests::postgres::Message]| messages.last().and_then(|last| last.field(b'M'));
    assert_eq!(message(&farewell).as_deref(), Some("database configuration changed"));
    assert_eq!(busy.value("SELECT 'in a transaction'").await, "in a transaction");
    busy.send(&frame::query("COMMIT")).await;
    assert_eq!(message(&busy.until_closed().await).as_deref(), Some("database configuration changed"));
    assert_eq!(pool.wire().await.value("SELECT 'anew'").await, "anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_and_a_user_have_sizes_of_their_own() {
    let _proof = proves(&["setting [databases] pool_size", "setting [users] pool_size"]);
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster).set("postgres.databases.app.pool_size", 2);
    for (settings, room) in [(settings.clone(), 2), (settings.set("postgres.users.app.pool_size", 3), 3)] {
        let pool = Pooler::start(settings).await;
        let mut clients = Vec::new();
        for _ in 0..room {
            let mut wire = pool.wire().await;
            wire.query("BEGIN").await;
            clients.push(wire);
        }
        let mut waiter = pool.wire().await;
        waiter.send(&frame::query("SELECT 'a turn'")).await;
        assert!(waiter.is_silent().await && waiter.is_silent().await, "{room} connections, and no more");
        // Those of the pooler before are seen for a moment longer.
        wait::until("all of them", async || (cluster.connections().await == room).then_some(())).await;
        clients[0].query("COMMIT").await;
        assert_eq!(first_column(&waiter.until_ready().await), ["a turn"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_has_a_minimum_a_reserve_and_a_lifetime_of_its_own() {
    let _proof =
        proves(&["setting [databases] min_pool_size", "setting [databases] reserve_pool_size", "setting [databases] server_lifetime"]);
    let cluster = Cluster::start().await;
    let own = |name: &str| format!("postgres.databases.app.{name}");
    let settings = forced(&cluster).database("other", &cluster).set("postgres.databases.other.user", "app");
    let settings = settings.set("postgres.databases.other.password", PASSWORD).set("postgres.default_pool_size", 2);
    let pool = Pooler::start(settings.clone().set(&own("min_pool_size"), 2)).await;
    pool.metrics_show("the minimum of one database, without any client", |now| open(now) == 2.0).await;
    drop(pool);
    let reserve = settings.clone().set(&own("reserve_pool_size"), 1).set("postgres.reserve_pool_timeout", "100ms");
    let pool = Pooler::start(reserve).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut wire = pool.wire().await;
        wire.query("BEGIN").await;
        clients.push(wire);
    }
    pool.metrics_show("three connections where two are usual", |now| open(now) == 3.0).await;
    drop((clients, pool));
    let pool = Pooler::start(settings.set(&own("server_lifetime"), "300ms")).await;
    let (mut wire, mut other) = (pool.wire().await, Wire::login(pool.postgres_port(), "app", "other", "").await);
    let kept = other.query("SELECT pg_backend_pid()").await;
    wire.query("SELECT 1").await;
    pool.metrics_show("the old connection to be closed", |now| closed(now, "lifetime") >= 1.0).await;
    assert_eq!(first_column(&other.query("SELECT pg_backend_pid()").await), first_column(&kept), "the other database's is as good as new");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lifetime_of_zero_is_one_use() {
    let _proof = proves(&["feature server_lifetime = 0: each connection is used once"]);
    let cluster = Cluster::start().await;
    let ini = format!(
        "[databases]\napp = host=127.0.0.1 port={0}\nkept = host=127.0.0.1 port={0} dbname=app server_lifetime=60\n[pgbouncer]\n\
         listen_addr = 127.0.0.1\nlisten_port = LISTEN_PORT\nunix_socket_dir =\nauth_type = trust\nauth_file = USERS_FILE\n\
         pool_mode = transaction\ndefault_pool_size = 1\nserver_lifetime = 0\n",
        cluster.port()
    );
    for program in [Program::Sidepool, Program::Pgbouncer] {
        // 1.18 knows no lifetime of a database.
        let ini = if program == Program::Pgbouncer { ini.replace(" server_lifetime=60", "") } else { ini.clone() };
        let pool = IniPooler::start(program, &ini, &format!("\"app\" \"{PASSWORD}\"\n")).await;
        let mut wire = Wire::login(pool.port(), "app", "app", "").await;
        let mut pids = std::collections::BTreeSet::new();
        for _ in 0..4 {
            pids.insert(wire.value("SELECT pg_backend_pid()").await);
        }
        assert_eq!(pids.len(), 4, "{program:?}");
        if program == Program::Sidepool {
            let mut kept = Wire::login(pool.port(), "app", "kept", "").await;
            assert_eq!(kept.value("SELECT pg_backend_pid()").await, kept.value("SELECT pg_backend_pid()").await);
        }
    }
}
