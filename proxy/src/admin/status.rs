//! `/statusz`: the same numbers as the metrics, as one JSON document for people and for what they look through (the status page):
//! beside the numbers the words that explain them. Counters count from the start; who wants rates takes the difference of two documents.

use std::time::{Instant, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::collect::Collected;
use super::explain::{Level, Words};
use super::facts::{Facts, Outcome, Trigger};
use super::notices;
use super::process::ProcessFigures;
use super::quantile::seconds;
use super::sessions::Sessions;
use super::{pool_status, quantile};
use crate::clock;
use crate::observe::catalog::{Buckets, Family};
use crate::observe::record::WorkerCounter;
use crate::upstream::breaker::Phase;

/// The document.
#[must_use]
pub fn document(facts: &Facts, collected: &Collected, sessions: &Sessions, now: Instant) -> Value {
    let uptime = clock::wall().duration_since(facts.started_at).unwrap_or_default();
    let process = ProcessFigures::read();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": uptime.as_secs(),
        "unix_seconds": clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
        "started": facts.is_started(),
        "draining": facts.is_draining(),
        "says": says(facts, &process, now).iter().map(words).collect::<Vec<_>>(),
        "workers": facts.liveness.owed(now).map(|(id, owed)| json!({ "worker": id.0, "owes_an_answer_for_seconds": owed.as_secs_f64() })).collect::<Vec<_>>(),
        "process": {
            "cpu_seconds": process.cpu.as_secs_f64(),
            "resident_bytes": process.resident_bytes,
            "open_files": process.open_fds,
            "max_files": process.max_fds,
        },
        "io_backend": { "used": facts.backend.name(), "refused": facts.backend.refused },
        "config": config(facts),
        "memory": facts.memory.usage().map(|usage| json!({ "used_bytes": usage.used, "limit_bytes": usage.limit, "pressure": facts.memory.step(), "clients_closed": facts.memory.closed() })),
        "listeners": facts.gates().iter().map(|(door, gate)| {
            let numbers = gate.numbers();
            json!({
                "listener": door.label(), "clients": numbers.open, "max_client_conn": numbers.max, "most": numbers.most(),
                "accepted": numbers.accepted, "refused": numbers.rejected,
                "refused_for_files": numbers.rejected_for_files, "refused_for_memory": numbers.rejected_for_memory, "refused_while_draining": numbers.rejected_while_draining,
            })
        }).collect::<Vec<_>>(),
        "logins": logins(collected),
        "hosts": facts.dialing.hosts(now).iter().map(|of| {
            let addresses: Map<String, Value> = Phase::ALL.iter().zip(of.addresses).map(|(phase, count)| (phase.label().to_owned(), count.into())).collect();
            json!({ "host": of.host, "addresses": addresses, "opened": of.opened })
        }).collect::<Vec<_>>(),
        "limits": sessions.limits.iter().map(|limit| json!({ "setting": limit.setting, "of": limit.of, "used": limit.used, "max": limit.max })).collect::<Vec<_>>(),
        "wait_bounds_seconds": seconds(Buckets::Wait.bounds()),
        "pools": collected.pools.iter().map(|pool| pool_status::document(pool, sessions)).collect::<Vec<_>>(),
        "databases": pool_status::summed(&collected.pools, pool_status::entry),
        "users": pool_status::summed(&collected.pools, |pool| &*pool.info.user),
    })
}

/// A sentence as the document has it.
pub(super) fn words(words: &Words) -> Value {
    json!({ "level": words.level.label(), "text": words.text, "advice": words.advice })
}

/// Quantiles of how long something took, since the start.
pub(super) fn quantiles(bounds: &[f64], counts: &[u64]) -> [Option<f64>; 2] {
    [0.5, 0.99].map(|share| quantile::quantile(bounds, counts, share))
}

fn says(facts: &Facts, process: &ProcessFigures, now: Instant) -> Vec<Words> {
    let mut all: Vec<Words> = facts.liveness.owed(now).filter_map(|(id, owed)| notices::of_worker(id, owed)).collect();
    if facts.is_draining() {
        all.push(Words::plain(Level::Notice, "draining: it ends when its clients have gone, or when the time for that is over"));
    }
    all.extend(notices::of_config(&facts.reloads()));
    all.extend(facts.gates().iter().filter_map(|(door, gate)| notices::of_listener(&door.label(), &gate.numbers())));
    all.extend(notices::of_memory(facts.memory.usage(), facts.memory.step()));
    all.extend(notices::of_backend(&facts.backend));
    all.extend(notices::of_files(process.open_fds, process.max_fds));
    all.extend(facts.dialing.hosts(now).iter().filter_map(notices::of_host));
    all.sort_by_key(|words| std::cmp::Reverse(words.level));
    all
}

fn config(facts: &Facts) -> Value {
    let reloads = facts.reloads();
    let outcomes = |counts: &[u64; 2]| -> Map<String, Value> {
        Outcome::ALL.iter().zip(counts).map(|(outcome, count)| (outcome.label().to_owned(), (*count).into())).collect()
    };
    let counts: Map<String, Value> =
        Trigger::ALL.iter().zip(&reloads.counts).map(|(trigger, counts)| (trigger.label().to_owned(), outcomes(counts).into())).collect();
    json!({
        "last_reload_successful": reloads.last_successful,
        "last_success_unix_seconds": reloads.last_success.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        "reloads": counts,
        "hash": reloads.hash.to_string(),
        "restart_pending": reloads.restart_pending,
        "problems": reloads.problems,
    })
}

/// Logins of clients: by protocol, by how they ended.
fn logins(collected: &Collected) -> Value {
    let mut by_protocol: Map<String, Value> = Map::new();
    for cell in collected.numbers.iter().flat_map(|_| WorkerCounter::ALL) {
        let series = cell.series();
        if let (Family::ClientLogins, [protocol, result], Some(numbers)) = (series.family, series.labels, &collected.numbers) {
            let results = by_protocol.entry((*protocol).to_owned()).or_insert_with(|| json!({}));
            results[*result] = numbers.counters[*cell as usize].into();
        }
    }
    by_protocol.into()
}
