//! A network that swallows every packet between pooler and server, and nobody says so. What matters: clients are told in time while it lasts, and
//! served soon after it ends.

use std::time::{Duration, Instant};

use super::{Order, conclude};
use crate::crowd::{Crowd, Manners};
use crate::network::Network;
use crate::report::Report;
use crate::scale::Scale;
use crate::stage::Stage;

pub(super) async fn play<S: Stage>(order: Order, length: Duration) -> Result<Report, String> {
    let network = Network::new()?;
    let stage = S::set(order.peer, Some(&network)).await;
    let (door, witnesses) = (stage.door(), stage.witnesses().await);
    let mut crowd = Crowd::default();
    crowd.add_many(order.scale.clients(200), &door, Manners::every(Duration::from_millis(100)));
    tokio::time::sleep(order.scale.seconds(4)).await;
    network.cut();
    tokio::time::sleep(match order.scale {
        Scale::Full => length,
        Scale::Small => length / 4,
    })
    .await;
    network.mend();
    let mended = Instant::now();
    crowd.is_served(order.scale.clients(200) * 20, Duration::from_secs(60)).await;
    let tally = crowd.end().await;
    Ok(conclude(stage, order, witnesses, &tally).await.recovered(tally.recovery(mended)))
}
