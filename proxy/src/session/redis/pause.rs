//! Whether the server halts writes, as far as a client of this worker has told it to (`CLIENT PAUSE`). What is halted then waits where no reads wait behind
//! it, as much of it as there is room for, and says nothing about how long commands take.

use std::cell::Cell;
use std::time::Instant;

use crate::clock;

/// Until when.
#[derive(Debug, Default)]
pub struct Pause {
    until: Cell<Option<Instant>>,
}

impl Pause {
    /// Writes are halted until then, or no longer.
    pub fn set(&self, until: Option<Instant>) {
        self.until.set(until);
    }

    /// Whether they are now. The clock is asked only where it may be so.
    pub fn is_on(&self) -> bool {
        let is_on = self.until.get().is_some_and(|until| clock::now() < until);
        if !is_on {
            self.until.set(None);
        }
        is_on
    }
}
