//! How many server connections a database and a user may have over all their pools: never more, idle ones make room, busy pools share.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sidepool_tests::conformance::proves;
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::cluster::{PASSWORD, USER};
use sidepool_tests::postgres::wire::{first_column, first_error};
use sidepool_tests::postgres::{Cluster, Wire, frame, tags};
use sidepool_tests::scrape::Scrape;
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;
use tokio::task::JoinSet;

const SECOND: &str = "second-secret";

fn settings(cluster: &Cluster) -> Settings {
    Settings::postgres(cluster).database("other", cluster).set("postgres.users.second.password", SECOND)
}

/// Waits until the server has so many connections: one that was told goodbye is seen for a moment longer.
async fn connections(cluster: &Cluster, count: i64, what: &str) {
    wait::until(what, async || (cluster.connections().await == count).then_some(())).await;
}

async fn login(pool: &Pooler, user: &str, database: &str) -> Wire {
    Wire::login(pool.postgres_port(), user, database, if user == "app" { PASSWORD } else { SECOND }).await
}

/// Opens so many connections of a user in a database, and leaves them idle.
async fn warm(pool: &Pooler, user: &str, database: &str, count: usize) -> Vec<Wire> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut wire = login(pool, user, database).await;
        assert_eq!(tags(&wire.query("BEGIN").await), "CZ");
        clients.push(wire);
    }
    for wire in &mut clients {
        wire.query("COMMIT").await;
    }
    clients
}

#[tokio::test(flavor = "multi_thread")]
async fn a_databases_idle_connections_make_room_for_another_user() {
    let _proof = proves(&["setting max_db_connections", "setting [databases] max_db_connections"]);
    let cluster = Cluster::start().await;
    for workers in [1, 2] {
        let settings = settings(&cluster).set("workers", workers).set("postgres.databases.app.max_db_connections", 2);
        let pool = Pooler::start(settings).await;
        let mut clients = warm(&pool, "app", "app", 2).await;
        let mut other = login(&pool, "second", "app").await;
        assert_eq!(other.value("SELECT current_user").await, "second");
        connections(&cluster, 2, "one to have made room").await;
        assert_eq!(clients[0].value("SELECT 'the other one is left'").await, "the other one is left");
        let evicted = |now: &Scrape| now.sum("sidepool_server_closes_total", &[("reason", "evicted")]) >= 1.0;
        pool.metrics_show("evictions to be counted", evicted).await;
        // Another database has its own limit.
        assert_eq!(login(&pool, "app", "other").await.value("SELECT 1").await, "1");
        connections(&cluster, 3, "one of another database").await;
        drop(pool);
        connections(&cluster, 0, "the connections to be closed").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connection_that_has_been_idle_for_longest_makes_room_on_whichever_worker_it_is() {
    const PID: &str = "SELECT pg_backend_pid()";
    let cluster = Cluster::start().await;
    cluster.sql(&format!("CREATE ROLE third LOGIN PASSWORD '{SECOND}'")).await;
    // With two workers, clients come in here and there in turn: the third finds the other's connection first, or its own worker's.
    for (workers, between) in [(1, 0), (2, 0), (2, 1)] {
        let settings = settings(&cluster).set("workers", workers).set("postgres.databases.app.max_db_connections", 2);
        let pool = Pooler::start(settings.set("postgres.users.third.password", SECOND)).await;
        let idle = async |count: f64| {
            let are_idle = move |now: &Scrape| {
                let (all, idle) = ("sidepool_pool_server_connections", [("state", "idle")]);
                now.sum(all, &[]) > count - 0.5 && (now.sum(all, &idle) - count).abs() < 0.5
            };
            pool.metrics_show("the connections to be idle", are_idle).await;
        };
        let mut first = login(&pool, "app", "app").await;
        let oldest: i32 = first.value(PID).await.parse().expect("a number");
        // Its query is answered before the connection is given back.
        idle(1.0).await;
        let mut second = login(&pool, "second", "app").await;
        let newer = second.value(PID).await;
        idle(2.0).await;
        let mut others = Vec::new();
        for _ in 0..between {
            others.push(Wire::connect(pool.postgres_port()).await);
        }
        let mut third = login(&pool, "third", "app").await;
        third.value(PID).await;
        // The room is free as soon as the connection is closed, which is before its process has ended.
        wait::until("the oldest to be gone", async || (!cluster.pids().await.contains(&oldest)).then_some(())).await;
        assert_eq!(second.value(PID).await, newer, "{workers} workers: the newer one stays");
        drop(pool);
        connections(&cluster, 0, "the connections to be closed").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_idle_connections_make_room_in_another_database() {
    let _proof = proves(&["setting max_user_connections", "setting [users] max_user_connections"]);
    let cluster = Cluster::start().await;
    let settings = settings(&cluster).set("postgres.max_user_connections", 2).set("postgres.users.second.max_user_connections", 1);
    let pool = Pooler::start(settings).await;
    let _idle = warm(&pool, "app", "app", 2).await;
    assert_eq!(login(&pool, "app", "other").await.value("SELECT current_database()").await, "other");
    connections(&cluster, 2, "one to have made room").await;
    let mut own = login(&pool, "second", "app").await;
    own.query("BEGIN").await;
    let mut waits = login_later(&pool, "second", "other").await;
    assert!(waits.is_silent().await, "the user's own limit counts");
    own.query("COMMIT").await;
    let welcome = waits.until_ready().await;
    assert_eq!(welcome.last().map(|last| last.tag), Some(b'Z'));
    assert_eq!(waits.value("SELECT current_database()").await, "other");
    connections(&cluster, 3, "one of each").await;
}

/// Starts a login that will have to wait for the first connection of its pool.
async fn login_later(pool: &Pooler, user: &str, database: &str) -> Wire {
    let mut wire = Wire::connect(pool.postgres_port()).await;
    wire.send(&frame::startup(&[("user", user), ("database", database)])).await;
    wire
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_waits_gets_its_turn_although_the_other_is_never_idle() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(settings(&cluster).set("postgres.databases.app.max_db_connections", 1)).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(login(&pool, "app", "app").await);
    }
    // Each asks again as soon as it is answered: the connection is never idle.
    let port = pool.postgres_port();
    let over = Arc::new(AtomicBool::new(false));
    let busy: Vec<_> = clients
        .into_iter()
        .map(|mut wire| {
            let over = Arc::clone(&over);
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    assert_eq!(tags(&wire.query("SELECT pg_sleep(0.002)").await), "TDCZ", "nobody is refused");
                }
            })
        })
        .collect();
    let mut other = Wire::login(port, "second", "app", SECOND).await;
    assert_eq!(other.value("SELECT current_user").await, "second");
    over.store(true, Ordering::Relaxed);
    for client in busy {
        wait::soon("the busy clients to end", client).await.expect("they were served");
    }
    wait::until("one connection at most", async || (cluster.connections().await <= 1).then_some(())).await;
}

/// The ports of the ends that are open here of connections to this port. A server's own list shows for a while what was closed.
fn open_to(port: u16) -> BTreeSet<String> {
    let sockets = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
    let open = format!("0100007F:{port:04X}");
    let fields = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields.filter(|fields| fields[2] == open && fields[3] == "01").map(|fields| fields[1].to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_holds_under_load_on_two_workers_and_nobody_is_forgotten() {
    let cluster = Cluster::start().await;
    let settings = settings(&cluster).set("workers", 2).set("postgres.databases.app.max_db_connections", 3);
    let pool = Pooler::start(settings.set("postgres.query_wait_timeout", "60s")).await;
    let mut clients = JoinSet::new();
    for number in 0..16 {
        let (user, port) = (if number % 2 == 0 { "app" } else { "second" }, pool.postgres_port());
        clients.spawn(async move {
            let mut wire = Wire::login(port, user, "app", if user == "app" { PASSWORD } else { SECOND }).await;
            for _ in 0..30 {
                assert_eq!(wire.value("SELECT current_user").await, user);
                tokio::task::yield_now().await;
            }
        });
    }
    let (mut before, mut most) = (BTreeSet::new(), 0);
    while !clients.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
        // What is there at two looks was there all the time in between: those were open together.
        let now = open_to(cluster.port());
        most = most.max(before.intersection(&now).count());
        before = now;
        while let Some(ended) = clients.try_join_next() {
            ended.expect("each client is served");
        }
    }
    assert!((1..=3).contains(&most), "{most} connections at a time");
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_connects_give_their_right_back_and_reloads_change_the_limit() {
    let cluster = Cluster::start().await;
    cluster.sql("ALTER ROLE second CONNECTION LIMIT 0").await;
    let settings = settings(&cluster).set("postgres.max_db_connections", 1);
    let short = settings.clone().set("postgres.query_wait_timeout", "300ms");
    let mut pool = Pooler::start(short.clone()).await;
    for _ in 0..3 {
        let refused = Wire::try_login(pool.postgres_port(), &[("user", "second"), ("database", "app")], SECOND).await;
        assert!(refused.is_err(), "the server refuses that user");
    }
    // Who is to be served has all the time that it takes.
    pool.reload(settings.clone()).await;
    let (mut holder, mut waiter) = (login(&pool, "app", "app").await, login(&pool, "app", "app").await);
    assert_eq!(tags(&holder.query("BEGIN").await), "CZ", "what failed takes no place");
    pool.reload(short).await;
    let answer = waiter.query("SELECT 1").await;
    assert_eq!(first_error(&answer).and_then(|error| error.field(b'M')).as_deref(), Some("query_wait_timeout"));
    pool.reload(settings.set("postgres.max_db_connections", 2)).await;
    assert_eq!(first_column(&waiter.query("SELECT 'room'").await), ["room"]);
    holder.query("COMMIT").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_room_is_used_with_what_it_lets_in_and_not_hammered() {
    let cluster = Cluster::start().await;
    let admin = cluster.superuser("app").await;
    let limit = async |limit: i32| admin.batch_execute(&format!("ALTER ROLE {USER} CONNECTION LIMIT {limit}")).await.expect("an owner");
    limit(3).await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.default_pool_size", 10)).await;
    let mut clients = JoinSet::new();
    for _ in 0..20 {
        let mut client = pool.wire().await;
        clients.spawn(async move {
            for _ in 0..15 {
                assert_eq!(client.value("SELECT pg_sleep(0.01)").await, "", "everybody is served");
            }
            client
        });
    }
    let room = |now: &Scrape| now.sum("sidepool_pool_server_connections_room", &[]);
    pool.metrics_show("a pool that is as large as the server allows", |now| room(now) < 3.5).await;
    let mut clients = clients.join_all().await;
    let refused = pool.scrape().await.sum("sidepool_server_connects_total", &[("result", "too_many")]);
    assert!((1.0..20.0).contains(&refused), "{refused} connects were tried in vain");
    // With room for all again, the pool grows to what is asked for.
    limit(-1).await;
    let mut crowd = JoinSet::new();
    for mut client in clients.drain(..) {
        crowd.spawn(async move {
            for _ in 0..400 {
                client.value("SELECT pg_sleep(0.01)").await;
            }
        });
    }
    pool.metrics_show("a pool of its full size", |now| room(now) > 9.5).await;
    crowd.abort_all();
}
