//! `io_backend = "io_uring"`: the same conversations with few system calls, and without it where the kernel refuses.
//!
//! Any other test runs on it with `SIDEPOOL_TESTS_IO=io_uring`.

use std::path::Path;
use std::time::Duration;

use rustix::io::ioctl_fionread;
use sidepool_tests::load::{pgbench, pgbench_tables, redis_benchmark};
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::wire::{first_column, first_error};
use sidepool_tests::postgres::{Cluster, frame};
use sidepool_tests::process::Signal;
use sidepool_tests::redis::RedisServer;
use sidepool_tests::redis::wire::request;
use sidepool_tests::settings::Settings;
use sidepool_tests::{left_out, place, wait};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::task::JoinSet;

/// Whether it uses io_uring, as it was told; says so where the kernel does not allow it.
async fn is_on(pool: &Pooler) -> bool {
    let on = pool.scrape().await.sum("sidepool_io_backend", &[("backend", "io_uring")]) > 0.0;
    if !on {
        left_out("io_uring that this machine allows");
    }
    on
}

fn on_a_ring(settings: Settings) -> Settings {
    settings.set("io_backend", "io_uring")
}

/// The system calls of sidepool while `load` runs, start and end included. `None`: there is no io_uring.
async fn system_calls(settings: Settings, backend: &str, load: impl AsyncFn(&Pooler)) -> Option<f64> {
    let said = place::directory("calls").join("said");
    let place = said.display().to_string();
    // Detached, so that the process is ours to signal.
    let mut pool =
        Pooler::start_observed(settings.set("io_backend", backend).set("workers", 1), &["strace", "-D", "-f", "-c", "-o", &place]).await;
    if backend == "io_uring" && !is_on(&pool).await {
        return None;
    }
    load(&pool).await;
    pool.process().signal(Signal::TERM);
    pool.process_mut().ended().await;
    let total = |said: &Path| {
        let text = std::fs::read_to_string(said).ok()?;
        let line = text.lines().find(|line| line.ends_with(" total"))?.to_owned();
        line.split_whitespace().nth(3)?.parse::<f64>().ok()
    };
    Some(wait::until("the count", async || total(&said)).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_costs_few_system_calls() {
    let cluster = Cluster::start().await;
    pgbench_tables(cluster.port(), 1).await;
    let settings = || Settings::postgres(&cluster).set("postgres.default_pool_size", 20);
    let load = async |pool: &Pooler| {
        let run = pgbench(pool.postgres_port(), &["-n", "-S", "-c", "64", "-j", "1", "-t", "200"]).await;
        assert_eq!(run.transactions, 12_800);
    };
    let Some(ring) = system_calls(settings(), "io_uring", load).await else { return };
    let epoll = system_calls(settings(), "epoll", load).await.expect("a count");
    println!("system calls for each of 12,800 transactions of 64 clients: epoll {:.2}, io_uring {:.2}", epoll / 12_800.0, ring / 12_800.0);
    assert!(ring * 2.0 < epoll, "epoll {epoll}, io_uring {ring}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_request_costs_few_system_calls() {
    let server = RedisServer::start().await;
    let load = async |pool: &Pooler| {
        let lines = redis_benchmark(pool.redis_port(), &["-c", "50", "-n", "20000", "-t", "get"]).await;
        assert_eq!(lines.len(), 1, "{lines:?}");
    };
    let Some(ring) = system_calls(Settings::redis(&server), "io_uring", load).await else { return };
    let epoll = system_calls(Settings::redis(&server), "epoll", load).await.expect("a count");
    println!("system calls for each of 20,000 requests of 50 clients: epoll {:.2}, io_uring {:.2}", epoll / 20_000.0, ring / 20_000.0);
    assert!(ring * 2.0 < epoll, "epoll {epoll}, io_uring {ring}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_go_to_who_asked_for_them() {
    let cluster = Cluster::start().await;
    for workers in [1, 2] {
        let settings = Settings::postgres(&cluster).set("postgres.default_pool_size", 3).set("workers", workers);
        let pool = Pooler::start(on_a_ring(settings)).await;
        if !is_on(&pool).await {
            return;
        }
        let mut clients = JoinSet::new();
        for client in 0..40 {
            let mut wire = pool.wire().await;
            clients.spawn(async move {
                for round in 0..20 {
                    let token = format!("{client}-{round}");
                    match round % 4 {
                        0 => {
                            let messages = wire.query(&format!("SELECT '{token}' FROM pg_sleep(0.00{})", client % 4)).await;
                            assert_eq!(first_column(&messages), [token]);
                        }
                        1 => {
                            let parts = [frame::parse("", "SELECT $1::text"), frame::bind("", "", &[&token]), frame::execute("", 0)];
                            let messages = wire.ask(&[parts.concat(), frame::sync()].concat()).await;
                            assert_eq!(first_column(&messages), [token]);
                        }
                        2 => {
                            let error = first_error(&wire.query(&format!("SELECT \"{token}\"")).await).and_then(|error| error.field(b'M'));
                            assert_eq!(error, Some(format!("column \"{token}\" does not exist")));
                        }
                        // Much both ways: what goes past the ring's own buffers.
                        _ => {
                            let long = token.repeat(30_000);
                            assert!(wire.value(&format!("SELECT '{long}'")).await == long, "client {client}, round {round}");
                        }
                    }
                }
            });
        }
        while let Some(done) = clients.join_next().await {
            done.expect("every client got its own answers");
        }
        // One that was told goodbye is seen for a moment longer.
        wait::until("three connections at most", async || (cluster.connections().await <= 3).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_go_to_who_asked_for_them() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(on_a_ring(Settings::redis(&server))).await;
    if !is_on(&pool).await {
        return;
    }
    let mut clients = JoinSet::new();
    for client in 0..40 {
        let mut wire = pool.redis_wire().await;
        clients.spawn(async move {
            for round in 0..40_usize {
                let token = format!("{client}-{round}");
                let value = token.repeat(if round % 8 == 7 { 20_000 } else { 1 });
                let mut bytes = request(&["SET", &format!("key {client}"), &value]);
                bytes.extend(request(&["ECHO", &token]).repeat(16));
                bytes.extend(request(&["GET", &format!("key {client}")]));
                wire.send(&bytes).await;
                assert_eq!(wire.reply().await.text(), "OK");
                for _ in 0..16 {
                    assert_eq!(wire.reply().await.text(), token);
                }
                assert!(wire.reply().await.text() == value, "{token}");
            }
        });
    }
    while let Some(done) = clients.join_next().await {
        done.expect("every client got its own replies");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_moves_to_a_new_process_and_goes_on() {
    let cluster = Cluster::start().await;
    let socket = place::directory("upgrade").join("knock").display().to_string();
    let settings = on_a_ring(Settings::postgres(&cluster)).set("upgrade_socket", socket);
    let mut pool = Pooler::start(settings.clone()).await;
    if !is_on(&pool).await {
        return;
    }
    let mut wires = Vec::new();
    for at in 0..20 {
        let mut wire = pool.wire().await;
        wire.query(&format!("SET application_name = 'number {at}'")).await;
        wires.push(wire);
    }
    let successor = pool.successor(settings).await;
    assert!(pool.process_mut().ended().await.success());
    for (at, wire) in wires.iter_mut().enumerate() {
        assert_eq!(wire.value("SHOW application_name").await, format!("number {at}"));
    }
    assert!(is_on(&successor).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_only_the_ring_holds_does_not_go_with_the_process() {
    let server = RedisServer::start().await;
    let place = place::directory("door").join("redis.sock");
    let settings = on_a_ring(Settings::redis(&server)).set("workers", 1).set("redis.main.shared_connections", 1);
    let listen = vec![format!("127.0.0.1:{}", settings.redis_port()), format!("unix:{}", place.display())];
    let mut pool = Pooler::start(settings.set("redis.main.listen", listen)).await;
    if !is_on(&pool).await {
        return;
    }
    let mut slow = UnixStream::connect(&place).await.expect("a connection");
    let mut other = pool.redis_wire().await;
    let (question, reply) = (request(&["ECHO", &"x".repeat(1_000)]), format!("$1000\r\n{}\r\n", "x".repeat(1_000)));
    let mut promised = String::new();
    // Until the socket takes no more. What is missing then is less than the ring's buffer holds, and the session has nothing left of it.
    while ioctl_fionread(&slow).expect("a number") >= promised.len() as u64 {
        slow.write_all(&question).await.expect("it is read");
        promised.push_str(&reply);
        // These come behind it, and back through the same worker.
        for _ in 0..10 {
            assert_eq!(other.command(&["PING"]).await.text(), "PONG");
        }
    }
    pool.process().signal(Signal::TERM);
    assert!(other.read_patiently().await.is_none(), "who is owed nothing leaves at once");
    let end = tokio::time::timeout(Duration::from_millis(500), pool.process_mut().ended()).await;
    assert!(end.is_err(), "somebody is still to get the end of his reply: {end:?}");
    let mut got = String::new();
    slow.read_to_string(&mut got).await.expect("the end");
    assert!(got == promised, "{} of {} bytes", got.len(), promised.len());
    assert!(pool.process_mut().ended().await.success());
}

/// Starts where io_uring is refused like this, and is a pooler all the same.
async fn is_refused(call: &str, error: &str, because: &str) {
    let (cluster, server) = (Cluster::start().await, RedisServer::start().await);
    let settings = on_a_ring(Settings::postgres(&cluster).and_redis(&server)).set("workers", 2);
    let said = place::directory("refused").join("said").display().to_string();
    let (trace, inject) = (format!("trace={call}"), format!("inject={call}:error={error}"));
    let observer = ["strace", "-D", "-f", "-e", &trace, "-e", &inject, "-o", &said];
    let pool = Pooler::start_observed(settings, &observer).await;
    pool.process().log().line_with(because).await;
    let metrics = pool.scrape().await;
    assert_eq!(metrics.sum("sidepool_io_backend", &[("backend", "epoll")]), 1.0);
    assert_eq!(metrics.sum("sidepool_io_backend", &[("backend", "io_uring")]), 0.0);
    assert_eq!(pool.wire().await.value("SELECT 1").await, "1");
    assert_eq!(pool.redis_wire().await.command(&["PING"]).await.text(), "PONG");
    let warnings = pool.process().log().lines().iter().filter(|line| line.contains("epoll is used instead")).count();
    assert_eq!(warnings, 1, "it is said once");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_it_is_forbidden_epoll_is_used() {
    is_refused("io_uring_setup", "EPERM", "it is forbidden here").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_there_is_none_epoll_is_used() {
    is_refused("io_uring_setup", "ENOSYS", "the kernel does not have it").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_there_is_one_that_may_not_be_used_epoll_is_used() {
    is_refused("io_uring_enter", "EPERM", "it is forbidden here").await;
}
