//! PostgreSQL sessions.

use std::rc::Rc;

use crate::transport::stream::Stream;
use crate::worker::Worker;

pub mod cancel;
pub mod inbound;
pub mod matching;
pub mod outbound;
pub mod prepared;
pub mod refusal;
pub mod relay;
pub mod run;
pub mod side;
pub mod states;

/// Serves one client from its first byte to its last. The caller holds the client's permit for as long as this runs.
pub async fn serve(stream: Stream, worker: Rc<Worker>) {
    let _ = (stream, worker);
}

#[cfg(test)]
mod rewrite_tests;
