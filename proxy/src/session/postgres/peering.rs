//! Cancels for clients of another process: with `so_reuseport`, a load balancer or a rolling restart, a cancel request may come in at a process
//! that does not know the key. The key names the peer that made it, and the request is sent on to that one, as PgBouncer's peers do.
//!
//! It travels in plain text, as a cancel request does: peers are neighbours (a Unix socket, a private network). A key is sent on three times at
//! most, so that peers which name each other by mistake do not send it round for ever.

use std::rc::Rc;
use std::sync::Arc;

use sidepool_config::model::{Peer, Postgres};
use sidepool_protocol::postgres::cancel_key::CancelKey;
use tokio::time::timeout;

use super::cancel_lines::LineKey;
use crate::upstream::postgres::cancel;
use crate::worker::Worker;

/// How many cancels may be on their way to a peer of which the configuration does not say it (PgBouncer's default_pool_size).
const USUAL_POOL_SIZE: u32 = 20;

/// Sends a cancel for a client that is not ours on to whom it may belong to; false when that is nobody. Returns when it has been delivered.
pub async fn forward(worker: &Rc<Worker>, key: CancelKey) -> bool {
    let config = Arc::clone(&worker.config.borrow());
    let Some(postgres) = &config.postgres else { return false };
    if postgres.peer_id == 0 || key.peer() == postgres.peer_id {
        return false;
    }
    let Some(peer) = postgres.peers.get(&key.peer()) else { return false };
    to_peer(worker, postgres, peer, key).await;
    true
}

async fn to_peer(worker: &Rc<Worker>, postgres: &Postgres, peer: &Peer, key: CancelKey) {
    let id = key.peer();
    let Some(key) = key.forwarded() else {
        tracing::warn!(peer = id, "failed to forward cancel request because its TTL was exhausted");
        return;
    };
    let entering = worker.postgres.cancel_lines.enter(LineKey::Peer(id), peer.pool_size.unwrap_or(USUAL_POOL_SIZE));
    let patience = postgres.cancel_wait_timeout;
    let entered = if patience.is_zero() { Ok(entering.await) } else { timeout(patience, entering).await };
    let Ok(Ok(_turn)) = entered else {
        tracing::warn!(peer = id, "cancel_wait_timeout: as many cancels are on their way to the peer as its pool_size allows");
        return;
    };
    tracing::debug!(peer = id, "forwarding cancellation request to peer");
    if let Err(fault) = cancel::send_to_peer(&peer.upstream, key).await {
        tracing::warn!(peer = id, fault = %fault.message, "cancel request not forwarded");
    }
}
