//! What the log says of clients that come and go, of an upstream that does, and how it behaves in a storm; it names no secret.

use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::Value;
use sidepool_tests::binary::{self, Build};
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::cancel::runs;
use sidepool_tests::postgres::cluster::{PASSWORD, USER};
use sidepool_tests::postgres::{Cluster, Wire, frame};
use sidepool_tests::scrape::{self, Scrape};
use sidepool_tests::settings::Settings;
use sidepool_tests::{place, wait};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_logged_when_that_is_wanted() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("log.connections", true)).await;
    pool.wire().await.query("SELECT 1").await;
    let came = pool.process().log().line_with("client connected").await;
    assert!(came.contains("peer=127.0.0.1:") && came.contains("pool=") && came.contains("client="), "{came}");
    let gone = pool.process().log().line_with("client disconnected").await;
    assert!(gone.contains("client=") && gone.contains("reason="), "{gone}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_gone_and_back_is_logged_with_the_cause() {
    let mut cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.query_wait_timeout", "60s")).await;
    let mut wire = pool.wire().await;
    wire.query("SELECT 1").await;
    cluster.stop();
    wire.send(&frame::query("SELECT 'served'")).await;
    let line = pool.process().log().line_with("cannot open an upstream connection").await;
    assert!(line.contains("WARN") && line.contains("pool=") && line.contains("kind="), "{line}");
    cluster.launch().await;
    pool.process().log().line_with("takes connections again").await;
    wait::until("service", async || {
        let mut wire = pool.wire().await;
        (wire.value("SELECT 'back'").await == "back").then_some(())
    })
    .await;
    assert!(pool.process().log().lines().iter().all(|line| !line.contains(PASSWORD)), "a secret in the log");
}

/// What each line of the log says, which is JSON.
fn parsed(pool: &Pooler) -> Vec<Value> {
    pool.process().log().lines().iter().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_for_machines_have_the_same_keys_and_reasons_of_a_closed_list() {
    let mut cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster).set("log.format", "json").set("log.connections", true);
    let mut pool = Pooler::start(settings.clone()).await;
    let log = pool.process().log().clone();
    pool.wire().await.send(&frame::terminate()).await;
    log.line_with("client_close").await;
    drop(pool.wire().await);
    log.line_with("client_eof").await;
    pool.wire().await.send(b"?\0\0\0\x04").await;
    log.line_with("protocol_violation").await;
    assert!(Wire::try_login(pool.postgres_port(), &[("user", "no\"body\n"), ("database", "nowhere")], PASSWORD).await.is_err());
    log.line_with("login refused").await;
    let mut wire = pool.wire().await;
    wire.send(&frame::query("SELECT pg_sleep(60)")).await;
    runs(&cluster, "pg_sleep(60)").await;
    // Only now, when nobody else may be idle for a moment.
    pool.reload(settings.set("postgres.client_idle_timeout", "300ms")).await;
    pool.wire().await.until_closed().await;
    log.line_with("client_idle_timeout").await;
    cluster.stop();
    log.line_with("\"server_lost\"").await;
    for line in parsed(&pool) {
        let text = |key: &str| line[key].as_str().unwrap_or_else(|| panic!("{key} in {line}")).to_owned();
        assert!(text("timestamp").ends_with('Z') && !text("message").is_empty() && text("target").starts_with("sidepool"), "{line}");
        assert!(["ERROR", "WARN", "INFO"].contains(&&*text("level")), "{line}");
        match &*text("message") {
            "client connected" => assert!(line["client"].is_u64() && !text("pool").is_empty() && !text("peer").is_empty(), "{line}"),
            "client disconnected" => {
                assert_eq!((text("user"), text("database"), line["client"].is_u64()), (USER.to_owned(), "app".to_owned(), true), "{line}");
                assert!(line["age_s"].is_u64(), "{line}");
                let reasons = ["client_close", "client_eof", "client_lost", "client_idle_timeout", "protocol_violation", "server_lost"];
                assert!(reasons.contains(&&*text("reason")), "{line}");
            }
            message if message.starts_with("login refused") => {
                // As the client spelled it, without quotes of ours.
                assert_eq!(
                    (text("user"), text("database"), text("reason")),
                    ("no\"body\n".into(), "nowhere".into(), "auth_rejected".into())
                );
                assert_eq!(text("sqlstate").len(), 5, "{line}");
            }
            _other => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_failing_logins_is_a_few_lines_and_a_count() {
    const LOGINS: u64 = 10_000;
    const AT_A_TIME: u64 = 20;
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("log.format", "json")).await;
    let (port, begun) = (pool.postgres_port(), Instant::now());
    let storm = (0..AT_A_TIME).map(|_| {
        tokio::spawn(async move {
            for _ in 0..LOGINS / AT_A_TIME {
                assert!(Wire::try_login(port, &[("user", USER), ("database", "nowhere")], PASSWORD).await.is_err());
            }
        })
    });
    for task in storm.collect::<Vec<_>>() {
        task.await.expect("all are refused");
    }
    // What was left out is told a little later, each time for all since the last.
    let (written, left_out) = wait::until("all lines to be accounted for", async || {
        let lines = parsed(&pool);
        let of = |text: &str| {
            lines.iter().filter(|line| line["message"].as_str().is_some_and(|message| message.starts_with(text))).collect::<Vec<_>>()
        };
        let written = of("login refused").len() as u64;
        let left_out: u64 = of("the same log line was left out").iter().filter_map(|line| line["count"].as_u64()).sum();
        (written + left_out == LOGINS).then_some((written, left_out))
    })
    .await;
    let seconds = begun.elapsed().as_secs() + 2;
    assert!(left_out > 0 && written <= 50 * seconds, "{written} lines written in {seconds} s, {left_out} left out");
    let metric = "sidepool_log_messages_dropped_total";
    let scrape = pool.metrics_show("the lines", |scrape| scrape.sum(metric, &[("reason", "repeated")]) >= left_out as f64).await;
    assert_eq!(scrape.sum(metric, &[("reason", "queue_full")]), 0.0, "nothing else was lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_stalls_nobody() {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster).set("log.level", "debug");
    let file = place::directory("unread").join("sidepool.toml");
    std::fs::write(&file, settings.toml()).expect("our own directory");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut command = Command::new(binary::path(Build::Checked));
    command.arg(&file).env_remove("DATABASE_URL").env_remove("REDIS_URL").stdin(Stdio::null()).stdout(Stdio::null()).stderr(writer);
    let mut child = Guarded(command.spawn().expect("sidepool starts"));
    drop(command);
    wait::until("sidepool to be ready", async || scrape::get(settings.admin_port(), "/readyz").await.filter(|answer| answer.status == 200))
        .await;
    let metric = "sidepool_log_messages_dropped_total";
    // A line for each client that leaves without a word: the pipe is full, then the queue, and clients are served all along.
    wait::until("lines to be dropped", async || {
        for _ in 0..500 {
            drop(TcpStream::connect(("127.0.0.1", settings.postgres_port())).await.expect("it listens"));
        }
        let mut wire = Wire::login(settings.postgres_port(), USER, "app", PASSWORD).await;
        assert_eq!(wire.value("SELECT 'served'").await, "served");
        let answer = scrape::get(settings.admin_port(), "/metrics").await?;
        (Scrape::parse(&answer.body).sum(metric, &[("reason", "queue_full")]) > 0.0).then_some(())
    })
    .await;
    drop(reader);
    child.0.kill().expect("it still runs");
}

/// Ended with the test.
struct Guarded(Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
