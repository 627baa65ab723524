//! What became of requests: served, told why not, or neither; how long it took, and when.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Why a request was not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// An error that says so: its SQLSTATE, or the first word of a Redis error.
    Told(String),
    /// The connection was refused, reset or closed without a word.
    Closed,
    /// No answer in the time that a client has patience for.
    Silent,
    /// An answer that is somebody else's, or out of order: never excusable.
    Wrong(String),
}

/// How many requests may be remembered with their time: an hour of the largest scenario. Later ones count in the sums alone.
const REMEMBERED: usize = 4_000_000;

/// A served or failed request.
#[derive(Debug, Clone, Copy)]
struct Event {
    began: Instant,
    ended: Instant,
    served: bool,
}

/// The sum of many requests.
#[derive(Debug, Default)]
pub struct Tally {
    events: Vec<Event>,
    told: BTreeMap<String, u64>,
    wrong: Vec<String>,
    served: u64,
    closed: u64,
    silent: u64,
}

impl Tally {
    /// Adds one request that began at `began` and has ended now.
    pub fn add(&mut self, began: Instant, outcome: &Result<(), Failure>) {
        if self.events.len() < REMEMBERED {
            self.events.push(Event { began, ended: Instant::now(), served: outcome.is_ok() });
        }
        match outcome {
            Ok(()) => self.served += 1,
            Err(Failure::Told(code)) => *self.told.entry(code.clone()).or_default() += 1,
            Err(Failure::Closed) => self.closed += 1,
            Err(Failure::Silent) => self.silent += 1,
            Err(Failure::Wrong(what)) => self.wrong.push(what.clone()),
        }
    }

    /// Adds another tally.
    pub fn merge(&mut self, other: Self) {
        self.events.extend(other.events);
        for (code, count) in other.told {
            *self.told.entry(code).or_default() += count;
        }
        self.wrong.extend(other.wrong);
        self.served += other.served;
        self.closed += other.closed;
        self.silent += other.silent;
    }

    /// Requests that were served.
    pub fn served(&self) -> u64 {
        self.served
    }

    /// Requests that were told why not, by code.
    pub fn told(&self) -> &BTreeMap<String, u64> {
        &self.told
    }

    /// Requests whose connection was closed without a word.
    pub fn closed(&self) -> u64 {
        self.closed
    }

    /// Requests that nobody answered.
    pub fn silent(&self) -> u64 {
        self.silent
    }

    /// What was answered wrongly.
    pub fn wrong(&self) -> &[String] {
        &self.wrong
    }

    /// All requests.
    pub fn asked(&self) -> u64 {
        self.served + self.told.values().sum::<u64>() + self.closed + self.silent + count(self.wrong.len())
    }

    /// The share of requests that were served.
    pub fn share(&self) -> f64 {
        ratio(self.served, self.asked())
    }

    /// How long the served ones took: this share of them took no longer.
    pub fn percentile(&self, share: f64) -> Duration {
        self.percentile_between(share, None)
    }

    /// The same for those that began within a span of time.
    pub fn percentile_within(&self, share: f64, from: Instant, to: Instant) -> Duration {
        self.percentile_between(share, Some((from, to)))
    }

    fn percentile_between(&self, share: f64, span: Option<(Instant, Instant)>) -> Duration {
        let inside = |event: &&Event| event.served && span.is_none_or(|(from, to)| event.began >= from && event.began < to);
        let mut times: Vec<Duration> = self.events.iter().filter(inside).map(|event| event.ended - event.began).collect();
        if times.is_empty() {
            return Duration::ZERO;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a share of a count")]
        let index = ((times.len() - 1) as f64 * share) as usize;
        *times.select_nth_unstable(index).1
    }

    /// How long it took after `cause_ended` until requests were served again, and went on being served: to the end of the last request that
    /// failed after it, or to the first that was served if none did. `None`: none was served.
    pub fn recovery(&self, cause_ended: Instant) -> Option<Duration> {
        let after = |event: &&Event| event.ended > cause_ended;
        let last_failure = self.events.iter().filter(after).filter(|event| !event.served).map(|event| event.ended).max();
        let from = last_failure.unwrap_or(cause_ended);
        let first = self.events.iter().filter(|event| event.served && event.ended > from).map(|event| event.ended).min()?;
        Some(first - cause_ended)
    }
}

/// One count over another; 1 when there is nothing to share.
#[expect(clippy::cast_precision_loss, reason = "counts of requests")]
pub fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 1.0 } else { part as f64 / whole as f64 }
}

/// A size as a count.
pub fn count(size: usize) -> u64 {
    u64::try_from(size).expect("at most 64 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(began: Instant, from: u64, to: u64, served: bool) -> Event {
        Event { began: began + Duration::from_millis(from), ended: began + Duration::from_millis(to), served }
    }

    #[test]
    fn recovery_ends_when_failures_have_ended() {
        let start = Instant::now();
        let mut tally = Tally { events: vec![event(start, 0, 10, true), event(start, 20, 60, false)], ..Tally::default() };
        assert_eq!(tally.recovery(start + Duration::from_millis(50)), None, "nothing was served again");
        tally.events.push(event(start, 55, 58, true));
        tally.events.push(event(start, 70, 80, true));
        tally.events.push(event(start, 80, 90, true));
        let recovery = tally.recovery(start + Duration::from_millis(50));
        assert_eq!(recovery, Some(Duration::from_millis(30)), "what was served before the last failure does not count");
    }

    #[test]
    fn every_outcome_counts_once() {
        let mut tally = Tally::default();
        let now = Instant::now();
        for outcome in [Ok(()), Err(Failure::Told("53300".into())), Err(Failure::Closed), Err(Failure::Silent)] {
            tally.add(now, &outcome);
        }
        tally.add(now, &Err(Failure::Wrong("two for one".into())));
        assert_eq!((tally.asked(), tally.served(), tally.closed(), tally.silent(), tally.wrong().len()), (5, 1, 1, 1, 1));
        assert!((tally.share() - 0.2).abs() < 1e-9);
    }
}
