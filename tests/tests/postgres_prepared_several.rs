//! PREPARE, EXECUTE and DEALLOCATE behind other commands in one text, and an EXECUTE of what is an EXECUTE itself: answered as by the server,
//! on whatever connection the client gets.

use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::frame::{bind, execute, parse, query, sync};
use sidepool_tests::postgres::wire::{first_column, first_error};
use sidepool_tests::postgres::{Cluster, Message, Wire, tags};
use sidepool_tests::settings::Settings;

async fn start(connections: i64) -> (Cluster, Pooler) {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.default_pool_size", connections)).await;
    (cluster, pool)
}

/// The same messages in the same words, but for what errors say of the server's source.
fn assert_same(expected: &[Message], got: &[Message], about: &str) {
    assert_eq!(tags(expected), tags(got), "{about}: {:?}", first_error(got));
    for (expected, got) in expected.iter().zip(got) {
        if expected.tag == b'E' {
            for field in [b'C', b'M', b'D', b'P'] {
                assert_eq!(expected.field(field), got.field(field), "{about}");
            }
        } else {
            assert_eq!(expected, got, "{about}");
        }
    }
}

fn is_idle(answer: &[Message]) -> bool {
    answer.last().is_some_and(|ready| ready.text() == "I")
}

#[tokio::test(flavor = "multi_thread")]
async fn names_behind_other_commands_are_the_clients_own() {
    let (cluster, pool) = start(2).await;
    let mut direct = Wire::login(cluster.port(), "app", "app", "app-secret-0815").await;
    let (mut pooled, mut other) = (pool.wire().await, pool.wire().await);
    let script = [
        "PREPARE x (int) AS SELECT $1 * 2",
        "SELECT 1; EXECUTE x(2)",
        "BEGIN; EXECUTE x(3); COMMIT",
        "SELECT 1; PREPARE y AS SELECT 'y', ';'",
        "SELECT ';'; SELECT $$;EXECUTE z$$; EXECUTE y",
        "/* EXECUTE z; */ SELECT 1; -- EXECUTE z\n EXECUTE y;",
        "SELECT 1; PREPARE y AS SELECT 2",
        "SELECT 1; SELECT 1 / 0; EXECUTE y",
        "SELECT 1; PREPARE kept AS SELECT 'kept'; SELECT 1 / 0",
        "SELECT 1; EXECUTE kept; EXPLAIN (COSTS OFF) EXECUTE kept",
        "SELECT 1; EXECUTE nothing",
        "SELECT 1; EXECUTE x('no number')",
        "SELECT 1; DEALLOCATE x; PREPARE x AS SELECT 'another'; EXECUTE x",
        "SELECT 1; EXECUTE x",
        "VALUES (1); DEALLOCATE x",
        "SELECT 1; DEALLOCATE x",
        "BEGIN",
        "SELECT 1 / 0",
        "SELECT 1; EXECUTE y",
        "ROLLBACK; DEALLOCATE kept",
        "SELECT 1; EXECUTE kept",
        "SELECT 1; DEALLOCATE ALL; PREPARE y AS SELECT 'new'",
        "SET work_mem = '5MB'; EXECUTE y; RESET work_mem",
        "SELECT 1; EXECUTE kept",
    ];
    for sql in script {
        let (expected, got) = (direct.query(sql).await, pooled.query(sql).await);
        assert_same(&expected, &got, sql);
        if !is_idle(&got) {
            continue;
        }
        // The other one takes the connection that was just used, so that the next command finds one that knows nothing.
        other.query("ROLLBACK").await;
        other.query("BEGIN").await;
    }
    other.query("ROLLBACK").await;
    // No connection is kept for it.
    let mut third = pool.wire().await;
    assert_eq!((other.value("BEGIN; SELECT 1").await, third.value("BEGIN; SELECT 2").await), ("1".to_owned(), "2".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn prepare_behind_another_command_keeps_no_connection() {
    let (_cluster, pool) = start(1).await;
    let (mut wire, mut other) = (pool.wire().await, pool.wire().await);
    wire.query("SELECT 1; PREPARE mine AS SELECT 'mine'").await;
    other.query("SELECT 1; PREPARE mine AS SELECT 'other'").await;
    assert_eq!(first_column(&wire.query("SELECT 0; EXECUTE mine").await), ["0", "mine"]);
    assert_eq!(first_column(&other.query("SELECT 0; EXECUTE mine").await), ["0", "other"]);
    other.query("SELECT 1; DEALLOCATE mine").await;
    assert_eq!(wire.value("EXECUTE mine").await, "mine");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execute_of_an_execute_runs_what_that_one_names() {
    let (cluster, pool) = start(2).await;
    let mut direct = Wire::login(cluster.port(), "app", "app", "app-secret-0815").await;
    let (mut pooled, mut other) = (pool.wire().await, pool.wire().await);
    let run = |name: &str| [bind("", name, &[]), execute("", 0), sync()].concat();
    let prepare = |name: &str, sql: &str| [parse(name, sql), sync()].concat();
    let script = [
        query("PREPARE a (int, text) AS SELECT $1 + 1, $2"),
        prepare("b", "EXECUTE a(1, 'b''s')"),
        query("EXECUTE b"),
        query("SELECT 0; EXECUTE b; EXPLAIN (COSTS OFF) EXECUTE b"),
        prepare("c", "execute b;"),
        query("EXECUTE c"),
        run("c"),
        prepare("d", "EXPLAIN (COSTS OFF) EXECUTE c"),
        run("d"),
        // What is behind a name may have changed since.
        query("DEALLOCATE a"),
        query("PREPARE a (int, text) AS SELECT $1 + 100, $2"),
        query("EXECUTE c"),
        run("c"),
        query("DEALLOCATE c"),
        run("c"),
    ];
    for request in script {
        let (expected, got) = (direct.ask(&request).await, pooled.ask(&request).await);
        assert_same(&expected, &got, &String::from_utf8_lossy(&request));
        other.query("ROLLBACK").await;
        other.query("BEGIN").await;
    }
    other.query("ROLLBACK").await;
    // One that comes back to itself is refused, and harms nobody.
    pooled.ask(&[parse("ring", "EXECUTE ring"), sync()].concat()).await;
    let answer = pooled.query("EXECUTE ring").await;
    assert_eq!(first_error(&answer).and_then(|error| error.field(b'C')).as_deref(), Some("26000"));
    assert_eq!(pooled.value("SELECT 'goes on'").await, "goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_prepared_behind_an_open_batch_ends_it() {
    let (cluster, pool) = start(2).await;
    cluster.sql("CREATE TABLE gone (n int); CREATE TABLE log (n int); GRANT ALL ON gone, log TO app").await;
    let mut direct = Wire::login(cluster.port(), "app", "app", "app-secret-0815").await;
    let (mut pooled, mut other) = (pool.wire().await, pool.wire().await);
    for wire in [&mut direct, &mut pooled] {
        wire.query("PREPARE g AS SELECT * FROM gone").await;
        wire.query("PREPARE h AS SELECT 'fine'").await;
    }
    other.query("BEGIN").await;
    let insert = [parse("", "INSERT INTO log VALUES (1)"), bind("", "", &[]), execute("", 0)].concat();
    let fine = [insert.clone(), query("EXECUTE h"), query("SELECT 'next'")].concat();
    let fails = [insert, query("EXECUTE g"), query("SELECT 'next'"), sync()].concat();
    for (batch, replies) in [(&fine, 2), (&fails, 3)] {
        if replies == 3 {
            cluster.sql("DROP TABLE gone").await;
        }
        direct.send(batch).await;
        pooled.send(batch).await;
        for reply in 0..replies {
            assert_same(&direct.until_ready().await, &pooled.until_ready().await, &format!("reply {reply} of {replies}"));
        }
    }
    // What failed took with it what stood before it.
    assert_eq!(pooled.value("SELECT count(*) FROM log").await, "2");
}
