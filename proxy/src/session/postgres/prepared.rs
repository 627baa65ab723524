//! Prepared statements in transaction mode: what a client calls them, what the server calls them, and who knows which.
//!
//! A statement is its text and parameter types; equal ones are one [`Statement`], with one name on every server connection (`sidepool_<id>`). A
//! client's name leads to a statement; a server connection knows a bounded set of them. Not here: messages (`inbound`) and their order
//! (`protocol::postgres::tracker`).

use std::borrow::Borrow;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::io::Write as _;
use std::rc::Rc;

use crate::worker::WorkerId;

/// The most named statements one client may hold; past it, the oldest habit of the server applies: an error.
pub const MAX_CLIENT_STATEMENTS: usize = 10_000;

/// A statement's text and parameter types, as they follow the name in Parse.
#[derive(Debug)]
pub struct Statement {
    id: StatementId,
    body: Box<[u8]>,
}

/// Names a statement in this process; the same on all its server connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StatementId(u64);

impl StatementId {
    /// The name that servers know it by.
    #[must_use]
    pub fn server_name(self) -> ServerName {
        let mut name = ServerName { bytes: [0; 32], length: 0 };
        let mut rest = &mut name.bytes[..];
        // 9 letters and at most 20 digits fit.
        let room = rest.len();
        let written = write!(rest, "sidepool_{}", self.0).map(|()| room - rest.len());
        name.length = written.unwrap_or(0);
        name
    }
}

/// `sidepool_<id>`, on the stack.
#[derive(Debug, Clone, Copy)]
pub struct ServerName {
    bytes: [u8; 32],
    length: usize,
}

impl ServerName {
    /// The name.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Statement {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> StatementId {
        self.id
    }

    /// What follows the name in its Parse.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }
}

/// A [`Statement`] found by its body.
struct ByBody(Rc<Statement>);

impl Borrow<[u8]> for ByBody {
    fn borrow(&self) -> &[u8] {
        &self.0.body
    }
}

impl Hash for ByBody {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.body.hash(state);
    }
}

impl PartialEq for ByBody {
    fn eq(&self, other: &Self) -> bool {
        self.0.body == other.0.body
    }
}

impl Eq for ByBody {}

/// All statements that clients of one worker hold, each text once.
pub struct StatementTable {
    statements: RefCell<HashSet<ByBody>>,
    /// Statements that nobody holds are swept out when the table has grown to this.
    sweep_at: Cell<usize>,
    next: Cell<u64>,
}

impl StatementTable {
    const FIRST_SWEEP: usize = 256;

    /// An empty table. Ids of different workers never meet, because server connections move between workers.
    #[must_use]
    pub fn new(worker: WorkerId) -> Self {
        Self { statements: RefCell::default(), sweep_at: Cell::new(Self::FIRST_SWEEP), next: Cell::new(u64::from(worker.0) << 48) }
    }

    /// The statement with this body.
    pub fn intern(&self, body: &[u8]) -> Rc<Statement> {
        let mut statements = self.statements.borrow_mut();
        if let Some(found) = statements.get(body) {
            return Rc::clone(&found.0);
        }
        if statements.len() >= self.sweep_at.get() {
            statements.retain(|statement| Rc::strong_count(&statement.0) > 1);
            self.sweep_at.set((statements.len() * 2).max(Self::FIRST_SWEEP));
        }
        self.next.set(self.next.get() + 1);
        let statement = Rc::new(Statement { id: StatementId(self.next.get()), body: body.into() });
        statements.insert(ByBody(Rc::clone(&statement)));
        statement
    }

    /// How many texts are held.
    pub fn len(&self) -> usize {
        self.statements.borrow().len()
    }

    /// Whether no text is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What one client calls its statements. Made at its first Parse.
#[derive(Debug, Default)]
pub struct ClientStatements {
    /// Named statements.
    pub named: HashMap<Box<[u8]>, Rc<Statement>>,
    /// The unnamed statement: what follows its (empty) name in Parse.
    pub unnamed: Option<Vec<u8>>,
    /// Counts Parses of the unnamed statement, so that a server connection can tell whether it has the present one.
    pub unnamed_version: u64,
}

/// Which client's unnamed statement a server connection holds, and which of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnnamedOwner {
    /// The client.
    pub client: u64,
    /// Its [`ClientStatements::unnamed_version`].
    pub version: u64,
}

/// Which statements one server connection knows. Bounded: the least recently used one gives way.
#[derive(Debug, Default)]
pub struct ServerStatements {
    used: HashMap<StatementId, u64>,
    clock: u64,
    /// Whose unnamed statement is there.
    pub unnamed: Option<UnnamedOwner>,
}

impl ServerStatements {
    /// Whether the server knows the statement; if so it is now the most recently used one.
    pub fn touch(&mut self, id: StatementId) -> bool {
        self.clock += 1;
        let now = self.clock;
        self.used.get_mut(&id).map(|used| *used = now).is_some()
    }

    /// The server learns a statement. Past `capacity` the answer names one that it has to forget.
    pub fn insert(&mut self, id: StatementId, capacity: usize) -> Option<StatementId> {
        self.clock += 1;
        let evicted = (self.used.len() >= capacity).then(|| self.used.iter().min_by_key(|(_, used)| **used).map(|(id, _)| *id)).flatten();
        if let Some(evicted) = evicted {
            self.used.remove(&evicted);
        }
        self.used.insert(id, self.clock);
        evicted
    }

    /// The server turns out not to have forgotten a statement: it is the first to go next time.
    pub fn put_back(&mut self, id: StatementId) {
        self.used.entry(id).or_insert(0);
    }

    /// The server does not know the statement (any more).
    pub fn remove(&mut self, id: StatementId) {
        self.used.remove(&id);
    }

    /// The server forgot everything (DISCARD ALL, DEALLOCATE ALL).
    pub fn clear(&mut self) {
        self.used.clear();
        self.unnamed = None;
    }

    /// How many statements the server knows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.used.len()
    }

    /// Whether the server knows none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.used.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_bodies_are_one_statement() {
        let table = StatementTable::new(WorkerId(0));
        let a = table.intern(b"select 1\0\0\0");
        let b = table.intern(b"select 1\0\0\0");
        let c = table.intern(b"select 2\0\0\0");
        assert!(Rc::ptr_eq(&a, &b));
        assert_ne!(a.id(), c.id());
        assert_eq!(a.id().server_name().as_bytes(), b"sidepool_1");
    }

    #[test]
    fn workers_never_share_an_id() {
        let a = StatementTable::new(WorkerId(1)).intern(b"x");
        let b = StatementTable::new(WorkerId(2)).intern(b"x");
        assert_ne!(a.id(), b.id());
        assert!(StatementId(u64::MAX).server_name().as_bytes().ends_with(b"18446744073709551615"));
    }

    #[test]
    fn texts_that_nobody_holds_are_swept() {
        let table = StatementTable::new(WorkerId(0));
        let held = table.intern(b"held");
        for i in 0..100_000u32 {
            table.intern(&i.to_be_bytes());
            assert!(table.len() <= StatementTable::FIRST_SWEEP);
        }
        assert!(Rc::ptr_eq(&held, &table.intern(b"held")));
    }

    #[test]
    fn the_least_recently_used_statement_gives_way() {
        let id = StatementId;
        let mut server = ServerStatements::default();
        assert_eq!(server.insert(id(1), 2), None);
        assert_eq!(server.insert(id(2), 2), None);
        assert!(server.touch(id(1)));
        assert_eq!(server.insert(id(3), 2), Some(id(2)));
        assert!(!server.touch(id(2)));
        assert_eq!(server.len(), 2);
    }

    #[test]
    fn a_statement_put_back_goes_first() {
        let id = StatementId;
        let mut server = ServerStatements::default();
        server.insert(id(1), 2);
        server.insert(id(2), 2);
        server.put_back(id(9));
        assert_eq!(server.insert(id(3), 2), Some(id(9)));
    }
}
