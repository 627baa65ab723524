//! PREPARE, EXECUTE and DEALLOCATE in SQL, in transaction mode: a client's names are its own, whatever connection it gets.

use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::frame::{bind, close, describe, execute, parse, query, sync, terminate};
use sidepool_tests::postgres::wire::{first_column, first_error};
use sidepool_tests::postgres::{Cluster, Wire, tags};
use sidepool_tests::scrape::Scrape;
use sidepool_tests::settings::Settings;

async fn start(connections: i64) -> (Cluster, Pooler) {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.default_pool_size", connections)).await;
    (cluster, pool)
}

#[tokio::test(flavor = "multi_thread")]
async fn names_follow_the_client_to_any_connection() {
    let (_cluster, pool) = start(3).await;
    let mut clients = Vec::new();
    for index in 0..6 {
        let mut wire = pool.wire().await;
        assert_eq!(wire.query(&format!("PREPARE q (int) AS SELECT $1 + {index}00")).await[0].text(), "PREPARE");
        clients.push(wire);
    }
    for round in 0..4_usize {
        // Whoever is in a transaction pushes the others to other connections.
        clients[round].query("BEGIN").await;
        for (index, wire) in clients.iter_mut().enumerate() {
            assert_eq!(wire.value(&format!("EXECUTE q({round})")).await, (index * 100 + round).to_string());
        }
        clients[round].query("COMMIT").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_answered_as_by_the_server() {
    let (cluster, pool) = start(2).await;
    cluster.sql("CREATE TABLE t (n int); GRANT ALL ON t TO app").await;
    let mut direct = Wire::login(cluster.port(), "app", "app", "app-secret-0815").await;
    let mut pooled = pool.wire().await;
    let mut other = pool.wire().await;
    let script = [
        "PREPARE a AS SELECT 1",
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
        "DEALLOCATE a",
        "EXECUTE a",
        "DEALLOCATE a",
        "PREPARE a AS SELECT 3; EXECUTE a; DEALLOCATE PREPARE a; PREPARE a AS SELECT 4; EXECUTE a",
        "EXECUTE a; SELECT 1 / 0; DEALLOCATE a",
        "EXECUTE a",
        "BEGIN",
        "SELECT 1 / 0",
        "EXECUTE a",
        "PREPARE c AS SELECT 5",
        "DEALLOCATE a",
        "DEALLOCATE ALL",
        "ROLLBACK",
        "EXECUTE a",
        "EXECUTE c",
        "BEGIN; PREPARE c AS SELECT 6; ROLLBACK",
        "EXECUTE c",
        "DEALLOCATE ALL",
        "EXECUTE c",
        "PREPARE i (int) AS INSERT INTO t VALUES ($1) RETURNING n",
        "EXECUTE i(7); EXECUTE i(8)",
        "-- a comment\n/* and another */ EXECUTE i($$9$$)",
        "CREATE TABLE made AS EXECUTE i(1)",
        "PREPARE r AS SELECT n FROM t",
        "CREATE TEMP TABLE made (m) AS EXECUTE r; DROP TABLE made",
        "EXPLAIN (COSTS OFF) CREATE TABLE made AS EXECUTE r",
        "DISCARD ALL",
        "EXECUTE i(1)",
        "PREPARE d AS SELECT 1; DEALLOCATE ALL; PREPARE d AS SELECT 2",
        "EXECUTE d",
        "EXECUTE",
        "PREPARE",
        "PREPARE TRANSACTION 'x'",
        "DEALLOCATE d; DEALLOCATE d",
        "EXECUTE d",
    ];
    for sql in script {
        let (expected, got) = (direct.query(sql).await, pooled.query(sql).await);
        assert_eq!(tags(&expected), tags(&got), "{sql}: {:?}", first_error(&got));
        for (expected, got) in expected.iter().zip(&got) {
            for field in [b'C', b'M', b'D', b'P'] {
                if expected.tag == b'E' {
                    assert_eq!(expected.field(field), got.field(field), "{sql}");
                }
            }
            if expected.tag != b'E' {
                assert_eq!(expected, got, "{sql}");
            }
        }
        if got.last().is_some_and(|ready| ready.text() == "I") {
            assert_eq!(other.value("SELECT 'in between'").await, "in between");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_of_the_protocol_and_of_sql_are_the_same_thing() {
    let (_cluster, pool) = start(2).await;
    let (mut wire, mut holder) = (pool.wire().await, pool.wire().await);
    wire.ask(&[parse("sqlx_s_1", "SELECT $1::int + 1"), describe(b'S', "sqlx_s_1"), sync()].concat()).await;
    wire.query("PREPARE q AS SELECT $1 || 'x'").await;
    for _ in 0..2 {
        assert_eq!(wire.value("EXECUTE sqlx_s_1(1)").await, "2");
        assert!(wire.value("EXPLAIN (VERBOSE, FORMAT JSON) EXECUTE sqlx_s_1(NULL)").await.contains("Plan"));
        let answer = wire.ask(&[bind("", "q", &["y"]), describe(b'P', ""), execute("", 0), sync()].concat()).await;
        assert_eq!((tags(&answer), first_column(&answer)), ("2TDCZ".to_owned(), vec!["yx".to_owned()]));
        // Another connection, which knows neither.
        holder.query("BEGIN").await;
    }
    assert_eq!(wire.query("DEALLOCATE sqlx_s_1").await[0].text(), "DEALLOCATE");
    let answer = wire.ask(&[bind("", "sqlx_s_1", &["1"]), sync()].concat()).await;
    assert_eq!(first_error(&answer).and_then(|error| error.field(b'C')).as_deref(), Some("26000"));
    assert_eq!(tags(&wire.ask(&[parse("sqlx_s_1", "SELECT 5"), sync()].concat()).await), "1Z");
    assert_eq!(wire.value("EXECUTE sqlx_s_1").await, "5");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_deallocates_and_the_others_go_on() {
    let (_cluster, pool) = start(1).await;
    let (mut first, mut second) = (pool.wire().await, pool.wire().await);
    for wire in [&mut first, &mut second] {
        wire.ask(&[parse("same", "SELECT 'shared'"), sync()].concat()).await;
    }
    first.query("DEALLOCATE same").await;
    assert_eq!(second.value("EXECUTE same").await, "shared");
    first.query("DEALLOCATE ALL").await;
    assert_eq!(second.value("EXECUTE same").await, "shared");
    first.query("DISCARD ALL").await;
    let answer = second.ask(&[bind("", "same", &[]), execute("", 0), sync()].concat()).await;
    assert_eq!(first_column(&answer), ["shared"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_followed_keeps_the_connection_for_its_client() {
    let (_cluster, pool) = start(2).await;
    for hidden in [
        // A backslash before a quote may mean two things, and so nobody knows where the string ends.
        query("SELECT '\\'; PREPARE h AS SELECT 'mine'"),
        [parse("", "PREPARE h AS SELECT 'mine'"), bind("", "", &[]), execute("", 0), sync()].concat(),
    ] {
        let (mut wire, mut other) = (pool.wire().await, pool.wire().await);
        wire.ask(&hidden).await;
        for _ in 0..5 {
            let answer = other.query("EXECUTE h").await;
            assert_eq!(first_error(&answer).and_then(|error| error.field(b'C')).as_deref(), Some("26000"));
            assert_eq!(wire.value("EXECUTE h").await, "mine");
        }
        // Whoever takes the connection over finds nothing of it.
        wire.send(&terminate()).await;
        wire.until_closed().await;
        let mut both = [pool.wire().await, pool.wire().await];
        for wire in &mut both {
            wire.query("BEGIN").await;
            assert_eq!(wire.value("SELECT count(*) FROM pg_prepared_statement() WHERE name = 'h'").await, "0");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_statements_gone_lets_the_connection_go() {
    let (_cluster, pool) = start(1).await;
    let (mut wire, mut other) = (pool.wire().await, pool.wire().await);
    wire.query("SELECT '\\'; PREPARE h AS SELECT 'mine'").await;
    other.send(&query("SELECT 'waits'")).await;
    assert!(other.is_silent().await);
    wire.query("DEALLOCATE ALL").await;
    assert_eq!(first_column(&other.until_ready().await), ["waits"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_keeps_a_bounded_number_of_them() {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster).set("postgres.default_pool_size", 1).set("postgres.max_prepared_statements", 5);
    let pool = Pooler::start(settings).await;
    let mut wire = pool.wire().await;
    for index in 0..30 {
        wire.query(&format!("PREPARE s{index} AS SELECT {index}")).await;
    }
    for index in 0..30 {
        assert_eq!(wire.value(&format!("EXECUTE s{index}")).await, index.to_string());
        let kept: u32 = wire.value("SELECT count(*) FROM pg_prepared_statement()").await.parse().expect("a number");
        assert!(kept <= 5, "{kept} statements are kept");
    }
    // More at a time than are kept otherwise: they are there as long as they are needed.
    let answer = wire.query(&(0..10).map(|index| format!("EXECUTE s{index};")).collect::<String>()).await;
    assert_eq!(first_column(&answer), (0..10).map(|index| index.to_string()).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_commands_see_each_other() {
    let (_cluster, pool) = start(2).await;
    let mut wire = pool.wire().await;
    for round in 0..3 {
        let batch = [
            query("PREPARE p AS SELECT 'p' || $1"),
            query("EXECUTE p(1)"),
            bind("", "p", &["2"]),
            execute("", 0),
            sync(),
            query("DEALLOCATE p"),
            query("EXECUTE p(3)"),
            parse("p", "SELECT 4"),
            sync(),
            query("EXECUTE p"),
            query("DEALLOCATE p"),
        ];
        wire.send(&batch.concat()).await;
        let mut answers = Vec::new();
        for _ in 0..8 {
            answers.extend(wire.until_ready().await);
        }
        assert_eq!(tags(&answers), "CZTDCZ2DCZCZEZ1ZTDCZCZ", "round {round}");
        assert_eq!(first_column(&answers), ["p1", "p2", "4"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_waits_for_data_is_ended_by_them_as_by_anything_else() {
    let (cluster, pool) = start(1).await;
    cluster.sql("CREATE TABLE sink (n int); GRANT ALL ON sink TO app").await;
    let mut direct = Wire::login(cluster.port(), "app", "app", "app-secret-0815").await;
    let mut pooled = pool.wire().await;
    let requests = [query("PREPARE q AS SELECT 1"), query("COPY sink FROM STDIN"), query("EXECUTE q"), query("EXECUTE q")].concat();
    direct.send(&requests).await;
    pooled.send(&requests).await;
    for _ in 0..3 {
        assert_eq!(tags(&direct.until_ready().await), tags(&pooled.until_ready().await));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn long_texts_are_prepared_too() {
    let (_cluster, pool) = start(1).await;
    let mut wire = pool.wire().await;
    for size in [9_000, 70_000, 2_000_000] {
        let long = "x".repeat(size);
        assert_eq!(wire.query(&format!("PREPARE long AS SELECT length('{long}')")).await[0].text(), "PREPARE");
        assert_eq!(wire.value("EXECUTE long").await, size.to_string());
        wire.query("DEALLOCATE long").await;
        let answer = wire
            .ask(&[parse("l", &format!("SELECT length('{long}'), $1::text")), bind("", "l", &[&long]), execute("", 0), sync()].concat())
            .await;
        assert_eq!(first_column(&answer), [size.to_string()]);
        wire.query("DEALLOCATE l").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_table_is_no_trouble() {
    let (cluster, pool) = start(1).await;
    cluster.sql("CREATE TABLE thing (a int); INSERT INTO thing VALUES (1); GRANT ALL ON thing TO app").await;
    let mut wire = pool.wire().await;
    wire.query("PREPARE q AS SELECT * FROM thing").await;
    assert_eq!(wire.query("EXECUTE q").await[1].columns().len(), 1);
    cluster.sql("ALTER TABLE thing ADD b int").await;
    assert_eq!(wire.query("EXECUTE q").await[1].columns().len(), 2);
    cluster.sql("ALTER TABLE thing ADD c int").await;
    wire.query("BEGIN").await;
    assert_eq!(wire.query("EXECUTE q").await[1].columns().len(), 3);
    wire.query("COMMIT").await;
    cluster.sql("DROP TABLE thing").await;
    let answer = wire.query("EXECUTE q").await;
    let said = first_error(&answer).and_then(|error| error.field(b'M'));
    assert_eq!(said.as_deref(), Some("relation \"thing\" does not exist"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_block_prepares_under_names_of_the_proxy_nobody_else_runs() {
    let (_cluster, pool) = start(1).await;
    let (mut one, mut other) = (pool.wire().await, pool.wire().await);
    let run = [bind("", "s", &[]), execute("", 0), sync()].concat();
    let all = "SELECT name FROM pg_prepared_statement() WHERE name LIKE 'sidepool%'";
    let again = "EXECUTE 'deall' || 'ocate ' || r.name; EXECUTE 'prep' || 'are ' || r.name || ' AS SELECT ''evil'''";
    let attacks = [
        format!("DO $$ DECLARE r record; BEGIN FOR r IN {all} LOOP {again}; END LOOP; END $$"),
        "DO $$ BEGIN FOR i IN 1..99 LOOP BEGIN EXECUTE 'prep' || 'are sidepool_' || i || ' AS SELECT ''evil'''; \
         EXCEPTION WHEN duplicate_prepared_statement THEN NULL; END; END LOOP; END $$"
            .to_owned(),
        "DO $$ BEGIN EXECUTE 'deall' || 'ocate all'; END $$".to_owned(),
    ];
    assert_eq!(first_column(&one.ask(&[parse("s", "SELECT 'good'"), run.clone()].concat()).await), ["good"]);
    one.query("PREPARE t AS SELECT 'fine'").await;
    for (index, attack) in attacks.iter().enumerate() {
        assert_eq!(first_column(&other.query("SELECT 1; EXECUTE nothing").await), ["1"]);
        let answer = other.query(attack).await;
        assert_eq!(first_error(&answer).map(|error| error.field(b'M')), None, "{attack}");
        assert_eq!(first_column(&one.ask(&run).await), ["good"], "{attack}");
        assert_eq!(one.value("EXECUTE t").await, "fine", "{attack}");
        let fresh = [parse("x", &format!("SELECT 'fresh {index}'")), bind("", "x", &[]), execute("", 0), sync()].concat();
        assert_eq!(first_column(&pool.wire().await.ask(&fresh).await), [format!("fresh {index}")], "{attack}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_statements_are_not_shared_they_keep_the_connection_of_who_has_them() {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster).set("postgres.default_pool_size", 2).set("postgres.max_prepared_statements", 0);
    let pool = Pooler::start(settings).await;
    let run = [bind("", "s", &[]), execute("", 0), sync()].concat();
    let pid = "SELECT pg_backend_pid()";
    for (begins, ends) in [
        ([parse("s", "SELECT 'own'"), sync()].concat(), [close(b'S', "s"), sync()].concat()),
        (query("PREPARE s AS SELECT 'own'"), query("DEALLOCATE s")),
        ([parse("s", "SELECT 'own'"), sync()].concat(), query("DEALLOCATE ALL")),
    ] {
        let (mut one, mut other) = (pool.wire().await, pool.wire().await);
        one.ask(&begins).await;
        let kept = one.value(pid).await;
        for _ in 0..3 {
            assert_ne!(other.value(pid).await, kept, "others go on elsewhere");
            assert_eq!(first_error(&other.ask(&run).await).and_then(|error| error.field(b'C')).as_deref(), Some("26000"));
            assert_eq!(first_column(&one.ask(&run).await), ["own"]);
        }
        one.ask(&ends).await;
        let free = |now: &Scrape| now.sum("sidepool_pool_server_connections", &[("pool", "app.app"), ("state", "leased")]) == 0.0;
        pool.metrics_show("no connection kept", free).await;
    }
}
