//! A moment that comes again and again while somebody looks out for it. Not here: what is done then.

use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Sleep, sleep};

/// Comes once every so often.
pub(super) struct Beat {
    period: Duration,
    next: Pin<Box<Sleep>>,
}

impl Beat {
    /// One that comes after `period` for the first time.
    pub(super) fn every(period: Duration) -> Self {
        Self { period, next: Box::pin(sleep(period)) }
    }

    /// Whether it has come; the next one is then due, and wakes the task.
    pub(super) fn is_due(&mut self, cx: &mut Context<'_>) -> bool {
        let due = self.next.as_mut().poll(cx).is_ready();
        if due {
            self.next = Box::pin(sleep(self.period));
            // Registers for the next one; it cannot have come already.
            let _ = self.next.as_mut().poll(cx);
        }
        due
    }
}
