//! The rules of the core that need time: waits, idleness, age, probes, retries, saturation.

use super::bench::{ALICE, BOB, Bench, HOME, LIMITS, asker, ms};
use crate::pool::action::{Action, Outcome};
use crate::pool::id::Asker;
use crate::pool::limits::Limits;
use crate::pool::reason::{CloseReason, Condition, Failure, OpenReason, RefuseReason};

#[test]
fn a_wait_that_is_too_long_ends_with_the_facts() {
    let mut bench = Bench::new(Limits { max: 1, wait_timeout: Some(ms(100)), ..LIMITS });
    let conn = bench.lease(1)[0];
    let first = bench.queue(ALICE);
    bench.pass(ms(60));
    let second = bench.queue(ALICE);
    assert_eq!(bench.core.snapshot(bench.now).oldest_wait, Some(ms(60)));
    bench.pass(ms(40));
    let refusals = bench.refusals();
    assert_eq!(refusals.len(), 1);
    assert_eq!((refusals[0].0, refusals[0].1.reason, refusals[0].1.waited), (first, RefuseReason::WaitTimeout, ms(100)));
    assert_eq!(bench.core.poll_timeout(), Some(bench.now + ms(60)));
    bench.release(conn, Condition::Clean);
    assert_eq!(bench.grants(), [second]);
}

#[test]
fn a_release_that_comes_too_late_does_not_serve_who_should_have_given_up() {
    let mut bench = Bench::new(Limits { max: 1, wait_timeout: Some(ms(100)), ..LIMITS });
    let conn = bench.lease(1)[0];
    let waiter = bench.queue(ALICE);
    bench.now += ms(101);
    bench.release(conn, Condition::Clean);
    assert_eq!(bench.refusals()[0].0, waiter);
    assert_eq!(bench.core.snapshot(bench.now).idle, 1);
}

#[test]
fn a_shorter_wait_counts_for_those_who_wait_already() {
    let mut bench = Bench::new(Limits { max: 1, ..LIMITS });
    bench.lease(1);
    bench.queue(ALICE);
    bench.pass(ms(50));
    bench.core.resize(bench.now, Limits { max: 1, wait_timeout: Some(ms(50)), ..LIMITS });
    assert_eq!(bench.refusals().len(), 1);
}

#[test]
fn idle_connections_above_the_minimum_are_closed() {
    let mut bench = Bench::new(Limits { max: 3, min: 1, idle_timeout: Some(ms(100)), ..LIMITS });
    let (first, _) = bench.opens()[0];
    bench.connect(first);
    bench.take();
    let others = bench.lease(2);
    for conn in [first, others[0], others[1]] {
        bench.release(conn, Condition::Clean);
        bench.pass(ms(10));
    }
    bench.pass(ms(70));
    assert_eq!(bench.closes(), [CloseReason::Idle], "the one idle for longest");
    bench.pass(ms(1000));
    assert_eq!(bench.closes(), [CloseReason::Idle]);
    assert_eq!(bench.core.snapshot(bench.now).idle, 1);
    assert_eq!(bench.core.poll_timeout(), None, "the minimum stays, so nothing is due");
}

#[test]
fn the_age_of_connections_is_spread() {
    let mut bench = Bench::new(Limits { max: 50, connect_parallelism: 50, lifetime: Some(ms(10_000)), ..LIMITS });
    bench.idle(50);
    bench.pass(ms(8_900));
    assert_eq!(bench.closes().len(), 0);
    let mut last: Option<u32> = None;
    let mut closed = 0;
    for tick in 0..1_200_u32 {
        bench.pass(ms(10));
        let closes = bench.closes();
        assert!(closes.iter().all(|reason| *reason == CloseReason::Lifetime));
        if !closes.is_empty() {
            assert_eq!(closes.len(), 1);
            let pause = last.map(|last| tick - last);
            assert!(pause.is_none_or(|pause| pause >= 20), "at most one in each fiftieth of a lifetime: {pause:?}");
            last = Some(tick);
            closed += 1;
        }
    }
    assert_eq!(closed, 50);
}

#[test]
fn an_old_connection_of_the_minimum_stays_until_its_successor_is_there() {
    let mut bench = Bench::new(Limits { min: 1, lifetime: Some(ms(1000)), ..LIMITS });
    let (old, _) = bench.opens()[0];
    bench.connect(old);
    bench.pass(ms(1100));
    let opens = bench.opens();
    assert!(matches!(opens[..], [(_, OpenReason::Minimum)]));
    assert_eq!(bench.core.snapshot(bench.now).idle, 1, "the old one still serves");
    bench.connect(opens[0].0);
    assert_eq!(bench.closes(), [CloseReason::Lifetime]);
    assert_eq!(bench.take(), opens[0].0);
}

#[test]
fn a_connection_in_use_has_a_successor_before_its_time_is_over() {
    let mut bench = Bench::new(Limits { max: 4, lifetime: Some(ms(10_000)), ..LIMITS });
    bench.idle(2);
    let (mut replaced, mut opening) = (0, None);
    for tick in 0..6_000 {
        // Both are in use all the time, and each connect takes 200 ms.
        let held = [bench.take(), bench.take()];
        bench.pass(ms(10));
        for conn in held {
            bench.release(conn, Condition::Clean);
        }
        for action in bench.actions() {
            match action {
                Action::Open { conn, .. } => assert_eq!(opening.replace((conn, tick + 20)), None, "one at a time"),
                Action::Close { reason, .. } => {
                    assert_eq!(reason, CloseReason::Lifetime);
                    replaced += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        if let Some((conn, _)) = opening.take_if(|(_, at)| *at <= tick) {
            bench.connect(conn);
        }
        assert!(bench.core.snapshot(bench.now).idle >= 2, "there are as many as are used");
    }
    assert!((9..=14).contains(&replaced), "each about six times in a minute: {replaced}");
}

#[test]
fn one_that_nobody_uses_any_more_has_no_successor() {
    let mut bench = Bench::new(Limits { max: 4, lifetime: Some(ms(60_000)), ..LIMITS });
    bench.idle(1);
    bench.pass(ms(66_000));
    assert_eq!((bench.opens(), bench.closes().len()), (vec![], 0));
    let snapshot = bench.core.snapshot(bench.now);
    assert_eq!(snapshot.idle, 0);
}

#[test]
fn an_heir_that_cannot_be_opened_changes_nothing_but_the_time() {
    let mut bench = Bench::new(Limits { max: 4, min: 1, lifetime: Some(ms(10_000)), ..LIMITS });
    let (old, _) = bench.opens()[0];
    bench.connect(old);
    bench.pass(ms(9_990));
    let opens = bench.opens();
    assert_eq!(opens.len(), 1);
    bench.fail(opens[0].0, Failure::Transient);
    assert_eq!(bench.core.snapshot(bench.now).idle, 1, "the old one serves on");
    let mut conns = Vec::new();
    for _ in 0..40 {
        bench.pass(ms(100));
        conns.extend(bench.opens());
    }
    bench.connect(conns[0].0);
    assert_eq!(bench.core.snapshot(bench.now).idle, 1);
    assert_eq!(bench.take(), conns[0].0);
}

#[test]
fn without_room_for_a_successor_an_old_connection_is_closed_first() {
    let mut bench = Bench::new(Limits { max: 1, min: 1, lifetime: Some(ms(1000)), ..LIMITS });
    let (old, _) = bench.opens()[0];
    bench.connect(old);
    bench.pass(ms(1100));
    let actions = bench.actions();
    assert!(matches!(actions[..], [Action::Close { reason: CloseReason::Lifetime, .. }, Action::Open { reason: OpenReason::Minimum, .. }]));
}

#[test]
fn old_connections_in_use_are_recalled_and_replaced_one_at_a_time_while_others_wait() {
    let mut bench = Bench::new(Limits { max: 2, lifetime: Some(ms(1000)), ..LIMITS });
    let conns = bench.lease(2);
    let waiters = [bench.queue(ALICE), bench.queue(ALICE)];
    bench.pass(ms(1100));
    assert_eq!(conns.iter().filter(|conn| bench.core.is_recalled(**conn)).count(), 1, "one in each half of a lifetime");
    bench.pass(ms(500));
    assert!(conns.iter().all(|conn| bench.core.is_recalled(*conn)));
    bench.release(conns[0], Condition::Clean);
    let actions = bench.actions();
    let [Action::Close { reason: CloseReason::Lifetime, .. }, Action::Open { conn: new, .. }] = actions[..] else { panic!("{actions:?}") };
    bench.release(conns[1], Condition::Clean);
    assert_eq!(bench.grants(), [waiters[0]], "the second serves on while the first is replaced");
    bench.connect(new);
    assert_eq!(bench.grants(), [waiters[1]]);
    bench.release(conns[1], Condition::Clean);
    assert_eq!(bench.closes(), [CloseReason::Lifetime]);
}

#[test]
fn a_connection_that_was_only_looked_at_is_still_good_for_its_one_use() {
    let mut bench = Bench::new(Limits { max: 1, used_once: true, ..LIMITS });
    let conn = bench.lease(1)[0];
    let waiter = bench.queue(ALICE);
    bench.release(conn, Condition::Unused);
    assert_eq!(bench.grants(), [waiter]);
    bench.release(conn, Condition::Clean);
    assert_eq!(bench.closes(), [CloseReason::Lifetime]);
}

#[test]
fn a_connection_may_be_used_once() {
    let mut bench = Bench::new(Limits { max: 1, used_once: true, ..LIMITS });
    for condition in [Condition::Clean, Condition::Dirty] {
        let conn = bench.lease(1)[0];
        let waiter = bench.queue(ALICE);
        bench.release(conn, condition);
        let actions = bench.actions();
        let [Action::Close { reason: CloseReason::Lifetime, .. }, Action::Open { conn: new, .. }] = actions[..] else {
            panic!("{actions:?}")
        };
        bench.connect(new);
        assert_eq!(bench.grants(), [waiter]);
        bench.release(new, Condition::Broken);
        bench.actions();
    }
}

#[test]
fn a_shorter_lifetime_counts_for_connections_that_are_open_already() {
    let mut bench = Bench::new(Limits { lifetime: Some(ms(10_000)), ..LIMITS });
    bench.idle(1);
    bench.pass(ms(2_000));
    bench.core.resize(bench.now, Limits { lifetime: Some(ms(1_000)), ..LIMITS });
    assert_eq!(bench.closes(), [CloseReason::Lifetime]);
}

#[test]
fn quiet_connections_are_probed_and_keep_their_age() {
    let mut bench = Bench::new(Limits { probe_after: Some(ms(100)), idle_timeout: Some(ms(250)), ..LIMITS });
    let conns = bench.idle(2);
    bench.pass(ms(100));
    let probed: Vec<_> = bench
        .actions()
        .into_iter()
        .map(|action| match action {
            Action::Probe { conn, worker: HOME } => conn,
            other => panic!("{other:?} instead of a probe"),
        })
        .collect();
    assert_eq!(probed.len(), 2);
    let waiter = bench.queue(ALICE);
    bench.core.on_probe(bench.now, conns[0], true);
    assert_eq!(bench.grants(), [waiter]);
    bench.core.on_probe(bench.now, conns[1], true);
    bench.pass(ms(100));
    assert_eq!(bench.actions().len(), 1, "and again");
    bench.core.on_probe(bench.now, conns[1], true);
    bench.pass(ms(50));
    assert_eq!(bench.closes(), [CloseReason::Idle], "a probe is not a use");
}

#[test]
fn a_connection_that_does_not_answer_its_probe_is_closed() {
    let mut bench = Bench::new(Limits { probe_after: Some(ms(100)), ..LIMITS });
    let conn = bench.idle(1)[0];
    bench.pass(ms(100));
    bench.actions();
    bench.core.on_probe(bench.now, conn, false);
    assert_eq!(bench.closes(), [CloseReason::ProbeFailed]);
}

#[test]
fn after_a_failure_the_next_attempt_waits_and_is_alone() {
    let mut bench = Bench::new(Limits { max: 4, ..LIMITS });
    for _ in 0..4 {
        bench.queue(ALICE);
    }
    let opens = bench.opens();
    assert_eq!(opens.len(), 4);
    for (conn, _) in opens {
        bench.fail(conn, Failure::Transient);
    }
    assert_eq!(bench.opens(), []);
    let snapshot = bench.core.snapshot(bench.now);
    assert_eq!((snapshot.failures, snapshot.last_failure, snapshot.waiters), (1, Some(Failure::Transient), 4));
    assert!(snapshot.retry_in.is_some_and(|pause| pause >= ms(50) && pause <= ms(100)));
    bench.pass(ms(100));
    let opens = bench.opens();
    assert_eq!(opens.len(), 1);
    bench.connect(opens[0].0);
    assert_eq!(bench.opens().len(), 3, "once one works, the others follow in parallel");
    assert_eq!(bench.core.snapshot(bench.now).failures, 0);
}

#[test]
fn saturation_is_the_time_in_which_somebody_waits_at_the_maximum() {
    let mut bench = Bench::new(Limits { max: 1, ..LIMITS });
    let conn = bench.lease(1)[0];
    bench.pass(ms(10));
    bench.queue(ALICE);
    bench.pass(ms(30));
    assert_eq!(bench.core.snapshot(bench.now).saturated, ms(30));
    bench.release(conn, Condition::Clean);
    bench.pass(ms(50));
    assert_eq!(bench.core.snapshot(bench.now).saturated, ms(30));
    let waiter = bench.queue(ALICE);
    bench.pass(ms(5));
    bench.core.cancel(bench.now, waiter);
    bench.pass(ms(50));
    assert_eq!(bench.core.snapshot(bench.now).saturated, ms(35));
}

#[test]
fn time_that_goes_backwards_stands_still() {
    let mut bench = Bench::new(Limits { max: 1, wait_timeout: Some(ms(100)), ..LIMITS });
    bench.lease(1);
    bench.pass(ms(50));
    bench.now -= ms(50);
    bench.queue(ALICE);
    bench.pass(ms(149));
    assert_eq!(bench.refusals().len(), 0);
    bench.pass(ms(1));
    assert_eq!(bench.refusals().len(), 1);
}

#[test]
fn who_lost_a_granted_connection_comes_first_again() {
    let mut bench = Bench::new(Limits { max: 1, wait_timeout: Some(ms(100)), ..LIMITS });
    let conn = bench.lease(1)[0];
    let since = bench.now;
    bench.queue(ALICE);
    bench.pass(ms(10));
    let other = bench.queue(ALICE);
    bench.release(conn, Condition::Clean);
    bench.actions();
    bench.core.discard(bench.now, conn, CloseReason::Broken);
    let Outcome::Queued(again) = bench.core.acquire_again(bench.now, asker(HOME, ALICE), since) else { panic!("not queued") };
    assert_eq!(bench.core.snapshot(bench.now).oldest_wait, Some(ms(10)));
    let (new, _) = bench.opens()[0];
    bench.connect(new);
    assert_eq!(bench.grants(), [again]);
    bench.release(new, Condition::Clean);
    assert_eq!(bench.grants(), [other]);
    let late = bench.core.acquire_again(bench.now + ms(100), asker(HOME, ALICE), since);
    assert!(matches!(late, Outcome::Refused(refusal) if refusal.reason == RefuseReason::WaitTimeout));
}

#[test]
fn a_silent_server_is_probed_on_few_connections_and_does_not_keep_new_ones_from_being_opened() {
    let mut bench = Bench::new(Limits { max: 6, connect_parallelism: 2, probe_after: Some(ms(100)), ..LIMITS });
    bench.idle(5);
    bench.pass(ms(100));
    let probes = bench.actions();
    assert_eq!(probes.len(), 2);
    assert_eq!(bench.core.snapshot(bench.now).idle, 3, "the others can be granted");
    for _ in 0..3 {
        bench.take();
    }
    bench.queue(ALICE);
    assert_eq!(bench.opens().len(), 1);
}

#[test]
fn quiet_connections_are_probed_one_after_the_other() {
    let mut bench = Bench::new(Limits { connect_parallelism: 1, probe_after: Some(ms(100)), ..LIMITS });
    bench.idle(2);
    bench.pass(ms(100));
    let [Action::Probe { conn: first, .. }] = bench.actions()[..] else { panic!("one is probed") };
    bench.core.on_probe(bench.now, first, true);
    assert!(matches!(bench.actions()[..], [Action::Probe { conn, .. }] if conn != first));
}

#[test]
fn times_without_end_do_no_harm() {
    use std::time::Duration;
    let ever = Some(Duration::MAX);
    let limits = Limits { max: 1, wait_timeout: ever, idle_timeout: ever, lifetime: ever, probe_after: ever, ..LIMITS };
    let mut bench = Bench::new(Limits { backoff_initial: Duration::MAX, backoff_max: Duration::MAX, ..limits });
    let conn = bench.lease(1)[0];
    bench.queue(ALICE);
    bench.release(conn, Condition::Broken);
    let (conn, _) = bench.opens()[0];
    bench.fail(conn, Failure::Transient);
    bench.core.resize(bench.now, limits);
    bench.pass(ms(1000));
}

#[test]
fn the_reserve_is_opened_for_those_who_have_waited_for_long() {
    let mut bench = Bench::new(Limits { max: 1, reserve: 2, reserve_after: Some(ms(100)), ..LIMITS });
    let conn = bench.lease(1)[0];
    let first = bench.queue(ALICE);
    bench.pass(ms(60));
    let second = bench.queue(ALICE);
    assert_eq!(bench.opens(), []);
    assert_eq!(bench.core.poll_timeout(), Some(bench.now + ms(40)));
    bench.pass(ms(40));
    let opens = bench.opens();
    assert_eq!(opens.len(), 1, "one for the one who has waited for long enough");
    bench.connect(opens[0].0);
    assert_eq!(bench.grants(), [first]);
    bench.pass(ms(60));
    let opens = bench.opens();
    bench.connect(opens[0].0);
    assert_eq!(bench.grants(), [second]);
    bench.queue(ALICE);
    bench.pass(ms(1000));
    assert_eq!(bench.opens(), [], "the reserve has an end");
    bench.release(conn, Condition::Clean);
    assert_eq!(bench.core.snapshot(bench.now).leased, 3, "what was opened is used on");
    assert_eq!(bench.closes(), []);
}

#[test]
fn who_waits_for_a_while_is_told_once() {
    let mut bench = Bench::new(Limits { max: 1, notify_after: Some(ms(100)), ..LIMITS });
    bench.lease(1);
    let (first, gone) = (bench.queue(ALICE), bench.queue(ALICE));
    bench.core.cancel(bench.now, gone);
    bench.pass(ms(50));
    let second = bench.queue(ALICE);
    let told = |bench: &mut Bench| -> Vec<_> {
        let notices = bench.actions().into_iter().map(|action| match action {
            Action::Notify { waiter, .. } => waiter,
            other => panic!("{other:?} instead of a notice"),
        });
        notices.collect()
    };
    bench.pass(ms(50));
    assert_eq!(told(&mut bench), [first]);
    bench.pass(ms(50));
    assert_eq!(told(&mut bench), [second]);
    bench.pass(ms(1000));
    assert_eq!(told(&mut bench), []);
}

#[test]
fn a_session_may_have_a_patience_of_its_own() {
    let mut bench = Bench::new(Limits { max: 1, wait_timeout: Some(ms(100)), ..LIMITS });
    bench.lease(1);
    let mut ask = |patience| match bench.core.acquire(bench.now, Asker { patience, ..asker(HOME, ALICE) }) {
        Outcome::Queued(waiter) => waiter,
        other => panic!("{other:?} instead of a place in the queue"),
    };
    let (common, patient, for_ever, short) = (ask(None), ask(Some(ms(500))), ask(Some(ms(0))), ask(Some(ms(20))));
    let refused = |bench: &mut Bench| bench.refusals().iter().map(|(waiter, _)| *waiter).collect::<Vec<_>>();
    bench.pass(ms(20));
    assert_eq!(refused(&mut bench), [short]);
    bench.pass(ms(80));
    assert_eq!(refused(&mut bench), [common]);
    bench.pass(ms(400));
    assert_eq!(refused(&mut bench), [patient]);
    bench.pass(ms(100_000));
    assert_eq!(refused(&mut bench), []);
    assert!(bench.core.cancel(bench.now, for_ever));
}

#[test]
fn a_pool_that_checks_always_asks_each_connection_before_it_is_used_again() {
    let mut bench = Bench::new(Limits { max: 1, probe_always: true, ..LIMITS });
    let conn = bench.lease(1)[0];
    let waiter = bench.queue(ALICE);
    bench.release(conn, Condition::Clean);
    assert!(matches!(bench.actions()[..], [Action::Probe { .. }]));
    bench.core.on_probe(bench.now, conn, true);
    assert_eq!(bench.grants(), [waiter]);
    bench.release(conn, Condition::Clean);
    bench.actions();
    bench.core.on_probe(bench.now, conn, false);
    assert_eq!(bench.closes(), [CloseReason::ProbeFailed]);
}

#[test]
fn spare_connections_are_ready_beside_those_in_use_while_the_pool_has_a_client() {
    let mut bench = Bench::new(Limits { max: 4, spare: 2, idle_timeout: Some(ms(100)), ..LIMITS });
    assert_eq!(bench.opens(), [], "nobody is there yet");
    bench.core.enter(bench.now, HOME);
    let opened = bench.opens();
    assert_eq!(opened.len(), 2);
    opened.iter().for_each(|(conn, _)| bench.connect(*conn));
    let first = bench.take();
    let next = bench.opens();
    assert_eq!(next.len(), 1, "the one that was taken is made up for");
    bench.connect(next[0].0);
    let (second, third) = (bench.take(), bench.take());
    let last = bench.opens();
    assert_eq!(last.len(), 1, "never more than the pool may have");
    bench.connect(last[0].0);
    [first, second, third].into_iter().for_each(|conn| bench.release(conn, Condition::Clean));
    bench.pass(ms(1000));
    assert_eq!(bench.closes(), [CloseReason::Idle, CloseReason::Idle], "two stay ready");
    bench.core.leave(bench.now, HOME);
    bench.pass(ms(1000));
    assert_eq!(bench.closes(), [CloseReason::Idle, CloseReason::Idle]);
}

#[test]
fn one_who_has_little_patience_does_not_wake_the_pool_for_all_the_others() {
    let mut bench = Bench::new(Limits { max: 1, wait_timeout: Some(ms(1_000)), queue_length: 100, ..LIMITS });
    bench.lease(1);
    let impatient = Asker { patience: Some(ms(10)), ..asker(HOME, BOB) };
    let Outcome::Queued(first) = bench.core.acquire(bench.now, impatient) else { panic!("it waits") };
    let start = bench.now;
    for _ in 0..9 {
        bench.crowd(1);
        bench.pass(ms(1));
    }
    assert_eq!(bench.core.poll_timeout(), Some(start + ms(10)));
    bench.pass(ms(1));
    assert_eq!(bench.refusals().iter().map(|(waiter, _)| *waiter).collect::<Vec<_>>(), [first]);
    assert_eq!(bench.core.poll_timeout(), Some(start + ms(1_000)), "nobody else has to be looked at before");
    bench.pass(ms(991));
    assert_eq!(bench.refusals().len(), 2);
}

#[test]
fn a_server_without_room_for_the_reserve_is_asked_again_after_a_pause() {
    let mut bench = Bench::new(Limits { max: 2, reserve: 2, reserve_after: Some(ms(100)), ..LIMITS });
    bench.lease(2);
    bench.crowd(3);
    bench.pass(ms(100));
    let opens = bench.opens();
    bench.connect(opens[0].0);
    bench.fail(opens[1].0, Failure::Full);
    assert_eq!(bench.opens(), [], "not at once");
    bench.pass(ms(500));
    let opens = bench.opens();
    assert_eq!(opens.len(), 1, "one at a time finds out whether there is room again");
    bench.connect(opens[0].0);
    assert_eq!((bench.grants().len(), bench.core.snapshot(bench.now).waiters), (1, 1));
    bench.pass(ms(61_000));
    assert_eq!(bench.opens(), [], "it is full");
}

#[test]
fn a_server_without_room_makes_the_pool_smaller_for_a_while() {
    let mut bench = Bench::new(Limits { max: 10, reserve: 5, reserve_after: Some(ms(10)), ..LIMITS });
    let held = bench.lease(3);
    bench.queue(ALICE);
    let (fourth, _) = bench.opens()[0];
    bench.fail(fourth, Failure::Full);
    bench.crowd(5);
    let snapshot = bench.core.snapshot(bench.now);
    assert_eq!((snapshot.room, snapshot.max), (3, 10));
    bench.release(held[0], Condition::Clean);
    assert_eq!(bench.grants().len(), 1, "it goes on with those that it has");
    // One at a time finds out whether there is room again.
    bench.pass(ms(100));
    let opens = bench.opens();
    assert_eq!(opens.len(), 1);
    bench.connect(opens[0].0);
    let opens = bench.opens();
    assert_eq!((opens.len(), bench.core.snapshot(bench.now).room), (1, 4));
    bench.fail(opens[0].0, Failure::Full);
    bench.pass(ms(61_000));
    assert_eq!(bench.core.snapshot(bench.now).room, 10, "it is forgotten");
}
