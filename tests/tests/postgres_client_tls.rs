//! TLS with clients: psql in its modes, clients that misbehave before the handshake and in it, certificates of clients, cancels.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use sidepool_tests::conformance::proves;
use sidepool_tests::place;
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::cancel::runs;
use sidepool_tests::postgres::cluster::{PASSWORD, USER, program};
use sidepool_tests::postgres::frame::{self, cancel, query};
use sidepool_tests::postgres::wire::first_error;
use sidepool_tests::postgres::{Cluster, Wire, tags};
use sidepool_tests::settings::Settings;
use sidepool_tests::tls::{Authority, Files, client};
use sidepool_tests::wait;
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;

struct Scene {
    cluster: Cluster,
    pool: Pooler,
    authority: Authority,
    files: Files,
    host: String,
}

/// A pooler that speaks TLS in this mode, as `localhost`.
async fn scene(sslmode: &str, change: impl FnOnce(Settings) -> Settings) -> Scene {
    let cluster = Cluster::start().await;
    let authority = Authority::new("the authority");
    let server = authority.issue("localhost", &["localhost", "127.0.0.1"]);
    let files = Files::new(&[("server.crt", &server.cert), ("server.key", &server.key), ("ca.crt", &authority.pem())]);
    let settings = Settings::postgres(&cluster)
        .set("postgres.auth_type", "scram-sha-256")
        .set("postgres.client_tls_sslmode", sslmode)
        .set("postgres.client_tls_key_file", files.path("server.key"))
        .set("postgres.client_tls_cert_file", files.path("server.crt"));
    let pool = Pooler::start(change(settings)).await;
    Scene { cluster, pool, authority, files, host: "host=localhost hostaddr=127.0.0.1".to_owned() }
}

/// What psql says to a query, with these parameters of the connection beside the usual ones.
async fn psql(scene: &Scene, parameters: &str) -> Output {
    let port = scene.pool.postgres_port();
    let connection = format!("{} port={port} user={USER} dbname=app password={PASSWORD} {parameters}", scene.host);
    let mut psql = Command::new(program("psql"));
    psql.args(["-X", "-A", "-t", "-c", "SELECT 'served'", &connection]).env_remove("PGSSLMODE").env("HOME", "/nonexistent");
    wait::soon("psql", tokio::task::spawn_blocking(move || psql.output().expect("psql starts"))).await.expect("it ends")
}

async fn served(scene: &Scene, parameters: &str) {
    let output = psql(scene, parameters).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "served", "{parameters}: {said}");
}

async fn refused(scene: &Scene, parameters: &str, why: &str) {
    let output = psql(scene, parameters).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(why), "{parameters}: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_in_all_its_modes() {
    let _proof =
        proves(&["setting client_tls_sslmode", "setting client_tls_key_file", "setting client_tls_cert_file", "message SSL required"]);
    let scene = scene("require", |settings| settings).await;
    let root = format!("sslrootcert={}", scene.files.path("ca.crt"));
    for sslmode in ["require", "prefer", "verify-ca", "verify-full"] {
        served(&scene, &format!("sslmode={sslmode} {root}")).await;
    }
    served(&scene, &format!("sslmode=verify-full {root} channel_binding=require")).await;
    served(&scene, &format!("sslmode=require {root} channel_binding=disable")).await;
    served(&scene, &format!("sslmode=require {root} ssl_max_protocol_version=TLSv1.2 channel_binding=require")).await;
    refused(&scene, "sslmode=disable", "SSL required").await;
    let other = Authority::new("another");
    scene.files.put("other.crt", &other.pem());
    refused(&scene, &format!("sslmode=verify-ca sslrootcert={}", scene.files.path("other.crt")), "certificate verify failed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_it_is_offered_nobody_has_to_use_it() {
    for mode in ["allow", "prefer"] {
        let scene = scene(mode, |settings| settings).await;
        for sslmode in ["disable", "allow", "prefer", "require"] {
            served(&scene, &format!("sslmode={sslmode}")).await;
        }
    }
    let directory = place::directory("sockets").to_string_lossy().into_owned();
    let change = |settings: Settings| {
        let listen = vec![format!("127.0.0.1:{}", settings.postgres_port()), format!("unix:{directory}")];
        settings.set("postgres.listen", listen)
    };
    let mut local = scene("require", change).await;
    for sslmode in ["disable", "prefer"] {
        local.host = format!("host={directory}");
        served(&local, &format!("sslmode={sslmode}")).await;
    }
    let without = scene("disable", |settings| settings).await;
    served(&without, "sslmode=prefer").await;
    refused(&without, "sslmode=require", "server does not support SSL").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_clients_are_asked_for_and_checked() {
    let _proof = proves(&["setting client_tls_ca_file"]);
    let mut ca = String::new();
    let authority = Authority::new("who vouches for clients");
    let files = Files::new(&[("clients.crt", &authority.pem())]);
    ca.push_str(&files.path("clients.crt"));
    let good = authority.issue(USER, &[]);
    let expired = authority.issue_expired(USER, &[]);
    let foreign = Authority::new("somebody else").issue(USER, &[]);
    for (name, identity) in [("good", &good), ("expired", &expired), ("foreign", &foreign)] {
        files.put(&format!("{name}.crt"), &identity.cert);
        files.put(&format!("{name}.key"), &identity.key);
    }
    let with = |name: &str| {
        let (cert, key) = (files.path(&format!("{name}.crt")), files.path(&format!("{name}.key")));
        format!("sslmode=require sslcert={cert} sslkey={key}")
    };
    for mode in ["verify-ca", "verify-full"] {
        let scene = scene(mode, |settings| settings.set("postgres.client_tls_ca_file", &*ca)).await;
        served(&scene, &with("good")).await;
        for wrong in ["expired", "foreign"] {
            refused(&scene, &with(wrong), "alert").await;
        }
        refused(&scene, "sslmode=require", "certificate required").await;
        refused(&scene, "sslmode=disable", "SSL required").await;
    }
    // Where none is required, one that is shown must be good all the same.
    let scene = scene("require", |settings| settings.set("postgres.client_tls_ca_file", &*ca)).await;
    served(&scene, "sslmode=require").await;
    served(&scene, &with("good")).await;
    refused(&scene, &with("foreign"), "alert").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_and_suites_are_those_of_the_settings() {
    let _proof = proves(&[
        "setting client_tls_protocols",
        "setting client_tls_ciphers",
        "setting client_tls13_ciphers",
        "setting client_tls_ecdhcurve",
        "setting client_tls_dheparams",
    ]);
    let old = scene("require", |settings| settings.set("postgres.client_tls_protocols", "tlsv1.2")).await;
    served(&old, "sslmode=require").await;
    refused(&old, "sslmode=require ssl_min_protocol_version=TLSv1.3", "protocol version").await;
    let new = scene("require", |settings| settings.set("postgres.client_tls_protocols", "tlsv1.3")).await;
    served(&new, "sslmode=require").await;
    refused(&new, "sslmode=require ssl_max_protocol_version=TLSv1.2", "alert").await;
    let suites = "HIGH:!aNULL:AES256-SHA";
    let some = scene("require", |settings| settings.set("postgres.client_tls_ciphers", suites)).await;
    served(&some, "sslmode=require").await;
    some.pool.process().log().line_with("\"AES256-SHA\" has no equal here").await;
    let change = |settings: Settings| {
        let settings = settings.set("postgres.client_tls13_ciphers", "TLS_AES_128_GCM_SHA256");
        settings.set("postgres.client_tls_ecdhcurve", "secp384r1").set("postgres.client_tls_dheparams", "/etc/dh.pem")
    };
    let narrow = scene("require", change).await;
    let mut wire = secured(&narrow).await;
    assert_eq!(wire.tls_description(), "TLSv1_3 TLS13_AES_128_GCM_SHA256 secp384r1");
    assert_eq!(wire.value("SELECT 1").await, "1");
    narrow.pool.process().log().line_with("key exchange is by elliptic curves alone").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn words_in_the_clear_behind_the_request_are_refused() {
    let scene = scene("prefer", |settings| settings).await;
    let mut wire = Wire::connect(scene.pool.postgres_port()).await;
    let startup = frame::startup(&[("user", USER), ("database", "app")]);
    wire.send(&[frame::ssl_request(), startup].concat()).await;
    let answer = wire.until_closed().await;
    assert_eq!(tags(&answer), "E");
    let error = first_error(&answer).unwrap();
    assert_eq!(error.field(b'C').as_deref(), Some("08P01"));
    assert_eq!(error.field(b'M').as_deref(), Some("received unencrypted data after SSL request"));
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_without_asking_needs_the_name_of_the_protocol() {
    let scene = scene("require", |settings| settings).await;
    let port = scene.pool.postgres_port();
    let mut direct = Wire::connect(port).await;
    direct.secure(client(&scene.authority, None, &["postgresql"]), true).await.unwrap();
    direct.enter(USER, "app", PASSWORD).await.unwrap();
    assert_eq!(direct.value("SELECT 'direct'").await, "direct");

    let mut nameless = Wire::connect(port).await;
    nameless.secure(client(&scene.authority, None, &[]), true).await.unwrap();
    let error = nameless.read().await.unwrap();
    assert!(error.field(b'M').unwrap().contains("without ALPN"), "{error:?}");
    let mut foreign = Wire::connect(port).await;
    assert!(foreign.secure(client(&scene.authority, None, &["http/1.1"]), true).await.is_err());

    // GSSAPI is refused politely, and TLS may follow; TLS inside of TLS may not.
    let mut polite = Wire::connect(port).await;
    polite.send(&[0, 0, 0, 8, 4, 210, 22, 48]).await;
    assert_eq!(polite.read_exactly(1).await, b"N");
    polite.secure(client(&scene.authority, None, &[]), false).await.unwrap();
    polite.send(&frame::ssl_request()).await;
    assert_eq!(first_error(&polite.until_closed().await).unwrap().field(b'M').as_deref(), Some("SSL req inside SSL"));
}

#[tokio::test(flavor = "multi_thread")]
async fn large_messages_pass_both_ways() {
    let scene = scene("require", |settings| settings).await;
    let mut wire = secured(&scene).await;
    assert_eq!(wire.value("SELECT repeat('x', 20000000)").await.len(), 20_000_000);
    let text = "y".repeat(5_000_000);
    assert_eq!(wire.value(&format!("SELECT length('{text}')")).await, "5000000");
    for size in [1, 100, 8_000, 16_384, 16_385, 70_000] {
        assert_eq!(wire.value(&format!("SELECT '{}'", "z".repeat(size))).await.len(), size);
    }
    wire.query("CREATE TEMP TABLE t (line text)").await;
    wire.send(&query("COPY t FROM STDIN")).await;
    assert_eq!(wire.read().await.unwrap().tag, b'G');
    for _ in 0..100 {
        wire.send(&frame::copy_data(&[&[b'c'; 50_000][..], b"\n"].concat())).await;
    }
    wire.send(&frame::copy_done()).await;
    assert_eq!(tags(&wire.until_ready().await), "CZ");
}

async fn secured(scene: &Scene) -> Wire {
    let mut wire = Wire::connect(scene.pool.postgres_port()).await;
    wire.secure(client(&scene.authority, None, &["postgresql"]), false).await.unwrap();
    wire.enter(USER, "app", PASSWORD).await.unwrap();
    wire
}

#[tokio::test(flavor = "multi_thread")]
async fn cancels_come_under_tls_and_in_the_clear() {
    let scene = scene("require", |settings| settings).await;
    for under_tls in [true, false] {
        let mut wire = secured(&scene).await;
        let (process, key) = wire.cancel_key.clone().unwrap();
        wire.send(&query("SELECT pg_sleep(60)")).await;
        runs(&scene.cluster, "pg_sleep(60)").await;
        let mut messenger = Wire::connect(scene.pool.postgres_port()).await;
        if under_tls {
            messenger.secure(client(&scene.authority, None, &["postgresql"]), false).await.unwrap();
        }
        messenger.send(&cancel(process, &key)).await;
        assert_eq!(first_error(&wire.until_ready().await).unwrap().field(b'C').as_deref(), Some("57014"));
        assert!(messenger.until_closed().await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_never_finish_the_handshake_are_sent_away_and_disturb_nobody() {
    let scene = scene("require", |settings| settings.set("postgres.auth_type", "trust").set("postgres.client_login_timeout", "6s")).await;
    let mut slow = Vec::new();
    for first in [&b""[..], &[0x16], &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc], &[0x16, 3, 1, 0xff, 0xff, 1]] {
        for _ in 0..20 {
            let mut wire = Wire::connect(scene.pool.postgres_port()).await;
            wire.send(&frame::ssl_request()).await;
            assert_eq!(wire.read_exactly(1).await, b"S");
            wire.send(first).await;
            slow.push(wire);
        }
    }
    let begun = Instant::now();
    let mut wire = secured(&scene).await;
    assert_eq!(wire.value("SELECT 1").await, "1");
    assert!(begun.elapsed() < Duration::from_secs(10), "they wait for nobody");
    for mut wire in slow {
        let mut rest = Vec::new();
        let _ = wait::soon("the end of the slow", wire.stream().read_to_end(&mut rest)).await;
    }
    assert_eq!(wire.value("SELECT 2").await, "2");
    // Junk instead of a handshake ends at once.
    let mut junk = Wire::connect(scene.pool.postgres_port()).await;
    junk.send(&frame::ssl_request()).await;
    assert_eq!(junk.read_exactly(1).await, b"S");
    junk.send(&frame::startup(&[("user", USER)])).await;
    let mut rest = Vec::new();
    let _ = wait::soon("the end", junk.stream().read_to_end(&mut rest)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_shake_hands_at_once() {
    let scene = scene("require", |settings| settings.set("postgres.auth_type", "trust").set("postgres.client_login_timeout", "60s")).await;
    let config = client(&scene.authority, None, &["postgresql"]);
    let mut clients = JoinSet::new();
    for number in 0..200 {
        let (port, config) = (scene.pool.postgres_port(), config.clone());
        clients.spawn(async move {
            let mut wire = Wire::connect(port).await;
            wire.secure(config, number % 2 == 0).await.unwrap();
            wire.enter(USER, "app", PASSWORD).await.unwrap();
            assert_eq!(wire.value(&format!("SELECT {number}")).await, number.to_string());
        });
    }
    while let Some(done) = clients.join_next().await {
        done.expect("all are served");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_too_many_is_told_under_tls() {
    let scene = scene("require", |settings| settings.set("postgres.max_client_conn", 1)).await;
    let mut only = secured(&scene).await;
    for parameters in ["sslmode=require", "sslmode=disable"] {
        refused(&scene, parameters, "no more connections allowed (max_client_conn)").await;
    }
    // Cancels get through above all when there is no room.
    let (process, key) = only.cancel_key.clone().unwrap();
    only.send(&query("SELECT pg_sleep(60)")).await;
    runs(&scene.cluster, "pg_sleep(60)").await;
    let mut messenger = Wire::connect(scene.pool.postgres_port()).await;
    messenger.secure(client(&scene.authority, None, &["postgresql"]), true).await.unwrap();
    messenger.send(&cancel(process, &key)).await;
    assert_eq!(first_error(&only.until_ready().await).unwrap().field(b'C').as_deref(), Some("57014"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_a_login() {
    let authority = Authority::new("who vouches for clients");
    let files = Files::new(&[("clients.crt", &authority.pem())]);
    for (name, identity) in [("right", authority.issue(USER, &[])), ("other", authority.issue("somebody", &[]))] {
        files.put(&format!("{name}.crt"), &identity.cert);
        files.put(&format!("{name}.key"), &identity.key);
    }
    let change =
        |settings: Settings| settings.set("postgres.auth_type", "cert").set("postgres.client_tls_ca_file", files.path("clients.crt"));
    let scene = scene("verify-full", change).await;
    let with = |name: &str| {
        let (cert, key) = (files.path(&format!("{name}.crt")), files.path(&format!("{name}.key")));
        format!("sslmode=require sslcert={cert} sslkey={key}")
    };
    served(&scene, &with("right")).await;
    refused(&scene, &with("other"), "certificate authentication failed").await;
}
