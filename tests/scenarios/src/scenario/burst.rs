//! A burst of logins: everybody comes at once, each for one query. What matters: nobody fails, and who is at work already hardly notices.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::{Order, conclude};
use crate::crowd::{Crowd, Manners, visit};
use crate::report::Report;
use crate::stage::Stage;
use crate::tally::Tally;

/// How many come, and within which time.
pub(super) struct Burst {
    pub(super) count: usize,
    pub(super) within: Duration,
}

/// 3,000 within a second.
pub(super) const PLAIN: Burst = Burst { count: 3_000, within: Duration::from_secs(1) };

/// 1,000 at once: each costs a handshake, too.
pub(super) const SECURE: Burst = Burst { count: 1_000, within: Duration::ZERO };

pub(super) async fn play<S: Stage>(stage: S, order: Order, burst: Burst) -> Report {
    let (door, witnesses) = (stage.door(), stage.witnesses().await);
    let mut at_work = Crowd::default();
    at_work.add_many(order.scale.clients(50), &door, Manners::every(Duration::from_millis(50)));
    let began = Instant::now();
    tokio::time::sleep(order.scale.seconds(8)).await;
    let burst_began = Instant::now();
    let mut newcomers = JoinSet::new();
    let count = order.scale.clients(burst.count);
    for number in 0..count {
        let due = burst.within.mul_f64(share(number, count));
        tokio::time::sleep_until((burst_began + due).into()).await;
        let door = door.clone();
        newcomers.spawn(async move {
            let began = Instant::now();
            let mut tally = Tally::default();
            tally.add(began, &visit(&door, &format!("newcomer-{number}")).await);
            tally
        });
    }
    let mut tally = Tally::default();
    while let Some(one) = newcomers.join_next().await {
        tally.merge(one.expect("clients do not panic"));
    }
    let burst_ended = Instant::now();
    let at_work = at_work.end().await;
    // The first second belongs to the logins of those at work.
    let quiet = at_work.percentile_within(0.99, began + Duration::from_secs(1).min(order.scale.seconds(4)), burst_began);
    let during = at_work.percentile_within(0.99, burst_began, burst_ended);
    let mut report = conclude(stage, order, witnesses, &tally)
        .await
        .figure("at_work_p99_before_ms", quiet.as_secs_f64() * 1e3)
        .figure("at_work_p99_during_ms", during.as_secs_f64() * 1e3)
        .figure("at_work_served", at_work.share());
    report.broken.extend(at_work.wrong().iter().cloned());
    report
}

#[expect(clippy::cast_precision_loss, reason = "a few thousand")]
fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}
