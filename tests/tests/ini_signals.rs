//! Signals as PgBouncer takes them: reload with all that can be wrong, the three ways to end, pause and resume, and the log that is moved away.

use std::fs;
use std::time::Duration;

use sidepool_tests::conformance::proves;
use sidepool_tests::ini::{IniPooler, Program};
use sidepool_tests::postgres::cluster::{PASSWORD, USER};
use sidepool_tests::postgres::{Cluster, Wire, frame};
use sidepool_tests::process::Signal;
use sidepool_tests::wait;

fn ini(cluster: &Cluster, more: &str) -> String {
    format!(
        "[databases]\napp = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = LISTEN_PORT\n\
         unix_socket_dir =\nauth_type = trust\nauth_file = USERS_FILE\npool_mode = transaction\n{more}\n",
        cluster.port()
    )
}

fn users() -> String {
    format!("\"{USER}\" \"{PASSWORD}\"\n")
}

async fn start(cluster: &Cluster, more: &str) -> IniPooler {
    IniPooler::start(Program::Sidepool, &ini(cluster, more), &users()).await
}

async fn client(pool: &IniPooler) -> Wire {
    Wire::login(pool.port(), "app", "app", "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn hangup_reads_the_file_again_and_a_bad_file_changes_nothing() {
    let _proof = proves(&["signal SIGHUP"]);
    let cluster = Cluster::start().await;
    let pool = start(&cluster, "").await;
    let mut wire = client(&pool).await;
    assert_eq!(wire.value("SELECT 1").await, "1");
    let log = pool.process().log();

    let more = format!("[databases]\nmore = host=127.0.0.1 port={} dbname=app\n", cluster.port());
    let from = log.len();
    pool.rewrite(&ini(&cluster, &more));
    pool.process().signal(Signal::HUP);
    log.line_with_after(from, "LOG got SIGHUP, re-reading config").await;
    log.line_with_after(from, "configuration reloaded").await;
    // The workers hear of it a moment later.
    let login = [("user", "app"), ("database", "more")];
    let mut other = wait::until("the new database", async || Wire::try_login(pool.port(), &login, "").await.ok()).await;
    assert_eq!(other.value("SELECT 2").await, "2");

    let from = log.len();
    pool.rewrite(&ini(&cluster, "pool_mode = wrong\n[databases]\nless = host=127.0.0.1\n"));
    pool.process().signal(Signal::HUP);
    log.line_with_after(from, "ERROR invalid value \"wrong\" for parameter pool_mode in configuration (").await;
    log.line_with_after(from, "WARNING config file loading failed").await;
    assert_eq!(other.value("SELECT 3").await, "3", "nothing of a broken file is in force");
    assert_eq!(wire.value("SELECT 4").await, "4");

    let from = log.len();
    pool.rewrite(&ini(&cluster, &format!("listen_backlog = 99\n{more}")));
    pool.process().signal(Signal::HUP);
    let held = log.line_with_after(from, "need a restart").await;
    assert!(held.contains("keys=listen_backlog"), "{held}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_file_is_opened_again() {
    let cluster = Cluster::start().await;
    let pool = start(&cluster, "logfile = SOCKET_DIRECTORY/log\n").await;
    let (log, moved) = (pool.directory().join("log"), pool.directory().join("log.1"));
    wait::until("the log", async || fs::read_to_string(&log).is_ok_and(|text| text.contains("process up")).then_some(())).await;
    fs::rename(&log, &moved).unwrap();
    wait::until("a new log", async || {
        pool.process().signal(Signal::HUP);
        tokio::time::sleep(Duration::from_millis(50)).await;
        fs::read_to_string(&log).is_ok_and(|text| text.contains("got SIGHUP")).then_some(())
    })
    .await;
    assert!(fs::read_to_string(&moved).unwrap().contains("process up"));
}

#[tokio::test(flavor = "multi_thread")]
async fn terminate_waits_for_clients_and_the_second_one_does_not() {
    let _proof = proves(&["signal SIGTERM"]);
    let cluster = Cluster::start().await;
    let mut pool = start(&cluster, "").await;
    let mut wire = client(&pool).await;
    wire.query("SELECT 1").await;
    pool.process().signal(Signal::TERM);
    pool.process().log().line_with("LOG got SIGTERM, shutting down, waiting for all clients disconnect").await;
    assert_eq!(wire.value("SELECT 2").await, "2", "it is served until it leaves");
    drop(wire);
    assert!(pool.process_mut().ended().await.success());

    let mut pool = start(&cluster, "").await;
    let mut wire = client(&pool).await;
    wire.query("SELECT 1").await;
    pool.process().signal(Signal::TERM);
    pool.process().log().line_with("got SIGTERM, shutting down").await;
    pool.process().signal(Signal::TERM);
    pool.process().log().line_with("got SIGTERM while shutting down, fast exit").await;
    assert!(pool.process_mut().ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupt_waits_for_servers() {
    let _proof = proves(&["signal SIGINT"]);
    let cluster = Cluster::start().await;
    let mut pool = start(&cluster, "").await;
    let (mut busy, mut idle) = (client(&pool).await, client(&pool).await);
    idle.query("SELECT 1").await;
    busy.query("BEGIN").await;
    pool.process().signal(Signal::INT);
    pool.process().log().line_with("LOG got SIGINT, shutting down, waiting for all servers connections to be released").await;
    assert_eq!(busy.value("SELECT 2").await, "2");
    assert!(pool.process_mut().poll_end().is_none());
    busy.query("COMMIT").await;
    assert!(pool.process_mut().ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn quit_ends_at_once() {
    let _proof = proves(&["signal SIGQUIT"]);
    let cluster = Cluster::start().await;
    let mut pool = start(&cluster, "").await;
    let mut wire = client(&pool).await;
    wire.query("BEGIN").await;
    pool.process().signal(Signal::QUIT);
    pool.process().log().line_with("LOG got SIGQUIT, fast exit").await;
    assert!(pool.process_mut().ended().await.success());
    wire.until_closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn user_signals_pause_and_resume() {
    let _proof = proves(&["signal SIGUSR1", "signal SIGUSR2"]);
    let cluster = Cluster::start().await;
    let pool = start(&cluster, "").await;
    let mut wire = client(&pool).await;
    assert_eq!(wire.value("SELECT 1").await, "1");
    let log = pool.process().log();
    pool.process().signal(Signal::USR2);
    log.line_with("LOG got SIGUSR2, but not paused/suspended").await;
    pool.process().signal(Signal::USR1);
    log.line_with("LOG got SIGUSR1, pausing all activity").await;
    let from = log.len();
    pool.process().signal(Signal::USR1);
    log.line_with_after(from, "LOG got SIGUSR1, but already paused/suspended").await;
    wait::until("the servers to be closed", async || (cluster.connections().await == 0).then_some(())).await;
    wire.send(&frame::query("SELECT 2")).await;
    assert!(wire.is_silent().await, "it waits");
    pool.process().signal(Signal::USR2);
    log.line_with("LOG got SIGUSR2, continuing from PAUSE").await;
    wait::soon("the answer", wire.until_ready()).await;
}
