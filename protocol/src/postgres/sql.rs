//! Finds the names of prepared statements in SQL: PREPARE, EXECUTE, DEALLOCATE, EXPLAIN … EXECUTE, and CREATE TABLE … AS EXECUTE, among the
//! statements of one text.
//!
//! A text that begins with anything else is told apart by its first word, mostly by its first byte, and never read on. Source: PostgreSQL
//! documentation, "Lexical Structure" and the pages of the commands. Not here: what the names mean. Where two readings are possible (a backslash
//! before a quote means one thing or the other by `standard_conforming_strings`), the answer is that it is not clear.

use std::borrow::Cow;
use std::ops::Range;

use super::sql_tokens::Unclear;
pub(super) use super::sql_tokens::{MAX_NAME_BYTES, Token, Tokens, is, undouble};

/// What a command does with the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// PREPARE.
    Prepare,
    /// EXECUTE, also behind EXPLAIN or CREATE TABLE … AS.
    Execute,
    /// DEALLOCATE.
    Deallocate,
    /// DEALLOCATE ALL, and DISCARD ALL, which does that among other things: no name.
    DeallocateAll,
}

/// One command that is about prepared statements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command<'a> {
    /// What it does.
    pub verb: Verb,
    /// The name as PostgreSQL sees it: without quotes, in lower case where it was not quoted.
    pub name: Cow<'a, [u8]>,
    /// Where the name stands in the text.
    pub at: Range<usize>,
    /// Where the statement ends.
    pub end: usize,
}

/// What the beginning of a text tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Its first statement is about prepared statements.
    Names,
    /// Something else.
    Other,
    /// More of it is needed.
    NeedMore,
}

/// Whether a text that begins like this can begin with one of the commands. `text` may go on.
#[must_use]
#[inline]
pub fn may_name(text: &[u8]) -> bool {
    match text {
        [b'C' | b'c', second, ..] => matches!(second, b'R' | b'r'),
        [b'P' | b'p' | b'E' | b'e' | b'D' | b'd' | b'C' | b'c' | b'\t'..=b'\r' | b' ' | b'/' | b'-' | b';', ..] | [] => true,
        [_, ..] => false,
    }
}

/// Whether there is something behind the end of a statement: perhaps another one. A zero ends a text.
#[must_use]
#[inline]
pub fn may_be_several(text: &[u8]) -> bool {
    memchr::memchr(b';', text).is_some_and(|at| !text[at..].iter().all(|byte| matches!(byte, b';' | b' ' | b'\t'..=b'\r' | 0)))
}

/// Whether a text is an EXECUTE, with nothing before it.
#[must_use]
pub fn begins_with_execute(text: &[u8]) -> bool {
    Tokens::new(text).word().is_some_and(|word| is(word, b"execute"))
}

/// Looks at the beginning of a text, which may go on unless it is `whole`.
#[must_use]
pub fn start(text: &[u8], whole: bool) -> Start {
    let mut tokens = Tokens::new(text);
    let mut lead = Lead::Statement;
    let mut depth = 0_usize;
    loop {
        let token = tokens.next();
        let open = tokens.at == text.len() && !whole;
        match token {
            Token::End | Token::Unclear => return if open { Start::NeedMore } else { Start::Other },
            // Perhaps the first half of a comment's beginning.
            Token::Symbol(b'/' | b'-') if open => return Start::NeedMore,
            Token::Symbol(b';') if lead == Lead::Statement => {}
            Token::Symbol(b'(') if lead.may_have_more() => depth += 1,
            Token::Symbol(b')') if depth > 0 => depth -= 1,
            _ if depth > 0 => {}
            Token::Word(range) => {
                let word = &text[range];
                if open {
                    return if lead.could_go_on(word) { Start::NeedMore } else { Start::Other };
                }
                match lead.after(word) {
                    Next::Lead(next) => lead = next,
                    Next::Names => return Start::Names,
                    Next::Other => return Start::Other,
                }
            }
            Token::Symbol(b';') => return Start::Other,
            Token::Quoted(_) | Token::Text | Token::Symbol(_) if lead == Lead::Table => {}
            Token::Quoted(_) | Token::Text | Token::Symbol(_) => return Start::Other,
        }
    }
}

/// All commands about prepared statements in a whole text, in order; `None` when it is not clear what they are.
#[must_use]
pub fn commands(text: &[u8]) -> Option<Vec<Command<'_>>> {
    let mut tokens = Tokens::new(text);
    let mut found: Vec<Command<'_>> = Vec::new();
    loop {
        let command = tokens.command().ok()?;
        let end = tokens.skip_statement().ok()?;
        if let Some((verb, name, at)) = command {
            found.push(Command { verb, name, at, end: end.unwrap_or(text.len()) });
        }
        if end.is_none() {
            return Some(found);
        }
    }
}

/// The words that may stand before EXECUTE, or what else is about statements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lead {
    /// Nothing yet.
    Statement,
    /// EXPLAIN and its options.
    Explain,
    /// CREATE, and what kind of table.
    Create,
    /// CREATE TABLE and all about it.
    Table,
    /// CREATE TABLE … AS.
    As,
    /// DISCARD.
    Discard,
}

/// What a word means behind others.
enum Next {
    /// It goes on.
    Lead(Lead),
    /// A name of a statement follows.
    Names,
    /// None of the commands.
    Other,
}

impl Lead {
    /// The words that it can go on with, and what they lead to; those without a lead stand right before a name.
    fn words(self) -> &'static [(&'static [u8], Option<Lead>)] {
        match self {
            Self::Statement => &[
                (b"execute", None),
                (b"prepare", None),
                (b"deallocate", None),
                (b"discard", Some(Self::Discard)),
                (b"explain", Some(Self::Explain)),
                (b"create", Some(Self::Create)),
            ],
            Self::Explain => &[
                (b"execute", None),
                (b"analyze", Some(Self::Explain)),
                (b"analyse", Some(Self::Explain)),
                (b"verbose", Some(Self::Explain)),
                (b"create", Some(Self::Create)),
            ],
            Self::Create => &[
                (b"table", Some(Self::Table)),
                (b"temp", Some(Self::Create)),
                (b"temporary", Some(Self::Create)),
                (b"unlogged", Some(Self::Create)),
                (b"local", Some(Self::Create)),
                (b"global", Some(Self::Create)),
            ],
            Self::Table => &[(b"as", Some(Self::As))],
            Self::As => &[(b"execute", None)],
            Self::Discard => &[(b"all", None)],
        }
    }

    fn after(self, word: &[u8]) -> Next {
        match self.words().iter().find(|(known, _)| is(word, known)) {
            Some((_, Some(lead))) => Next::Lead(*lead),
            Some((_, None)) => Next::Names,
            None if self == Self::Table => Next::Lead(self),
            None => Next::Other,
        }
    }

    /// Whether the start of a word may be the start of one that counts.
    fn could_go_on(self, word: &[u8]) -> bool {
        let begins = |known: &[u8]| word.len() <= known.len() && known[..word.len()].eq_ignore_ascii_case(word);
        self == Self::Table || self.words().iter().any(|(known, _)| begins(known))
    }

    /// Whether something in parentheses may follow that is no concern of ours.
    fn may_have_more(self) -> bool {
        matches!(self, Self::Explain | Self::Table)
    }
}

/// Whether a whole text is one that may name a statement.
#[must_use]
pub fn names_statement(text: &[u8]) -> bool {
    may_name(text) && start(text, true) == Start::Names
}

/// What a command does, the name, and where it stands.
type Found<'a> = (Verb, Cow<'a, [u8]>, Range<usize>);

impl<'a> Tokens<'a> {
    /// Reads the first words of a statement, up to the name.
    fn command(&mut self) -> Result<Option<Found<'a>>, Unclear> {
        let before = self.clone();
        let Token::Word(first) = self.next() else {
            *self = before;
            return Ok(None);
        };
        let first = &self.text[first];
        if is(first, b"prepare") {
            return self.prepare();
        }
        if is(first, b"deallocate") {
            return self.deallocate();
        }
        if is(first, b"discard") {
            if let Token::Word(at) = self.next()
                && is(&self.text[at.clone()], b"all")
            {
                return Ok(Some((Verb::DeallocateAll, Cow::Borrowed(&self.text[at.clone()]), at)));
            }
            *self = before;
            return Ok(None);
        }
        let names = match Lead::Statement.after(first) {
            Next::Lead(lead) => self.leads_to_execute(lead),
            Next::Names => true,
            Next::Other => false,
        };
        if names {
            let name = self.next();
            return self.named(Verb::Execute, name);
        }
        *self = before;
        Ok(None)
    }

    fn prepare(&mut self) -> Result<Option<Found<'a>>, Unclear> {
        let name = self.next();
        if let Token::Word(range) = &name
            && is(&self.text[range.clone()], b"transaction")
        {
            let mut ahead = self.clone();
            // PREPARE TRANSACTION 'id', unless a statement is called "transaction".
            let goes_on = match ahead.next() {
                Token::Symbol(b'(') => true,
                Token::Word(word) => is(&self.text[word], b"as"),
                Token::Quoted(_) | Token::Text | Token::Symbol(_) | Token::End | Token::Unclear => false,
            };
            if !goes_on {
                return Ok(None);
            }
        }
        self.named(Verb::Prepare, name)
    }

    fn deallocate(&mut self) -> Result<Option<Found<'a>>, Unclear> {
        let mut name = self.next();
        if let Token::Word(range) = &name
            && is(&self.text[range.clone()], b"prepare")
        {
            let mut ahead = self.clone();
            let next = ahead.next();
            if matches!(next, Token::Word(_) | Token::Quoted(_)) {
                (name, *self) = (next, ahead);
            }
        }
        match &name {
            Token::Word(range) if is(&self.text[range.clone()], b"all") => {
                let at = range.clone();
                Ok(Some((Verb::DeallocateAll, Cow::Borrowed(&self.text[at.clone()]), at)))
            }
            _ => self.named(Verb::Deallocate, name),
        }
    }

    /// Whether what follows is EXECUTE, behind nothing but what may stand there.
    fn leads_to_execute(&mut self, mut lead: Lead) -> bool {
        let mut depth = 0_usize;
        loop {
            match self.next() {
                Token::Symbol(b'(') if lead.may_have_more() => depth += 1,
                Token::Symbol(b')') if depth > 0 => depth -= 1,
                Token::Symbol(b';') | Token::End | Token::Unclear => return false,
                Token::Word(range) if depth == 0 => match lead.after(&self.text[range]) {
                    Next::Lead(next) => lead = next,
                    Next::Names => return true,
                    Next::Other => return false,
                },
                Token::Word(_) | Token::Quoted(_) | Token::Text | Token::Symbol(_) if depth > 0 || lead == Lead::Table => {}
                Token::Word(_) | Token::Quoted(_) | Token::Text | Token::Symbol(_) => return false,
            }
        }
    }

    fn named(&self, verb: Verb, name: Token) -> Result<Option<Found<'a>>, Unclear> {
        Ok(self.as_name(name)?.map(|(name, at)| (verb, name, at)))
    }
}

#[cfg(test)]
#[path = "sql_tests.rs"]
mod tests;
