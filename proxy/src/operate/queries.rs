//! Queries held against the catalogue, and the injector's table beside it: every metric that they name exists, is used as its kind allows, and has the labels that are asked for.
//!
//! Not a parser of PromQL: Prometheus itself is, in the tests.

use crate::injector::metrics;
use crate::observe::catalog::{Family, Info, Kind};

/// Labels that the scrape adds, which a query may name with any metric.
const OF_TARGETS: [&str; 5] = ["job", "instance", "namespace", "pod", "le"];

/// Says what is wrong with a query: a metric that does not exist, a suffix that its kind does not have, a label that it does not have.
pub fn check(query: &str) -> Result<(), String> {
    for (name, rest) in ours(query) {
        let Some(info) = named(name) else {
            return Err(format!("{name} is not in the catalogue, or not of a kind that is used so"));
        };
        for label in selected(rest) {
            if !info.labels.contains(&label) && !OF_TARGETS.contains(&label) {
                return Err(format!("{name} has no label {label}"));
            }
        }
    }
    Ok(())
}

/// The metrics of a query that are ours, by their families.
pub fn families(query: &str) -> impl Iterator<Item = Family> {
    ours(query).filter_map(|(name, _)| family(name))
}

/// Every name with our prefixes, and what follows it. Names with a colon are those of recording rules.
fn ours(query: &str) -> impl Iterator<Item = (&str, &str)> {
    let is_word = |character: char| character.is_ascii_alphanumeric() || character == '_' || character == ':';
    let mut rest = query;
    std::iter::from_fn(move || {
        loop {
            let start = rest.find(is_word)?;
            rest = &rest[start..];
            let (word, after) = rest.split_at(rest.find(|character| !is_word(character)).unwrap_or(rest.len()));
            rest = after;
            if (word.starts_with("sidepool_") || word.starts_with("process_")) && !word.contains(':') {
                return Some((word, after));
            }
        }
    })
}

fn named(name: &str) -> Option<&'static Info> {
    family(name).map(Family::info).or_else(|| metrics::TABLE.iter().find(|info| is_called(info, name)))
}

fn family(name: &str) -> Option<Family> {
    Family::ALL.iter().copied().find(|family| is_called(family.info(), name))
}

/// Whether a query that names this means this family.
fn is_called(info: &Info, name: &str) -> bool {
    match info.kind {
        Kind::Counter | Kind::CounterSeconds | Kind::Gauge => info.name == name,
        Kind::Histogram(_) => name.strip_prefix(info.name).is_some_and(|suffix| ["_bucket", "_sum", "_count"].contains(&suffix)),
    }
}

/// The labels in the braces at the beginning of `rest`.
fn selected(rest: &str) -> impl Iterator<Item = &str> {
    let inside = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(inside, _)| inside);
    inside.split(',').filter_map(|pair| pair.split_once(['=', '!']).map(|(label, _)| label.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_exist_is_found() {
        let wrong = |query: &str| check(query).expect_err(query);
        assert_eq!(check("sum by (pool) (rate(sidepool_queries_total{pool=~\"a|b\",job=\"x\"}[5m])) / sidepool:own:rule"), Ok(()));
        assert!(wrong("rate(sidepool_querys_total[5m])").contains("sidepool_querys_total"));
        assert!(wrong("sidepool_pool_wait_seconds").contains("kind"));
        assert!(wrong("sidepool_queries_total_count").contains("kind"));
        assert_eq!(check("sidepool_injector_requests_total{result=\"error\"} / sidepool_injector_request_seconds_count"), Ok(()));
        assert!(wrong("sidepool_injector_cert_loads_total{kind=\"x\"}").contains("no label kind"));
        assert!(wrong("sidepool_queries_total{reason!=\"x\"}").contains("no label reason"));
        assert_eq!(
            families("process_open_fds / sidepool_pool_wait_seconds_sum").collect::<Vec<_>>(),
            [Family::ProcessOpenFds, Family::PoolWaitSeconds]
        );
    }
}
