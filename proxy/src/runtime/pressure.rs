//! What is done when memory runs out, in three steps before the kernel kills. Pure: times and readings go in, steps come out.
//!
//! ```text
//!   used of the limit   80 %        88 %        94 %
//!   Calm ──────────────► Throttle ──► Refuse ───► Shed
//!   ◄── 5 points below, for two seconds ────────────┘
//! ```
//! A step lasts a while, but clients are closed only at those moments at which memory is that short, and only where this process has a real part of it:
//! in a group that others fill, closing our clients would free nothing.

use std::time::{Duration, Instant};

use super::memory::Reading;

/// How far below the threshold of a step memory has to be before the step is left,
const SLACK: u64 = 5;

/// and for how long.
const REST: Duration = Duration::from_secs(2);

/// What is done. Each step does what those before it do, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Step {
    /// Nothing.
    #[default]
    Calm,
    /// Requests of clients that do not take their replies are not read.
    Throttle,
    /// Nobody new is let in.
    Refuse,
    /// Clients that hold most are closed, those first that are idle.
    Shed,
}

impl Step {
    /// All of them.
    const ALL: [Self; 4] = [Self::Calm, Self::Throttle, Self::Refuse, Self::Shed];

    /// What of the limit is in use, in hundredths, when it is taken.
    #[must_use]
    pub fn threshold(self) -> u64 {
        match self {
            Self::Calm => 0,
            Self::Throttle => 80,
            Self::Refuse => 88,
            Self::Shed => 94,
        }
    }

    /// In words, for people and metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::Throttle => "throttle",
            Self::Refuse => "refuse",
            Self::Shed => "shed",
        }
    }

    /// The one for this reading, and if so many hundredths more were in use.
    pub(super) fn at(reading: Option<Reading>, more: u64) -> Self {
        let Some(reading) = reading else { return Self::Calm };
        let percent = reading.usage.percent().saturating_add(more);
        let taken = |step: &Self| percent >= step.threshold() && (*step < Self::Shed || reading.is_ours());
        Self::ALL.into_iter().rfind(taken).unwrap_or_default()
    }
}

/// Which step is taken.
#[derive(Debug, Clone, Default)]
pub struct Pressure {
    step: Step,
    /// Since when less would do.
    relieved: Option<Instant>,
    sheds: bool,
}

impl Pressure {
    /// The step after a reading; without a limit there is none to take.
    pub fn on_reading(&mut self, now: Instant, reading: Option<Reading>) -> Step {
        let (up, down) = (Step::at(reading, 0), Step::at(reading, SLACK));
        self.sheds = up == Step::Shed;
        if up >= self.step {
            (self.step, self.relieved) = (up, None);
        } else if down < self.step {
            let since = *self.relieved.get_or_insert(now);
            if now.saturating_duration_since(since) >= REST {
                (self.step, self.relieved) = (down, None);
            }
        } else {
            self.relieved = None;
        }
        self.step
    }

    /// Whether clients are to be closed after the last reading.
    #[must_use]
    pub fn sheds(&self) -> bool {
        self.sheds
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::Usage;
    use super::*;

    fn used(percent: u64) -> Option<Reading> {
        Some(Reading { usage: Usage { used: percent, limit: 100 }, ours: 10 })
    }

    #[test]
    fn steps_are_taken_at_once() {
        let (mut pressure, now) = (Pressure::default(), crate::clock::now());
        let steps = [50, 80, 87, 88, 94, 120].map(|percent| pressure.on_reading(now, used(percent)));
        assert_eq!(steps, [Step::Calm, Step::Throttle, Step::Throttle, Step::Refuse, Step::Shed, Step::Shed]);
        assert_eq!(Pressure::default().on_reading(now, used(99)), Step::Shed);
    }

    #[test]
    fn and_left_when_memory_is_well_below_for_a_while() {
        let (mut pressure, now) = (Pressure::default(), crate::clock::now());
        pressure.on_reading(now, used(95));
        assert_eq!(pressure.on_reading(now + 2 * REST, used(90)), Step::Shed, "not far enough below");
        assert_eq!(pressure.on_reading(now + 2 * REST, used(70)), Step::Shed, "not for long enough");
        assert_eq!(pressure.on_reading(now + 3 * REST, used(93)), Step::Shed);
        assert_eq!(pressure.on_reading(now + 4 * REST, used(70)), Step::Shed, "it had come back meanwhile");
        assert_eq!(pressure.on_reading(now + 5 * REST, used(70)), Step::Calm);
    }

    #[test]
    fn clients_are_closed_only_while_memory_is_that_short() {
        let (mut pressure, now) = (Pressure::default(), crate::clock::now());
        let shed = [93, 95, 90, 94, 89].map(|percent| (pressure.on_reading(now, used(percent)), pressure.sheds()));
        let (lasts, closes) = ((Step::Shed, false), (Step::Shed, true));
        assert_eq!(shed, [(Step::Refuse, false), closes, lasts, closes, lasts]);
    }

    #[test]
    fn clients_are_not_closed_for_memory_that_others_use() {
        let (mut pressure, now) = (Pressure::default(), crate::clock::now());
        let others = used(99).map(|reading| Reading { ours: 9, ..reading });
        assert_eq!((pressure.on_reading(now, others), pressure.sheds()), (Step::Refuse, false));
    }

    #[test]
    fn without_a_limit_nothing_is_done() {
        let (mut pressure, now) = (Pressure::default(), crate::clock::now());
        assert_eq!(pressure.on_reading(now, None), Step::Calm);
        pressure.on_reading(now, used(100));
        pressure.on_reading(now, None);
        assert_eq!(pressure.on_reading(now + REST, None), Step::Calm);
    }
}
