//! Counters of Redis, one for each witness, in pipelines: replies count up; what was never answered may have happened once, and not twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{PAUSE, Testimony};
use crate::redis::Session;

const DEPTH: u64 = 5;

/// What a counter may stand at.
struct Bounds {
    least: u64,
    most: u64,
}

/// Counts until it is over. `restarts` counts how often the server began anew, empty.
pub async fn count_until(port: u16, number: usize, restarts: Arc<AtomicU64>, over: Arc<AtomicBool>) -> Testimony {
    let mut seen = Testimony::default();
    let mut session = None;
    let mut bounds = Bounds { least: 0, most: 0 };
    // How many restarts there had been when the counter was asked that stood where we know.
    let mut known_restarts = restarts.load(Ordering::Relaxed);
    let key = format!("witness:{number}");
    let increment: &[&str] = &["INCR", &key];
    let pipeline = vec![increment; usize::try_from(DEPTH).expect("few")];
    while !over.load(Ordering::Relaxed) {
        if session.is_none() {
            session = Session::enter(port).await.ok();
        }
        if let Some(client) = &mut session {
            let restarts_before = restarts.load(Ordering::Relaxed);
            let outcome = client.ask(&pipeline).await;
            if restarts.load(Ordering::Relaxed) != known_restarts {
                // Where a counter stands that may have begun anew, nobody knows but that it is not beyond.
                bounds.least = 0;
            }
            match outcome {
                Ok(replies) => {
                    let counts: Vec<u64> = replies.iter().filter_map(|reply| reply.parse().ok()).collect();
                    seen.broken.extend(bounds.complaint(&counts, &replies));
                    seen.answered += 1;
                    known_restarts = restarts_before;
                    bounds = Bounds { least: counts.last().copied().unwrap_or(bounds.least), most: bounds.most + DEPTH };
                }
                // Each of them may have happened.
                Err(_) => bounds.most += DEPTH,
            }
            if !client.is_usable() {
                session = None;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    seen
}

impl Bounds {
    /// What was never answered may happen at any time, and once: so counts may have gaps, but never go back or beyond all that was asked.
    fn complaint(&self, counts: &[u64], replies: &[String]) -> Option<String> {
        let (first, last) = (*counts.first()?, *counts.last()?);
        let rises = counts.windows(2).all(|pair| pair[1] > pair[0]);
        if counts.len() == replies.len() && rises && first > self.least && last <= self.most + DEPTH {
            return None;
        }
        Some(format!("{replies:?} where the counter stood at {} to {}", self.least, self.most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubled_lost_and_foreign_replies_are_complaints() {
        let complains = |least, most, counts: &[u64]| {
            Bounds { least, most }.complaint(counts, &counts.iter().map(u64::to_string).collect::<Vec<_>>()).is_some()
        };
        assert!(!complains(10, 10, &[11, 12, 13, 14, 15]) && !complains(10, 12, &[13, 14, 15, 16, 17]));
        assert!(!complains(10, 12, &[11, 13, 14, 16, 17]), "what was not answered happened meanwhile");
        assert!(complains(10, 12, &[10, 11, 12, 13, 14]), "an increment that was confirmed is lost");
        assert!(complains(10, 12, &[14, 15, 16, 17, 18]), "one that was made twice, or somebody else's");
        assert!(complains(10, 10, &[11, 12, 13, 14, 16]) && complains(10, 10, &[12, 11, 13, 14, 15]), "a gap, and the wrong order");
    }
}
