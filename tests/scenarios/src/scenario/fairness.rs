//! Fairness: a small service and a greedy one share a pool. What matters: the small one waits hardly longer than it would alone.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::{Order, conclude};
use crate::postgres::Door;
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
    let alone = work(SMALL, &small, time).await;
    let (beside, greedy) = tokio::join!(work(SMALL, &small, time), work(SMALL * 50, &greedy, time));
    let ratio = |share| beside.percentile(share).as_secs_f64() / alone.percentile(share).as_secs_f64().max(1e-9);
    let report = conclude(stage, order, witnesses, &beside).await;
    report
        .figure("alone_p50_ms", alone.percentile(0.5).as_secs_f64() * 1e3)
        .figure("alone_p99_ms", alone.percentile(0.99).as_secs_f64() * 1e3)
        .figure("p50_beside_to_alone", ratio(0.5))
        .figure("p99_beside_to_alone", ratio(0.99))
        .figure("greedy_p50_ms", greedy.percentile(0.5).as_secs_f64() * 1e3)
}

/// So many clients that never rest.
async fn work(count: usize, door: &Door, time: Duration) -> Tally {
    let until = Instant::now() + time;
    let mut clients = JoinSet::new();
    for _ in 0..count {
        let door = door.clone();
        clients.spawn(async move {
            let mut tally = Tally::default();
            let Ok(mut session) = door.enter().await else {
                tally.add(Instant::now(), &Err(Failure::Closed));
                return tally;
            };
            while Instant::now() < until && session.is_usable() {
                let began = Instant::now();
                let outcome = session.ask(QUERY).await.map(drop);
                tally.add(began, &outcome);
            }
            tally
        });
    }
    let mut sum = Tally::default();
    while let Some(tally) = clients.join_next().await {
        sum.merge(tally.expect("clients do not panic"));
    }
    sum
}
