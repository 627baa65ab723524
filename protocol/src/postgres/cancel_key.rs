//! Cancel keys as clients get them: eight bytes, random but for what routing needs.
//!
//! ```text
//!   byte    0          1   2           3 4 5 6    7
//!           0.......   peer id (LE)    random     ......TT
//! ```
//! The top bit stays 0 because the first four bytes are printed as a process id. The peer id and the two bits of `T` (how often a request may
//! still be forwarded) are there only when the process has peers: the layout of PgBouncer 1.19 and later, so that mixed fleets understand each
//! other. Without peers all of it is random. Not here: whom a key belongs to (the proxy's registry), or the message around it (`startup`).

use std::fmt;

/// How many bytes a key has in protocol 3.0.
pub const KEY_BYTES: usize = 8;

/// The bits of the last byte that say how often a request may still be forwarded.
const HOPS: u8 = 0b11;

/// A key of the proxy's own: what a client is told in BackendKeyData. Whoever has it can cancel, so it is never printed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CancelKey([u8; KEY_BYTES]);

impl CancelKey {
    /// A new key made of these random bytes; `peer` is 0 in a process without peers.
    #[must_use]
    pub const fn new(random: [u8; KEY_BYTES], peer: u16) -> Self {
        let mut bytes = random;
        if peer > 0 {
            [bytes[1], bytes[2]] = peer.to_le_bytes();
            bytes[7] |= HOPS;
        }
        bytes[0] &= 0x7F;
        Self(bytes)
    }

    /// The key in a cancel request, or one that another process made.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// What stands for the process id.
    #[must_use]
    pub const fn process_id(self) -> i32 {
        let [a, b, c, d, ..] = self.0;
        i32::from_be_bytes([a, b, c, d])
    }

    /// The secret.
    #[must_use]
    pub const fn secret(self) -> [u8; 4] {
        let [.., a, b, c, d] = self.0;
        [a, b, c, d]
    }

    /// All of it.
    #[must_use]
    pub const fn bytes(self) -> [u8; KEY_BYTES] {
        self.0
    }

    /// The peer that made the key, if keys are made by peers.
    #[must_use]
    pub const fn peer(self) -> u16 {
        u16::from_le_bytes([self.0[1], self.0[2]])
    }

    /// The key to send on to a peer; `None` when it has been sent on too often.
    #[must_use]
    pub const fn forwarded(self) -> Option<Self> {
        let mut bytes = self.0;
        if bytes[7] & HOPS == 0 {
            return None;
        }
        bytes[7] -= 1;
        Some(Self(bytes))
    }

    /// The key as the peer made it, however often it was sent on.
    #[must_use]
    pub const fn as_made_by_a_peer(self) -> Self {
        let mut bytes = self.0;
        bytes[7] |= HOPS;
        Self(bytes)
    }
}

impl fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CancelKey(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_peers_all_but_one_bit_is_random() {
        let key = CancelKey::new([0xFF; 8], 0);
        assert_eq!(key.bytes(), [0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]);
        assert_eq!(CancelKey::new([0; 8], 0).bytes(), [0; 8]);
        assert!(key.process_id() > 0);
    }

    #[test]
    fn a_peer_is_found_in_its_key_in_pgbouncers_place() {
        let key = CancelKey::new([0; 8], 0x0102);
        assert_eq!(key.bytes(), [0, 0x02, 0x01, 0, 0, 0, 0, 3]);
        for peer in [1, 255, 256, u16::MAX] {
            assert_eq!(CancelKey::new([0xA5; 8], peer).peer(), peer);
        }
    }

    #[test]
    fn a_key_is_sent_on_three_times_and_known_again_each_time() {
        let made = CancelKey::new([0x5A; 8], 7);
        let mut key = made;
        for _ in 0..3 {
            key = key.forwarded().unwrap();
            assert_ne!(key, made);
            assert_eq!(key.as_made_by_a_peer(), made);
            assert_eq!(key.peer(), 7);
        }
        assert_eq!(key.forwarded(), None);
    }

    #[test]
    fn a_key_is_not_printed() {
        assert_eq!(format!("{:?}", CancelKey::new([9; 8], 1)), "CancelKey(***)");
    }
}
