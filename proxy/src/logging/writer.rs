//! The queue between those who log and the one thread that writes to standard error. Bounded: past the bound a line is dropped and counted.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// The most lines that wait.
const BOUND: usize = 4096;

/// The queue.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    written: Condvar,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    lines: VecDeque<Box<[u8]>>,
    /// Taken out and not yet written.
    in_hand: bool,
}

impl Queue {
    /// A queue with a thread that empties it.
    pub(super) fn start() -> Arc<Self> {
        let queue = Arc::new(Self::default());
        let writer = Arc::clone(&queue);
        let spawned = thread::Builder::new().name("log".to_owned()).spawn(move || writer.write_to(&mut io::stderr()));
        if let Err(error) = spawned {
            eprintln!("cannot start the thread that writes the log: {error}");
        }
        queue
    }

    /// How many lines were dropped.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until everything is written, but not for longer than `patience`.
    pub(super) fn flush(&self, patience: Duration) {
        let waiting = self.lock();
        let unwritten = |waiting: &mut Waiting| waiting.in_hand || !waiting.lines.is_empty();
        drop(self.written.wait_timeout_while(waiting, patience, unwritten));
    }

    fn push(&self, line: &[u8]) {
        let mut waiting = self.lock();
        if waiting.lines.len() >= BOUND {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.lines.push_back(line.into());
        drop(waiting);
        self.arrived.notify_one();
    }

    fn write_to(&self, target: &mut impl Write) {
        loop {
            let line = self.next();
            // Nobody is left to be told that the log cannot be written.
            let _ = target.write_all(&line);
            self.lock().in_hand = false;
            self.written.notify_all();
        }
    }

    fn next(&self) -> Box<[u8]> {
        let mut waiting = self.lock();
        loop {
            if let Some(line) = waiting.lines.pop_front() {
                waiting.in_hand = true;
                return line;
            }
            waiting = self.arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the formatter writes one finished line to.
pub(super) struct Line<'a>(&'a Queue);

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Gives the formatter a [`Line`] for each event.
pub(super) struct Lines(pub(super) Arc<Queue>);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_past_the_bound_are_dropped_and_counted() {
        let queue = Queue::default();
        for _ in 0..BOUND + 3 {
            Line(&queue).write_all(b"line\n").unwrap();
        }
        assert_eq!(queue.dropped(), 3);
        queue.flush(Duration::from_millis(1));
    }
}
