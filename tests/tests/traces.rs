//! Traces of transactions and of batches of Redis commands: what a collector gets, in the clear and under TLS, what joins an application's trace, and that
//! a collector that is away costs nobody anything.
//!
//! The collector is a small HTTP server of the test, which reads the JSON of OTLP.

use std::sync::{Arc, Mutex};

use serde_json::Value;
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::{Cluster, frame};
use sidepool_tests::redis::RedisServer;
use sidepool_tests::redis::wire::request;
use sidepool_tests::settings::Settings;
use sidepool_tests::tls::{Authority, Files};
use sidepool_tests::{place, wait};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// What a collector was sent.
#[derive(Clone, Default)]
struct Collector {
    spans: Arc<Mutex<Vec<Value>>>,
}

impl Collector {
    /// Takes what is sent to this port.
    async fn listen(port: u16) -> Self {
        Self::listen_under(port, None).await
    }

    /// The same under TLS, as `localhost`, vouched for by this authority.
    async fn listen_securely(port: u16, authority: &Authority) -> Self {
        let identity = authority.issue("localhost", &["localhost"]);
        let chain = CertificateDer::pem_slice_iter(identity.cert.as_bytes()).map(|one| one.expect("PEM")).collect();
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("PEM");
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("there are some");
        let config = config.with_no_client_auth().with_single_cert(chain, key).expect("they belong together");
        Self::listen_under(port, Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn listen_under(port: u16, tls: Option<TlsAcceptor>) -> Self {
        let collector = Self::default();
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a free port");
        let own = collector.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("it listens");
                match &tls {
                    None => own.take(stream).await,
                    Some(tls) => match tls.accept(stream).await {
                        Ok(stream) => own.take(stream).await,
                        Err(_not_believed) => {}
                    },
                }
            }
        });
        collector
    }

    async fn take(&self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut stream = BufReader::new(stream);
        let (mut line, mut length) = (String::new(), 0);
        let mut first = String::new();
        while stream.read_line(&mut line).await.expect("a head") > 2 {
            if first.is_empty() {
                first.clone_from(&line);
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a number");
            }
            line.clear();
        }
        assert_eq!(first, "POST /v1/traces HTTP/1.1\r\n");
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.expect("a body");
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        let resource = &body["resourceSpans"][0];
        assert_eq!(resource["resource"]["attributes"][0]["value"]["stringValue"], "sidepool", "{body}");
        let spans = resource["scopeSpans"][0]["spans"].as_array().expect("spans").clone();
        self.spans.lock().expect("nobody panics with it").extend(spans);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").await.expect("it reads the answer");
        // Who has read the first line of it may have closed already.
        let _ = stream.shutdown().await;
    }

    fn spans(&self) -> Vec<Value> {
        self.spans.lock().expect("nobody panics with it").clone()
    }

    /// The spans of the trace that has a statement like this.
    async fn trace(&self, statement: &str) -> Vec<Value> {
        wait::until(&format!("a trace with {statement:?}"), async || {
            let spans = self.spans();
            let found = spans.iter().find(|span| text(span, "db.query.text").is_some_and(|said| said.contains(statement)))?;
            let trace = found["traceId"].clone();
            Some(spans.into_iter().filter(|span| span["traceId"] == trace).collect())
        })
        .await
    }
}

/// An attribute.
fn text<'s>(span: &'s Value, key: &str) -> Option<&'s str> {
    let attributes = span["attributes"].as_array()?;
    attributes.iter().find(|attribute| attribute["key"] == key)?["value"]["stringValue"].as_str()
}

fn named<'s>(trace: &'s [Value], name: &str) -> Vec<&'s Value> {
    trace.iter().filter(|span| span["name"] == name).collect()
}

fn time(span: &Value, key: &str) -> u64 {
    span[key].as_str().and_then(|nanos| nanos.parse::<u64>().ok()).expect("a time")
}

fn took_ms(span: &Value) -> u64 {
    (time(span, "endTimeUnixNano") - time(span, "startTimeUnixNano")) / 1_000_000
}

fn settings(cluster: &Cluster, port: u16) -> Settings {
    Settings::postgres(cluster)
        .set("postgres.otlp_traces_endpoint", format!("http://127.0.0.1:{port}"))
        .set("postgres.otlp_traces_sample_one_in", 1)
        .set("postgres.otlp_traces_statements", true)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_a_trace_with_its_wait_and_its_statements() {
    let (cluster, port) = (Cluster::start().await, place::free_port());
    let collector = Collector::listen(port).await;
    let pool = Pooler::start(settings(&cluster, port).set("postgres.default_pool_size", 1)).await;
    let (mut first, mut second) = (pool.wire().await, pool.wire().await);
    // Those that were opened for the logins are gone.
    cluster.terminate_connections().await;
    pool.metrics_show("no connection", |now| now.sum("sidepool_pool_server_connections", &[]) == 0.0).await;
    first.query("BEGIN").await;
    second.send(&frame::query("SELECT 'waited' AS second")).await;
    // It waits for all of what the first one does now, however late its worker looked.
    pool.metrics_show("a waiter", |now| now.sum("sidepool_pool_client_connections", &[("state", "waiting")]) == 1.0).await;
    first.query("SELECT pg_sleep(0.2), 'secret' AS first").await;
    first.query("SELECT 1/0 AS broken").await;
    first.query("ROLLBACK").await;
    second.until_ready().await;
    let trace = collector.trace("AS first").await;
    let [root] = named(&trace, "transaction")[..] else { panic!("{trace:?}") };
    assert!(root["parentSpanId"].is_null() && took_ms(root) >= 200, "{root}");
    let statements = named(&trace, "statement");
    let texts: Vec<_> = statements.iter().map(|span| text(span, "db.query.text").expect("a text")).collect();
    assert_eq!(texts, ["BEGIN", "SELECT pg_sleep(?), ? AS first", "SELECT ?/? AS broken", "ROLLBACK"]);
    assert!(statements.iter().all(|span| span["parentSpanId"] == root["spanId"] && span["kind"] == 3), "{trace:?}");
    assert!(
        took_ms(statements[1]) >= 190 && time(statements[0], "endTimeUnixNano") <= time(statements[1], "startTimeUnixNano"),
        "{trace:?}"
    );
    assert_eq!((&statements[2]["status"]["code"], text(statements[2], "db.response.status_code")), (&2.into(), Some("22012")));
    assert_eq!((text(root, "db.system.name"), text(root, "db.namespace")), (Some("postgresql"), Some("app")));
    assert_eq!((text(root, "db.client.connection.pool.name"), text(root, "server.address")), (Some("app.app"), Some("127.0.0.1")));
    // The first one had to wait until there was a connection at all.
    let [wait] = named(&trace, "wait for a connection")[..] else { panic!("{trace:?}") };
    let [connect] = named(&trace, "connect")[..] else { panic!("{trace:?}") };
    assert_eq!((&connect["parentSpanId"], &connect["kind"], &connect["traceId"]), (&wait["spanId"], &3.into(), &root["traceId"]));
    // Times of spans are told by one clock, but read at two moments.
    assert!(time(connect, "startTimeUnixNano") + 1_000_000 >= time(wait, "startTimeUnixNano"), "{wait} {connect}");
    assert!(time(connect, "endTimeUnixNano") <= time(wait, "endTimeUnixNano") + 1_000_000, "{wait} {connect}");
    let other = collector.trace("AS second").await;
    assert!(named(&other, "connect").is_empty(), "it waited for one that was there: {other:?}");
    let [wait] = named(&other, "wait for a connection")[..] else { panic!("{other:?}") };
    let statement = named(&other, "statement")[0];
    assert!(took_ms(wait) >= 150 && time(wait, "endTimeUnixNano") <= time(statement, "startTimeUnixNano") + 1_000_000, "{other:?}");
    assert!(!format!("{:?}", collector.spans()).contains("secret"), "no values");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_of_a_traced_application_joins_its_trace() {
    let (cluster, port) = (Cluster::start().await, place::free_port());
    let collector = Collector::listen(port).await;
    // By itself, nothing would be traced.
    let pool = Pooler::start(settings(&cluster, port).set("postgres.otlp_traces_sample_one_in", 1_000_000_000)).await;
    let mut wire = pool.wire().await;
    let comment = |flags: &str| format!("/*traceparent='00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}'*/");
    wire.query(&format!("SELECT 'off' AS off {}", comment("00"))).await;
    wire.query("SELECT 'alone' AS alone").await;
    let sql = format!("SELECT $1::text AS joined {}", comment("01"));
    wire.ask(&[frame::parse("s", &sql), frame::bind("", "s", &["x"]), frame::execute("", 0), frame::sync()].concat()).await;
    let trace = collector.trace("AS joined").await;
    let root = named(&trace, "transaction")[0];
    assert_eq!((&root["traceId"], &root["parentSpanId"]), (&"0af7651916cd43dd8448eb211c80319c".into(), &"b7ad6b7169203331".into()));
    assert_eq!(collector.spans().len(), 2, "nothing else is traced: {:?}", collector.spans());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_costs_traces_and_nothing_else() {
    let (cluster, port) = (Cluster::start().await, place::free_port());
    let settings = settings(&cluster, port);
    let mut pool = Pooler::start(settings.clone()).await;
    let mut wire = pool.wire().await;
    assert_eq!(wire.value("SELECT 'served'").await, "served");
    pool.process().log().line_with("a collector does not take traces").await;
    assert_eq!(wire.value("SELECT 'served still'").await, "served still");
    let lost = "sidepool_traces_dropped_total";
    pool.metrics_show("lost traces", |scrape| scrape.sum(lost, &[("reason", "export_failed")]) >= 1.0).await;
    let collector = Collector::listen(port).await;
    wire.query("SELECT 'back' AS back").await;
    collector.trace("AS back").await;
    pool.metrics_show("sent traces", |scrape| scrape.sum("sidepool_traces_exported_total", &[]) >= 1.0).await;
    // A reload ends it.
    pool.reload(settings.without("postgres.otlp_traces_endpoint")).await;
    let before = collector.spans().len();
    let scraped = pool.scrape().await.sum("sidepool_traces_exported_total", &[]);
    wire.query("SELECT 'nobody asks'").await;
    assert!(wire.is_silent().await);
    assert_eq!(pool.scrape().await.sum("sidepool_traces_exported_total", &[]), scraped);
    assert!(collector.spans().len() >= before && !format!("{:?}", collector.spans()).contains("nobody"));
}

/// Awaits the span of this name, which has no parent.
async fn operation(collector: &Collector, name: &str) -> Value {
    wait::until(&format!("a span {name:?}"), async || {
        collector.spans().into_iter().find(|span| span["name"] == name && span["parentSpanId"].is_null())
    })
    .await
}

fn whole(span: &Value, key: &str) -> Option<u64> {
    let attributes = span["attributes"].as_array()?;
    attributes.iter().find(|attribute| attribute["key"] == key)?["value"]["intValue"].as_str()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_redis_client_sends_together_is_a_span_with_names_and_nothing_else() {
    let (server, port) = (RedisServer::start().await, place::free_port());
    let collector = Collector::listen(port).await;
    let settings = Settings::redis(&server)
        .set("redis.main.otlp_traces_endpoint", format!("http://127.0.0.1:{port}"))
        .set("redis.main.otlp_traces_sample_one_in", 1)
        .set("redis.main.spare_connections", 0);
    let mut pool = Pooler::start(settings.clone()).await;
    let (mut wire, mut other) = (pool.redis_wire().await, pool.redis_wire().await);
    wire.command(&["SET", "secret-key", "secret-value"]).await;
    let span = operation(&collector, "SET").await;
    assert_eq!(
        (text(&span, "db.system.name"), text(&span, "db.namespace"), &span["kind"]),
        (Some("redis"), Some("0"), &3.into()),
        "{span}"
    );
    assert_eq!((text(&span, "db.operation.name"), whole(&span, "db.operation.batch.size")), (Some("SET"), None), "{span}");
    assert_eq!((text(&span, "server.address"), whole(&span, "server.port")), (Some("127.0.0.1"), Some(server.port().into())), "{span}");
    assert_eq!(text(&span, "db.client.connection.pool.name"), Some("main/default/0/resp2/shared"), "{span}");
    wire.send(&request(&["GET", "secret-key"]).repeat(3)).await;
    wire.send(&[]).await;
    for _ in 0..3 {
        assert_eq!(wire.reply().await.text(), "secret-value");
    }
    assert_eq!(whole(&operation(&collector, "PIPELINE GET").await, "db.operation.batch.size"), Some(3));
    wire.command(&["SELECT", "3"]).await;
    wire.send(&[request(&["INCR", "secret-count"]), request(&["EXISTS", "secret-key"])].concat()).await;
    wire.reply().await;
    wire.reply().await;
    let span = operation(&collector, "PIPELINE").await;
    assert_eq!((whole(&span, "db.operation.batch.size"), text(&span, "db.namespace")), (Some(2), Some("3")), "{span}");
    // A transaction that comes as a whole goes down the shared connection.
    wire.send(&[request(&["MULTI"]), request(&["SET", "secret-key", "x"]), request(&["EXEC"])].concat()).await;
    for _ in 0..3 {
        wire.reply().await;
    }
    assert_eq!(whole(&operation(&collector, "MULTI").await, "db.operation.batch.size"), Some(3));
    // One that comes bit by bit has a connection of its own, which has to be opened first.
    for command in [&["MULTI"][..], &["SET", "secret-key", "y"], &["GET", "secret-key"], &["EXEC"]] {
        wire.command(command).await;
    }
    let span = wait::until("a transaction of its own", async || {
        let leased = |span: &Value| text(span, "db.client.connection.pool.name") == Some("main/default/3/resp2/leased");
        collector.spans().into_iter().find(|span| span["name"] == "MULTI" && leased(span))
    })
    .await;
    assert_eq!(whole(&span, "db.operation.batch.size"), Some(4), "{span}");
    let trace: Vec<Value> = collector.spans().into_iter().filter(|other| other["traceId"] == span["traceId"]).collect();
    let ([wait], [connect]) = (&named(&trace, "wait for a connection")[..], &named(&trace, "connect")[..]) else { panic!("{trace:?}") };
    assert_eq!((&wait["parentSpanId"], &connect["parentSpanId"]), (&span["spanId"], &wait["spanId"]), "{trace:?}");
    other.send(&request(&["BLPOP", "secret-list", "0"])).await;
    pool.metrics_show("who blocks", |now| now.sum("sidepool_redis_connections", &[("use", "leased")]) >= 1.0).await;
    assert!(other.is_silent().await);
    pool.redis_wire().await.command(&["RPUSH", "secret-list", "secret-value"]).await;
    other.reply().await;
    assert!(took_ms(&operation(&collector, "BLPOP").await) >= 140);
    assert!(!format!("{:?}", collector.spans()).contains("secret"), "no keys and no values");
    // One in so many, and none at all.
    pool.reload(settings.clone().set("redis.main.otlp_traces_sample_one_in", 1_000_000_000)).await;
    wire.command(&["STRLEN", "secret-key"]).await;
    pool.reload(settings.without("redis.main.otlp_traces_endpoint")).await;
    wire.command(&["STRLEN", "secret-key"]).await;
    let sent = pool.scrape().await;
    assert_eq!(sent.sum("sidepool_traces_dropped_total", &[]), 0.0);
    assert!(collector.spans().iter().all(|span| span["name"] != "STRLEN"), "{:?}", collector.spans());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_under_tls_has_to_be_the_one_that_is_meant() {
    let (cluster, port) = (Cluster::start().await, place::free_port());
    let (authority, stranger) = (Authority::new("ours"), Authority::new("somebody else's"));
    let files = Files::new(&[("ours.pem", &authority.pem()), ("stranger.pem", &stranger.pem())]);
    let collector = Collector::listen_securely(port, &authority).await;
    let settings = settings(&cluster, port).set("postgres.otlp_traces_endpoint", format!("https://localhost:{port}"));
    let mut pool = Pooler::start(settings.clone().set("postgres.otlp_traces_ca_file", files.path("stranger.pem"))).await;
    let mut wire = pool.wire().await;
    wire.query("SELECT 'told to nobody' AS nobody").await;
    let line = pool.process().log().line_with("a collector does not take traces").await;
    assert!(line.contains("certificate") && line.contains("https://localhost"), "{line}");
    pool.reload(settings.clone().set("postgres.otlp_traces_ca_file", files.path("ours.pem"))).await;
    wire.query("SELECT 'told' AS told").await;
    collector.trace("AS told").await;
    assert!(!format!("{:?}", collector.spans()).contains("AS nobody"), "what was not believed was told nothing");
    // The name counts, too.
    pool.reload(
        settings
            .set("postgres.otlp_traces_endpoint", format!("https://127.0.0.1:{port}"))
            .set("postgres.otlp_traces_ca_file", files.path("ours.pem")),
    )
    .await;
    let from = pool.process().log().len();
    wire.query("SELECT 'nobody again'").await;
    pool.process().log().line_with_after(from, "a collector does not take traces").await;
}
