//! The server ends one connection after another. What matters: most clients never notice, and whoever does is told.

use std::time::{Duration, Instant};

use super::{Order, conclude};
use crate::crowd::{Crowd, Manners};
use crate::report::Report;
use crate::stage::Stage;

pub(super) async fn play<S: Stage>(order: Order) -> Report {
    let mut stage = S::set(order.peer, None).await;
    let (door, witnesses) = (stage.door(), stage.witnesses().await);
    let mut crowd = Crowd::default();
    crowd.add_many(order.scale.clients(100), &door, Manners::every(Duration::from_millis(20)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let until = Instant::now() + order.scale.seconds(12);
    let mut ended = 0;
    while Instant::now() < until {
        stage.end_one_connection().await;
        ended += 1;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let cause_ended = Instant::now();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let tally = crowd.end().await;
    conclude(stage, order, witnesses, &tally).await.recovered(tally.recovery(cause_ended)).figure("ended", f64::from(ended))
}
