//! The way out: not ready at once, no new clients after a while, idle clients leave, transactions finish, and what is left is cut in the end.

use std::sync::Arc;
use std::time::Duration;

use sidepool_config::model::Drain;
use tokio::time::{Instant, interval, sleep_until};

use super::Listening;
use crate::admin::facts::Facts;
use crate::clock;

/// The ways out that PgBouncer knows (its signals in ini mode, and SHUTDOWN on the console). What SIGTERM does without an ini file is [`drain`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutdownMode {
    /// At once, cutting everybody.
    Immediate,
    /// No new clients; those that need a server are closed; the end comes when all servers have been released.
    WaitForServers,
    /// No new clients; those that are there are served until they leave.
    WaitForClients,
}

/// How often it is looked whether everybody has left.
const LOOK: Duration = Duration::from_millis(10);

/// Goes all the way; returns when the process may end.
pub async fn drain(facts: &Arc<Facts>, listening: Listening, drain: &Drain) {
    let begun = Instant::from_std(clock::now());
    facts.set_draining();
    let clients = facts.gates().open();
    tracing::info!(clients, accept_for_s = drain.accept_for.as_secs(), timeout_s = drain.timeout.as_secs(), "draining");
    sleep_until(begun + drain.accept_for.min(drain.timeout)).await;
    drop(listening);
    for id in facts.mailboxes.ids() {
        facts.mailboxes.post(id, |worker| worker.drain.begin());
    }
    let left = tokio::time::timeout_at(begun + drain.timeout, everybody_has_left(facts)).await;
    let open = facts.gates().open();
    match left {
        Ok(()) => tracing::info!("all clients have left"),
        Err(_) => {
            facts.add_forced_closes(open);
            tracing::warn!(clients = open, "the drain timeout is over: cutting the clients that are left");
        }
    }
}

async fn everybody_has_left(facts: &Facts) {
    let mut look = interval(LOOK);
    while facts.gates().open() > 0 {
        look.tick().await;
    }
}
