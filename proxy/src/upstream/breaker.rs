//! Whether an address of a server is worth a connect: closed while it works, open after it failed too often, half-open when one probe may find
//! out whether it is back. Pure: times and results go in.
//!
//! ```text
//!            several failures in a row, one silence, or too many of the last attempts
//!   closed ───────────────────────────────────────────────────────────────────────────▶ open ◀──┐
//!      ▲                                                                                   │     │
//!      └── the probe works ── half-open: one probe at a time ◀── a pause, longer each time ┘     │
//!                                      └── the probe fails ──────────────────────────────────────┘
//! ```
//! Only connects count, and connections that are lost as soon as they are open, never what runs on a connection. Not here: which address is taken instead (`roster`), and how often a pool tries at all
//! when there is no other (`pool::backoff`).

use std::fmt;
use std::time::{Duration, Instant};

use super::race::UNBOUNDED_SHARE;
use crate::pool::fault::{ConnectFault, ConnectFaultKind};
use crate::pool::random::Random;

/// So many quick failures in a row open it. One alone costs the connect next to nothing: the next address is tried at once.
const IN_A_ROW: u32 = 3;

/// How far back the share of failures looks.
const WINDOW: Duration = Duration::from_secs(SLOTS as u64 * SLOT.as_secs());

/// A window is forgotten piece by piece.
const SLOT: Duration = Duration::from_secs(5);
const SLOTS: usize = 6;

/// A connection that is lost so soon after it was opened says that the address lets nobody stay.
pub(super) const EARLY: Duration = Duration::from_secs(1);

/// So many attempts within the window are needed before their share says anything.
const ENOUGH: u32 = 10;

/// The first pause; doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// A probe that is not heard of again (whoever made it was dropped) holds up the next one for so long: no shorter than a probe may take.
const PROBE: Duration = UNBOUNDED_SHARE;

/// How a connect to the address ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A connection is open.
    Worked,
    /// The server is there and said no to this database, this user, or one more connection: says nothing about the next pool's connect.
    Denied,
    /// It failed for a reason of our own, such as a want of descriptors.
    Ours,
    /// It failed quickly: refused, broken off, shutting down.
    Failed,
    /// It worked, and the server closed it at once: something answers there that serves nobody.
    LostEarly,
    /// A connection to it has lasted.
    Lasted,
    /// No answer in time: whoever tried has waited for nothing.
    Silent,
}

impl Outcome {
    /// What a failed connect says about its address.
    #[must_use]
    pub fn of(fault: &ConnectFault) -> Self {
        match fault.kind {
            ConnectFaultKind::Timeout => Self::Silent,
            ConnectFaultKind::Refused | ConnectFaultKind::Tls | ConnectFaultKind::Unavailable | ConnectFaultKind::Protocol => Self::Failed,
            ConnectFaultKind::Auth | ConnectFaultKind::NoDatabase | ConnectFaultKind::TooMany => Self::Denied,
            ConnectFaultKind::Other if fault.said.is_some() => Self::Denied,
            ConnectFaultKind::Resolve | ConnectFaultKind::Other => Self::Ours,
        }
    }
}

/// The state, as people and metrics are shown it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It works, as far as is known.
    Closed,
    /// Its pause is over: a probe is due, or under way.
    HalfOpen,
    /// It is left alone while there are others.
    Open,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Closed, Self::HalfOpen, Self::Open];

    /// As a label value.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}

/// What opened it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// So many connects in a row failed.
    InARow(u32),
    /// A connect got no answer.
    Silent,
    /// So many of so many connects of the last half a minute failed.
    Share(u32, u32),
    /// So many connections in a row were lost as soon as they were open.
    LostEarly(u32),
    /// The probe failed.
    Probe,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InARow(count) => write!(f, "{count} connects in a row failed"),
            Self::Silent => f.write_str("a connect got no answer in time"),
            Self::Share(failures, attempts) => write!(f, "{failures} of the last {attempts} connects failed"),
            Self::LostEarly(count) => write!(f, "{count} connections in a row were lost as soon as they were open"),
            Self::Probe => f.write_str("a connect that tried whether it is back failed"),
        }
    }
}

/// A change of state that is worth a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is left alone for so long.
    Opened(Why, Duration),
    /// It is used as the others are.
    Closed,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Closed,
    Open { until: Instant },
    Probing { until: Instant },
}

/// The breaker of one address.
#[derive(Debug)]
pub struct Breaker {
    state: State,
    /// Failures since the last success.
    streak: u32,
    window: Window,
    /// How often it opened without working for a whole window in between.
    openings: u32,
    /// Connections that were lost as soon as they were open, since one has lasted, and when that was last.
    early: u32,
    lost_at: Instant,
    /// When it closed last.
    closed_at: Instant,
    /// How often it was passed over without being at fault, since the last success, and until when.
    passes: u32,
    passed_over: Option<Instant>,
}

impl Breaker {
    /// Nothing is known.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        let window = Window { since: now, slots: [Slot::default(); SLOTS] };
        Self { state: State::Closed, streak: 0, window, openings: 0, early: 0, lost_at: now, closed_at: now, passes: 0, passed_over: None }
    }

    /// Until when others are better; `None`: it may be used.
    #[must_use]
    pub fn avoid_until(&self, now: Instant) -> Option<Instant> {
        let until = match self.state {
            State::Closed => self.passed_over,
            State::Open { until } | State::Probing { until } => Some(until),
        };
        until.filter(|until| now < *until)
    }

    /// It is about to be connected to as the first choice. If a probe is due, this is the one.
    pub fn taken(&mut self, now: Instant) {
        match self.state {
            State::Open { until } | State::Probing { until } if until <= now => self.state = State::Probing { until: now + PROBE },
            State::Open { .. } | State::Probing { .. } => {}
            // One tries whether it is let in again; the others wait for what comes of it.
            State::Closed => self.passed_over = self.passed_over.map(|until| until.max(now + PROBE)),
        }
    }

    /// The state at this moment.
    #[must_use]
    pub fn phase(&self, now: Instant) -> Phase {
        match self.state {
            State::Closed => Phase::Closed,
            State::Open { until } if now < until => Phase::Open,
            State::Open { .. } | State::Probing { .. } => Phase::HalfOpen,
        }
    }

    /// Whether the last connect that says something of the address failed.
    #[must_use]
    pub fn is_failing(&self, now: Instant) -> bool {
        self.streak > 0 || self.phase(now) != Phase::Closed
    }

    /// A connect has ended. A pause is at most `longest`.
    pub(super) fn ended(&mut self, now: Instant, outcome: Outcome, longest: Duration, random: &mut Random) -> Option<Change> {
        match outcome {
            Outcome::Worked => {
                self.window.add(now, false);
                (self.passes, self.passed_over) = (0, None);
                self.close(now)
            }
            Outcome::Denied => {
                self.pass_over(now, longest, random);
                self.close(now)
            }
            Outcome::Ours => {
                self.dropped(now, longest, random);
                self.pass_over(now, longest, random);
                None
            }
            Outcome::Lasted => {
                self.early = 0;
                None
            }
            Outcome::LostEarly => {
                let forgotten = now.saturating_duration_since(self.lost_at) >= WINDOW;
                self.early = if forgotten { 1 } else { self.early.saturating_add(1) };
                self.lost_at = now;
                // That it could be connected to does not close it for long: the next one that is lost opens it again.
                let opens = self.early >= IN_A_ROW && matches!(self.state, State::Closed);
                opens.then(|| self.open(now, Why::LostEarly(self.early), longest, random))
            }
            Outcome::Failed | Outcome::Silent => {
                self.window.add(now, true);
                self.streak = self.streak.saturating_add(1);
                let why = self.reason(now, outcome)?;
                Some(self.open(now, why, longest, random))
            }
        }
    }

    /// A connect was given up before it said anything. If it was the probe, the next one is due after a pause.
    pub(super) fn dropped(&mut self, now: Instant, longest: Duration, random: &mut Random) {
        match self.state {
            State::Probing { .. } => self.state = State::Open { until: now + pause(self.openings.saturating_sub(1), longest, random) },
            State::Closed | State::Open { .. } => {}
        }
    }

    /// Why this failure opens it, if it does.
    fn reason(&self, now: Instant, outcome: Outcome) -> Option<Why> {
        match self.state {
            // It was under way when another one opened it.
            State::Open { until } if now < until => None,
            State::Open { .. } | State::Probing { .. } => Some(Why::Probe),
            State::Closed => {
                let (failures, attempts) = self.window.sum(now);
                let share = (attempts >= ENOUGH && failures * 2 >= attempts).then_some(Why::Share(failures, attempts));
                let streak = (self.streak >= IN_A_ROW).then_some(Why::InARow(self.streak));
                (outcome == Outcome::Silent).then_some(Why::Silent).or(streak).or(share)
            }
        }
    }

    fn open(&mut self, now: Instant, why: Why, longest: Duration, random: &mut Random) -> Change {
        if matches!(self.state, State::Closed) && now.saturating_duration_since(self.closed_at) >= WINDOW {
            self.openings = 0;
        }
        let pause = pause(self.openings, longest, random);
        self.openings = self.openings.saturating_add(1);
        self.state = State::Open { until: now + pause };
        Change::Opened(why, pause)
    }

    fn close(&mut self, now: Instant) -> Option<Change> {
        self.streak = 0;
        match self.state {
            State::Closed => None,
            State::Open { .. } | State::Probing { .. } => {
                self.window = Window { since: now, slots: [Slot::default(); SLOTS] };
                (self.state, self.closed_at) = (State::Closed, now);
                Some(Change::Closed)
            }
        }
    }

    fn pass_over(&mut self, now: Instant, longest: Duration, random: &mut Random) {
        self.passed_over = Some(now + pause(self.passes, longest, random));
        self.passes = self.passes.saturating_add(1);
    }
}

/// A pause after so many before it: doubling, spread over its second half.
fn pause(before: u32, longest: Duration, random: &mut Random) -> Duration {
    random.share(FIRST_PAUSE.saturating_mul(1 << before.min(16)).min(longest), 500, 1000)
}

/// The attempts of the last moments.
#[derive(Debug)]
struct Window {
    since: Instant,
    slots: [Slot; SLOTS],
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    number: u64,
    attempts: u32,
    failures: u32,
}

impl Window {
    fn number(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.since).as_secs() / SLOT.as_secs()
    }

    fn add(&mut self, now: Instant, failed: bool) {
        let number = self.number(now);
        let slot = &mut self.slots[usize::try_from(number % SLOTS as u64).unwrap_or(0)];
        if slot.number != number {
            *slot = Slot { number, ..Slot::default() };
        }
        slot.attempts = slot.attempts.saturating_add(1);
        slot.failures = slot.failures.saturating_add(u32::from(failed));
    }

    /// Failures and attempts.
    fn sum(&self, now: Instant) -> (u32, u32) {
        let number = self.number(now);
        let fresh = self.slots.iter().filter(|slot| slot.number + SLOTS as u64 > number);
        fresh.fold((0, 0), |(failures, attempts), slot| (failures.saturating_add(slot.failures), attempts.saturating_add(slot.attempts)))
    }
}

#[cfg(test)]
#[path = "breaker_tests.rs"]
mod tests;
