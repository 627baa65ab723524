//! Several workers with one pool: the core's rules between workers, then two threads with real mailboxes.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::mpsc as std_mpsc;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};

use super::bench::{ALICE, AWAY, BOB, Bench, HOME, LIMITS, asker, ms};
use super::fake::{ANYONE, FakeConnector, Server, handle};
use crate::pool::action::{Action, Outcome};
use crate::pool::handle::Pool;
use crate::pool::id::WaiterId;
use crate::pool::limits::Limits;
use crate::pool::reason::{Condition, OpenReason};
use crate::pool::registry::Directory;
use crate::worker::{Commons, Job, Mailboxes, Worker, WorkerId};

fn bench(limits: Limits) -> Bench {
    let mut bench = Bench::new(limits);
    bench.core.attach_worker(bench.now, AWAY);
    bench
}

fn queue(bench: &mut Bench, worker: WorkerId) -> WaiterId {
    match bench.core.acquire(bench.now, asker(worker, ALICE)) {
        Outcome::Queued(waiter) => waiter,
        other => panic!("{other:?} instead of a place in the queue"),
    }
}

#[test]
fn an_idle_connection_elsewhere_moves_to_who_has_none() {
    let mut bench = bench(LIMITS);
    let conn = bench.idle(1)[0];
    let waiter = queue(&mut bench, AWAY);
    assert_eq!(bench.actions(), [Action::Grant { waiter, conn, from: HOME, to: AWAY }]);
    bench.release(conn, Condition::Clean);
    assert!(matches!(bench.core.acquire(bench.now, asker(AWAY, BOB)), Outcome::Granted(granted) if granted == conn), "it lives there now");
}

#[test]
fn a_waiter_of_the_same_worker_is_preferred_for_as_long_as_the_patience_lasts() {
    let mut bench = bench(LIMITS);
    let home = bench.lease(1)[0];
    queue(&mut bench, AWAY);
    let (away, _) = bench.opens()[0];
    bench.connect(away);
    bench.actions();
    let elder = queue(&mut bench, AWAY);
    bench.pass(ms(2));
    let near = queue(&mut bench, HOME);
    bench.release(home, Condition::Clean);
    assert_eq!(bench.grants(), [near], "the other worker has a connection that will come free");
    bench.pass(ms(10));
    let late = queue(&mut bench, HOME);
    bench.release(home, Condition::Clean);
    assert_eq!(bench.grants(), [elder], "it has waited for longer than the patience");
    bench.release(home, Condition::Clean);
    assert_eq!(bench.grants(), [late]);
}

#[test]
fn a_waiter_whose_worker_has_no_connections_is_served_in_its_turn() {
    let mut bench = bench(Limits { max: 1, ..LIMITS });
    let conn = bench.lease(1)[0];
    let elder = queue(&mut bench, AWAY);
    queue(&mut bench, HOME);
    bench.release(conn, Condition::Clean);
    assert_eq!(bench.grants(), [elder]);
}

#[test]
fn connections_are_opened_where_they_are_waited_for() {
    let mut bench = bench(Limits { max: 4, ..LIMITS });
    for worker in [HOME, AWAY, AWAY] {
        queue(&mut bench, worker);
    }
    let workers: Vec<_> = bench
        .actions()
        .into_iter()
        .map(|action| match action {
            Action::Open { worker, reason: OpenReason::Demand, .. } => worker,
            other => panic!("{other:?} instead of an open"),
        })
        .collect();
    assert_eq!(workers, [HOME, AWAY, AWAY]);
}

#[test]
fn the_minimum_is_spread_over_the_workers() {
    let mut bench = bench(LIMITS);
    bench.core.resize(bench.now, Limits { min: 2, ..LIMITS });
    let workers: Vec<_> = bench
        .actions()
        .into_iter()
        .map(|action| match action {
            Action::Open { worker, reason: OpenReason::Minimum, .. } => worker,
            other => panic!("{other:?} instead of an open"),
        })
        .collect();
    assert_eq!(workers, [HOME, AWAY]);
}

#[test]
fn a_worker_that_goes_takes_its_connections_and_waiters_along() {
    let mut bench = bench(LIMITS);
    bench.lease(2);
    let (gone, stays) = (queue(&mut bench, HOME), queue(&mut bench, AWAY));
    bench.core.detach_worker(bench.now, HOME);
    assert!(!bench.core.cancel(bench.now, gone));
    let opens = bench.opens();
    assert_eq!(opens.len(), 1, "for the one that stays");
    bench.connect(opens[0].0);
    assert_eq!(bench.grants(), [stays]);
}

/// What the sessions of a worker do.
type Script = Box<dyn FnOnce(Rc<Pool<FakeConnector>>) -> std::pin::Pin<Box<dyn Future<Output = ()>>> + Send>;

/// Two workers on two threads, each with a script; ends when both scripts have ended.
fn two_workers(limits: Limits, server: &std::sync::Arc<Server>, scripts: [Script; 2]) {
    let directory: Directory<&str> = Directory::new(2);
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..2).map(|_| mpsc::unbounded_channel::<Job>()).unzip();
    let mailboxes = Mailboxes::new(senders);
    let (done, ended) = std_mpsc::channel();
    for ((id, script), receiver) in (0_u16..).map(WorkerId).zip(scripts).zip(receivers) {
        let (directory, mailboxes, server, done) = (directory.clone(), mailboxes.clone(), server.clone(), done.clone());
        std::thread::spawn(move || {
            work(id, &directory, mailboxes, limits, server, receiver, script, &done);
        });
    }
    for _ in 0..2 {
        ended.recv_timeout(Duration::from_secs(20)).expect("both scripts end");
    }
}

#[expect(clippy::too_many_arguments, reason = "all that a thread is started with")]
fn work(
    id: WorkerId,
    directory: &Directory<&'static str>,
    mailboxes: Mailboxes,
    limits: Limits,
    server: std::sync::Arc<Server>,
    mut jobs: mpsc::UnboundedReceiver<Job>,
    script: Script,
    done: &std_mpsc::Sender<WorkerId>,
) {
    let runtime = Builder::new_current_thread().enable_time().build_local(LocalOptions::default()).expect("a runtime");
    let worker = Worker::new(id, mailboxes.clone(), Commons::new(2).expect("randomness"));
    runtime.block_on(async {
        let connector = FakeConnector { server, ..FakeConnector::default() };
        let (pool_id, core) = directory.join(crate::clock::now(), "app", limits, 1);
        let pool = handle(pool_id, core, connector, id, mailboxes, &worker.pools);
        let script = tokio::task::spawn_local(async move {
            script(pool).await;
        });
        let mut reported = false;
        tokio::pin!(script);
        loop {
            tokio::select! {
                ended = &mut script, if !reported => {
                    ended.expect("the script ends well");
                    reported = true;
                    done.send(id).expect("somebody waits for the end");
                }
                job = jobs.recv() => match job {
                    Some(job) => job(&worker),
                    None => return,
                },
            }
        }
    });
}

#[test]
fn all_clients_on_one_worker_use_all_connections() {
    let server = std::sync::Arc::<Server>::default();
    let (lived_away, seen) = std_mpsc::channel();
    let (at_home, over) = oneshot::channel::<()>();
    let away: Script = Box::new(move |pool| {
        Box::pin(async move {
            let lease = pool.acquire(ANYONE).await.expect("a connection");
            lease.release(Condition::Clean);
            lived_away.send(()).expect("the other worker waits for it");
            // Keeps its handle, and does nothing any more.
            let _ = over.await;
        })
    });
    let opened = server.clone();
    let home: Script = Box::new(move |pool| {
        Box::pin(async move {
            let _at_home = at_home;
            tokio::task::spawn_blocking(move || seen.recv()).await.expect("no panic").expect("the other worker's word");
            let first = pool.acquire(ANYONE).await.expect("the connection that lived with the other worker");
            assert_eq!(opened.opened.load(Ordering::SeqCst), 1);
            let second = pool.acquire(ANYONE).await.expect("a second connection");
            assert_ne!(first.number, second.number);
            assert_eq!(opened.open.load(Ordering::SeqCst), 2);
            let mut third = pool.acquire(ANYONE);
            let waits = tokio::time::timeout(ms(20), &mut third).await;
            assert!(waits.is_err(), "there is one limit for the process");
            first.release(Condition::Clean);
            third.await.expect("its turn").release(Condition::Clean);
            second.release(Condition::Clean);
        })
    });
    two_workers(LIMITS, &server, [home, away]);
    assert_eq!(server.opened.load(Ordering::SeqCst), 2);
}

#[test]
fn two_busy_workers_share_three_connections_and_nobody_is_forgotten() {
    let server = std::sync::Arc::<Server>::default();
    let script = |seed: u64| -> Script {
        Box::new(move |pool| {
            Box::pin(async move {
                let sessions: Vec<_> =
                    (0..40).map(|number| tokio::task::spawn_local(session(Rc::clone(&pool), seed * 1000 + number))).collect();
                for session in sessions {
                    session.await.expect("a session that ends well");
                }
            })
        })
    };
    two_workers(Limits { max: 3, queue_length: 100, affinity_patience: ms(1), ..LIMITS }, &server, [script(1), script(2)]);
}

async fn session(pool: Rc<Pool<FakeConnector>>, seed: u64) {
    let mut random = crate::pool::random::Random::new(seed);
    for _ in 0..60 {
        let acquire = pool.acquire(ANYONE);
        let patience = random.between(0, 9);
        let lease = if patience == 0 {
            // Gives up soon, perhaps while its connection is on the way from the other worker.
            tokio::select! {
                biased;
                lease = acquire => lease,
                () = tokio::task::yield_now() => continue,
            }
        } else {
            acquire.await
        };
        let lease = lease.expect("a connection");
        if patience == 1 {
            tokio::time::sleep(ms(1)).await;
        } else {
            tokio::task::yield_now().await;
        }
        match random.between(0, 19) {
            0 => drop(lease),
            1 => lease.release(Condition::Dirty),
            _ => lease.release(Condition::Clean),
        }
    }
}
