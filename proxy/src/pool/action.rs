//! What the pool core answers and what it wants done.

use super::id::{ConnId, WaiterId};
use super::reason::{CloseReason, OpenReason, Refusal};
use crate::worker::WorkerId;

/// The answer to a session that asks for a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Here: it was idle and lives on the asker's worker.
    Granted(ConnId),
    /// In a moment: a [`Action::Grant`] or [`Action::Refuse`] for this waiter follows, now or later.
    Queued(WaiterId),
    /// No. Boxed, as the rare one that is large.
    Refused(Box<Refusal>),
}

/// What the core wants done. For each connection at most one of these is under way at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Open a connection on `worker`; answer with `on_connected` or `on_connect_failed`.
    Open {
        /// Which.
        conn: ConnId,
        /// Where it will live.
        worker: WorkerId,
        /// Why.
        reason: OpenReason,
    },
    /// Give a connection to a waiter; when they live on different workers, the connection moves.
    Grant {
        /// To whom.
        waiter: WaiterId,
        /// Which.
        conn: ConnId,
        /// Where the connection is.
        from: WorkerId,
        /// Where the waiter is, and the connection from now on.
        to: WorkerId,
    },
    /// Tell a waiter that it will get none.
    Refuse {
        /// Whom.
        waiter: WaiterId,
        /// Where it is.
        worker: WorkerId,
        /// Why.
        refusal: Box<Refusal>,
    },
    /// Tell a waiter that it has waited for a while; it goes on waiting.
    Notify {
        /// Whom.
        waiter: WaiterId,
        /// Where it is.
        worker: WorkerId,
    },
    /// Clean a connection; answer with `on_reset`.
    Reset {
        /// Which.
        conn: ConnId,
        /// Where it is.
        worker: WorkerId,
    },
    /// Ask a connection whether it is alive; answer with `on_probe`.
    Probe {
        /// Which.
        conn: ConnId,
        /// Where it is.
        worker: WorkerId,
    },
    /// Close a connection; answer with `on_closed`.
    Close {
        /// Which.
        conn: ConnId,
        /// Where it is.
        worker: WorkerId,
        /// Why.
        reason: CloseReason,
    },
}
