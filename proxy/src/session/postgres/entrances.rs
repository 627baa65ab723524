//! The sockets that clients of one worker come in at, for whoever looks at them. Not here: accepting (`listener`).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::transport::ends::End;

/// Listening sockets by their numbers.
#[derive(Debug, Clone, Default)]
pub struct Entrances(Rc<RefCell<BTreeMap<i32, End>>>);

/// One of them; closed when dropped.
#[derive(Debug)]
pub struct Entrance {
    all: Entrances,
    descriptor: i32,
}

impl Entrances {
    /// Clients come in at this socket.
    #[must_use]
    pub fn open(&self, descriptor: i32, at: End) -> Entrance {
        self.0.borrow_mut().insert(descriptor, at);
        Entrance { all: self.clone(), descriptor }
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<(i32, End)> {
        self.0.borrow().iter().map(|(descriptor, at)| (*descriptor, *at)).collect()
    }
}

impl Drop for Entrance {
    fn drop(&mut self) {
        self.all.0.borrow_mut().remove(&self.descriptor);
    }
}
