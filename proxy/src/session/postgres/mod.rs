//! PostgreSQL sessions.

use std::rc::Rc;

use self::count::Present;
use self::login::Arrival;
use self::run::Session;
use crate::transport::stream::Stream;
use crate::worker::Worker;

pub mod cancel;
pub mod inbound;
pub mod login;
pub mod matching;
pub mod outbound;
pub mod pools;
pub mod prepared;
pub mod refusal;
pub mod relay;
pub mod route;
pub mod run;
pub mod side;
pub mod states;
pub mod verifiers;

mod authenticate;
mod count;
mod opening;
mod welcome;

/// Serves one client from its first byte to its last. The caller holds the client's permit for as long as this runs.
pub async fn serve(stream: Stream, worker: Rc<Worker>) {
    // Boxed, so that an idle session does not carry the size of a login.
    match Box::pin(login::login(stream, &worker)).await {
        Some(Arrival::Session(start)) => {
            let present = Present::new(&worker, &start);
            let end = Session::new(&worker, start).await;
            present.left(&worker, end);
        }
        Some(Arrival::Cancel(key, stream)) => {
            // Boxed for the same reason: it dials the server.
            Box::pin(cancel::deliver(&worker, key)).await;
            drop(stream);
        }
        None => {}
    }
}

#[cfg(test)]
mod rewrite_tests;
