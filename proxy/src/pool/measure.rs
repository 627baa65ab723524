//! What the pool counts: its reasons and results as cells of the record.

use super::fault::ConnectFaultKind;
use super::reason::{CloseReason, Failure, RefuseReason};
use super::snapshot::Snapshot;
use crate::observe::record::PoolCounter;
use crate::observe::report::{PoolState, Trouble};

/// The counter of refusals for this reason.
pub fn refusal(reason: RefuseReason) -> PoolCounter {
    match reason {
        RefuseReason::QueueFull => PoolCounter::RefusedQueueFull,
        RefuseReason::WaitTimeout => PoolCounter::RefusedWaitTimeout,
        RefuseReason::WouldTimeOut => PoolCounter::RefusedWouldTimeOut,
        RefuseReason::UpstreamRefuses | RefuseReason::LoginFailing => PoolCounter::RefusedByUpstream,
        RefuseReason::Paused => PoolCounter::RefusedPaused,
        RefuseReason::Draining => PoolCounter::RefusedDraining,
    }
}

/// The name of this reason in that metric and in the log.
pub fn refusal_label(reason: RefuseReason) -> &'static str {
    refusal(reason).series().labels[0]
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
        CloseReason::Idle => PoolCounter::ClosedIdle,
        CloseReason::Lifetime => PoolCounter::ClosedLifetime,
        CloseReason::Shrunk => PoolCounter::ClosedShrunk,
        CloseReason::Broken => PoolCounter::ClosedBroken,
        CloseReason::Evicted => PoolCounter::ClosedEvicted,
        CloseReason::ServerClosed => PoolCounter::ClosedByServer,
        CloseReason::ResetFailed => PoolCounter::ClosedResetFailed,
        CloseReason::ProbeFailed => PoolCounter::ClosedProbeFailed,
        CloseReason::Stale => PoolCounter::ClosedStale,
        CloseReason::Asked => PoolCounter::ClosedAsked,
        CloseReason::Paused => PoolCounter::ClosedPaused,
        CloseReason::Drain => PoolCounter::ClosedDrain,
    }
}

fn trouble(failure: Failure) -> Trouble {
    match failure {
        Failure::Transient => Trouble::Away,
        Failure::Full => Trouble::Full,
        Failure::Starting => Trouble::Starting,
        Failure::Permanent => Trouble::Denied,
        Failure::Missing => Trouble::Missing,
    }
}

impl From<&Snapshot> for PoolState {
    fn from(snapshot: &Snapshot) -> Self {
        Self {
            connecting: snapshot.connecting,
            idle: snapshot.idle,
            leased: snapshot.leased,
            resetting: snapshot.resetting,
            probing: snapshot.probing,
            closing: snapshot.closing,
            pinned: snapshot.pinned.connections,
            pinned_by: snapshot.pinned.by_cause,
            max_pinned: snapshot.max_pinned,
            max: snapshot.max,
            reserve: snapshot.reserve,
            room: snapshot.room,
            min: snapshot.min,
            waiters: snapshot.waiters,
            in_line: 0,
            queue_limit: snapshot.queue_length,
            oldest_wait: snapshot.oldest_wait.unwrap_or_default(),
            saturated: snapshot.saturated,
            paused: snapshot.paused,
            up: snapshot.last_failure.is_none(),
            trouble: snapshot.last_failure.map(trouble),
            retry_in: snapshot.retry_in,
            draining: snapshot.draining,
        }
    }
}
