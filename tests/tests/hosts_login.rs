//! What happens between a connection to a server and its first client: startup values, the connect query, and servers that do not let us in.

use std::process::Command;
use std::time::{Duration, Instant};

use sidepool_tests::conformance::proves;
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::cluster::{PASSWORD, USER};
use sidepool_tests::postgres::wire::first_error;
use sidepool_tests::postgres::{Cluster, Message, Wire};
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;

async fn attempt(pool: &Pooler, database: &str) -> Result<Wire, Message> {
    Wire::try_login(pool.postgres_port(), &[("user", USER), ("database", database)], PASSWORD).await
}

async fn refused(pool: &Pooler, database: &str) -> (String, String) {
    let error = attempt(pool, database).await.err().expect("no entry");
    (error.field(b'C').unwrap_or_default(), error.field(b'M').unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_has_startup_values_and_a_connect_query() {
    let _proof = proves(&[
        "setting [databases] client_encoding",
        "setting [databases] datestyle",
        "setting [databases] timezone",
        "setting [databases] application_name",
        "setting [databases] connect_query",
    ]);
    let cluster = Cluster::start().await;
    let entry = |name: &str| format!("postgres.databases.app.{name}");
    let settings = Settings::postgres(&cluster)
        .set("postgres.pool_mode", "session")
        .set("postgres.default_pool_size", 1)
        .set(&entry("timezone"), "Asia/Tokyo")
        .set(&entry("datestyle"), "German")
        .set(&entry("client_encoding"), "LATIN1")
        .set(&entry("application_name"), "from the entry")
        .set(&entry("connect_query"), "SET work_mem = '7MB'");
    let pool = Pooler::start(settings).await;
    let mut wire = pool.wire().await;
    assert_eq!(wire.parameters["TimeZone"], "Asia/Tokyo");
    assert_eq!(wire.parameters["DateStyle"], "German, DMY");
    assert_eq!(wire.parameters["client_encoding"], "LATIN1");
    assert_eq!(wire.value("SHOW application_name").await, "from the entry");
    assert_eq!(wire.value("SHOW work_mem").await, "7MB");
    drop(wire);
    // What the client itself asks for comes first, and what it changes is cleaned away without the connect query being lost.
    let login = [("user", USER), ("database", "app"), ("TimeZone", "UTC")];
    let mut other = Wire::try_login(pool.postgres_port(), &login, "").await.expect("it comes in");
    assert_eq!(other.value("SHOW timezone").await, "UTC");
    other.query("SET work_mem = '9MB'").await;
    drop(other);
    let mut wire = pool.wire().await;
    assert_eq!(wire.value("SHOW timezone").await, "Asia/Tokyo");
    assert_eq!(wire.value("SHOW work_mem").await, "7MB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connect_query_that_fails_is_logged_and_nothing_else() {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster).set("postgres.databases.app.connect_query", "SELECT 1/0");
    let pool = Pooler::start(settings).await;
    assert_eq!(pool.wire().await.value("SELECT 1").await, "1");
    pool.process().log().line_with("connect_query failed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_address_stands_behind_its_name() {
    let _proof = proves(&["setting application_name_add_host"]);
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.application_name_add_host", true)).await;
    let login = [("user", USER), ("database", "app"), ("application_name", "shop")];
    let mut wire = Wire::try_login(pool.postgres_port(), &login, "").await.expect("it comes in");
    let own = wire.stream().local_addr().expect("an address");
    assert_eq!(wire.value("SHOW application_name").await, format!("shop - {own}"));
    assert_eq!(wire.parameters["application_name"], format!("shop - {own}"));
    assert!(pool.wire().await.value("SHOW application_name").await.starts_with("app - 127.0.0.1:"));
}

#[tokio::test(flavor = "multi_thread")]
async fn startup_options_are_applied_like_set() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster)).await;
    let port = pool.postgres_port();
    let psql = tokio::task::spawn_blocking(move || {
        let mut psql = Command::new("psql");
        psql.env("PGOPTIONS", "-c work_mem=5MB --statement_timeout=7s").env("PGPASSWORD", PASSWORD);
        psql.args(["-X", "-A", "-t", "-h", "127.0.0.1", "-p", &port.to_string(), "-U", USER, "-d", "app"]);
        psql.args(["-c", "SHOW work_mem", "-c", "SHOW statement_timeout"]).output().expect("psql is installed")
    });
    let output = wait::soon("psql to end", psql).await.expect("it does not panic");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "5MB\n7s\n", "{}", String::from_utf8_lossy(&output.stderr));
    // lib/pq, JDBC.
    let login = [("user", USER), ("database", "app"), ("extra_float_digits", "2"), ("geqo", "off"), ("search_path", "pg_catalog")];
    let mut wire = Wire::try_login(port, &login, "").await.expect("it comes in");
    assert_eq!(wire.value("SHOW geqo").await, "off");
    assert_eq!(wire.value("SHOW search_path").await, "pg_catalog");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_let_us_in_is_told_at_once_and_in_its_words() {
    let _proof = proves(&["message server login has been failing, cached error: X (server_login_retry)"]);
    let cluster = Cluster::start().await;
    cluster.sql("ALTER DATABASE app CONNECTION LIMIT 0; ALTER ROLE app NOLOGIN").await;
    let settings = Settings::postgres(&cluster)
        .set("postgres.query_wait_timeout", "60s")
        .set("postgres.server_connect_backoff", "60s")
        .set("postgres.server_login_retry", "60s");
    let pool = Pooler::start(settings).await;
    let started = Instant::now();
    let (code, message) = refused(&pool, "app").await;
    assert_eq!((&*code, &*message), ("28000", "role \"app\" is not permitted to log in"));
    let (code, message) = refused(&pool, "app").await;
    let cached = "server login has been failing, cached error: role \"app\" is not permitted to log in (server_login_retry)";
    assert_eq!((&*code, &*message), ("08P01", cached));
    assert!(started.elapsed() < Duration::from_secs(25), "nobody waits for it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_made_later_is_found() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster).database("later", &cluster)).await;
    for _ in 0..12 {
        assert_eq!(refused(&pool, "later").await.0, "3D000");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    cluster.superuser("postgres").await.batch_execute("CREATE DATABASE later OWNER app").await.expect("made");
    let made = Instant::now();
    let mut wire = wait::until("the new database to be found", async || attempt(&pool, "later").await.ok()).await;
    assert!(made.elapsed() < Duration::from_secs(10), "{:?}", made.elapsed());
    assert!(first_error(&wire.query("SELECT 1").await).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_login_that_failed_the_next_one_comes_when_it_is_due() {
    let _proof = proves(&["setting server_login_retry"]);
    let cluster = Cluster::start().await;
    cluster.sql("ALTER ROLE app NOLOGIN").await;
    for (retry, wanted) in [(200, 10.0), (2_000, 3.0)] {
        let setting = format!("{retry}ms");
        let settings = Settings::postgres(&cluster).set("postgres.server_connect_backoff", &*setting);
        let pool = Pooler::start(settings.set("postgres.server_login_retry", setting)).await;
        let started = Instant::now();
        // The clients do not leave it alone.
        let failed = wait::until("so many attempts", async || {
            assert!(refused(&pool, "app").await.1.contains("role \"app\" is not permitted to log in"));
            tokio::time::sleep(Duration::from_millis(20)).await;
            Some(pool.scrape().await.sum("sidepool_server_connects_total", &[])).filter(|failed| *failed >= wanted)
        })
        .await;
        // Each pause is at least half of what is set.
        let (took, most) = (started.elapsed(), started.elapsed().as_secs_f64() * 2_000.0 / f64::from(retry) + 1.0);
        assert!(failed <= most, "{retry} ms: {failed} attempts in {took:?}");
        // The usual pause would take longer.
        assert!(took < Duration::from_secs(12), "{retry} ms: {failed} attempts took {took:?}");
    }
}
