//! `/statusz`: the same numbers as the metrics, as one JSON document for people.

use std::time::Instant;

use serde_json::{Value, json};

use super::collect::Collected;
use super::facts::Facts;
use super::metrics::{client_states, utilization};
use crate::clock;
use crate::observe::record::PoolCounter;
use crate::observe::report::{PoolReport, Protocol};
use crate::upstream::breaker::Phase;
use crate::upstream::postgres::pins::Cause;

/// The document.
#[must_use]
pub fn document(facts: &Facts, collected: &Collected, now: Instant) -> Value {
    let reloads = facts.reloads().clone();
    let uptime = clock::wall().duration_since(facts.started_at).unwrap_or_default();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": uptime.as_secs(),
        "started": facts.is_started(),
        "draining": facts.is_draining(),
        "workers": facts.liveness.owed(now).map(|(id, owed)| json!({ "worker": id.0, "owes_an_answer_for_seconds": owed.as_secs_f64() })).collect::<Vec<_>>(),
        "config": {
            "last_reload_successful": reloads.last_successful,
            "hash": reloads.hash.to_string(),
            "restart_pending": reloads.restart_pending,
            "problems": reloads.problems,
        },
        "memory": facts.memory.usage().map(|usage| json!({ "used_bytes": usage.used, "limit_bytes": usage.limit, "pressure": facts.memory.step(), "clients_closed": facts.memory.closed() })),
        "listeners": facts.gates().iter().map(|(door, gate)| {
            let numbers = gate.numbers();
            json!({ "listener": door.label(), "clients": numbers.open, "max_client_conn": numbers.max, "accepted": numbers.accepted, "refused": numbers.rejected })
        }).collect::<Vec<_>>(),
        "hosts": facts.dialing.hosts(now).iter().map(|of| {
            let addresses: serde_json::Map<String, Value> = Phase::ALL.iter().zip(of.addresses).map(|(phase, count)| (phase.label().to_owned(), count.into())).collect();
            json!({ "host": of.host, "addresses": addresses, "opened": of.opened })
        }).collect::<Vec<_>>(),
        "pools": collected.pools.iter().map(pool).collect::<Vec<_>>(),
    })
}

fn pool(pool: &PoolReport) -> Value {
    let state = &pool.state;
    let clients: serde_json::Map<String, Value> =
        client_states(pool).into_iter().map(|(state, count)| (state.to_owned(), count.into())).collect();
    let reasons: serde_json::Map<String, Value> =
        Cause::ALL.into_iter().map(|cause| (cause.label().to_owned(), state.pinned_by[cause as usize].into())).collect();
    let pinned = (pool.info.protocol == Protocol::Postgres)
        .then(|| json!({ "connections": state.pinned, "max": state.max_pinned, "reasons": reasons }));
    json!({
        "pool": &*pool.name,
        "protocol": pool.info.protocol.name(),
        "database": &*pool.info.database,
        "user": &*pool.info.user,
        "mode": pool.info.mode,
        "upstream": &*pool.info.upstream,
        "up": state.up,
        "paused": state.paused,
        "connections": {
            "idle": state.idle,
            "leased": state.leased,
            "connecting": state.connecting,
            "resetting": state.resetting,
            "probing": state.probing,
            "closing": state.closing,
            "max": state.max,
            "room": state.room,
            "min": state.min,
        },
        "pinned": pinned,
        "utilization": utilization(pool),
        "clients": clients,
        "waiters": state.waiters,
        "queue_limit": state.queue_limit,
        "oldest_wait_seconds": state.oldest_wait.as_secs_f64(),
        "transactions": pool.numbers.counters[PoolCounter::Transactions as usize],
        "queries": pool.numbers.counters[PoolCounter::Queries as usize],
    })
}
