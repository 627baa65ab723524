//! The server connections of one worker, for whoever looks at them: those being opened, idle, in use or being cleaned, wherever they are held.
//!
//! A connection writes itself in when it is opened and out when it is gone. Not here: what the pool does with it (`pool`).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use sidepool_config::model::Upstream;
use sidepool_protocol::postgres::parameters::ParameterSet;

use super::cancellable::Cancellable;
use super::pins::Pins;
use crate::clock;
use crate::pool::fault::{ConnectFault, ConnectFaultKind};
use crate::pool::reason::CloseReason;
use crate::transport::ends::{End, Ends};
use crate::transport::stream::Stream;

/// Gives each client and each server connection of the process a number of its own.
#[derive(Debug, Clone, Default)]
pub struct Numbers(Arc<AtomicU64>);

impl Numbers {
    /// The next number; the first is 1.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Now, in seconds since the epoch.
#[must_use]
pub fn seconds_now() -> u32 {
    clock::wall().duration_since(UNIX_EPOCH).map_or(0, |since| u32::try_from(since.as_secs()).unwrap_or(u32::MAX))
}

/// What a connection is doing, beside serving a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It is being opened.
    New,
    /// It is open.
    Open,
    /// It is being cleaned, or asked whether it is alive.
    Tested,
}

/// A connection that a client keeps past its transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Why.
    pub pins: Pins,
    /// Since when, in seconds since the epoch.
    pub since: u32,
    /// The client's number.
    pub client: u64,
}

/// One server connection.
#[derive(Debug)]
pub struct Server {
    /// Its number.
    pub id: u64,
    /// The database, by the name that clients ask for.
    pub database: Arc<str>,
    /// The user it is logged in as.
    pub user: Arc<str>,
    /// When it was opened, in seconds since the epoch.
    pub connected: u32,
    /// What it is doing.
    pub stage: Cell<Stage>,
    /// Whether it is to be closed when nobody uses it any more.
    pub close_needed: Cell<bool>,
    /// How many prepared statements it knew when it was last given back.
    pub statements: Cell<u32>,
    /// Where it is.
    pub ends: RefCell<Ends>,
    /// The number of its socket; -1 before it has one.
    pub descriptor: Cell<i32>,
    /// Its TLS, as PgBouncer describes it; empty without.
    pub tls: RefCell<String>,
    /// For its process and what is being cancelled on it.
    pub cancel: RefCell<Option<Rc<Cancellable>>>,
    /// The client state it carries.
    pub applied: RefCell<Option<Rc<ParameterSet>>>,
    /// Why a client keeps it past its transactions, if one does.
    pub held: Cell<Option<Held>>,
    /// Whether its client is idle inside of a transaction.
    pub rests: Cell<bool>,
    /// Why it is being closed, once the pool has said so.
    pub reason: Cell<Option<CloseReason>>,
    /// Why its client ended and it with it, in PgBouncer's words.
    because: RefCell<Option<Box<str>>>,
    /// Where it was to lead, and why it was not opened, in the words of the server where it had any.
    failed: RefCell<Option<(String, Arc<str>)>>,
}

impl Server {
    /// The server's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        let cancel = self.cancel.borrow();
        cancel.as_ref().and_then(|cancel| cancel.key().first_chunk().copied()).map_or(0, u32::from_be_bytes)
    }

    fn log_opened(&self) {
        let (peer, from) = self.place();
        let tls = &*self.tls.borrow();
        if !tls.is_empty() {
            tracing::info!(name: "server_tls", server = self.id, database = &*self.database, user = &*self.user, peer, tls, "TLS with the server");
        }
        tracing::info!(name: "server_connected", server = self.id, database = &*self.database, user = &*self.user, peer, from, "new server connection");
    }

    fn log_closed(&self) {
        let age = u64::from(seconds_now().saturating_sub(self.connected));
        let (failed, because) = (self.failed.take(), self.because.take());
        let (peer, reason) = match (&failed, self.stage.get(), self.reason.get()) {
            (Some((peer, why)), ..) => (peer.clone(), &**why),
            (None, _, None | Some(CloseReason::Broken)) if because.is_some() => (self.place().0, because.as_deref().unwrap_or_default()),
            (None, Stage::New, _) => (self.place().0, "connect failed"),
            (None, _, Some(reason)) => (self.place().0, in_words(reason)),
            (None, _, None) => (self.place().0, "client disconnect while server was not ready"),
        };
        tracing::info!(name: "closing", server = self.id, database = &*self.database, user = &*self.user, peer, age, reason, "closing");
    }

    /// The server's address, and ours where it has one.
    fn place(&self) -> (String, String) {
        let ends = self.ends.borrow();
        let shown = |end: End, unix: &str| match end {
            End::Tcp(address) => address.to_string(),
            End::Unix => unix.to_owned(),
            End::Unknown => String::new(),
        };
        (shown(ends.theirs(), "unix:5432"), shown(ends.ours(), ""))
    }

    /// How many cancels of what runs on it are on their way.
    #[must_use]
    pub fn cancels(&self) -> u32 {
        self.cancel.borrow().as_ref().map_or(0, |cancel| cancel.in_flight())
    }
}

/// The connections of one worker.
#[derive(Debug, Default)]
pub struct Roll {
    numbers: Numbers,
    servers: RefCell<BTreeMap<u64, Rc<Server>>>,
    /// Whether connections that are opened and closed are logged, as PgBouncer does it.
    logs: Cell<(bool, bool)>,
}

impl Roll {
    /// No connections; they will be numbered by `numbers`.
    #[must_use]
    pub fn new(numbers: Numbers) -> Rc<Self> {
        Rc::new(Self { numbers, servers: RefCell::default(), logs: Cell::default() })
    }

    /// All connections, by their numbers.
    #[must_use]
    pub fn servers(&self) -> Vec<Rc<Server>> {
        self.servers.borrow().values().map(Rc::clone).collect()
    }

    /// Logs connections that are opened, and those that are closed, from now on.
    pub fn log(&self, opened: bool, closed: bool) {
        self.logs.set((opened, closed));
    }

    fn enter(self: &Rc<Self>, server: Server) -> Entry {
        let server = Rc::new(server);
        self.servers.borrow_mut().insert(server.id, Rc::clone(&server));
        Entry { roll: Rc::clone(self), server, moves: Cell::new(false) }
    }
}

/// Whose connections these are.
#[derive(Debug, Clone)]
pub struct Page {
    /// The worker's roll.
    pub roll: Rc<Roll>,
    /// The database, by the name that clients ask for.
    pub database: Arc<str>,
    /// The user on the server.
    pub user: Arc<str>,
}

impl Page {
    /// Writes in a connection that is being opened.
    #[must_use]
    pub fn enter(&self) -> Entry {
        self.entry(self.roll.numbers.next(), seconds_now(), Stage::New)
    }

    /// Writes in a connection that comes from another worker, under the number it has.
    #[must_use]
    pub fn enter_again(&self, born: Born) -> Entry {
        self.entry(born.id, born.connected, Stage::Open)
    }

    fn entry(&self, id: u64, connected: u32, stage: Stage) -> Entry {
        self.roll.enter(Server {
            id,
            database: Arc::clone(&self.database),
            user: Arc::clone(&self.user),
            connected,
            stage: Cell::new(stage),
            close_needed: Cell::new(false),
            statements: Cell::new(0),
            ends: RefCell::new(Ends::Unknown),
            descriptor: Cell::new(-1),
            tls: RefCell::default(),
            cancel: RefCell::new(None),
            applied: RefCell::new(None),
            held: Cell::new(None),
            rests: Cell::new(false),
            reason: Cell::new(None),
            because: RefCell::new(None),
            failed: RefCell::new(None),
        })
    }
}

/// Why a connection was not opened, in PgBouncer's words.
fn not_opened(kind: ConnectFaultKind) -> &'static str {
    match kind {
        ConnectFaultKind::Refused => "connect failed",
        ConnectFaultKind::Timeout => "connect timeout",
        ConnectFaultKind::Resolve => "server DNS lookup failed",
        ConnectFaultKind::Tls => "server refused SSL",
        ConnectFaultKind::Auth
        | ConnectFaultKind::TooMany
        | ConnectFaultKind::Unavailable
        | ConnectFaultKind::NoDatabase
        | ConnectFaultKind::Protocol
        | ConnectFaultKind::Other => "login failed",
    }
}

/// Why a connection is closed, in PgBouncer's words.
fn in_words(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::Idle => "server idle timeout",
        CloseReason::Lifetime => "server lifetime over",
        CloseReason::Shrunk => "too many servers in the pool",
        CloseReason::Broken => "unclean server",
        CloseReason::Evicted => "evicted",
        CloseReason::ServerClosed => "server conn crashed?",
        CloseReason::ResetFailed => "reset query failed",
        CloseReason::ProbeFailed => "test query failed",
        CloseReason::Stale => "database configuration changed",
        CloseReason::Asked => "database wanted alone",
        CloseReason::Paused => "pause mode",
        CloseReason::Drain => "shutting down",
    }
}

/// What a connection keeps on its way to another worker.
#[derive(Debug, Clone, Copy)]
pub struct Born {
    /// Its number.
    pub id: u64,
    /// When it was opened, in seconds since the epoch.
    pub connected: u32,
}

/// A connection's place on the roll; gone when dropped.
#[derive(Debug)]
pub struct Entry {
    roll: Rc<Roll>,
    server: Rc<Server>,
    /// It is not closed but goes to another worker.
    moves: Cell<bool>,
}

impl Entry {
    /// What is known of the connection.
    #[must_use]
    pub fn server(&self) -> &Rc<Server> {
        &self.server
    }

    /// The connection is open.
    pub fn open(&self, stream: &Stream, cancel: &Rc<Cancellable>) {
        cancel.set_number(self.server.id);
        *self.server.ends.borrow_mut() = Ends::of(stream);
        self.server.descriptor.set(stream.descriptor());
        *self.server.tls.borrow_mut() = stream.tls_description().unwrap_or_default();
        *self.server.cancel.borrow_mut() = Some(Rc::clone(cancel));
        if self.server.stage.replace(Stage::Open) == Stage::New && self.roll.logs.get().0 {
            self.server.log_opened();
        }
    }

    /// The connection could not be opened.
    pub fn failed(&self, upstream: &Upstream, fault: &ConnectFault) {
        let why = fault.said.clone().unwrap_or_else(|| not_opened(fault.kind).into());
        *self.server.failed.borrow_mut() = Some((upstream.to_string(), why));
    }

    /// Its client ends for this reason, and the connection with it.
    pub fn ends_because(&self, reason: &str) {
        *self.server.because.borrow_mut() = Some(reason.into());
    }

    /// What it keeps on its way to another worker.
    #[must_use]
    pub fn born(&self) -> Born {
        self.moves.set(true);
        Born { id: self.server.id, connected: self.server.connected }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.roll.servers.borrow_mut().remove(&self.server.id);
        if self.roll.logs.get().1 && !self.moves.get() {
            self.server.log_closed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_on_the_roll_as_long_as_they_live() {
        let roll = Roll::new(Numbers::default());
        let page = Page { roll: Rc::clone(&roll), database: "app".into(), user: "bob".into() };
        let (first, second) = (page.enter(), page.enter());
        let stages: Vec<_> = roll.servers().iter().map(|server| (server.id, server.stage.get())).collect();
        assert_eq!(stages, [(1, Stage::New), (2, Stage::New)]);
        let born = first.born();
        drop(first);
        let again = page.enter_again(born);
        assert_eq!((again.server().id, roll.servers().len()), (1, 2));
        second.server().stage.set(Stage::Tested);
        drop((again, second));
        assert!(roll.servers().is_empty());
    }
}
