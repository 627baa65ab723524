//! Random bytes that nobody can guess, for nonces and cancel keys: got from the system for several logins at a time. What has been given away is wiped,
//! so that nothing here tells of it. One for each worker. Not here: chance that may be guessed (`pool::random`).
//!
//! What is in store outlives a snapshot of the machine: copies of it begin with the same nonces and cancel keys, 256 bytes of them at most.

use std::cell::RefCell;

/// How much is got from the system at a time: so much it gives at once, as soon as it gives any.
const STORE_BYTES: usize = 256;

/// What one worker has in store.
#[derive(Default)]
pub struct Chance(RefCell<Store>);

struct Store {
    bytes: [u8; STORE_BYTES],
    /// How many of them have not been given away, at the front.
    left: usize,
}

impl Default for Store {
    fn default() -> Self {
        Self { bytes: [0; STORE_BYTES], left: 0 }
    }
}

impl Chance {
    /// So many random bytes, which nobody else gets. Fails when there are none to be had.
    pub fn bytes<const MANY: usize>(&self) -> Result<[u8; MANY], getrandom::Error> {
        const { assert!(MANY <= STORE_BYTES) };
        let store = &mut *self.0.borrow_mut();
        if store.left < MANY {
            // Until it has succeeded there is nothing.
            store.left = 0;
            getrandom::fill(&mut store.bytes)?;
            store.left = STORE_BYTES;
        }
        store.left -= MANY;
        let mut given = [0; MANY];
        given.swap_with_slice(&mut store.bytes[store.left..][..MANY]);
        Ok(given)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn nothing_is_given_twice_and_what_was_given_is_wiped() {
        let chance = Chance::default();
        let given: BTreeSet<[u8; 22]> = (0..100).map(|_| chance.bytes().unwrap()).collect();
        assert_eq!(given.len(), 100);
        let store = chance.0.borrow();
        assert!(store.left < STORE_BYTES && store.bytes[store.left..].iter().all(|byte| *byte == 0));
        assert!(store.bytes[..store.left].iter().any(|byte| *byte != 0));
    }
}
