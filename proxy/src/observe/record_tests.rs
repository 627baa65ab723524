//! That every cell belongs to a family of its kind, with the labels which that family has.

use std::collections::BTreeSet;

use super::*;

fn check(series: &[Series], kind: impl Fn(Kind) -> bool, of_pool: bool) {
    let mut seen = BTreeSet::new();
    for one in series {
        let info = one.family.info();
        assert!(kind(info.kind), "{} is of another kind", info.name);
        let own = usize::from(of_pool);
        assert_eq!(info.labels.first() == Some(&"pool"), of_pool, "{}: pool is the first label of pool families", info.name);
        assert_eq!(one.labels.len() + own, info.labels.len(), "{}: {:?}", info.name, one.labels);
        assert!(seen.insert((info.name, one.labels, format!("{:?}", one.scope))), "{} {:?} is there twice", info.name, one.labels);
    }
}

#[test]
fn every_cell_fits_its_family() {
    let counters = |kind| matches!(kind, Kind::Counter | Kind::CounterSeconds);
    let histograms = |kind| matches!(kind, Kind::Histogram(_));
    let gauges = |kind| kind == Kind::Gauge;
    check(&PoolCounter::ALL.iter().map(|cell| cell.series()).collect::<Vec<_>>(), counters, true);
    check(&PoolGauge::ALL.iter().map(|cell| cell.series()).collect::<Vec<_>>(), gauges, true);
    check(&PoolHistogram::ALL.iter().map(|cell| cell.series()).collect::<Vec<_>>(), histograms, true);
    check(&WorkerCounter::ALL.iter().map(|cell| cell.series()).collect::<Vec<_>>(), counters, false);
    check(&WorkerHistogram::ALL.iter().map(|cell| cell.series()).collect::<Vec<_>>(), histograms, false);
}

#[test]
fn numbers_of_workers_add_up() {
    let first = PoolRecord::default();
    let second = PoolRecord::default();
    first.add(PoolCounter::Queries, 2);
    second.add(PoolCounter::Queries, 3);
    first.shift(PoolGauge::Clients, 2);
    second.shift(PoolGauge::Clients, -1);
    second.observe(PoolHistogram::Wait, Duration::from_millis(3));
    let mut sum = first.numbers();
    sum.add(&second.numbers());
    assert_eq!(sum.counters[PoolCounter::Queries as usize], 5);
    assert_eq!(sum.gauges[PoolGauge::Clients as usize], 1);
    assert_eq!(sum.histograms[PoolHistogram::Wait as usize].sum_nanos, 3_000_000);
}
