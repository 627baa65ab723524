//! PREPARE, EXECUTE, EXPLAIN … EXECUTE, CREATE TABLE … AS EXECUTE and DEALLOCATE sent through Parse, in transaction mode: the names in them are
//! the client's own, whatever connection it gets, and mean what they mean when the statement runs.

use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::frame::{bind, close, describe, execute, flush, parse, query, sync};
use sidepool_tests::postgres::wire::{first_column, first_error};
use sidepool_tests::postgres::{Cluster, Message, Wire, tags};
use sidepool_tests::settings::Settings;

async fn start(connections: i64) -> (Cluster, Pooler) {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.default_pool_size", connections)).await;
    (cluster, pool)
}

fn code(answer: &[Message]) -> Option<String> {
    first_error(answer).and_then(|error| error.field(b'C'))
}

/// How a driver asks for one statement: the batches it sends.
type Way = fn(&str, &str) -> Vec<Vec<u8>>;

/// Everything that a driver asks of one statement, in one batch.
fn at_once(name: &str, sql: &str) -> Vec<Vec<u8>> {
    vec![[parse(name, sql), describe(b'S', name), bind("", name, &[]), describe(b'P', ""), execute("", 0), sync()].concat()]
}

/// The same in several batches.
fn step_by_step(name: &str, sql: &str) -> Vec<Vec<u8>> {
    vec![
        [parse(name, sql), sync()].concat(),
        [describe(b'S', name), sync()].concat(),
        [bind("", name, &[]), execute("", 0), sync()].concat(),
        [bind("", name, &[]), describe(b'P', ""), execute("", 0), close(b'P', ""), sync()].concat(),
        [close(b'S', name), sync()].concat(),
    ]
}

const SCRIPT: &[&str] = &[
    "PREPARE a AS SELECT 1 AS one",
    "PREPARE a AS SELECT 2",
    "EXECUTE a",
    "prepare \"A b\" (int, text) as select $1 + 1, $2",
    "EXECUTE \"A b\"(1, 'x;y')",
    "EXECUTE \"A b\"(1)",
    "EXECUTE \"A b\"('no', 'x')",
    "PREPARE broken AS SELEKT 1",
    "PREPARE broken AS SELECT nothing FROM nowhere",
    "EXECUTE broken",
    "DEALLOCATE broken",
    "EXPLAIN (COSTS OFF) EXECUTE a",
    "EXPLAIN (VERBOSE, COSTS OFF) EXECUTE \"A b\"(NULL, NULL)",
    "DEALLOCATE a",
    "EXECUTE a",
    "DEALLOCATE a",
    "PREPARE a AS SELECT 3; EXECUTE a",
    "EXECUTE",
    "DEALLOCATE ALL",
    "EXECUTE \"A b\"(1, 'x')",
    "PREPARE i (int) AS INSERT INTO t VALUES ($1) RETURNING n",
    "EXECUTE i(7)",
    "-- a comment\n/* and another */ EXECUTE i($$9$$)",
    "PREPARE rows AS SELECT n FROM t ORDER BY n",
    "CREATE TEMP TABLE made AS EXECUTE rows",
    "DROP TABLE made",
    "EXPLAIN (COSTS OFF) CREATE TABLE made AS EXECUTE rows",
    "DISCARD PLANS",
    "EXECUTE rows",
    "PREPARE TRANSACTION 'x'",
    "DEALLOCATE PREPARE rows",
    "EXECUTE rows",
    "EXECUTE sidepool_1",
    "DEALLOCATE sidepool_1",
    "PREPARE sidepool_1 AS SELECT 'mine'",
    "EXECUTE sidepool_1",
];

/// Answers without what differs between two servers anyhow.
fn compare(sql: &str, expected: &[Message], got: &[Message]) {
    assert_eq!(tags(expected), tags(got), "{sql}: {:?} {:?}", first_error(expected), first_error(got));
    for (expected, got) in expected.iter().zip(got) {
        if expected.tag == b'E' {
            for field in [b'C', b'M', b'D', b'P'] {
                assert_eq!(expected.field(field), got.field(field), "{sql}");
            }
        } else {
            assert_eq!(expected, got, "{sql}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_answered_as_by_the_server() {
    let (cluster, pool) = start(2).await;
    cluster.sql("CREATE TABLE t (n int); GRANT ALL ON t TO app").await;
    let mut other = pool.wire().await;
    other.query("PREPARE a AS SELECT 'not yours'").await;
    let ways: [(&str, Way); 4] = [("", at_once), ("s", at_once), ("", step_by_step), ("s", step_by_step)];
    for (name, way) in ways {
        let mut direct = Wire::login(cluster.port(), "app", "app", "app-secret-0815").await;
        let mut pooled = pool.wire().await;
        cluster.sql("TRUNCATE t").await;
        for sql in SCRIPT {
            let batches = way(name, sql);
            for batch in &batches {
                compare(sql, &direct.ask(batch).await, &pooled.ask(batch).await);
                assert_eq!(other.value("SELECT 'in between'").await, "in between");
            }
            for wire in [&mut direct, &mut pooled] {
                wire.ask(&[close(b'S', name), sync()].concat()).await;
            }
        }
    }
    assert_eq!(other.value("EXECUTE a").await, "not yours");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_names_another_follows_what_the_name_means() {
    let (cluster, pool) = start(2).await;
    cluster.sql("CREATE TABLE thing (a int); INSERT INTO thing VALUES (1); GRANT ALL ON thing TO app").await;
    let (mut wire, mut holder) = (pool.wire().await, pool.wire().await);
    wire.ask(&[parse("target", "SELECT * FROM thing"), sync()].concat()).await;
    wire.ask(&[parse("run", "EXECUTE target"), parse("plan", "EXPLAIN (COSTS OFF) EXECUTE target"), sync()].concat()).await;
    let run = [bind("", "run", &[]), describe(b'P', ""), execute("", 0), sync()].concat();
    let plan = [bind("", "plan", &[]), execute("", 0), sync()].concat();
    for _ in 0..2 {
        assert_eq!(first_column(&wire.ask(&run).await), ["1"]);
        assert!(first_column(&wire.ask(&plan).await)[0].contains("Seq Scan"));
        // On a connection that knows nothing of it.
        holder.query("BEGIN").await;
    }
    // The table changes: the server says so once, as it does to anybody who has prepared it.
    cluster.sql("ALTER TABLE thing ADD b int").await;
    let answer = wire.ask(&run).await;
    assert_eq!((tags(&answer), code(&answer)), ("2EZ".to_owned(), Some("0A000".to_owned())));
    let answer = wire.ask(&run).await;
    assert_eq!(tags(&answer), "2TDCZ", "{:?}", first_error(&answer));
    assert_eq!(answer[2].columns().len(), 2);
    // Closed: there is none. Made anew under the same name: that one.
    wire.ask(&[close(b'S', "target"), sync()].concat()).await;
    assert_eq!(code(&wire.ask(&run).await).as_deref(), Some("26000"));
    wire.ask(&[parse("target", "SELECT 'another'"), sync()].concat()).await;
    assert_eq!(first_column(&wire.ask(&run).await), ["another"]);
    wire.query("DEALLOCATE target").await;
    assert_eq!(code(&wire.ask(&plan).await).as_deref(), Some("26000"));
    wire.query("PREPARE target AS SELECT 'in SQL'").await;
    assert_eq!(first_column(&wire.ask(&run).await), ["in SQL"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn prepare_through_parse_keeps_no_connection() {
    let (_cluster, pool) = start(1).await;
    let (mut wire, mut other) = (pool.wire().await, pool.wire().await);
    wire.ask(&[parse("p", "PREPARE q (int) AS SELECT $1 * 2"), sync()].concat()).await;
    let run = [bind("", "p", &[]), execute("", 0), sync()].concat();
    for round in 0..3 {
        assert_eq!(tags(&wire.ask(&run).await), "2CZ");
        assert_eq!(code(&wire.ask(&run).await).as_deref(), Some("42P05"), "the name is taken");
        assert_eq!(other.value("SELECT 'free'").await, "free");
        assert_eq!(code(&other.query("EXECUTE q(1)").await).as_deref(), Some("26000"));
        assert_eq!(wire.value(&format!("EXECUTE q({round})")).await, (round * 2).to_string());
        assert_eq!(tags(&wire.ask(&at_once("", "DEALLOCATE q")[0]).await), "1tn2nCZ");
        assert_eq!(code(&wire.query("EXECUTE q(1)").await).as_deref(), Some("26000"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn within_a_batch_each_command_sees_those_before_it() {
    let (cluster, pool) = start(2).await;
    let mut direct = Wire::login(cluster.port(), "app", "app", "app-secret-0815").await;
    let mut pooled = pool.wire().await;
    let run = |sql: &str| [parse("", sql), bind("", "", &[]), execute("", 0)].concat();
    let batches = [
        [run("PREPARE q AS SELECT 1"), run("EXECUTE q"), run("DEALLOCATE q"), run("PREPARE q AS SELECT 2"), run("EXECUTE q"), sync()]
            .concat(),
        // What ran before the error stays, what came behind it never was.
        [run("DEALLOCATE q"), run("SELECT 1 / 0"), run("PREPARE q AS SELECT 3"), sync()].concat(),
        [run("EXECUTE q"), sync()].concat(),
        [run("PREPARE q AS SELECT 4"), run("SELECT 1 / 0"), run("DEALLOCATE q"), sync()].concat(),
        [run("EXECUTE q"), sync()].concat(),
        // Two portals at a time, run in the other order.
        [
            parse("d", "DEALLOCATE q"),
            parse("e", "EXECUTE q"),
            bind("d", "d", &[]),
            bind("e", "e", &[]),
            execute("e", 0),
            execute("d", 0),
            execute("d", 0),
            sync(),
        ]
        .concat(),
        [run("EXECUTE q"), sync()].concat(),
        // A simple query in the middle, without a Sync before it.
        [run("PREPARE q AS SELECT 5"), query("EXECUTE q"), run("EXECUTE q"), query("DEALLOCATE q"), sync()].concat(),
        [run("EXECUTE q"), sync()].concat(),
        [parse("q", "SELECT 7"), run("DEALLOCATE ALL"), parse("q", "SELECT 8"), run("EXECUTE q"), sync()].concat(),
        [run("DEALLOCATE ALL"), bind("", "q", &[]), execute("", 0), sync()].concat(),
        [parse("q", "SELECT 9"), run("SELECT 1 / 0"), run("DEALLOCATE ALL"), sync()].concat(),
        [run("EXECUTE q"), sync()].concat(),
        [query("DISCARD ALL"), parse("q", "SELECT 10"), run("EXECUTE q"), query("SELECT 1"), sync()].concat(),
        [run("BEGIN"), run("SELECT 1 / 0"), sync()].concat(),
        [run("PREPARE q AS SELECT 6"), sync()].concat(),
        [run("EXECUTE q"), sync()].concat(),
        [run("ROLLBACK"), run("EXECUTE q"), sync()].concat(),
    ];
    for batch in &batches {
        let ends = if batch.windows(3).any(|window| window == b"Q\0\0") { 3 } else { 1 };
        direct.send(batch).await;
        pooled.send(batch).await;
        for _ in 0..ends {
            let (expected, got) = (direct.until_ready().await, pooled.until_ready().await);
            compare(&String::from_utf8_lossy(batch), &expected, &got);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_in_the_middle_changes_nothing() {
    let (_cluster, pool) = start(1).await;
    let mut wire = pool.wire().await;
    wire.send(&[parse("", "PREPARE q AS SELECT 'q'"), bind("", "", &[]), execute("", 0), flush()].concat()).await;
    for tag in [b'1', b'2', b'C'] {
        assert_eq!(wire.read().await.map(|message| message.tag), Some(tag));
    }
    assert_eq!(first_column(&wire.ask(&[bind("", "q", &[]), execute("", 0), sync()].concat()).await), ["q"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_look_like_the_proxys_own_are_nobodys() {
    let (_cluster, pool) = start(1).await;
    let (mut owner, mut stranger) = (pool.wire().await, pool.wire().await);
    owner.ask(&[parse("s", "SELECT 'private'"), sync()].concat()).await;
    let theirs = owner.value("SELECT name FROM pg_prepared_statement()").await;
    assert!(theirs.starts_with("sidepool_"));
    for batch in [
        [bind("", &theirs, &[]), execute("", 0), sync()].concat(),
        [describe(b'S', &theirs), sync()].concat(),
        query(&format!("EXECUTE {theirs}")),
        query(&format!("EXPLAIN EXECUTE {theirs}")),
        query(&format!("DEALLOCATE {theirs}")),
        [parse("", &format!("EXECUTE {theirs}")), bind("", "", &[]), execute("", 0), sync()].concat(),
    ] {
        let answer = stranger.ask(&batch).await;
        let said = first_error(&answer).and_then(|error| error.field(b'M'));
        assert_eq!(said, Some(format!("prepared statement \"{theirs}\" does not exist")));
    }
    assert_eq!(tags(&stranger.ask(&[close(b'S', &theirs), sync()].concat()).await), "3Z");
    // It is still there.
    owner.query("BEGIN").await;
    owner.query("SELECT 1").await;
    assert_eq!(first_column(&owner.ask(&[bind("", "s", &[]), execute("", 0), sync()].concat()).await), ["private"]);
    owner.query("COMMIT").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_statement_a_connection_is_enough() {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster).set("postgres.default_pool_size", 1).set("postgres.max_prepared_statements", 1);
    let pool = Pooler::start(settings).await;
    let mut wire = pool.wire().await;
    wire.ask(
        &[parse("a", "SELECT 'a'"), parse("b", "SELECT 'b'"), parse("run_a", "EXECUTE a"), parse("run_b", "EXECUTE b"), sync()].concat(),
    )
    .await;
    for _ in 0..3 {
        for (name, value) in [("run_a", "a"), ("run_b", "b"), ("a", "a"), ("b", "b")] {
            let answer = wire.ask(&[describe(b'S', name), bind("", name, &[]), execute("", 0), sync()].concat()).await;
            assert_eq!((tags(&answer), first_column(&answer)), ("tT2DCZ".to_owned(), vec![value.to_owned()]), "{name}");
        }
    }
    assert_eq!(tags(&wire.ask(&at_once("", "PREPARE c AS SELECT 'c'")[0]).await), "1tn2nCZ");
    assert_eq!(first_column(&wire.ask(&at_once("", "EXECUTE c")[0]).await), ["c"]);
}
