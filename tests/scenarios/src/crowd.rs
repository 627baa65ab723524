//! Many clients that ask, each at its own pace, until they are told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::stage::Door;
use crate::tally::{Failure, Tally};

/// Before a client that was disappointed tries again.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// How a client behaves.
#[derive(Debug, Clone, Copy)]
pub struct Manners {
    /// Between two requests.
    pub pause: Duration,
    /// After so many requests it leaves and comes again.
    pub visit: Option<u32>,
}

impl Manners {
    /// A client that stays, with this long between requests.
    pub fn every(pause: Duration) -> Self {
        Self { pause, visit: None }
    }
}

/// Clients at work.
#[derive(Default)]
pub struct Crowd {
    over: Arc<AtomicBool>,
    tasks: JoinSet<Tally>,
    served: Arc<AtomicU64>,
}

impl Crowd {
    /// Sends in one more client.
    pub fn add<D: Door>(&mut self, door: D, manners: Manners) {
        self.tasks.spawn(ask_until(door, manners, Arc::clone(&self.over), Arc::clone(&self.served)));
    }

    /// Sends in so many.
    pub fn add_many<D: Door>(&mut self, count: usize, door: &D, manners: Manners) {
        for _ in 0..count {
            self.add(door.clone(), manners);
        }
    }

    /// How many requests were served so far.
    fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Waits until so many more requests were served, or this long.
    pub async fn is_served(&self, more: usize, longest: Duration) {
        let enough = self.served() + u64::try_from(more).unwrap_or(u64::MAX);
        let begun = Instant::now();
        while begun.elapsed() < longest && self.served() < enough {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Lets all finish what they have begun and gives what became of their requests.
    pub async fn end(mut self) -> Tally {
        self.over.store(true, Ordering::Relaxed);
        let mut sum = Tally::default();
        while let Some(tally) = self.tasks.join_next().await {
            sum.merge(tally.expect("clients do not panic"));
        }
        sum
    }
}

/// One visit: comes in, asks once, leaves.
pub async fn visit<D: Door>(door: &D, token: &str) -> Result<(), Failure> {
    let mut session = door.enter().await?;
    D::ask(&mut session, token).await
}

async fn ask_until<D: Door>(door: D, manners: Manners, over: Arc<AtomicBool>, served: Arc<AtomicU64>) -> Tally {
    static CLIENT: AtomicU64 = AtomicU64::new(0);
    let client = CLIENT.fetch_add(1, Ordering::Relaxed);
    let mut tally = Tally::default();
    let mut session = None;
    let (mut round, mut of_visit) = (0_u64, 0);
    // Nobody marches in step.
    tokio::time::sleep(manners.pause.mul_f64(fraction(client))).await;
    while !over.load(Ordering::Relaxed) {
        round += 1;
        let began = Instant::now();
        let outcome = ask(&door, &mut session, &format!("{client}-{round}")).await;
        tally.add(began, &outcome);
        of_visit += 1;
        match outcome {
            Ok(()) => {
                served.fetch_add(1, Ordering::Relaxed);
                if manners.visit.is_some_and(|most| of_visit >= most) {
                    (session, of_visit) = (None, 0);
                }
                tokio::time::sleep(manners.pause).await;
            }
            Err(_) => tokio::time::sleep(manners.pause.max(AFTER_FAILURE)).await,
        }
    }
    tally
}

/// One request, by a client that comes in first if it is not in.
async fn ask<D: Door>(door: &D, place: &mut Option<D::Session>, token: &str) -> Result<(), Failure> {
    let mut session = match place.take() {
        Some(session) => session,
        None => door.enter().await?,
    };
    let outcome = D::ask(&mut session, token).await;
    if D::is_usable(&session) {
        *place = Some(session);
    }
    outcome
}

/// Between 0 and 1, spread evenly over consecutive numbers.
#[expect(clippy::cast_precision_loss, reason = "below 100")]
fn fraction(number: u64) -> f64 {
    (number * 61 % 100) as f64 / 100.0
}
