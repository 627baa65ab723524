//! `request_timeout` on a leased connection: a reply that does not come in that time is not waited for. Nobody can be lent a connection on which something
//! is owed: it is closed, and its client told as when it is lost, but for the reason.
//!
//! Not late is what is up to others (`BLPOP`, `WAIT`), what the client has not sent whole, and what it does not take.

use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use super::client::HIGH_WATER;
use super::relay::{Relay, What};
use super::run::Session;

/// How long the server has been silent.
#[derive(Default)]
pub(super) struct Silence {
    over: Option<Pin<Box<Sleep>>>,
}

impl Silence {
    /// It has said something.
    pub(super) fn is_broken(&mut self) {
        self.over = None;
    }

    /// Whether it has lasted for `limit`, if somebody waits.
    fn is_too_long(&mut self, somebody_waits: bool, limit: Duration, cx: &mut Context<'_>) -> bool {
        if !somebody_waits || limit.is_zero() {
            self.over = None;
            return false;
        }
        self.over.get_or_insert_with(|| Box::pin(sleep(limit))).as_mut().poll(cx).is_ready()
    }
}

impl Relay {
    /// Whether the next reply is late; looks again when it would be.
    pub(super) fn is_late(&mut self, session: &Session, cx: &mut Context<'_>) -> bool {
        let owes = self.owed.front().is_some_and(|owed| !owed.waits && !matches!(owed.what, What::Own(_)));
        let waits = owes && self.body.is_none() && session.client.backlog() <= HIGH_WATER;
        let limit = self.times.request_timeout();
        self.silence.is_too_long(waits, limit, cx)
    }
}
