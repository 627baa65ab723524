//! Prepared statements in transaction mode: what a client calls them, and the text that stands behind the name.
//!
//! Equal texts are one [`Statement`], with one name on every server connection (`sidepool_<id>`). A
//! client's name leads to a statement. Not here: which server connection knows it (`upstream::postgres::statements`), messages (`inbound`) and
//! their order (`protocol::postgres::tracker`).

use std::borrow::Borrow;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::rc::Rc;

use crate::upstream::postgres::statements::{Statement, StatementId};
use crate::worker::WorkerId;

/// The most named statements one client may hold; past it, the oldest habit of the server applies: an error.
pub const MAX_CLIENT_STATEMENTS: usize = 10_000;

/// A [`Statement`] found by its body.
struct ByBody(Rc<Statement>);

impl Borrow<[u8]> for ByBody {
    fn borrow(&self) -> &[u8] {
        self.0.body()
    }
}

impl Hash for ByBody {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.body().hash(state);
    }
}

impl PartialEq for ByBody {
    fn eq(&self, other: &Self) -> bool {
        self.0.body() == other.0.body()
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
        let statement = Rc::new(Statement::new(StatementId::new(self.next.get()), body));
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

impl ClientStatements {
    /// The named statements as another process can take them in: name, and what follows the name in Parse.
    #[must_use]
    pub fn export(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.named.iter().map(|(name, statement)| (name.to_vec(), statement.body().to_vec())).collect()
    }

    /// What another process has [exported](Self::export), with the unnamed statement.
    #[must_use]
    pub fn import(table: &StatementTable, named: &[(Vec<u8>, Vec<u8>)], unnamed: Option<Vec<u8>>) -> Self {
        let named = named.iter().take(MAX_CLIENT_STATEMENTS).map(|(name, body)| (name.as_slice().into(), table.intern(body))).collect();
        let unnamed_version = u64::from(unnamed.is_some());
        Self { named, unnamed, unnamed_version }
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
        assert!(StatementId::new(u64::MAX).server_name().as_bytes().ends_with(b"18446744073709551615"));
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
}
