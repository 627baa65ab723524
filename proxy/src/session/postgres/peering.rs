//! Cancels for clients of another process: with `so_reuseport`, a load balancer or a rolling restart, a cancel request may come in at a process
//! that does not know the key. The key names the peer that made it, and the request is sent on to that one, as PgBouncer's peers do.
//!
//! It travels in plain text, as a cancel request does: peers are neighbours (a Unix socket, a private network). A key is sent on three times at
//! most, so that peers which name each other by mistake do not send it round for ever.

use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use sidepool_config::model::{Peer, Postgres};
use sidepool_protocol::postgres::cancel_key::CancelKey;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::cancel::Outcome;
use super::cancel_lines::LineKey;
use crate::upstream::postgres::cancel;
use crate::worker::Worker;

/// Sends a cancel for a client that is not ours on to whom it may belong to. Returns when it has been delivered.
pub async fn forward(worker: &Rc<Worker>, key: CancelKey) -> Outcome {
    let config = Arc::clone(&worker.config.borrow());
    let Some(postgres) = &config.postgres else { return Outcome::Unknown };
    let is_of_a_peer = postgres.peer_id > 0 && key.peer() != postgres.peer_id;
    if is_of_a_peer && let Some(peer) = postgres.peers.get(&key.peer()) {
        return to_peer(worker, postgres, peer, key).await;
    }
    match (worker.postgres.elder.ask(key).await, is_of_a_peer) {
        (true, _) => Outcome::Sent,
        (false, true) => Outcome::NoPeer,
        (false, false) => Outcome::Unknown,
    }
}

/// The process that served before us, as long as it still has clients: a key that we do not know may be one of theirs.
#[derive(Clone, Default)]
pub struct Elder(Arc<Mutex<Option<mpsc::Sender<Ask>>>>);

/// A cancel for the elder to carry out.
pub struct Ask {
    /// The key in the request.
    pub key: CancelKey,
    /// Told when it has been carried out.
    pub done: oneshot::Sender<()>,
}

impl Elder {
    /// There is one, who is asked like this; or there is none any more.
    pub fn set(&self, asked: Option<mpsc::Sender<Ask>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = asked;
    }

    /// Has it carry out a cancel; false when there is none, or when it is asked too much already.
    async fn ask(&self, key: CancelKey) -> bool {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(sender) = sender else { return false };
        let (done, told) = oneshot::channel();
        if sender.try_send(Ask { key, done }).is_err() {
            return false;
        }
        // It bounds its own attempts; when it ends, the channel does.
        let _ = told.await;
        true
    }
}

async fn to_peer(worker: &Rc<Worker>, postgres: &Postgres, peer: &Peer, key: CancelKey) -> Outcome {
    let id = key.peer();
    let Some(key) = key.forwarded() else {
        tracing::warn!("failed to forward cancel request because its TTL was exhausted (peer {id})");
        return Outcome::Worn;
    };
    let entering = worker.postgres.cancel_lines.enter(LineKey::Peer(id), postgres.pool_size_of(peer));
    let patience = postgres.cancel_wait_timeout;
    let entered = if patience.is_zero() { Ok(entering.await) } else { timeout(patience, entering).await };
    let Ok(Ok(_turn)) = entered else {
        tracing::warn!("cancel_wait_timeout: as many cancels are on their way to peer {id} as its pool_size allows");
        return Outcome::Late;
    };
    tracing::debug!("forwarding cancellation request to peer {id}");
    if let Err(fault) = cancel::send_to_peer(&worker.postgres.dialing, &peer.upstream, key).await {
        tracing::warn!(fault = %fault.message, "sending cancel request failed: peer {id}");
        return Outcome::Failed;
    }
    Outcome::Sent
}
