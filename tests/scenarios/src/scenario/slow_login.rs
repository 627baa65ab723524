//! Connections that send their first message byte by byte and never finish it ("slow loris"). What matters: they are thrown out at the login
//! timeout, and cost nobody else a place.

use std::time::{Duration, Instant};

use sidepool_tests::postgres::frame;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

use super::{Order, conclude};
use crate::crowd::{Crowd, Manners};
use crate::postgres::Door;
use crate::report::Report;
use crate::stage::{PostgresStage, Stage as _};
use crate::tally::{Tally, ratio};

/// Twice `client_login_timeout`, and a little.
const THROWN_OUT_BY: Duration = Duration::from_secs(11);

pub(super) async fn play(order: Order) -> Report {
    let stage = PostgresStage::set(order.peer, None).await;
    let (door, witnesses) = (stage.door(), stage.witnesses().await);
    let mut crowd = Crowd::default();
    crowd.add_many(order.scale.clients(50), &door, Manners::every(Duration::from_millis(50)));
    // And some that log in for every request.
    crowd.add_many(order.scale.clients(50), &door, Manners { pause: Duration::from_millis(250), visit: Some(1) });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut slow = JoinSet::new();
    for _ in 0..order.scale.clients(2_000) {
        slow.spawn(drip(door.clone()));
    }
    let (mut thrown_out, mut all) = (0, 0_u32);
    while let Some(was_thrown_out) = slow.join_next().await {
        thrown_out += u64::from(was_thrown_out.expect("clients do not panic"));
        all += 1;
    }
    let tally: Tally = crowd.end().await;
    conclude(stage, order, witnesses, &tally)
        .await
        .figure("slow_ones", f64::from(all))
        .figure("of_them_thrown_out", ratio(thrown_out, u64::from(all)))
}

/// They hold every place that there is, and come again when they are thrown out.
pub(super) async fn play_full(order: Order) -> Report {
    let places = order.scale.clients(1_000);
    let most = format!("max_client_conn = {places}");
    let stage = PostgresStage::set_with(order.peer, &[&most, "client_login_timeout = 60"]).await;
    let (door, witnesses) = (stage.door(), stage.witnesses().await);
    let mut slow = JoinSet::new();
    for _ in 0..places + places / 5 {
        let door = door.clone();
        slow.spawn(async move {
            loop {
                drip(door.clone()).await;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
    }
    // They are there before anybody else, and have been for a while.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut crowd = Crowd::default();
    crowd.add_many(order.scale.clients(50), &door, Manners { pause: Duration::from_secs(1), visit: Some(1) });
    tokio::time::sleep(order.scale.seconds(20)).await;
    let tally: Tally = crowd.end().await;
    slow.shutdown().await;
    #[expect(clippy::cast_precision_loss, reason = "a thousand")]
    let places = places as f64;
    conclude(stage, order, witnesses, &tally).await.figure("places", places)
}

/// Whether it was thrown out.
async fn drip(door: Door) -> bool {
    let Ok(mut stream) = door.knock().await else { return true };
    let until = Instant::now() + THROWN_OUT_BY;
    let startup = frame::startup(&[("user", "app"), ("database", "app"), ("application_name", "a name that takes its time")]);
    let mut bytes = startup.iter().take(startup.len() - 1).cycle();
    let mut sent = 0;
    while Instant::now() < until {
        // Never the last byte.
        if sent < startup.len() - 1 {
            let byte = *bytes.next().expect("a message");
            if stream.write_all(&[byte]).await.is_err() {
                return true;
            }
            sent += 1;
        }
        let mut answer = [0; 256];
        match tokio::time::timeout(Duration::from_millis(700), stream.read(&mut answer)).await {
            Ok(Ok(1..)) | Err(_) => {}
            Ok(Ok(0) | Err(_)) => return true,
        }
    }
    false
}
