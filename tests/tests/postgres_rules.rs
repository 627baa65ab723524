//! What the configuration forbids clients, and how it has connections cleaned.

use sidepool_tests::conformance::proves;
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::frame::{bind, execute, parse, query, sync, terminate};
use sidepool_tests::postgres::wire::{first_column, first_error};
use sidepool_tests::postgres::{Cluster, Message, tags};
use sidepool_tests::settings::Settings;

fn said(messages: &[Message]) -> Option<String> {
    first_error(messages).and_then(|error| error.field(b'M'))
}

async fn pooler(cluster: &Cluster, mode: &str, set: &[(&str, &str)]) -> Pooler {
    let settings = Settings::postgres(cluster).set("postgres.default_pool_size", 1).set("postgres.pool_mode", mode);
    Pooler::start(set.iter().fold(settings, |settings, (key, value)| settings.set(&format!("postgres.{key}"), *value))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn simple_queries_can_be_forbidden() {
    let _proof = proves(&["setting disable_pqexec", "message PQexec disallowed"]);
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.disable_pqexec", true)).await;
    let mut wire = pool.wire().await;
    let answer = wire.ask(&[parse("", "SELECT 1"), bind("", "", &[]), execute("", 0), sync()].concat()).await;
    assert_eq!(first_column(&answer), ["1"]);
    wire.send(&query("SELECT 1")).await;
    let last = wire.until_closed().await;
    assert_eq!((said(&last).as_deref(), last[0].field(b'C').as_deref()), (Some("PQexec disallowed"), Some("08P01")));
    let mut wire = pool.wire().await;
    wire.send(&[parse("", "SELECT 1"), bind("", "", &[]), execute("", 0), sync(), query("SELECT 1")].concat()).await;
    assert_eq!(said(&wire.until_closed().await).as_deref(), Some("PQexec disallowed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_can_be_limited_in_both_directions() {
    let _proof = proves(&["setting max_packet_size"]);
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.max_packet_size", 2000)).await;
    let mut wire = pool.wire().await;
    assert_eq!(wire.value(&format!("SELECT length('{}')", "x".repeat(1900))).await, "1900");
    wire.send(&query(&format!("SELECT '{}'", "x".repeat(2000)))).await;
    let last = wire.until_closed().await;
    assert_eq!(said(&last).as_deref(), Some("bad packet header: '51000007de53454c'"));
    let mut wire = pool.wire().await;
    wire.send(&query("SELECT repeat('x', 3000)")).await;
    let last = wire.until_closed().await;
    assert!(said(&last).is_some_and(|said| said.contains("max_packet_size")), "{last:?}");
    assert_eq!(pool.wire().await.value("SELECT 1").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn transaction_blocks_are_refused_in_statement_mode() {
    let _proof = proves(&["message transaction blocks not allowed in statement pooling mode"]);
    let cluster = Cluster::start().await;
    let pool = pooler(&cluster, "statement", &[]).await;
    for begin in [query("BEGIN"), query("SELECT 1; BEGIN"), [parse("", "BEGIN"), bind("", "", &[]), execute("", 0), sync()].concat()] {
        let mut wire = pool.wire().await;
        wire.query("PREPARE q AS SELECT 1").await;
        assert_eq!(wire.value("EXECUTE q").await, "1");
        wire.send(&begin).await;
        let last = wire.until_closed().await;
        assert_eq!(said(&last).as_deref(), Some("transaction blocks not allowed in statement pooling mode"));
    }
    assert_eq!(pool.wire().await.query("SELECT 1").await.last().map(Message::text).as_deref(), Some("I"));
}

/// What the next client finds of one that has left.
async fn left_behind(pool: &Pooler, does: &str, find: &str) -> String {
    let mut wire = pool.wire().await;
    wire.query(does).await;
    wire.send(&terminate()).await;
    wire.until_closed().await;
    pool.wire().await.value(find).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reset_query_runs_when_a_client_of_a_session_pool_leaves() {
    let _proof = proves(&["setting server_reset_query"]);
    let cluster = Cluster::start().await;
    let make = "CREATE TEMP TABLE mine (n int); PREPARE p AS SELECT 1; SET work_mem = '7MB'";
    let (tables, statements) = ("SELECT count(*) FROM pg_class WHERE relname = 'mine'", "SELECT count(*) FROM pg_prepared_statement()");
    for (reset, tables_left, statements_left) in
        [("DISCARD ALL", "0", "0"), ("DEALLOCATE ALL", "1", "0"), ("", "1", "1"), ("DISCARD TEMP", "0", "1")]
    {
        let pool = pooler(&cluster, "session", &[("server_reset_query", reset)]).await;
        assert_eq!(left_behind(&pool, make, tables).await, tables_left, "{reset:?}");
        assert_eq!(pool.wire().await.value(statements).await, statements_left, "{reset:?}");
    }
    // One that fails costs the connection, and nothing else.
    let pool = pooler(&cluster, "session", &[("server_reset_query", "SELECT nonsense")]).await;
    assert_eq!(left_behind(&pool, make, tables).await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_runs_in_transaction_mode_when_it_always_does() {
    let _proof = proves(&["setting server_reset_query_always"]);
    let cluster = Cluster::start().await;
    let find = "SELECT count(*) FROM pg_class WHERE relname = 'mine'";
    // As in PgBouncer: what a client leaves is there for the next one, unless the query always runs.
    let mut pool = pooler(&cluster, "transaction", &[("session_state", "off")]).await;
    assert_eq!(left_behind(&pool, "CREATE TEMP TABLE mine (n int)", find).await, "1");
    let always = pool.settings().clone().set("postgres.server_reset_query_always", true);
    pool.reload(always).await;
    let mut wire = pool.wire().await;
    wire.query("SELECT 1").await;
    assert_eq!(wire.value(find).await, "0");
    // Statements are prepared again each time, and the client does not notice.
    wire.ask(&[parse("s", "SELECT 'still ' || $1"), sync()].concat()).await;
    wire.query("PREPARE q AS SELECT 'here'").await;
    for _ in 0..3 {
        let answer = wire.ask(&[bind("", "s", &["there"]), execute("", 0), sync()].concat()).await;
        assert_eq!(first_column(&answer), ["still there"], "{}", tags(&answer));
        assert_eq!(wire.value("EXECUTE q").await, "here");
    }
}
