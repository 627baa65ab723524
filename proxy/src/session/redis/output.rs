//! How much output may wait for a client that does not read, and for how long (`client_output_buffer_limit`). A session reads no requests from such a
//! client in any case; here is when it is closed. Looked at once a second, while there is something that waits, as Redis does.
//!
//! Not here: a lane whose large reply a client does not take (`throttle`).

use std::task::Context;
use std::time::Duration;

use sidepool_config::model::OutputLimit;

use super::beat::Beat;
use super::client::{Client, HIGH_WATER};
use super::end::End;
use super::run::Session;

/// How often what waits is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What the looks at a client have shown.
pub(super) struct Lag {
    beat: Beat,
    /// For how long it has been past the soft limit.
    over: Option<Duration>,
    /// For how long it has taken nothing.
    still: Duration,
    /// It has taken something since the last look.
    pub(super) moved: bool,
}

impl Default for Lag {
    fn default() -> Self {
        Self { beat: Beat::every(LOOK), over: None, still: Duration::ZERO, moved: true }
    }
}

impl Lag {
    /// Whether it is time for a look; the next one is then due.
    pub(super) fn is_due(&mut self, cx: &mut Context<'_>) -> bool {
        self.beat.is_due(cx)
    }

    /// A look: `bytes` wait. Whether that is too much, or has been for too long. `holds`: a connection to the server waits for the client.
    pub(super) fn look(&mut self, bytes: usize, limit: OutputLimit, holds: bool) -> bool {
        self.over = limit.is_over_soft(bytes).then(|| self.over.map_or(Duration::ZERO, |over| over + LOOK));
        self.still = if std::mem::take(&mut self.moved) { Duration::ZERO } else { self.still + LOOK };
        let too_long = self.over.is_some_and(|over| limit.is_too_long(over));
        let stuck = holds && bytes > HIGH_WATER && limit.is_too_long(self.still);
        limit.is_over_hard(bytes) || too_long || stuck
    }
}

impl Session {
    /// Writes what waits for the client, and closes it where that has been too much or for too long. `holds`: a connection to the server waits for it.
    pub(super) fn poll_flush(&self, holds: bool, cx: &mut Context<'_>) -> bool {
        let flushed = self.client.poll_flush(cx).is_ready();
        if !flushed && self.client.is_look_due(cx) {
            let limits = self.server.config().client_output_buffer_limit;
            let limit = if self.client.shown.is_subscribed() { limits.pubsub } else { limits.normal };
            self.client.look(limit, holds);
        }
        flushed
    }

    /// A client that was closed because it did not read is counted.
    pub(super) fn note_slow(&self) {
        if let Some(end @ (End::OutputLimit | End::Memory)) = self.client.end() {
            self.worker.record.add(crate::observe::record::WorkerCounter::RedisFaultSlow, 1);
            let (client, waiting, reason) = (self.client.id, self.client.backlog(), end.label());
            tracing::info!(client, waiting, reason, server = &*self.server.name, "a Redis client does not read its replies and is closed");
        }
    }
}

impl Client {
    /// Looks at what waits; closes the client where that is too much.
    fn look(&self, limit: OutputLimit, holds: bool) {
        let bytes = self.backlog();
        if self.with_lag(|lag| lag.look(bytes, limit, holds)) {
            self.doom(End::OutputLimit);
        }
    }

    fn is_look_due(&self, cx: &mut Context<'_>) -> bool {
        self.with_lag(|lag| lag.is_due(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(soft_bytes: u64, seconds: u64) -> OutputLimit {
        OutputLimit { hard_bytes: 1_000_000, soft_bytes, soft_time: Duration::from_secs(seconds) }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_soft_limit_is_one_of_time_without_a_pause() {
        let mut lag = Lag::default();
        for _ in 0..5 {
            assert!(!lag.look(11, limit(10, 2), false) && !lag.look(11, limit(10, 2), false) && !lag.look(11, limit(10, 2), false));
            assert!(!lag.look(10, limit(10, 2), false), "in between it was below");
        }
        let closed: Vec<bool> = (0..4).map(|_| lag.look(11, limit(10, 2), false)).collect();
        assert_eq!(closed, [false, false, false, true]);
        assert!(Lag::default().look(1_000_001, limit(0, 0), false), "a hard limit is one at once");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn who_takes_nothing_holds_no_connection_for_ever() {
        let mut lag = Lag::default();
        for _ in 0..10 {
            lag.moved = true;
            assert!(!lag.look(HIGH_WATER + 1, limit(900_000, 2), true), "it takes something, however slowly");
        }
        let closed: Vec<bool> = (0..3).map(|_| lag.look(HIGH_WATER + 1, limit(900_000, 2), true)).collect();
        assert_eq!(closed, [false, false, true]);
        let mut lag = Lag::default();
        assert!((0..10).all(|_| !lag.look(HIGH_WATER + 1, limit(900_000, 2), false)), "nobody waits for it");
        assert!((0..10).all(|_| !lag.look(HIGH_WATER, limit(900_000, 2), true)), "nor with so little");
    }
}
