//! Values that sequences have given (`currval`, `lastval`) are the client's own, or there are none: several clients, one server connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::wire::{Message, first_column, first_error};
use sidepool_tests::postgres::{Cluster, Wire, frame, tags};
use sidepool_tests::settings::Settings;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Two sequences, a table that draws from one of them, one that draws from none, and what asks behind the back of its caller.
const SETUP: &str =
    "CREATE SEQUENCE s1; CREATE SEQUENCE s2 START 100; CREATE TABLE t (id serial, note text); CREATE TABLE plain (note text);
    CREATE TABLE kept (value bigint); GRANT ALL ON ALL TABLES IN SCHEMA public TO app; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO app;
    CREATE FUNCTION hidden() RETURNS bigint LANGUAGE sql AS 'SELECT lastval()';
    CREATE PROCEDURE keep() LANGUAGE sql AS 'INSERT INTO kept VALUES (lastval())'";

const NONE: &str = "55000";

async fn setup() -> (Cluster, Settings) {
    let cluster = Cluster::start().await;
    cluster.sql(SETUP).await;
    let settings = Settings::postgres(&cluster).set("postgres.default_pool_size", 1);
    (cluster, settings)
}

/// Nobody has asked for a value before.
async fn fresh(settings: &Settings) -> Pooler {
    Pooler::start(settings.clone()).await
}

/// The first value, or the code of the error.
fn outcome(messages: &[Message]) -> String {
    match first_error(messages) {
        Some(error) => error.field(b'C').expect("an error has a code"),
        None => first_column(messages).last().cloned().unwrap_or_default(),
    }
}

async fn ask(wire: &mut Wire, sql: &str) -> String {
    outcome(&wire.query(sql).await)
}

fn extended(sql: &str) -> Vec<u8> {
    [frame::parse("", sql), frame::bind("", "", &[]), frame::execute("", 0)].concat()
}

async fn run(wire: &mut Wire, statements: &[&str]) {
    for sql in statements {
        let messages = wire.query(sql).await;
        assert_eq!(first_error(&messages).map(|error| error.field(b'M')), None, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_sequences_are_never_another_clients() {
    let (_cluster, settings) = setup().await;
    let pool = fresh(&settings).await;
    for (round, (lastval, currval)) in [("SELECT lastval()", "SELECT currval('s1')"); 2].into_iter().enumerate() {
        let (mut one, mut other) = (pool.wire().await, pool.wire().await);
        let drawn = one.value("SELECT nextval('s1')").await;
        // Nobody was there in between.
        assert_eq!((one.value(currval).await, one.value(lastval).await), (drawn.clone(), drawn.clone()), "{round}");
        for sql in [lastval, currval] {
            let messages = if round == 0 { other.query(sql).await } else { other.ask(&[extended(sql), frame::sync()].concat()).await };
            assert_eq!(outcome(&messages), NONE, "{sql}: {messages:?}");
        }
        // Somebody was.
        assert_eq!(ask(&mut one, currval).await, NONE);
        // What is drawn in the same transaction is there, whoever was there before.
        for text in ["BEGIN; SELECT nextval('s2')", "BEGIN"] {
            other.query("SELECT nextval('s1')").await;
            one.query(text).await;
            let drawn = one.value("SELECT nextval('s2')").await;
            assert_eq!(one.value("SELECT currval('s2')").await, drawn);
            assert_eq!(ask(&mut one, currval).await, NONE, "a client that asks begins with nothing");
            one.query("ROLLBACK").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_client_that_ever_asks_finds_nothing_of_others_whatever_it_has_done_before() {
    let (cluster, settings) = setup().await;
    for (before, question) in [
        (&["BEGIN", "INSERT INTO plain VALUES ('x')"][..], "SELECT lastval()"),
        (&["BEGIN", "INSERT INTO t (note) VALUES ('x')"], "SELECT currval('s1')"),
        (&["INSERT INTO plain VALUES ('x')"], "SELECT lastval()"),
        (&["BEGIN", "SELECT nextval('s2')"], "SELECT currval('s1')"),
        (&["BEGIN", "SELECT 1"], "DO $$ BEGIN PERFORM lastval(); END $$"),
        (&["BEGIN", "SELECT 1"], "CALL keep()"),
        (&["BEGIN", "SELECT 1"], "SELECT U&\"l\\0061stval\"()"),
        (&["BEGIN", "nonsense"], "ROLLBACK; SELECT lastval()"),
    ] {
        let pool = fresh(&settings).await;
        let (mut one, mut other) = (pool.wire().await, pool.wire().await);
        other.value("SELECT nextval('s1')").await;
        for sql in before {
            one.query(sql).await;
        }
        assert_eq!(ask(&mut one, question).await, NONE, "{before:?}, then {question}");
        one.query("ROLLBACK").await;
        // It is known from now on: what is drawn in the transaction stays, for everybody.
        other.value("SELECT nextval('s1')").await;
        let mut third = pool.wire().await;
        run(&mut third, &["BEGIN", "INSERT INTO t (note) VALUES ('y')"]).await;
        let drawn = third.value("SELECT max(id) FROM t").await;
        assert_eq!(ask(&mut third, "SELECT lastval()").await, drawn, "after {question}");
        assert_eq!(ask(&mut third, "SELECT currval('s1')").await, NONE, "after {question}");
        run(&mut third, &["COMMIT"]).await;
    }
    let kept = cluster.superuser("app").await.query_one("SELECT count(*) FROM kept", &[]).await.expect("a count");
    assert_eq!(kept.get::<_, i64>(0), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_pipelines_too_nobody_sees_values_of_others() {
    let (_cluster, settings) = setup().await;
    let sync = frame::sync();
    let lastval = "SELECT lastval()";
    let named = || [frame::parse("p", lastval), frame::bind("", "p", &[]), frame::execute("", 0)].concat();
    let batches: [(&str, Vec<u8>, &[&str]); 6] = [
        ("behind what ran", [extended("INSERT INTO plain VALUES ('x')"), extended(lastval), sync.clone()].concat(), &[NONE]),
        (
            "behind a batch that fails",
            [extended("nonsense"), extended(lastval), sync.clone(), named(), sync.clone()].concat(),
            &["42601", NONE],
        ),
        (
            "behind a query that fails",
            [frame::query("BEGIN; nonsense"), frame::query("ROLLBACK; SELECT lastval()")].concat(),
            &["42601", NONE],
        ),
        (
            "behind a rollback",
            [frame::query("BEGIN; nonsense"), extended("ROLLBACK"), extended(lastval), sync.clone()].concat(),
            &["42601", NONE],
        ),
        ("by number", [frame::query("BEGIN; SELECT 1"), frame::function_call(2559, &[])].concat(), &["1", NONE]),
        (
            "in an open batch that ends a failed block",
            [frame::query("BEGIN; nonsense"), extended("ROLLBACK"), frame::query("SELECT 1; SELECT lastval()"), sync.clone()].concat(),
            &["42601", NONE],
        ),
    ];
    for (what, batch, expected) in batches {
        for statements in [100, 0] {
            let pool = fresh(&settings.clone().set("postgres.max_prepared_statements", statements)).await;
            let (mut one, mut other) = (pool.wire().await, pool.wire().await);
            other.value("SELECT nextval('s1')").await;
            one.send(&batch).await;
            let mut outcomes = Vec::new();
            for _ in expected {
                outcomes.push(outcome(&one.until_ready().await));
            }
            assert_eq!(outcomes, expected, "{what}, {statements} prepared statements");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn asked_always_not_even_a_function_sees_values_of_others() {
    let (_cluster, settings) = setup().await;
    let ways = [
        settings.clone().set("postgres.session_state", "always"),
        settings.set("postgres.session_state_functions", vec!["hidden".to_owned()]),
    ];
    for settings in ways {
        let pool = fresh(&settings).await;
        let (mut one, mut other) = (pool.wire().await, pool.wire().await);
        other.value("SELECT nextval('s1')").await;
        assert_eq!(ask(&mut one, "SELECT hidden()").await, NONE);
        run(&mut one, &["BEGIN"]).await;
        let drawn = one.value("SELECT nextval('s2')").await;
        assert_eq!(ask(&mut one, "SELECT hidden()").await, drawn);
        run(&mut one, &["COMMIT"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_that_forgets_no_values_leaves_none_to_others() {
    let (_cluster, settings) = setup().await;
    let resets = settings.set("postgres.server_reset_query", "RESET ALL").set("postgres.server_reset_query_always", true);
    let pool = fresh(&resets).await;
    let (mut one, mut other) = (pool.wire().await, pool.wire().await);
    other.value("SELECT nextval('s1')").await;
    assert_eq!(ask(&mut one, "SELECT lastval()").await, NONE);
}

/// `lastval`, by the number that PostgreSQL has fixed for it (`pg_proc.dat`).
const LASTVAL: u32 = 2559;

#[tokio::test(flavor = "multi_thread")]
async fn a_call_by_number_finds_nothing_of_others() {
    let (_cluster, settings) = setup().await;
    let pool = fresh(&settings).await;
    let (mut one, mut other) = (pool.wire().await, pool.wire().await);
    one.value("SELECT nextval('s1')").await;
    let messages = other.ask(&frame::function_call(LASTVAL, &[])).await;
    assert_eq!(outcome(&messages), NONE);
    // Several that want to forget at the same time do not take the connection from each other for ever.
    let pipeline = [frame::query("SELECT nextval('s1')"), frame::function_call(LASTVAL, &[])].concat().repeat(50);
    for wire in [&mut one, &mut other] {
        wire.send(&pipeline).await;
    }
    for wire in [&mut one, &mut other] {
        for _ in 0..50 {
            let drawn = first_column(&wire.until_ready().await)[0].clone();
            let messages = wire.until_ready().await;
            let called =
                messages.iter().find(|message| message.tag == b'V').map(|message| String::from_utf8_lossy(&message.body[4..]).into_owned());
            assert!(called.as_ref().is_none_or(|called| *called == drawn), "{drawn}: {called:?}");
        }
    }
}

/// What drivers do that name each statement: the name of ROLLBACK says nothing of what it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_named_rollback_ends_a_failed_block_whoever_was_there_before() {
    let (_cluster, settings) = setup().await;
    for statements in [100, 0] {
        let pool = fresh(&settings.clone().set("postgres.max_prepared_statements", statements)).await;
        let (mut one, mut other) = (pool.wire().await, pool.wire().await);
        other.value("SELECT nextval('s1')").await;
        one.query("BEGIN").await;
        one.query("nonsense").await;
        let named = [frame::parse("S_2", "ROLLBACK"), frame::bind("", "S_2", &[]), frame::execute("", 0), frame::sync()].concat();
        assert_eq!(tags(&one.ask(&named).await), "12CZ", "{statements} prepared statements");
        assert_eq!(ask(&mut one, "SELECT lastval()").await, NONE);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_drawn_in_a_pipeline_stays_while_others_values_are_being_forgotten() {
    let (cluster, settings) = setup().await;
    cluster
        .sql(
            "CREATE PROCEDURE draw() LANGUAGE plpgsql AS 'BEGIN PERFORM nextval(''s1''); END';
            CREATE PROCEDURE tell() LANGUAGE plpgsql AS 'BEGIN INSERT INTO kept VALUES (currval(''s1'')); END'",
        )
        .await;
    let pool = fresh(&settings).await;
    let (mut one, mut other) = (pool.wire().await, pool.wire().await);
    other.value("SELECT nextval('s2')").await;
    let batch = |sql: &str| [extended(sql), frame::sync()].concat();
    one.send(&["BEGIN", "CALL draw()", "CALL tell()", "COMMIT"].map(batch).concat()).await;
    for _ in 0..4 {
        let messages = one.until_ready().await;
        assert_eq!(first_error(&messages).map(|error| error.field(b'M')), None);
    }
    assert_eq!(one.value("SELECT count(*) FROM kept").await, "1");
}

/// A server that has DISCARD SEQUENCES fail, and keeps what was prepared for it, as one whose work is cancelled between two messages.
async fn stubborn_server(fails: u32) -> (u16, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let (port, tried) = (listener.local_addr().expect("it is bound").port(), Arc::new(AtomicU32::new(0)));
    let count = Arc::clone(&tried);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(stubborn(stream, fails, Arc::clone(&count)));
        }
    });
    (port, tried)
}

async fn stubborn(mut stream: TcpStream, fails: u32, tried: Arc<AtomicU32>) -> std::io::Result<()> {
    let length = usize::try_from(stream.read_u32().await?).expect("it fits") - 4;
    stream.read_exact(&mut vec![0; length]).await?;
    let status = |name: &str, value: &str| frame::message(b'S', format!("{name}\0{value}\0").as_bytes());
    let ready = frame::message(b'Z', b"I");
    let welcome = [frame::message(b'R', &[0; 4]), status("server_version", "15"), status("client_encoding", "UTF8"), ready.clone()];
    stream.write_all(&welcome.concat()).await?;
    let (mut prepared, mut skips) = (false, false);
    loop {
        let tag = stream.read_u8().await?;
        let mut body = vec![0; usize::try_from(stream.read_u32().await?).expect("it fits") - 4];
        stream.read_exact(&mut body).await?;
        let error = |code: &str| frame::message(b'E', format!("SERROR\0VERROR\0C{code}\0Mno\0\0").as_bytes());
        let answer = match tag {
            b'X' => return Ok(()),
            b'S' => {
                skips = false;
                ready.clone()
            }
            _ if skips => continue,
            b'P' if prepared => {
                skips = true;
                error("42P05")
            }
            b'P' => {
                prepared = true;
                frame::message(b'1', &[])
            }
            b'B' => frame::message(b'2', &[]),
            b'E' if tried.fetch_add(1, Ordering::SeqCst) < fails => {
                skips = true;
                error("57014")
            }
            b'E' => frame::message(b'C', b"DISCARD SEQUENCES\0"),
            b'C' => {
                prepared &= body[0] != b'S';
                frame::message(b'3', &[])
            }
            _ if body.starts_with(b"EXECUTE") => [error("26000"), ready.clone()].concat(),
            _ => [frame::message(b'C', b"SELECT 0\0"), ready.clone()].concat(),
        };
        stream.write_all(&answer).await?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn forgetting_that_fails_is_tried_again_and_not_for_ever() {
    let cluster = Cluster::start().await;
    for (fails, code, tries) in [(1, None, 2), (99, Some(NONE), 3)] {
        let (port, tried) = stubborn_server(fails).await;
        let settings =
            Settings::postgres(&cluster).set("postgres.default_pool_size", 1).set("postgres.databases.app.port", i64::from(port));
        let pool = Pooler::start(settings).await;
        let (mut one, mut other) = (pool.wire().await, pool.wire().await);
        for wire in [&mut one, &mut other] {
            wire.query("SELECT").await;
        }
        let answer = one.query("SELECT lastval()").await;
        assert_eq!(first_error(&answer).and_then(|error| error.field(b'C')).as_deref(), code, "{fails} fail");
        assert_eq!(tried.load(Ordering::SeqCst), tries, "{fails} fail");
        assert_eq!(tags(&other.query("SELECT").await), "CZ", "and nobody else hears of it");
    }
}
