//! At what pace waiters get connections, and so how long one more would wait. Pure; what is measured is only the time in which somebody waits.
//!
//! Nothing is known, and nothing said, until enough were served lately: a pool that has just begun to be busy, or in which everything is stuck, has no
//! pace. One that was stuck and goes on has a new one: the time in between says nothing of those who come now.

use std::time::{Duration, Instant};

/// How much waiting is looked back on, at least; twice that at most.
const WINDOW: Duration = Duration::from_secs(5);

/// Fewer served than this are no pace.
const ENOUGH: u32 = 8;

/// Nor are those served longer ago than this.
const MEMORY: Duration = Duration::from_secs(30);

/// How many waiters were served while somebody waited, and for how long somebody did.
#[derive(Debug, Clone, Copy, Default)]
struct Stretch {
    served: u32,
    busy: Duration,
}

/// The pace of one pool.
#[derive(Debug, Clone, Default)]
pub struct Pace {
    now: Stretch,
    before: Stretch,
    /// Since when somebody waits, or up to when that is counted.
    since: Option<Instant>,
    last: Option<Instant>,
}

impl Pace {
    /// Whether somebody waits now.
    pub fn note(&mut self, now: Instant, somebody_waits: bool) {
        match self.since {
            None if somebody_waits => self.since = Some(now),
            Some(_) if !somebody_waits => {
                self.count(now);
                self.since = None;
            }
            None | Some(_) => {}
        }
    }

    /// A waiter got a connection.
    pub fn served(&mut self, now: Instant) {
        if self.was_stuck(now) {
            *self = Self { since: self.since.map(|_| now), last: Some(now), ..Self::default() };
            return;
        }
        self.count(now);
        self.last = Some(now);
        self.now.served = self.now.served.saturating_add(1);
        if self.now.busy >= WINDOW && self.now.served >= ENOUGH {
            self.before = std::mem::take(&mut self.now);
        }
    }

    /// How long it takes on average until a waiter gets a connection, if that is known.
    #[must_use]
    pub fn interval(&self, now: Instant) -> Option<Duration> {
        self.last.filter(|last| now.saturating_duration_since(*last) < MEMORY)?;
        let served = self.now.served.saturating_add(self.before.served);
        let uncounted = self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        (served >= ENOUGH).then(|| (self.now.busy + self.before.busy + uncounted) / served)
    }

    /// Whether the last one was served so long ago that something else than the pace was to blame.
    fn was_stuck(&self, now: Instant) -> bool {
        let Some(last) = self.last else { return false };
        // Nothing that follows is shorter.
        if now < last + WINDOW {
            return false;
        }
        // Of the time since then only what somebody waited through counts.
        let gap = now.saturating_duration_since(self.since.map_or(now, |since| since.max(last)));
        let usual = self.interval(last).map_or(MEMORY, |interval| interval.saturating_mul(ENOUGH).max(WINDOW));
        gap >= usual || now.saturating_duration_since(last) >= MEMORY
    }

    fn count(&mut self, now: Instant) {
        if let Some(since) = &mut self.since {
            self.now.busy += now.saturating_duration_since(*since);
            *since = now.max(*since);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(100);

    /// A pace of one each [`STEP`], for so many of them; and the time then.
    fn steady(served: u32) -> (Pace, Instant) {
        let (mut pace, mut now) = (Pace::default(), crate::clock::now());
        pace.note(now, true);
        for _ in 0..served {
            now += STEP;
            pace.served(now);
        }
        (pace, now)
    }

    #[test]
    fn a_steady_pace_is_known_when_enough_were_served() {
        let (pace, now) = steady(ENOUGH - 1);
        assert_eq!(pace.interval(now), None);
        let (pace, now) = steady(1_000);
        assert_eq!(pace.interval(now), Some(STEP));
    }

    #[test]
    fn time_in_which_nobody_waits_does_not_count() {
        let (mut pace, now) = steady(20);
        pace.note(now, false);
        let later = now + Duration::from_secs(20);
        pace.note(later, true);
        assert_eq!(pace.interval(later), Some(STEP));
        pace.served(later + STEP);
        assert_eq!(pace.interval(later + STEP), Some(STEP));
    }

    #[test]
    fn where_everything_is_stuck_it_slows_down_and_is_then_forgotten() {
        let (pace, now) = steady(50);
        assert_eq!(pace.interval(now + Duration::from_secs(5)), Some(2 * STEP));
        assert_eq!(pace.interval(now + MEMORY), None);
    }

    #[test]
    fn where_everything_was_stuck_the_pace_is_that_of_afterwards() {
        for stuck in [Duration::from_secs(8), MEMORY, 2 * MEMORY] {
            let (mut pace, mut now) = steady(1_000);
            now += stuck;
            for _ in 0..2 * ENOUGH {
                now += STEP;
                pace.served(now);
            }
            assert_eq!(pace.interval(now), Some(STEP), "after {stuck:?}");
        }
    }

    #[test]
    fn a_slow_pace_is_one_too() {
        let (mut pace, mut now) = (Pace::default(), crate::clock::now());
        pace.note(now, true);
        for _ in 0..2 * ENOUGH {
            now += WINDOW;
            pace.served(now);
        }
        assert_eq!(pace.interval(now), Some(WINDOW));
    }

    #[test]
    fn a_new_pace_replaces_the_old_one() {
        let (mut pace, mut now) = steady(1_000);
        for _ in 0..2 * ENOUGH {
            now += 10 * STEP;
            pace.served(now);
        }
        assert_eq!(pace.interval(now), Some(10 * STEP));
    }
}
