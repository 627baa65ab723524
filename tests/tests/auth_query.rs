//! `auth_query` and SCRAM pass-through: users whom only the server knows, and whose passwords nobody but they and the server know.

use sidepool_tests::conformance::proves;
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::cluster::{PASSWORD, USER};
use sidepool_tests::postgres::{Cluster, Message, Wire, frame};
use sidepool_tests::scrape::Scrape;
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;
use tokio::task::JoinSet;

/// A function that only its owner may run, as PgBouncer's documentation recommends; it counts how often it is asked, and waits for whoever has locked 1.
const LOOKUP: &str = "\
CREATE SEQUENCE asked;
CREATE FUNCTION lookup(name text) RETURNS TABLE (usename text, passwd text) LANGUAGE sql SECURITY DEFINER AS
  $$ SELECT nextval('asked'); SELECT pg_advisory_xact_lock_shared(1);
  SELECT rolname::text, rolpassword::text FROM pg_authid WHERE rolname = name AND rolcanlogin $$;
CREATE ROLE looker LOGIN PASSWORD 'looker-secret';
GRANT USAGE ON SEQUENCE asked TO looker;
";

async fn cluster() -> Cluster {
    let cluster = Cluster::start().await;
    cluster.sql(LOOKUP).await;
    cluster
}

/// Nobody is listed but the one who looks up.
fn settings(cluster: &Cluster) -> Settings {
    Settings::postgres(cluster)
        .without("postgres.users.app")
        .set("postgres.auth_type", "scram-sha-256")
        .set("postgres.auth_user", "looker")
        .set("postgres.auth_query", "SELECT usename, passwd FROM lookup($1)")
        .set("postgres.users.looker.password", "looker-secret")
}

async fn asked(cluster: &Cluster) -> i64 {
    let row = cluster.superuser("app").await.query_one("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM asked", &[]).await;
    row.expect("a sequence").get(0)
}

async fn attempt(pool: &Pooler, user: &str, database: &str, password: &str) -> Result<Wire, Message> {
    Wire::try_login(pool.postgres_port(), &[("user", user), ("database", database)], password).await
}

fn told(error: &Message) -> (String, String) {
    (error.field(b'C').expect("a code"), error.field(b'M').expect("a message"))
}

#[tokio::test(flavor = "multi_thread")]
async fn scram_passes_through_with_no_plain_text_anywhere() {
    let _proof = proves(&["setting auth_user", "setting auth_query", "message SASL authentication failed"]);
    let cluster = cluster().await;
    let pool = Pooler::start(settings(&cluster)).await;
    let mut wire = attempt(&pool, USER, "app", PASSWORD).await.unwrap_or_else(|error| panic!("{:?}", told(&error)));
    assert_eq!(wire.value("SELECT current_user").await, USER);
    // Other connections of the pool use the same keys.
    wire.query("BEGIN").await;
    let mut other = attempt(&pool, USER, "app", PASSWORD).await.unwrap_or_else(|error| panic!("{:?}", told(&error)));
    assert_eq!(other.value("SELECT current_user").await, USER);
    wire.query("COMMIT").await;
    cluster.terminate_connections().await;
    wait::until("a new connection", async || (other.value("SELECT current_user").await == USER).then_some(())).await;
    let wrong = attempt(&pool, USER, "app", "wrong").await.err().expect("refused");
    let unknown = attempt(&pool, "nobody", "app", "wrong").await.err().expect("refused");
    assert_eq!(told(&wrong), ("28P01".to_owned(), "SASL authentication failed".to_owned()));
    assert_eq!(told(&wrong), told(&unknown), "whom the server does not know is no other than one with a wrong password");
    let unknown_database = attempt(&pool, USER, "nowhere", PASSWORD).await.err().expect("refused");
    assert_eq!(told(&unknown_database), told(&wrong), "without auth_dbname there is nowhere to look up");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_verifier_passes_through_from_the_file() {
    let cluster = Cluster::start().await;
    let row = cluster.superuser("app").await.query_one("SELECT rolpassword FROM pg_authid WHERE rolname = 'app'", &[]).await;
    let verifier: String = row.expect("the superuser reads it").get(0);
    let settings = Settings::postgres(&cluster).set("postgres.auth_type", "md5").set("postgres.users.app.password", verifier.clone());
    let pool = Pooler::start(settings.clone().set("postgres.min_pool_size", 2)).await;
    let mut wire = attempt(&pool, USER, "app", PASSWORD).await.unwrap_or_else(|error| panic!("{:?}", told(&error)));
    assert_eq!(wire.value("SELECT current_user").await, USER);
    wait::until("the minimum", async || (cluster.connections().await >= 2).then_some(())).await;
    assert!(!pool.process().log().tail(1000).contains("SCRAM-SHA-256$"), "no verifier in the log");
    drop(pool);
    // A client that gives its password in clear text leaves even more: the password.
    let pool = Pooler::start(settings.set("postgres.auth_type", "plain")).await;
    let mut wire = attempt(&pool, USER, "app", PASSWORD).await.unwrap_or_else(|error| panic!("{:?}", told(&error)));
    assert_eq!(wire.value("SELECT current_user").await, USER);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_salt_is_told_apart_from_a_wrong_password() {
    let cluster = Cluster::start().await;
    let row = cluster.superuser("app").await.query_one("SELECT rolpassword FROM pg_authid WHERE rolname = 'app'", &[]).await;
    let verifier: String = row.expect("the superuser reads it").get(0);
    // The same password again: the salt is another one.
    cluster.sql(&format!("ALTER ROLE app PASSWORD '{PASSWORD}'")).await;
    let settings = Settings::postgres(&cluster).set("postgres.auth_type", "scram-sha-256").set("postgres.users.app.password", verifier);
    let pool = Pooler::start(settings).await;
    let error = attempt(&pool, USER, "app", PASSWORD).await.err().expect("the server does not take these keys");
    let text = String::from_utf8_lossy(&error.body).into_owned();
    assert!(text.contains("another salt") && text.contains("auth_query"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_password_counts_at_once() {
    let cluster = cluster().await;
    let pool = Pooler::start(settings(&cluster)).await;
    let mut old = attempt(&pool, USER, "app", PASSWORD).await.unwrap_or_else(|error| panic!("{:?}", told(&error)));
    for round in 0..5 {
        let password = format!("rotated-{round}");
        cluster.sql(&format!("ALTER ROLE app PASSWORD '{password}'")).await;
        assert!(attempt(&pool, USER, "app", PASSWORD).await.is_err(), "the old password does not count for a moment longer");
        let mut wire = attempt(&pool, USER, "app", &password).await.unwrap_or_else(|error| panic!("{round}: {:?}", told(&error)));
        // With the new keys, too, connections are opened.
        cluster.terminate_connections().await;
        wait::until("a connection with the new keys", async || (wire.value("SELECT current_user").await == USER).then_some(())).await;
    }
    assert_eq!(old.value("SELECT 1").await, "1", "who is in stays in");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_logins_is_no_burst_of_queries() {
    let cluster = cluster().await;
    // By MD5, so that what takes the time is not the client's own hashing.
    let pool = Pooler::start(settings(&cluster).set("postgres.auth_type", "md5")).await;
    drop(attempt(&pool, "legacy", "app", "legacy-secret").await.ok());
    let before = asked(&cluster).await;
    let port = pool.postgres_port();
    // The first is answered when all have come.
    let gate = cluster.superuser("app").await;
    gate.batch_execute("SELECT pg_advisory_lock(1)").await.expect("a lock");
    let mut burst = JoinSet::new();
    for _ in 0..200 {
        burst.spawn(async move { Wire::try_login(port, &[("user", "legacy"), ("database", "app")], "legacy-secret").await.is_ok() });
    }
    pool.metrics_show("all to be here", |now| now.sum("sidepool_listener_client_connections", &[]) == 200.0).await;
    gate.batch_execute("SELECT pg_advisory_unlock(1)").await.expect("no lock");
    let mut admitted = 0;
    while let Some(one) = burst.join_next().await {
        admitted += usize::from(one.expect("no panic"));
    }
    assert_eq!(admitted, 200);
    let queries = asked(&cluster).await - before;
    println!("200 logins, {queries} queries");
    assert!((1..=100).contains(&queries), "200 logins asked {queries} times");
    let of = |now: &Scrape, result: &str| now.sum("sidepool_auth_lookups_total", &[("result", result)]);
    let now = pool.scrape().await;
    assert_eq!([of(&now, "found"), of(&now, "missing"), of(&now, "error")], [201.0, 0.0, 0.0]);
    assert!(attempt(&pool, "nobody", "app", "secret").await.is_err());
    assert_eq!(of(&pool.scrape().await, "missing"), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_secret_is_good_for_its_kind_of_server() {
    let cluster = cluster().await;
    let pool = Pooler::start(settings(&cluster).set("postgres.auth_type", "md5")).await;
    for (user, password) in [(USER, PASSWORD), ("legacy", "legacy-secret"), ("second", "second-secret")] {
        let mut wire = attempt(&pool, user, "app", password).await.unwrap_or_else(|error| panic!("{user}: {:?}", told(&error)));
        assert_eq!(wire.value("SELECT current_user").await, user);
    }
    drop(pool);
    // A query that answers plain passwords serves every method.
    let plain = "SELECT $1::text, 'clear-secret'";
    let pool = Pooler::start(settings(&cluster).set("postgres.auth_query", plain)).await;
    let mut wire = attempt(&pool, "clear", "app", "clear-secret").await.unwrap_or_else(|error| panic!("{:?}", told(&error)));
    assert_eq!(wire.value("SELECT current_user").await, "clear");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_does_not_work_is_a_config_error_for_these_logins_alone() {
    let _proof = proves(&["message bouncer config error"]);
    let cluster = cluster().await;
    for (query, logged) in [
        ("SELECT usename FROM lookup($1)", "2 columns"),
        ("SELECT NULL::text, passwd FROM lookup($1)", "without a name"),
        ("SELECT no_such_column, $1 FROM lookup($1)", "no_such_column"),
        ("", ""),
    ] {
        let own = |settings: Settings| {
            if query.is_empty() {
                settings.set("postgres.users.looker.password", "outdated")
            } else {
                settings.set("postgres.auth_query", query)
            }
        };
        let pool = Pooler::start(own(settings(&cluster)).set("postgres.users.second.password", "second-secret")).await;
        let error = attempt(&pool, USER, "app", PASSWORD).await.err().expect("refused");
        assert_eq!(told(&error).1, "bouncer config error", "{query}");
        let text = String::from_utf8_lossy(&error.body).into_owned();
        assert!(!text.contains("looker"), "a stranger learns nothing of how it is configured: {text}");
        pool.process().log().line_with("a login failed because the user could not be looked up").await;
        assert!(pool.process().log().tail(1000).contains(logged), "{query}");
        let mut listed = attempt(&pool, "second", "app", "second-secret").await.unwrap_or_else(|error| panic!("{:?}", told(&error)));
        assert_eq!(listed.value("SELECT 1").await, "1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_null_secret_is_a_user_without_a_password() {
    let _proof = proves(&["message no such user"]);
    let cluster = cluster().await;
    let null = settings(&cluster).set("postgres.auth_query", "SELECT usename, NULL::text FROM lookup($1)");
    let pool = Pooler::start(null.clone()).await;
    assert_eq!(told(&attempt(&pool, USER, "app", "").await.err().expect("refused")).1, "SASL authentication failed");
    drop(pool);
    let pool = Pooler::start(null.set("postgres.auth_type", "trust")).await;
    let mut wire = attempt(&pool, "open", "app", "").await.unwrap_or_else(|error| panic!("{:?}", told(&error)));
    assert_eq!(wire.value("SELECT current_user").await, "open");
    let unknown = attempt(&pool, "nobody", "app", "").await.err().expect("refused");
    assert_eq!(told(&unknown).1, "no such user");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_down_or_hangs_stalls_nobody_else() {
    let (mut broken, good) = (cluster().await, cluster().await);
    let settings = settings(&good)
        .database("dead", &broken)
        .set("postgres.databases.dead.dbname", "app")
        .set("postgres.databases.dead.query_wait_timeout", "60s")
        .set("postgres.client_login_timeout", "60s");
    let mut pool = Pooler::start(settings.clone()).await;
    // It hangs: the function waits for a lock.
    let holder = broken.superuser("app").await;
    holder.batch_execute("BEGIN; LOCK TABLE pg_authid IN ACCESS EXCLUSIVE MODE").await.expect("a lock");
    let port = pool.postgres_port();
    let mut hanging = JoinSet::new();
    for _ in 0..20 {
        hanging.spawn(async move { Wire::try_login(port, &[("user", USER), ("database", "dead")], PASSWORD).await.is_ok() });
    }
    // Whoever waited for those would wait for longer than the test does.
    for _ in 0..10 {
        let mut wire = attempt(&pool, USER, "app", PASSWORD).await.unwrap_or_else(|error| panic!("{:?}", told(&error)));
        assert_eq!(wire.value("SELECT 1").await, "1");
    }
    holder.batch_execute("ROLLBACK").await.expect("an end");
    while let Some(one) = hanging.join_next().await {
        let _ = one.expect("no panic");
    }
    drop(holder);
    pool.reload(settings.set("postgres.databases.dead.query_wait_timeout", "2s")).await;
    broken.stop();
    let error = attempt(&pool, USER, "dead", PASSWORD).await.err().expect("refused");
    assert_eq!(told(&error), ("08001".to_owned(), "bouncer config error".to_owned()));
    let mut wire = attempt(&pool, USER, "app", PASSWORD).await.unwrap_or_else(|error| panic!("{:?}", told(&error)));
    assert_eq!(wire.value("SELECT 1").await, "1");
    broken.launch().await;
    wait::until("the database to be back", async || attempt(&pool, USER, "dead", PASSWORD).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_database_may_know_the_users() {
    let _proof = proves(&["setting auth_dbname", "message no such database: X"]);
    let cluster = cluster().await;
    let settings = settings(&cluster).database("other", &cluster).set("postgres.auth_dbname", "app");
    let pool = Pooler::start(settings).await;
    // `lookup` is only in the database app.
    let mut wire = attempt(&pool, USER, "other", PASSWORD).await.unwrap_or_else(|error| panic!("{:?}", told(&error)));
    assert_eq!(wire.value("SELECT current_database()").await, "other");
    let unknown = attempt(&pool, USER, "nowhere", PASSWORD).await.err().expect("refused");
    assert_eq!(told(&unknown).1, "no such database: nowhere", "said to one who has proven who he is");
    assert_eq!(told(&attempt(&pool, USER, "nowhere", "wrong").await.err().expect("refused")).1, "SASL authentication failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_clients_set_reaches_the_lookup() {
    let cluster = cluster().await;
    // A client may come in as the one who looks up, and brings a search_path in which `lookup` is its own.
    cluster.sql("CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO PUBLIC; CREATE FUNCTION evil.lookup(name text) RETURNS TABLE (usename text, passwd text) LANGUAGE sql AS $$ SELECT name, 'known' $$").await;
    let settings = settings(&cluster).set("postgres.default_pool_size", 1);
    let pool = Pooler::start(settings).await;
    let evil = [("user", "looker"), ("database", "app"), ("search_path", "evil, public")];
    let mut wire = Wire::try_login(pool.postgres_port(), &evil, "looker-secret").await.unwrap_or_else(|error| panic!("{:?}", told(&error)));
    assert_eq!(wire.value("SELECT passwd FROM lookup('app')").await, "known", "its own connection sees it");
    assert!(attempt(&pool, USER, "app", "known").await.is_err());
    let mut right = attempt(&pool, USER, "app", PASSWORD).await.unwrap_or_else(|error| panic!("{:?}", told(&error)));
    assert_eq!(right.value("SELECT 1").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_of_looked_up_users_survive_a_reload() {
    let cluster = cluster().await;
    let settings = settings(&cluster);
    let mut pool = Pooler::start(settings.clone()).await;
    let mut wire = attempt(&pool, USER, "app", PASSWORD).await.unwrap_or_else(|error| panic!("{:?}", told(&error)));
    let before = wire.value("SELECT pg_backend_pid()").await;
    pool.reload(settings.set("postgres.default_pool_size", 7)).await;
    assert_eq!(wire.value("SELECT pg_backend_pid()").await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_may_look_up_in_its_own_way() {
    let _proof = proves(&["setting [databases] auth_user", "setting [databases] auth_query", "setting [databases] auth_dbname"]);
    let cluster = cluster().await;
    let own = "SELECT usename, passwd FROM lookup($1)";
    let settings = Settings::postgres(&cluster)
        .without("postgres.users.app")
        .set("postgres.auth_type", "scram-sha-256")
        .set("postgres.users.looker.password", "looker-secret")
        .set("postgres.databases.app.auth_user", "looker")
        .set("postgres.databases.app.auth_query", own)
        .database("other", &cluster)
        .set("postgres.databases.other.auth_user", "looker")
        .set("postgres.databases.other.auth_query", own)
        .set("postgres.databases.other.auth_dbname", "app")
        .database("closed", &cluster)
        .set("postgres.databases.closed.dbname", "app");
    let pool = Pooler::start(settings).await;
    for database in ["app", "other"] {
        let mut wire = attempt(&pool, USER, database, PASSWORD).await.unwrap_or_else(|error| panic!("{database}: {:?}", told(&error)));
        assert_eq!(wire.value("SELECT current_database()").await, database);
    }
    assert_eq!(told(&attempt(&pool, USER, "closed", PASSWORD).await.err().expect("nobody is looked up there")).0, "28P01");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_iterations_are_those_that_are_set() {
    let _proof = proves(&["setting scram_iterations"]);
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster).set("postgres.auth_type", "scram-sha-256").set("postgres.scram_iterations", 777);
    let mut pool = Pooler::start(settings.clone()).await;
    for iterations in ["777", "1234"] {
        // The user has a plain secret, the stranger nothing: both are told the same.
        for user in [USER, "stranger"] {
            let mut wire = Wire::connect(pool.postgres_port()).await;
            wire.send(&frame::startup(&[("user", user), ("database", "app")])).await;
            wire.read().await.expect("the mechanisms");
            let first = b"n,,n=,r=rOprNGfwEbeRWgbNEkqO";
            wire.send(&frame::message(b'p', &[b"SCRAM-SHA-256\0".as_slice(), &[0, 0, 0, 28], first].concat())).await;
            let challenge = wire.read().await.expect("a challenge");
            let text = String::from_utf8_lossy(&challenge.body[4..]).into_owned();
            assert!(text.ends_with(&format!(",i={iterations}")), "{user}: {text}");
        }
        drop(attempt(&pool, USER, "app", PASSWORD).await.unwrap_or_else(|error| panic!("{:?}", told(&error))));
        pool.reload(settings.clone().set("postgres.scram_iterations", 1234)).await;
    }
}
