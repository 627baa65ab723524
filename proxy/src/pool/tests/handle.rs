//! The handle and its driver against a fake server: cancellation, leases, refusals, timeouts, changes at run time.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use super::bench::{LIMITS, ms};
use super::fake::{ANYONE, FakeConnector, pool, run, turn};
use crate::observe::record::{PoolCounter, PoolHistogram};
use crate::pool::acquire::Acquire;
use crate::pool::fault::ConnectFaultKind;
use crate::pool::handle::Pool;
use crate::pool::lease::Lease;
use crate::pool::limits::Limits;
use crate::pool::reason::{CloseReason, Condition, RefuseReason};

const ONE: Limits = Limits { max: 1, ..LIMITS };

async fn acquire(pool: &Rc<Pool<FakeConnector>>) -> Lease<FakeConnector> {
    pool.acquire(ANYONE).await.expect("a connection")
}

/// Polls once; the future must wait.
fn must_wait(acquire: &mut Acquire<FakeConnector>) {
    let polled = pin!(acquire).poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_pending(), "it need not wait");
}

fn leased(pool: &Pool<FakeConnector>) -> u32 {
    pool.snapshot(crate::clock::now()).leased
}

fn open(connector: &FakeConnector) -> u32 {
    connector.server.open.load(Ordering::SeqCst)
}

#[test]
fn a_connection_is_opened_used_and_used_again() {
    run(async {
        let connector = FakeConnector::default();
        let pool = pool(LIMITS, &connector);
        let lease = acquire(&pool).await;
        let number = lease.number;
        lease.release(Condition::Clean);
        let again = pin!(pool.acquire(ANYONE)).poll(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(Ok(again)) = again else { panic!("an idle connection is granted at the first poll") };
        assert_eq!(again.number, number);
        drop(again);
        assert_eq!(open(&connector), 0, "a lease dropped unreleased closes its connection");
        assert_eq!(pool.record().counter(PoolCounter::ClosedBroken), 1);
        assert_eq!(pool.record().counter(PoolCounter::ConnectOk), 1);
        assert_eq!(pool.record().observations(PoolHistogram::Wait), 2);
        assert_eq!(pool.record().observations(PoolHistogram::Connect), 1);
    });
}

#[test]
fn an_acquire_may_be_dropped_at_any_point() {
    run(async {
        let connector = FakeConnector { connect_takes: ms(10), ..FakeConnector::default() };
        let pool = pool(ONE, &connector);
        // Never polled.
        drop(pool.acquire(ANYONE));
        // While its connection is being opened.
        let mut opening = pool.acquire(ANYONE);
        must_wait(&mut opening);
        drop(opening);
        tokio::time::sleep(ms(20)).await;
        assert_eq!(pool.snapshot(crate::clock::now()).idle, 1, "the connection is there for the next");
        let lease = acquire(&pool).await;
        // While it waits for another session.
        let mut waiting = pool.acquire(ANYONE);
        must_wait(&mut waiting);
        drop(waiting);
        // Between the grant and its next poll: the connection passes to the next waiter.
        let (mut granted, mut next) = (pool.acquire(ANYONE), pool.acquire(ANYONE));
        must_wait(&mut granted);
        must_wait(&mut next);
        lease.release(Condition::Clean);
        drop(granted);
        let lease = next.await.expect("the connection that the other did not want");
        assert_eq!(leased(&pool), 1);
        lease.release(Condition::Clean);
        // And with nobody next.
        let lease = acquire(&pool).await;
        let mut granted = pool.acquire(ANYONE);
        must_wait(&mut granted);
        lease.release(Condition::Clean);
        drop(granted);
        let snapshot = pool.snapshot(crate::clock::now());
        assert_eq!((snapshot.idle, snapshot.leased, snapshot.waiters), (1, 0, 0));
        assert_eq!(connector.server.opened.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn a_full_queue_refuses_and_says_so() {
    run(async {
        let pool = pool(Limits { queue_length: 1, wait_timeout: Some(ms(10_000)), ..ONE }, &FakeConnector::default());
        let lease = acquire(&pool).await;
        let mut waiting = pool.acquire(ANYONE);
        must_wait(&mut waiting);
        let error = pool.acquire(ANYONE).await.err().expect("a refusal");
        assert_eq!(error.refusal.reason, RefuseReason::QueueFull);
        assert_eq!(
            error.to_string(),
            "the queue of pool \"app\" is full (1 of at most 1 connections open, 1 in use; 1 of at most 1 clients waiting, each for at most 10 s)"
        );
        assert_eq!(pool.record().counter(PoolCounter::RefusedQueueFull), 1);
        lease.release(Condition::Clean);
        waiting.await.expect("its turn").release(Condition::Clean);
    });
}

#[test]
fn a_wait_ends_at_its_time() {
    run(async {
        let pool = pool(Limits { wait_timeout: Some(ms(2_500)), ..ONE }, &FakeConnector::default());
        let lease = acquire(&pool).await;
        let started = crate::clock::now();
        let error = pool.acquire(ANYONE).await.err().expect("a refusal");
        let waited = crate::clock::now() - started;
        assert!((ms(2_500)..ms(2_510)).contains(&waited), "{waited:?}");
        assert!(error.to_string().starts_with("no connection of pool \"app\" came free within 250"), "{error}");
        assert_eq!(pool.record().counter(PoolCounter::RefusedWaitTimeout), 1);
        lease.release(Condition::Clean);
    });
}

#[test]
fn a_refusing_server_is_quoted() {
    run(async {
        let connector = FakeConnector::default();
        connector.fault.set(Some(ConnectFaultKind::Auth));
        let pool = pool(LIMITS, &connector);
        let error = pool.acquire(ANYONE).await.err().expect("a refusal");
        assert_eq!(error.refusal.reason, RefuseReason::UpstreamRefuses);
        assert!(error.to_string().ends_with("; the last connect failed: the fake server says no"), "{error}");
        assert_eq!(pool.record().counter(PoolCounter::ConnectAuth), 1);
        connector.fault.set(None);
        tokio::time::sleep(ms(100)).await;
        acquire(&pool).await.release(Condition::Clean);
        assert!(pool.last_fault().is_none());
    });
}

#[test]
fn waiters_outlive_a_server_that_is_away_for_a_while() {
    run(async {
        let connector = FakeConnector::default();
        connector.fault.set(Some(ConnectFaultKind::Refused));
        let pool = pool(Limits { wait_timeout: Some(ms(10_000)), ..LIMITS }, &connector);
        let mut waiting = pool.acquire(ANYONE);
        must_wait(&mut waiting);
        tokio::time::sleep(ms(3_000)).await;
        connector.fault.set(None);
        waiting.await.expect("a connection").release(Condition::Clean);
        assert!(pool.record().counter(PoolCounter::ConnectRefused) < 10, "the server is not hammered");
    });
}

#[test]
fn a_dirty_connection_is_reset_before_the_next_session_has_it() {
    run(async {
        let pool = pool(ONE, &FakeConnector { reset_takes: ms(5), ..FakeConnector::default() });
        let lease = acquire(&pool).await;
        let number = lease.number;
        let started = crate::clock::now();
        lease.release(Condition::Dirty);
        let lease = acquire(&pool).await;
        assert_eq!(lease.number, number);
        assert!(crate::clock::now() - started >= ms(5));
        lease.release(Condition::Clean);
    });
}

#[test]
fn news_of_an_idle_connection_closes_it() {
    run(async {
        let connector = FakeConnector::default();
        let pool = pool(LIMITS, &connector);
        let lease = acquire(&pool).await;
        let news = lease.news();
        lease.release(Condition::Clean);
        news.say(CloseReason::ServerClosed);
        turn().await;
        assert_eq!(open(&connector), 0);
        assert_eq!(pool.record().counter(PoolCounter::ClosedByServer), 1);
    });
}

#[test]
fn a_dead_idle_connection_is_passed_over() {
    run(async {
        let connector = FakeConnector::default();
        let pool = pool(LIMITS, &connector);
        let (first, second) = (acquire(&pool).await, acquire(&pool).await);
        let (kept, news) = (first.number, second.news());
        first.release(Condition::Clean);
        second.release(Condition::Clean);
        news.say_silently(CloseReason::ServerClosed);
        let lease = acquire(&pool).await;
        assert_eq!(lease.number, kept);
        assert_eq!(open(&connector), 1);
        lease.release(Condition::Clean);
    });
}

#[test]
fn a_connection_that_does_not_answer_its_probe_goes() {
    run(async {
        let connector = FakeConnector::default();
        let pool = pool(Limits { probe_after: Some(ms(1000)), ..LIMITS }, &connector);
        acquire(&pool).await.release(Condition::Clean);
        tokio::time::sleep(ms(1100)).await;
        assert_eq!(open(&connector), 0);
        assert_eq!(pool.record().counter(PoolCounter::ClosedProbeFailed), 1);
    });
}

#[test]
fn growing_serves_waiters_and_shrinking_closes_at_release() {
    run(async {
        let connector = FakeConnector::default();
        let pool = pool(ONE, &connector);
        let first = acquire(&pool).await;
        let mut waiting = pool.acquire(ANYONE);
        must_wait(&mut waiting);
        pool.resize(LIMITS);
        let second = waiting.await.expect("a second connection");
        assert!(!first.is_recalled());
        pool.resize(ONE);
        assert!(first.is_recalled());
        first.release(Condition::Clean);
        assert!(!second.is_recalled());
        second.release(Condition::Clean);
        assert_eq!(open(&connector), 1);
        assert_eq!(pool.record().counter(PoolCounter::ClosedShrunk), 1);
    });
}

#[test]
fn a_new_connector_replaces_what_the_old_one_opened_or_opens() {
    run(async {
        let old = FakeConnector { connect_takes: ms(60_000), ..FakeConnector::default() };
        let pool = pool(LIMITS, &old);
        let mut waiting = pool.acquire(ANYONE);
        must_wait(&mut waiting);
        turn().await;
        let new = FakeConnector::default();
        let started = crate::clock::now();
        pool.replace_connector(new.clone());
        let lease = waiting.await.expect("a connection of the new connector");
        assert!(crate::clock::now() - started < ms(1000), "the connect to the old address was given up");
        assert_eq!(new.server.opened.load(Ordering::SeqCst), 1);
        let newest = FakeConnector::default();
        pool.replace_connector(newest.clone());
        assert!(lease.is_recalled());
        lease.release(Condition::Clean);
        assert_eq!(open(&new), 0);
        acquire(&pool).await.release(Condition::Clean);
        assert_eq!(open(&newest), 1);
        assert_eq!(open(&old), 0);
    });
}

#[test]
fn pause_and_resume() {
    run(async {
        let connector = FakeConnector::default();
        let pool = pool(LIMITS, &connector);
        acquire(&pool).await.release(Condition::Clean);
        pool.pause();
        assert_eq!(open(&connector), 0);
        let mut waiting = pool.acquire(ANYONE);
        must_wait(&mut waiting);
        turn().await;
        must_wait(&mut waiting);
        pool.resume();
        waiting.await.expect("a connection").release(Condition::Clean);
    });
}

#[test]
fn draining_refuses_waiters_and_ends_empty() {
    run(async {
        let connector = FakeConnector::default();
        let pool = pool(LIMITS, &connector);
        let (idle, lease) = (acquire(&pool).await, acquire(&pool).await);
        let mut waiting = pool.acquire(ANYONE);
        must_wait(&mut waiting);
        idle.release(Condition::Clean);
        waiting.await.expect("its turn").release(Condition::Clean);
        pool.drain();
        assert!(lease.is_recalled());
        assert!(!pool.is_drained());
        assert_eq!(pool.acquire(ANYONE).await.err().expect("a refusal").refusal.reason, RefuseReason::Draining);
        lease.release(Condition::Clean);
        assert!(pool.is_drained());
        assert_eq!(open(&connector), 0);
        assert_eq!(pool.record().counter(PoolCounter::ClosedDrain), 2);
    });
}

#[test]
fn a_dropped_pool_closes_its_connections_and_ends_its_tasks() {
    run(async {
        let connector = FakeConnector { connect_takes: ms(10), ..FakeConnector::default() };
        let pool = pool(Limits { min: 1, max: 3, ..LIMITS }, &connector);
        tokio::time::sleep(ms(20)).await;
        assert_eq!(open(&connector), 1, "the minimum is open before anybody asks");
        let lease = acquire(&pool).await;
        let mut opening = pool.acquire(ANYONE);
        must_wait(&mut opening);
        drop(opening);
        let weak = Rc::downgrade(&pool);
        drop(pool);
        assert_eq!(weak.strong_count(), 1, "the lease keeps its pool");
        lease.release(Condition::Clean);
        assert_eq!(weak.strong_count(), 0);
        tokio::time::sleep(ms(50)).await;
        assert_eq!(open(&connector), 0);
        assert_eq!(connector.server.opened.load(Ordering::SeqCst), 1, "the connect under way was given up");
    });
}

#[test]
fn a_thousand_sessions_share_two_connections() {
    run(async {
        let connector = FakeConnector { connect_takes: ms(3), ..FakeConnector::default() };
        let pool = pool(Limits { queue_length: 1000, ..LIMITS }, &connector);
        let sessions: Vec<_> = (0..1000)
            .map(|number| {
                let pool = Rc::clone(&pool);
                tokio::task::spawn_local(async move {
                    for _ in 0..3 {
                        let lease = acquire(&pool).await;
                        if number % 7 == 0 {
                            tokio::time::sleep(ms(1)).await;
                        } else {
                            tokio::task::yield_now().await;
                        }
                        lease.release(if number % 50 == 0 { Condition::Broken } else { Condition::Clean });
                    }
                })
            })
            .collect();
        tokio::time::sleep(ms(100_000)).await;
        for session in sessions {
            assert!(session.is_finished(), "a session waits for ever");
            session.await.expect("a session that ends well");
        }
        let snapshot = pool.snapshot(crate::clock::now());
        assert_eq!((snapshot.leased, snapshot.waiters), (0, 0));
        assert_eq!(pool.record().observations(PoolHistogram::Wait), 3000);
    });
}

#[test]
fn a_runtime_that_ends_under_leases_and_waiters_ends_in_peace() {
    let connector = FakeConnector::default();
    let server = Arc::clone(&connector.server);
    run(async move {
        let pool = pool(LIMITS, &connector);
        for _ in 0..5 {
            let pool = Rc::clone(&pool);
            tokio::task::spawn_local(async move {
                let _lease = acquire(&pool).await;
                std::future::pending::<()>().await;
            });
        }
        turn().await;
        assert_eq!(leased(&pool), 2);
    });
    assert_eq!(server.open.load(Ordering::SeqCst), 0);
}
