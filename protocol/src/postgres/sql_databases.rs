//! Which databases a text wants to have to itself: DROP DATABASE, CREATE DATABASE (its template), ALTER DATABASE … RENAME or SET TABLESPACE.
//!
//! PostgreSQL refuses these while anybody else is connected to the database. Only texts whose first statement is one of them are looked at: it
//! must not run in a transaction with others. Source: PostgreSQL documentation, the pages of the commands.

use std::borrow::Cow;

use super::sql_tokens::{Token, Tokens, is};

/// What CREATE DATABASE copies when it does not say.
const TEMPLATE: &[u8] = b"template1";

/// Whether a text that begins like this may be one of the commands.
#[must_use]
#[inline]
pub fn may_want_alone(text: &[u8]) -> bool {
    match text {
        [b'D' | b'd' | b'C' | b'c', second, ..] => matches!(second, b'R' | b'r'),
        [b'A' | b'a', second, ..] => matches!(second, b'L' | b'l'),
        [b'\t'..=b'\r' | b' ' | b'/' | b'-' | b';', ..] => true,
        [] | [_, ..] => false,
    }
}

/// The database that the text wants nobody else to be connected to, by the name that PostgreSQL has for it.
#[must_use]
pub fn wants_alone(text: &[u8]) -> Option<Cow<'_, [u8]>> {
    let mut tokens = Tokens::new(text);
    let mut first = tokens.next();
    while first == Token::Symbol(b';') {
        first = tokens.next();
    }
    let verb = word(text, &first)?;
    let second = tokens.next();
    if !is(word(text, &second)?, b"database") {
        return None;
    }
    let mut name = tokens.next();
    if is(verb, b"drop") {
        if word(text, &name).is_some_and(|word| is(word, b"if")) {
            tokens.next();
            name = tokens.next();
        }
        return name_of(&tokens, name);
    }
    if is(verb, b"create") {
        return template(&mut tokens);
    }
    if !is(verb, b"alter") {
        return None;
    }
    let next = tokens.next();
    let moves = match word(text, &next)? {
        rename if is(rename, b"rename") => true,
        set if is(set, b"set") => {
            let next = tokens.next();
            word(text, &next).is_some_and(|word| is(word, b"tablespace"))
        }
        _ => false,
    };
    if moves { name_of(&tokens, name) } else { None }
}

/// What CREATE DATABASE copies: the name behind TEMPLATE, with or without `=`.
fn template<'a>(tokens: &mut Tokens<'a>) -> Option<Cow<'a, [u8]>> {
    loop {
        let next = tokens.next();
        match next {
            Token::End | Token::Symbol(b';') => return Some(TEMPLATE.into()),
            Token::Unclear => return None,
            _ => {}
        }
        if word(tokens.text, &next).is_some_and(|word| is(word, b"template")) {
            let mut name = tokens.next();
            if name == Token::Symbol(b'=') {
                name = tokens.next();
            }
            if word(tokens.text, &name).is_some_and(|word| is(word, b"default")) {
                return Some(TEMPLATE.into());
            }
            if name == Token::Text {
                // As a string, which must not hold anything that would have to be undone.
                let end = tokens.at;
                let start = tokens.text[..end - 1].iter().rposition(|byte| *byte == b'\'')?;
                return Some(tokens.text[start + 1..end - 1].into());
            }
            return name_of(tokens, name);
        }
    }
}

fn name_of<'a>(tokens: &Tokens<'a>, token: Token) -> Option<Cow<'a, [u8]>> {
    tokens.as_name(token).ok().flatten().map(|(name, _)| name)
}

fn word<'a>(text: &'a [u8], token: &Token) -> Option<&'a [u8]> {
    match token {
        Token::Word(range) => Some(&text[range.clone()]),
        Token::Quoted(_) | Token::Text | Token::Symbol(_) | Token::End | Token::Unclear => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_that_are_to_be_alone() {
        for (text, name) in [
            ("DROP DATABASE shop", "shop"),
            ("drop database if exists \"My Shop\" with (force);", "My Shop"),
            ("/* a */ Drop Database SHOP", "shop"),
            (";; DROP DATABASE shop", "shop"),
            ("CREATE DATABASE shop", "template1"),
            ("CREATE DATABASE shop OWNER bob", "template1"),
            ("CREATE DATABASE shop WITH OWNER = bob TEMPLATE = gold ENCODING 'UTF8'", "gold"),
            ("create database shop template \"Gold\"", "Gold"),
            ("create database shop template 'gold'", "gold"),
            ("create database shop template default", "template1"),
            ("ALTER DATABASE shop RENAME TO store", "shop"),
            ("ALTER DATABASE shop SET TABLESPACE fast", "shop"),
        ] {
            assert!(may_want_alone(text.as_bytes()), "{text}");
            assert_eq!(wants_alone(text.as_bytes()).as_deref(), Some(name.as_bytes()), "{text}");
        }
    }

    #[test]
    fn what_does_not_mind_company() {
        for text in [
            "",
            "DROP TABLE database",
            "DROP",
            "DROP DATABASE",
            "DROP DATABASE 'x'",
            "CREATE TABLE t ()",
            "ALTER DATABASE shop SET work_mem = '1MB'",
            "ALTER DATABASE shop OWNER TO bob",
            "ALTER DATABASE",
            "SELECT 'DROP DATABASE shop'",
            "-- DROP DATABASE shop",
            "CREATE DATABASE shop TEMPLATE '\\''",
        ] {
            assert_eq!(wants_alone(text.as_bytes()), None, "{text}");
        }
        for text in ["COMMIT", "SELECT 1", "DELETE FROM t", "DISCARD ALL", "ANALYZE", "", "CLOSE c"] {
            assert!(!may_want_alone(text.as_bytes()), "{text}");
        }
    }
}
