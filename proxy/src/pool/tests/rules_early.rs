//! Who would wait in vain is told so at once, at the pace of the last moments: what that is, and what is none.

use super::bench::{ALICE, BOB, Bench, HOME, LIMITS, asker, ms};
use crate::pool::action::Outcome;
use crate::pool::id::{Asker, ConnId};
use crate::pool::limits::Limits;
use crate::pool::reason::{Condition, Refusal, RefuseReason};

/// A pool with one connection that is given on every 100 ms, and so many sessions of her that still wait.
fn paced(limits: Limits, waiting: usize) -> Bench {
    given_on(limits, waiting).0
}

/// The same, and the connection.
fn given_on(limits: Limits, waiting: usize) -> (Bench, ConnId) {
    let mut bench = Bench::new(Limits { max: 1, wait_timeout: Some(ms(1_000)), ..limits });
    let conn = bench.lease(1)[0];
    for _ in 0..20 {
        bench.queue(ALICE);
        bench.pass(ms(100));
        bench.release(conn, Condition::Clean);
        bench.actions();
    }
    bench.crowd(waiting);
    (bench, conn)
}

#[test]
fn who_would_time_out_is_refused_at_once_where_that_is_wanted() {
    let early = Limits { refuse_early: true, queue_length: 100, ..LIMITS };
    let mut bench = paced(early, 9);
    bench.queue(ALICE);
    let refusal = bench.refused();
    assert_eq!(refusal.reason, RefuseReason::WouldTimeOut);
    assert!(refusal.expected.is_some_and(|expected| expected > ms(1_000) && expected < ms(1_200)), "{refusal:?}");
    let again = |refusal: Refusal| refusal.retry_after.expect("there is a pace");
    let most = |refusal: Refusal| refusal.wait_timeout;
    assert!(again(refusal) >= ms(90), "when one more has been served, although the wait is only a little too long: {refusal:?}");
    let hasty = Asker { patience: Some(ms(300)), ..asker(HOME, ALICE) };
    let Outcome::Refused(hasty) = bench.core.acquire(bench.now, hasty) else { panic!("it has no chance") };
    assert!(most(*hasty) == Some(ms(300)) && again(*hasty) > ms(700), "its own limit counts: {hasty:?}");
    bench.queue(BOB);
    let patient = Asker { patience: Some(ms(1_500)), ..asker(HOME, ALICE) };
    assert!(matches!(bench.core.acquire(bench.now, patient), Outcome::Queued(_)), "it waits for longer");
    paced(Limits { queue_length: 100, ..LIMITS }, 10).queue(ALICE);
}

#[test]
fn without_a_pace_nobody_is_refused_early() {
    let early = Limits { refuse_early: true, queue_length: 100, ..LIMITS };
    let mut stuck = Bench::new(Limits { max: 1, wait_timeout: Some(ms(1_000)), ..early });
    stuck.lease(1);
    stuck.crowd(8);
    // Long ago is no pace either, and who would be next is never refused.
    let mut bench = paced(early, 0);
    bench.pass(ms(31_000));
    bench.crowd(8);
}

#[test]
fn a_pause_is_no_pace() {
    let expected = |pause| {
        let (mut bench, conn) = given_on(Limits { refuse_early: true, queue_length: 100, ..LIMITS }, 1);
        bench.core.pause(bench.now);
        bench.pass(pause);
        bench.core.resume(bench.now);
        bench.pass(ms(100));
        bench.release(conn, Condition::Clean);
        assert_eq!(bench.grants().len(), 1);
        bench.crowd(10);
        bench.refused().expected
    };
    assert!(expected(ms(0)).is_some_and(|expected| expected > ms(1_000)));
    assert_eq!(expected(ms(500)), expected(ms(0)));
}
