//! What the pool counts: its reasons and results as cells of the record.

use super::fault::ConnectFaultKind;
use super::reason::{CloseReason, RefuseReason};
use crate::observe::record::PoolCounter;

/// The counter of refusals for this reason.
pub(super) fn refusal(reason: RefuseReason) -> PoolCounter {
    match reason {
        RefuseReason::QueueFull => PoolCounter::RejectedQueueFull,
        RefuseReason::WaitTimeout => PoolCounter::RejectedWaitTimeout,
        RefuseReason::UpstreamRefuses => PoolCounter::RejectedUpstream,
        RefuseReason::Paused => PoolCounter::RejectedPaused,
        RefuseReason::Draining => PoolCounter::RejectedDraining,
    }
}

/// The counter of connects that failed like this.
pub(super) fn connect_failure(kind: ConnectFaultKind) -> PoolCounter {
    match kind {
        ConnectFaultKind::Refused => PoolCounter::ConnectRefused,
        ConnectFaultKind::Timeout => PoolCounter::ConnectTimeout,
        ConnectFaultKind::Resolve => PoolCounter::ConnectResolve,
        ConnectFaultKind::Tls => PoolCounter::ConnectTls,
        ConnectFaultKind::Auth => PoolCounter::ConnectAuth,
        ConnectFaultKind::TooMany => PoolCounter::ConnectTooMany,
        ConnectFaultKind::Unavailable => PoolCounter::ConnectUnavailable,
        ConnectFaultKind::NoDatabase => PoolCounter::ConnectNoDatabase,
        ConnectFaultKind::Protocol => PoolCounter::ConnectProtocol,
        ConnectFaultKind::Other => PoolCounter::ConnectOther,
    }
}

/// The counter of connections closed for this reason.
pub(super) fn close(reason: CloseReason) -> PoolCounter {
    match reason {
        CloseReason::Idle => PoolCounter::CloseIdle,
        CloseReason::Lifetime => PoolCounter::CloseLifetime,
        CloseReason::Shrunk => PoolCounter::CloseShrunk,
        CloseReason::Broken => PoolCounter::CloseBroken,
        CloseReason::ServerClosed => PoolCounter::CloseServer,
        CloseReason::ResetFailed => PoolCounter::CloseResetFailed,
        CloseReason::ProbeFailed => PoolCounter::CloseProbeFailed,
        CloseReason::Stale => PoolCounter::CloseStale,
        CloseReason::Paused => PoolCounter::ClosePaused,
        CloseReason::Drain => PoolCounter::CloseDrain,
    }
}
