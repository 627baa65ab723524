//! A client of the admin console, and the console's clients of one worker.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::session::postgres::account::Member;
use crate::session::postgres::cancel::ConsoleTicket;
use crate::transport::ends::Ends;

/// The name under which the console is a database.
pub const CONSOLE_DATABASE: &str = "pgbouncer";

/// The version of PgBouncer whose console this is: tools take it apart to know which columns there are.
pub const PGBOUNCER_VERSION: &str = "1.25.2";

/// What a client is told of its session.
pub const PARAMETERS: [(&str, &str); 7] = [
    ("server_version", "1.25.2/bouncer"),
    ("client_encoding", "UTF8"),
    ("server_encoding", "UTF8"),
    ("DateStyle", "ISO"),
    ("TimeZone", "GMT"),
    ("standard_conforming_strings", "on"),
    ("is_superuser", "on"),
];

/// What a client may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rank {
    /// Everything.
    Admin,
    /// Look.
    Stats,
}

/// A client that has logged in to the console.
pub struct Guest {
    /// A number that no other client or server connection of this process has.
    pub id: u64,
    /// As whom.
    pub user: Box<str>,
    /// What it may do.
    pub rank: Rank,
    /// Where it is.
    pub ends: Ends,
    /// When it connected, in seconds since the epoch.
    pub connected: u32,
    /// Its TLS, as PgBouncer describes it; empty without.
    pub tls: Box<str>,
    /// What it calls itself.
    pub application_name: Box<str>,
    /// Its cancel key.
    pub ticket: ConsoleTicket,
    /// Its place among the clients of the console and of its user.
    pub member: Member,
}

/// What others see of a guest.
pub struct Seen {
    /// Its number.
    pub id: u64,
    /// As whom it logged in.
    pub user: Box<str>,
    /// Where it is.
    pub ends: Ends,
    /// When it connected, in seconds since the epoch.
    pub connected: u32,
    /// Its TLS, as PgBouncer describes it; empty without.
    pub tls: Box<str>,
    /// What it calls itself.
    pub application_name: Box<str>,
    /// When it last asked for something, in seconds since the epoch.
    pub asked: Cell<u32>,
}

/// The console's clients of one worker, and what they have done.
#[derive(Default)]
pub struct Guests {
    present: RefCell<BTreeMap<u64, Rc<Seen>>>,
    logins: Cell<u64>,
    queries: Cell<u64>,
}

/// A guest's place among them; gone when dropped.
pub struct Visit<'a> {
    guests: &'a Guests,
    seen: Rc<Seen>,
}

impl Guests {
    /// A guest has come.
    pub fn enter(&self, guest: &Guest) -> Visit<'_> {
        let seen = Rc::new(Seen {
            id: guest.id,
            user: guest.user.clone(),
            ends: guest.ends.clone(),
            connected: guest.connected,
            tls: guest.tls.clone(),
            application_name: guest.application_name.clone(),
            asked: Cell::new(guest.connected),
        });
        self.present.borrow_mut().insert(guest.id, Rc::clone(&seen));
        self.logins.set(self.logins.get() + 1);
        Visit { guests: self, seen }
    }

    /// All guests.
    #[must_use]
    pub fn present(&self) -> Vec<Rc<Seen>> {
        self.present.borrow().values().map(Rc::clone).collect()
    }

    /// How many have come, and how much they have asked.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.logins.get(), self.queries.get())
    }
}

impl Visit<'_> {
    /// What others see of the guest.
    #[must_use]
    pub fn seen(&self) -> &Rc<Seen> {
        &self.seen
    }

    /// The guest asks for something.
    pub fn asks(&self, now: u32) {
        self.seen.asked.set(now);
        self.guests.queries.set(self.guests.queries.get() + 1);
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        self.guests.present.borrow_mut().remove(&self.seen.id);
    }
}
