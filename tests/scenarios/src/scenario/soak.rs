//! A soak: hundreds of clients that come and go for an hour. What matters: memory, descriptors and latency are at the end what they were at the
//! beginning.

use std::time::{Duration, Instant};

use super::spike::{megabytes, sum};
use super::{Order, conclude};
use crate::crowd::{Crowd, Manners};
use crate::report::Report;
use crate::stage::Stage;

/// Until buffers and pools have the size that they keep.
const WARM: u32 = 10;

pub(super) async fn play<S: Stage>(order: Order) -> Report {
    let stage = S::set(order.peer, None).await;
    let (door, witnesses) = (stage.door(), stage.witnesses().await);
    let mut crowd = Crowd::default();
    let count = order.scale.clients(500);
    for number in 0..count {
        // Visits of 1 to 40 requests.
        let visit = u32::try_from(number % 40 + 1).unwrap_or(1);
        crowd.add(door.clone(), Manners { pause: Duration::from_millis(400), visit: Some(visit) });
    }
    let began = Instant::now();
    tokio::time::sleep(order.soak / WARM).await;
    let warm = Instant::now();
    let (resident, files) = (stage.pooler().resident_bytes(), stage.pooler().open_files());
    tokio::time::sleep(order.soak - order.soak / WARM).await;
    let (resident_after, files_after) = (stage.pooler().resident_bytes(), stage.pooler().open_files());
    let ended = Instant::now();
    let tally = crowd.end().await;
    let early = tally.percentile_within(0.99, warm, warm + order.soak / WARM);
    let late = tally.percentile_within(0.99, ended - order.soak / WARM, ended);
    conclude(stage, order, witnesses, &tally)
        .await
        .figure("minutes", (ended - began).as_secs_f64() / 60.0)
        .figure("rss_warm_mb", megabytes(resident))
        .figure("rss_end_mb", megabytes(resident_after))
        .figure("files_warm", sum(files))
        .figure("files_end", sum(files_after))
        .figure("p99_warm_ms", early.as_secs_f64() * 1e3)
        .figure("p99_end_ms", late.as_secs_f64() * 1e3)
}
