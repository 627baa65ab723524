//! Clients that ask for large answers and read them slowly. What matters: nobody else waits for them, and memory stays bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{Order, conclude};
use crate::crowd::{Crowd, Manners};
use crate::report::Report;
use crate::stage::Stage;

const SLOW: usize = 10;

pub(super) async fn play<S: Stage + Greedy>(order: Order) -> Report {
    let stage = S::set(order.peer, None).await;
    let (door, witnesses) = (stage.door(), stage.witnesses().await);
    let over = Arc::new(AtomicBool::new(false));
    let mut slow = JoinSet::new();
    for _ in 0..SLOW {
        let asked = S::ask_for_much(&door).await;
        slow.spawn(sip(asked, Arc::clone(&over)));
    }
    let mut crowd = Crowd::default();
    crowd.add_many(order.scale.clients(200), &door, Manners::every(Duration::from_millis(100)));
    tokio::time::sleep(order.scale.seconds(12)).await;
    let tally = crowd.end().await;
    over.store(true, Ordering::Relaxed);
    slow.join_all().await;
    conclude(stage, order, witnesses, &tally).await
}

/// A stage on which much can be asked for.
pub(super) trait Greedy: Stage {
    /// Comes in, asks for some 20 MB, and reads nothing of it.
    fn ask_for_much(door: &Self::Door) -> impl Future<Output = Option<TcpStream>> + Send;
}

impl Greedy for crate::stage::PostgresStage {
    async fn ask_for_much(door: &Self::Door) -> Option<TcpStream> {
        let mut session = door.enter().await.ok()?;
        let sql = "SELECT repeat('x', 1000) FROM generate_series(1, 20000)";
        session.send(&sidepool_tests::postgres::frame::query(sql)).await.ok()?;
        Some(session.into_stream())
    }
}

impl Greedy for crate::stage::RedisStage {
    async fn ask_for_much(door: &Self::Door) -> Option<TcpStream> {
        let mut session = door.session().await.ok()?;
        let value = "x".repeat(1_000_000);
        session.ask(&[&["SET", "much", &value]]).await.ok()?;
        let get: &[&str] = &["GET", "much"];
        session.send(&[get; 20]).await.ok()?;
        Some(session.into_stream())
    }
}

/// 16 kB ten times a second.
async fn sip(stream: Option<TcpStream>, over: Arc<AtomicBool>) {
    let Some(mut stream) = stream else { return };
    let mut buffer = vec![0; 16 * 1024];
    while !over.load(Ordering::Relaxed) {
        if !matches!(stream.read(&mut buffer).await, Ok(1..)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
