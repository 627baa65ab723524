//! Redis sessions. `run` reads requests and decides; most go down a `lane` that many clients share, some take a connection of their own
//! (`leased`), subscriptions go to the `hub`, and what is only the client's own state is answered here (`login`, `virtual_state`).

use std::rc::Rc;
use std::sync::Arc;

use crate::transport::stream::Stream;
use crate::worker::Worker;

mod admission;
mod beat;
mod blocked;
pub mod bound;
pub mod client;
pub mod client_list;
pub mod count;
pub mod end;
pub mod flow;
pub mod gate;
pub mod group;
mod habits;
pub mod hub;
mod hub_handover;
mod hub_heir;
mod hub_line;
mod identity;
mod invalidations;
pub mod lane;
mod lane_line;
mod lane_patience;
mod lane_replies;
mod leased;
mod leased_times;
mod login;
mod lost;
mod others;
mod output;
mod passed;
pub mod pause;
mod pubsub;
pub mod reach;
mod redirect;
pub mod redo;
pub mod refusal;
mod relay;
mod relay_late;
mod relay_replies;
mod relay_requests;
mod relay_transaction;
mod requests;
mod run;
mod secure;
pub mod server;
mod shares;
pub mod shown;
pub mod side;
pub mod slow;
pub mod slow_log;
mod steps;
mod throttle;
pub mod topics;
mod traced;
pub mod turns;
mod unknown;
pub mod verdicts;
mod virtual_state;

/// Serves one client of the configured server `name` from its first byte to its last. The caller holds the client's permit for as long as this runs.
pub fn serve(stream: Stream, name: Arc<str>, worker: Rc<Worker>) -> impl Future<Output = ()> {
    let server = worker.redis.server(&name);
    let mut session = server.map(|server| run::Session::new(stream, server, worker));
    // Borrowed, not moved: an `async` block keeps what it moves a second time, for each of thousands of idle clients.
    async move {
        if let Some(session) = &mut session {
            session.run().await;
        }
    }
}

#[cfg(test)]
mod simulation;
