//! What the admin console does: pausing, closing and replacing under load, with a real server and real clients, and that nobody is hurt who was
//! not meant.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sidepool_tests::conformance::proves;
use sidepool_tests::console::{number, of, rows, rows_of_all, value};
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::cancel::send_cancel;
use sidepool_tests::postgres::wire::first_error;
use sidepool_tests::postgres::{Cluster, Wire, frame, tags};
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;
use tokio::task::JoinSet;

fn settings(cluster: &Cluster) -> Settings {
    Settings::postgres(cluster).set("postgres.admin_users", vec!["app".to_owned()]).set("postgres.query_wait_timeout", "60s")
}

async fn console(pool: &Pooler) -> Wire {
    Wire::login(pool.postgres_port(), "app", "pgbouncer", "").await
}

/// Runs a command that has no rows; the answer is its tag.
async fn run(console: &mut Wire, command: &str) -> String {
    let answer = console.query(command).await;
    match first_error(&answer) {
        Some(error) => panic!("{command}: {:?}", error.field(b'M')),
        None => answer[0].text(),
    }
}

async fn refused(console: &mut Wire, command: &str) -> String {
    let answer = console.query(command).await;
    first_error(&answer).unwrap_or_else(|| panic!("{command}: {}", tags(&answer))).field(b'M').expect("a message")
}

/// Short transactions of many clients, each of which must work, until `work` is done, however long that takes.
async fn under_load<T>(pool: &Pooler, work: impl Future<Output = T>) -> T {
    let (over, mut load) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
    for _ in 0..8 {
        let (client, over) = (pool.client().await, Arc::clone(&over));
        load.spawn(async move {
            while !over.load(Ordering::Relaxed) {
                for sql in ["SELECT 1", "BEGIN", "SELECT 2", "SELECT 3", "COMMIT"] {
                    wait::soon(sql, client.simple_query(sql)).await.expect(sql);
                }
            }
        });
    }
    let before = pool.scrape().await.sum("sidepool_transactions_total", &[]);
    pool.metrics_show("the load", |now| now.sum("sidepool_transactions_total", &[]) > before + 50.0).await;
    let done = work.await;
    over.store(true, Ordering::Relaxed);
    load.join_all().await;
    done
}

/// Waits until the console shows that it is paused: all, or this database.
async fn is_paused(console: &mut Wire, database: Option<&str>) {
    wait::until("the pause", async || {
        let paused = match database {
            Some(database) => number(of(&rows(console, "SHOW DATABASES").await, "name", database), "paused") == 1,
            None => value(of(&rows(console, "SHOW STATE").await, "key", "paused"), "value") == "yes",
        };
        paused.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_waits_for_the_servers_and_resume_lets_everybody_go_on() {
    let _proof = proves(&["command PAUSE", "command PAUSE db", "command RESUME", "command RESUME db"]);
    let cluster = Cluster::start().await;
    let pool = Pooler::start(settings(&cluster)).await;
    let mut admin = console(&pool).await;
    under_load(&pool, async {
        for pause in ["PAUSE", "PAUSE app"] {
            assert_eq!(run(&mut admin, pause).await, "PAUSE");
            // The server's processes end a moment after their connections.
            wait::until(pause, async || (cluster.connections().await == 0).then_some(())).await;
            let state = rows(&mut admin, "SHOW STATE").await;
            assert_eq!(value(of(&state, "key", "paused"), "value"), if pause == "PAUSE" { "yes" } else { "no" });
            let databases = rows(&mut admin, "SHOW DATABASES").await;
            assert_eq!(number(of(&databases, "name", "app"), "paused"), u64::from(pause != "PAUSE"));
            wait::until("clients to wait", async || {
                let pools = rows(&mut admin, "SHOW POOLS").await;
                let app = of(&pools, "database", "app");
                (number(app, "cl_waiting") == 8 && number(app, "sv_active") == 0).then_some(())
            })
            .await;
            if pause == "PAUSE" {
                assert_eq!(refused(&mut admin, "PAUSE").await, "already suspended/paused");
                assert_eq!(refused(&mut admin, "KILL").await, "already suspended/paused");
            }
            assert_eq!(run(&mut admin, &pause.replace("PAUSE", "RESUME")).await, "RESUME");
        }
    })
    .await;
    assert_eq!(refused(&mut admin, "RESUME").await, "pooler is not paused/suspended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_that_waits_ends_by_a_cancel_and_by_a_resume() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(settings(&cluster)).await;
    let mut holder = pool.wire().await;
    holder.query("BEGIN").await;
    let (mut admin, mut other) = (console(&pool).await, console(&pool).await);
    for pause in ["PAUSE", "PAUSE app"] {
        admin.send(&frame::query(pause)).await;
        is_paused(&mut other, pause.strip_prefix("PAUSE ")).await;
        // It hits as soon as the pause is seen, whether or not it is waited for yet.
        let (process, key) = admin.cancel_key.clone().expect("a key");
        send_cancel(pool.postgres_port(), process, &key).await;
        let answer = admin.until_ready().await;
        assert_eq!((tags(&answer).as_str(), answer[0].field(b'C').unwrap().as_str()), ("EZ", "57014"));
        assert_eq!(holder.value("SELECT 1").await, "1");
        let mut client = pool.wire().await;
        assert_eq!(client.value("SELECT 2").await, "2", "nothing is paused any more");
    }
    admin.send(&frame::query("PAUSE")).await;
    is_paused(&mut other, None).await;
    assert!(admin.is_silent().await, "the transaction is open");
    assert_eq!(run(&mut other, "RESUME").await, "RESUME");
    assert_eq!(tags(&admin.until_ready().await), "EZ");
    admin.send(&frame::query("PAUSE")).await;
    assert!(admin.is_silent().await);
    holder.query("COMMIT").await;
    assert_eq!(tags(&admin.until_ready().await), "CZ", "done when the transaction is");
}

#[tokio::test(flavor = "multi_thread")]
async fn reconnect_replaces_all_servers_without_an_error() {
    let _proof = proves(&["command RECONNECT", "command RECONNECT db", "command WAIT_CLOSE", "command WAIT_CLOSE db"]);
    let cluster = Cluster::start().await;
    let pool = Pooler::start(settings(&cluster)).await;
    let mut admin = console(&pool).await;
    let mut holder = pool.wire().await;
    holder.query("BEGIN").await;
    let before = holder.value("SELECT pg_backend_pid()").await;
    assert_eq!(run(&mut admin, "RECONNECT").await, "RECONNECT");
    let servers = rows(&mut admin, "SHOW SERVERS").await;
    assert_eq!(number(of(&servers, "remote_pid", &before), "close_needed"), 1);
    let mut waiting = console(&pool).await;
    waiting.send(&frame::query("WAIT_CLOSE app")).await;
    assert!(waiting.is_silent().await, "the old connection is in use");
    holder.query("COMMIT").await;
    let answer = waiting.until_ready().await;
    assert_eq!((tags(&answer).as_str(), answer[0].text().as_str()), ("CZ", "WAIT_CLOSE"));
    assert_ne!(holder.value("SELECT pg_backend_pid()").await, before);
    assert_eq!(run(&mut admin, "WAIT_CLOSE").await, "WAIT_CLOSE");
    under_load(&pool, async {
        for which in ["RECONNECT", "RECONNECT app"] {
            let pids = cluster.pids().await;
            assert_eq!(run(&mut admin, which).await, "RECONNECT");
            assert_eq!(run(&mut admin, "WAIT_CLOSE").await, "WAIT_CLOSE");
            wait::until("other server processes", async || {
                let now = cluster.pids().await;
                pids.iter().all(|pid| !now.contains(pid)).then_some(())
            })
            .await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_closes_the_clients_of_a_database_and_pauses_it() {
    let _proof = proves(&["command KILL", "command KILL db", "message database removed"]);
    let cluster = Cluster::start().await;
    let pool = Pooler::start(settings(&cluster).database("postgres", &cluster)).await;
    let (mut idle, mut busy) = (pool.wire().await, pool.wire().await);
    idle.value("SELECT 1").await;
    busy.query("BEGIN").await;
    let mut other = Wire::login(pool.postgres_port(), "app", "postgres", "").await;
    other.value("SELECT 1").await;
    let mut admin = console(&pool).await;
    assert_eq!(refused(&mut admin, "KILL dne").await, "no such database: dne");
    assert_eq!(run(&mut admin, "KILL app").await, "KILL");
    assert_eq!(rows(&mut admin, "SHOW CLIENTS").await.len(), 2, "the other one and ourselves");
    for victim in [&mut idle, &mut busy] {
        let last = victim.until_closed().await;
        let words = ["S", "C", "M"].map(|field| last[0].field(field.as_bytes()[0]).unwrap());
        assert_eq!(words, ["FATAL", "08P01", "database removed"]);
    }
    assert_eq!(other.value("SELECT 2").await, "2");
    let mut late = pool.wire().await;
    late.send(&frame::query("SELECT 3")).await;
    assert!(late.is_silent().await, "the database is paused");
    assert_eq!(run(&mut admin, "RESUME app").await, "RESUME");
    assert_eq!(tags(&late.until_ready().await), "TDCZ");
    assert_eq!(run(&mut admin, "KILL").await, "KILL");
    assert_eq!(rows(&mut admin, "SHOW CLIENTS").await.len(), 1);
    assert_eq!(other.until_closed().await[0].field(b'M').unwrap(), "database removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_client_closes_one() {
    let _proof = proves(&["command KILL_CLIENT id", "message admin forced disconnect"]);
    let cluster = Cluster::start().await;
    let pool = Pooler::start(settings(&cluster)).await;
    let mut admin = console(&pool).await;
    let parameters = |name| [("user", "app"), ("database", "app"), ("application_name", name)];
    let mut victim = Wire::try_login(pool.postgres_port(), &parameters("victim"), "").await.expect("a client");
    let mut other = Wire::try_login(pool.postgres_port(), &parameters("other"), "").await.expect("a client");
    let id = number(of(&rows(&mut admin, "SHOW CLIENTS").await, "application_name", "victim"), "id");
    assert_eq!(run(&mut admin, &format!("KILL_CLIENT {id}")).await, "KILL_CLIENT");
    assert_eq!(victim.until_closed().await[0].field(b'M').unwrap(), "admin forced disconnect");
    assert_eq!(other.value("SELECT 1").await, "1");
    assert_eq!(refused(&mut admin, &format!("KILL_CLIENT {id}")).await, "client not found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_database_lets_nobody_in_and_nobody_out() {
    let _proof = proves(&["command DISABLE db", "command ENABLE db", "message database \"X\" is disabled"]);
    let cluster = Cluster::start().await;
    let pool = Pooler::start(settings(&cluster)).await;
    let mut inside = pool.wire().await;
    let mut admin = console(&pool).await;
    assert_eq!(run(&mut admin, "DISABLE app").await, "DISABLE");
    assert_eq!(number(of(&rows(&mut admin, "SHOW DATABASES").await, "name", "app"), "disabled"), 1);
    let parameters = [("user", "app"), ("database", "app")];
    let refused = Wire::try_login(pool.postgres_port(), &parameters, "").await.err().expect("disabled");
    assert_eq!((refused.field(b'S').unwrap(), refused.field(b'M').unwrap()), ("FATAL".into(), "database \"app\" is disabled".into()));
    assert_eq!(inside.value("SELECT 1").await, "1");
    assert_eq!(run(&mut admin, "ENABLE app").await, "ENABLE");
    pool.wire().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_says_whether_the_file_is_in_force() {
    let _proof = proves(&["command RELOAD", "command SET key = value"]);
    let cluster = Cluster::start().await;
    let mut pool = Pooler::start(settings(&cluster)).await;
    let mut admin = console(&pool).await;
    let old = pool.settings().clone();
    pool.write(old.clone().set("postgres.default_pool_size", 2));
    assert_eq!(run(&mut admin, "RELOAD").await, "RELOAD");
    let databases = rows(&mut admin, "SHOW DATABASES").await;
    assert_eq!(number(of(&databases, "name", "app"), "pool_size"), 2);
    pool.write(old.clone().set("postgres.default_pool_size", "many"));
    let answer = admin.query("RELOAD").await;
    let error = first_error(&answer).expect("a broken file");
    let words = (error.field(b'C').unwrap(), error.field(b'M').unwrap());
    assert_eq!(words, ("F0000".into(), "RELOAD failed, see logs for additional details".into()));
    assert_eq!(number(of(&rows(&mut admin, "SHOW DATABASES").await, "name", "app"), "pool_size"), 2, "the old one holds");
    pool.write(old);
    assert_eq!(run(&mut admin, "SET default_pool_size = 3").await, "SET default_pool_size=3");
    assert_eq!(number(of(&rows(&mut admin, "SHOW DATABASES").await, "name", "app"), "pool_size"), 3);
    assert_eq!(value(of(&rows(&mut admin, "SHOW CONFIG").await, "key", "default_pool_size"), "value"), "3");
    assert_eq!(refused(&mut admin, "SET default_pool_size = many").await, "SET failed");
    assert_eq!(run(&mut admin, "RELOAD").await, "RELOAD");
    assert_eq!(number(of(&rows(&mut admin, "SHOW DATABASES").await, "name", "app"), "pool_size"), 5, "the file counts again");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_console_has_room_when_nobody_else_has() {
    let _proof = proves(&["message no more connections allowed (max_client_conn)"]);
    let cluster = Cluster::start().await;
    let pool = Pooler::start(settings(&cluster).set("postgres.max_client_conn", 2)).await;
    let (_one, _two) = (pool.wire().await, pool.wire().await);
    let parameters = [("user", "app"), ("database", "app")];
    let refused = Wire::try_login(pool.postgres_port(), &parameters, "").await.err().expect("one too many");
    assert_eq!(refused.field(b'M').unwrap(), "no more connections allowed (max_client_conn)");
    let mut admin = console(&pool).await;
    assert_eq!(rows(&mut admin, "SHOW CLIENTS").await.len(), 3);
    assert_eq!(run(&mut admin, "KILL app").await, "KILL");
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_at_once_cuts_and_shutdown_for_clients_waits() {
    let _proof = proves(&["command SHUTDOWN", "command SHUTDOWN WAIT_FOR_CLIENTS"]);
    let cluster = Cluster::start().await;
    let mut pool = Pooler::start(settings(&cluster)).await;
    let (mut client, mut admin) = (pool.wire().await, console(&pool).await);
    assert_eq!(run(&mut admin, "SHUTDOWN WAIT_FOR_CLIENTS").await, "SHUTDOWN");
    assert_eq!(client.value("SELECT 1").await, "1");
    assert_eq!(refused(&mut admin, "RESUME").await, "pooler is shutting down");
    client.send(&frame::terminate()).await;
    admin.send(&frame::terminate()).await;
    assert!(pool.process_mut().ended().await.success());

    let mut pool = Pooler::start(settings(&cluster).set("drain.timeout", "5m")).await;
    let (mut client, mut admin) = (pool.wire().await, console(&pool).await);
    client.query("BEGIN").await;
    admin.send(&frame::query("SHUTDOWN")).await;
    assert!(admin.until_closed().await.is_empty(), "no answer but the end");
    pool.process_mut().ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_for_servers_lets_transactions_end_and_nobody_begin_one() {
    let _proof = proves(&["command SHUTDOWN WAIT_FOR_SERVERS", "message server shutting down"]);
    let cluster = Cluster::start().await;
    let mut pool = Pooler::start(settings(&cluster)).await;
    let (mut busy, mut idle, mut admin) = (pool.wire().await, pool.wire().await, console(&pool).await);
    busy.query("BEGIN").await;
    idle.query("SELECT 1").await;
    assert_eq!(run(&mut admin, "SHUTDOWN WAIT_FOR_SERVERS").await, "SHUTDOWN");
    idle.send(&frame::query("SELECT 2")).await;
    assert_eq!(first_error(&idle.until_closed().await).and_then(|error| error.field(b'M')).as_deref(), Some("server shutting down"));
    assert_eq!(busy.value("SELECT 'unharmed'").await, "unharmed");
    assert!(pool.process_mut().poll_end().is_none());
    busy.query("COMMIT").await;
    assert!(pool.process_mut().ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_are_one_console() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(settings(&cluster).set("workers", 2).set("postgres.default_pool_size", 4)).await;
    let mut admin = console(&pool).await;
    let mut clients = Vec::new();
    for _ in 0..6 {
        let mut client = pool.wire().await;
        client.value("SELECT 1").await;
        clients.push(client);
    }
    assert_eq!(rows_of_all(&mut admin, "SHOW CLIENTS").await.len(), 7);
    let pools = rows_of_all(&mut admin, "SHOW POOLS").await;
    assert_eq!(number(of(&pools, "database", "app"), "cl_active"), 6);
    let totals = rows_of_all(&mut admin, "SHOW STATS_TOTALS").await;
    assert_eq!(number(of(&totals, "database", "app"), "query_count"), 6);
    under_load(&pool, async {
        for _ in 0..3 {
            assert_eq!(run(&mut admin, "PAUSE").await, "PAUSE");
            assert_eq!(run(&mut admin, "RESUME").await, "RESUME");
            assert_eq!(run(&mut admin, "RECONNECT").await, "RECONNECT");
        }
    })
    .await;
    assert_eq!(run(&mut admin, "KILL").await, "KILL");
    assert_eq!(rows(&mut admin, "SHOW CLIENTS").await.len(), 1);
}
