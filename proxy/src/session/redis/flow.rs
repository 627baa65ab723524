//! How much of a lane may be under way. A server answers in order: whatever stands before a request of somebody else's is a wait. While one identity has
//! the lane to itself that is its own affair, and there is as much as pipelining can use. As soon as a second one uses it (`Meeting`), and there is more
//! to do than the server does at once, no more is under way than makes an answer take twice as long as it would alone.
//!
//! How long it would take alone is tried out: now and then one request goes by itself. Measured only while somebody stands in line, one answer at a time,
//! so that nobody else pays for it. Pure: the time is an argument.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::turns::{COMMAND, FULL_BYTES};
use crate::pool::id::IdentityId;

/// So long after the last request of another identity a lane is held to be used by several, in looks (`slow`): a second of work.
const MEETS_FOR: u32 = 100;

/// What may be under way before anything has been measured.
const FIRST: usize = 64 * 1024;

/// After so many measurements, it is tried out anew how long an answer takes alone.
const TRY_AFTER: u32 = 100;

/// It is tried so often before something that did not quite go by itself is good enough.
const TRIES: u32 = 20;

/// How many times as long as alone an answer may take on a lane: the line before it makes that twice as long.
const ENOUGH: f64 = 1.5;

/// So much beyond that is not worth being careful about.
const SLACK: Duration = Duration::from_micros(200);

/// Whether clients of several identities use the lanes of a group.
#[derive(Debug, Default)]
pub struct Meeting {
    last: Cell<IdentityId>,
    /// Counts the looks.
    now: Cell<u32>,
    until: Cell<u32>,
}

impl Meeting {
    /// A client of `identity` sends something.
    pub fn uses(&self, identity: IdentityId) {
        let last = self.last.get();
        if identity != last && identity != IdentityId::default() {
            self.last.set(identity);
            if last != IdentityId::default() {
                self.until.set(self.now.get().saturating_add(MEETS_FOR));
            }
        }
    }

    /// Whether several do.
    pub fn is_on(&self) -> bool {
        self.until.get() > self.now.get()
    }

    /// A look is over.
    pub fn on_look(&self) {
        self.now.set(self.now.get().saturating_add(1));
    }
}

/// What may be under way on a lane that several identities use.
#[derive(Debug)]
pub struct Flow {
    full: Cell<usize>,
    /// From here on an answer took too long.
    ceiling: Cell<usize>,
    /// What it was, and will be, while one request goes by itself.
    trial: Cell<Option<usize>>,
    /// How long an answer takes then.
    alone: Cell<Duration>,
    /// How many measurements there have been since.
    count: Cell<u32>,
    /// When the last request of those under way was sent, and how many replies are owed up to its own.
    mark: Cell<Option<(Instant, u64)>>,
}

impl Default for Flow {
    fn default() -> Self {
        Self {
            full: Cell::new(FIRST),
            ceiling: Cell::new(FULL_BYTES),
            trial: Cell::new(None),
            alone: Cell::new(Duration::ZERO),
            count: Cell::new(TRY_AFTER),
            mark: Cell::new(None),
        }
    }
}

impl Flow {
    /// From so many bytes on, or commands that count for as many, the lane is full.
    pub fn full(&self) -> usize {
        self.full.get()
    }

    /// Whether an answer is to be timed.
    pub fn wants_mark(&self) -> bool {
        self.mark.get().is_none()
    }

    /// Something was sent, and is answered when so many replies have come. `alone`: it is one client's.
    pub fn mark(&self, now: Instant, owed: u64, alone: bool) {
        if self.trial.get().is_some() && !alone && self.count.get() < TRIES {
            // What was sent before it says nothing about a request that goes by itself.
            self.count.set(self.count.get() + 1);
        } else if owed > 0 {
            self.mark.set(Some((now, owed)));
        }
    }

    /// So many replies have come.
    pub fn on_replies(&self, replies: u64, now: impl FnOnce() -> Instant) {
        let Some((since, owed)) = self.mark.get() else { return };
        if owed > replies {
            self.mark.set(Some((since, owed - replies)));
            return;
        }
        self.mark.set(None);
        self.measure(now().saturating_duration_since(since));
    }

    /// Nobody stands in line, or the connection is lost: there is nothing to be timed.
    pub fn forget(&self) {
        self.mark.set(None);
        // A request that goes by itself is a price for those in line alone.
        if let Some(before) = self.trial.take() {
            self.full.set(before);
            self.count.set(TRY_AFTER);
        }
    }

    /// An answer took so long.
    fn measure(&self, took: Duration) {
        if let Some(before) = self.trial.take() {
            self.alone.set(took);
            self.full.set(before);
            self.ceiling.set(FULL_BYTES);
            self.count.set(0);
            return;
        }
        let count = self.count.get().saturating_add(1);
        self.count.set(count);
        if count > TRY_AFTER {
            self.count.set(0);
            self.trial.set(Some(self.full.replace(1)));
            return;
        }
        let enough = self.alone.get().mul_f64(ENOUGH) + SLACK;
        let full = self.full.get();
        if took > enough {
            // At most by half, for what is measured was sent when more was under way.
            let share = (enough.as_secs_f64() / took.as_secs_f64()).max(0.5);
            self.ceiling.set(self.ceiling.get().min(full));
            self.full.set(((full as f64 * share) as usize).max(COMMAND));
        } else {
            let ceiling = self.ceiling.get();
            self.full.set((full + full / 4 + COMMAND / 4).min(ceiling - ceiling / 8).max(full));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    /// A server that takes `each` for a request, at the end of a line that takes `way` for a round trip: how much is under way in the end.
    fn settle(each: Duration, way: Duration) -> f64 {
        let flow = Flow::default();
        let start = clock::now();
        for _ in 0..1000 {
            let owed = (flow.full() / COMMAND).max(1) as u32;
            flow.mark(start, u64::from(owed), true);
            let took = way + each * owed;
            flow.on_replies(u64::from(owed), || start + took);
        }
        while flow.trial.get().is_some() {
            flow.mark(start, 1, true);
            flow.on_replies(1, || start + way + each);
        }
        (flow.full() / COMMAND).max(1) as f64
    }

    #[test]
    fn an_answer_takes_at_most_about_twice_as_long_as_alone() {
        for (each, way) in [(1, 50), (10, 100), (1000, 100), (100_000, 100), (2, 2000)] {
            let [each, way] = [each, way].map(Duration::from_micros);
            let under_way = settle(each, way);
            let (alone, beside) = (way + each, way + each.mul_f64(under_way));
            assert!(beside <= (alone * 2 + SLACK).mul_f64(1.3), "{each:?} {way:?}: {under_way} under way take {beside:?}");
            assert!(beside >= alone, "{each:?} {way:?}: the server is kept busy by {under_way}");
            assert!(under_way * each.as_secs_f64() >= (way.as_secs_f64() / 2.0).min(each.as_secs_f64()), "{under_way} are enough for it");
        }
    }

    #[test]
    fn several_use_a_lane_for_a_while_after_the_last_change() {
        let meeting = Meeting::default();
        (0..5).for_each(|_| meeting.uses(IdentityId(1)));
        meeting.uses(IdentityId::default());
        assert!(!meeting.is_on(), "one is not several, and the proxy itself is nobody");
        meeting.uses(IdentityId(2));
        assert!(meeting.is_on());
        (0..MEETS_FOR).for_each(|_| meeting.on_look());
        assert!(!meeting.is_on());
    }

    #[test]
    fn what_was_lost_is_not_measured() {
        let flow = Flow::default();
        flow.mark(clock::now(), 5, false);
        assert!(!flow.wants_mark());
        flow.forget();
        assert!(flow.wants_mark());
        // And a trial ends with nobody in line: nobody is held back for it.
        flow.mark(clock::now(), 1, true);
        flow.on_replies(1, clock::now);
        assert_eq!((flow.full(), flow.trial.get()), (1, Some(FIRST)));
        flow.forget();
        assert_eq!((flow.full(), flow.trial.get()), (FIRST, None));
    }
}
