//! A spike: from no client to thousands and back to none. What matters: all are served, and nothing stays behind.

use std::time::Duration;

use super::{Order, conclude};
use crate::crowd::{Crowd, Manners};
use crate::report::Report;
use crate::stage::Stage;

pub(super) async fn play<S: Stage>(order: Order) -> Report {
    let stage = S::set(order.peer, None).await;
    let (door, witnesses) = (stage.door(), stage.witnesses().await);
    let files_before = stage.pooler().open_files();
    let mut crowd = Crowd::default();
    let count = order.scale.clients(2_000);
    for number in 0..count {
        crowd.add(door.clone(), Manners::every(Duration::from_millis(500)));
        if number % (count / 20).max(1) == 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    tokio::time::sleep(order.scale.seconds(10)).await;
    let tally = crowd.end().await;
    // Whoever has left is gone as soon as the pooler has read it.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let resident = stage.pooler().resident_bytes();
    let files = stage.pooler().open_files();
    conclude(stage, order, witnesses, &tally)
        .await
        .figure("rss_after_mb", megabytes(resident))
        .figure("files_before", sum(files_before))
        .figure("files_after", sum(files))
}

#[expect(clippy::cast_precision_loss, reason = "bytes of memory")]
pub(super) fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[expect(clippy::cast_precision_loss, reason = "a count of files")]
pub(super) fn sum(count: usize) -> f64 {
    count as f64
}
