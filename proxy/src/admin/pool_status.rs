//! What `/statusz` says of each pool, and of the databases and users that pools belong to.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::explain::{self, Seen};
use super::metrics::{client_states, utilization};
use super::quantile::{counts, seconds};
use super::sessions::{Holder, Holders, Limit, Sessions};
use super::status::{quantiles, words};
use crate::observe::catalog::{Buckets, Family};
use crate::observe::record::{PoolCounter, PoolGauge, PoolHistogram};
use crate::observe::report::{PoolReport, Protocol};
use crate::upstream::postgres::pins::Cause;

/// How the pool of connections is called that all clients of a Redis server share.
const SHARED: &str = "/shared";

/// One pool.
pub(super) fn document(pool: &PoolReport, sessions: &Sessions) -> Value {
    let state = &pool.state;
    let (nobody, is_postgres) = (Holders::default(), pool.info.protocol == Protocol::Postgres);
    let holders = sessions.holders.get(&*pool.name).filter(|_| is_postgres).unwrap_or(&nobody);
    let bounds = Buckets::Wait.bounds();
    let waits = counts(&pool.numbers.histograms[PoolHistogram::Wait as usize], bounds.len());
    let [p50, p99] = quantiles(&seconds(bounds), waits);
    let clients: Map<String, Value> = client_states(pool).into_iter().map(|(state, count)| (state.to_owned(), count.into())).collect();
    let counter = |counter: PoolCounter| pool.numbers.counters[counter as usize];
    json!({
        "pool": &*pool.name,
        "protocol": pool.info.protocol.name(),
        "entry": entry(pool),
        "database": &*pool.info.database,
        "user": &*pool.info.user,
        "mode": pool.info.mode,
        "upstream": &*pool.info.upstream,
        "says": words(&says(pool, sessions, holders)),
        "shared": is_shared(pool),
        "up": state.up,
        "trouble": state.trouble.map(|trouble| trouble.label()),
        "retry_in_seconds": state.retry_in.map(|pause| pause.as_secs_f64()),
        "paused": state.paused,
        "draining": state.draining,
        "connections": {
            "idle": state.idle,
            "leased": state.leased,
            "connecting": state.connecting,
            "resetting": state.resetting,
            "probing": state.probing,
            "closing": state.closing,
            "max": state.max,
            "reserve": state.reserve,
            "room": state.room,
            "min": state.min,
        },
        "pinned": is_postgres.then(|| pinned(pool)),
        "utilization": utilization(pool),
        "idle_in_transaction": holders.resting,
        "longest": holders.longest.iter().map(holder).collect::<Vec<_>>(),
        "clients": clients,
        "waiters": state.waiters,
        "queue_limit": state.queue_limit,
        "oldest_wait_seconds": state.oldest_wait.as_secs_f64(),
        "saturated_seconds": state.saturated.as_secs_f64(),
        "wait_counts": waits,
        "wait_p50_seconds": p50,
        "wait_p99_seconds": p99,
        "transactions": counter(PoolCounter::Transactions),
        "queries": counter(PoolCounter::Queries),
        "refusals": by_label(pool, Family::PoolRejections),
        "connects": by_label(pool, Family::ServerConnects),
        "redis": (!is_postgres).then(|| redis(pool)),
    })
}

/// The database, or the Redis server, by the name that operators know: its section.
pub(super) fn entry(pool: &PoolReport) -> &str {
    match pool.info.protocol {
        Protocol::Postgres => {
            let name = pool.name.split_once('/').map_or(&*pool.name, |(name, _)| name);
            name.strip_suffix(&*pool.info.user).and_then(|name| name.strip_suffix('.')).unwrap_or(&pool.info.database)
        }
        Protocol::Redis => pool.name.split_once('/').map_or(&*pool.name, |(name, _)| name),
    }
}

fn is_shared(pool: &PoolReport) -> bool {
    pool.info.protocol == Protocol::Redis && pool.name.ends_with(SHARED)
}

fn says(pool: &PoolReport, sessions: &Sessions, holders: &Holders) -> explain::Words {
    let limits: Vec<&Limit> = sessions.limits.iter().filter(|limit| limit.concerns(&pool.name, &pool.info.user)).collect();
    explain::explain(&Seen {
        protocol: pool.info.protocol,
        mode: pool.info.mode,
        database: entry(pool),
        state: &pool.state,
        holders,
        limits: &limits,
        shared: is_shared(pool),
        blocking: gauge(pool, PoolGauge::BlockingWaiting),
    })
}

fn pinned(pool: &PoolReport) -> Value {
    let state = &pool.state;
    let reasons: Map<String, Value> =
        Cause::ALL.into_iter().map(|cause| (cause.label().to_owned(), state.pinned_by[cause as usize].into())).collect();
    json!({ "connections": state.pinned, "max": state.max_pinned, "reasons": reasons })
}

fn holder(holder: &Holder) -> Value {
    json!({
        "seconds": holder.held.as_secs_f64(),
        "user": holder.user,
        "application_name": holder.application,
        "client": holder.client,
        "server_pid": holder.server_pid,
        "idle_in_transaction": holder.rests,
        "pinned": holder.pinned,
    })
}

fn redis(pool: &PoolReport) -> Value {
    let counter = |counter: PoolCounter| pool.numbers.counters[counter as usize];
    json!({
        // As the words say it: a connection that nobody needs for the moment lies idle in the pool, and is there to be shared all the same.
        "shared": if is_shared(pool) { explain::open(&pool.state) } else { 0 },
        "leased": gauge(pool, PoolGauge::RedisLeased),
        "pubsub": gauge(pool, PoolGauge::RedisPubsub),
        "in_flight": gauge(pool, PoolGauge::RedisInFlight),
        "blocking": gauge(pool, PoolGauge::PinnedBlocking),
        "blocking_waiting": gauge(pool, PoolGauge::BlockingWaiting),
        "channels": gauge(pool, PoolGauge::RedisChannels),
        "patterns": gauge(pool, PoolGauge::RedisPatterns),
        "lane_commands": counter(PoolCounter::LaneCommands) + counter(PoolCounter::LaneHeavyCommands),
        "lane_writes": counter(PoolCounter::LaneWrites) + counter(PoolCounter::LaneHeavyWrites),
        "leases": by_label(pool, Family::RedisLeases),
    })
}

fn gauge(pool: &PoolReport, gauge: PoolGauge) -> u64 {
    u64::try_from(pool.numbers.gauges[gauge as usize]).unwrap_or(0)
}

/// The counters of a family, by their label.
fn by_label(pool: &PoolReport, family: Family) -> Map<String, Value> {
    let of_family = |cell: &&PoolCounter| cell.series().family == family && pool.info.protocol.has(cell.series().scope);
    let one = |cell: &PoolCounter| (cell.series().labels.join("."), pool.numbers.counters[*cell as usize].into());
    PoolCounter::ALL.iter().filter(of_family).map(one).collect()
}

#[derive(Default)]
struct Sum {
    clients: u64,
    waiting: u64,
    in_use: u64,
    transactions: u64,
    queries: u64,
    refused: u64,
}

/// Pools added up by what they have in common; those first that most clients wait for, then those that are used most.
pub(super) fn summed<'a>(pools: &'a [PoolReport], of: impl Fn(&'a PoolReport) -> &'a str) -> Vec<Value> {
    let mut sums: BTreeMap<(&str, Protocol), Sum> = BTreeMap::new();
    for pool in pools {
        let sum = sums.entry((of(pool), pool.info.protocol)).or_default();
        sum.clients += gauge(pool, PoolGauge::Clients);
        sum.waiting += u64::from(pool.state.waiters);
        sum.in_use += u64::from(pool.state.leased);
        sum.transactions += pool.numbers.counters[PoolCounter::Transactions as usize];
        sum.queries += pool.numbers.counters[PoolCounter::Queries as usize];
        sum.refused += by_label(pool, Family::PoolRejections).values().filter_map(Value::as_u64).sum::<u64>();
    }
    let mut all: Vec<_> = sums.into_iter().collect();
    all.sort_by_key(|(_, sum)| std::cmp::Reverse((sum.waiting, sum.in_use, sum.queries)));
    let shown = |((name, protocol), sum): ((&str, Protocol), Sum)| {
        json!({
            "name": name, "protocol": protocol.name(), "clients": sum.clients, "waiting": sum.waiting, "in_use": sum.in_use,
            "transactions": sum.transactions, "queries": sum.queries, "refused": sum.refused,
        })
    };
    all.into_iter().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::observe::record::PoolRecord;
    use crate::observe::report::{Line, PoolInfo, PoolState};

    fn pool(name: &str, protocol: Protocol, database: &str, waiters: u32) -> PoolReport {
        let record = PoolRecord::default();
        record.add(PoolCounter::Queries, 7);
        record.add(PoolCounter::RefusedQueueFull, 2);
        record.observe(PoolHistogram::Wait, Duration::from_millis(20));
        record.shift(PoolGauge::Clients, 5);
        let info = PoolInfo { protocol, database: database.into(), user: "bob".into(), mode: "transaction", upstream: "db:5432".into() };
        let state = PoolState { leased: 2, max: 2, room: 2, waiters, queue_limit: 9, up: true, ..PoolState::default() };
        PoolReport { name: name.into(), info, numbers: record.numbers(), state, line: Line::default() }
    }

    #[test]
    fn a_pool_says_how_it_is_and_why_clients_were_refused() {
        let mut sessions = Sessions::default();
        sessions.holders.insert("app.bob".to_owned(), Holders { resting: 2, longest: Vec::new() });
        let document = document(&pool("app.bob", Protocol::Postgres, "real", 3), &sessions);
        assert_eq!(document["says"]["level"], "exhausted");
        assert_eq!(document["says"]["text"], "2 of 2 in use, 3 waiting, oldest 0 µs; 2 of them idle in transaction");
        assert_eq!(
            (&document["refusals"]["queue_full"], &document["idle_in_transaction"], &document["redis"]),
            (&json!(2), &json!(2), &Value::Null)
        );
        let p99 = document["wait_p99_seconds"].as_f64().unwrap();
        assert!((0.01..=0.025).contains(&p99), "{p99}");
        assert_eq!(document["wait_counts"].as_array().unwrap().len(), Buckets::Wait.bounds().len() + 1);
    }

    #[test]
    fn redis_has_lanes_and_shared_connections_are_not_exhausted() {
        let mut pool = pool("cache/bob/0/resp3/shared", Protocol::Redis, "0", 0);
        (pool.state.leased, pool.state.idle) = (0, 1);
        let document = document(&pool, &Sessions::default());
        assert_eq!((&document["says"]["level"], &document["shared"], &document["pinned"]), (&json!("good"), &json!(true), &Value::Null));
        assert_eq!((&document["redis"]["in_flight"], &document["redis"]["shared"]), (&json!(0), &json!(1)));
        assert_eq!(document["says"]["text"], "healthy: 1 connection shared by all clients, nobody waits");
    }

    #[test]
    fn databases_are_added_up_and_the_most_wanted_comes_first() {
        let pools = [
            pool("a.bob", Protocol::Postgres, "a", 0),
            pool("b.bob", Protocol::Postgres, "elsewhere", 4),
            pool("b.bob/auth_query", Protocol::Postgres, "b", 1),
            pool("c/shared", Protocol::Redis, "0", 0),
        ];
        let sums = summed(&pools, entry);
        let names: Vec<_> = sums.iter().map(|sum| sum["name"].as_str().unwrap()).collect();
        assert_eq!(names[0], "b");
        assert_eq!(
            (&sums[0]["waiting"], &sums[0]["clients"], &sums[0]["queries"], &sums[0]["refused"]),
            (&json!(5), &json!(10), &json!(14), &json!(4))
        );
        assert_eq!(summed(&pools, |pool| &*pool.info.user).len(), 2, "each protocol has its own");
    }
}
