//! Tells whether anything has been created, altered or dropped since a statement was parsed. A Parse that comes later may mean something else
//! with the same text: other tables, other types of parameters. Coarse on purpose: one count for all databases of the process, and a change
//! that is not seen (made past the proxy, or by a function) does not count.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts changes of schemas. Shared by all workers; read when a client names a statement, never per message.
#[derive(Debug, Clone, Default)]
pub struct SchemaClock(Arc<AtomicU64>);

impl SchemaClock {
    /// How many changes there were.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// There was one.
    pub fn tick(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Whether a command with this tag changes what names mean. `DO` and `CALL` may.
#[must_use]
pub fn is_change(tag: &[u8]) -> bool {
    match tag.first() {
        Some(b'C') => tag.starts_with(b"CREATE ") || tag == b"CALL\0",
        Some(b'A') => tag.starts_with(b"ALTER "),
        Some(b'D') => tag.starts_with(b"DROP ") || tag == b"DO\0",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_count() {
        for tag in [&b"CREATE TABLE\0"[..], b"ALTER TYPE\0", b"DROP SCHEMA\0", b"DO\0", b"CALL\0"] {
            assert!(is_change(tag));
        }
        for tag in [&b"SELECT 1\0"[..], b"COPY 1\0", b"DELETE 0\0", b"DISCARD ALL\0", b"COMMIT\0", b"DECLARE CURSOR\0", b"", b"\0"] {
            assert!(!is_change(tag));
        }
    }

    #[test]
    fn workers_share_it() {
        let clock = SchemaClock::default();
        clock.clone().tick();
        assert_eq!(clock.now(), 1);
    }
}
