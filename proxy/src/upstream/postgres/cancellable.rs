//! The cancel key of one server connection, and how many cancels are on their way to it.
//!
//! While one is, the connection must not serve anybody else, or the cancel would hit the wrong query. The server has delivered a cancel when it
//! closes the connection that carried it (PostgreSQL documentation, "Canceling Requests in Progress").

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::upstream::dial::Server;

/// What a cancel of one server connection needs, shared between the connection and whoever cancels.
#[derive(Debug)]
pub struct Cancellable {
    /// BackendKeyData: process id and secret, as the server sent them.
    key: Box<[u8]>,
    /// Where it is: another server of the same pool knows nothing of the key.
    server: Arc<Server>,
    /// The connection's number, by which it is known to whoever looks; 0: none.
    number: Cell<u64>,
    in_flight: Cell<u32>,
    /// A cancel was sent whose delivery is not certain: it may hit at any later time.
    doubtful: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// A cancel on its way; ends when dropped.
#[derive(Debug)]
pub struct Flight {
    of: std::rc::Rc<Cancellable>,
    delivered: bool,
}

impl Cancellable {
    /// The connection with this key.
    #[must_use]
    pub fn new(key: Box<[u8]>, server: Arc<Server>) -> Self {
        Self { key, server, number: Cell::new(0), in_flight: Cell::new(0), doubtful: Cell::new(false), waker: RefCell::default() }
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// Where the connection leads.
    #[must_use]
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// The connection's number; 0: it has none.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number.get()
    }

    /// Gives the connection its number.
    pub fn set_number(&self, number: u64) {
        self.number.set(number);
    }

    /// How many cancels are on their way.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    /// Announces a cancel. Without [`Flight::delivered`] it counts as doubtful.
    #[must_use]
    pub fn begin(self: std::rc::Rc<Self>) -> Flight {
        self.in_flight.set(self.in_flight.get() + 1);
        Flight { of: self, delivered: false }
    }

    /// Whether no cancel is on its way, and all there were have been delivered for certain.
    #[must_use]
    pub fn is_harmless(&self) -> bool {
        self.in_flight.get() == 0 && !self.doubtful.get()
    }

    /// Ready when no cancel is on its way; says whether all of them were delivered for certain.
    pub fn poll_quiet(&self, cx: &mut Context<'_>) -> Poll<bool> {
        if self.in_flight.get() == 0 {
            return Poll::Ready(!self.doubtful.get());
        }
        *self.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Flight {
    /// The connection that is cancelled.
    #[must_use]
    pub fn target(&self) -> &Cancellable {
        &self.of
    }

    /// The server took the cancel and closed the connection that carried it.
    pub fn delivered(mut self) {
        self.delivered = true;
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.of.in_flight.set(self.of.in_flight.get() - 1);
        if !self.delivered {
            // A later one that arrives does not make this one certain.
            self.of.doubtful.set(true);
        }
        if let Some(waker) = self.of.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}
