//! `pg_prepared_statements` in transaction mode: a client sees its own statements by its own names on any connection, and nobody else's.

use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::frame::{bind, describe, execute, parse, query, sync};
use sidepool_tests::postgres::wire::first_error;
use sidepool_tests::postgres::{Cluster, Message, Wire, tags};
use sidepool_tests::settings::Settings;

/// All rows, with the columns in one text.
fn rows(answer: &[Message]) -> Vec<String> {
    assert!(first_error(answer).is_none(), "{:?}", first_error(answer));
    let rows = answer.iter().filter(|message| message.tag == b'D');
    rows.map(|row| row.columns().into_iter().map(Option::unwrap_or_default).collect::<Vec<_>>().join("|")).collect()
}

fn extended(sql: &str) -> Vec<u8> {
    [parse("", sql), bind("", "", &[]), describe(b'P', ""), execute("", 0), sync()].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_sees_its_own_statements_and_nobody_elses() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.default_pool_size", 2)).await;
    let mut direct = Wire::login(cluster.port(), "app", "app", "app-secret-0815").await;
    let (mut pooled, mut other, mut stranger) = (pool.wire().await, pool.wire().await, pool.wire().await);
    stranger.query("PREPARE theirs AS SELECT 'secret'").await;
    for wire in [&mut direct, &mut pooled] {
        wire.ask(&[parse("by'parse\u{e9}", "SELECT $1::int + 1"), sync()].concat()).await;
        wire.query("PREPARE \"In SQL\" (text) AS SELECT $1").await;
        wire.query("PREPARE gone AS SELECT 1").await;
        wire.query("DEALLOCATE gone").await;
    }
    let questions = [
        "SELECT name, statement, parameter_types, from_sql FROM pg_prepared_statements ORDER BY name",
        "SELECT pg_prepared_statements.name FROM pg_catalog.pg_prepared_statements ORDER BY 1",
        "WITH x AS (SELECT 'x') SELECT p.name FROM x, pg_prepared_statements p ORDER BY 1",
        "SELECT count(*) FROM pg_prepared_statements WHERE prepare_time <= now()",
        "SELECT 1 FROM pg_prepared_statements WHERE nonsense",
    ];
    for question in questions {
        for message in [query(question), extended(question)] {
            let (expected, got) = (direct.ask(&message).await, pooled.ask(&message).await);
            assert_eq!(tags(&expected), tags(&got), "{question}: {:?}", first_error(&got));
            match first_error(&expected) {
                None => {
                    assert_eq!(rows(&expected), rows(&got), "{question}");
                    // The columns are those of the view.
                    assert_eq!(rows(&expected).is_empty(), rows(&got).is_empty());
                }
                Some(error) => {
                    let told = first_error(&got).expect("an error, too");
                    assert_eq!((error.field(b'C'), error.field(b'P')), (told.field(b'C'), told.field(b'P')), "{question}");
                }
            }
            // Whoever takes the connection next has none, and the client finds another connection.
            assert_eq!(rows(&other.query("ROLLBACK; TABLE pg_prepared_statements").await), Vec::<String>::new());
            other.query("BEGIN").await;
        }
    }
    other.query("ROLLBACK").await;
    assert_eq!(
        rows(&stranger.query("SELECT name, statement FROM pg_prepared_statements").await),
        ["theirs|PREPARE theirs AS SELECT 'secret'"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_are_shown_than_a_connection_keeps() {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster).set("postgres.default_pool_size", 1).set("postgres.max_prepared_statements", 5);
    let pool = Pooler::start(settings).await;
    let mut wire = pool.wire().await;
    for index in 0..12 {
        wire.query(&format!("PREPARE s{index} AS SELECT {index}")).await;
    }
    let newest = ["s10", "s11", "s7", "s8", "s9"];
    for message in
        [query("SELECT name FROM pg_prepared_statements ORDER BY 1"), extended("SELECT name FROM pg_prepared_statements ORDER BY 1")]
    {
        assert_eq!(rows(&wire.ask(&message).await), newest);
    }
    assert_eq!(wire.value("EXECUTE s0").await, "0");
}
