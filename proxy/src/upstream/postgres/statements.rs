//! Which prepared statements one server connection knows, and under which names.

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use sidepool_protocol::postgres::hints::{self, Hints};

/// How a statement came to be, and so how another server connection learns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// Parse. So much of the key is what follows the name in it; the rest is the search path it was parsed under.
    Parse(usize),
    /// PREPARE. The key is what follows the name.
    Sql,
    /// Parse of a text that names another statement. The key is what follows the name. No server keeps it.
    Referring,
}

/// A statement that some client has prepared.
#[derive(Debug)]
pub struct Statement {
    id: StatementId,
    key: Box<[u8]>,
    origin: Origin,
    hints: Hints,
    /// When it was parsed, in changes of schemas; 0 where that does not matter.
    schema: u64,
    /// What its rows look like, as its clients were told; `None`: none of them has asked.
    shape: Cell<Option<u64>>,
    /// Its rows have come to look different.
    outdated: Cell<bool>,
}

impl Statement {
    /// A statement by Parse: the first `body` bytes of the key are what follows its name there.
    #[must_use]
    pub fn parsed(id: StatementId, key: &[u8], body: usize, schema: u64) -> Self {
        Self {
            id,
            key: key.into(),
            origin: Origin::Parse(body.min(key.len())),
            hints: hints::look_at_parse(key),
            schema,
            shape: Cell::new(None),
            outdated: Cell::new(false),
        }
    }

    /// A statement by PREPARE: `rest` is what follows its name.
    #[must_use]
    pub fn in_sql(id: StatementId, rest: &[u8]) -> Self {
        Self {
            id,
            key: rest.into(),
            origin: Origin::Sql,
            hints: hints::look(rest),
            schema: 0,
            shape: Cell::new(None),
            outdated: Cell::new(false),
        }
    }

    /// A statement by Parse whose text names another one, and which means something else each time: `body` is what follows its name.
    #[must_use]
    pub fn referring(id: StatementId, body: &[u8]) -> Self {
        Self {
            id,
            key: body.into(),
            origin: Origin::Referring,
            hints: hints::look_at_parse(body),
            schema: 0,
            shape: Cell::new(None),
            outdated: Cell::new(false),
        }
    }

    /// Whether its text names another statement, so that no server ever knows it.
    #[must_use]
    pub fn refers(&self) -> bool {
        self.origin == Origin::Referring
    }

    /// When it was parsed, in changes of schemas that the process has seen.
    #[must_use]
    pub fn schema(&self) -> u64 {
        self.schema
    }

    /// What its rows look like, as its clients were told.
    #[must_use]
    pub fn shape(&self) -> Option<u64> {
        self.shape.get()
    }

    /// A server says what its rows look like. False when its clients were told otherwise.
    pub fn take_in_shape(&self, shape: u64) -> bool {
        let known = self.shape.get();
        self.shape.set(Some(known.unwrap_or(shape)));
        let same = known.is_none_or(|known| known == shape);
        self.outdated.set(self.outdated.get() || !same);
        same
    }

    /// Whether its rows have come to look different from what its clients were told.
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        self.outdated.get()
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> StatementId {
        self.id
    }

    /// What it may change of a session's state.
    #[must_use]
    pub fn hints(&self) -> &Hints {
        &self.hints
    }

    /// What makes it the same as another one.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// What follows the name in its Parse, and the search path; `None` for one that was prepared in SQL.
    #[must_use]
    pub fn parse(&self) -> Option<(&[u8], &[u8])> {
        match self.origin {
            Origin::Parse(body) => Some(self.key.split_at(body)),
            Origin::Referring => Some((&self.key, &[])),
            Origin::Sql => None,
        }
    }
}

/// Names a statement in this process; the same on all its server connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StatementId(u64);

impl StatementId {
    /// The statement with this number.
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self(number)
    }

    /// The name that servers know it by.
    #[must_use]
    pub fn server_name(self) -> ServerName {
        let (mut digits, mut first, mut rest) = ([b'0'; MOST_DIGITS], MOST_DIGITS, self.0);
        loop {
            first -= 1;
            digits[first] += u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        let digits = &digits[first..];
        let mut name = ServerName { bytes: [0; 32], length: NAME_PREFIX.len() + digits.len() };
        name.bytes[..NAME_PREFIX.len()].copy_from_slice(NAME_PREFIX);
        name.bytes[NAME_PREFIX.len()..name.length].copy_from_slice(digits);
        name
    }
}

/// How many digits a number has at most.
const MOST_DIGITS: usize = 20;

/// What all names start with that the proxy gives to statements.
pub const NAME_PREFIX: &[u8] = b"sidepool_";

/// A name that no server knows.
pub const NOBODY: &[u8] = b"sidepool_nobody";

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

/// Which client's unnamed statement a server connection holds, and which of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnnamedOwner {
    /// The client.
    pub client: u64,
    /// Its count of Parses of the unnamed statement.
    pub version: u64,
}

/// The statements that a server connection knew.
#[derive(Debug, Default)]
pub struct Known(HashMap<StatementId, u64, BuildHasherDefault<Spread>>);

/// Spreads ids, which are numbers of our own in their order: nobody can choose them so that they meet.
#[derive(Debug, Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, number: u64) {
        // The golden ratio as a fraction of 2^64. Ids count up in their lower bits, which choose a place and stay different; all bits of them
        // come to the upper ones, which tables compare.
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// Which statements one server connection knows. Bounded: the least recently used one gives way.
#[derive(Debug, Default)]
pub struct ServerStatements {
    used: HashMap<StatementId, u64, BuildHasherDefault<Spread>>,
    clock: u64,
    /// Whose unnamed statement is there.
    pub unnamed: Option<UnnamedOwner>,
}

impl ServerStatements {
    /// Whether the server knows the statement.
    #[must_use]
    pub fn knows(&self, id: StatementId) -> bool {
        self.used.contains_key(&id)
    }

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

    /// Makes room for `more`: answers one that has to go, the least recently used, but none of those that the caller needs. Call until `None`.
    pub fn evict(&mut self, more: usize, capacity: usize, needed: impl Fn(StatementId) -> bool) -> Option<StatementId> {
        if self.used.len() + more <= capacity {
            return None;
        }
        let (id, _) = self.used.iter().filter(|(id, _)| !needed(**id)).min_by_key(|(_, used)| **used)?;
        let id = *id;
        self.used.remove(&id);
        Some(id)
    }

    /// The server turns out not to have forgotten a statement: it is the first to go next time.
    pub fn put_back(&mut self, id: StatementId) {
        self.used.entry(id).or_insert(0);
    }

    /// The server does not know the statement (any more).
    pub fn remove(&mut self, id: StatementId) {
        self.used.remove(&id);
    }

    /// The server is to forget all names; what is answered can be given [back](Self::restore) when it did not.
    pub fn take_named(&mut self) -> Known {
        Known(std::mem::take(&mut self.used))
    }

    /// The server has forgotten nothing after all.
    pub fn restore(&mut self, known: Known) {
        self.used.extend(known.0);
    }

    /// The server forgot all names (DISCARD ALL, DEALLOCATE ALL); the unnamed statement stays.
    pub fn forget_named(&mut self) {
        self.used.clear();
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
    fn names_are_numbers_behind_a_word() {
        for number in [0, 7, 10, 1234, u64::MAX] {
            assert_eq!(StatementId(number).server_name().as_bytes(), format!("sidepool_{number}").as_bytes());
        }
    }

    #[test]
    fn what_is_needed_stays() {
        let id = StatementId;
        let mut server = ServerStatements::default();
        (1..=3).for_each(|number| assert_eq!(server.insert(id(number), 3), None));
        assert_eq!(server.evict(0, 3, |_| false), None);
        assert_eq!(server.evict(1, 3, |needed| needed == id(1)), Some(id(2)));
        assert_eq!(server.evict(1, 3, |_| false), None);
        assert_eq!(server.evict(9, 3, |needed| needed != id(3)), Some(id(3)));
        assert_eq!(server.evict(9, 3, |_| true), None);
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
