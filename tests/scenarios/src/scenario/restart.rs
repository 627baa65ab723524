//! A restart of the server: in an orderly way, as by a crash, and because one of its processes was killed. What matters: clients are kept waiting or told, and are served as
//! soon as the server is back, without a stampede.

use std::time::{Duration, Instant};

use super::{Order, conclude};
use crate::crowd::{Crowd, Manners};
use crate::report::Report;
use crate::stage::{Stage, Stop};

const AWAY: Duration = Duration::from_secs(3);

pub(super) async fn play<S: Stage>(order: Order) -> Report {
    let mut stage = S::set(order.peer, None).await;
    let (door, witnesses) = (stage.door(), stage.witnesses().await);
    let mut crowd = Crowd::default();
    crowd.add_many(order.scale.clients(200), &door, Manners::every(Duration::from_millis(50)));
    let mut slowest = Some(Duration::ZERO);
    let mut tally = crate::tally::Tally::default();
    for how in [Stop::Told, Stop::Crash, Stop::KillOne] {
        tokio::time::sleep(order.scale.seconds(4)).await;
        stage.stop(how).await;
        if how != Stop::KillOne {
            tokio::time::sleep(AWAY).await;
        }
        stage.launch().await;
        let back = Instant::now();
        crowd.is_served(order.scale.clients(200) * 5, Duration::from_secs(30)).await;
        let part = std::mem::take(&mut crowd).end().await;
        slowest = slowest.and_then(|before| Some(before.max(part.recovery(back)?)));
        tally.merge(part);
        crowd.add_many(order.scale.clients(200), &door, Manners::every(Duration::from_millis(50)));
    }
    tally.merge(crowd.end().await);
    conclude(stage, order, witnesses, &tally).await.recovered(slowest)
}
