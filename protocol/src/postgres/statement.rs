//! The messages that name a prepared statement: reading the names and writing the same messages with other names.
//!
//! Source: PostgreSQL documentation, "Message Formats": Parse, Bind, Describe, Close. Only heads and names are touched; what follows is passed.

use super::frame::{HEAD_BYTES, cstr};

/// The longest names (portal and statement together) that are looked at. PostgreSQL has no bound; nobody is known to need more.
pub const MAX_NAME_BYTES: usize = 64 * 1024;

/// What a Describe or Close is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// `S`: a prepared statement.
    Statement(&'a [u8]),
    /// `P`: a portal.
    Portal(&'a [u8]),
}

/// Reads the body of a Describe or Close; `None` when it is malformed.
#[must_use]
pub fn target(body: &[u8]) -> Option<Target<'_>> {
    let (&kind, rest) = body.split_first()?;
    let (name, []) = cstr(rest)? else { return None };
    match kind {
        b'S' => Some(Target::Statement(name)),
        b'P' => Some(Target::Portal(name)),
        _ => None,
    }
}

/// The names at the start of a Bind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BindNames<'a> {
    /// The portal to make.
    pub portal: &'a [u8],
    /// The statement to make it from.
    pub statement: &'a [u8],
    /// How many bytes of the body the two names take.
    pub bytes: usize,
}

/// Reads the names at the start of a Bind body, of which only a part may be there; `None` when the names are not complete.
#[must_use]
pub fn bind_names(body: &[u8]) -> Option<BindNames<'_>> {
    let (portal, rest) = cstr(body)?;
    let (statement, _) = cstr(rest)?;
    Some(BindNames { portal, statement, bytes: portal.len() + statement.len() + 2 })
}

fn put_head(out: &mut Vec<u8>, tag: u8, body: usize) {
    out.push(tag);
    // A body is below 1 GiB (`frame::MAX_BODY_BYTES`), and what is added to it are names of at most a few kilobytes.
    out.extend_from_slice(&u32::try_from(body + HEAD_BYTES - 1).unwrap_or(u32::MAX).to_be_bytes());
}

/// Writes a Parse: `rest` is what follows the name (the query, and the parameter types).
pub fn put_parse(out: &mut Vec<u8>, name: &[u8], rest: &[u8]) {
    put_head(out, b'P', name.len() + 1 + rest.len());
    out.extend_from_slice(name);
    out.push(0);
    out.extend_from_slice(rest);
}

/// Writes the head and names of a Bind; `rest` bytes have to follow.
pub fn put_bind_start(out: &mut Vec<u8>, portal: &[u8], statement: &[u8], rest: usize) {
    put_head(out, b'B', portal.len() + statement.len() + 2 + rest);
    out.extend_from_slice(portal);
    out.push(0);
    out.extend_from_slice(statement);
    out.push(0);
}

/// Writes a Describe of a statement.
pub fn put_describe(out: &mut Vec<u8>, statement: &[u8]) {
    put_target(out, b'D', statement);
}

/// Writes a Close of a statement.
pub fn put_close(out: &mut Vec<u8>, statement: &[u8]) {
    put_target(out, b'C', statement);
}

fn put_target(out: &mut Vec<u8>, tag: u8, statement: &[u8]) {
    put_head(out, tag, statement.len() + 2);
    out.push(b'S');
    out.extend_from_slice(statement);
    out.push(0);
}

/// Writes what runs a command that gives no rows, inside of any batch: Parse, Bind, Execute, Close of the portal, and Close of the statement if it
/// has a name. The portal has one, because the unnamed one may be the client's.
pub fn put_run(out: &mut Vec<u8>, statement: &[u8], portal: &[u8], command: &[&[u8]]) {
    let length: usize = command.iter().map(|part| part.len()).sum();
    put_head(out, b'P', statement.len() + 1 + length + 1 + 2);
    out.extend_from_slice(statement);
    out.push(0);
    command.iter().for_each(|part| out.extend_from_slice(part));
    // The end of the text, and no types of parameters.
    out.extend_from_slice(&[0, 0, 0]);
    put_bind_start(out, portal, statement, 6);
    // No formats, no parameters, no formats of results.
    out.extend_from_slice(&[0; 6]);
    put_head(out, b'E', portal.len() + 1 + 4);
    out.extend_from_slice(portal);
    // All rows.
    out.extend_from_slice(&[0; 5]);
    put_head(out, b'C', portal.len() + 2);
    out.push(b'P');
    out.extend_from_slice(portal);
    out.push(0);
    if !statement.is_empty() {
        put_close(out, statement);
    }
}

/// Writes a simple query.
pub fn put_query(out: &mut Vec<u8>, text: &[u8]) {
    put_head(out, b'Q', text.len() + 1);
    out.extend_from_slice(text);
    out.push(0);
}

/// Flush.
pub const FLUSH: [u8; 5] = [b'H', 0, 0, 0, 4];

/// Sync.
pub const SYNC: [u8; 5] = [b'S', 0, 0, 0, 4];

/// ParseComplete.
pub const PARSE_COMPLETE: [u8; 5] = [b'1', 0, 0, 0, 4];

/// CloseComplete.
pub const CLOSE_COMPLETE: [u8; 5] = [b'3', 0, 0, 0, 4];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::frame::head;

    #[test]
    fn targets_are_read_whole_or_not_at_all() {
        assert_eq!(target(b"Sfoo\0"), Some(Target::Statement(b"foo")));
        assert_eq!(target(b"P\0"), Some(Target::Portal(b"")));
        for broken in [&b""[..], b"S", b"Sfoo", b"Xfoo\0", b"Sfoo\0junk"] {
            assert_eq!(target(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn bind_names_wait_for_both() {
        assert_eq!(bind_names(b"p\0s\0rest"), Some(BindNames { portal: b"p", statement: b"s", bytes: 4 }));
        assert_eq!(bind_names(b"p\0s"), None);
        assert_eq!(bind_names(b""), None);
    }

    #[test]
    fn written_messages_read_back() {
        let mut out = Vec::new();
        put_parse(&mut out, b"x", b"select 1\0\0\0");
        let h = head(&out).unwrap().unwrap();
        assert_eq!((h.tag, h.message_bytes()), (b'P', out.len()));
        out.clear();
        put_bind_start(&mut out, b"", b"x", 6);
        assert_eq!(head(&out).unwrap().unwrap().body, 3 + 6);
        out.clear();
        put_close(&mut out, b"x");
        assert_eq!(target(&out[HEAD_BYTES..]), Some(Target::Statement(b"x")));
        out.clear();
        put_describe(&mut out, b"x");
        assert_eq!(target(&out[HEAD_BYTES..]), Some(Target::Statement(b"x")));
        out.clear();
        let unnamed: [(u8, &[u8]); 4] =
            [(b'P', b"\0PREPARE x\0\0\0"), (b'B', b"p\0\0\0\0\0\0\0\0"), (b'E', b"p\0\0\0\0\0"), (b'C', b"Pp\0")];
        let named: [(u8, &[u8]); 5] =
            [(b'P', b"s\0PREPARE x\0\0\0"), (b'B', b"p\0s\0\0\0\0\0\0\0"), (b'E', b"p\0\0\0\0\0"), (b'C', b"Pp\0"), (b'C', b"Ss\0")];
        for (statement, expected) in [(&b""[..], &unnamed[..]), (b"s", &named)] {
            out.clear();
            put_run(&mut out, statement, b"p", &[b"PREPARE ", b"x"]);
            let (mut rest, mut seen) = (&out[..], Vec::new());
            while let Some(h) = head(rest).unwrap() {
                seen.push((h.tag, rest[HEAD_BYTES..h.message_bytes()].to_vec()));
                rest = &rest[h.message_bytes()..];
            }
            assert!(rest.is_empty());
            assert!(seen.iter().map(|(tag, body)| (*tag, &body[..])).eq(expected.iter().copied()), "{seen:?}");
        }
    }
}
