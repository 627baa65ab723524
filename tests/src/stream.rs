//! A client that sends much and watches how far it gets.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use crate::wait;

/// What is sent in one go.
const PIECE: usize = 16 * 1024;

/// Sends everything, and says how far it has come.
pub async fn send_all(mut to: impl AsyncWrite + Unpin, bytes: Arc<Vec<u8>>, sent: Arc<AtomicUsize>) {
    for piece in bytes.chunks(PIECE) {
        to.write_all(piece).await.unwrap();
        sent.fetch_add(piece.len(), Ordering::Relaxed);
    }
}

/// Waits until nothing is sent any more.
pub async fn stands_still(sent: &AtomicUsize) {
    let mut before = usize::MAX;
    wait::until("that all buffers are full", async || {
        let now = sent.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(200)).await;
        (std::mem::replace(&mut before, now) == now).then_some(())
    })
    .await;
}
