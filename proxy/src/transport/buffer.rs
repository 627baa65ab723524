//! Memory that belongs to the worker and is lent to whoever is on the thread right now, so that an idle client holds none.
//!
//! The loans are synchronous: a `RefCell` guard must never live across an `await` (clippy's `await_holding_refcell_ref` holds us to that).

use std::cell::RefCell;

/// How much is read from a socket at a time.
pub const READ_BYTES: usize = 64 * 1024;

/// The buffers of one worker.
pub struct Buffers {
    /// What was just read. Always [`READ_BYTES`] long.
    pub read: RefCell<Box<[u8]>>,
    /// What is about to be written when it cannot be written straight from `read`. Cleared by whoever borrows it.
    pub scratch: RefCell<Vec<u8>>,
}

impl Default for Buffers {
    fn default() -> Self {
        Self { read: RefCell::new(vec![0; READ_BYTES].into_boxed_slice()), scratch: RefCell::new(Vec::with_capacity(READ_BYTES)) }
    }
}
