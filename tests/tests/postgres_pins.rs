//! Pins: what a client leaves on its server connection past a transaction keeps that connection for it alone, visibly, as long as it is there,
//! and is gone when the client is.

use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::wire::first_error;
use sidepool_tests::postgres::{Cluster, Wire, tags};
use sidepool_tests::scrape::Scrape;
use sidepool_tests::settings::Settings;
use sidepool_tests::{console, scrape};

/// One way to pin a connection.
struct Kind {
    /// As metrics, console and log name it.
    reason: &'static str,
    /// In what clients are told.
    words: &'static str,
    /// What pins.
    begin: &'static str,
    /// What shows that it is there: a number above zero.
    count: &'static str,
    /// What ends it; nothing where only the end of the connection does.
    end: Option<&'static str>,
}

const KINDS: [Kind; 6] = [
    Kind {
        reason: "temporary_tables",
        words: "temporary tables",
        begin: "CREATE TEMP TABLE kept AS SELECT 1",
        count: "SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()",
        end: Some("DROP TABLE kept"),
    },
    Kind {
        reason: "held_cursors",
        words: "cursors WITH HOLD",
        begin: "BEGIN; DECLARE kept CURSOR WITH HOLD FOR SELECT generate_series(1, 9); COMMIT",
        count: "SELECT count(*) FROM pg_cursors WHERE is_holdable",
        end: Some("CLOSE kept"),
    },
    Kind {
        reason: "advisory_locks",
        words: "session-level advisory locks",
        begin: "SELECT pg_advisory_lock(17)",
        count: "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
        end: Some("SELECT pg_advisory_unlock(17)"),
    },
    Kind {
        reason: "library",
        words: "a loaded library",
        begin: "LOAD 'auto_explain'",
        count: "SELECT count(*) FROM pg_settings WHERE name = 'auto_explain.log_format'",
        end: None,
    },
    Kind {
        reason: "statements",
        words: "statements prepared in SQL under its own names",
        begin: "SELECT '\\'; PREPARE kept AS SELECT 1",
        count: "SELECT count(*) FROM pg_prepared_statement() WHERE name = 'kept'",
        end: Some("DEALLOCATE ALL"),
    },
    Kind {
        reason: "statements",
        words: "statements prepared in SQL under its own names",
        begin: "DO $$ BEGIN EXECUTE 'prep' || 'are kept AS SELECT 1'; END $$",
        count: "SELECT count(*) FROM pg_prepared_statement() WHERE name = 'kept'",
        end: Some("DEALLOCATE kept"),
    },
];

const PID: &str = "SELECT pg_backend_pid()";

/// A server on which user `app` may load libraries, and what is in front of it by default.
async fn start() -> (Cluster, Settings) {
    let cluster = Cluster::start().await;
    cluster.sql("ALTER ROLE app SUPERUSER").await;
    let settings = Settings::postgres(&cluster).set("postgres.admin_users", vec!["app".to_owned()]);
    (cluster, settings)
}

async fn run(wire: &mut Wire, sql: &str) {
    let answer = wire.query(sql).await;
    assert!(first_error(&answer).is_none() && tags(&answer).ends_with('Z'), "{sql}: {answer:?}");
}

fn pinned(scrape: &Scrape, reason: &str) -> f64 {
    scrape.sum("sidepool_pinned_clients", &[("reason", reason)])
}

/// Waits until so many connections are pinned.
async fn pins(pool: &Pooler, count: u32) -> Scrape {
    let is = |now: &Scrape| (now.sum("sidepool_pool_pinned_connections", &[]) - f64::from(count)).abs() < 0.5;
    pool.metrics_show(&format!("{count} pinned connections"), is).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_cause_keeps_the_connection_for_its_client_until_it_ends() {
    let (_cluster, settings) = start().await;
    for kind in KINDS {
        let pool = Pooler::start(settings.clone().set("postgres.default_pool_size", 2)).await;
        let (mut keeper, mut other) = (pool.wire().await, pool.wire().await);
        run(&mut keeper, kind.begin).await;
        pool.metrics_show(kind.reason, |now| (pinned(now, kind.reason) - 1.0).abs() < 0.5).await;
        // With several workers one may see the pin in the pool before another is asked what it has counted: only a later look has both.
        let now = pool.scrape().await;
        assert!((now.sum("sidepool_pins_total", &[("reason", kind.reason)]) - 1.0).abs() < 0.5, "{}", kind.reason);
        let pid = keeper.value(PID).await;
        for _ in 0..5 {
            assert_ne!(other.value(PID).await, pid, "{}: others go on elsewhere", kind.reason);
            assert_eq!(other.value(kind.count).await, "0", "{}", kind.reason);
            assert_eq!(keeper.value(PID).await, pid, "{}: the connection stays", kind.reason);
            assert_ne!(keeper.value(kind.count).await, "0", "{}", kind.reason);
        }
        let Some(end) = kind.end else { continue };
        run(&mut keeper, end).await;
        pins(&pool, 0).await;
        run(&mut keeper, "BEGIN").await;
        run(&mut other, "BEGIN").await;
        assert_eq!([keeper.value(kind.count).await, other.value(kind.count).await], ["0", "0"], "{}", kind.reason);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_leaves_nothing_behind() {
    let (_cluster, settings) = start().await;
    let settings = settings.set("postgres.default_pool_size", 1);
    for reset in ["DISCARD ALL", "", "SELECT 1"] {
        let pool = Pooler::start(settings.clone().set("postgres.server_reset_query", reset)).await;
        for kind in &KINDS {
            let mut keeper = pool.wire().await;
            run(&mut keeper, kind.begin).await;
            let pid = keeper.value(PID).await;
            drop(keeper);
            let mut next = pool.wire().await;
            assert_eq!(next.value(kind.count).await, "0", "{} after {reset:?}", kind.reason);
            assert_eq!(next.value(PID).await == pid, kind.reason != "library", "{}: only a library costs the connection", kind.reason);
        }
        pins(&pool, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_cut_off_in_the_middle_leaves_nothing_behind() {
    let (_cluster, settings) = start().await;
    let settings = settings.set("postgres.default_pool_size", 1);
    let pool = Pooler::start(settings).await;
    for kind in &KINDS {
        for middle in ["BEGIN", "BEGIN; SELECT nothing", "SELECT pg_sleep(0.3)", ""] {
            let mut keeper = pool.wire().await;
            run(&mut keeper, kind.begin).await;
            if middle.starts_with("BEGIN") {
                keeper.query(middle).await;
            } else if !middle.is_empty() {
                keeper.send(&sidepool_tests::postgres::frame::query(middle)).await;
            }
            drop(keeper);
            let mut next = pool.wire().await;
            assert_eq!(next.value(kind.count).await, "0", "{} after {middle:?}", kind.reason);
        }
    }
    pins(&pool, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_undone_does_not_pin() {
    let (_cluster, settings) = start().await;
    let pool = Pooler::start(settings.set("postgres.default_pool_size", 1)).await;
    let (mut first, mut second) = (pool.wire().await, pool.wire().await);
    for sql in [
        "BEGIN; CREATE TEMP TABLE gone (n int); ROLLBACK",
        "BEGIN; CREATE TEMP TABLE gone (n int) ON COMMIT DROP; COMMIT",
        "CREATE TEMP TABLE gone (n int); DROP TABLE gone",
        "BEGIN; DECLARE gone CURSOR WITH HOLD FOR SELECT 1; CLOSE gone; COMMIT",
        "BEGIN; SELECT pg_advisory_xact_lock(3); COMMIT",
        "SELECT pg_advisory_lock(4), pg_advisory_unlock(4)",
        "CREATE TEMP TABLE gone (n int); SELECT pg_advisory_lock(5); DISCARD ALL",
    ] {
        for sql in sql.split("; ") {
            run(&mut first, sql).await;
        }
        run(&mut second, "SELECT 1").await;
        for kind in &KINDS {
            assert_eq!(second.value(kind.count).await, "0", "{sql}");
        }
    }
    pins(&pool, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_of_one_works_for_its_pinned_client_and_for_others_afterwards() {
    let (_cluster, settings) = start().await;
    let settings = settings.set("postgres.default_pool_size", 1);
    let mut pool = Pooler::start(settings.clone()).await;
    let (mut keeper, mut other) = (pool.wire().await, pool.wire().await);
    // Once there is a connection.
    pool.reload(settings.set("postgres.query_wait_timeout", "1s")).await;
    for kind in KINDS.iter().filter(|kind| kind.end.is_some()) {
        run(&mut keeper, kind.begin).await;
        // What it left is found out behind its answer, and is to be known when the other one is told of it.
        pool.metrics_show(kind.reason, |now| (pinned(now, kind.reason) - 1.0).abs() < 0.5).await;
        let answer = other.query("SELECT 1").await;
        let error = first_error(&answer).expect("there is no other connection");
        assert_eq!(error.field(b'C').as_deref(), Some("53300"));
        let detail = error.field(b'D').unwrap_or_default();
        assert!(detail.contains(&format!("1 of them pinned: {} 1", kind.words)), "{detail}");
        run(&mut keeper, kind.end.unwrap_or_default()).await;
        // That it is gone is found out behind the answer, too, and the other one would not wait for long.
        pins(&pool, 0).await;
        assert_eq!(other.value("SELECT 'served'").await, "served", "{}", kind.reason);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pins_are_shown_to_operators() {
    let (_cluster, settings) = start().await;
    let pool = Pooler::start(settings.clone().set("log.level", "debug")).await;
    let mut keeper = Wire::try_login(pool.postgres_port(), &[("user", "app"), ("database", "app"), ("application_name", "report")], "")
        .await
        .unwrap_or_else(|error| panic!("{error:?}"));
    run(&mut keeper, "CREATE TEMP TABLE kept (n int)").await;
    run(&mut keeper, "SELECT pg_advisory_lock(1)").await;
    pool.metrics_show("both reasons", |now| pinned(now, "temporary_tables") + pinned(now, "advisory_locks") > 1.5).await;
    let pid = keeper.value(PID).await;
    let mut operator = Wire::login(pool.postgres_port(), "app", "pgbouncer", "").await;
    let rows = console::rows(&mut operator, "SHOW PINS").await;
    assert_eq!(rows.len(), 1, "{rows:?}");
    let clients = console::rows(&mut operator, "SHOW CLIENTS").await;
    let client = console::of(&clients, "application_name", "report");
    let client_id = console::value(client, "id");
    for (column, wanted) in [
        ("database", "app"),
        ("user", "app"),
        ("reasons", "temporary_tables,advisory_locks"),
        ("client_addr", "127.0.0.1"),
        ("application_name", "report"),
        ("remote_pid", &pid),
        ("client_id", client_id),
    ] {
        assert_eq!(console::value(&rows[0], column), wanted, "{column}");
    }
    let status = scrape::get(pool.settings().admin_port(), "/statusz").await.expect("it answers").body;
    assert!(status.contains("\"pinned\""), "{status}");
    run(&mut keeper, "DROP TABLE kept").await;
    pool.metrics_show("one reason less", |now| pinned(now, "temporary_tables") < 0.5).await;
    let rows = console::rows(&mut operator, "SHOW PINS").await;
    assert_eq!(console::value(&rows[0], "reasons"), "advisory_locks");
    drop(keeper);
    pins(&pool, 0).await;
    assert!(console::rows(&mut operator, "SHOW PINS").await.is_empty());
    for (what, reason) in [
        ("pinned: the client keeps its server connection", "temporary_tables"),
        ("no longer pinned", "temporary_tables"),
        ("no longer pinned", "advisory_locks"),
    ] {
        pool.process().log().line_with(&format!("{what} pool=app.app client={client_id} reason=\"{reason}\"")).await;
    }
}
