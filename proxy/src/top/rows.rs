//! The lists as rows of text: what is in them and in which order. Pure; the same for the terminal and for pipes.

use std::cmp::Reverse;
use std::time::Duration;

use super::document::{Document, Pool, Sum};
use super::state::{Sort, State, Tab};
use crate::admin::explain::{self, Level};

/// A list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grid {
    /// The names of its columns. The first one and those of words begin at the left, the others end at the right.
    pub head: &'static [&'static str],
    /// Its rows.
    pub rows: Vec<Row>,
}

/// A row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What it is about.
    pub name: String,
    /// Of which protocol that is: names alone may be those of two.
    pub protocol: String,
    /// How bad it is.
    pub level: String,
    /// One text for each column.
    pub cells: Vec<String>,
}

/// How bad a level is; what is not known is not bad.
#[must_use]
pub fn severity(level: &str) -> usize {
    Level::ALL.iter().position(|known| known.label() == level).unwrap_or(0)
}

/// A time, shortly; nothing for no time.
#[must_use]
pub fn time(seconds: f64) -> String {
    if seconds > 0.0 { explain::span(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)) } else { "-".to_owned() }
}

/// A number, shortly.
#[must_use]
pub fn count(number: u64) -> String {
    match number {
        0..=99_999 => number.to_string(),
        100_000..=9_999_999 => format!("{}k", number / 1000),
        _ => format!("{}M", number / 1_000_000),
    }
}

/// The pools in an order.
#[must_use]
pub fn sorted(state: &State, sort: Sort) -> Vec<&Pool> {
    let mut pools: Vec<&Pool> = state.document.pools.iter().collect();
    let past = |pool: &Pool| state.history.of(&pool.name);
    // A share of a thousand is as fine as anybody looks.
    let full = |pool: &Pool| (!pool.shared, (pool.utilization * 1000.0) as u64);
    pools.sort_by(|a, b| a.name.cmp(&b.name));
    match sort {
        Sort::Worst => pools.sort_by_key(|pool| Reverse((severity(&pool.says.level), pool.waiters, full(pool)))),
        Sort::Waiting => pools.sort_by_key(|pool| Reverse(pool.waiters)),
        Sort::Use => pools.sort_by_key(|pool| Reverse(full(pool))),
        Sort::Wait => pools.sort_by_key(|pool| Reverse(past(pool).p99.back().copied())),
        Sort::Rate => pools.sort_by_key(|pool| Reverse(past(pool).rate_now())),
        Sort::Name => {}
    }
    pools
}

/// The rows of a list.
#[must_use]
pub fn grid(state: &State, tab: Tab) -> Grid {
    let pools = || sorted(state, state.sort).into_iter().filter(|pool| matches(state, &[&pool.name, &pool.upstream, &pool.says.level]));
    match tab {
        Tab::Pools => Grid {
            head: &["pool", "state", "in use", "waiting", "oldest", "wait p99", "per s"],
            rows: pools().map(|pool| of_pool(state, pool)).collect(),
        },
        Tab::Databases => Grid {
            head: &["database", "waiting", "in use", "clients", "xacts/s", "queries/s"],
            rows: sums(state, |document| &document.databases),
        },
        Tab::Users => {
            Grid { head: &["user", "waiting", "in use", "clients", "xacts/s", "queries/s"], rows: sums(state, |document| &document.users) }
        }
        Tab::Pins => Grid { head: &["pool", "pinned", "at most", "why"], rows: pools().filter_map(of_pins).collect() },
        Tab::Redis => Grid {
            head: &["pool", "shared", "leased", "in flight", "blocked", "per write", "per s"],
            rows: pools().filter_map(|pool| of_lanes(state, pool)).collect(),
        },
    }
}

fn matches(state: &State, texts: &[&str]) -> bool {
    let wanted = state.filter.to_lowercase();
    texts.iter().any(|text| text.to_lowercase().contains(&wanted))
}

fn row(pool: &Pool, cells: Vec<String>) -> Row {
    Row { name: pool.name.clone(), protocol: pool.protocol.clone(), level: pool.says.level.clone(), cells }
}

fn of_pool(state: &State, pool: &Pool) -> Row {
    let past = state.history.of(&pool.name);
    row(
        pool,
        vec![
            pool.name.clone(),
            pool.says.level.clone(),
            format!("{}/{}", pool.busy(), pool.connections.max),
            count(pool.waiters),
            time(pool.oldest_wait_seconds),
            time(past.p99_now()),
            count(past.rate_now()),
        ],
    )
}

fn of_pins(pool: &Pool) -> Option<Row> {
    let pinned = pool.pinned.as_ref().filter(|pinned| pinned.connections > 0)?;
    let why = some(pinned.reasons.iter());
    Some(row(pool, vec![pool.name.clone(), pinned.connections.to_string(), pinned.max.to_string(), why]))
}

fn of_lanes(state: &State, pool: &Pool) -> Option<Row> {
    let redis = pool.redis.as_ref()?;
    let per_write =
        if redis.lane_writes > 0 { format!("{:.1}", redis.lane_commands as f64 / redis.lane_writes as f64) } else { "-".to_owned() };
    let numbers = [redis.shared, redis.leased, redis.in_flight, redis.blocking_waiting];
    let cells =
        std::iter::once(pool.name.clone()).chain(numbers.map(count)).chain([per_write, count(state.history.of(&pool.name).rate_now())]);
    Some(row(pool, cells.collect()))
}

/// Those counts that are not zero, with what they count.
#[must_use]
pub fn some<'a>(counts: impl Iterator<Item = (&'a String, &'a u64)>) -> String {
    let words: Vec<String> =
        counts.filter(|(_, count)| **count > 0).map(|(name, number)| format!("{} {}", name.replace('_', " "), count(*number))).collect();
    words.join(", ")
}

fn sums(state: &State, of: impl Fn(&Document) -> &Vec<Sum>) -> Vec<Row> {
    let rate = |sum: &Sum, field: fn(&Sum) -> u64| {
        let Some((before, gap)) = &state.before else { return "-".to_owned() };
        let then = of(before).iter().find(|then| (&then.name, &then.protocol) == (&sum.name, &sum.protocol));
        then.map_or_else(|| "-".to_owned(), |then| count((field(sum).saturating_sub(field(then)) as f64 / gap).round() as u64))
    };
    let shown = |sum: &Sum| {
        let name = if sum.protocol == "redis" { format!("{} (redis)", sum.name) } else { sum.name.clone() };
        let transactions = if sum.protocol == "redis" { "-".to_owned() } else { rate(sum, |sum| sum.transactions) };
        let cells = vec![name, count(sum.waiting), count(sum.in_use), count(sum.clients), transactions, rate(sum, |sum| sum.queries)];
        Row {
            name: sum.name.clone(),
            protocol: sum.protocol.clone(),
            level: if sum.waiting > 0 { "notice" } else { "good" }.to_owned(),
            cells,
        }
    };
    of(&state.document).iter().filter(|sum| matches(state, &[&sum.name, &sum.protocol])).map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_times_and_numbers_are_short() {
        assert!(severity("down") > severity("exhausted") && severity("exhausted") > severity("good") && severity("new") == 0);
        assert_eq!([time(0.0), time(0.02), time(1.25), time(f64::MAX)], ["-", "20 ms", "1.2 s", &time(u64::MAX as f64 * 2.0)]);
        assert_eq!([count(7), count(99_999), count(123_456), count(12_000_000)], ["7", "99999", "123k", "12M"]);
    }
}
