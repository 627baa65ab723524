//! Exhaustion: whoever has a connection does not give it back. What matters: the others are told in time, and are served as soon as the timeout
//! for idle transactions has freed the pool, without anybody's help.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::{Order, conclude};
use crate::crowd::{Crowd, Manners};
use crate::report::Report;
use crate::stage::{PostgresStage, Stage as _};

const POOL: usize = 20;
/// `idle_transaction_timeout`, and the wait that clients are granted.
const IDLE: Duration = Duration::from_secs(5);

pub(super) async fn play(order: Order) -> Report {
    let lines = ["default_pool_size = 20", "idle_transaction_timeout = 5", "query_wait_timeout = 3"];
    let stage = PostgresStage::set_with(order.peer, &lines).await;
    let (door, witnesses) = (stage.door(), stage.witnesses().await);
    let mut crowd = Crowd::default();
    crowd.add_many(order.scale.clients(500), &door, Manners::every(Duration::from_millis(200)));
    tokio::time::sleep(order.scale.seconds(4)).await;
    // All at once: one after the other, the first would be free again before the last is stuck. Who is told that there is none left has taken the last
    // one's place.
    let stuck = (0..POOL).map(|_| {
        let door = door.clone();
        async move {
            let mut session = door.enter().await.ok()?;
            let _ = session.ask("BEGIN").await;
            Some(session)
        }
    });
    let stuck = JoinSet::from_iter(stuck).join_all().await;
    let cause_ends = Instant::now() + IDLE;
    tokio::time::sleep_until((cause_ends + order.scale.seconds(12)).into()).await;
    let tally = crowd.end().await;
    drop(stuck);
    conclude(stage, order, witnesses, &tally).await.recovered(tally.recovery(cause_ends))
}
