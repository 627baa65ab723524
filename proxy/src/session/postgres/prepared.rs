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

use super::referring;
use super::schema_clock::SchemaClock;
use sidepool_protocol::postgres::channels;

use crate::handover::message::MovedStatement;
use crate::upstream::postgres::statements::{Statement, StatementId};
use crate::worker::WorkerId;

/// The most named statements one client may hold; past it, the oldest habit of the server applies: an error.
pub const MAX_CLIENT_STATEMENTS: usize = 10_000;

/// A [`Statement`] found by its key.
struct ByKey(Rc<Statement>);

impl Borrow<[u8]> for ByKey {
    fn borrow(&self) -> &[u8] {
        self.0.key()
    }
}

impl Hash for ByKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key().hash(state);
    }
}

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.key() == other.0.key()
    }
}

impl Eq for ByKey {}

/// All statements that clients of one worker hold, each text once.
pub struct StatementTable {
    statements: RefCell<HashSet<ByKey>>,
    /// Statements that nobody holds are swept out when the table has grown to this.
    sweep_at: Cell<usize>,
    next: Cell<u64>,
    schema: SchemaClock,
}

impl StatementTable {
    const FIRST_SWEEP: usize = 256;

    /// An empty table. Ids of different workers never meet, because server connections move between workers.
    #[must_use]
    pub fn new(worker: WorkerId, schema: SchemaClock) -> Self {
        let next = Cell::new(u64::from(worker.0) << 48);
        Self { statements: RefCell::default(), sweep_at: Cell::new(Self::FIRST_SWEEP), next, schema }
    }

    /// The statement with this body (what follows the name in Parse), parsed under this search path: it decides what the names of tables mean, and
    /// so of which types the parameters are.
    pub fn intern(&self, body: &[u8], search_path: &str) -> Rc<Statement> {
        if search_path.is_empty() {
            return self.find_or_add(body, body.len());
        }
        self.find_or_add(&[body, search_path.as_bytes()].concat(), body.len())
    }

    fn find_or_add(&self, key: &[u8], body: usize) -> Rc<Statement> {
        let mut statements = self.statements.borrow_mut();
        let schema = self.schema.now();
        if let Some(found) = statements.get(key) {
            if found.0.schema() == schema && !found.0.is_outdated() {
                return Rc::clone(&found.0);
            }
            // Whoever parsed it before keeps it, with what it meant then.
            statements.remove(key);
        }
        if statements.len() >= self.sweep_at.get() {
            statements.retain(|statement| Rc::strong_count(&statement.0) > 1);
            self.sweep_at.set((statements.len() * 2).max(Self::FIRST_SWEEP));
        }
        let statement = Rc::new(Statement::parsed(self.next_id(), key, body, schema));
        statements.insert(ByKey(Rc::clone(&statement)));
        statement
    }

    /// A statement that was prepared in SQL; `rest` is what follows its name. It is not shared, so that its client may deallocate it.
    pub fn in_sql(&self, rest: &[u8]) -> Rc<Statement> {
        Rc::new(Statement::in_sql(self.next_id(), rest))
    }

    /// What a client's Parse made: `body` is what follows the name, parsed under this search path.
    pub fn parsed(&self, body: &[u8], search_path: &str) -> Rc<Statement> {
        if referring::refers(body) { Rc::new(Statement::referring(self.next_id(), body)) } else { self.intern(body, search_path) }
    }

    /// The statement that takes the place of one whose plans are of no use any more: the same, under a name that no server knows yet.
    pub fn renew(&self, old: &Rc<Statement>) -> Rc<Statement> {
        let Some((body, _)) = old.parse() else { return self.in_sql(old.key()) };
        let mut statements = self.statements.borrow_mut();
        if statements.get(old.key()).is_some_and(|present| Rc::ptr_eq(&present.0, old)) {
            statements.remove(old.key());
        }
        drop(statements);
        self.find_or_add(old.key(), body.len())
    }

    fn next_id(&self) -> StatementId {
        self.next.set(self.next.get() + 1);
        StatementId::new(self.next.get())
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
    /// Whether its text names another statement.
    pub unnamed_refers: bool,
    /// Whether nothing in its text needs a closer look; false if that is not known.
    pub unnamed_plain: bool,
    /// Whether one of its statements was or is LISTEN.
    pub listens: bool,
    /// Counts Parses of the unnamed statement, so that a server connection can tell whether it has the present one.
    pub unnamed_version: u64,
}

impl ClientStatements {
    /// The unnamed statement is this one after all.
    pub fn put_back_unnamed(&mut self, text: Option<Vec<u8>>) {
        self.unnamed_refers = text.as_deref().is_some_and(referring::refers);
        self.unnamed_plain = false;
        self.unnamed = text;
    }

    /// The named statements as another process can take them in.
    #[must_use]
    pub fn export(&self) -> Vec<(Vec<u8>, MovedStatement)> {
        let moved = |statement: &Statement| match statement.parse() {
            Some((body, path)) => MovedStatement::Parsed { body: body.to_vec(), search_path: String::from_utf8_lossy(path).into_owned() },
            None => MovedStatement::Sql(statement.key().to_vec()),
        };
        self.named.iter().map(|(name, statement)| (name.to_vec(), moved(statement))).collect()
    }

    /// What another process has [exported](Self::export), with the unnamed statement.
    #[must_use]
    pub fn import(table: &StatementTable, named: &[(Vec<u8>, MovedStatement)], unnamed: Option<Vec<u8>>) -> Self {
        let found = |moved: &MovedStatement| match moved {
            MovedStatement::Parsed { body, search_path } => table.parsed(body, search_path),
            MovedStatement::Sql(rest) => table.in_sql(rest),
        };
        let named: HashMap<Box<[u8]>, Rc<Statement>> =
            named.iter().take(MAX_CLIENT_STATEMENTS).map(|(name, moved)| (name.as_slice().into(), found(moved))).collect();
        let listens =
            named.values().any(|statement| channels::begins_so(statement.key())) || unnamed.as_deref().is_some_and(channels::begins_so);
        let mut client = Self { named, listens, unnamed_version: u64::from(unnamed.is_some()), ..Self::default() };
        client.put_back_unnamed(unnamed);
        client
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_bodies_are_one_statement() {
        let table = StatementTable::new(WorkerId(0), SchemaClock::default());
        let a = table.intern(b"select 1\0\0\0", "");
        let b = table.intern(b"select 1\0\0\0", "");
        let c = table.intern(b"select 2\0\0\0", "");
        assert!(Rc::ptr_eq(&a, &b));
        assert_ne!(a.id(), c.id());
        assert_eq!(a.id().server_name().as_bytes(), b"sidepool_1");
    }

    #[test]
    fn the_search_path_is_a_part_of_a_statement() {
        let table = StatementTable::new(WorkerId(0), SchemaClock::default());
        let (a, b) = (table.intern(b"x\0\0\0", "one"), table.intern(b"x\0\0\0", "two"));
        assert_ne!(a.id(), b.id());
        assert_eq!(a.parse(), Some((&b"x\0\0\0"[..], &b"one"[..])));
        assert!(Rc::ptr_eq(&b, &table.intern(b"x\0\0\0", "two")));
    }

    #[test]
    fn a_renewed_statement_is_the_one_that_is_found() {
        let table = StatementTable::new(WorkerId(0), SchemaClock::default());
        let old = table.intern(b"x\0\0\0", "path");
        let new = table.renew(&old);
        assert_ne!(old.id(), new.id());
        assert_eq!(old.parse(), new.parse());
        assert!(Rc::ptr_eq(&new, &table.intern(b"x\0\0\0", "path")));
        // Whoever still holds the old one gets the same new one.
        assert!(Rc::ptr_eq(&new, &table.renew(&old)));
        let sql = table.in_sql(b" as select 1");
        assert_eq!((table.renew(&sql).key(), sql.parse()), (sql.key(), None));
    }

    #[test]
    fn what_is_parsed_after_a_change_of_the_schema_is_another_statement() {
        let schema = SchemaClock::default();
        let table = StatementTable::new(WorkerId(0), schema.clone());
        let before = table.intern(b"x", "");
        schema.tick();
        let after = table.intern(b"x", "");
        assert_ne!(before.id(), after.id());
        assert!(Rc::ptr_eq(&after, &table.intern(b"x", "")));
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn workers_never_share_an_id() {
        let a = StatementTable::new(WorkerId(1), SchemaClock::default()).intern(b"x", "");
        let b = StatementTable::new(WorkerId(2), SchemaClock::default()).intern(b"x", "");
        assert_ne!(a.id(), b.id());
        assert!(StatementId::new(u64::MAX).server_name().as_bytes().ends_with(b"18446744073709551615"));
    }

    #[test]
    fn texts_that_nobody_holds_are_swept() {
        let table = StatementTable::new(WorkerId(0), SchemaClock::default());
        let held = table.intern(b"held", "");
        for i in 0..100_000u32 {
            table.intern(&i.to_be_bytes(), "");
            assert!(table.len() <= StatementTable::FIRST_SWEEP);
        }
        assert!(Rc::ptr_eq(&held, &table.intern(b"held", "")));
    }
}
