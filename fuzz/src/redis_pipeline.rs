//! Bytes as a history of one shared connection: requests of three clients, writes of any length, replies, losses. Each client is told exactly as
//! often as it asked, and no write reaches a server twice.

use std::collections::BTreeSet;

use sidepool_protocol::redis::encode;
use sidepool_protocol::redis::request::{Arguments, RequestScanner, Scanned};
use sidepool_protocol::redis::tracker::{Pipeline, Work};

#[derive(Default)]
struct History {
    pipeline: Pipeline<u8>,
    wire: Vec<u8>,
    number: u64,
    executed: BTreeSet<u64>,
    asked: [u64; 3],
    paid: [u64; 3],
}

/// Runs the target.
pub fn run(data: &[u8]) {
    let mut history = History::default();
    for step in data.chunks_exact(2) {
        history.step(step[0], step[1]);
    }
    history.pipeline.fail_all("UPSTREAM down");
    history.take_own();
    assert!(history.pipeline.is_empty());
    assert_eq!(history.asked, history.paid);
}

impl History {
    fn step(&mut self, what: u8, how: u8) {
        let owner = how % 3;
        match what % 7 {
            0 => self.ask(owner, Work::Reads, &["GET"]),
            1 => self.ask(owner, Work::Writes, &["SET"]),
            2 => self.ask(owner, Work::Transaction, &["MULTI", "SET", "EXEC"]),
            3 => {
                self.pipeline.push_own(&owner, b"+OK\r\n", how & 1 == 1);
                self.asked[usize::from(owner)] += 1;
            }
            4 => {
                let count = usize::from(how).min(self.pipeline.unsent().len());
                self.wire.extend_from_slice(&self.pipeline.unsent()[..count]);
                self.pipeline.on_sent(count);
            }
            5 => {
                for _ in 0..self.serve() {
                    self.take_own();
                    let owner = self.pipeline.next().expect("a reply has an owner").owner;
                    self.paid[usize::from(owner)] += 1;
                    self.pipeline.on_replies(1);
                }
            }
            _ => {
                self.serve();
                self.wire.clear();
                self.pipeline.on_loss("UPSTREAM lost");
            }
        }
        self.take_own();
    }

    fn ask(&mut self, owner: u8, work: Work, words: &[&str]) {
        let mut bytes = Vec::new();
        for word in words {
            self.number += 1;
            encode::command(&mut bytes, &[word.as_bytes(), self.number.to_string().as_bytes()]);
        }
        self.pipeline.push(&owner, work, words.len() as u32, bytes.len(), false);
        self.pipeline.extend(&bytes);
        self.asked[usize::from(owner)] += words.len() as u64;
    }

    fn take_own(&mut self) {
        while let Some(own) = self.pipeline.take_own() {
            self.paid[usize::from(own.owner)] += u64::from(own.replies);
        }
    }

    /// The server executes what it has whole; says how many requests that were. Inside a transaction it waits for `EXEC`.
    fn serve(&mut self) -> u32 {
        let (mut at, mut served, mut queued) = (0, 0, None::<Vec<u64>>);
        while let Ok(Scanned::Request(request)) = RequestScanner::default().scan(&self.wire[at..], false) {
            let words: Vec<&[u8]> = Arguments::new(&self.wire[at..at + request.length]).collect();
            let number: u64 = String::from_utf8_lossy(words[1]).parse().expect("our own number");
            match (words[0], &mut queued) {
                (b"MULTI", _) => queued = Some(Vec::new()),
                (b"EXEC", _) => queued.take().into_iter().flatten().for_each(|number| assert!(self.executed.insert(number), "twice")),
                (b"SET", Some(queue)) => queue.push(number),
                (b"SET", None) => assert!(self.executed.insert(number), "{number} was executed twice"),
                (_read, _) => {}
            }
            at += request.length;
            served += 1;
            if queued.is_none() {
                self.wire.drain(..at);
                at = 0;
            }
        }
        // A transaction that is not whole has been answered with QUEUED; here it simply has not been answered yet.
        let unfinished = queued.map_or(0, |queue| queue.len() as u32 + 1);
        served - unfinished
    }
}
