//! Who was dropped with something to send that the other end has not taken yet: how many there may be, and for how long.
//!
//! There is no clock here: time is what [`Lingering::grow_older`] says. Who has seen it twice is cut.

use std::collections::VecDeque;

use tokio::time::Duration;

/// So many linger at most, each with a descriptor and a buffer; the one that has lingered longest goes for another.
const MOST: usize = 1024;

/// Time passes in steps of this: nobody is cut earlier, and nobody lingers twice as long.
pub(crate) const STEP: Duration = Duration::from_secs(10);

/// Sockets by their numbers, the oldest first.
#[derive(Debug)]
pub(crate) struct Lingering {
    all: VecDeque<u32>,
    most: usize,
    /// How many of them, from the front, were there when time last passed.
    old: usize,
}

impl Default for Lingering {
    fn default() -> Self {
        Self { all: VecDeque::new(), most: MOST, old: 0 }
    }
}

impl Lingering {
    #[cfg(test)]
    pub(crate) fn of_at_most(most: usize) -> Self {
        Self { most, ..Self::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// One more; answers who is to be cut for it.
    pub(crate) fn enter(&mut self, number: u32) -> Option<u32> {
        let cut = if self.all.len() >= self.most { self.all.pop_front() } else { None };
        self.old -= usize::from(cut.is_some() && self.old > 0);
        self.all.push_back(number);
        cut
    }

    /// This one has sent everything, or is closed for another reason.
    pub(crate) fn leave(&mut self, number: u32) {
        if let Some(at) = self.all.iter().rposition(|known| *known == number) {
            self.all.remove(at);
            self.old -= usize::from(at < self.old);
        }
    }

    /// A step of time has passed: who is to be cut.
    pub(crate) fn grow_older(&mut self) -> Vec<u32> {
        let cut = self.all.drain(..self.old).collect();
        self.old = self.all.len();
        cut
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_seen_time_pass_twice_is_cut() {
        let mut lingering = Lingering::default();
        assert!((0..4).all(|number| lingering.enter(number).is_none()));
        assert!(lingering.grow_older().is_empty());
        lingering.leave(1);
        lingering.enter(4);
        lingering.leave(4);
        lingering.enter(5);
        assert_eq!(lingering.grow_older(), [0, 2, 3]);
        assert_eq!(lingering.grow_older(), [5]);
        assert!(lingering.is_empty() && lingering.grow_older().is_empty());
    }

    #[test]
    fn there_are_never_more_than_so_many() {
        let mut lingering = Lingering::default();
        let cut: Vec<_> = (0..MOST as u32 + 3).filter_map(|number| lingering.enter(number)).collect();
        assert_eq!(cut, [0, 1, 2]);
        lingering.grow_older();
        assert_eq!(lingering.enter(9_999), Some(3));
        assert_eq!(lingering.grow_older().len(), MOST - 1);
        assert_eq!(lingering.grow_older(), [9_999]);
    }
}
