//! Traces of transactions: what a collector gets, what joins an application's trace, and that a collector that is away costs nobody anything.
//!
//! The collector is a small HTTP server of the test, which reads the JSON of OTLP.

use std::sync::{Arc, Mutex};

use serde_json::Value;
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::{Cluster, frame};
use sidepool_tests::settings::Settings;
use sidepool_tests::{place, wait};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What a collector was sent.
#[derive(Clone, Default)]
struct Collector {
    spans: Arc<Mutex<Vec<Value>>>,
}

impl Collector {
    /// Takes what is sent to this port.
    async fn listen(port: u16) -> Self {
        let collector = Self::default();
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a free port");
        let own = collector.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("it listens");
                own.take(stream).await;
            }
        });
        collector
    }

    async fn take(&self, stream: TcpStream) {
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

fn took_ms(span: &Value) -> u64 {
    let nanos = |key: &str| span[key].as_str().and_then(|nanos| nanos.parse::<u64>().ok()).expect("a time");
    (nanos("endTimeUnixNano") - nanos("startTimeUnixNano")) / 1_000_000
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
    first.query("BEGIN").await;
    second.send(&frame::query("SELECT 'waited' AS second")).await;
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
    assert!(took_ms(statements[1]) >= 190 && took_ms(statements[0]) < 190, "{trace:?}");
    assert_eq!((&statements[2]["status"]["code"], text(statements[2], "db.response.status_code")), (&2.into(), Some("22012")));
    assert_eq!((text(root, "db.system.name"), text(root, "db.namespace")), (Some("postgresql"), Some("app")));
    assert_eq!((text(root, "db.client.connection.pool.name"), text(root, "server.address")), (Some("app.app"), Some("127.0.0.1")));
    let other = collector.trace("AS second").await;
    let [wait] = named(&other, "wait for a connection")[..] else { panic!("{other:?}") };
    assert!(took_ms(wait) >= 150 && took_ms(named(&other, "statement")[0]) < 150, "{other:?}");
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
