//! What a login costs: keys are derived once for a secret and a salt, and TLS sessions are resumed, on either side.

use std::process::Command;

use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::cluster::{PASSWORD, USER};
use sidepool_tests::postgres::{Cluster, Wire};
use sidepool_tests::settings::Settings;
use sidepool_tests::tls::{Authority, Files, client};
use sidepool_tests::wait;
use tokio::task::JoinSet;

async fn sum(pool: &Pooler, name: &str, labels: &[(&str, &str)]) -> f64 {
    pool.scrape().await.sum(name, labels)
}

/// Lets so many clients of a pool in session mode in at once, so that each has its own connection.
async fn crowd(pool: &Pooler, count: usize) -> Vec<Wire> {
    let (port, mut coming) = (pool.postgres_port(), JoinSet::new());
    for _ in 0..count {
        coming.spawn(async move {
            let mut wire = Wire::login(port, USER, "app", PASSWORD).await;
            assert_eq!(wire.value("SELECT 1").await, "1");
            wire
        });
    }
    wait::soon("all to be in", coming.join_all()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_connects_to_a_server_cost_one_derivation() {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster)
        .database("other", &cluster)
        .set("postgres.auth_type", "scram-sha-256")
        .set("postgres.pool_mode", "session")
        .set("postgres.default_pool_size", 50)
        .set("postgres.server_connect_parallelism", 50);
    let pool = Pooler::start(settings).await;
    let derived = async || sum(&pool, "sidepool_server_key_derivations_total", &[]).await;
    let clients = crowd(&pool, 50).await;
    assert_eq!((cluster.connections().await, derived().await), (50, 1.0));
    drop(clients);
    assert_eq!(cluster.terminate_connections().await, 50);
    let clients = crowd(&pool, 50).await;
    assert_eq!((cluster.connections().await, derived().await), (50, 1.0), "nor do reconnects derive anything");
    Wire::login(pool.postgres_port(), USER, "other", PASSWORD).await.value("SELECT 1").await;
    assert_eq!(derived().await, 1.0, "nor another pool of the same user");
    // The same password, but another salt.
    cluster.sql(&format!("ALTER ROLE {USER} PASSWORD '{PASSWORD}'")).await;
    drop(clients);
    cluster.terminate_connections().await;
    let _clients = crowd(&pool, 50).await;
    assert_eq!(derived().await, 2.0);
    let logins = sum(&pool, "sidepool_client_logins_total", &[("result", "ok")]).await;
    assert_eq!((logins, sum(&pool, "sidepool_client_key_derivations_total", &[]).await), (151.0, 1.0), "clients cost one, too");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_a_login_brought_cost_no_derivation() {
    let cluster = Cluster::start().await;
    let verifier: String = {
        let sql = "SELECT rolpassword FROM pg_authid WHERE rolname = 'app'";
        cluster.superuser("app").await.query_one(sql, &[]).await.expect(sql).get(0)
    };
    let settings = Settings::postgres(&cluster)
        .set("postgres.auth_type", "scram-sha-256")
        .set("postgres.pool_mode", "session")
        .set(&format!("postgres.users.{USER}.password"), verifier);
    let pool = Pooler::start(settings).await;
    let _clients = crowd(&pool, 5).await;
    assert_eq!(sum(&pool, "sidepool_server_connects_total", &[("result", "ok")]).await, 5.0);
    assert_eq!(sum(&pool, "sidepool_server_key_derivations_total", &[]).await, 0.0);
    assert_eq!(sum(&pool, "sidepool_client_key_derivations_total", &[]).await, 0.0);
}

/// Makes the pooler speak TLS with its clients.
fn with_tls(settings: Settings, files: &Files) -> Settings {
    settings
        .set("postgres.client_tls_sslmode", "require")
        .set("postgres.client_tls_key_file", files.path("server.key"))
        .set("postgres.client_tls_cert_file", files.path("server.crt"))
}

fn certificate(authority: &Authority) -> Files {
    let server = authority.issue("localhost", &["localhost", "127.0.0.1"]);
    Files::new(&[("server.crt", &server.cert), ("server.key", &server.key), ("ca.crt", &authority.pem())])
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_resume_their_tls_sessions() {
    let cluster = Cluster::start().await;
    let authority = Authority::new("the authority");
    let files = certificate(&authority);
    let settings = Settings::postgres(&cluster).set("postgres.auth_type", "scram-sha-256");
    let pool = Pooler::start(with_tls(settings, &files)).await;
    let handshakes = async |kind| sum(&pool, "sidepool_client_tls_handshakes_total", &[("kind", kind)]).await;
    let config = client(&authority, None, &["postgresql"]);
    for resumed in [false, true, true] {
        let mut wire = Wire::connect(pool.postgres_port()).await;
        wire.secure(config.clone(), false).await.expect("a handshake");
        wire.enter(USER, "app", PASSWORD).await.expect("it comes in");
        assert_eq!((wire.is_resumed(), wire.value("SELECT 1").await), (resumed, "1".to_owned()));
    }
    assert_eq!((handshakes("full").await, handshakes("resumed").await), (1.0, 2.0));
    // OpenSSL, as libpq uses it, in both versions.
    let port = pool.postgres_port();
    for version in ["-tls1_2", "-tls1_3"] {
        let session = files.path(&format!("session{version}.pem"));
        let mut said = Vec::new();
        for keep in ["-sess_out", "-sess_in"] {
            // It leaves at the end of what it is to say: not before it has been given its session.
            let has_it = format!("timeout 25 sh -c 'until [ -s {session} ]; do sleep 0.1; done'");
            let command =
                format!("{has_it} | openssl s_client -starttls postgres -connect 127.0.0.1:{port} {version} {keep} {session} 2>&1");
            let output = tokio::task::spawn_blocking(|| Command::new("sh").args(["-c"]).arg(command).output().expect("openssl starts"));
            said.push(String::from_utf8_lossy(&wait::soon("openssl", output).await.expect("it ends").stdout).into_owned());
        }
        assert!(said[0].contains("New, TLSv1"), "{version}: {}", said[0]);
        assert!(said[1].contains("Reused, TLSv1"), "{version}: {}", said[1]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_a_server_resume_their_tls_sessions_where_it_offers_that() {
    let cluster = Cluster::start().await;
    let authority = Authority::new("the authority");
    let files = certificate(&authority);
    // PostgreSQL itself offers no resumption, but what stands in front of it may: another pooler, for example.
    let behind = Pooler::start(with_tls(Settings::postgres(&cluster).set("postgres.auth_type", "scram-sha-256"), &files)).await;
    let settings = Settings::postgres(&cluster)
        .set("postgres.pool_mode", "session")
        .set("postgres.databases.app.host", "localhost")
        .set("postgres.databases.app.port", i64::from(behind.postgres_port()))
        .set("postgres.databases.app.sslmode", "verify-full")
        .set("postgres.server_tls_ca_file", files.path("ca.crt"));
    let pool = Pooler::start(settings).await;
    // One after the other: who comes first has no session to resume.
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.extend(crowd(&pool, 1).await);
    }
    let handshakes = async |kind| sum(&pool, "sidepool_server_tls_handshakes_total", &[("kind", kind)]).await;
    assert_eq!((handshakes("full").await, handshakes("resumed").await), (1.0, 4.0));
    assert_eq!(sum(&behind, "sidepool_client_tls_handshakes_total", &[("kind", "resumed")]).await, 4.0);
}
