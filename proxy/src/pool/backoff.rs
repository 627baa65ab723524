//! When the next connect may be tried after one failed. Doubling pauses with jitter; while the upstream fails, one attempt at a time.

use std::time::{Duration, Instant};

use super::random::Random;
use super::reason::Failure;

/// The shortest pause, whatever the settings say.
const SHORTEST: Duration = Duration::from_millis(10);

/// The connect history of one pool, as far as it matters for the next attempt.
#[derive(Debug, Clone, Default)]
pub(super) struct Backoff {
    failures: u32,
    last: Option<Failure>,
    retry_at: Option<Instant>,
}

impl Backoff {
    /// Failed attempts since the last success.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// How the last attempt failed; `None` after a success.
    pub(super) fn last(&self) -> Option<Failure> {
        self.last
    }

    /// When the next attempt may start, if that is not now.
    pub(super) fn retry_at(&self, now: Instant) -> Option<Instant> {
        self.retry_at.filter(|at| now < *at)
    }

    /// Whether the next attempt has to wait for one that fails or succeeds first.
    pub(super) fn one_at_a_time(&self) -> bool {
        self.failures > 0
    }

    /// Whether somebody who asks now would wait for nothing: the upstream refused us for good, and the next attempt is not due.
    pub(super) fn refuses(&self, now: Instant) -> bool {
        self.last == Some(Failure::Permanent) && self.retry_at(now).is_some()
    }

    /// A connect worked.
    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// A connect failed. Attempts that were under way together count as one: the pause grows only once per round.
    pub(super) fn failed(&mut self, now: Instant, failure: Failure, initial: Duration, most: Duration, random: &mut Random) {
        self.last = Some(failure);
        if self.retry_at(now).is_some() {
            return;
        }
        let doubled = initial.saturating_mul(1 << self.failures.min(20)).min(most.max(initial));
        self.failures = self.failures.saturating_add(1);
        self.retry_at = Some(now + random.share(doubled, 500, 1000).max(SHORTEST));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INITIAL: Duration = Duration::from_millis(100);
    const MOST: Duration = Duration::from_secs(15);

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut now = crate::clock::now();
        let (mut backoff, mut random) = (Backoff::default(), Random::new(1));
        let mut pause = INITIAL;
        for _ in 0..12 {
            backoff.failed(now, Failure::Transient, INITIAL, MOST, &mut random);
            let at = backoff.retry_at(now).expect("a pause");
            assert!(at - now <= pause && at - now >= pause / 2, "{:?} is not within {pause:?}", at - now);
            now = at;
            pause = (pause * 2).min(MOST);
        }
        assert_eq!(backoff.retry_at(now), None);
        backoff.succeeded();
        assert!(!backoff.one_at_a_time());
    }

    #[test]
    fn attempts_that_fail_together_count_once() {
        let now = crate::clock::now();
        let (mut backoff, mut random) = (Backoff::default(), Random::new(1));
        for _ in 0..4 {
            backoff.failed(now, Failure::Permanent, INITIAL, MOST, &mut random);
        }
        assert_eq!(backoff.failures(), 1);
        assert!(backoff.refuses(now));
        assert!(!backoff.refuses(now + INITIAL));
    }
}
