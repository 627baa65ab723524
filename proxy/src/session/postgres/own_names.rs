//! Errors that name a statement: the server knows it by our name, the client by its own.

use sidepool_protocol::postgres::frame;
use sidepool_protocol::postgres::splice::Splice;

use super::outbound::field;
use super::prepared::ClientStatements;
use crate::upstream::postgres::link::Renamed;
use crate::upstream::postgres::statements::{NAME_PREFIX, StatementId};

/// Puts an error with the client's names in the place of ours, and with positions in the text that the client wrote. `renamed` is what was
/// replaced in that text. False, and nothing is put, when the error says nothing of either.
pub(super) fn put_error(body: &[u8], client: Option<&ClientStatements>, renamed: &[Renamed], out: &mut Splice<'_>) -> bool {
    if renamed.is_empty() && find_ours(body).is_none() {
        return false;
    }
    let mut changed = Vec::with_capacity(body.len());
    let mut rest = body;
    while let Some((&code, after)) = rest.split_first() {
        let Some((value, next)) = frame::cstr(after) else { break };
        changed.push(code);
        match code {
            b'M' | b'D' | b'H' => put_text(value, client, renamed, &mut changed),
            b'P' => put_position(value, renamed, &mut changed),
            _ => changed.extend_from_slice(value),
        }
        changed.push(0);
        rest = next;
    }
    changed.push(0);
    put(&changed, out);
    true
}

/// Whether the message of an error names this statement.
pub(super) fn names(body: &[u8], id: StatementId) -> bool {
    let (name, message) = (id.server_name(), field(body, b'M').unwrap_or_default());
    let ends = |end: usize| message.get(end).is_none_or(|byte| !byte.is_ascii_digit());
    memchr::memmem::find_iter(message, name.as_bytes()).any(|at| ends(at + name.as_bytes().len()))
}

/// Puts an error with this body.
pub(super) fn put(body: &[u8], out: &mut Splice<'_>) {
    let out = out.put();
    out.push(b'E');
    // It came out of a message of at most a few kilobytes.
    out.extend_from_slice(&u32::try_from(body.len() + 4).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(body);
}

/// Our names stand in quotes: `"sidepool_7"`.
fn put_text(mut text: &[u8], client: Option<&ClientStatements>, renamed: &[Renamed], out: &mut Vec<u8>) {
    while let Some(found) = find_ours(text) {
        let (before, from) = text.split_at(found);
        let length = from.iter().position(|byte| !(byte.is_ascii_alphanumeric() || *byte == b'_')).unwrap_or(from.len());
        let (ours, after) = from.split_at(length);
        out.extend_from_slice(before);
        out.extend_from_slice(theirs(ours, client, renamed).unwrap_or(ours));
        text = after;
    }
    out.extend_from_slice(text);
}

fn find_ours(text: &[u8]) -> Option<usize> {
    text.windows(NAME_PREFIX.len()).position(|window| window == NAME_PREFIX)
}

fn theirs<'a>(ours: &[u8], client: Option<&'a ClientStatements>, renamed: &'a [Renamed]) -> Option<&'a [u8]> {
    if let Some(renamed) = renamed.iter().find(|renamed| &*renamed.ours == ours) {
        return Some(&renamed.theirs);
    }
    let number = std::str::from_utf8(ours.strip_prefix(NAME_PREFIX)?).ok()?.parse().ok()?;
    let id = StatementId::new(number);
    client?.named.iter().find(|(_, statement)| statement.id() == id).map(|(name, _)| &**name)
}

/// A position counts characters from 1 in what the server was sent.
fn put_position(position: &[u8], renamed: &[Renamed], out: &mut Vec<u8>) {
    let Some(sent) = std::str::from_utf8(position).ok().and_then(|digits| digits.parse::<usize>().ok()) else {
        return out.extend_from_slice(position);
    };
    let mut theirs = sent;
    for name in renamed.iter().filter(|name| name.at.saturating_add(name.ours.len()) < sent) {
        theirs = (theirs + name.characters).saturating_sub(name.ours.len());
    }
    out.extend_from_slice(theirs.to_string().as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(body: &[u8], renamed: &[Renamed]) -> Option<String> {
        let mut scratch = Vec::new();
        let mut out = Splice::new(&[], &mut scratch);
        put_error(body, None, renamed, &mut out).then(|| String::from_utf8_lossy(&out.finish()[5..]).replace('\0', "."))
    }

    fn name(theirs: &str, ours: &str, at: usize) -> Renamed {
        Renamed { theirs: theirs.as_bytes().into(), ours: ours.as_bytes().into(), at, characters: theirs.len() }
    }

    #[test]
    fn an_error_without_names_stays_as_it_is() {
        assert_eq!(rewritten(b"SERROR\0C42601\0Mno\0\0", &[]), None);
    }

    #[test]
    fn an_error_names_whole_names() {
        let says =
            |text: &str, id| names(format!("SERROR\0Mprepared statement \"{text}\" does not exist\0\0").as_bytes(), StatementId::new(id));
        assert!(says("sidepool_12", 12) && says("sidepool_123, sidepool_12", 12));
        assert!(!says("sidepool_123", 12) && !says("x", 12) && !names(b"", StatementId::new(12)));
    }

    #[test]
    fn names_are_the_clients_and_positions_are_in_its_text() {
        // PREPARE sidepool_12 AS SELEC 1   for   PREPARE a AS SELEC 1
        let renamed = [name("a", "sidepool_12", 8)];
        let error = b"SERROR\0C42P05\0Mprepared statement \"sidepool_12\" already exists\0P24\0\0";
        assert_eq!(rewritten(error, &renamed).unwrap(), "SERROR.C42P05.Mprepared statement \"a\" already exists.P14..");
        assert_eq!(rewritten(b"P8\0\0", &renamed).unwrap(), "P8..");
        assert_eq!(rewritten(b"Px\0Msidepool_1, sidepool_12\0\0", &renamed).unwrap(), "Px.Msidepool_1, a..");
    }
}
