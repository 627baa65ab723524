//! Cancel requests as a test makes them, and what comes of them.

use super::wire::{Wire, first_error};
use super::{Cluster, frame};
use crate::wait;

/// Sends a cancel of what this client runs to a port; returns when it has been taken.
pub async fn cancel_at(port: u16, wire: &Wire) {
    let (process, key) = wire.cancel_key.clone().expect("a key");
    send_cancel(port, process, &key).await;
}

/// Sends a cancel with a key; returns when it has been taken.
pub async fn send_cancel(port: u16, process: i32, key: &[u8]) {
    let mut messenger = Wire::connect(port).await;
    messenger.send(&frame::cancel(process, key)).await;
    assert!(messenger.until_closed().await.is_empty(), "a cancel request has no answer");
}

/// How many queries of user `app` with this text run on the server.
pub async fn active_queries(cluster: &Cluster, text: &str) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND usename = 'app' AND query LIKE '%' || $1 || '%'";
    cluster.superuser("app").await.query_one(sql, &[&text]).await.expect(sql).get(0)
}

/// Waits until one does.
pub async fn runs(cluster: &Cluster, text: &str) {
    wait::until(text, async || (active_queries(cluster, text).await > 0).then_some(())).await;
}

/// Waits for the answer to a query that is cancelled.
pub async fn is_cancelled(wire: &mut Wire) {
    let answer = wire.until_ready().await;
    assert_eq!(first_error(&answer).and_then(|error| error.field(b'C')).as_deref(), Some("57014"));
}
