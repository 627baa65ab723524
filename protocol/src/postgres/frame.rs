//! The head of a message: one tag byte and four bytes of length. Heads are read, bodies flow past.
//!
//! Source: PostgreSQL documentation, "Message Flow" (the length counts itself, not the tag) and `PQ_LARGE_MESSAGE_LIMIT` (just under 1 GiB).

/// Bytes of a message head.
pub const HEAD_BYTES: usize = 5;

/// The longest body that PostgreSQL accepts or sends (`MaxAllocSize - 1`, the length field included in neither).
pub const MAX_BODY_BYTES: usize = 0x3fff_ffff - 1;

/// A message head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The tag byte, not yet judged.
    pub tag: u8,
    /// How many bytes follow the head.
    pub body: usize,
}

impl Head {
    /// The whole message, head included.
    #[must_use]
    pub fn message_bytes(self) -> usize {
        HEAD_BYTES + self.body
    }
}

/// A length that no message can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadLength {
    /// The tag byte of the message.
    pub tag: u8,
    /// The length field as it was sent.
    pub length: u32,
}

impl std::fmt::Display for BadLength {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "message 0x{:02x} claims a length of {} bytes; a length is at least 4 and below 1 GiB", self.tag, self.length)
    }
}

/// Reads the head at the start of `bytes`; `None` when fewer than [`HEAD_BYTES`] are there.
pub fn head(bytes: &[u8]) -> Result<Option<Head>, BadLength> {
    let Some(&[tag, a, b, c, d]) = bytes.first_chunk::<HEAD_BYTES>() else { return Ok(None) };
    let length = u32::from_be_bytes([a, b, c, d]);
    match (length as usize).checked_sub(4) {
        Some(body) if body <= MAX_BODY_BYTES => Ok(Some(Head { tag, body })),
        _ => Err(BadLength { tag, length }),
    }
}

/// Splits a zero-terminated string off the front of `body`; `None` when no terminator is there.
#[must_use]
pub fn cstr(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(0, body)?;
    Some((&body[..end], &body[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_needs_five_bytes() {
        assert_eq!(head(b""), Ok(None));
        assert_eq!(head(b"Q\0\0\0"), Ok(None));
        assert_eq!(head(b"S\0\0\0\x04"), Ok(Some(Head { tag: b'S', body: 0 })));
    }

    #[test]
    fn impossible_lengths_are_named() {
        for length in [0u32, 3, 0x4000_0003, 0x8000_0000, u32::MAX] {
            let mut bytes = vec![b'Q'];
            bytes.extend(length.to_be_bytes());
            assert_eq!(head(&bytes), Err(BadLength { tag: b'Q', length }), "{length}");
        }
    }

    #[test]
    fn the_largest_length_is_allowed() {
        let mut bytes = vec![b'D'];
        bytes.extend(u32::try_from(MAX_BODY_BYTES + 4).unwrap().to_be_bytes());
        assert_eq!(head(&bytes).unwrap().unwrap().body, MAX_BODY_BYTES);
    }

    #[test]
    fn a_string_ends_at_its_zero() {
        assert_eq!(cstr(b"ab\0cd"), Some((&b"ab"[..], &b"cd"[..])));
        assert_eq!(cstr(b"ab"), None);
        assert_eq!(cstr(b"\0"), Some((&b""[..], &b""[..])));
    }
}
