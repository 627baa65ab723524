//! Tells the service manager in time that all workers answer (systemd's `WatchdogSec`). One that does not is the manager's reason to start us anew.

use std::sync::Arc;

use crate::admin::facts::Facts;
use crate::service;

/// Gives a sign of life twice in the time that the manager waits for one; ends at once where it waits for none.
pub async fn feed(facts: Arc<Facts>) {
    let Some(patience) = service::patience() else { return };
    let mut ticks = tokio::time::interval(patience / 2);
    loop {
        ticks.tick().await;
        let stuck = facts.liveness.stuck().await;
        if stuck.is_empty() {
            service::alive();
        } else {
            tracing::error!(workers = ?stuck, "workers do not answer: the service manager is given no sign of life");
        }
    }
}
