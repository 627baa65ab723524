//! What many clients have in common, each distinct one once: session states, so that "does this connection carry my state?" is a comparison of
//! two pointers, and names.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::hash::Hash;
use std::rc::Rc;

use sidepool_protocol::postgres::parameters::ParameterSet;

use super::presence::Who;

/// All states that clients of one worker are in.
pub type StateTable = Interned<ParameterSet>;

/// All names that clients of one worker go by.
pub type WhoTable = Interned<Who>;

/// All distinct values that are in use.
pub struct Interned<T> {
    states: RefCell<HashSet<Rc<T>>>,
    /// States that nobody is in are swept out when the table has grown to this.
    sweep_at: Cell<usize>,
}

impl<T: Eq + Hash> Default for Interned<T> {
    fn default() -> Self {
        Self { states: RefCell::default(), sweep_at: Cell::new(Self::FIRST_SWEEP) }
    }
}

impl<T: Eq + Hash> Interned<T> {
    const FIRST_SWEEP: usize = 64;

    /// The one value equal to this.
    pub fn intern(&self, state: T) -> Rc<T> {
        let mut states = self.states.borrow_mut();
        if let Some(found) = states.get(&state) {
            return Rc::clone(found);
        }
        if states.len() >= self.sweep_at.get() {
            states.retain(|state| Rc::strong_count(state) > 1);
            self.sweep_at.set((states.len() * 2).max(Self::FIRST_SWEEP));
        }
        let state = Rc::new(state);
        states.insert(Rc::clone(&state));
        state
    }

    /// How many distinct values are held.
    pub fn len(&self) -> usize {
        self.states.borrow().len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> ParameterSet {
        let mut set = ParameterSet::new();
        set.set("application_name", name).unwrap();
        set
    }

    #[test]
    fn equal_states_are_one() {
        let table = StateTable::default();
        let a = table.intern(named("a"));
        assert!(Rc::ptr_eq(&a, &table.intern(named("a"))));
        assert!(!Rc::ptr_eq(&a, &table.intern(named("b"))));
    }

    #[test]
    fn the_table_is_bounded_by_what_is_in_use() {
        let table = StateTable::default();
        let held = table.intern(named("held"));
        for i in 0..10_000 {
            table.intern(named(&i.to_string()));
            assert!(table.len() <= StateTable::FIRST_SWEEP);
        }
        assert!(Rc::ptr_eq(&held, &table.intern(named("held"))));
    }
}
