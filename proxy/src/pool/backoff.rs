//! When the next connect may be tried after one failed. Doubling pauses with jitter; while the upstream fails, one attempt at a time.

use std::time::{Duration, Instant};

use super::random::Random;
use super::reason::Failure;

/// The shortest pause, whatever the settings say.
const SHORTEST: Duration = Duration::from_millis(10);

/// The longest pause when something is missing that may be made at any time.
const MISSING: Duration = Duration::from_secs(1);

/// The longest pause while somebody asks for a connection: an upstream that is back is found soon. (Unless the settings want longer ones.)
const ASKED: Duration = Duration::from_millis(600);

/// The connect history of one pool, as far as it matters for the next attempt.
#[derive(Debug, Clone, Default)]
pub(super) struct Backoff {
    failures: u32,
    last: Option<Failure>,
    retry_at: Option<Instant>,
    /// Connects work, and the next one comes later all the same.
    held: bool,
    /// Since when nothing has been heard of the upstream but failures.
    since: Option<Instant>,
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
        self.failures > 0 || self.held
    }

    /// The next attempt comes after a pause, although none has failed: what is known of the upstream stays as it is.
    pub(super) fn hold(&mut self, now: Instant, pause: Duration, random: &mut Random) {
        if self.retry_at(now).is_none() {
            self.held = true;
            self.retry_at = Some(now + random.share(pause, 500, 1000).max(SHORTEST));
        }
    }

    /// Whether somebody who asks now would wait for nothing: the upstream refused us for good, or has been away for longer than `patience`, and
    /// the next attempt is not due.
    pub(super) fn refuses(&self, now: Instant, patience: Option<Duration>) -> bool {
        self.is_hopeless(now, patience) && self.retry_at(now).is_some()
    }

    /// Whether those who wait are to be told that there will be nothing: after an attempt that failed.
    pub(super) fn is_hopeless(&self, now: Instant, patience: Option<Duration>) -> bool {
        match self.last {
            None | Some(Failure::Starting) => false,
            Some(Failure::Permanent | Failure::Missing) => true,
            Some(Failure::Transient | Failure::Full) => {
                patience.zip(self.since).is_some_and(|(patience, since)| now.saturating_duration_since(since) >= patience)
            }
        }
    }

    /// Somebody asks for a connection: a pause in which nothing was wanted is not waited for to its end. Where the server has said no, or has no room
    /// for more, it is, whoever asks.
    pub(super) fn hurry(&mut self, now: Instant, initial: Duration, random: &mut Random) {
        let longest = ASKED.max(initial);
        match self.last {
            Some(Failure::Transient | Failure::Starting) if self.retry_at.is_some_and(|at| at > now + longest) => {
                self.retry_at = Some(now + random.share(longest, 700, 1000).max(SHORTEST));
            }
            Some(Failure::Transient | Failure::Starting | Failure::Full | Failure::Permanent | Failure::Missing) | None => {}
        }
    }

    /// A connect worked.
    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// A connect worked, as others did whose connections did not last: a pause for them holds.
    pub(super) fn succeeded_again(&mut self) {
        let (held, retry_at) = (self.held, self.retry_at.filter(|_| self.held));
        *self = Self { held, retry_at, ..Self::default() };
    }

    /// A connect failed. Attempts that were under way together count as one: the pause grows only once per round.
    pub(super) fn failed(&mut self, now: Instant, failure: Failure, initial: Duration, most: Duration, random: &mut Random) {
        self.last = Some(failure);
        self.since = if failure == Failure::Starting { None } else { self.since.or(Some(now)) };
        if self.failures > 0 && self.retry_at(now).is_some() {
            return;
        }
        let most = if failure == Failure::Missing { most.min(MISSING) } else { most };
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
    fn a_pause_although_connects_work_says_nothing_of_the_upstream() {
        let now = crate::clock::now();
        let (mut backoff, mut random) = (Backoff::default(), Random::new(1));
        backoff.hold(now, INITIAL, &mut random);
        let at = backoff.retry_at(now).expect("a pause");
        assert!(at <= now + INITIAL && backoff.one_at_a_time());
        assert_eq!((backoff.failures(), backoff.last()), (0, None));
        assert!(!backoff.is_hopeless(now + MOST, Some(INITIAL)));
        backoff.hold(now, MOST, &mut random);
        assert_eq!(backoff.retry_at(now), Some(at), "it grows no longer");
        backoff.failed(now, Failure::Transient, MOST, MOST, &mut random);
        assert_eq!((backoff.failures(), backoff.last()), (1, Some(Failure::Transient)));
        assert!(backoff.retry_at(now) > Some(at), "a failure counts as ever");
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
        assert!(backoff.refuses(now, None));
        assert!(!backoff.refuses(now + INITIAL, None));
    }

    #[test]
    fn an_upstream_that_is_away_for_long_is_not_waited_for() {
        let (start, patience) = (crate::clock::now(), Some(Duration::from_secs(10)));
        let (mut backoff, mut random) = (Backoff::default(), Random::new(1));
        let fail = |backoff: &mut Backoff, now, failure, random: &mut Random| backoff.failed(now, failure, INITIAL, MOST, random);
        fail(&mut backoff, start, Failure::Transient, &mut random);
        assert!(!backoff.refuses(start, patience));
        let later = start + Duration::from_secs(10);
        fail(&mut backoff, later, Failure::Transient, &mut random);
        assert!(backoff.refuses(later, patience) && !backoff.refuses(later, None));
        // It starts up: there is hope again.
        fail(&mut backoff, later, Failure::Starting, &mut random);
        assert!(!backoff.refuses(later, patience));
    }

    #[test]
    fn while_somebody_asks_pauses_are_short_unless_the_server_has_said_no() {
        let now = crate::clock::now();
        for (failure, hurried) in
            [(Failure::Transient, true), (Failure::Starting, true), (Failure::Full, false), (Failure::Permanent, false)]
        {
            let (mut backoff, mut random) = (Backoff::default(), Random::new(1));
            let mut at = now;
            for _ in 0..8 {
                backoff.failed(at, failure, INITIAL, MOST, &mut random);
                at = backoff.retry_at(at).expect("a pause");
            }
            backoff.failed(at, failure, INITIAL, MOST, &mut random);
            assert!(backoff.retry_at(at).unwrap() > at + 2 * ASKED);
            backoff.hurry(at, INITIAL, &mut random);
            assert_eq!(backoff.retry_at(at).unwrap() <= at + ASKED, hurried, "{failure:?}");
            assert!(backoff.retry_at(at).unwrap() >= at + ASKED / 2, "each with a pause");
            // Asking again and again brings it no nearer.
            let due = backoff.retry_at(at);
            for _ in 0..100 {
                backoff.hurry(at, INITIAL, &mut random);
            }
            assert_eq!(backoff.retry_at(at), due);
        }
    }

    #[test]
    fn pauses_that_are_wanted_longer_are_no_shorter_when_somebody_asks() {
        let (now, initial) = (crate::clock::now(), Duration::from_secs(5));
        let (mut backoff, mut random) = (Backoff::default(), Random::new(1));
        backoff.failed(now, Failure::Transient, initial, MOST, &mut random);
        backoff.hurry(now, initial, &mut random);
        assert!(backoff.retry_at(now).unwrap() >= now + initial / 2);
    }

    #[test]
    fn what_is_missing_is_looked_for_again_soon() {
        let mut now = crate::clock::now();
        let (mut backoff, mut random) = (Backoff::default(), Random::new(1));
        for _ in 0..12 {
            backoff.failed(now, Failure::Missing, INITIAL, MOST, &mut random);
            assert!(backoff.refuses(now, None));
            now = backoff.retry_at(now).expect("a pause");
        }
        backoff.failed(now, Failure::Missing, INITIAL, MOST, &mut random);
        assert!(backoff.retry_at(now).unwrap() <= now + MISSING);
    }
}
