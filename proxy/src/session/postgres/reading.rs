//! Reads the client's socket, and asks nobody where it is known that there is nothing: the runtime has said so before, and has heard nothing since.

use std::io;
use std::task::{Context, Poll};

use tokio::task::coop;

use super::run::Session;

impl Session {
    /// Whether the client has nothing to say, and wakes the session when it has.
    #[inline]
    pub(super) fn is_client_silent(&mut self) -> bool {
        self.quiet.client = self.quiet.client || self.awaits_client && !self.client.may_be_read();
        self.quiet.client
    }

    /// Reads what the client has sent.
    pub(super) fn poll_client(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = self.client.poll_read(cx, buffer);
        self.quiet.client = read.is_pending();
        // Whose turn is over is woken for that, and has not been heard as one who waits.
        self.awaits_client = read.is_pending() && coop::has_budget_remaining();
        read
    }
}
