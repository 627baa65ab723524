//! Prepared statements whose plans the server throws out: the tables changed, or the names are gone from the connection.

use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::frame::{bind, close, describe, execute, parse, query, sync};
use sidepool_tests::postgres::wire::{first_column, first_error};
use sidepool_tests::postgres::{Cluster, Message, Wire, tags};
use sidepool_tests::settings::Settings;

const SELECT: &str = "SELECT * FROM thing ORDER BY 1";

async fn start(connections: i64) -> (Cluster, Pooler) {
    let cluster = Cluster::start().await;
    cluster.sql("CREATE TABLE thing (a int); INSERT INTO thing VALUES (1); GRANT ALL ON thing TO app").await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.default_pool_size", connections)).await;
    (cluster, pool)
}

/// Bind, Describe and Execute: libpq's way to run a prepared statement.
fn run_described(name: &str) -> Vec<u8> {
    [bind("", name, &[]), describe(b'P', ""), execute("", 0), sync()].concat()
}

/// Bind and Execute: the way of drivers that remember what the rows look like.
fn run(name: &str) -> Vec<u8> {
    [bind("", name, &[]), execute("", 0), sync()].concat()
}

fn code(answer: &[Message]) -> Option<String> {
    first_error(answer).and_then(|error| error.field(b'C'))
}

async fn prepared(pool: &Pooler) -> Wire {
    let mut wire = pool.wire().await;
    assert_eq!(tags(&wire.ask(&[parse("s", SELECT), describe(b'S', "s"), sync()].concat()).await), "1tTZ");
    assert_eq!(tags(&wire.ask(&run("s")).await), "2DCZ");
    wire
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_what_the_rows_look_like_never_notices() {
    let (cluster, pool) = start(1).await;
    let mut wire = prepared(&pool).await;
    let mut other = prepared(&pool).await;
    cluster.sql("ALTER TABLE thing ADD b text DEFAULT 'new'").await;
    for wire in [&mut wire, &mut other] {
        let answer = wire.ask(&run_described("s")).await;
        assert_eq!(tags(&answer), "2TDCZ", "{:?}", first_error(&answer));
        assert_eq!(answer[2].columns(), [Some("1".to_owned()), Some("new".to_owned())]);
        assert_eq!(tags(&wire.ask(&[describe(b'S', "s"), sync()].concat()).await), "tTZ");
    }
    cluster.sql("ALTER TABLE thing DROP b").await;
    // A Describe of the statement is where it shows as well; but then half of the answer has been given.
    let describe = [describe(b'S', "s"), sync()].concat();
    assert_eq!(tags(&wire.ask(&describe).await), "tEZ");
    assert_eq!(tags(&wire.ask(&describe).await), "tTZ");
    assert_eq!(tags(&wire.ask(&run_described("s")).await), "2TDCZ");
}

/// What drivers send that prepare and run in one batch. The server has the text of somebody else, and the name is not taken by that.
#[tokio::test(flavor = "multi_thread")]
async fn who_prepares_in_the_same_batch_never_notices_either() {
    let (cluster, pool) = start(1).await;
    prepared(&pool).await;
    cluster.sql("ALTER TABLE thing ADD b text DEFAULT 'new'").await;
    let mut wire = pool.wire().await;
    let answer = wire.ask(&[parse("mine", SELECT), run_described("mine")].concat()).await;
    assert_eq!(tags(&answer), "12TDCZ", "{:?}", first_error(&answer));
    assert_eq!(tags(&wire.ask(&run_described("mine")).await), "2TDCZ");
    // An error of its own comes behind the answer to its Parse.
    let mut other = pool.wire().await;
    let wrong = [parse("mine", SELECT), bind("", "mine", &["7"]), sync()].concat();
    assert_eq!(tags(&other.ask(&wrong).await), "1EZ");
    assert_eq!(tags(&other.ask(&run_described("mine")).await), "2TDCZ");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_remembers_what_the_rows_looked_like_is_told_once() {
    let (cluster, pool) = start(1).await;
    let mut wire = prepared(&pool).await;
    cluster.sql("ALTER TABLE thing ADD b text DEFAULT 'new'").await;
    let answer = wire.ask(&run("s")).await;
    assert_eq!((tags(&answer), code(&answer)), ("EZ".to_owned(), Some("0A000".to_owned())));
    assert_eq!(tags(&wire.ask(&run("s")).await), "2DCZ");
    // Neither does it come back for who prepares it again, nor for anybody new.
    cluster.sql("ALTER TABLE thing ADD c text").await;
    assert_eq!(code(&wire.ask(&run("s")).await), Some("0A000".to_owned()));
    assert_eq!(tags(&wire.ask(&[close(b'S', "s"), parse("s", SELECT), sync()].concat()).await), "31Z");
    assert_eq!(tags(&wire.ask(&run("s")).await), "2DCZ");
    prepared(&pool).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_connections_that_hit_it_prepare_anew() {
    let (cluster, pool) = start(3).await;
    let mut clients = [prepared(&pool).await, prepared(&pool).await, prepared(&pool).await];
    for wire in &mut clients {
        wire.ask(&query("BEGIN")).await;
        assert_eq!(tags(&wire.ask(&run("s")).await), "2DCZ");
    }
    for wire in &mut clients {
        wire.ask(&query("COMMIT")).await;
    }
    cluster.sql("ALTER TABLE thing ADD b text").await;
    for round in 0..3 {
        for wire in &mut clients {
            wire.ask(&query("BEGIN")).await;
        }
        for wire in &mut clients {
            let answer = wire.ask(&run_described("s")).await;
            assert_eq!(tags(&answer), "2TDCZ", "round {round}: {:?}", first_error(&answer));
        }
        for wire in &mut clients {
            assert_eq!(tags(&wire.ask(&query("COMMIT")).await), "CZ");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_in_which_nothing_has_run_is_begun_again() {
    let (cluster, pool) = start(1).await;
    let mut wire = prepared(&pool).await;
    cluster.sql("ALTER TABLE thing ADD b text").await;
    assert_eq!(tags(&wire.query("BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY").await), "CZ");
    let answer = wire.ask(&run_described("s")).await;
    assert_eq!(tags(&answer), "2TDCZ", "{:?}", first_error(&answer));
    assert_eq!(wire.value("SHOW transaction_isolation").await, "serializable");
    assert_eq!(wire.value("SHOW transaction_read_only").await, "on");
    let committed = wire.query("COMMIT").await;
    assert_eq!((committed[0].text(), committed[1].text()), ("COMMIT".to_owned(), "I".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_in_which_something_has_run_fails_as_on_the_server() {
    let (cluster, pool) = start(1).await;
    let mut wire = prepared(&pool).await;
    cluster.sql("ALTER TABLE thing ADD b text").await;
    for begin in ["BEGIN; SELECT 1", "SELECT 1; BEGIN", "BEGIN; SET LOCAL work_mem = '1MB'", "BEGIN; SAVEPOINT x"] {
        wire.query(begin).await;
        let answer = wire.ask(&run_described("s")).await;
        assert_eq!((tags(&answer), code(&answer)), ("EZ".to_owned(), Some("0A000".to_owned())), "{begin}");
        assert_eq!(answer[1].text(), "E");
        wire.query("ROLLBACK").await;
        assert_eq!(tags(&wire.ask(&run_described("s")).await), "2TDCZ", "after the ROLLBACK it works");
        cluster.sql("ALTER TABLE thing DROP b; ALTER TABLE thing ADD b text").await;
        wire.ask(&run_described("s")).await;
        cluster.sql("ALTER TABLE thing ADD x int; ALTER TABLE thing DROP x, DROP b; ALTER TABLE thing ADD b text, ADD c text").await;
        wire.query("BEGIN").await;
        wire.query("ROLLBACK").await;
        cluster.sql("ALTER TABLE thing DROP c").await;
        assert_eq!(tags(&wire.ask(&run_described("s")).await), "2TDCZ");
        cluster.sql("ALTER TABLE thing ALTER b TYPE int USING 1").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_runs_twice() {
    let (cluster, pool) = start(1).await;
    cluster.sql("CREATE TABLE log (n int); GRANT ALL ON log TO app").await;
    let mut wire = prepared(&pool).await;
    wire.ask(&[parse("log", "INSERT INTO log VALUES (1)"), sync()].concat()).await;
    wire.ask(&run("log")).await;
    cluster.sql("ALTER TABLE thing ADD b text; TRUNCATE log").await;
    // The first statement of the batch has run and is undone with it: the client is told.
    let batch = [bind("", "log", &[]), execute("", 0), bind("", "s", &[]), describe(b'P', ""), execute("", 0), sync()].concat();
    let answer = wire.ask(&batch).await;
    assert_eq!((tags(&answer), code(&answer)), ("2CEZ".to_owned(), Some("0A000".to_owned())));
    assert_eq!(wire.value("SELECT count(*) FROM log").await, "0");
    assert_eq!(tags(&wire.ask(&batch).await), "2C2TDCZ");
    assert_eq!(wire.value("SELECT count(*) FROM log").await, "1");
    // Two batches in one write: the second one does not overtake the first.
    cluster.sql("ALTER TABLE thing DROP b; TRUNCATE log").await;
    wire.send(&[run_described("s"), run("log")].concat()).await;
    let answers = [wire.until_ready().await, wire.until_ready().await];
    assert_eq!((tags(&answers[0]), tags(&answers[1])), ("EZ".to_owned(), "2CZ".to_owned()));
    assert_eq!(wire.value("SELECT count(*) FROM log").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_the_server_lost_is_prepared_again() {
    let (cluster, pool) = start(1).await;
    cluster.sql("CREATE FUNCTION forget() RETURNS void LANGUAGE plpgsql AS 'BEGIN EXECUTE ''DEALLOCATE ALL''; END'").await;
    let mut wire = prepared(&pool).await;
    wire.query("SELECT forget()").await;
    assert_eq!(tags(&wire.ask(&run("s")).await), "2DCZ");
    wire.query("BEGIN; SELECT forget()").await;
    assert_eq!(code(&wire.ask(&run("s")).await), Some("26000".to_owned()));
    wire.query("ROLLBACK").await;
    assert_eq!(tags(&wire.ask(&run("s")).await), "2DCZ");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_is_not_sent_again() {
    let (_cluster, pool) = start(1).await;
    let mut wire = prepared(&pool).await;
    // The first name is good, so the batch is kept; the second one is the client's mistake.
    for mistake in [bind("", "nobody", &[]), bind("", "", &[]), describe(b'S', "nobody")] {
        let answer = wire.ask(&[mistake, bind("", "s", &[]), execute("", 0), sync()].concat()).await;
        assert_eq!((tags(&answer), code(&answer)), ("EZ".to_owned(), Some("26000".to_owned())));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_name_statements_as_the_client_does() {
    let (_cluster, pool) = start(1).await;
    let mut wire = prepared(&pool).await;
    let answer = wire.ask(&[bind("", "s", &["too", "many"]), sync()].concat()).await;
    let said = first_error(&answer).and_then(|error| error.field(b'M'));
    assert_eq!(said.as_deref(), Some("bind message supplies 2 parameters, but prepared statement \"s\" requires 0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_path_decides_what_a_text_means() {
    let (cluster, pool) = start(1).await;
    cluster
        .sql(
            "CREATE SCHEMA one; CREATE SCHEMA two; CREATE TABLE one.t (v int); CREATE TABLE two.t (v text); \
             GRANT ALL ON SCHEMA one, two TO app; GRANT ALL ON one.t, two.t TO app; INSERT INTO one.t VALUES (1); INSERT INTO two.t VALUES ('x')",
        )
        .await;
    for (schema, value) in [("one", "1"), ("two", "x"), ("one", "1")] {
        let parameters = [("user", "app"), ("database", "app"), ("search_path", schema)];
        let mut wire = Wire::try_login(pool.postgres_port(), &parameters, "").await.expect("a login");
        let answer =
            wire.ask(&[parse("q", "SELECT v FROM t WHERE v = $1"), bind("", "q", &[value]), execute("", 0), sync()].concat()).await;
        assert_eq!(first_column(&answer), [value], "{schema}: {:?}", first_error(&answer));
    }
}

/// Two connections, of which the client's is kept busy, so that the client gets the other one.
async fn elsewhere(pool: &Pooler, wire: &mut Wire) -> Wire {
    let mut holder = pool.wire().await;
    holder.query("BEGIN").await;
    // One of the two is left, and it is not the one that knows the statement.
    assert_eq!(holder.value("SELECT count(*) FROM pg_prepared_statement()").await, "1", "the last one used is the next one given");
    assert_eq!(wire.value("SELECT count(*) FROM pg_prepared_statement()").await, "0");
    holder
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_look_different_are_told_on_connections_that_never_saw_the_old_ones() {
    let (cluster, pool) = start(2).await;
    let mut wire = prepared(&pool).await;
    let mut other = pool.wire().await;
    other.ask(&[parse("same", SELECT), sync()].concat()).await;
    let _holder = elsewhere(&pool, &mut wire).await;
    cluster.sql("ALTER TABLE thing ADD b text DEFAULT 'new'").await;
    let answer = wire.ask(&run("s")).await;
    assert_eq!((tags(&answer), code(&answer)), ("EZ".to_owned(), Some("0A000".to_owned())));
    let error = first_error(&answer).expect("an error");
    // Drivers look at these.
    assert_eq!(error.field(b'M').as_deref(), Some("cached plan must not change result type"));
    assert_eq!(error.field(b'R').as_deref(), Some("RevalidateCachedQuery"));
    assert_eq!(answer[1].text(), "I");
    assert_eq!(tags(&wire.ask(&run("s")).await), "2DCZ", "told once, it runs");
    // Another client with the same statement is told as well; one that asks is not.
    assert_eq!(code(&other.ask(&run("same")).await).as_deref(), Some("0A000"));
    assert_eq!(tags(&other.ask(&run("same")).await), "2DCZ");
    let mut asking = pool.wire().await;
    asking.ask(&[parse("mine", SELECT), describe(b'S', "mine"), sync()].concat()).await;
    assert_eq!(tags(&asking.ask(&run("mine")).await), "2DCZ");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_again_what_the_rows_look_like_is_served_on_such_a_connection() {
    let (cluster, pool) = start(2).await;
    let mut wire = prepared(&pool).await;
    let _holder = elsewhere(&pool, &mut wire).await;
    cluster.sql("ALTER TABLE thing ADD b text DEFAULT 'new'").await;
    assert_eq!(tags(&wire.ask(&run_described("s")).await), "2TDCZ");
    let mut wire = prepared(&pool).await;
    cluster.sql("ALTER TABLE thing ADD c text").await;
    wire.ask(&[close(b'S', "s"), parse("s", SELECT), describe(b'S', "s"), sync()].concat()).await;
    assert_eq!(tags(&wire.ask(&run("s")).await), "2DCZ");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_runs_of_what_is_refused_for_its_rows() {
    let (cluster, pool) = start(2).await;
    let mut wire = pool.wire().await;
    wire.ask(&[parse("s", "INSERT INTO thing VALUES (7) RETURNING *"), describe(b'S', "s"), sync()].concat()).await;
    let _holder = elsewhere(&pool, &mut wire).await;
    cluster.sql("ALTER TABLE thing ADD b text DEFAULT 'new'").await;
    wire.query("BEGIN").await;
    // In one piece, and byte by byte with a batch behind it.
    let answer = wire.ask(&run("s")).await;
    assert_eq!((tags(&answer), code(&answer), answer[1].text()), ("EZ".to_owned(), Some("0A000".to_owned()), "E".to_owned()));
    assert_eq!(code(&wire.query("SELECT 1").await).as_deref(), Some("25P02"), "the transaction has failed as on the server");
    wire.query("ROLLBACK").await;
    assert_eq!(wire.value("SELECT count(*) FROM thing").await, "1");
    assert_eq!(tags(&wire.ask(&run("s")).await), "2DCZ");
    assert_eq!(wire.value("SELECT count(*) FROM thing").await, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_look_the_same_hold_nobody_up() {
    let (cluster, pool) = start(2).await;
    let mut wire = prepared(&pool).await;
    let _holder = elsewhere(&pool, &mut wire).await;
    // Made anew, it has another number, and the same columns.
    cluster.sql("DROP TABLE thing; CREATE TABLE thing (a int); INSERT INTO thing VALUES (2); GRANT ALL ON thing TO app").await;
    for message in [run("s"), run("s"), [run("s"), run("s")].concat()] {
        assert_eq!(tags(&wire.ask(&message).await), "2DCZ");
    }
    assert_eq!(tags(&wire.until_ready().await), "2DCZ");
    // A statement that cannot be prepared there any more.
    let mut wire = pool.wire().await;
    wire.ask(&[parse("gone", "SELECT a + 1 FROM thing"), describe(b'S', "gone"), sync()].concat()).await;
    cluster.sql("DROP TABLE thing").await;
    assert_eq!(code(&wire.ask(&run("gone")).await).as_deref(), Some("42P01"));
    assert_eq!(wire.value("SELECT 'well'").await, "well");
}
