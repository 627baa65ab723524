//! Clients that share connections do not notice each other: session parameters follow the client, rows go to who asked.

use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::cluster::PASSWORD;
use sidepool_tests::postgres::wire::{first_column, first_error};
use sidepool_tests::postgres::{Cluster, Wire, frame};
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;
use tokio::task::JoinSet;

async fn with_parameters(pool: &Pooler, extra: &[(&str, &str)]) -> Wire {
    let parameters = [&[("user", "app"), ("database", "app")], extra].concat();
    Wire::try_login(pool.postgres_port(), &parameters, PASSWORD).await.unwrap_or_else(|error| panic!("{:?}", error.field(b'M')))
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_of_the_startup_message_follow_the_client() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.default_pool_size", 1)).await;
    let mut berlin =
        with_parameters(&pool, &[("application_name", "berlin"), ("timezone", "Europe/Berlin"), ("datestyle", "German")]).await;
    let mut plain = with_parameters(&pool, &[]).await;
    let mut latin = with_parameters(&pool, &[("application_name", "latin"), ("client_encoding", "LATIN1")]).await;
    for _ in 0..3 {
        assert_eq!(berlin.value("SHOW application_name").await, "berlin");
        assert_eq!(berlin.value("SELECT timestamptz '2026-01-31 12:00+00'").await, "31.01.2026 13:00:00 CET");
        assert_eq!(plain.value("SHOW application_name").await, "");
        assert_eq!(plain.value("SHOW datestyle").await, "ISO, MDY");
        assert_eq!(latin.value("SHOW application_name").await, "latin");
        let umlaut = latin.query("SELECT U&'\\00e4'").await;
        assert!(umlaut.iter().any(|message| message.body.ends_with(&[0xe4])), "one byte in LATIN1: {umlaut:?}");
        assert_eq!(plain.value("SELECT U&'\\00e4'").await, "ä");
    }
    assert_eq!(latin.parameters.get("client_encoding").map(String::as_str), Some("LATIN1"));
    assert_eq!(plain.parameters.get("client_encoding").map(String::as_str), Some("UTF8"));
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_that_a_client_sets_follow_it() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.default_pool_size", 2)).await;
    let mut clients = Vec::new();
    for index in 0..6 {
        let mut wire = pool.wire().await;
        wire.query(&format!("SET application_name = 'client {index}'; SET timezone = 'Etc/GMT-{index}'; SET intervalstyle = 'iso_8601'"))
            .await;
        clients.push(wire);
    }
    for _ in 0..5 {
        for (index, wire) in clients.iter_mut().enumerate() {
            assert_eq!(wire.value("SHOW application_name").await, format!("client {index}"));
            assert_eq!(wire.value("SHOW timezone").await, format!("Etc/GMT-{index}"));
            assert_eq!(wire.value("SELECT interval '1 day'").await, "P1D");
            assert_eq!(wire.parameters["application_name"], format!("client {index}"));
        }
        clients.rotate_left(1);
        clients.rotate_right(1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parameter_set_in_a_transaction_goes_with_it() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.default_pool_size", 1)).await;
    let (mut first, mut second) = (pool.wire().await, pool.wire().await);
    first.query("BEGIN; SET application_name = 'undone'").await;
    assert_eq!(first.value("SHOW application_name").await, "undone");
    first.query("ROLLBACK").await;
    assert_eq!(second.value("SHOW application_name").await, "");
    assert_eq!(first.value("SHOW application_name").await, "");
    first.query("BEGIN; SET LOCAL application_name = 'local'").await;
    first.query("COMMIT").await;
    assert_eq!(first.value("SHOW application_name").await, "");
    first.query("BEGIN; SET application_name = 'done'; COMMIT").await;
    assert_eq!(second.value("SHOW application_name").await, "");
    assert_eq!(first.value("SHOW application_name").await, "done");
    first.query("RESET application_name").await;
    assert_eq!(first.value("SHOW application_name").await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_client_after_another_starts_from_the_defaults() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.default_pool_size", 1)).await;
    let mut first = pool.wire().await;
    first.query("SET datestyle = 'SQL, DMY'; SET standard_conforming_strings = off; SET client_encoding = 'LATIN1'").await;
    first.send(&frame::terminate()).await;
    first.until_closed().await;
    let mut second = pool.wire().await;
    assert_eq!(second.value("SHOW datestyle").await, "ISO, MDY");
    assert_eq!(second.value("SHOW standard_conforming_strings").await, "on");
    assert_eq!(second.value("SHOW client_encoding").await, "UTF8");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_go_to_who_asked_for_them() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.default_pool_size", 3)).await;
    let mut clients = JoinSet::new();
    for client in 0..40 {
        let mut wire = pool.wire().await;
        clients.spawn(async move {
            for round in 0..25 {
                let token = format!("{client}-{round}");
                // Simple, extended and failing requests take turns, each with an answer that is this client's alone.
                let messages = match round % 3 {
                    0 => wire.query(&format!("SELECT '{token}' FROM pg_sleep(0.00{})", client % 4)).await,
                    1 => {
                        let request =
                            [frame::parse("", "SELECT $1::text"), frame::bind("", "", &[&token]), frame::execute("", 0), frame::sync()];
                        wire.ask(&request.concat()).await
                    }
                    _ => wire.query(&format!("SELECT \"{token}\"")).await,
                };
                if round % 3 == 2 {
                    let error = first_error(&messages).and_then(|error| error.field(b'M'));
                    assert_eq!(error, Some(format!("column \"{token}\" does not exist")));
                } else {
                    assert_eq!(first_column(&messages), [token]);
                }
            }
        });
    }
    while let Some(done) = clients.join_next().await {
        done.expect("every client got its own answers");
    }
    // One that was told goodbye is seen for a moment longer.
    wait::until("three connections at most", async || (cluster.connections().await <= 3).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_databases_have_pools_of_their_own() {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster)
        .set("postgres.default_pool_size", 1)
        .set("postgres.users.second.password", "second-secret")
        .database("other", &cluster);
    let pool = Pooler::start(settings).await;
    let mut seen = Vec::new();
    for (user, database) in [("app", "app"), ("second", "app"), ("app", "other"), ("second", "other")] {
        let mut wire = Wire::login(pool.postgres_port(), user, database, "").await;
        assert_eq!(wire.value("SELECT current_user || '@' || current_database()").await, format!("{user}@{database}"));
        seen.push(wire);
    }
    assert_eq!(cluster.connections().await, 4);
}
