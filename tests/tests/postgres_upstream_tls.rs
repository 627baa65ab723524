//! TLS towards the server: asked for, insisted on, proven; large results and cancels go through it as through anything else.

use std::os::unix::fs::{MetadataExt as _, chown};
use std::process::Command;

use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::Cluster;
use sidepool_tests::postgres::cancel::runs;
use sidepool_tests::postgres::cluster::{PASSWORD, USER};
use sidepool_tests::settings::Settings;

/// A cluster with a certificate that nobody vouches for.
async fn cluster() -> Cluster {
    let cluster = Cluster::start().await;
    let data = cluster.socket_directory();
    let owner = std::fs::metadata(data).expect("the cluster has a directory");
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
        "-keyout",
        "server.key",
        "-out",
        "server.crt",
    ]);
    let made = openssl.current_dir(data).output().expect("openssl starts");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    for file in ["server.key", "server.crt"] {
        chown(data.join(file), Some(owner.uid()), Some(owner.gid())).expect("the server may read its own files");
    }
    cluster.sql("ALTER SYSTEM SET ssl = on").await;
    cluster.reload().await;
    cluster
}

fn settings(cluster: &Cluster, sslmode: &str) -> Settings {
    Settings::postgres(cluster).set("postgres.databases.app.sslmode", sslmode)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_used_as_the_mode_says() {
    let cluster = cluster().await;
    for (sslmode, encrypted) in [("disable", false), ("prefer", true), ("require", true)] {
        let pool = Pooler::start(settings(&cluster, sslmode)).await;
        let client = pool.client().await;
        let row = client.query_one("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[]).await.expect("a row");
        assert_eq!(row.get::<_, bool>(0), encrypted, "{sslmode}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_nobody_vouches_for_proves_nothing() {
    let cluster = cluster().await;
    let pool = Pooler::start(settings(&cluster, "verify-full")).await;
    let Err(error) = pool.try_client(USER, "app", PASSWORD).await else { panic!("the server was believed") };
    let text = format!("{error:?}");
    assert!(text.contains("certificate"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_it_is_refused_where_it_is_required() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(settings(&cluster, "require")).await;
    let Err(error) = pool.try_client(USER, "app", PASSWORD).await else { panic!("it went on in the clear") };
    assert!(format!("{error:?}").contains("does not offer TLS"), "{error:?}");
    let pool = Pooler::start(settings(&cluster, "prefer")).await;
    assert!(pool.try_client(USER, "app", PASSWORD).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn large_results_and_cancels_go_through_it() {
    let cluster = cluster().await;
    let pool = Pooler::start(settings(&cluster, "require")).await;
    let client = pool.client().await;
    let row = client.query_one("SELECT repeat('x', 20000000)", &[]).await.expect("a large row");
    assert_eq!(row.get::<_, &str>(0).len(), 20_000_000);
    let text = "y".repeat(5_000_000);
    let row = client.query_one("SELECT length($1::text)", &[&text]).await.expect("a large parameter");
    assert_eq!(row.get::<_, i32>(0), 5_000_000);
    let cancel = client.cancel_token();
    let (slept, ()) = tokio::join!(client.query_one("SELECT pg_sleep(60)", &[]), async {
        runs(&cluster, "pg_sleep(60)").await;
        cancel.cancel_query(tokio_postgres::NoTls).await.expect("the cancel is sent");
    });
    let code = slept.expect_err("it is cancelled").code().map(|code| code.code().to_owned());
    assert_eq!(code.as_deref(), Some("57014"));
    assert_eq!(client.query_one("SELECT 1", &[]).await.expect("the client goes on").get::<_, i32>(0), 1);
}
