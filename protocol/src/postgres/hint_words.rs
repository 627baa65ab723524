//! The parts of [`hints`](super::hints) that read tokens: the arguments of `set_config`, and the statements that change settings themselves.

use super::hints::{Hints, Kinds};
use super::sql::{Token, Tokens};

/// Whether a byte can be a part of a word.
pub(super) fn is_part(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || byte >= 0x80
}

/// What follows the word `set_config`.
pub(super) fn set_config(after: &[u8], hints: &mut Hints) {
    // "set_config" is the same function.
    let after = after.strip_prefix(b"\"").unwrap_or(after);
    let mut tokens = Tokens::new(after);
    if tokens.next() != Token::Symbol(b'(') {
        // The name of something else, or a comment.
        return;
    }
    tokens.skip_blanks();
    let start = tokens.at();
    let name = match tokens.next() {
        Token::Text => &after[start..tokens.at()],
        Token::Word(_) | Token::Quoted(_) | Token::Symbol(_) | Token::End | Token::Unclear => return hints.add(Kinds::UNKNOWN),
    };
    if !skip_casts(&mut tokens) {
        return hints.add(Kinds::UNKNOWN);
    }
    if is_local(&mut tokens) {
        return;
    }
    match name {
        [b'\'', name @ .., b'\''] => hints.name(name),
        [b'$', number @ ..] if number.iter().all(u8::is_ascii_digit) => hints.add(Kinds::BOUND),
        _ => hints.add(Kinds::UNKNOWN),
    }
}

/// Goes behind the comma that follows an argument and its casts (`::text`).
fn skip_casts(tokens: &mut Tokens<'_>) -> bool {
    loop {
        match tokens.next() {
            Token::Symbol(b',') => return true,
            Token::Symbol(b':' | b'.') | Token::Word(_) | Token::Quoted(_) => {}
            Token::Symbol(_) | Token::Text | Token::End | Token::Unclear => return false,
        }
    }
}

/// Whether the third argument is the word `true`; the second comes next.
fn is_local(tokens: &mut Tokens<'_>) -> bool {
    let mut depth = 0_usize;
    loop {
        match tokens.next() {
            Token::Symbol(b',') if depth == 0 => break,
            Token::Symbol(b'(' | b'[') => depth += 1,
            Token::Symbol(b')' | b']') if depth > 0 => depth -= 1,
            Token::Symbol(b')' | b']' | b';') | Token::End | Token::Unclear => return false,
            Token::Symbol(_) | Token::Word(_) | Token::Quoted(_) | Token::Text => {}
        }
    }
    tokens.word().is_some_and(|word| word.eq_ignore_ascii_case(b"true")) && tokens.next() == Token::Symbol(b')')
}

/// The statements of a text by their first words.
pub(super) fn statements(text: &[u8], hints: &mut Hints) {
    let mut tokens = Tokens::new(text);
    // Most texts are one statement, and of those only the first word is read.
    let single = memchr::memchr(b';', text).is_none_or(|at| text[at..].iter().all(|byte| matches!(byte, b';' | b' ' | b'\t'..=b'\r')));
    loop {
        statement(&mut tokens, hints);
        if single {
            return;
        }
        match tokens.skip_statement() {
            Ok(Some(_)) => {}
            Ok(None) => return,
            Err(_) => return hints.add(Kinds::UNKNOWN),
        }
    }
}

fn statement(tokens: &mut Tokens<'_>, hints: &mut Hints) {
    let before = tokens.clone();
    let Some(first) = tokens.word() else {
        *tokens = before;
        return;
    };
    // The longest of them has ten letters.
    let mut lower = [0; 10];
    let Some(room) = lower.get_mut(..first.len()) else { return };
    room.copy_from_slice(first);
    room.make_ascii_lowercase();
    match &*room {
        b"set" => set(tokens, hints),
        b"reset" => reset(tokens, hints),
        b"do" => within(tokens, hints),
        b"call" => hints.add(Kinds::UNKNOWN),
        b"load" => hints.add(Kinds::LIBRARIES),
        b"close" | b"drop" | b"unlisten" | b"deallocate" => hints.add(Kinds::ENDS),
        b"alter" => alter(tokens, hints),
        b"discard" => discard(tokens, hints),
        _ => {}
    }
}

/// `SET [SESSION | LOCAL] name {TO | =} …`, and all its special forms.
fn set(tokens: &mut Tokens<'_>, hints: &mut Hints) {
    hints.sets = true;
    let Some(name) = tokens.name() else { return hints.add(Kinds::UNKNOWN) };
    let second = tokens.clone();
    match &*name.to_ascii_lowercase() {
        b"local" | b"transaction" | b"constraints" => return,
        b"session" => {
            let Some(name) = tokens.name() else { return hints.add(Kinds::UNKNOWN) };
            match &*name.to_ascii_lowercase() {
                b"characteristics" => {
                    for name in [&b"default_transaction_isolation"[..], b"default_transaction_read_only", b"default_transaction_deferrable"]
                    {
                        hints.name(name);
                    }
                    return;
                }
                b"authorization" => authorization(hints),
                // SET SESSION TRANSACTION … is no SQL of PostgreSQL's, and the server says so.
                _ => setting(&name, tokens, hints),
            }
        }
        _ => {
            *tokens = second;
            setting(&name, tokens, hints);
        }
    }
    if default_follows(tokens) {
        hints.add(Kinds::RESETS);
    }
}

/// SET SESSION AUTHORIZATION takes the role back, too.
fn authorization(hints: &mut Hints) {
    hints.name(b"session_authorization");
    hints.name(b"role");
}

/// What a name that follows SET or RESET stands for.
fn setting(name: &[u8], tokens: &mut Tokens<'_>, hints: &mut Hints) {
    let before = tokens.clone();
    let word = tokens.word().unwrap_or_default();
    match (&*name.to_ascii_lowercase(), &*word.to_ascii_lowercase()) {
        (b"time", b"zone") => hints.name(b"timezone"),
        (b"xml", b"option") => hints.name(b"xmloption"),
        (b"session", b"authorization") => authorization(hints),
        (b"session_authorization", _) => {
            *tokens = before;
            authorization(hints);
        }
        (b"names", _) => {
            *tokens = before;
            hints.name(b"client_encoding");
        }
        (b"schema", _) => {
            *tokens = before;
            hints.name(b"search_path");
        }
        (b"seed", _) => hints.add(Kinds::SEED),
        (b"transaction", b"isolation") => {}
        _ => {
            *tokens = before;
            hints.name(name);
        }
    }
}

/// Whether the value that follows is DEFAULT (or, of time zones, LOCAL; of roles, NONE).
fn default_follows(tokens: &mut Tokens<'_>) -> bool {
    let mut next = tokens.word();
    if next.is_none_or(|word| word.eq_ignore_ascii_case(b"to")) {
        next = tokens.word();
    }
    next.is_some_and(|word| word.eq_ignore_ascii_case(b"default") || word.eq_ignore_ascii_case(b"local"))
}

fn reset(tokens: &mut Tokens<'_>, hints: &mut Hints) {
    hints.sets = true;
    hints.add(Kinds::RESETS);
    match tokens.name() {
        Some(name) if name.eq_ignore_ascii_case(b"all") => hints.add(Kinds::RESETS_ALL),
        Some(name) => setting(&name, tokens, hints),
        None => hints.add(Kinds::UNKNOWN),
    }
}

/// Names that a DO block sets in plain words, so that they can be asked for by name.
fn within(tokens: &mut Tokens<'_>, hints: &mut Hints) {
    hints.add(Kinds::UNKNOWN);
    let mut rest = tokens.rest();
    while let Some(at) = memchr::memmem::find(rest, b"set ").or_else(|| memchr::memmem::find(rest, b"SET ")) {
        rest = &rest[at + 4..];
        let mut inner = Tokens::new(rest);
        let name = inner.name().filter(|name| !name.eq_ignore_ascii_case(b"session"));
        // What could be a column in an UPDATE is asked for in vain.
        if let Some(name) = name.or_else(|| inner.name()).filter(|name| name.contains(&b'.')) {
            hints.name(&name);
        }
    }
}

/// ALTER ROLE … SET, ALTER DATABASE … SET.
fn alter(tokens: &mut Tokens<'_>, hints: &mut Hints) {
    let Some(what) = tokens.word() else { return };
    if ![&b"role"[..], b"user", b"group", b"database"].iter().any(|known| known.eq_ignore_ascii_case(what)) {
        return;
    }
    loop {
        let before = tokens.clone();
        match tokens.next() {
            Token::End | Token::Unclear => return,
            Token::Symbol(b';') => {
                *tokens = before;
                return;
            }
            Token::Word(_) => {
                *tokens = before;
                let word = tokens.word().unwrap_or_default();
                if word.eq_ignore_ascii_case(b"set") || word.eq_ignore_ascii_case(b"reset") {
                    return hints.add(Kinds::DEFAULTS);
                }
            }
            Token::Quoted(_) | Token::Text | Token::Symbol(_) => {}
        }
    }
}

fn discard(tokens: &mut Tokens<'_>, hints: &mut Hints) {
    match tokens.word() {
        Some(word) if word.eq_ignore_ascii_case(b"plans") || word.eq_ignore_ascii_case(b"sequences") => {}
        _ => hints.add(Kinds::ENDS),
    }
}
