//! That every family of the catalogue is really exported, and what a scrape of many pools costs.

use std::collections::BTreeSet;
use std::time::Duration;

use sidepool_config::model::{Config, LoadBalance, MetricsNames, TcpOptions, Upstream};
use sidepool_config::sources::Sources;
use sidepool_config::tls::Expiry;

use super::*;
use crate::clock;
use crate::listener::gate::Gates;
use crate::logging::Logging;
use crate::observe::record::{PoolRecord, WorkerRecord};
use crate::observe::report::{Line, PoolInfo, PoolState};
use crate::runtime::backend::Backend;
use crate::runtime::memory::Usage;
use crate::runtime::pressure::Step;
use crate::traces::Traces;
use crate::upstream::dial::Dialing;
use crate::worker::{Mailboxes, WorkerId};

fn pool(index: usize, protocol: Protocol) -> PoolReport {
    let record = PoolRecord::default();
    record.add(PoolCounter::Queries, 12_345);
    record.shift(PoolGauge::Clients, 5);
    let info = PoolInfo { protocol, database: "app".into(), user: "app".into(), mode: "transaction", upstream: "db:5432".into() };
    let state = PoolState { leased: 2, waiters: 1, max: 20, up: true, ..PoolState::default() };
    PoolReport { name: format!("pool-{index}").into(), info, numbers: record.numbers(), state, line: Line::default() }
}

fn scrape(pools: Vec<PoolReport>) -> String {
    scrape_as(MetricsNames::Sidepool, pools)
}

fn scrape_as(names: MetricsNames, pools: Vec<PoolReport>) -> String {
    let (sender, _jobs) = tokio::sync::mpsc::unbounded_channel();
    let (dialing, host) = (Dialing::default(), Upstream::Unix("/nowhere".into()));
    let _dialer = dialing.dialer(&[host], LoadBalance::default(), &TcpOptions::default(), Duration::from_secs(15));
    let facts = Facts::new(
        Mailboxes::new(vec![sender]),
        Logging::silent(),
        Sources::default().hash(),
        dialing,
        Traces::default(),
        Backend::default(),
    );
    let mut config = Config::default();
    config.redis.insert(
        "cache".to_owned(),
        sidepool_config::file::load_text("[redis.c]\nurl = \"redis://h\"", "f".as_ref(), &|_| None).unwrap().config.redis["c"].clone(),
    );
    *facts.gates() = Gates::default();
    facts.memory.note(Some(Usage { used: 50, limit: 100 }), Step::Calm);
    facts.gates().apply(&config);
    facts.exported().names = names;
    facts.exported().expiries = vec![("postgres".to_owned(), Expiry { setting: "client_tls_cert_file", not_after: 4_000_000_000 })];
    let collected =
        Collected { busy: vec![(WorkerId(0), Duration::from_secs(1))], numbers: Some(WorkerRecord::default().numbers()), pools };
    render(&facts, &collected, 3, clock::now())
}

#[test]
fn every_family_of_the_catalogue_is_exported() {
    let families = |names| {
        let text = scrape_as(names, vec![pool(0, Protocol::Postgres), pool(1, Protocol::Redis)]);
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next().map(str::to_owned)).collect::<BTreeSet<_>>()
    };
    let listed = |shown: &dyn Fn(Family) -> bool| -> BTreeSet<String> {
        Family::ALL.iter().filter(|family| shown(**family)).map(|family| family.info().name.to_owned()).collect()
    };
    assert_eq!(families(MetricsNames::Both), listed(&|_| true));
    assert_eq!(families(MetricsNames::Sidepool), listed(&|family| !family.is_otel()));
    assert_eq!(families(MetricsNames::Otel), listed(&|family| !family.is_said_by_otel()));
}

#[test]
fn the_words_of_opentelemetry_have_the_same_numbers() {
    let text = scrape_as(MetricsNames::Both, vec![pool(0, Protocol::Postgres)]);
    for (name, labels, value) in [
        ("count", ",db_client_connection_state=\"used\"", "2"),
        ("count", ",db_client_connection_state=\"idle\"", "0"),
        ("max", "", "20"),
        ("pending_requests", "", "1"),
        ("timeouts_total", "", "0"),
        ("wait_time_seconds_count", "", "0"),
    ] {
        let line = format!("db_client_connection_{name}{{db_client_connection_pool_name=\"pool-0\"{labels}}} {value}\n");
        assert!(text.contains(&line), "{line}");
    }
}

#[test]
fn states_of_clients_add_up() {
    let text = scrape(vec![pool(0, Protocol::Postgres)]);
    for line in ["{pool=\"pool-0\",state=\"idle\"} 2", "{pool=\"pool-0\",state=\"active\"} 2", "{pool=\"pool-0\",state=\"waiting\"} 1"] {
        assert!(text.contains(&format!("sidepool_pool_client_connections{line}")), "{line}");
    }
    assert!(text.contains("sidepool_pool_utilization_ratio{pool=\"pool-0\"} 0.1\n"));
}

#[test]
fn a_scrape_of_many_pools_stays_small() {
    let text = scrape((0..200).map(|index| pool(index, Protocol::Postgres)).collect());
    let series = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count();
    assert!(series < 200 * 200, "{series} series");
    assert!(text.len() < 200 * 12_000, "{} bytes", text.len());
}
