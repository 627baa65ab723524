//! TLS towards servers: who has to be proven, who we are to them, what the lax modes fall back to, and somebody in the middle.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ServerConfig};
use sidepool_tests::conformance::proves;
use sidepool_tests::ini::{IniPooler, Program};
use sidepool_tests::place;
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::cluster::{PASSWORD, USER};
use sidepool_tests::postgres::{Cluster, Wire, frame};
use sidepool_tests::process::Signal;
use sidepool_tests::settings::Settings;
use sidepool_tests::tls::{Authority, Files, Identity, client, encrypt, give};
use sidepool_tests::wait;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

fn settings(cluster: &Cluster, sslmode: &str) -> Settings {
    Settings::postgres(cluster).set("postgres.databases.app.sslmode", sslmode)
}

/// Where nobody is to get in, nobody waits for long.
fn impatient(settings: Settings) -> Settings {
    settings.set("postgres.query_wait_timeout", "2s")
}

/// Why nobody gets in, or nothing.
async fn fault(pool: &Pooler) -> Option<String> {
    pool.try_client(USER, "app", PASSWORD).await.err().map(|error| format!("{error:?}"))
}

/// That nobody gets in because of this; on a slow machine the first to come may be told before that is known.
async fn is_refused(pool: &Pooler, why: &str, what: &str) {
    wait::until(what, async || {
        let error = fault(pool).await.unwrap_or_else(|| panic!("{what}: served"));
        error.contains(why).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_a_name_and_a_date_are_looked_at_as_the_mode_says() {
    let _proof = proves(&["setting server_tls_ca_file"]);
    let (authority, other) = (Authority::new("ours"), Authority::new("theirs"));
    let files = Files::new(&[("ours.crt", &authority.pem()), ("theirs.crt", &other.pem())]);
    let right = authority.issue("db", &["127.0.0.1"]);
    let elsewhere = authority.issue("db", &["elsewhere.example"]);
    let expired = authority.issue_expired("db", &["127.0.0.1"]);
    let by_name_alone = authority.issue("127.0.0.1", &[]);
    let cluster = Cluster::start().await;
    for (what, identity, ca, served, why) in [
        ("right", &right, "ours.crt", [true, true, true], ""),
        ("by its common name", &by_name_alone, "ours.crt", [true, true, true], ""),
        ("of another host", &elsewhere, "ours.crt", [true, true, false], "not valid for name"),
        ("expired", &expired, "ours.crt", [true, false, false], "expired"),
        ("vouched for by others", &right, "theirs.crt", [true, false, false], "UnknownIssuer"),
    ] {
        encrypt(&cluster, identity, &authority).await;
        cluster.terminate_connections().await;
        for (sslmode, served) in ["require", "verify-ca", "verify-full"].into_iter().zip(served) {
            let settings = settings(&cluster, sslmode).set("postgres.databases.app.server_tls_ca_file", files.path(ca));
            let about = format!("{what}, {sslmode}");
            if served {
                assert_eq!(fault(&Pooler::start(settings).await).await, None, "{about}");
            } else {
                is_refused(&Pooler::start(impatient(settings)).await, why, &about).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn we_show_our_own_certificate() {
    let _proof = proves(&["setting server_tls_cert_file", "setting server_tls_key_file"]);
    let authority = Authority::new("ours");
    let (server, own) = (authority.issue("db", &["127.0.0.1"]), authority.issue(USER, &[]));
    let files = Files::new(&[("ca.crt", &authority.pem()), ("own.crt", &own.cert), ("own.key", &own.key)]);
    let cluster = Cluster::start().await;
    encrypt(&cluster, &server, &authority).await;
    give(cluster.socket_directory(), "pg_hba.conf", "local all all trust\nhostssl all all 127.0.0.1/32 cert\n");
    cluster.sql("SELECT pg_reload_conf()").await;
    let settings = settings(&cluster, "verify-full")
        .set("postgres.server_tls_ca_file", files.path("ca.crt"))
        .set("postgres.server_tls_cert_file", files.path("own.crt"))
        .set("postgres.server_tls_key_file", files.path("own.key"));
    let pool = Pooler::start(settings).await;
    let client = pool.client().await;
    let row = client.query_one("SELECT client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[]).await.unwrap();
    assert!(row.get::<_, &str>(0).contains(USER));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lax_modes_take_the_other_way_where_the_first_leads_nowhere() {
    let _proof = proves(&["setting server_tls_protocols"]);
    let cluster = Cluster::start().await;
    let authority = Authority::new("ours");
    encrypt(&cluster, &authority.issue("db", &["127.0.0.1"]), &authority).await;
    let is_encrypted = async |pool: &Pooler| {
        let client = pool.client().await;
        client.query_one("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[]).await.unwrap().get::<_, bool>(0)
    };
    for (lines, allow, prefer) in [("host", false, true), ("hostssl", true, true), ("hostnossl", false, false)] {
        let hba = format!("local all all trust\n{lines} all all 127.0.0.1/32 scram-sha-256\n");
        give(cluster.socket_directory(), "pg_hba.conf", &hba);
        cluster.sql("SELECT pg_reload_conf()").await;
        assert_eq!(is_encrypted(&Pooler::start(settings(&cluster, "allow")).await).await, allow, "allow, {lines}");
        assert_eq!(is_encrypted(&Pooler::start(settings(&cluster, "prefer")).await).await, prefer, "prefer, {lines}");
    }
    // A handshake that cannot succeed: versions that do not meet.
    give(cluster.socket_directory(), "pg_hba.conf", "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n");
    cluster.sql("ALTER SYSTEM SET ssl_max_protocol_version = 'TLSv1.2'").await;
    cluster.sql("SELECT pg_reload_conf()").await;
    let settings = |mode| settings(&cluster, mode).set("postgres.server_tls_protocols", "tlsv1.3");
    assert!(!is_encrypted(&Pooler::start(settings("prefer")).await).await);
    assert!(fault(&Pooler::start(impatient(settings("require"))).await).await.is_some());
}

/// Somebody who ends TLS between us and the server, with a certificate of their own.
async fn in_the_middle(cluster: &Cluster, identity: &Identity, towards: Arc<ClientConfig>) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", place::free_port())).await.unwrap();
    let (port, server) = (listener.local_addr().unwrap().port(), cluster.port());
    let chain = vec![CertificateDer::from_pem_slice(identity.cert.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    let config = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth().with_single_cert(chain, key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let (acceptor, connector) = (acceptor.clone(), TlsConnector::from(Arc::clone(&towards)));
            tokio::spawn(async move {
                client.read_exact(&mut [0; 8]).await?;
                client.write_all(b"S").await?;
                let mut client = acceptor.accept(client).await?;
                let mut upstream = TcpStream::connect(("127.0.0.1", server)).await?;
                upstream.write_all(&frame::ssl_request()).await?;
                upstream.read_exact(&mut [0]).await?;
                let mut upstream = connector.connect(ServerName::try_from("localhost").unwrap(), upstream).await?;
                tokio::io::copy_bidirectional(&mut client, &mut upstream).await
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_in_the_middle_cannot_pass_a_login_on() {
    let authority = Authority::new("ours");
    let cluster = Cluster::start().await;
    encrypt(&cluster, &authority.issue("localhost", &["localhost"]), &authority).await;
    assert!(fault(&Pooler::start(settings(&cluster, "require")).await).await.is_none(), "bound to the server's own certificate");
    let port = in_the_middle(&cluster, &authority.issue("localhost", &["localhost"]), client(&authority, None, &[])).await;
    let pool = Pooler::start(impatient(settings(&cluster, "require")).set("postgres.databases.app.port", i64::from(port))).await;
    is_refused(&pool, "channel binding check failed", "the certificate is another").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_certificates_hold_for_new_connections() {
    let authority = Authority::new("ours");
    let (first, second) = (authority.issue("localhost", &["localhost"]), authority.issue("localhost", &["localhost"]));
    let cluster = Cluster::start().await;
    let files = Files::new(&[("server.crt", &first.cert), ("server.key", &first.key)]);
    let settings = Settings::postgres(&cluster)
        .set("postgres.client_tls_sslmode", "require")
        .set("postgres.client_tls_key_file", files.path("server.key"))
        .set("postgres.client_tls_cert_file", files.path("server.crt"));
    let mut pool = Pooler::start(settings.clone()).await;
    let config = client(&authority, None, &["postgresql"]);
    let secured = async |port| {
        let mut wire = Wire::connect(port).await;
        wire.secure(Arc::clone(&config), false).await.unwrap();
        wire.enter(USER, "app", PASSWORD).await.unwrap();
        wire
    };
    let der = |identity: &Identity| CertificateDer::from_pem_slice(identity.cert.as_bytes()).unwrap().to_vec();
    let port = pool.postgres_port();
    let mut old = secured(port).await;
    assert_eq!(old.certificate(), der(&first));

    // A key without its certificate: the old pair stays, and it is said why.
    files.put("server.key", &second.key);
    pool.process().log().line_with("is not the key of the certificate").await;
    assert_eq!(secured(port).await.certificate(), der(&first));
    files.put("server.crt", &second.cert);
    pool.process().log().line_with("postgres.client_tls_cert_file: changed").await;
    // The workers hear of it a moment later.
    let shows = async |identity: &Identity| Some(secured(port).await).filter(|wire| wire.certificate() == der(identity));
    let mut new = wait::until("the new certificate", async || shows(&second).await).await;
    assert_eq!((old.value("SELECT 'old'").await, new.value("SELECT 'new'").await), ("old".into(), "new".into()));

    // By signal, too.
    let before = pool.process().log().len();
    files.put("server.crt", &first.cert);
    files.put("server.key", &first.key);
    pool.process().signal(Signal::HUP);
    pool.process().log().line_with_after(before, "postgres.client_tls_cert_file: changed").await;
    wait::until("the first certificate", async || shows(&first).await).await;
    pool.reload(settings.set("postgres.client_tls_sslmode", "disable")).await;
    assert_eq!(old.value("SELECT 'still there'").await, "still there");
    let mut plain = Wire::connect(port).await;
    plain.send(&frame::ssl_request()).await;
    assert_eq!(plain.read_exactly(1).await, b"N");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ini_file_says_the_same() {
    let _proof = proves(&["setting server_tls_sslmode", "setting server_tls_ciphers", "setting server_tls13_ciphers"]);
    let authority = Authority::new("ours");
    let identity = authority.issue("localhost", &["localhost", "127.0.0.1"]);
    let cluster = Cluster::start().await;
    encrypt(&cluster, &identity, &authority).await;
    let database = format!("app = host=127.0.0.1 port={} user={USER} password={PASSWORD}", cluster.port());
    let common = "listen_addr = 127.0.0.1\nlisten_port = LISTEN_PORT\nunix_socket_dir =\nauth_type = trust\nauth_file = USERS_FILE\n";
    let users = format!("\"{USER}\" \"{PASSWORD}\"\n");
    let suite = |ini: &str| (format!("[databases]\n{database}\n[pgbouncer]\n{common}{ini}"), users.clone());
    for (more, encrypted) in
        [("", true), ("server_tls_sslmode = disable\n", false), ("server_tls_sslmode = require\nserver_tls_ciphers = HIGH\n", true)]
    {
        let (ini, users) = suite(more);
        let pool = IniPooler::start(Program::Sidepool, &ini, &users).await;
        let mut wire = Wire::login(pool.port(), USER, "app", PASSWORD).await;
        let ssl = wire.value("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").await;
        assert_eq!(ssl == "t", encrypted, "{more}");
    }
    let (ini, users) =
        suite("server_tls_sslmode = require\nserver_tls_protocols = tlsv1.3\nserver_tls13_ciphers = TLS_AES_128_GCM_SHA256\n");
    let pool = IniPooler::start(Program::Sidepool, &ini, &users).await;
    let mut wire = Wire::login(pool.port(), USER, "app", PASSWORD).await;
    let cipher = wire.value("SELECT cipher FROM pg_stat_ssl WHERE pid = pg_backend_pid()").await;
    assert_eq!(cipher, "TLS_AES_128_GCM_SHA256");
}
