//! Every expression of the dashboards and alerts, asked of a real Prometheus that scrapes a sidepool under load: all of them give data.
//!
//! The load has everything that the expressions ask about: transactions, statements, errors, exhaustion, refusals, logins that fail, Redis.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use sidepool::operate::{alerts, dashboards, rules};
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::cluster::PASSWORD;
use sidepool_tests::postgres::{Cluster, Wire, frame};
use sidepool_tests::prometheus::Prometheus;
use sidepool_tests::redis::RedisServer;
use sidepool_tests::settings::Settings;
use sidepool_tests::{redis, tls, wait};
use tokio::task::JoinSet;

/// How long a query may take until it gives data: the load has to come round to what it asks about, and two scrapes have to have seen it.
const PATIENCE: Duration = Duration::from_secs(60);

fn deploy() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join("deploy")
}

/// A small pool, so that it runs dry, and bounds of every kind, so that their numbers are there.
async fn loaded() -> (Cluster, RedisServer, Pooler, JoinSet<()>) {
    let (cluster, server) = (Cluster::start().await, RedisServer::start().await);
    let settings = Settings::postgres(&cluster)
        .and_redis(&server)
        .set("memory_limit", "1GiB")
        .set("postgres.default_pool_size", 2)
        .set("postgres.query_wait_timeout", "300ms")
        .set("postgres.server_lifetime", "2s");
    let pool = Pooler::start(tls::offered(settings)).await;
    let mut load = JoinSet::new();
    let (postgres, redis) = (pool.postgres_port(), pool.redis_port());
    for _ in 0..3 {
        load.spawn(transactions(postgres));
    }
    load.spawn(logins(postgres));
    // The others may leave it no room.
    let client = wait::until("a client with statements", async || pool.try_client("app", "app", PASSWORD).await.ok()).await;
    load.spawn(statements(client));
    load.spawn(commands(redis));
    load.spawn(subscriber(redis));
    (cluster, server, pool, load)
}

/// Holds a connection for longer than others may wait, now and then. Who was closed for waiting comes again.
async fn transactions(port: u16) {
    loop {
        let Ok(mut wire) = Wire::try_login(port, &[("user", "app"), ("database", "app")], PASSWORD).await else { continue };
        for statement in
            ["BEGIN; SELECT 1; COMMIT", "SELECT 1/0", "BEGIN", "SELECT pg_sleep(0.3)", "SELECT 2", "COMMIT"].iter().cycle().take(600)
        {
            if wire.try_send(&frame::query(statement)).await.is_err() || !answered(&mut wire).await {
                break;
            }
            if *statement == "SELECT 2" {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Reads until the server is ready again; false when the connection has ended.
async fn answered(wire: &mut Wire) -> bool {
    while let Some(message) = wire.read_patiently().await {
        if message.tag == b'Z' {
            return true;
        }
    }
    false
}

async fn logins(port: u16) {
    loop {
        for database in ["app", "missing"] {
            // Whether it gets in depends on whom the others leave room.
            let _ = Wire::try_login(port, &[("user", "app"), ("database", database)], PASSWORD).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn statements(client: tokio_postgres::Client) {
    loop {
        // Refused now and then: that is what the others see to.
        let _ = client.query("SELECT $1::int4", &[&1]).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn commands(port: u16) {
    let mut wire = redis::Wire::connect(port).await;
    loop {
        for command in
            [&["INCR", "n"][..], &["GET", "n"], &["MULTI"], &["EXEC"], &["LPOP", "n"], &["SORT", "none"], &["BLPOP", "none", "0.01"]]
        {
            wire.command(command).await;
        }
        let mut other = redis::Wire::connect(port).await;
        other.command(&["PING"]).await;
    }
}

async fn subscriber(port: u16) {
    let mut wire = redis::Wire::connect(port).await;
    wire.command(&["SUBSCRIBE", "news"]).await;
    std::future::pending().await
}

/// Every expression of a dashboard, by the titles of its panels, with the dashboard's variables filled in as Grafana does.
fn expressions_of(dashboard: &str) -> BTreeMap<String, String> {
    let document: Value = serde_json::from_str(dashboard).expect("JSON");
    let mut found = BTreeMap::new();
    let panels = document["panels"].as_array().expect("panels");
    let hidden = panels.iter().flat_map(|panel| panel["panels"].as_array().into_iter().flatten());
    for panel in panels.iter().chain(hidden) {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let mut expression = target["expr"].as_str().expect("an expression").replace("$__rate_interval", "10s");
            for variable in ["namespace", "job", "instance", "pool"] {
                expression = expression.replace(&format!("${variable}"), ".*");
            }
            assert!(!expression.contains('$'), "a variable that is not filled in: {expression}");
            found.insert(format!("{}: {}", panel["title"], target["legendFormat"]), expression);
        }
    }
    assert!(found.len() > 10, "the panels are not where they were");
    found
}

/// Every query of the examples of autoscaling, with what prometheus-adapter fills in.
fn expressions_of_autoscaling() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for file in ["prometheus-adapter.yaml", "keda.yaml"] {
        let text = std::fs::read_to_string(deploy().join("autoscaling").join(file)).expect(file);
        let document: serde_yaml_ng::Value = serde_yaml_ng::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
        let rules = document["rules"]["custom"].as_sequence().into_iter().flatten().map(|rule| &rule["metricsQuery"]);
        let triggers = document["spec"]["triggers"].as_sequence().into_iter().flatten().map(|trigger| &trigger["metadata"]["query"]);
        for (index, query) in rules.chain(triggers).enumerate() {
            let query =
                query.as_str().expect("a query").replace("<<.LabelMatchers>>", "job=\"sidepool\"").replace("<<.GroupBy>>", "instance");
            found.insert(format!("{file} {index}"), query);
        }
    }
    assert_eq!(found.len(), 4);
    found
}

/// Asks each until all give a number; what does not within [`PATIENCE`] fails the test with its name.
async fn all_give_data(prometheus: &Prometheus, expressions: impl IntoIterator<Item = (String, String)>) {
    let mut open: BTreeMap<String, String> = expressions.into_iter().collect();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !open.is_empty() {
        let mut still = BTreeMap::new();
        for (name, expression) in open {
            let numbers = prometheus.query(&expression).await.unwrap_or_else(|error| panic!("{name}: {error}\n{expression}"));
            if !numbers.iter().any(|number| !number.value.is_nan()) {
                still.insert(name, expression);
            }
        }
        open = still;
        assert!(open.is_empty() || tokio::time::Instant::now() < deadline, "no data for {open:#?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_expression_gives_data_under_load() {
    let (_cluster, _server, pool, _load) = loaded().await;
    let file = deploy().join("prometheus/sidepool-alerts.yaml");
    let prometheus = Prometheus::start(&[pool.settings().admin_port()], &[file]).await;
    let panels = expressions_of(&dashboards::instance()).into_iter().chain(expressions_of(&dashboards::fleet()));
    all_give_data(&prometheus, panels).await;
    all_give_data(&prometheus, expressions_of_autoscaling()).await;
    let recordings = rules::RECORDINGS.iter().flat_map(|recording| {
        [(format!("{} as said", recording.name), recording.expression.to_owned()), (recording.name.to_owned(), recording.name.to_owned())]
    });
    all_give_data(&prometheus, recordings).await;
    let signals = alerts::all().filter(|alert| alert.silent_because.is_empty());
    all_give_data(&prometheus, signals.map(|alert| (alert.name.to_owned(), alert.signal.to_owned()))).await;
    // Those that are silent are understood all the same.
    for alert in alerts::all() {
        prometheus.query(&alert.expression()).await.unwrap_or_else(|error| panic!("{}: {error}", alert.name));
    }
    let state_of = async |name: &str| {
        let rules = prometheus.rules().await;
        let rule = rules.iter().find(|rule| rule["name"] == name).expect("a rule");
        rule["state"].as_str().unwrap_or_default().to_owned()
    };
    wait::until("the refusals to be seen", async || (state_of("SidepoolPoolRefusesClients").await != "inactive").then_some(())).await;
    for calm in ["SidepoolServerDown", "SidepoolSessionPanics", "SidepoolWorkerStuck", "SidepoolConfigReloadFailed", "SidepoolAbsent"] {
        // A scrape that took longer than Prometheus waits has found nobody; the next one says otherwise.
        wait::until(&format!("{calm} to be inactive"), async || (state_of(calm).await == "inactive").then_some(())).await;
    }
    let broken: Vec<Value> = prometheus.rules().await.into_iter().filter(|rule| rule["health"] != "ok").collect();
    assert!(broken.is_empty(), "{broken:#?}");
}
