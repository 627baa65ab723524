//! What may have changed of a session's state since the server was last asked, and by which rules it is found out.
//!
//! Hints go in while messages pass; nothing here is sure. Not here: the question (`asking`), or where hints come from (`protocol::postgres::hints`).

use std::cell::{Cell, RefCell};
use std::time::Duration;

use sidepool_config::model::{Following, SessionState};
use sidepool_protocol::postgres::hints::{Functions, Hints, Kinds, MAX_NAMES};

/// Most names of settings of the users' own (`app.tenant_id`) that a pool remembers for when it has to ask for all of them.
const MAX_CUSTOM: usize = 128;

/// The rules of a pool in which session state follows clients.
#[derive(Debug, Default)]
pub struct StateRules {
    /// The server is asked after each transaction, and not only when something may have changed.
    pub always: bool,
    /// How often a connection is asked for everything although nothing should have changed; zero: never.
    pub audit: Duration,
    /// Functions that change the state without saying so.
    pub functions: Functions,
    custom: RefCell<Vec<Box<str>>>,
    /// Clients of this database ask for what sequences have given, so that each begins with nothing on a connection that others have used.
    asks_sequences: Cell<bool>,
    /// What all sessions of the pool begin with although it looks as if somebody had set it, and its values.
    usual: RefCell<Vec<(Box<str>, Box<str>)>>,
}

impl StateRules {
    /// The rules that these settings give.
    #[must_use]
    pub fn new(settings: &SessionState) -> Self {
        let SessionState { following, audit, functions, names } = settings;
        let always = *following == Following::Always;
        let rules = Self { always, audit: *audit, functions: Functions::new(functions), ..Self::default() };
        names.iter().for_each(|name| rules.remember(name));
        rules
    }

    /// Somebody has used a setting of this name. The server has no list of those that are the users' own.
    pub fn remember(&self, name: &str) {
        let mut custom = self.custom.borrow_mut();
        if name.contains('.') && custom.len() < MAX_CUSTOM && !custom.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            custom.push(name.into());
        }
    }

    /// A client asks for what sequences have given; true: it is the first.
    pub fn ask_sequences(&self) -> bool {
        !self.asks_sequences.replace(true)
    }

    /// Whether clients do so, or may without anybody noticing.
    #[must_use]
    pub fn asks_sequences(&self) -> bool {
        self.always || self.asks_sequences.get()
    }

    /// Keeps what rules that are replaced have learned.
    pub fn learn(&self, before: &Self) {
        before.custom.borrow().iter().for_each(|name| self.remember(name));
        self.asks_sequences.set(before.asks_sequences.get());
    }

    /// Sessions begin with this.
    pub fn expect(&self, setting: (Box<str>, Box<str>)) {
        let mut usual = self.usual.borrow_mut();
        if usual.len() < MAX_CUSTOM && !usual.contains(&setting) {
            usual.push(setting);
        }
    }

    /// Whether sessions begin with this.
    #[must_use]
    pub fn is_usual(&self, setting: &(Box<str>, Box<str>)) -> bool {
        self.usual.borrow().contains(setting)
    }

    /// The names that are remembered.
    #[must_use]
    pub fn custom(&self) -> Vec<Box<str>> {
        self.custom.borrow().clone()
    }
}

/// What may have changed on one connection.
#[derive(Debug, Default)]
pub struct Dirt {
    kinds: Kinds,
    names: Vec<Box<str>>,
    /// A text with a SET or RESET has passed, so that the server's word of one is no surprise.
    explained: bool,
    /// Something was taken back.
    undone: bool,
    /// Something was taken back in the present transaction.
    undone_now: bool,
    /// A RESET was carried out in the present transaction.
    reset_now: bool,
    /// A RESET was carried out in a transaction of which nothing was taken back.
    reset_holds: bool,
    /// A Parse of the unnamed statement has passed.
    unnamed: bool,
}

impl Dirt {
    /// Nothing may have changed any more.
    #[inline]
    pub fn forget(&mut self) {
        let Self { kinds, names, explained, undone, undone_now, reset_now, reset_holds, unnamed } = self;
        if !names.is_empty() {
            *names = Vec::new();
        }
        *kinds = Kinds::default();
        for flag in [explained, undone, undone_now, reset_now, reset_holds, unnamed] {
            *flag = false;
        }
    }

    /// Whether nothing has changed, as far as anybody could see.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.kinds.is_empty()
    }

    /// Takes in what a text may change.
    pub fn add(&mut self, hints: &Hints) {
        self.kinds = self.kinds.with(hints.kinds.without(Kinds::BOUND.with(Kinds::SEQUENCES)));
        self.explained |= hints.sets;
        for name in &hints.names {
            if self.names.contains(name) {
                continue;
            }
            if self.names.len() >= MAX_NAMES {
                return self.add_unknown();
            }
            self.names.push(name.clone());
        }
    }

    /// A setting may have changed.
    pub fn add_name(&mut self, name: &str) {
        let names = vec![name.to_ascii_lowercase().into()];
        self.add(&Hints { kinds: Kinds::SETTINGS, names, sets: false });
    }

    /// What sessions begin with has been seen to.
    pub fn forget_defaults(&mut self) {
        self.kinds = self.kinds.without(Kinds::DEFAULTS);
    }

    /// Anything may have changed.
    pub fn add_unknown(&mut self) {
        self.kinds = self.kinds.with(Kinds::UNKNOWN);
    }

    /// A Parse of the unnamed statement passes, and what it may change has been noted.
    pub fn see_unnamed(&mut self) {
        self.unnamed = true;
    }

    /// Whether one has passed.
    #[must_use]
    pub fn has_seen_unnamed(&self) -> bool {
        self.unnamed
    }

    /// The server has carried out a SET or RESET of the client.
    pub fn on_set(&mut self) {
        self.reset_now |= self.has_resets();
        if !self.explained {
            self.add_unknown();
        }
    }

    /// The server has taken something back: an error, or ROLLBACK.
    pub fn on_undone(&mut self) {
        self.undone |= !self.is_clean();
        self.undone_now = true;
    }

    /// A transaction has ended, however it did.
    pub fn on_transaction(&mut self) {
        self.reset_holds |= std::mem::take(&mut self.reset_now) & !self.undone_now;
        self.undone_now = false;
    }

    /// The kinds.
    #[must_use]
    pub fn kinds(&self) -> Kinds {
        self.kinds
    }

    /// The settings that are named.
    #[must_use]
    pub fn names(&self) -> &[Box<str>] {
        &self.names
    }

    /// Whether something was taken back.
    #[must_use]
    pub fn is_undone(&self) -> bool {
        self.undone
    }

    /// Whether what a RESET did may have been taken back.
    #[must_use]
    pub fn may_not_be_reset(&self) -> bool {
        self.undone && !self.reset_holds
    }

    /// Whether this setting may be back at its default by the client's own word.
    #[must_use]
    pub fn may_reset(&self, name: &str) -> bool {
        let named = || self.names.iter().any(|known| known.eq_ignore_ascii_case(name));
        self.kinds.has(Kinds::RESETS_ALL) || self.kinds.has(Kinds::RESETS) && named()
    }

    /// Whether a setting may be back at its default.
    #[must_use]
    pub fn has_resets(&self) -> bool {
        self.kinds.has(Kinds::RESETS.with(Kinds::RESETS_ALL))
    }
}

#[cfg(test)]
mod tests {
    use sidepool_protocol::postgres::hints::look;

    use super::*;

    #[test]
    fn names_add_up_to_a_bound() {
        let mut dirt = Dirt::default();
        dirt.add(&look(b"SET LOCAL a.b = 1"));
        dirt.on_set();
        dirt.on_undone();
        assert!(dirt.is_clean() && !dirt.is_undone());
        for index in 0..MAX_NAMES {
            dirt.add(&look(format!("SET a.b{index} = 1").as_bytes()));
            dirt.add(&look(b"SET a.b0 = 2"));
        }
        assert!(dirt.names().len() == MAX_NAMES && !dirt.kinds().has(Kinds::UNKNOWN));
        dirt.add(&look(b"SET a.more = 1"));
        assert!(dirt.names().len() == MAX_NAMES && dirt.kinds().has(Kinds::UNKNOWN));
    }

    #[test]
    fn a_reset_holds_unless_something_of_its_own_transaction_is_taken_back() {
        let reset = || {
            let mut dirt = Dirt::default();
            dirt.add(&look(b"RESET ALL"));
            dirt.on_set();
            dirt
        };
        let mut fails_behind = reset();
        fails_behind.on_transaction();
        fails_behind.on_undone();
        fails_behind.on_transaction();
        assert!(fails_behind.is_undone() && !fails_behind.may_not_be_reset());
        let mut rolled_back = reset();
        rolled_back.on_undone();
        rolled_back.on_transaction();
        assert!(rolled_back.may_not_be_reset());
        let mut fails_before = Dirt::default();
        fails_before.on_undone();
        fails_before.on_transaction();
        fails_before.add(&look(b"RESET ALL"));
        fails_before.on_set();
        fails_before.on_transaction();
        assert!(!fails_before.may_not_be_reset());
    }

    #[test]
    fn a_set_that_nobody_saw_may_be_anything() {
        let mut dirt = Dirt::default();
        dirt.on_set();
        assert!(dirt.kinds().has(Kinds::UNKNOWN));
    }

    #[test]
    fn own_names_are_remembered_up_to_a_bound() {
        let rules = StateRules::new(&SessionState { names: vec!["app.first".into(), "work_mem".into()], ..SessionState::default() });
        for index in 0..2 * MAX_CUSTOM {
            rules.remember(&format!("App.p{}", index / 2));
        }
        assert_eq!((rules.custom().len(), &*rules.custom()[0]), (MAX_CUSTOM, "app.first"));
    }
}
