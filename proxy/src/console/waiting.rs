//! When PAUSE and WAIT_CLOSE are done: looks at the pools until they are where they should be.

use std::time::Duration;

use super::gather;
use super::switching::Switch;
use crate::pool::snapshot::Snapshot;
use crate::session::postgres::route::{PoolKey, Purpose};
use crate::worker::Mailboxes;

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(10);

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    /// All connections have been released and closed.
    Released,
    /// All connections that were to be closed are.
    Closed,
}

/// How the waiting ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waited {
    /// It is done.
    Done,
    /// Somebody else has resumed what was paused.
    Resumed,
}

impl Goal {
    fn is_reached(self, pool: &Snapshot) -> bool {
        match self {
            Self::Released => pool.connections() == 0,
            Self::Closed => pool.retiring == 0 && pool.closing == 0,
        }
    }
}

/// Waits until all pools that `switch` concerns have reached the goal. May be dropped.
pub(super) async fn until(mailboxes: &Mailboxes, switch: &Switch, goal: Goal) -> Waited {
    let mut look = tokio::time::interval(LOOK);
    loop {
        look.tick().await;
        let pools = gather::pools(mailboxes).await;
        // The connection that listens for clients stays through a pause: what is notified meanwhile shall not be lost.
        let waited = |key: &PoolKey| switch.concerns(key.database()) && (key.purpose != Purpose::Listening || goal == Goal::Closed);
        let mut own = pools.iter().filter(|(key, _)| waited(key)).map(|(_, facts)| &facts.snapshot);
        if goal == Goal::Released && own.clone().any(|pool| !pool.paused) {
            return Waited::Resumed;
        }
        if own.all(|pool| goal.is_reached(pool)) {
            return Waited::Done;
        }
    }
}
