//! Finds the channels that the statements of one text LISTEN to.
//!
//! A text without such a statement is told by its first word, and by what stands behind its semicolons. What a function or a DO block listens to
//! stands in no text; that is found out otherwise. Source: PostgreSQL documentation, "LISTEN" and "Lexical Structure".

use std::borrow::Cow;

use super::sql::{MAX_NAME_BYTES, Token, Tokens, is, undouble};

/// What a text listens to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listens<'a> {
    /// Nothing.
    No,
    /// These channels, as PostgreSQL knows them.
    To(Vec<Cow<'a, [u8]>>),
    /// It can be read in two ways.
    Unclear,
}

/// Whether a statement of the text may be LISTEN: false is certain.
#[must_use]
#[inline]
pub fn may_listen(text: &[u8]) -> bool {
    begins_so(text) || memchr::memchr_iter(b';', text).any(|at| begins_so(&text[at + 1..]))
}

/// The same for a text of which this is the beginning, as far as its first statement goes.
#[must_use]
#[inline]
pub fn may_begin_listening(start: &[u8]) -> bool {
    let start = start.trim_ascii_start();
    match start.first() {
        None | Some(b'-' | b'/') => true,
        Some(_) => start.iter().zip(LISTEN).all(|(byte, letter)| byte.eq_ignore_ascii_case(letter)),
    }
}

const LISTEN: &[u8; 6] = b"listen";

/// Whether the first statement of the text is LISTEN. A text that is parsed has no other.
#[must_use]
#[inline]
pub fn begins_so(text: &[u8]) -> bool {
    let text = text.trim_ascii_start();
    match text.first() {
        Some(b'l' | b'L') => text.get(..LISTEN.len()).is_some_and(|word| is(word, LISTEN)),
        // Behind a comment.
        Some(b'-' | b'/') => first_word_is_listen(text),
        Some(_) | None => false,
    }
}

fn first_word_is_listen(text: &[u8]) -> bool {
    matches!(Tokens::new(text).next(), Token::Word(range) if is(&text[range.clone()], LISTEN))
}

/// All channels that a whole text listens to, in order.
#[must_use]
pub fn listens(text: &[u8]) -> Listens<'_> {
    if !may_listen(text) {
        return Listens::No;
    }
    let mut tokens = Tokens::new(text);
    let mut channels = Vec::new();
    loop {
        let before = tokens.clone();
        match tokens.next() {
            Token::Word(range) if is(&text[range.clone()], LISTEN) => match channel(text, tokens.next()) {
                Ok(Some(channel)) => channels.push(channel),
                // What the server calls a syntax error.
                Ok(None) => {}
                Err(Strange) => return Listens::Unclear,
            },
            Token::Unclear => return Listens::Unclear,
            Token::Word(_) | Token::Quoted(_) | Token::Text | Token::Symbol(_) | Token::End => tokens = before,
        }
        match tokens.skip_statement() {
            Err(_) => return Listens::Unclear,
            Ok(None) if channels.is_empty() => return Listens::No,
            Ok(None) => return Listens::To(channels),
            Ok(Some(_)) => {}
        }
    }
}

/// It is not clear which name is meant.
struct Strange;

fn channel(text: &[u8], name: Token) -> Result<Option<Cow<'_, [u8]>>, Strange> {
    let name: Cow<'_, [u8]> = match name {
        // U&"…" is a name in quotes with escapes, and no word.
        Token::Word(range) if text.get(range.end) == Some(&b'&') => return Err(Strange),
        Token::Word(range) => {
            let word = &text[range];
            if word.iter().any(u8::is_ascii_uppercase) { word.to_ascii_lowercase().into() } else { word.into() }
        }
        Token::Quoted(range) => {
            let inner = &text[range.start + 1..range.end - 1];
            if memchr::memmem::find(inner, b"\"\"").is_some() { undouble(inner).into() } else { inner.into() }
        }
        Token::Text | Token::Symbol(_) | Token::End => return Ok(None),
        Token::Unclear => return Err(Strange),
    };
    if std::str::from_utf8(&name).is_err() {
        return Err(Strange);
    }
    Ok((!name.is_empty()).then(|| clipped(name)))
}

/// Of a longer name PostgreSQL keeps the whole characters among the first 63 bytes.
fn clipped(name: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    if name.len() <= MAX_NAME_BYTES {
        return name;
    }
    let is_start = |at: &usize| name[*at] & 0xc0 != 0x80;
    let end = (0..=MAX_NAME_BYTES).rev().find(is_start).unwrap_or(0);
    name[..end].to_vec().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        match listens(text.as_bytes()) {
            Listens::No => Vec::new(),
            Listens::To(channels) => channels.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect(),
            Listens::Unclear => vec!["?".to_owned()],
        }
    }

    #[test]
    fn channels_are_read_as_postgresql_reads_them() {
        assert_eq!(names("LISTEN a"), ["a"]);
        assert_eq!(names(" \n listen\tMixed_Case1 ;"), ["mixed_case1"]);
        assert_eq!(names("Listen \"Mixed \"\"Case\";"), ["Mixed \"Case"]);
        assert_eq!(names("/* why */ LISTEN /* so */ a -- end"), ["a"]);
        assert_eq!(names("-- why\nLISTEN ä"), ["ä"]);
        assert_eq!(names("SELECT 1; LISTEN a;LISTEN b; SELECT ';LISTEN c'"), ["a", "b"]);
        assert_eq!(names("BEGIN;/* x */LISTEN a; COMMIT"), ["a"]);
        assert_eq!(names(&format!("LISTEN {}", "x".repeat(80))), ["x".repeat(63)]);
        assert_eq!(names(&format!("LISTEN x{}", "ä".repeat(40))), [format!("x{}", "ä".repeat(31))]);
    }

    #[test]
    fn what_does_not_listen_is_known_by_its_beginning() {
        for text in ["", "SELECT 1", "UNLISTEN *", "SELECT 'x'; SELECT 2;", "NOTIFY listen", "LIS", "-- LISTEN a", "UPDATE t SET a = 1"] {
            assert!(!may_listen(text.as_bytes()), "{text}");
            assert_eq!(listens(text.as_bytes()), Listens::No);
        }
        for text in
            ["SELECT $$;LISTEN a$$", "SELECT ';listen a'", "/*;LISTEN a*/ SELECT 1", "LISTENING a", "LISTEN", "LISTEN 'a'", "LISTEN \"\""]
        {
            assert_eq!(names(text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_said() {
        for text in ["LISTEN U&\"\\0061\"", "SELECT 'a\\'; LISTEN a; SELECT '"] {
            assert_eq!(names(text), ["?"], "{text}");
        }
        assert_eq!(listens(b"LISTEN \xff"), Listens::Unclear);
    }

    #[test]
    fn a_beginning_is_enough_to_say_no() {
        for (start, may) in
            [("", true), (" L", true), ("lis", true), ("LISTEN a", true), ("--", true), ("SEL", false), ("LOCK", false), ("UNL", false)]
        {
            assert_eq!(may_begin_listening(start.as_bytes()), may, "{start}");
        }
    }
}
