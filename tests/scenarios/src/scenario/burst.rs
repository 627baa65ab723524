//! Bursts of logins: everybody comes at once, each for one query, several times with quiet in between. What matters: nobody fails, and who is at work
//! already hardly notices.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::{Order, conclude};
use crate::crowd::{Crowd, Manners, visit};
use crate::report::Report;
use crate::scale::Scale;
use crate::stage::{Door, Peer, Stage};
use crate::tally::Tally;

/// How many come, and within which time.
pub(super) struct Burst {
    pub(super) count: usize,
    pub(super) within: Duration,
    /// Whether what is promised of logins without a handshake is looked at.
    pub(super) is_cheap: bool,
}

/// 3,000 within a second.
pub(super) const PLAIN: Burst = Burst { count: 3_000, within: Duration::from_secs(1), is_cheap: true };

/// 1,000 at once: each costs a handshake, too.
pub(super) const SECURE: Burst = Burst { count: 1_000, within: Duration::ZERO, is_cheap: false };

/// So many bursts make one run: of what they do to others, the median counts, for a machine has something else to do now and then.
const BURSTS: usize = 5;

/// The slowest of a hundred logins takes less.
const LOGIN: Duration = Duration::from_secs(2);

/// The slowest of a hundred requests of those at work takes less than so many times as long as without a burst …
const RISE: f64 = 2.0;

/// … or as this would. Where clients, pooler and server share two processors, a thread that wakes up waits for the slice of another (some milliseconds) now and
/// then, and how many of a hundred requests meet that is a matter of how busy the processors are, whoever makes them so.
const FLOOR: Duration = Duration::from_millis(2);

pub(super) async fn play<S: Stage>(stage: S, order: Order, burst: Burst) -> Report {
    let (door, witnesses) = (stage.door(), stage.witnesses().await);
    let mut at_work = Crowd::default();
    at_work.add_many(order.scale.clients(50), &door, Manners::every(Duration::from_millis(50)));
    // The first moments belong to the logins of those at work.
    tokio::time::sleep(order.scale.seconds(4)).await;
    let (mut tally, mut spans) = (Tally::default(), Vec::new());
    let bursts = if order.scale == Scale::Full { BURSTS } else { 1 };
    for number in 0..bursts {
        let quiet = Instant::now();
        tokio::time::sleep(order.scale.seconds(4)).await;
        let began = Instant::now();
        tally.merge(come(&door, order.scale.clients(burst.count), burst.within, number).await);
        spans.push((quiet, began, Instant::now()));
    }
    let at_work = at_work.end().await;
    let p99 = |from, to| at_work.percentile_within(0.99, from, to);
    let before = median(spans.iter().map(|(quiet, began, _)| p99(*quiet, *began)));
    let during = median(spans.iter().map(|(_, began, ended)| p99(*began, *ended)));
    let mut report = conclude(stage, order, witnesses, &tally)
        .await
        .figure("at_work_p99_before_ms", before.as_secs_f64() * 1e3)
        .figure("at_work_p99_during_ms", during.as_secs_f64() * 1e3)
        .figure("at_work_p99_rise", during.as_secs_f64() / before.as_secs_f64().max(1e-9))
        .figure("at_work_served", at_work.share());
    report.broken.extend(at_work.wrong().iter().cloned());
    if burst.is_cheap && order.scale == Scale::Full && order.peer == Peer::Sidepool {
        report.broken.extend(broken(&tally, before, during));
    }
    report
}

/// A burst, and what becomes of those who come.
async fn come<D: Door>(door: &D, count: usize, within: Duration, burst: usize) -> Tally {
    let began = Instant::now();
    let mut newcomers = JoinSet::new();
    for number in 0..count {
        let due = within.mul_f64(share(number, count));
        tokio::time::sleep_until((began + due).into()).await;
        let door = door.clone();
        newcomers.spawn(async move {
            let began = Instant::now();
            let mut tally = Tally::default();
            tally.add(began, &visit(&door, &format!("newcomer-{burst}-{number}")).await);
            tally
        });
    }
    let mut tally = Tally::default();
    while let Some(one) = newcomers.join_next().await {
        tally.merge(one.expect("clients do not panic"));
    }
    tally
}

/// What was promised and is not so.
fn broken(logins: &Tally, before: Duration, during: Duration) -> Vec<String> {
    let failed = logins.asked() - logins.served();
    let login = logins.percentile(0.99);
    let most = before.max(FLOOR).mul_f64(RISE);
    let promises = [
        (failed > 0, format!("{failed} of {} logins failed", logins.asked())),
        (login >= LOGIN, format!("the slowest of a hundred logins took {login:?}")),
        (during >= most, format!("the slowest of a hundred requests of those at work took {during:?} beside a burst, {before:?} without")),
    ];
    promises.into_iter().filter(|(is_broken, _)| *is_broken).map(|(_, words)| words).collect()
}

fn median(times: impl Iterator<Item = Duration>) -> Duration {
    let mut times: Vec<Duration> = times.collect();
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

#[expect(clippy::cast_precision_loss, reason = "a few thousand")]
fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_promised_of_a_burst_is_looked_at() {
        let ms = Duration::from_millis;
        let mut logins = Tally::default();
        logins.add(Instant::now(), &Ok(()));
        assert_eq!(broken(&logins, ms(3), ms(5)), Vec::<String>::new());
        assert_eq!(broken(&logins, ms(3), ms(6)).len(), 1, "twice as long");
        assert_eq!(broken(&logins, ms(1), ms(3)), Vec::<String>::new(), "so little is the scheduler's");
        assert_eq!(broken(&logins, ms(1), ms(4)).len(), 1);
        logins.add(Instant::now() - ms(2_500), &Ok(()));
        logins.add(Instant::now(), &Err(crate::tally::Failure::Closed));
        let words = broken(&logins, ms(1), ms(1));
        assert_eq!(words.len(), 1, "{words:?}");
        assert!(words[0].starts_with("1 of 3 logins failed"), "{words:?}");
        (0..200).for_each(|_| logins.add(Instant::now() - ms(2_500), &Ok(())));
        assert_eq!(broken(&logins, ms(1), ms(1)).len(), 2);
    }
}
