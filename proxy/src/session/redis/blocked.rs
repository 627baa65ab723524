//! What a leased connection owes that only others can give (`BLPOP`, `WAIT`): a client that leaves is not waited for then, or the server would keep the
//! connection for it for as long as nobody gives anything, and give what comes to nobody.
//!
//! Whether it has left is otherwise seen by reading on. A client that has said more behind the request than is kept of it is looked at now and then; one
//! that has said more than the system keeps, too, hides its end behind that.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use sidepool_protocol::redis::command::Handling;
use tokio::time::{Sleep, sleep};

use super::client::Client;
use super::requests::has_block;
use crate::transport::stream::Stream;

/// How often a client is looked at of which nothing more is read.
const LOOK: Duration = Duration::from_secs(1);

/// Whether it is up to others when the server answers `request`, of which at least the beginning is there.
pub(super) fn blocks(handling: Option<Handling>, request: &[u8]) -> bool {
    match handling {
        Some(Handling::Block | Handling::Wait) => true,
        Some(Handling::ShareUnlessBlock) => has_block(request),
        Some(_) | None => false,
    }
}

/// How many such requests have no answer.
#[derive(Default)]
pub(super) struct Blocked {
    requests: u32,
    /// The next look at a client of which nothing is read.
    look: Option<Pin<Box<Sleep>>>,
}

impl Blocked {
    /// One more was sent.
    pub(super) fn begins(&mut self) {
        self.requests += 1;
    }

    /// One was answered.
    pub(super) fn ends(&mut self) {
        self.requests -= 1;
    }

    /// Whether there is any.
    pub(super) fn is_any(&self) -> bool {
        self.requests > 0
    }

    /// Whether `client`, of which nothing is read, has left meanwhile; looks again later.
    pub(super) fn has_left(&mut self, client: &Client, cx: &mut Context<'_>) -> bool {
        if !self.is_any() {
            self.look = None;
            return false;
        }
        loop {
            let look = self.look.get_or_insert_with(|| Box::pin(sleep(LOOK)));
            if look.as_mut().poll(cx) == Poll::Pending {
                return false;
            }
            self.look = None;
            if client.with_stream(Stream::has_hung_up) == Some(true) {
                return true;
            }
        }
    }
}
