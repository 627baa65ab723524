//! Fairness: a small service and a greedy one share a pool. What matters: the small one waits hardly longer than it would alone.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::{Order, conclude};
use crate::postgres::{Door, Session};
use crate::report::Report;
use crate::stage::{Peer, PostgresStage, Stage as _};
use crate::tally::{Failure, Tally};

/// Long enough for the pool, and not the processor, to be what is scarce.
const QUERY: &str = "SELECT 'done' FROM pg_sleep(0.02)";
const SMALL: usize = 2;

pub(super) async fn play(order: Order) -> Report {
    let common = ["default_pool_size = 4"];
    let ours = ["default_pool_size = 4", "queue_fairness = user"];
    let lines: &[&str] = match order.peer {
        Peer::Sidepool => &ours,
        Peer::Other => &common,
    };
    let stage = PostgresStage::set_with(order.peer, lines).await;
    let (door, witnesses) = (stage.door(), stage.witnesses().await);
    let time = order.scale.seconds(10);
    let (small, greedy) = (door.of("small"), door.of("greedy"));
    // What a burst of logins costs is another scenario (`burst`): here all have come in before the clock starts.
    let (few, again, many) = (enter(SMALL, &small).await, enter(SMALL, &small).await, enter(SMALL * 50, &greedy).await);
    let alone = work(few, time).await;
    let (beside, greedy) = tokio::join!(work(again, time), work(many, time));
    let ratio = |share| beside.percentile(share).as_secs_f64() / alone.percentile(share).as_secs_f64().max(1e-9);
    let report = conclude(stage, order, witnesses, &beside).await;
    report
        .figure("alone_p50_ms", alone.percentile(0.5).as_secs_f64() * 1e3)
        .figure("alone_p99_ms", alone.percentile(0.99).as_secs_f64() * 1e3)
        .figure("p50_beside_to_alone", ratio(0.5))
        .figure("p99_beside_to_alone", ratio(0.99))
        .figure("greedy_p50_ms", greedy.percentile(0.5).as_secs_f64() * 1e3)
}

/// So many clients come in.
async fn enter(count: usize, door: &Door) -> Vec<Result<Session, Failure>> {
    let entering = (0..count).map(|_| {
        let door = door.clone();
        async move { door.enter().await }
    });
    JoinSet::from_iter(entering).join_all().await
}

/// Clients that never rest.
async fn work(clients: Vec<Result<Session, Failure>>, time: Duration) -> Tally {
    let until = Instant::now() + time;
    let working = clients.into_iter().map(|client| async move {
        let mut tally = Tally::default();
        match client {
            Ok(mut session) => {
                while Instant::now() < until && session.is_usable() {
                    let began = Instant::now();
                    let outcome = session.ask(QUERY).await.map(drop);
                    tally.add(began, &outcome);
                }
            }
            Err(failure) => tally.add(until, &Err(failure)),
        }
        tally
    });
    let mut sum = Tally::default();
    for tally in JoinSet::from_iter(working).join_all().await {
        sum.merge(tally);
    }
    sum
}
