//! Pinned connections: counted as long as they are, and no more of them than may be.

use super::bench::{ALICE, Bench, LIMITS};
use crate::pool::action::Outcome;
use crate::pool::id::ConnId;
use crate::pool::limits::Limits;
use crate::pool::pinned::{PROMISED, Pinned};
use crate::pool::reason::{Condition, RefuseReason};

const FIRST: u8 = 1;
const THIRD: u8 = 4;

/// A pool in which so many connections are leased.
fn leased(limits: Limits, count: usize) -> (Bench, Vec<ConnId>) {
    let mut bench = Bench::new(limits);
    let ids = bench.lease(count);
    (bench, ids)
}

fn counts(bench: &Bench) -> (u32, u32, u32) {
    let Pinned { connections, by_cause } = bench.core.snapshot(bench.now).pinned;
    (connections, by_cause[0], by_cause[2])
}

#[test]
fn what_is_pinned_is_counted_by_connection_and_by_cause() {
    let (mut bench, ids) = leased(Limits { max: 3, max_pinned: 3, ..LIMITS }, 3);
    assert!(bench.core.pin(ids[0], FIRST | THIRD));
    assert!(bench.core.pin(ids[1], THIRD));
    assert_eq!(counts(&bench), (2, 1, 2));
    assert!(bench.core.pin(ids[0], THIRD));
    assert_eq!(counts(&bench), (2, 0, 2));
    assert!(bench.core.pin(ids[0], 0));
    assert_eq!(counts(&bench), (1, 0, 1));
}

#[test]
fn no_more_are_pinned_than_may_be() {
    let (mut bench, ids) = leased(Limits { max: 3, max_pinned: 1, ..LIMITS }, 3);
    assert!(bench.core.pin(ids[0], PROMISED));
    assert!(!bench.core.pin(ids[1], FIRST), "what is promised has its place");
    assert!(bench.core.pin(ids[0], FIRST | THIRD), "who has a place may have more causes");
    assert!(bench.core.pin(ids[1], 0));
    assert!(bench.core.pin(ids[0], 0));
    assert!(bench.core.pin(ids[1], FIRST));
    bench.core.resize(bench.now, Limits { max: 3, max_pinned: 0, ..LIMITS });
    assert!(bench.core.pin(ids[1], THIRD), "a new limit takes nothing away");
    assert!(!bench.core.pin(ids[0], FIRST));
}

#[test]
fn a_pin_ends_with_its_lease() {
    for condition in [Condition::Clean, Condition::Dirty, Condition::Broken] {
        let (mut bench, ids) = leased(Limits { max_pinned: 1, ..LIMITS }, 2);
        assert!(bench.core.pin(ids[0], FIRST));
        bench.core.release(bench.now, ids[0], condition);
        assert_eq!(counts(&bench), (0, 0, 0), "{condition:?}");
        assert!(bench.core.pin(ids[1], FIRST));
        assert!(bench.core.pin(ids[0], FIRST), "whose lease is over has nothing to pin");
        assert_eq!(counts(&bench), (1, 1, 0));
    }
}

#[test]
fn a_refusal_says_how_many_are_pinned() {
    let (mut bench, ids) = leased(Limits { max: 1, max_pinned: 1, queue_length: 1, ..LIMITS }, 1);
    assert!(bench.core.pin(ids[0], THIRD));
    bench.queue(ALICE);
    let Outcome::Refused(refusal) = bench.acquire(ALICE) else { panic!("there is no room") };
    assert_eq!((refusal.reason, refusal.pinned.connections, refusal.pinned.by_cause[2]), (RefuseReason::QueueFull, 1, 1));
}
