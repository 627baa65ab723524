//! Keeps the number of pools with series of their own within bounds: those that come when there are enough are added up as one.
//!
//! Who has series of its own keeps them, and who was folded stays folded, so that no counter goes back. What folded pools had counted when they
//! went stays in the sum for the same reason.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::observe::record::PoolNumbers;
use crate::observe::report::{PoolInfo, PoolReport, PoolState, Protocol};

/// Who is folded, and what those had counted that are gone.
#[derive(Debug, Default)]
pub struct Folding {
    named: BTreeSet<Arc<str>>,
    folded: BTreeMap<Arc<str>, PoolReport>,
    /// By protocol, as one pool.
    gone: BTreeMap<Protocol, PoolReport>,
}

impl Folding {
    /// The pools as they are shown: at most so many by their own names, the others as one for each protocol. And how many those are.
    pub fn fold(&mut self, pools: Vec<PoolReport>, most: usize) -> (Vec<PoolReport>, usize) {
        let present: BTreeSet<Arc<str>> = pools.iter().map(|pool| Arc::clone(&pool.name)).collect();
        self.named.retain(|name| present.contains(name));
        while self.named.len() > most {
            self.named.pop_last();
        }
        let went: Vec<Arc<str>> = self.folded.keys().filter(|name| !present.contains(*name)).cloned().collect();
        for report in went.iter().filter_map(|name| self.folded.remove(name)) {
            let past = PoolReport { state: PoolState { saturated: report.state.saturated, up: true, ..PoolState::default() }, ..report };
            add(&mut self.gone, without_gauges(past));
        }
        let mut shown = Vec::new();
        for pool in pools {
            let is_new = !self.folded.contains_key(&pool.name) && !self.named.contains(&pool.name);
            if is_new && self.named.len() < most {
                self.named.insert(Arc::clone(&pool.name));
            }
            if self.named.contains(&pool.name) {
                shown.push(pool);
            } else {
                self.folded.insert(Arc::clone(&pool.name), pool);
            }
        }
        let mut others = self.gone.clone();
        for report in self.folded.values() {
            add(&mut others, report.clone());
        }
        shown.extend(others.into_values());
        (shown, self.folded.len())
    }
}

/// Adds a report to that of its protocol.
fn add(sums: &mut BTreeMap<Protocol, PoolReport>, report: PoolReport) {
    let protocol = report.info.protocol;
    match sums.get_mut(&protocol) {
        Some(sum) => {
            sum.numbers.add(&report.numbers);
            sum.state.add(&report.state);
        }
        None => {
            let none: Arc<str> = "".into();
            let info = PoolInfo { protocol, database: Arc::clone(&none), user: Arc::clone(&none), mode: "", upstream: none };
            sums.insert(protocol, PoolReport { name: format!("_other/{}", protocol.name()).into(), info, ..report });
        }
    }
}

fn without_gauges(report: PoolReport) -> PoolReport {
    let PoolNumbers { counters, gauges, histograms } = report.numbers;
    let gauges = gauges.iter().map(|_| 0).collect();
    PoolReport { numbers: PoolNumbers { counters, gauges, histograms }, ..report }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::record::{PoolCounter, PoolGauge, PoolRecord};
    use crate::observe::report::Line;

    fn pool(name: &str, protocol: Protocol, queries: u64) -> PoolReport {
        let record = PoolRecord::default();
        record.add(PoolCounter::Queries, queries);
        record.shift(PoolGauge::Clients, 1);
        let info = PoolInfo { protocol, database: "d".into(), user: "u".into(), mode: "transaction", upstream: "h:1".into() };
        let state = PoolState { leased: 1, max: 5, up: true, ..PoolState::default() };
        PoolReport { name: name.into(), info, numbers: record.numbers(), state, line: Line::default() }
    }

    /// Name, queries, clients, leased, most.
    type Row = (String, u64, i64, u32, u32);

    fn seen((pools, folded): (Vec<PoolReport>, usize)) -> (Vec<Row>, usize) {
        let of = |pool: &PoolReport| {
            let (counters, gauges) = (&pool.numbers.counters, &pool.numbers.gauges);
            (
                pool.name.to_string(),
                counters[PoolCounter::Queries as usize],
                gauges[PoolGauge::Clients as usize],
                pool.state.leased,
                pool.state.max,
            )
        };
        (pools.iter().map(of).collect(), folded)
    }

    fn row(name: &str, queries: u64, clients: i64, leased: u32, max: u32) -> Row {
        (name.to_owned(), queries, clients, leased, max)
    }

    #[test]
    fn those_that_come_late_are_added_up() {
        let mut folding = Folding::default();
        let postgres = |name, queries| pool(name, Protocol::Postgres, queries);
        assert_eq!(seen(folding.fold(vec![postgres("m", 1), postgres("n", 2)], 2)), (vec![row("m", 1, 1, 1, 5), row("n", 2, 1, 1, 5)], 0));
        // "a" comes first by name and is last to come.
        let now =
            folding.fold(vec![postgres("a", 10), postgres("b", 20), postgres("m", 1), postgres("n", 2), pool("r", Protocol::Redis, 5)], 2);
        let other = row("_other/postgres", 30, 2, 2, 10);
        assert_eq!(seen(now), (vec![row("m", 1, 1, 1, 5), row("n", 2, 1, 1, 5), other, row("_other/redis", 5, 1, 1, 5)], 3));
    }

    #[test]
    fn no_counter_goes_back_when_pools_go() {
        let mut folding = Folding::default();
        let postgres = |name, queries| pool(name, Protocol::Postgres, queries);
        folding.fold(vec![postgres("a", 1), postgres("b", 20), postgres("c", 30)], 1);
        // The one with a name goes: there is room, but who is folded stays so. One of the others goes and leaves what it has counted.
        assert_eq!(seen(folding.fold(vec![postgres("c", 31)], 1)), (vec![row("_other/postgres", 51, 1, 1, 5)], 1));
        assert_eq!(seen(folding.fold(vec![postgres("c", 31), postgres("d", 7)], 1)).0[0], row("d", 7, 1, 1, 5));
        assert_eq!(seen(folding.fold(Vec::new(), 1)), (vec![row("_other/postgres", 51, 0, 0, 0)], 0));
    }

    #[test]
    fn a_smaller_bound_holds_at_once() {
        let mut folding = Folding::default();
        let all = || (0..10).map(|index| pool(&format!("p{index}"), Protocol::Postgres, 1)).collect::<Vec<_>>();
        assert_eq!(folding.fold(all(), 10).0.len(), 10);
        let (shown, folded) = folding.fold(all(), 3);
        assert_eq!((shown.len(), folded), (4, 7));
    }
}
