//! A storm of the same line tells no more than a few of them and their number: past the bound a line is left out and counted.
//!
//! "The same" is the same place in the code. Lines below INFO are not limited: who asks for them wants them all.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::Context;

use crate::clock;

/// How many of the same line are written in one [`WINDOW`].
const MOST: u32 = 50;

const WINDOW: Duration = Duration::from_secs(1);

/// Counts lines by the place that they come from. Bounded by the number of such places in the program.
#[derive(Default)]
pub(super) struct Limiter {
    places: Mutex<HashMap<Identifier, Place>>,
    dropped: AtomicU64,
    /// Told when the first line of a place is left out.
    begun: Notify,
}

struct Place {
    metadata: &'static Metadata<'static>,
    window: Instant,
    written: u32,
    suppressed: u64,
}

impl Limiter {
    /// Whether one more line from there may be written.
    fn allow(&self, metadata: &'static Metadata<'static>, now: Instant) -> bool {
        let mut places = self.lock();
        let place = places.entry(metadata.callsite()).or_insert(Place { metadata, window: now, written: 0, suppressed: 0 });
        if now.saturating_duration_since(place.window) >= WINDOW {
            place.window = now;
            place.written = 0;
        }
        if place.written < MOST {
            place.written += 1;
            return true;
        }
        place.suppressed += 1;
        let is_first = place.suppressed == 1;
        drop(places);
        self.dropped.fetch_add(1, Ordering::Relaxed);
        if is_first {
            self.begun.notify_one();
        }
        false
    }

    /// Waits until [`take_suppressed`](Self::take_suppressed) has something to tell, or may have.
    pub(super) async fn suppressed(&self) {
        self.begun.notified().await;
    }

    /// Which lines were left out since the last time, by file and line of the code, and how often.
    pub(super) fn take_suppressed(&self) -> Vec<(String, u64)> {
        let mut places = self.lock();
        let suppressed = places.values_mut().filter(|place| place.suppressed > 0);
        suppressed.map(|place| (location(place.metadata), std::mem::take(&mut place.suppressed))).collect()
    }

    /// How many lines were left out in all.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Identifier, Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn location(metadata: &Metadata<'_>) -> String {
    format!("{}:{}", metadata.target(), metadata.line().unwrap_or(0))
}

/// The limiter as a part of the log pipeline.
pub(super) struct Layer(pub(super) Arc<Limiter>);

impl<S: Subscriber> tracing_subscriber::Layer<S> for Layer {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        *metadata.level() > Level::INFO || self.0.allow(metadata, clock::now())
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context as TaskContext, Waker};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn a_storm_is_thinned_out_and_its_size_is_told() {
        let limiter = Arc::new(Limiter::default());
        let subscriber = tracing_subscriber::registry().with(Layer(Arc::clone(&limiter)));
        tracing::subscriber::with_default(subscriber, || {
            for _ in 0..MOST + 7 {
                tracing::warn!("the same thing again");
            }
            tracing::warn!("something else");
        });
        let mut told = Box::pin(limiter.suppressed());
        assert!(told.as_mut().poll(&mut TaskContext::from_waker(Waker::noop())).is_ready());
        let suppressed = limiter.take_suppressed();
        assert_eq!(suppressed.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [7]);
        assert!(limiter.take_suppressed().is_empty(), "told once");
        assert_eq!(limiter.dropped(), 7);
    }
}
