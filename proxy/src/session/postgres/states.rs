//! Session states of clients, each distinct one once, so that "does this connection carry my state?" is a comparison of two pointers.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;

use sidepool_protocol::postgres::parameters::ParameterSet;

/// All states that clients of one worker are in.
pub struct StateTable {
    states: RefCell<HashSet<Rc<ParameterSet>>>,
    /// States that nobody is in are swept out when the table has grown to this.
    sweep_at: Cell<usize>,
}

impl Default for StateTable {
    fn default() -> Self {
        Self { states: RefCell::default(), sweep_at: Cell::new(Self::FIRST_SWEEP) }
    }
}

impl StateTable {
    const FIRST_SWEEP: usize = 64;

    /// The one state equal to this.
    pub fn intern(&self, state: ParameterSet) -> Rc<ParameterSet> {
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

    /// How many distinct states are held.
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
