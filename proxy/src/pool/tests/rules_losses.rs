//! Connections that the server closes as soon as they are open: they are not opened again as fast as that goes, and nobody waits long for it.

use std::collections::VecDeque;

use super::bench::{ALICE, Bench, LIMITS, ms};
use crate::pool::limits::Limits;
use crate::pool::reason::{CloseReason, Condition};

#[test]
fn connections_that_are_closed_as_soon_as_they_are_open_are_not_opened_as_fast_as_that_goes() {
    let mut bench = Bench::new(Limits { min: 1, ..LIMITS });
    let mut opened = 0;
    for _ in 0..1_000 {
        for (conn, _) in bench.opens() {
            opened += 1;
            bench.connect(conn);
            bench.core.discard(bench.now, conn, CloseReason::ServerClosed);
        }
        bench.pass(ms(1));
    }
    assert!((5..=21).contains(&opened), "{opened} in a second");
}

#[test]
fn connections_that_the_server_closes_in_use_as_soon_as_they_are_open_cost_a_short_pause_each_and_no_more() {
    // A client may bring that about: it must not keep others from the server for long, whatever pauses are set for connects that fail.
    for initial in [ms(100), ms(60_000)] {
        let mut bench = Bench::new(Limits { max: 1, backoff_initial: initial, backoff_max: initial * 10, ..LIMITS });
        let (mut opened, mut longest, mut last) = (0, ms(0), bench.now);
        for _ in 0..5_000 {
            if bench.core.snapshot(bench.now).waiters == 0 {
                bench.queue(ALICE);
            }
            for (conn, _) in bench.opens() {
                opened += 1;
                longest = longest.max(bench.now - last);
                last = bench.now;
                bench.connect(conn);
                bench.core.note_lost(bench.now, conn);
                let facts = bench.core.snapshot(bench.now);
                assert_eq!((facts.failures, facts.last_failure), (0, None), "the server is there");
                bench.release(conn, Condition::Broken);
                bench.core.on_closed(bench.now, conn);
            }
            bench.pass(ms(1));
        }
        assert!(longest <= ms(501), "nobody is kept waiting for longer than half a second: {longest:?}");
        assert!((10..=105).contains(&opened), "{opened} in five seconds");
    }
}

#[test]
fn connects_that_are_under_way_do_not_end_the_pause_of_those_whose_connections_do_not_last() {
    let mut bench = Bench::new(Limits { max: 20, connect_parallelism: 4, backoff_initial: ms(100), ..LIMITS });
    let (mut opened, mut under_way) = (0, VecDeque::new());
    for moment in 0..2_000 {
        while bench.core.snapshot(bench.now).waiters < 10 {
            bench.queue(ALICE);
        }
        under_way.extend(bench.opens().into_iter().map(|(conn, _)| (moment + 2, conn)));
        while let Some((_, conn)) = under_way.pop_front_if(|(due, _)| *due <= moment) {
            opened += 1;
            bench.connect(conn);
            bench.core.note_lost(bench.now, conn);
            bench.release(conn, Condition::Broken);
            bench.core.on_closed(bench.now, conn);
        }
        bench.pass(ms(1));
    }
    assert!((20..=60).contains(&opened), "{opened} in two seconds");
}
