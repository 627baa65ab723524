//! The deadlines of a pool core. Each is a lower bound: it may fire early and find nothing to do, never late. That is what makes moving
//! one cost a comparison on the data path.

use std::time::Instant;

/// What a deadline is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timer {
    /// The oldest waiter has waited for long enough.
    Wait,
    /// Somebody has waited for so long that it is to be told.
    Notify,
    /// Somebody has waited for so long that the reserve is opened.
    Reserve,
    /// An idle connection above the minimum has been idle for long enough.
    Idle,
    /// A connection is old enough to be replaced.
    Lifetime,
    /// An idle connection has not been heard of for a while.
    Probe,
    /// The next connect after a failed one may start.
    Retry,
    /// The server had no room, and that was long ago.
    Ceiling,
}

impl Timer {
    /// All of them.
    pub(super) const ALL: [Self; 8] =
        [Self::Wait, Self::Notify, Self::Reserve, Self::Idle, Self::Lifetime, Self::Probe, Self::Retry, Self::Ceiling];
}

/// The deadline of each timer, and the earliest.
#[derive(Debug, Clone, Default)]
pub(super) struct Timers {
    at: [Option<Instant>; Timer::ALL.len()],
    earliest: Option<Instant>,
}

impl Timers {
    /// The earliest deadline.
    pub(super) fn earliest(&self) -> Option<Instant> {
        self.earliest
    }

    /// Whether a deadline has passed.
    pub(super) fn due(&self, now: Instant) -> bool {
        self.earliest.is_some_and(|at| at <= now)
    }

    /// Whether the deadline of `timer` has passed.
    pub(super) fn is_due(&self, timer: Timer, now: Instant) -> bool {
        self.at[timer as usize].is_some_and(|at| at <= now)
    }

    /// Something will be due at `at`, or earlier if that is already so.
    pub(super) fn lower(&mut self, timer: Timer, at: Instant) {
        let deadline = &mut self.at[timer as usize];
        if deadline.is_none_or(|old| at < old) {
            *deadline = Some(at);
            if self.earliest.is_none_or(|old| at < old) {
                self.earliest = Some(at);
            }
        }
    }

    /// Sets the deadline exactly.
    pub(super) fn set(&mut self, timer: Timer, at: Option<Instant>) {
        self.at[timer as usize] = at;
        self.earliest = self.at.iter().flatten().min().copied();
    }
}
