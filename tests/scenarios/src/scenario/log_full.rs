//! The disk to which the log is written is full. What matters: nobody notices.

use std::time::Duration;

use super::{Order, conclude};
use crate::crowd::{Crowd, Manners};
use crate::report::Report;
use crate::stage::{PostgresStage, Stage as _};

pub(super) async fn play(order: Order) -> Report {
    let lines = ["logfile = /dev/full", "log_connections = 1", "log_disconnections = 1"];
    let stage = PostgresStage::set_with(order.peer, &lines).await;
    let (door, witnesses) = (stage.door(), stage.witnesses().await);
    let mut crowd = Crowd::default();
    // Each visit is worth some lines.
    crowd.add_many(order.scale.clients(200), &door, Manners { pause: Duration::from_millis(200), visit: Some(3) });
    tokio::time::sleep(order.scale.seconds(8)).await;
    let tally = crowd.end().await;
    conclude(stage, order, witnesses, &tally).await
}
