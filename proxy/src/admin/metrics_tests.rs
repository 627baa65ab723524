//! That every family of the catalogue is really exported, and what a scrape of many pools costs.

use std::collections::BTreeSet;
use std::time::Duration;

use sidepool_config::model::{Config, LoadBalance, TcpOptions, Upstream};
use sidepool_config::sources::Sources;

use super::*;
use crate::clock;
use crate::listener::gate::Gates;
use crate::logging::Logging;
use crate::observe::record::{PoolRecord, WorkerRecord};
use crate::observe::report::{PoolInfo, PoolState};
use crate::runtime::memory::Usage;
use crate::runtime::pressure::Step;
use crate::upstream::dial::Dialing;
use crate::worker::{Mailboxes, WorkerId};

fn pool(index: usize, protocol: Protocol) -> PoolReport {
    let record = PoolRecord::default();
    record.add(PoolCounter::Queries, 12_345);
    record.shift(PoolGauge::Clients, 5);
    let info = PoolInfo { protocol, database: "app".into(), user: "app".into(), mode: "transaction", upstream: "db:5432".into() };
    let state = PoolState { leased: 2, waiters: 1, max: 20, up: true, ..PoolState::default() };
    PoolReport { name: format!("pool-{index}").into(), info, numbers: record.numbers(), state }
}

fn scrape(pools: Vec<PoolReport>) -> String {
    let (sender, _jobs) = tokio::sync::mpsc::unbounded_channel();
    let (dialing, host) = (Dialing::default(), Upstream::Unix("/nowhere".into()));
    let _dialer = dialing.dialer(&[host], LoadBalance::default(), &TcpOptions::default(), Duration::from_secs(15));
    let facts = Facts::new(Mailboxes::new(vec![sender]), Logging::silent(), Sources::default().hash(), dialing);
    let mut config = Config::default();
    config.redis.insert(
        "cache".to_owned(),
        sidepool_config::file::load_text("[redis.c]\nurl = \"redis://h\"", "f".as_ref(), &|_| None).unwrap().config.redis["c"].clone(),
    );
    *facts.gates() = Gates::default();
    facts.memory.note(Some(Usage { used: 50, limit: 100 }), Step::Calm);
    facts.gates().apply(&config);
    let collected =
        Collected { busy: vec![(WorkerId(0), Duration::from_secs(1))], numbers: Some(WorkerRecord::default().numbers()), pools };
    render(&facts, &collected, clock::now())
}

#[test]
fn every_family_of_the_catalogue_is_exported() {
    let text = scrape(vec![pool(0, Protocol::Postgres), pool(1, Protocol::Redis)]);
    let exported: BTreeSet<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let listed: BTreeSet<&str> = Family::ALL.iter().map(|family| family.info().name).collect();
    assert_eq!(exported, listed);
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
