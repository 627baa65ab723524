//! How Redis clients and the server are reached: TLS with certificates on both sides, sockets of Unix on both sides, options of TCP on both sides.

use std::path::Path;
use std::process::{Command, Output};

use sidepool_tests::pooler::Pooler;
use sidepool_tests::process::{Process, Signal};
use sidepool_tests::redis::wire::request;
use sidepool_tests::redis::{RedisServer, Wire};
use sidepool_tests::scrape::Scrape;
use sidepool_tests::settings::Settings;
use sidepool_tests::tls::{Authority, Files, Identity};
use sidepool_tests::{descriptors, place, wait};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A server that speaks nothing but TLS, and wants to see a certificate.
struct Secret {
    port: u16,
    _process: Process,
}

impl Secret {
    async fn start(files: &Files) -> Self {
        let port = place::free_port();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", "0", "--tls-port", &port.to_string(), "--save", "", "--appendonly", "no"]);
        for (option, file) in [("--tls-cert-file", "server.crt"), ("--tls-key-file", "server.key"), ("--tls-ca-cert-file", "ca.crt")] {
            command.args([option, &files.path(file)]);
        }
        command.args(["--tls-auth-clients", "yes"]).arg("--dir").arg(place::directory("redis-tls"));
        let process = Process::spawn("redis-server", command).ended_by(Signal::KILL);
        process.log().line_with("Ready to accept connections").await;
        Self { port, _process: process }
    }
}

/// Certificates of one authority for the server, the proxy and a client; and a client of somebody else.
fn certificates(authority: &Authority) -> Files {
    let stranger = Authority::new("somebody else");
    let all: [(&str, Identity); 4] = [
        ("server", authority.issue("redis", &["127.0.0.1", "localhost"])),
        ("proxy", authority.issue("sidepool", &["127.0.0.1", "localhost"])),
        ("client", authority.issue("app", &[])),
        ("stranger", stranger.issue("app", &[])),
    ];
    let files = Files::new(&[("ca.crt", &authority.pem())]);
    for (name, identity) in &all {
        files.put(&format!("{name}.crt"), &identity.cert);
        files.put(&format!("{name}.key"), &identity.key);
    }
    files
}

/// `redis-cli` over TLS.
async fn cli(pool: &Pooler, files: &Files, identity: Option<&str>, words: &[&str]) -> Output {
    let mut command = tokio::process::Command::new("redis-cli");
    command.args(["-h", "127.0.0.1", "-p", &pool.redis_port().to_string(), "--tls", "--cacert", &files.path("ca.crt")]);
    if let Some(identity) = identity {
        command.args(["--cert", &files.path(&format!("{identity}.crt")), "--key", &files.path(&format!("{identity}.key"))]);
    }
    wait::soon("redis-cli", command.args(words).output()).await.expect("redis-cli is installed")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)).trim().to_owned()
}

fn settings(server: &RedisServer, files: &Files, sslmode: &str) -> Settings {
    Settings::redis(server)
        .set("redis.main.client_tls_sslmode", sslmode)
        .set("redis.main.client_tls_cert_file", files.path("proxy.crt"))
        .set("redis.main.client_tls_key_file", files.path("proxy.key"))
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_speak_tls_where_it_is_asked_for() {
    let (server, authority) = (RedisServer::start().await, Authority::new("sidepool tests"));
    let files = certificates(&authority);
    let pool = Pooler::start(settings(&server, &files, "require")).await;
    assert_eq!(said(&cli(&pool, &files, None, &["SET", "k", "secret"]).await), "OK");
    assert_eq!(said(&cli(&pool, &files, None, &["-3", "GET", "k"]).await), "secret");
    let mut clear = pool.redis_wire().await;
    clear.send(&request(&["PING"])).await;
    let told = clear.reply().await;
    assert!(told.is_error("ERR") && told.text().contains("rediss://"), "{told:?}");
    assert_eq!(clear.read().await, None);
    drop(pool);
    let either = Pooler::start(settings(&server, &files, "allow")).await;
    assert_eq!(either.redis_wire().await.command(&["GET", "k"]).await.text(), "secret");
    assert_eq!(said(&cli(&either, &files, None, &["GET", "k"]).await), "secret");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_health_check_where_tls_is_spoken_is_no_failed_handshake() {
    let (server, authority) = (RedisServer::start().await, Authority::new("sidepool tests"));
    let files = certificates(&authority);
    let pool = Pooler::start(settings(&server, &files, "require").set("log.level", "debug")).await;
    drop(pool.redis_wire().await);
    let left = pool.process().log().line_with("client left without a word").await;
    assert!(left.contains("peer=\"127.0.0.1:") && left.contains("reason=\"client_eof\""), "{left}");
    let denials = |reason| [("protocol", "redis"), ("reason", reason)];
    assert_eq!(pool.scrape().await.sum("sidepool_client_denials_total", &denials("tls")), 0.0);
    // Who does speak, and not that, is denied, and it is known who that was.
    let mut clear = pool.redis_wire().await;
    clear.send(&request(&["PING"])).await;
    let denied = pool.process().log().line_with("a Redis client was not let in").await;
    assert!(denied.contains("peer=\"127.0.0.1:") && denied.contains("reason=\"tls\""), "{denied}");
    let counted = |now: &Scrape| now.sum("sidepool_client_denials_total", &denials("tls"));
    let now = pool.metrics_show("the denial", |now| counted(now) > 0.5).await;
    assert_eq!((counted(&now), now.sum("sidepool_client_faults_total", &denials("tls")[..1])), (1.0, 1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_clients_are_checked_and_ours_is_replaced_live() {
    let (server, authority) = (RedisServer::start().await, Authority::new("sidepool tests"));
    let files = certificates(&authority);
    let settings = settings(&server, &files, "verify-ca").set("redis.main.client_tls_ca_file", files.path("ca.crt"));
    let mut pool = Pooler::start(settings.clone()).await;
    assert_eq!(said(&cli(&pool, &files, Some("client"), &["PING"]).await), "PONG");
    for identity in [None, Some("stranger")] {
        let told = said(&cli(&pool, &files, identity, &["PING"]).await);
        assert!(!told.contains("PONG"), "{identity:?}: {told}");
    }
    // Another authority's certificate, at the same place: clients that trust only the old one notice.
    let (held, other) = (cli(&pool, &files, Some("client"), &["SET", "k", "v"]).await, Authority::new("the next one"));
    assert_eq!(said(&held), "OK");
    let next = other.issue("sidepool", &["127.0.0.1", "localhost"]);
    files.put("proxy.crt", &next.cert);
    files.put("proxy.key", &next.key);
    pool.reload(settings).await;
    wait::until("the new certificate", async || {
        let told = said(&cli(&pool, &files, Some("client"), &["GET", "k"]).await);
        (told.contains("certificate") && !told.contains('v')).then_some(()).or_else(|| told.contains("verify failed").then_some(()))
    })
    .await;
    files.put("both.crt", &format!("{}{}", authority.pem(), other.pem()));
    let mut trusting = tokio::process::Command::new("redis-cli");
    trusting.args(["-h", "127.0.0.1", "-p", &pool.redis_port().to_string(), "--tls", "--cacert", &files.path("both.crt")]);
    trusting.args(["--cert", &files.path("client.crt"), "--key", &files.path("client.key"), "GET", "k"]);
    assert_eq!(said(&wait::soon("redis-cli", trusting.output()).await.expect("redis-cli is installed")), "v");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_is_reached_over_tls_with_a_certificate_of_ours() {
    let authority = Authority::new("sidepool tests");
    let files = certificates(&authority);
    let server = Secret::start(&files).await;
    let plain = RedisServer::start().await;
    let settings = Settings::redis(&plain)
        .set("redis.main.port", i64::from(server.port))
        .set("redis.main.sslmode", "verify-full")
        .set("redis.main.server_tls_ca_file", files.path("ca.crt"))
        .set("redis.main.server_tls_cert_file", files.path("client.crt"))
        .set("redis.main.server_tls_key_file", files.path("client.key"));
    let mut pool = Pooler::start(settings.clone()).await;
    let mut wire = pool.redis_wire().await;
    assert_eq!(wire.command(&["SET", "k", "v"]).await.text(), "OK");
    for words in [&["WATCH", "k"][..], &["MULTI"], &["GET", "k"]] {
        wire.command(words).await;
    }
    assert_eq!(wire.command(&["EXEC"]).await.elements()[0].text(), "v");
    let large = "x".repeat(3_000_000);
    assert_eq!(wire.command(&["SET", "large", &large]).await.text(), "OK");
    assert_eq!(wire.command(&["GET", "large"]).await.text(), large);
    wire.command(&["SUBSCRIBE", "news"]).await;
    assert_eq!(pool.redis_wire().await.command(&["PUBLISH", "news", "x"]).await.text(), "1");
    assert_eq!(wire.reply().await.elements()[2].text(), "x");
    let resumed = |now: &Scrape| now.sum("sidepool_server_tls_handshakes_total", &[("kind", "resumed")]) >= 1.0;
    pool.metrics_show("later connections resuming the TLS session of the first", resumed).await;
    // A server that nobody vouches for is not spoken to.
    files.put("other.crt", &Authority::new("somebody else").pem());
    let settings = settings.set("redis.main.server_tls_ca_file", files.path("other.crt"));
    pool.reload(settings.set("redis.main.query_wait_timeout", "2s")).await;
    wait::until("a refusal", async || {
        let mut wire = pool.redis_wire().await;
        wire.command(&["SELECT", "5"]).await;
        wire.command(&["GET", "k"]).await.is_error("UPSTREAM").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_of_unix_on_both_sides() {
    let server = RedisServer::start_with_password("upstream-secret-31").await;
    let path = place::directory("redis-unix").join("redis.sock");
    let settings = Settings::redis(&server)
        .without("redis.main.port")
        .set("redis.main.host", server.socket().to_string_lossy().into_owned())
        .set("redis.main.listen", vec![format!("unix:{}", path.display())]);
    let _pool = Pooler::start(settings).await;
    let ask = async |path: &Path, words: &[&[&str]], expected: &[u8]| {
        let mut stream = wait::soon("a connection", tokio::net::UnixStream::connect(path)).await.expect("somebody listens");
        let all: Vec<u8> = words.iter().flat_map(|words| request(words)).collect();
        stream.write_all(&all).await.expect("it listens");
        let mut got = vec![0; expected.len()];
        wait::soon("the replies", stream.read_exact(&mut got)).await.expect("replies");
        assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(expected));
    };
    ask(
        &path,
        &[&["SET", "k", "v"], &["GET", "k"], &["MULTI"], &["INCR", "n"], &["EXEC"]],
        b"+OK\r\n$1\r\nv\r\n+OK\r\n+QUEUED\r\n*1\r\n:1\r\n",
    )
    .await;
    let mut direct = server.direct().await;
    let list = direct.command(&["CLIENT", "LIST"]).await.text();
    assert!(list.lines().any(|line| line.contains(&*server.socket().to_string_lossy())), "the server is reached by its socket: {list}");
}

#[tokio::test(flavor = "multi_thread")]
async fn options_of_tcp_are_set_towards_clients_and_the_server() {
    let server = RedisServer::start().await;
    let settings = Settings::redis(&server)
        .set("redis.main.tcp_keepidle", "77s")
        .set("redis.main.tcp_keepintvl", "11s")
        .set("redis.main.tcp_keepcnt", 5)
        .set("redis.main.tcp_user_timeout", "1234ms")
        .set("redis.main.tcp_socket_buffer", 50_000);
    let sockets = async |pool: &Pooler| {
        let mut wire: Wire = pool.redis_wire().await;
        wire.command(&["PING"]).await;
        let port = wire.stream().local_addr().expect("an address").port();
        (wire, [port, server.port()].map(|port| descriptors::connected_to(pool.process(), port)))
    };
    let pool = Pooler::start(settings.clone()).await;
    let (_wire, both) = sockets(&pool).await;
    both.iter().for_each(descriptors::assert_options);
    drop(pool);
    let pool = Pooler::start(settings.set("redis.main.tcp_keepalive", false)).await;
    let (_wire, both) = sockets(&pool).await;
    assert!(both.iter().all(|socket| !socket.keepalive().unwrap()));
}
