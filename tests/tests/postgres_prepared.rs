//! Named prepared statements in transaction mode: each client has its own names, whatever connection it gets.

use sidepool_tests::conformance::proves;
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::frame::{bind, close, describe, execute, parse, sync};
use sidepool_tests::postgres::wire::{first_column, first_error};
use sidepool_tests::postgres::{Cluster, tags};
use sidepool_tests::settings::Settings;
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread")]
async fn the_same_name_means_what_each_client_said() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.default_pool_size", 2)).await;
    let mut clients = Vec::new();
    for index in 0..6 {
        let mut wire = pool.wire().await;
        let answer = wire.ask(&[parse("s", &format!("SELECT {index} + $1::int")), sync()].concat()).await;
        assert_eq!(tags(&answer), "1Z");
        clients.push(wire);
    }
    for round in 0..5 {
        for (index, wire) in clients.iter_mut().enumerate() {
            let answer = wire.ask(&[bind("", "s", &["100"]), execute("", 0), sync()].concat()).await;
            assert_eq!(tags(&answer), "2DCZ", "round {round}");
            assert_eq!(first_column(&answer), [(100 + index).to_string()]);
            let described = wire.ask(&[describe(b'S', "s"), sync()].concat()).await;
            assert_eq!(tags(&described), "tTZ", "round {round}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_survives_a_change_of_connection() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.default_pool_size", 2)).await;
    let mut wire = pool.wire().await;
    wire.ask(&[parse("mine", "SELECT pg_backend_pid(), $1::text"), sync()].concat()).await;
    let first = first_column(&wire.ask(&[bind("", "mine", &["x"]), execute("", 0), sync()].concat()).await);
    // Whoever holds the first connection pushes the client to another.
    let mut holder = pool.wire().await;
    holder.query("BEGIN").await;
    let mut other = pool.wire().await;
    other.query("BEGIN").await;
    let held = [holder.value("SELECT pg_backend_pid()").await, other.value("SELECT pg_backend_pid()").await];
    let release = if held[0] == first[0] { &mut other } else { &mut holder };
    release.query("COMMIT").await;
    let answer = wire.ask(&[bind("", "mine", &["y"]), execute("", 0), sync()].concat()).await;
    assert_eq!(tags(&answer), "2DCZ");
    assert_ne!(first_column(&answer), first, "this is another connection");
    assert_eq!(cluster.terminate_connections().await, 2);
    let after = pool.metrics_show("the loss of the connections", |now| now.sum("sidepool_server_closes_total", &[]) >= 2.0).await;
    assert!(after.has("sidepool_server_connects_total"));
    let answer = wire.ask(&[bind("", "mine", &["z"]), execute("", 0), sync()].concat()).await;
    assert_eq!(tags(&answer), "2DCZ", "{:?}", first_error(&answer).and_then(|error| error.field(b'M')));
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_answered_as_the_server_does() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster)).await;
    let mut direct = sidepool_tests::postgres::Wire::login(cluster.port(), "app", "app", "app-secret-0815").await;
    let mut pooled = pool.wire().await;
    let requests = [
        [bind("", "unknown", &[]), execute("", 0), sync()].concat(),
        [describe(b'S', "unknown"), sync()].concat(),
        [parse("s", "SELECT 1"), sync()].concat(),
        [parse("s", "SELECT 2"), sync()].concat(),
        [bind("", "s", &[]), execute("", 0), sync()].concat(),
        [close(b'S', "s"), sync()].concat(),
        [bind("", "s", &[]), execute("", 0), sync()].concat(),
        [parse("s", "SELEKT"), sync()].concat(),
        [bind("", "s", &[]), execute("", 0), sync()].concat(),
        [parse("s", "SELECT 3"), bind("", "s", &[]), execute("", 0), close(b'S', "s"), parse("s", "SELECT 4"), sync()].concat(),
        [bind("", "s", &[]), execute("", 0), sync()].concat(),
        [parse("t", "SELECT 1 / $1::int"), bind("", "t", &["0"]), execute("", 0), sync()].concat(),
        [bind("", "t", &["1"]), execute("", 0), sync()].concat(),
        [parse("u", "SELECT 1 / 0"), bind("", "missing", &[]), parse("v", "SELECT 5"), sync()].concat(),
        [bind("", "v", &[]), execute("", 0), sync()].concat(),
        [bind("", "u", &[]), sync()].concat(),
    ];
    for (index, request) in requests.iter().enumerate() {
        let (expected, got) = (direct.ask(request).await, pooled.ask(request).await);
        assert_eq!(tags(&expected), tags(&got), "request {index}");
        let code = |messages: &[_]| first_error(messages).and_then(|error| error.field(b'C'));
        let message = |messages: &[_]| first_error(messages).and_then(|error| error.field(b'M'));
        assert_eq!((code(&expected), message(&expected)), (code(&got), message(&got)), "request {index}");
        assert_eq!(first_column(&expected), first_column(&got), "request {index}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_keeps_a_bounded_number_of_statements() {
    let _proof = proves(&["setting max_prepared_statements"]);
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster).set("postgres.default_pool_size", 1).set("postgres.max_prepared_statements", 5);
    let pool = Pooler::start(settings).await;
    let mut wire = pool.wire().await;
    for round in 0..2 {
        for index in 0..30 {
            let name = format!("s{index}");
            if round == 0 {
                wire.ask(&[parse(&name, &format!("SELECT {index}")), sync()].concat()).await;
            }
            let answer = wire.ask(&[bind("", &name, &[]), execute("", 0), sync()].concat()).await;
            assert_eq!(first_column(&answer), [index.to_string()], "round {round}");
            let kept: u32 = wire.value("SELECT count(*) FROM pg_prepared_statement()").await.parse().expect("a number");
            assert!(kept <= 5, "{kept} statements are kept");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_drivers_prepare_the_same_and_different_statements() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.default_pool_size", 3)).await;
    let mut clients = JoinSet::new();
    for client in 0..15_i32 {
        let connection = pool.client().await;
        clients.spawn(async move {
            let shared = connection.prepare("SELECT $1::int * 2").await.expect("prepared");
            let own = connection.prepare(&format!("SELECT $1::int + {client}")).await.expect("prepared");
            for round in 0..40_i32 {
                let rows = connection.query(&shared, &[&round]).await.expect("the shared statement");
                assert_eq!(rows[0].get::<_, i32>(0), round * 2);
                let rows = connection.query(&own, &[&round]).await.expect("a statement of its own");
                assert_eq!(rows[0].get::<_, i32>(0), round + client);
            }
        });
    }
    while let Some(done) = clients.join_next().await {
        done.expect("every driver got its own answers");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_uses_what_it_has_just_prepared() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.default_pool_size", 1)).await;
    let (mut first, mut second) = (pool.wire().await, pool.wire().await);
    for round in 0..3 {
        let request = [
            parse("a", "SELECT 'a' || $1"),
            sync(),
            bind("", "a", &["1"]),
            execute("", 0),
            parse("b", "SELECT 'b' || $1"),
            bind("", "b", &["2"]),
            execute("", 0),
            sync(),
            close(b'S', "a"),
            bind("", "b", &["3"]),
            execute("", 0),
            close(b'S', "b"),
            sync(),
        ];
        for wire in [&mut first, &mut second] {
            wire.send(&request.concat()).await;
            let mut answers = Vec::new();
            for _ in 0..3 {
                answers.extend(wire.until_ready().await);
            }
            assert_eq!(tags(&answers), "1Z2DC12DCZ32DC3Z", "round {round}");
            assert_eq!(first_column(&answers), ["a1", "b2", "b3"]);
        }
    }
}
