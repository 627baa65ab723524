//! Timeouts of queries, transactions and pauses: who took too long is told in PgBouncer's words, the server really stops, others go on.
//!
//! Bounds are short, and machines may be slow: what has to be done in time for a test to go on is done before a reload sets the bound.

use std::time::Duration;

use sidepool_tests::conformance::proves;
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::cancel::runs;
use sidepool_tests::postgres::cluster::PASSWORD;
use sidepool_tests::postgres::wire::{first_column, first_error};
use sidepool_tests::postgres::{Cluster, Message, Wire, frame, tags};
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;

/// What the client is told at the end: code and message of the only error, and that it is the last word.
fn last_words(messages: &[Message]) -> (String, String) {
    let last = messages.last().expect("a word of farewell");
    assert_eq!((last.tag, last.field(b'S').as_deref()), (b'E', Some("FATAL")), "{messages:?}");
    assert!(last.field(b'D').is_some() && last.field(b'H').is_some(), "a refusal has facts and a hint");
    (last.field(b'C').expect("a code"), last.field(b'M').expect("a message"))
}

fn ended(code: &str, message: &str) -> (String, String) {
    (code.to_owned(), message.to_owned())
}

/// Waits until no server session of a client runs `marker` any more.
async fn server_stops(cluster: &Cluster, marker: &str) {
    let admin = cluster.superuser("app").await;
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE usename <> 'postgres' AND query LIKE $1 AND state <> 'idle'";
    let pattern = format!("%{marker}%");
    wait::until("the server to stop", async || {
        let running: i64 = admin.query_one(sql, &[&pattern]).await.expect(sql).get(0);
        (running == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_takes_too_long_ends_with_its_connection_and_really_stops() {
    let _proof = proves(&["setting query_timeout", "message query timeout"]);
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster);
    let mut pool = Pooler::start(settings.clone()).await;
    let (mut slow, mut other) = (pool.wire().await, pool.wire().await);
    other.query("BEGIN").await;
    // Now there is a connection for it, too.
    assert_eq!(slow.value("SELECT 1").await, "1");
    pool.reload(settings.clone().set("postgres.query_timeout", "300ms")).await;
    slow.send(&frame::query("SELECT pg_sleep(60) /* slow */")).await;
    let messages = slow.until_closed().await;
    assert_eq!(last_words(&messages), ended("57014", "query timeout"));
    server_stops(&cluster, "slow").await;
    pool.reload(settings).await;
    assert_eq!(other.value("SELECT 'a pause is no query'").await, "a pause is no query");
    other.query("COMMIT").await;
    let errors = pool.scrape().await.sum("sidepool_errors_total", &[("source", "proxy"), ("class", "timeout")]);
    assert!(errors >= 1.0, "timeouts are counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_takes_too_long_is_cancelled_where_that_is_wanted() {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster).set("postgres.query_timeout_cancels", true).set("postgres.default_pool_size", 1);
    let mut pool = Pooler::start(settings.clone()).await;
    let mut slow = pool.wire().await;
    let backend = slow.value("SELECT pg_backend_pid()").await;
    // So long that the server has begun with the query: a cancel that comes before hits nothing.
    pool.reload(settings.clone().set("postgres.query_timeout", "1s")).await;
    for _ in 0..2 {
        let messages = slow.query("SELECT pg_sleep(60)").await;
        let error = first_error(&messages).expect("it is cancelled");
        assert_eq!(error.field(b'M').as_deref(), Some("canceling statement due to user request"));
        assert_eq!(messages.last().map(|message| message.tag), Some(b'Z'));
    }
    let extended = [frame::parse("", "SELECT pg_sleep(60)"), frame::bind("", "", &[]), frame::execute("", 0), frame::sync()].concat();
    assert_eq!(tags(&slow.ask(&extended).await), "12EZ");
    pool.reload(settings.clone()).await;
    assert_eq!(slow.value("SELECT pg_backend_pid()").await, backend, "client and connection stay");
    // One that waits for its connection is taken out of the queue, and its client stays, too.
    let mut holder = pool.wire().await;
    holder.query("BEGIN").await;
    pool.reload(settings.clone().set("postgres.query_timeout", "300ms")).await;
    let messages = slow.query("SELECT 'never runs'").await;
    let error = first_error(&messages).expect("it waits for too long");
    assert_eq!((error.field(b'S').as_deref(), error.field(b'M').as_deref()), (Some("ERROR"), Some("query_timeout")));
    pool.reload(settings).await;
    holder.query("COMMIT").await;
    assert_eq!(slow.value("SELECT 'still here'").await, "still here");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_a_cancel_does_not_end_ends_with_its_connection() {
    let _proof = proves(&["setting cancel_wait_timeout"]);
    let cluster = Cluster::start().await;
    // A statement that swallows its cancel.
    cluster
        .sql(
            "CREATE FUNCTION stubborn() RETURNS void LANGUAGE plpgsql AS $$ BEGIN LOOP \
             BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$",
        )
        .await;
    let settings = Settings::postgres(&cluster).set("postgres.query_timeout_cancels", true).set("postgres.cancel_wait_timeout", "300ms");
    let mut pool = Pooler::start(settings.clone()).await;
    let mut slow = pool.wire().await;
    assert_eq!(slow.value("SELECT 1").await, "1");
    pool.reload(settings.clone().set("postgres.query_timeout", "200ms")).await;
    slow.send(&frame::query("SELECT stubborn()")).await;
    assert_eq!(last_words(&slow.until_closed().await), ended("57014", "query timeout"));
    pool.reload(settings).await;
    assert_eq!(pool.wire().await.value("SELECT 1").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_waits_too_long_for_its_connection_ends_its_client() {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster).set("postgres.default_pool_size", 1);
    let mut pool = Pooler::start(settings.clone()).await;
    let (mut holder, mut waiter) = (pool.wire().await, pool.wire().await);
    holder.query("BEGIN").await;
    pool.reload(settings.clone().set("postgres.query_timeout", "300ms")).await;
    waiter.send(&frame::query("SELECT 1")).await;
    assert_eq!(last_words(&waiter.until_closed().await), ended("57014", "query_timeout"));
    pool.reload(settings).await;
    assert_eq!(holder.value("SELECT 'unharmed'").await, "unharmed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_idle_in_a_transaction_is_closed_and_its_locks_are_freed() {
    let _proof = proves(&["setting idle_transaction_timeout", "message idle transaction timeout"]);
    let cluster = Cluster::start().await;
    cluster.sql("CREATE TABLE t (n int); INSERT INTO t VALUES (1); GRANT ALL ON t TO app").await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.idle_transaction_timeout", "300ms")).await;
    let (mut idle, mut busy, mut outside) = (pool.wire().await, pool.wire().await, pool.wire().await);
    assert_eq!(outside.value("SELECT 1").await, "1");
    assert_eq!(tags(&idle.query("BEGIN; UPDATE t SET n = 2").await), "CCZ");
    // Waits for the lock until the other one is closed: at work, it is not idle.
    busy.send(&frame::query("BEGIN; UPDATE t SET n = n + 10; COMMIT")).await;
    assert_eq!(last_words(&idle.until_closed().await), ended("08P01", "idle transaction timeout"));
    assert_eq!(tags(&busy.until_ready().await), "CCCZ");
    assert_eq!(outside.value("SELECT n FROM t").await, "11", "outside of a transaction there is no such bound");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_takes_too_long_ends_at_work_or_in_a_pause() {
    let _proof = proves(&["setting transaction_timeout", "message transaction timeout"]);
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster);
    let mut pool = Pooler::start(settings.clone().set("postgres.transaction_timeout", "400ms")).await;
    let (mut working, mut pausing) = (pool.wire().await, pool.wire().await);
    working.send(&frame::query("BEGIN; SELECT pg_sleep(60) /* work */")).await;
    pausing.send(&frame::query("BEGIN")).await;
    assert_eq!(last_words(&pausing.until_closed().await), ended("08P01", "transaction timeout"));
    assert_eq!(last_words(&working.until_closed().await), ended("08P01", "transaction timeout"));
    server_stops(&cluster, "work").await;
    let mut single = pool.wire().await;
    single.send(&frame::query("SELECT pg_sleep(60)")).await;
    assert_eq!(last_words(&single.until_closed().await), ended("08P01", "transaction timeout"), "a single query is a transaction");
    // Many short ones take longer together.
    pool.reload(settings.set("postgres.transaction_timeout", "2500ms")).await;
    let mut short = pool.wire().await;
    for _ in 0..6 {
        assert_eq!(tags(&short.query("SELECT pg_sleep(0.5)").await), "TDCZ");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_nothing_is_closed() {
    let _proof = proves(&["setting client_idle_timeout", "message client_idle_timeout"]);
    let cluster = Cluster::start().await;
    let lock = cluster.superuser("app").await;
    for mode in ["transaction", "session"] {
        let settings = Settings::postgres(&cluster).set("postgres.pool_mode", mode);
        let bounded = settings.clone().set("postgres.client_idle_timeout", "400ms");
        let mut pool = Pooler::start(bounded.clone()).await;
        assert_eq!(last_words(&pool.wire().await.until_closed().await), ended("57P05", "client_idle_timeout"));
        pool.reload(settings).await;
        let (mut silent, mut asked, mut busy) = (pool.wire().await, pool.wire().await, pool.wire().await);
        assert_eq!(asked.value("SELECT 1").await, "1");
        lock.batch_execute("SELECT pg_advisory_lock(1)").await.expect("it is free");
        busy.send(&frame::query("SELECT pg_advisory_xact_lock_shared(1)")).await;
        runs(&cluster, "pg_advisory_xact_lock_shared").await;
        pool.reload(bounded).await;
        assert_eq!(last_words(&silent.until_closed().await), ended("57P05", "client_idle_timeout"));
        assert_eq!(last_words(&asked.until_closed().await), ended("57P05", "client_idle_timeout"));
        lock.batch_execute("SELECT pg_advisory_unlock(1)").await.expect("it is ours");
        assert_eq!(tags(&busy.until_ready().await), "TDCZ", "who waits for an answer is not idle");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_own_timeouts_beat_those_of_all() {
    let _proof = proves(&[
        "setting [users] query_timeout",
        "setting [users] idle_transaction_timeout",
        "setting [users] transaction_timeout",
        "setting [users] client_idle_timeout",
    ]);
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster).set("postgres.users.second.password", "second-secret");
    let mut pool = Pooler::start(settings.clone()).await;
    let mut own = Wire::login(pool.postgres_port(), "second", "app", "second-secret").await;
    let mut all = pool.wire().await;
    let lock = cluster.superuser("app").await;
    lock.batch_execute("SELECT pg_advisory_lock(1)").await.expect("it is free");
    own.query("BEGIN").await;
    own.send(&frame::query("SELECT pg_advisory_xact_lock_shared(1)")).await;
    all.query("BEGIN").await;
    let bounded = settings
        .set("postgres.query_timeout", "300ms")
        .set("postgres.idle_transaction_timeout", "300ms")
        .set("postgres.users.second.query_timeout", "0s")
        .set("postgres.users.second.idle_transaction_timeout", "60s")
        .set("postgres.users.second.client_idle_timeout", "300ms");
    pool.reload(bounded).await;
    assert_eq!(last_words(&all.until_closed().await).1, "idle transaction timeout");
    lock.batch_execute("SELECT pg_advisory_unlock(1)").await.expect("it is ours");
    assert_eq!(tags(&own.until_ready().await), "TDCZ");
    own.query("COMMIT").await;
    assert_eq!(last_words(&own.until_closed().await).1, "client_idle_timeout");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_bounds_sessions_that_had_no_bounds_and_frees_them_again() {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster);
    let mut pool = Pooler::start(settings.clone()).await;
    let (mut waiting, mut running) = (pool.wire().await, pool.wire().await);
    waiting.query("BEGIN").await;
    running.send(&frame::query("SELECT pg_sleep(60)")).await;
    // Its connection may take longer to come than the bound that follows, and then it would be a query that waits.
    runs(&cluster, "pg_sleep(60)").await;
    let bounded = |bound: &str| settings.clone().set("postgres.query_timeout", bound).set("postgres.idle_transaction_timeout", bound);
    pool.reload(bounded("200ms")).await;
    assert_eq!(last_words(&running.until_closed().await).1, "query timeout");
    assert_eq!(last_words(&waiting.until_closed().await).1, "idle transaction timeout");
    // Long enough for it to come in, and for the next reload.
    pool.reload(bounded("3s")).await;
    let mut free = pool.wire().await;
    free.query("BEGIN").await;
    pool.reload(settings).await;
    assert!(tokio::time::timeout(Duration::from_secs(4), free.read_patiently()).await.is_err(), "it is left alone");
    assert_eq!(free.value("SELECT 'no bound any more'").await, "no bound any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_while_is_told_once_and_served_in_the_end() {
    let _proof = proves(&["setting query_wait_notify", "message No server connection available in postgres backend, client being queued"]);
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster).set("postgres.default_pool_size", 1).set("postgres.query_wait_notify", "200ms");
    let pool = Pooler::start(settings).await;
    let (mut holder, mut waiter) = (pool.wire().await, pool.wire().await);
    holder.query("BEGIN").await;
    waiter.send(&frame::query("SELECT 'served'")).await;
    let notice = waiter.read().await.expect("a notice");
    assert_eq!((notice.tag, notice.field(b'S').as_deref()), (b'N', Some("NOTICE")));
    let text = "No server connection available in postgres backend, client being queued";
    assert_eq!((notice.field(b'C').as_deref(), notice.field(b'M').as_deref()), (Some("00000"), Some(text)));
    assert!(waiter.is_silent().await && waiter.is_silent().await, "once");
    holder.query("COMMIT").await;
    assert_eq!(first_column(&waiter.until_ready().await), ["served"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn how_long_a_client_waits_is_said_by_its_user_its_database_or_for_all() {
    let _proof = proves(&[
        "setting query_wait_timeout",
        "setting [users] query_wait_timeout",
        "setting [databases] query_wait_timeout",
        "message query_wait_timeout",
    ]);
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster)
        .database("other", &cluster)
        .set("postgres.databases.app.user", "app")
        .set("postgres.databases.app.password", PASSWORD)
        .set("postgres.databases.app.query_wait_timeout", "300ms")
        .set("postgres.default_pool_size", 1)
        .set("postgres.query_wait_timeout", "60s")
        .set("postgres.users.second.password", "second-secret")
        .set("postgres.users.second.query_wait_timeout", "60s");
    let pool = Pooler::start(settings).await;
    // Patient, too: the connection has to be opened first.
    let mut holder = Wire::login(pool.postgres_port(), "second", "app", "second-secret").await;
    holder.query("BEGIN").await;
    let mut patient = Wire::login(pool.postgres_port(), "second", "app", "second-secret").await;
    patient.send(&frame::query("SELECT 'patient'")).await;
    let mut short = pool.wire().await;
    let messages = short.query("SELECT 1").await;
    let error = first_error(&messages).expect("the wait ends");
    assert_eq!(error.field(b'M').as_deref(), Some("query_wait_timeout"));
    assert!(patient.is_silent().await, "the user's own timeout counts");
    holder.query("COMMIT").await;
    assert_eq!(first_column(&patient.until_ready().await), ["patient"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_waits_for_a_server_that_is_down_says_so() {
    let _proof = proves(&["setting client_login_timeout", "message client_login_timeout (server down)"]);
    let cluster = Cluster::start().await;
    // Nobody answers there.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = silent.local_addr().expect("an address").port();
    let settings =
        Settings::postgres(&cluster).set("postgres.databases.app.port", i64::from(port)).set("postgres.query_wait_timeout", "60s");
    let refused = async |pool: &Pooler| {
        let attempt = Wire::try_login(pool.postgres_port(), &[("user", "app"), ("database", "app")], PASSWORD).await;
        attempt.err().expect("there is no server to log in to").field(b'M')
    };
    let pool = Pooler::start(settings.clone().set("postgres.query_timeout", "200ms").set("postgres.client_login_timeout", "60s")).await;
    assert_eq!(refused(&pool).await.as_deref(), Some("query_timeout"), "who waits for a server waits as for a query");
    drop(pool);
    // Long enough to come as far as to wait.
    let pool = Pooler::start(settings.set("postgres.client_login_timeout", "2s")).await;
    assert_eq!(refused(&pool).await.as_deref(), Some("client_login_timeout (server down)"));
    let mut mute = Wire::connect(pool.postgres_port()).await;
    mute.send(&frame::startup(&[("user", "app"), ("database", "app")])[..4]).await;
    let messages = mute.until_closed().await;
    assert_eq!(last_words_of_login(&messages), Some("client_login_timeout".to_owned()));
}

fn last_words_of_login(messages: &[Message]) -> Option<String> {
    messages.last().and_then(|message| message.field(b'M'))
}
