//! How many cancels are carried out at a time: each costs a connection of its own, and a storm of them must not take the server (or a peer)
//! away from those who want to log in. There is a line for each pool and each peer; who finds it full waits, first come first served.
//!
//! Shared by all workers; touched only when somebody cancels. Not here: what is carried out (`cancel`, `peering`), or how long one waits.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::pool::registry::PoolId;

/// Most cancels that wait in one line; further ones are dropped.
pub const MAX_WAITING: usize = 1000;

/// Where cancels go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LineKey {
    /// To the server of a pool.
    Pool(PoolId),
    /// To the peer with this number.
    Peer(u16),
}

/// Cancels of one line, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LineNumbers {
    /// On their way.
    pub active: u32,
    /// Waiting for their turn.
    pub waiting: u32,
}

/// All lines of the process.
#[derive(Clone, Default)]
pub struct CancelLines(Arc<Mutex<HashMap<LineKey, Line>>>);

#[derive(Default)]
struct Line {
    active: u32,
    limit: u32,
    queue: VecDeque<oneshot::Sender<Turn>>,
}

/// The right to carry out a cancel; the next one's when dropped.
pub struct Turn(Option<(CancelLines, LineKey)>);

/// The line is as long as it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineFull;

impl CancelLines {
    /// Waits for a turn where `limit` cancels may be on their way (0: any number). Dropping the future gives the place up.
    pub async fn enter(&self, key: LineKey, limit: u32) -> Result<Turn, LineFull> {
        let waiting = {
            let mut lines = self.lock();
            let line = lines.entry(key).or_default();
            line.limit = if limit == 0 { u32::MAX } else { limit };
            // Those who gave up are found out when their turn comes, or here.
            line.queue.retain(|waiting| !waiting.is_closed());
            if line.active < line.limit {
                line.active += 1;
                return Ok(self.turn(key));
            }
            if line.queue.len() >= MAX_WAITING {
                return Err(LineFull);
            }
            let (sender, waiting) = oneshot::channel();
            line.queue.push_back(sender);
            waiting
        };
        waiting.await.map_err(|_| LineFull)
    }

    /// What a line counts now.
    #[must_use]
    pub fn numbers(&self, key: LineKey) -> LineNumbers {
        self.lock().get(&key).map_or_else(LineNumbers::default, |line| {
            let waiting = line.queue.iter().filter(|waiting| !waiting.is_closed()).count();
            LineNumbers { active: line.active, waiting: u32::try_from(waiting).unwrap_or(u32::MAX) }
        })
    }

    fn turn(&self, key: LineKey) -> Turn {
        Turn(Some((self.clone(), key)))
    }

    /// A turn is over: the next in line, who takes it over; `None` when nobody waits, and the turn is given back.
    fn next(&self, key: LineKey) -> Option<oneshot::Sender<Turn>> {
        let mut lines = self.lock();
        let line = lines.get_mut(&key)?;
        if line.active <= line.limit
            && let Some(next) = line.queue.pop_front()
        {
            return Some(next);
        }
        line.active -= 1;
        if line.active == 0 {
            lines.remove(&key);
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<LineKey, Line>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some((lines, key)) = self.0.take() else { return };
        while let Some(next) = lines.next(key) {
            match next.send(lines.turn(key)) {
                Ok(()) => return,
                // It gave up; the turn is still ours to pass on.
                Err(mut unused) => unused.0 = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    const KEY: LineKey = LineKey::Peer(1);

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    fn numbers(lines: &CancelLines) -> (u32, u32) {
        let LineNumbers { active, waiting } = lines.numbers(KEY);
        (active, waiting)
    }

    #[test]
    fn so_many_at_a_time_and_the_others_in_turn() {
        let lines = CancelLines::default();
        let first = poll(pin!(lines.enter(KEY, 1))).unwrap().ok().unwrap();
        let (mut second, mut third) = (Box::pin(lines.enter(KEY, 1)), Box::pin(lines.enter(KEY, 1)));
        assert!(poll(second.as_mut()).is_none() && poll(third.as_mut()).is_none());
        assert_eq!(numbers(&lines), (1, 2));
        drop(first);
        assert!(poll(third.as_mut()).is_none());
        let second = poll(second.as_mut()).unwrap().ok().unwrap();
        assert_eq!(numbers(&lines), (1, 1));
        drop(second);
        drop(poll(third.as_mut()).unwrap());
        assert_eq!(numbers(&lines), (0, 0));
        assert!(lines.lock().is_empty(), "nothing is kept of lines that nobody is in");
    }

    #[test]
    fn who_gives_up_leaves_the_line_even_with_the_turn_in_hand() {
        let lines = CancelLines::default();
        let first = poll(pin!(lines.enter(KEY, 1))).unwrap().ok().unwrap();
        let mut waiting: Vec<_> = (0..4).map(|_| Box::pin(lines.enter(KEY, 1))).collect();
        assert!(waiting.iter_mut().all(|place| poll(place.as_mut()).is_none()));
        drop(waiting.remove(1));
        drop(first);
        // The turn has been sent to the first of them, who leaves without having looked.
        drop(waiting.remove(0));
        assert_eq!(numbers(&lines), (1, 1));
        let last = poll(waiting.remove(0).as_mut()).unwrap();
        drop(waiting);
        drop(last);
        assert!(lines.lock().is_empty());
    }

    #[test]
    fn the_line_has_an_end() {
        let lines = CancelLines::default();
        let _first = poll(pin!(lines.enter(KEY, 1))).unwrap().ok().unwrap();
        let mut waiting: Vec<_> = (0..MAX_WAITING).map(|_| Box::pin(lines.enter(KEY, 1))).collect();
        assert!(waiting.iter_mut().all(|place| poll(place.as_mut()).is_none()));
        assert!(poll(pin!(lines.enter(KEY, 1))).unwrap().is_err());
        drop(waiting);
        let mut late = pin!(lines.enter(KEY, 1));
        assert!(poll(late.as_mut()).is_none(), "those who gave up take no room");
    }

    #[test]
    fn without_a_limit_nobody_waits() {
        let lines = CancelLines::default();
        let turns: Vec<_> = (0..100).map(|_| poll(pin!(lines.enter(KEY, 0))).unwrap().ok().unwrap()).collect();
        assert_eq!(numbers(&lines), (100, 0));
        drop(turns);
        assert_eq!(numbers(&lines), (0, 0));
    }
}
