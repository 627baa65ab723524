//! Pipelines of the extended protocol, each query with a word of its own: what comes back is a beginning of what was asked, in its order.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use sidepool_tests::postgres::frame;

use super::{Testimony, Visitor};
use crate::postgres::Door;

const DEPTH: u64 = 5;

/// Asks until it is over.
pub async fn echo_until(door: Door, number: usize, over: Arc<AtomicBool>) -> Testimony {
    let mut seen = Testimony::default();
    let mut visitor = Visitor::new(door, over);
    while let Some((client, turn)) = visitor.turn().await {
        let words: Vec<String> = (0..DEPTH).map(|index| format!("echo-{number}-{turn}-{index}")).collect();
        let mut rows = Vec::new();
        let outcome = client.converse(&pipeline(&words), &mut rows).await;
        if !words.starts_with(&rows) || (outcome.is_ok() && rows.len() != words.len()) {
            seen.broken.push(format!("{rows:?} for {words:?}"));
        }
        seen.answered += u64::from(outcome.is_ok());
    }
    seen
}

fn pipeline(words: &[String]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in words {
        bytes.extend(frame::parse("", "SELECT $1::text"));
        bytes.extend(frame::bind("", "", &[word]));
        bytes.extend(frame::execute("", 0));
    }
    bytes.extend(frame::sync());
    bytes
}
