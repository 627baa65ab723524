//! Which leased connections are pinned: kept by one session past its transaction, because of something that it left on the connection. Pure.
//!
//! What there is to leave is the protocol's business: here each cause is a bit. A pin ends with the lease at the latest. Not here: what a
//! session is told that may not pin any more (`session`).

use super::core::Core;
use super::id::ConnId;
use super::state::ConnState;

/// How many causes there may be.
pub const CAUSES: usize = 7;

/// A set of causes, one bit each; beside them [`PROMISED`].
pub type CauseBits = u8;

/// The connection is about to be pinned, for what is not yet there: it counts among the pinned ones, so that two cannot have the last place.
pub const PROMISED: CauseBits = 1 << CAUSES;

/// How many connections are pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pinned {
    /// In all.
    pub connections: u32,
    /// By each cause; one connection may have several.
    pub by_cause: [u32; CAUSES],
}

impl Pinned {
    /// One more that is pinned for these causes; for none: nothing changes.
    pub(super) fn add(&mut self, causes: CauseBits) {
        self.connections += u32::from(causes != 0);
        for (bit, count) in self.by_cause.iter_mut().enumerate() {
            *count += u32::from(causes >> bit & 1);
        }
    }

    /// One of them fewer.
    pub(super) fn take(&mut self, causes: CauseBits) {
        self.connections -= u32::from(causes != 0);
        for (bit, count) in self.by_cause.iter_mut().enumerate() {
            *count -= u32::from(causes >> bit & 1);
        }
    }
}

impl Core {
    /// A leased connection is pinned for these causes from now on, for none of them not any more; false when it was not and as many are pinned
    /// as may be.
    pub fn pin(&mut self, conn: ConnId, causes: CauseBits) -> bool {
        let Some(slot) = self.conns.find_in(conn, ConnState::Leased) else { return true };
        let full = self.conns.pinned().connections >= self.limits.max_pinned;
        if causes != 0 && self.conns.at(slot).pins() == 0 && full {
            return false;
        }
        self.conns.pin(slot, causes);
        self.checked();
        true
    }

    /// How many are pinned.
    #[must_use]
    pub fn pinned(&self) -> Pinned {
        self.conns.pinned()
    }
}
