//! How far ahead a lane of commands that may take long is filled, whoever uses it: as far as the server gets in a quarter of a second. What has been sent
//! cannot be called back, and stands before whoever comes next; of commands that take long, as many as a lane of quick ones takes would be minutes.
//!
//! Begun with little and doubled as long as the server is quick, like the window of a TCP connection (RFC 5681, 3.1). What half fills a lane is always
//! measured, however few requests that are: one that was shortened to a single request widens again. Between several identities `flow` is stricter.
//! Pure: the time is an argument.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::turns::{COMMAND, FULL_BYTES};

/// What was sent last is answered within this.
const LONG: Duration = Duration::from_millis(250);

/// What may be under way before anything has been measured.
const FIRST: usize = 32 * COMMAND;

/// Of fewer requests there is nothing to learn, unless there is not room for many more.
const FEWEST: u64 = 4;

/// What may be under way on a lane of commands that may take long.
#[derive(Debug)]
pub struct Reach {
    full: Cell<usize>,
    mark: Cell<Option<Mark>>,
}

/// What is timed.
#[derive(Debug, Clone, Copy)]
struct Mark {
    since: Instant,
    /// How many replies are owed up to the last.
    owed: u64,
    /// What was under way then.
    load: usize,
}

impl Default for Reach {
    fn default() -> Self {
        Self { full: Cell::new(FIRST), mark: Cell::new(None) }
    }
}

impl Reach {
    /// From so many bytes on, or commands that count for as many, the lane is full.
    pub fn full(&self) -> usize {
        self.full.get()
    }

    /// Something was sent: `owed` replies are to come, for what counts for so many bytes.
    pub fn on_sent(&self, owed: u64, load: usize, now: impl FnOnce() -> Instant) {
        if self.mark.get().is_none() && (owed >= FEWEST || load >= self.full.get() / 2) {
            self.mark.set(Some(Mark { since: now(), owed, load }));
        }
    }

    /// So many replies have come.
    pub fn on_replies(&self, replies: u64, now: impl FnOnce() -> Instant) {
        let Some(mark) = self.mark.get() else { return };
        if mark.owed > replies {
            return self.mark.set(Some(Mark { owed: mark.owed - replies, ..mark }));
        }
        self.mark.set(None);
        let took = now().saturating_duration_since(mark.since).max(Duration::from_micros(1));
        // What the server would have done in the time that there is.
        let within = (mark.load as f64 * (LONG.as_secs_f64() / took.as_secs_f64())) as usize;
        let full = self.full.get();
        if took > LONG {
            self.full.set(within.clamp(COMMAND, full));
        } else if mark.load >= full / 2 {
            self.full.set(within.min(full * 2).clamp(full, FULL_BYTES));
        }
    }

    /// What is under way says nothing about how long it takes.
    pub fn let_be(&self) {
        self.mark.set(None);
    }

    /// The connection is lost, and with it what was timed. The next one may lead to another server.
    pub fn forget(&self) {
        self.let_be();
        self.full.set(FIRST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    /// Keeps the lane full for so many rounds of a server that takes `each` for a request; answers how long the last took.
    fn play(reach: &Reach, each: Duration, rounds: u32) -> Duration {
        play_of(COMMAND, reach, each, rounds)
    }

    /// The same with requests that count for so many bytes.
    fn play_of(bytes: usize, reach: &Reach, each: Duration, rounds: u32) -> Duration {
        let (start, way) = (clock::now(), Duration::from_micros(100));
        let mut took = Duration::ZERO;
        for _ in 0..rounds {
            let fit = (reach.full() / bytes).max(1);
            let owed = u64::try_from(fit).unwrap();
            took = way + each * u32::try_from(owed).unwrap();
            reach.on_sent(owed, fit * bytes, || start);
            reach.on_replies(owed - 1, || start);
            reach.on_replies(1, || start + took);
        }
        took
    }

    #[test]
    fn quick_commands_soon_fill_the_lane_and_slow_ones_never_stand_for_long() {
        let reach = Reach::default();
        play(&reach, Duration::from_micros(1), 10);
        assert_eq!(reach.full(), FULL_BYTES);
        for each in [50, 1_000, 5_000, 60_000].map(Duration::from_micros) {
            let reach = Reach::default();
            let took = play(&reach, each, 20);
            let most = Duration::from_millis(260).max(each.mul_f64(FEWEST as f64));
            assert!(took <= most, "{each:?}: what is under way takes {took:?}");
            assert!(took >= Duration::from_millis(120), "{each:?}: the server is kept busy: {took:?}");
        }
    }

    #[test]
    fn a_lane_that_was_quick_is_shortened_by_what_takes_long() {
        let reach = Reach::default();
        play(&reach, Duration::from_micros(1), 10);
        play(&reach, Duration::from_millis(5), 1);
        assert!(play(&reach, Duration::from_millis(5), 1) <= Duration::from_millis(260), "after one look");
        // And grows again, as far as it is used.
        play(&reach, Duration::from_micros(1), 10);
        assert_eq!(reach.full(), FULL_BYTES);
    }

    #[test]
    fn one_stall_does_not_keep_a_lane_narrow() {
        let (reach, start) = (Reach::default(), clock::now());
        play(&reach, Duration::from_micros(1), 10);
        reach.on_sent(FEWEST, 4 * COMMAND, || start);
        reach.on_replies(FEWEST, || start + Duration::from_secs(1));
        assert_eq!(reach.full(), COMMAND, "one at a time");
        play(&reach, Duration::from_micros(1), 20);
        assert_eq!(reach.full(), FULL_BYTES);
    }

    #[test]
    fn a_lane_that_few_large_requests_fill_is_measured_too() {
        for bytes in [3 * 1024, 7 * 1024, 100 * 1024] {
            let reach = Reach::default();
            play_of(bytes, &reach, Duration::from_micros(20), 20);
            assert_eq!(reach.full(), FULL_BYTES, "{bytes}");
            let took = play_of(bytes, &reach, Duration::from_millis(50), 20);
            assert!(took <= Duration::from_millis(260), "{bytes}: what is under way takes {took:?}");
        }
    }

    #[test]
    fn another_connection_begins_anew() {
        let reach = Reach::default();
        play(&reach, Duration::from_micros(1), 10);
        reach.forget();
        assert_eq!(reach.full(), FIRST);
    }

    #[test]
    fn little_teaches_nothing_and_what_was_lost_is_not_measured() {
        let reach = Reach::default();
        reach.on_sent(FEWEST - 1, 1, || unreachable!("not timed"));
        reach.on_sent(FEWEST, 4 * COMMAND, clock::now);
        reach.forget();
        reach.on_replies(FEWEST, || unreachable!("not timed"));
        let start = clock::now();
        reach.on_sent(FEWEST, 4 * COMMAND, || start);
        reach.on_replies(FEWEST, || start + Duration::from_micros(9));
        assert_eq!(reach.full(), FIRST, "what was not filled is not widened");
    }
}
