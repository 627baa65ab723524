//! How many clients a database and a user may have: at each level, in PgBouncer's words, over all workers, and with room again for the next.

use sidepool_tests::conformance::proves;
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::cancel::{cancel_at, is_cancelled, runs};
use sidepool_tests::postgres::cluster::PASSWORD;
use sidepool_tests::postgres::{Cluster, Wire, frame};
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;

const SECOND: &str = "second-secret";

fn settings(cluster: &Cluster) -> Settings {
    Settings::postgres(cluster).database("other", cluster).set("postgres.users.second.password", SECOND)
}

async fn login(pool: &Pooler, user: &str, database: &str) -> Result<Wire, String> {
    let password = if user == "app" { PASSWORD } else { SECOND };
    let answer = Wire::try_login(pool.postgres_port(), &[("user", user), ("database", database)], password).await;
    answer.map_err(|error| {
        assert_eq!((error.field(b'S').as_deref(), error.field(b'C').as_deref()), (Some("FATAL"), Some("53300")));
        assert!(error.field(b'D').is_some() && error.field(b'H').is_some(), "a refusal has facts and a hint");
        error.field(b'M').unwrap_or_default()
    })
}

async fn is_refused(pool: &Pooler, user: &str, database: &str, setting: &str) {
    let refused = login(pool, user, database).await.err();
    assert_eq!(refused, Some(format!("client connections exceeded ({setting})")), "{user} in {database}");
}

async fn comes_in(pool: &Pooler, user: &str, database: &str) -> Wire {
    let mut wire = login(pool, user, database).await.expect("there is room");
    assert_eq!(wire.value("SELECT 1").await, "1");
    wire
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_has_as_many_clients_as_it_may() {
    let _proof = proves(&[
        "setting max_db_client_connections",
        "setting [databases] max_db_client_connections",
        "message client connections exceeded (max_db_client_connections)",
    ]);
    let cluster = Cluster::start().await;
    let settings = settings(&cluster)
        .set("workers", 2)
        .set("postgres.max_db_client_connections", 2)
        .set("postgres.databases.other.max_db_client_connections", 3);
    let pool = Pooler::start(settings).await;
    let mut clients = vec![comes_in(&pool, "app", "app").await, comes_in(&pool, "second", "app").await];
    is_refused(&pool, "app", "app", "max_db_client_connections").await;
    is_refused(&pool, "second", "app", "max_db_client_connections").await;
    for _ in 0..3 {
        clients.push(comes_in(&pool, "app", "other").await);
    }
    is_refused(&pool, "app", "other", "max_db_client_connections").await;
    clients.remove(0);
    wait::until("the place that is free again", async || login(&pool, "app", "app").await.ok()).await;
    assert_eq!(clients[0].value("SELECT 'unharmed'").await, "unharmed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_has_as_many_clients_as_it_may_over_all_databases() {
    let _proof = proves(&[
        "setting max_user_client_connections",
        "setting [users] max_user_client_connections",
        "message client connections exceeded (max_user_client_connections)",
    ]);
    let cluster = Cluster::start().await;
    let settings = settings(&cluster)
        .set("workers", 2)
        .set("postgres.max_user_client_connections", 2)
        .set("postgres.users.second.max_user_client_connections", 1);
    let pool = Pooler::start(settings).await;
    let first = comes_in(&pool, "app", "app").await;
    let mut second = comes_in(&pool, "app", "other").await;
    is_refused(&pool, "app", "app", "max_user_client_connections").await;
    let _own = comes_in(&pool, "second", "app").await;
    is_refused(&pool, "second", "other", "max_user_client_connections").await;
    drop(first);
    wait::until("the place that is free again", async || login(&pool, "app", "other").await.ok()).await;
    assert_eq!(second.value("SELECT 'unharmed'").await, "unharmed");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_change_with_a_reload_and_who_is_in_stays() {
    let cluster = Cluster::start().await;
    let settings = settings(&cluster);
    let mut pool = Pooler::start(settings.clone()).await;
    let mut clients = vec![comes_in(&pool, "app", "app").await, comes_in(&pool, "app", "app").await];
    pool.reload(settings.clone().set("postgres.max_db_client_connections", 1)).await;
    is_refused(&pool, "app", "app", "max_db_client_connections").await;
    for wire in &mut clients {
        assert_eq!(wire.value("SELECT 'stays'").await, "stays");
    }
    pool.reload(settings.clone().set("postgres.users.app.max_user_client_connections", 3)).await;
    clients.push(comes_in(&pool, "app", "app").await);
    is_refused(&pool, "app", "other", "max_user_client_connections").await;
    pool.reload(settings).await;
    comes_in(&pool, "app", "app").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_fails_to_log_in_takes_no_place() {
    let cluster = Cluster::start().await;
    let settings = settings(&cluster).set("postgres.auth_type", "scram-sha-256").set("postgres.max_db_client_connections", 1);
    let pool = Pooler::start(settings).await;
    for _ in 0..3 {
        let wrong = Wire::try_login(pool.postgres_port(), &[("user", "app"), ("database", "app")], "wrong").await;
        assert!(wrong.is_err());
    }
    let mut only = comes_in(&pool, "app", "app").await;
    is_refused(&pool, "app", "app", "max_db_client_connections").await;
    assert_eq!(only.value("SELECT 1").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_gets_through_a_storm_of_clients_that_are_refused() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.max_client_conn", 1).set("workers", 1)).await;
    let mut only = pool.wire().await;
    only.send(&frame::query("SELECT pg_sleep(60)")).await;
    runs(&cluster, "pg_sleep(60)").await;
    // More than are told at a time that they are one too many, and none of them says anything.
    let mut silent = Vec::new();
    for _ in 0..400 {
        silent.push(Wire::connect(pool.postgres_port()).await);
    }
    cancel_at(pool.postgres_port(), &only).await;
    is_cancelled(&mut only).await;
}
