//! What a server has printed: collected by a thread, searched and awaited by tests.

use std::io::{BufRead as _, BufReader, Read};
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use crate::wait;

/// The lines a process has printed so far.
#[derive(Clone)]
pub struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    grown: watch::Receiver<usize>,
}

impl Log {
    /// Collects from `source` until its end.
    pub fn collect(source: impl Read + Send + 'static) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (announce, grown) = watch::channel(0);
        let collected = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in BufReader::new(source).split(b'\n').map_while(Result::ok) {
                let mut collected = collected.lock().expect("no reader panics with the lock");
                collected.push(String::from_utf8_lossy(&line).into_owned());
                announce.send_replace(collected.len());
            }
        });
        Self { lines, grown }
    }

    /// Every line so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("the collector does not panic").clone()
    }

    /// Whether the process has closed its end: nothing more will come.
    pub fn has_ended(&self) -> bool {
        self.grown.has_changed().is_err()
    }

    /// The number of lines so far: a place to start waiting from.
    pub fn len(&self) -> usize {
        *self.grown.borrow()
    }

    /// Whether nothing was printed yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first line that contains `text`, awaited if it is not there yet.
    pub async fn line_with(&self, text: &str) -> String {
        self.line_with_after(0, text).await
    }

    /// The first line from number `from` on that contains `text`.
    pub async fn line_with_after(&self, from: usize, text: &str) -> String {
        let mut grown = self.grown.clone();
        let search = async {
            loop {
                grown.borrow_and_update();
                if let Some(line) = self.lines().into_iter().skip(from).find(|line| line.contains(text)) {
                    return line;
                }
                if grown.changed().await.is_err() {
                    panic!("the process ended without printing {text:?}:\n{}", self.tail(40));
                }
            }
        };
        wait::soon(&format!("a log line with {text:?}"), search).await
    }

    /// The last `count` lines in one text.
    pub fn tail(&self, count: usize) -> String {
        let lines = self.lines();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }
}
