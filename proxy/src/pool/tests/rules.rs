//! The rules of the core that do not need time: turns, sizes, conditions, operators.

use super::bench::{ALICE, BOB, Bench, LIMITS, ms};
use crate::pool::action::{Action, Outcome};
use crate::pool::limits::Limits;
use crate::pool::reason::{CloseReason, Condition, Failure, OpenReason, RefuseReason};
use crate::worker::WorkerId;

#[test]
fn a_released_connection_goes_to_the_oldest_waiter() {
    let mut bench = Bench::new(Limits { max: 1, ..LIMITS });
    let conn = bench.lease(1)[0];
    let (first, second) = (bench.queue(ALICE), bench.queue(ALICE));
    bench.release(conn, Condition::Clean);
    assert_eq!(bench.grants(), [first]);
    bench.release(conn, Condition::Clean);
    assert_eq!(bench.grants(), [second]);
    assert_eq!(bench.core.snapshot(bench.now).leased, 1);
}

#[test]
fn identities_take_turns() {
    let mut bench = Bench::new(Limits { max: 1, ..LIMITS });
    let conn = bench.lease(1)[0];
    let greedy: Vec<_> = (0..3).map(|_| bench.queue(ALICE)).collect();
    let modest = bench.queue(BOB);
    let served: Vec<_> = (0..4)
        .flat_map(|_| {
            bench.release(conn, Condition::Clean);
            bench.grants()
        })
        .collect();
    assert_eq!(served, [modest, greedy[0], greedy[1], greedy[2]], "she has just had one");
}

#[test]
fn the_connection_used_last_is_used_next() {
    let mut bench = Bench::new(LIMITS);
    let conns = bench.idle(2);
    assert_eq!(bench.take(), conns[1]);
    assert_eq!(bench.take(), conns[0]);
}

#[test]
fn opens_run_in_parallel_up_to_the_limit_and_the_need() {
    let mut bench = Bench::new(Limits { max: 10, connect_parallelism: 3, ..LIMITS });
    bench.queue(ALICE);
    assert_eq!(bench.opens().len(), 1);
    for _ in 0..5 {
        bench.queue(ALICE);
    }
    let opens = bench.opens();
    assert_eq!(opens.len(), 2);
    bench.connect(opens[0].0);
    assert_eq!(bench.opens().len(), 1, "a finished open makes room for the next");
}

#[test]
fn never_more_than_the_maximum() {
    let mut bench = Bench::new(LIMITS);
    bench.lease(2);
    bench.queue(ALICE);
    assert_eq!(bench.opens(), []);
}

#[test]
fn a_full_queue_refuses_at_once_with_the_facts() {
    let mut bench = Bench::new(Limits { max: 1, queue_length: 2, ..LIMITS });
    bench.lease(1);
    bench.queue(ALICE);
    bench.queue(ALICE);
    let refusal = bench.refused();
    assert_eq!(refusal.reason, RefuseReason::QueueFull);
    assert_eq!((refusal.connections, refusal.leased, refusal.max, refusal.waiters, refusal.queue_length), (1, 1, 1, 2, 2));
}

#[test]
fn a_cancelled_waiter_is_passed_over() {
    let mut bench = Bench::new(Limits { max: 1, ..LIMITS });
    let conn = bench.lease(1)[0];
    let (first, second) = (bench.queue(ALICE), bench.queue(ALICE));
    assert!(bench.core.cancel(bench.now, first));
    assert!(!bench.core.cancel(bench.now, first), "a waiter ends once");
    bench.release(conn, Condition::Clean);
    assert_eq!(bench.grants(), [second]);
    assert!(!bench.core.cancel(bench.now, second), "it was granted already");
}

#[test]
fn who_holds_fewer_connections_comes_first() {
    let mut bench = Bench::new(Limits { max: 2, ..LIMITS });
    let held = bench.lease(2);
    let hers = [bench.queue(ALICE), bench.queue(ALICE)];
    let his = [bench.queue(BOB), bench.queue(BOB)];
    bench.release(held[0], Condition::Clean);
    assert_eq!(bench.grants(), [his[0]], "he holds none, and she one");
    bench.release(held[1], Condition::Clean);
    assert_eq!(bench.grants(), [hers[0]], "she holds none now, and he one: although he would have been next by turns");
    bench.release(held[0], Condition::Clean);
    assert_eq!(bench.grants(), [his[1]]);
}

#[test]
fn who_fills_the_queue_makes_room_for_others() {
    let mut bench = Bench::new(Limits { max: 1, queue_length: 3, ..LIMITS });
    bench.lease(1);
    let hers = [bench.queue(ALICE), bench.queue(ALICE), bench.queue(ALICE)];
    assert_eq!(bench.refused().reason, RefuseReason::QueueFull, "her own do not");
    bench.queue(BOB);
    let refusals = bench.refusals();
    assert_eq!(refusals.iter().map(|(waiter, _)| *waiter).collect::<Vec<_>>(), [hers[2]], "the last to come");
    assert_eq!(refusals[0].1.reason, RefuseReason::QueueFull);
    assert!(matches!(bench.acquire(BOB), Outcome::Refused(_)), "each has a fair share of the queue");
}

#[test]
fn a_dirty_connection_is_reset_before_anybody_gets_it() {
    let mut bench = Bench::new(Limits { max: 1, ..LIMITS });
    let conn = bench.lease(1)[0];
    let waiter = bench.queue(ALICE);
    bench.release(conn, Condition::Dirty);
    assert!(matches!(bench.actions()[..], [Action::Reset { conn: reset, .. }] if reset == conn));
    bench.core.on_reset(bench.now, conn, true);
    assert_eq!(bench.grants(), [waiter]);
}

#[test]
fn a_failed_reset_closes_and_opens_another() {
    let mut bench = Bench::new(Limits { max: 1, ..LIMITS });
    let conn = bench.lease(1)[0];
    bench.queue(ALICE);
    bench.release(conn, Condition::Dirty);
    bench.actions();
    bench.core.on_reset(bench.now, conn, false);
    let actions = bench.actions();
    assert!(matches!(
        actions[..],
        [Action::Close { reason: CloseReason::ResetFailed, .. }, Action::Open { reason: OpenReason::Demand, .. }]
    ));
}

#[test]
fn a_broken_connection_is_closed_and_replaced_for_who_waits() {
    let mut bench = Bench::new(Limits { max: 1, ..LIMITS });
    let conn = bench.lease(1)[0];
    bench.queue(ALICE);
    bench.release(conn, Condition::Broken);
    let actions = bench.actions();
    assert!(matches!(actions[..], [Action::Close { reason: CloseReason::Broken, .. }, Action::Open { reason: OpenReason::Demand, .. }]));
}

#[test]
fn a_connection_that_the_server_closes_is_dropped_and_the_minimum_restored() {
    let mut bench = Bench::new(Limits { min: 1, ..LIMITS });
    let (conn, reason) = bench.opens()[0];
    assert_eq!(reason, OpenReason::Minimum);
    bench.connect(conn);
    bench.core.on_closed(bench.now, conn);
    let actions = bench.actions();
    assert!(matches!(
        actions[..],
        [Action::Close { reason: CloseReason::ServerClosed, .. }, Action::Open { reason: OpenReason::Minimum, .. }]
    ));
}

#[test]
fn names_are_not_used_twice() {
    let mut bench = Bench::new(Limits { max: 1, ..LIMITS });
    let old = bench.lease(1)[0];
    bench.release(old, Condition::Broken);
    bench.actions();
    let new = bench.lease(1)[0];
    assert_eq!(old.slot, new.slot);
    bench.release(old, Condition::Clean);
    assert_eq!(bench.core.snapshot(bench.now).leased, 1, "the old name means nothing any more");
}

#[test]
fn growth_opens_for_waiters_at_once() {
    let mut bench = Bench::new(LIMITS);
    bench.lease(2);
    for _ in 0..3 {
        bench.queue(ALICE);
    }
    bench.core.resize(bench.now, Limits { max: 4, ..LIMITS });
    assert_eq!(bench.opens().len(), 2);
}

#[test]
fn shrinking_closes_idle_connections_now_and_leased_ones_at_release() {
    let mut bench = Bench::new(Limits { max: 4, ..LIMITS });
    let conns = bench.lease(4);
    bench.release(conns[0], Condition::Clean);
    assert!(!bench.core.is_recalled(conns[1]));
    bench.core.resize(bench.now, Limits { max: 2, ..LIMITS });
    assert_eq!(bench.closes(), [CloseReason::Shrunk]);
    assert!(bench.core.is_recalled(conns[1]), "long holders are asked for it");
    let waiter = bench.queue(ALICE);
    bench.release(conns[1], Condition::Clean);
    assert_eq!(bench.closes(), [CloseReason::Shrunk]);
    assert!(!bench.core.is_recalled(conns[2]), "two are left, as many as there may be");
    bench.release(conns[2], Condition::Clean);
    assert_eq!(bench.grants(), [waiter]);
}

#[test]
fn a_shrunken_queue_keeps_those_who_are_in_it() {
    let mut bench = Bench::new(Limits { max: 1, ..LIMITS });
    let conn = bench.lease(1)[0];
    let waiters: Vec<_> = (0..4).map(|_| bench.queue(ALICE)).collect();
    bench.core.resize(bench.now, Limits { max: 1, queue_length: 2, ..LIMITS });
    assert_eq!(bench.refused().reason, RefuseReason::QueueFull);
    for waiter in waiters {
        bench.release(conn, Condition::Clean);
        assert_eq!(bench.grants(), [waiter]);
    }
}

#[test]
fn stale_connections_are_closed_when_nobody_uses_them() {
    let mut bench = Bench::new(Limits { max: 3, ..LIMITS });
    let conns = bench.lease(2);
    bench.release(conns[0], Condition::Clean);
    bench.core.mark_stale(bench.now);
    assert_eq!(bench.closes(), [CloseReason::Stale]);
    assert!(bench.core.is_recalled(conns[1]));
    bench.release(conns[1], Condition::Dirty);
    assert_eq!(bench.closes(), [CloseReason::Stale]);
}

#[test]
fn connections_that_are_in_the_way_are_closed_when_nobody_uses_them() {
    let mut bench = Bench::new(Limits { max: 3, ..LIMITS });
    let conns = bench.lease(2);
    bench.release(conns[0], Condition::Clean);
    bench.core.retire_all(bench.now, CloseReason::Asked);
    assert_eq!(bench.closes(), [CloseReason::Asked]);
    bench.release(conns[1], Condition::Clean);
    assert_eq!(bench.closes(), [CloseReason::Asked]);
    // Whoever asks gets a new one, which is to stay.
    let again = bench.lease(1);
    bench.release(again[0], Condition::Clean);
    assert_eq!(bench.closes(), []);
}

#[test]
fn a_change_of_address_gives_up_on_connects_and_tries_at_once() {
    let mut bench = Bench::new(LIMITS);
    bench.queue(ALICE);
    let (first, _) = bench.opens()[0];
    bench.fail(first, Failure::Transient);
    assert_eq!(bench.opens(), [], "a pause follows a failure");
    bench.core.mark_stale(bench.now);
    let (second, _) = bench.opens()[0];
    bench.core.mark_stale(bench.now);
    let actions = bench.actions();
    assert!(matches!(actions[..], [Action::Close { conn, reason: CloseReason::Stale, .. }, Action::Open { .. }] if conn == second));
    bench.connect(second);
    assert_eq!(bench.core.snapshot(bench.now).connecting, 1, "what the abandoned connect says does not matter");
}

#[test]
fn an_open_that_another_worker_started_with_the_old_address_is_stale() {
    let mut bench = Bench::new(Limits { max: 1, ..LIMITS });
    bench.core.mark_stale(bench.now);
    bench.queue(ALICE);
    let (conn, _) = bench.opens()[0];
    assert!(bench.core.on_opening(conn, 0));
    bench.connect(conn);
    let actions = bench.actions();
    assert!(matches!(actions[..], [Action::Close { reason: CloseReason::Stale, .. }, Action::Open { .. }]));
}

#[test]
fn a_connect_that_was_given_up_before_a_worker_came_to_it_is_not_begun() {
    let mut bench = Bench::new(LIMITS);
    bench.queue(ALICE);
    let (conn, _) = bench.opens()[0];
    bench.core.pause(bench.now);
    bench.core.on_closed(bench.now, conn);
    assert!(!bench.core.on_opening(conn, 0));
}

#[test]
fn a_paused_pool_queues_and_closes_and_resumes() {
    let mut bench = Bench::new(LIMITS);
    let conns = bench.lease(2);
    bench.release(conns[0], Condition::Clean);
    bench.core.pause(bench.now);
    assert_eq!(bench.closes(), [CloseReason::Paused]);
    let waiter = bench.queue(ALICE);
    bench.release(conns[1], Condition::Clean);
    assert_eq!(bench.closes(), [CloseReason::Paused]);
    assert_eq!(bench.core.snapshot(bench.now).connections(), 0);
    bench.core.resume(bench.now);
    let (conn, _) = bench.opens()[0];
    bench.connect(conn);
    assert_eq!(bench.grants(), [waiter]);
}

#[test]
fn a_drained_pool_refuses_all_and_ends_empty() {
    let mut bench = Bench::new(Limits { max: 3, connect_parallelism: 1, ..LIMITS });
    let conns = bench.lease(2);
    bench.release(conns[0], Condition::Clean);
    bench.take();
    let waiter = bench.queue(ALICE);
    bench.core.drain(bench.now);
    let actions = bench.actions();
    assert!(actions.iter().any(|action| matches!(action, Action::Refuse { waiter: refused, .. } if *refused == waiter)));
    assert_eq!(bench.refused().reason, RefuseReason::Draining);
    assert!(!bench.core.is_drained());
    for conn in conns {
        assert!(bench.core.is_recalled(conn));
        bench.release(conn, Condition::Clean);
    }
    assert_eq!(bench.closes(), [CloseReason::Drain, CloseReason::Drain]);
    assert!(bench.core.is_drained());
}

#[test]
fn a_server_that_refuses_us_for_good_is_told_to_those_who_wait() {
    let mut bench = Bench::new(LIMITS);
    let waiters = [bench.queue(ALICE), bench.queue(BOB)];
    let opens = bench.opens();
    bench.fail(opens[0].0, Failure::Permanent);
    let refusals = bench.refusals();
    assert_eq!(refusals.iter().map(|(waiter, _)| *waiter).collect::<Vec<_>>(), waiters);
    assert!(refusals.iter().all(|(_, refusal)| refusal.reason == RefuseReason::UpstreamRefuses));
    bench.fail(opens[1].0, Failure::Permanent);
    assert_eq!(bench.refused().reason, RefuseReason::LoginFailing);
    bench.pass(ms(100));
    bench.queue(ALICE);
    assert_eq!(bench.opens().len(), 1, "the next attempt is due");
    bench.queue(ALICE);
    assert_eq!(bench.opens().len(), 0, "one at a time while the server refuses");
}

#[test]
fn a_server_that_is_away_for_long_is_not_waited_for_unless_it_starts_up() {
    let mut bench = Bench::new(Limits { fail_fast_after: Some(ms(5000)), wait_timeout: None, ..LIMITS });
    bench.queue(ALICE);
    let mut opens = bench.opens();
    let mut refused = 0;
    for _ in 0..8 {
        bench.fail(opens[0].0, Failure::Transient);
        refused = bench.refusals().len();
        if refused > 0 {
            break;
        }
        bench.pass(ms(2000));
        opens = bench.opens();
    }
    assert_eq!(refused, 1, "told after five seconds, not before");
    assert_eq!(bench.refused().reason, RefuseReason::LoginFailing);
    bench.pass(ms(15_000));
    bench.queue(ALICE);
    let opens = bench.opens();
    bench.fail(opens[0].0, Failure::Starting);
    assert_eq!(bench.refusals(), []);
    bench.queue(BOB);
}

#[test]
fn a_place_is_taken_without_a_connection_and_counts() {
    let mut bench = Bench::new(Limits { max: 1, ..LIMITS });
    let now = bench.now;
    let slot = bench.core.occupy(now, WorkerId(0), ALICE).expect("there is room");
    assert_eq!(bench.opens().len(), 0, "nothing is opened for it");
    assert_eq!(bench.core.occupy(now, WorkerId(0), ALICE), None);
    bench.queue(ALICE);
    assert_eq!(bench.opens().len(), 0, "the pool is full");
    bench.core.release(now, slot, Condition::Broken);
    bench.core.on_closed(now, slot);
    assert_eq!(bench.core.occupy(now, WorkerId(0), ALICE), None, "somebody waits");
    assert_eq!(bench.core.snapshot(now).connecting, 1);
}

#[test]
fn while_connections_work_a_permanent_failure_refuses_nobody() {
    let mut bench = Bench::new(LIMITS);
    let conn = bench.lease(1)[0];
    let waiter = bench.queue(ALICE);
    let (second, _) = bench.opens()[0];
    bench.fail(second, Failure::Permanent);
    assert_eq!(bench.refusals(), []);
    bench.release(conn, Condition::Clean);
    assert_eq!(bench.grants(), [waiter]);
}

#[test]
fn a_connection_that_is_closed_when_it_comes_free_is_no_reason_to_wait() {
    let mut bench = Bench::new(LIMITS);
    let conn = bench.lease(1)[0];
    bench.core.retire_all(bench.now, CloseReason::Asked);
    let waiter = bench.queue(ALICE);
    let (second, _) = bench.opens()[0];
    bench.fail(second, Failure::Permanent);
    assert_eq!(bench.refusals().iter().map(|(refused, _)| *refused).collect::<Vec<_>>(), [waiter]);
    assert_eq!(bench.refused().reason, RefuseReason::LoginFailing);
    bench.release(conn, Condition::Clean);
}

#[test]
fn an_idle_connection_that_is_found_dead_is_replaced_by_the_next() {
    let mut bench = Bench::new(LIMITS);
    let conns = bench.idle(2);
    let dead = bench.take();
    bench.core.discard(bench.now, dead, CloseReason::ServerClosed);
    assert_eq!(bench.closes(), [CloseReason::ServerClosed]);
    assert_eq!(bench.take(), conns[0]);
}

#[test]
fn the_minimum_is_kept_while_the_pool_has_a_client() {
    let mut bench = Bench::new(Limits { min: 1, min_always: false, idle_timeout: Some(ms(100)), ..LIMITS });
    assert_eq!(bench.opens(), []);
    bench.core.enter(bench.now, super::bench::HOME);
    let (conn, reason) = bench.opens()[0];
    assert_eq!(reason, OpenReason::Minimum);
    bench.connect(conn);
    bench.pass(ms(1000));
    assert_eq!(bench.closes(), []);
    bench.core.leave(bench.now, super::bench::HOME);
    assert_eq!(bench.closes(), [CloseReason::Idle], "it was idle for long enough");
}

#[test]
fn round_robin_uses_the_one_that_was_idle_longest() {
    for (round_robin, expected) in [(false, [2, 2]), (true, [0, 1])] {
        let mut bench = Bench::new(Limits { max: 3, round_robin, ..LIMITS });
        let conns = bench.lease(3);
        for conn in &conns {
            bench.now += ms(1);
            bench.release(*conn, Condition::Clean);
        }
        for place in expected {
            let conn = bench.take();
            assert_eq!(conn, conns[place]);
            bench.now += ms(1);
            bench.release(conn, Condition::Clean);
        }
    }
}

#[test]
fn a_pool_at_a_common_limit_opens_nothing_until_it_may() {
    let mut bench = Bench::new(Limits { max: 3, ..LIMITS });
    let held = bench.lease(1)[0];
    let waiter = bench.queue(ALICE);
    let (conn, reason) = bench.opens()[0];
    bench.core.on_capped(bench.now, conn, reason);
    assert!(bench.core.is_capped());
    bench.queue(ALICE);
    assert_eq!(bench.opens(), []);
    bench.release(held, Condition::Clean);
    assert_eq!(bench.grants(), [waiter], "what it has still serves");
    bench.core.uncap(bench.now);
    assert_eq!(bench.opens().len(), 1);
}

#[test]
fn a_pool_gives_up_what_is_idle_now_and_what_is_leased_when_it_comes_back() {
    let mut bench = Bench::new(Limits { max: 3, ..LIMITS });
    let conns = bench.lease(2);
    bench.release(conns[0], Condition::Clean);
    bench.core.owe_one(bench.now);
    assert_eq!(bench.closes(), [CloseReason::Evicted]);
    bench.core.owe_one(bench.now);
    bench.core.owe_one(bench.now);
    assert_eq!(bench.closes(), []);
    bench.release(conns[1], Condition::Clean);
    assert_eq!(bench.closes(), [CloseReason::Evicted]);
    let next = bench.lease(1)[0];
    bench.release(next, Condition::Clean);
    assert_eq!(bench.closes(), [], "no more is owed than was leased");
    let last = bench.take();
    bench.core.owe_one(bench.now);
    bench.core.forgive();
    bench.release(last, Condition::Clean);
    assert_eq!(bench.closes(), [], "nobody needs it any more");
}
