//! The queue between those who log and the one thread that writes. Bounded: past the bound a line is dropped and counted.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use super::targets::{Line, Opened};

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
    lines: VecDeque<Line>,
    /// Taken out and not yet written.
    in_hand: bool,
    /// Where to write from the next line on.
    opened: Option<Opened>,
}

impl Queue {
    /// A queue with a thread that empties it.
    pub(super) fn start(opened: Opened) -> Arc<Self> {
        let queue = Arc::new(Self::default());
        let writer = Arc::clone(&queue);
        let spawned = thread::Builder::new().name("log".to_owned()).spawn(move || writer.write_to(opened));
        if let Err(error) = spawned {
            eprintln!("cannot start the thread that writes the log: {error}");
        }
        queue
    }

    /// Writes there from now on; lines that wait already are written there, too.
    pub(super) fn redirect(&self, opened: Opened) {
        self.lock().opened = Some(opened);
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

    fn push(&self, level: Level, text: &[u8]) {
        let mut waiting = self.lock();
        if waiting.lines.len() >= BOUND {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.lines.push_back(Line { level, text: text.into() });
        drop(waiting);
        self.arrived.notify_one();
    }

    fn write_to(&self, mut opened: Opened) {
        loop {
            let (line, redirected) = self.next();
            if let Some(redirected) = redirected {
                opened = redirected;
            }
            opened.write(&line);
            self.lock().in_hand = false;
            self.written.notify_all();
        }
    }

    fn next(&self) -> (Line, Option<Opened>) {
        let mut waiting = self.lock();
        loop {
            if let Some(line) = waiting.lines.pop_front() {
                waiting.in_hand = true;
                return (line, waiting.opened.take());
            }
            waiting = self.arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the formatter writes one finished line to.
pub(super) struct Pen<'a>(&'a Queue, Level);

impl Write for Pen<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.push(self.1, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Gives the formatter a [`Pen`] for each event.
pub(super) struct Lines(pub(super) Arc<Queue>);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Pen<'a>;

    fn make_writer(&'a self) -> Pen<'a> {
        Pen(&self.0, Level::INFO)
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Pen<'a> {
        Pen(&self.0, *metadata.level())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_past_the_bound_are_dropped_and_counted() {
        let queue = Queue::default();
        for _ in 0..BOUND + 3 {
            Pen(&queue, Level::INFO).write_all(b"line\n").unwrap();
        }
        assert_eq!(queue.dropped(), 3);
        queue.flush(Duration::from_millis(1));
    }
}
