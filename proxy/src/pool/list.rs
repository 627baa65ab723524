//! Doubly linked lists over table slots: joining and leaving at any place costs a constant and never allocates once the table has grown.
//!
//! Several lists may share one [`Chain`], as long as a slot is in at most one of them. Not here: what the slots mean.

/// The end of a list.
const NIL: u32 = u32::MAX;

/// The links of all slots of a table.
#[derive(Debug, Clone, Default)]
pub(super) struct Chain {
    links: Vec<Links>,
}

/// Where a slot stands in its list.
#[derive(Debug, Clone, Copy)]
struct Links {
    before: u32,
    after: u32,
}

/// One list of slots.
#[derive(Debug, Clone, Copy)]
pub(super) struct List {
    first: u32,
    last: u32,
}

impl Default for List {
    fn default() -> Self {
        Self { first: NIL, last: NIL }
    }
}

impl Chain {
    /// Makes room for `slot`.
    pub(super) fn reach(&mut self, slot: u32) {
        let needed = slot as usize + 1;
        if self.links.len() < needed {
            self.links.resize(needed, Links { before: NIL, after: NIL });
        }
    }

    /// The slot behind `slot` in its list.
    pub(super) fn after(&self, slot: u32) -> Option<u32> {
        some(self.links[slot as usize].after)
    }
}

impl List {
    /// The first slot.
    pub(super) fn first(&self) -> Option<u32> {
        some(self.first)
    }

    /// The last slot.
    pub(super) fn last(&self) -> Option<u32> {
        some(self.last)
    }

    /// Puts `slot` at the end.
    pub(super) fn push_last(&mut self, chain: &mut Chain, slot: u32) {
        self.link(chain, self.last, slot, NIL);
    }

    /// Puts `slot` at the start.
    pub(super) fn push_first(&mut self, chain: &mut Chain, slot: u32) {
        self.link(chain, NIL, slot, self.first);
    }

    /// Puts `slot` in front of `other`, which is in this list.
    pub(super) fn insert_before(&mut self, chain: &mut Chain, slot: u32, other: u32) {
        self.link(chain, chain.links[other as usize].before, slot, other);
    }

    /// Takes `slot`, which is in this list, out of it.
    pub(super) fn remove(&mut self, chain: &mut Chain, slot: u32) {
        let Links { before, after } = chain.links[slot as usize];
        match some(before) {
            Some(before) => chain.links[before as usize].after = after,
            None => self.first = after,
        }
        match some(after) {
            Some(after) => chain.links[after as usize].before = before,
            None => self.last = before,
        }
        chain.links[slot as usize] = Links { before: NIL, after: NIL };
    }

    /// All slots, first to last.
    pub(super) fn iter(self, chain: &Chain) -> impl Iterator<Item = u32> {
        std::iter::successors(self.first(), |slot| chain.after(*slot))
    }

    fn link(&mut self, chain: &mut Chain, before: u32, slot: u32, after: u32) {
        chain.links[slot as usize] = Links { before, after };
        match some(before) {
            Some(before) => chain.links[before as usize].after = slot,
            None => self.first = slot,
        }
        match some(after) {
            Some(after) => chain.links[after as usize].before = slot,
            None => self.last = slot,
        }
    }
}

fn some(slot: u32) -> Option<u32> {
    (slot != NIL).then_some(slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(list: List, chain: &Chain) -> Vec<u32> {
        list.iter(chain).collect()
    }

    #[test]
    fn slots_join_and_leave_anywhere() {
        let mut chain = Chain::default();
        chain.reach(4);
        let mut list = List::default();
        list.push_last(&mut chain, 2);
        list.push_last(&mut chain, 3);
        list.push_first(&mut chain, 1);
        list.insert_before(&mut chain, 0, 3);
        list.insert_before(&mut chain, 4, 1);
        assert_eq!(all(list, &chain), [4, 1, 2, 0, 3]);
        list.remove(&mut chain, 2);
        list.remove(&mut chain, 4);
        list.remove(&mut chain, 3);
        assert_eq!(all(list, &chain), [1, 0]);
        assert_eq!(list.last(), Some(0));
        list.remove(&mut chain, 0);
        list.remove(&mut chain, 1);
        assert_eq!(list.first(), None);
        assert_eq!(list.last(), None);
    }
}
