//! Texts that ask for the view `pg_prepared_statements`: where a `WITH` of the proxy's own makes another table of that name out of it.
//!
//! ```text
//!   SELECT … FROM pg_prepared_statements      WITH pg_prepared_statements AS (…) SELECT … FROM pg_prepared_statements
//!   WITH a AS (…) SELECT …                    WITH pg_prepared_statements AS (…),  a AS (…) SELECT …
//!   … FROM pg_catalog.pg_prepared_statements  … FROM pg_prepared_statements
//! ```
//! Only statements that begin with SELECT, TABLE or WITH; others (EXPLAIN, COPY, CREATE TABLE … AS) see the view itself. Source: PostgreSQL
//! documentation, "WITH Queries". Not here: what the other table says.

use std::ops::Range;
use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::sql_tokens::{Token, Tokens, is};

/// The view.
pub const VIEW: &str = "pg_prepared_statements";

static FINDER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(VIEW));

/// What to do about one place in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// A `WITH` and its first table stand before what begins here.
    With(usize),
    /// There is a `WITH`, and one table more, and a comma, stand before what begins here.
    Table(usize),
    /// The name of the schema before the view, and the dot: they go.
    Schema(Range<usize>),
}

impl Edit {
    /// What it replaces.
    #[must_use]
    pub fn at(&self) -> Range<usize> {
        match self {
            Self::With(at) | Self::Table(at) => *at..*at,
            Self::Schema(range) => range.clone(),
        }
    }
}

/// Whether a text may ask for the view.
#[must_use]
#[inline]
pub fn may_list(text: &[u8]) -> bool {
    FINDER.find(text).is_some()
}

/// What to do about a whole text, in order; nothing when it does not ask, or when it is not clear what it says.
#[must_use]
pub fn edits(text: &[u8]) -> Vec<Edit> {
    let mut tokens = Tokens::new(text);
    let mut edits = Vec::new();
    loop {
        match statement(&mut tokens, &mut edits) {
            Some(true) => {}
            Some(false) => return edits,
            None => return Vec::new(),
        }
    }
}

/// Reads a statement to its end; false: it was the last one, `None`: it is not clear what it says.
fn statement(tokens: &mut Tokens<'_>, edits: &mut Vec<Edit>) -> Option<bool> {
    tokens.skip_blanks();
    let (text, start) = (tokens.text, tokens.at());
    let first = tokens.next();
    let begins = begins(tokens, &first, start);
    let (mut depth, mut asks, mut schemas) = (0_usize, false, Vec::new());
    let mut before = [Token::End, Token::End];
    let mut token = first;
    let more = loop {
        match &token {
            Token::Symbol(b'(' | b'[') => depth += 1,
            Token::Symbol(b')' | b']') => depth = depth.saturating_sub(1),
            Token::Symbol(b';') if depth == 0 => break true,
            Token::End => break false,
            Token::Unclear => return None,
            Token::Word(at) if is(&text[at.clone()], VIEW.as_bytes()) => match &before {
                [Token::Word(schema), Token::Symbol(b'.')] if is(&text[schema.clone()], b"pg_catalog") => {
                    asks = true;
                    schemas.push(Edit::Schema(schema.start..at.start));
                }
                // Somebody else's, or a column's table that has been found before.
                [_, Token::Symbol(b'.')] => {}
                _ => asks = true,
            },
            Token::Word(_) | Token::Quoted(_) | Token::Text | Token::Symbol(_) => {}
        }
        let next = tokens.next();
        let [_, last] = before;
        before = [last, token];
        token = next;
    };
    if let (true, Some(begins)) = (asks, begins) {
        edits.push(begins);
        edits.append(&mut schemas);
    }
    Some(more)
}

/// Where a table can be added to a statement that begins at `start` with this token, which has been read.
fn begins(tokens: &mut Tokens<'_>, first: &Token, start: usize) -> Option<Edit> {
    let Token::Word(first) = first else { return None };
    let word = &tokens.text[first.clone()];
    if is(word, b"select") || is(word, b"table") {
        return Some(Edit::With(start));
    }
    if !is(word, b"with") {
        return None;
    }
    let mut ahead = tokens.clone();
    if ahead.word().is_some_and(|word| is(word, b"recursive")) {
        *tokens = ahead;
    }
    tokens.skip_blanks();
    Some(Edit::Table(tokens.at()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(text: &str) -> String {
        let (mut out, mut copied) = (String::new(), 0);
        for edit in edits(text.as_bytes()) {
            out.push_str(&text[copied..edit.at().start]);
            out.push_str(match edit {
                Edit::With(_) => "[with]",
                Edit::Table(_) => "[table,]",
                Edit::Schema(_) => "",
            });
            copied = edit.at().end;
        }
        out + &text[copied..]
    }

    #[test]
    fn what_asks_gets_a_table_of_its_own() {
        for (text, expected) in [
            ("SELECT * FROM pg_prepared_statements", "[with]SELECT * FROM pg_prepared_statements"),
            (" table PG_prepared_statements;", " [with]table PG_prepared_statements;"),
            ("select 1; select name from pg_catalog.pg_prepared_statements p", "select 1; [with]select name from pg_prepared_statements p"),
            (
                "WITH a AS (SELECT 1) SELECT * FROM a, pg_prepared_statements",
                "WITH [table,]a AS (SELECT 1) SELECT * FROM a, pg_prepared_statements",
            ),
            (
                "with recursive x as (table pg_prepared_statements) table x",
                "with recursive [table,]x as (table pg_prepared_statements) table x",
            ),
            (
                "SELECT pg_catalog . pg_prepared_statements.name FROM pg_catalog.pg_prepared_statements",
                "[with]SELECT pg_prepared_statements.name FROM pg_prepared_statements",
            ),
        ] {
            assert!(may_list(text.to_ascii_lowercase().as_bytes()));
            assert_eq!(edited(text), expected);
        }
    }

    #[test]
    fn other_texts_stay_as_they_are() {
        for text in [
            "",
            "SELECT 'pg_prepared_statements'",
            "SELECT * FROM mine.pg_prepared_statements",
            "EXPLAIN SELECT * FROM pg_prepared_statements",
            "SELECT 1 /* pg_prepared_statements */",
            "SELECT '\\'; TABLE pg_prepared_statements",
        ] {
            assert_eq!(edited(text), text);
        }
    }
}
