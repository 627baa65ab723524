//! Finds the names of prepared statements in SQL: PREPARE, EXECUTE, DEALLOCATE, EXPLAIN … EXECUTE, and CREATE TABLE … AS EXECUTE, among the
//! statements of one text.
//!
//! A text that begins with anything else is told apart by its first word, mostly by its first byte, and never read on. Source: PostgreSQL
//! documentation, "Lexical Structure" and the pages of the commands. Not here: what the names mean. Where two readings are possible (a backslash
//! before a quote means one thing or the other by `standard_conforming_strings`), the answer is that it is not clear.

use std::borrow::Cow;
use std::ops::Range;

/// PostgreSQL keeps this many bytes of a name.
pub(super) const MAX_NAME_BYTES: usize = 63;

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

pub(super) fn is(word: &[u8], keyword: &[u8]) -> bool {
    word.eq_ignore_ascii_case(keyword)
}

/// What a command does, the name, and where it stands.
type Found<'a> = (Verb, Cow<'a, [u8]>, Range<usize>);

/// The text can be read in two ways.
pub(super) struct Unclear;

/// One token; comments and white space stand between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// A keyword or a name without quotes.
    Word(Range<usize>),
    /// A name in quotes.
    Quoted(Range<usize>),
    /// A string or a number.
    Text,
    /// Anything else, byte by byte.
    Symbol(u8),
    /// The text is over, perhaps in the middle of something.
    End,
    /// It can be read in two ways.
    Unclear,
}

/// The tokens of a text, from some place on.
#[derive(Clone)]
pub(super) struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Tokens<'a> {
    /// From the beginning of a text.
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    /// How much of the text has been read.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// What has not been read.
    pub(super) fn rest(&self) -> &'a [u8] {
        &self.text[self.at..]
    }

    /// The next token, if it is a keyword or a name without quotes.
    pub(super) fn word(&mut self) -> Option<&'a [u8]> {
        match self.next() {
            Token::Word(range) => Some(&self.text[range]),
            Token::Quoted(_) | Token::Text | Token::Symbol(_) | Token::End | Token::Unclear => None,
        }
    }

    /// A name of one or more parts with dots between them, without its quotes; `None`, and one token is read: there is none.
    pub(super) fn name(&mut self) -> Option<Vec<u8>> {
        let mut name = Vec::new();
        loop {
            match self.next() {
                Token::Word(range) => name.extend_from_slice(&self.text[range]),
                Token::Quoted(range) => name.extend_from_slice(&undouble(&self.text[range.start + 1..range.end - 1])),
                Token::Text | Token::Symbol(_) | Token::End | Token::Unclear => return None,
            }
            let before = self.clone();
            if self.next() != Token::Symbol(b'.') {
                *self = before;
                return Some(name);
            }
            name.push(b'.');
        }
    }

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
        let (name, at): (Cow<'a, [u8]>, _) = match name {
            Token::Word(range) => {
                let word = &self.text[range.clone()];
                // U&"…" is a name in quotes with escapes, and no word.
                if self.text.get(range.end) == Some(&b'&') {
                    return Err(Unclear);
                }
                let lower = word.iter().any(u8::is_ascii_uppercase);
                (if lower { word.to_ascii_lowercase().into() } else { word.into() }, range)
            }
            Token::Quoted(range) => {
                let inner = &self.text[range.start + 1..range.end - 1];
                let doubled = memchr::memmem::find(inner, b"\"\"").is_some();
                (if doubled { undouble(inner).into() } else { inner.into() }, range)
            }
            // What the server calls a syntax error.
            Token::Text | Token::Symbol(_) | Token::End => return Ok(None),
            Token::Unclear => return Err(Unclear),
        };
        if name.is_empty() || name.len() > MAX_NAME_BYTES { Err(Unclear) } else { Ok(Some((verb, name, at))) }
    }

    /// Goes behind the end of the statement, and answers where that is; `None`: at the end of the text.
    pub(super) fn skip_statement(&mut self) -> Result<Option<usize>, Unclear> {
        let mut depth = 0_usize;
        loop {
            match self.next() {
                Token::Symbol(b'(' | b'[') => depth += 1,
                Token::Symbol(b')' | b']') => depth = depth.saturating_sub(1),
                Token::Symbol(b';') if depth == 0 => return Ok(Some(self.at - 1)),
                Token::End => return Ok(None),
                Token::Unclear => return Err(Unclear),
                Token::Word(_) | Token::Quoted(_) | Token::Text | Token::Symbol(_) => {}
            }
        }
    }

    pub(super) fn next(&mut self) -> Token {
        if !self.skip_blanks() {
            return Token::End;
        }
        let start = self.at;
        let first = self.text[start];
        match first {
            b'\'' => self.string(false),
            b'"' => self.quoted(),
            b'$' => self.dollar(),
            _ if is_word_start(first) => {
                self.advance_while(is_word_part);
                let one = self.at == start + 1;
                if one && matches!(first, b'e' | b'E') && self.text.get(self.at) == Some(&b'\'') {
                    return self.string(true);
                }
                Token::Word(start..self.at)
            }
            b'0'..=b'9' => {
                self.advance_while(|byte| is_word_part(byte) || byte == b'.');
                Token::Text
            }
            _ => {
                self.at += 1;
                Token::Symbol(first)
            }
        }
    }

    fn advance_while(&mut self, belongs: impl Fn(u8) -> bool) {
        let length = self.text[self.at..].iter().position(|byte| !belongs(*byte)).unwrap_or(self.text.len() - self.at);
        self.at += length;
    }

    /// Skips white space and comments; false at the end, or in a comment that does not end.
    pub(super) fn skip_blanks(&mut self) -> bool {
        loop {
            self.advance_while(|byte| matches!(byte, b' ' | b'\t'..=b'\r'));
            let rest = &self.text[self.at..];
            if rest.starts_with(b"--") {
                self.advance_while(|byte| byte != b'\n' && byte != b'\r');
            } else if rest.starts_with(b"/*") {
                self.comment();
            } else {
                return !rest.is_empty();
            }
        }
    }

    /// Comments lie in each other.
    fn comment(&mut self) {
        let mut depth = 0_usize;
        while self.at < self.text.len() {
            let rest = &self.text[self.at..];
            if rest.starts_with(b"/*") {
                (depth, self.at) = (depth + 1, self.at + 2);
            } else if rest.starts_with(b"*/") {
                (depth, self.at) = (depth - 1, self.at + 2);
                if depth == 0 {
                    return;
                }
            } else {
                self.at += 1;
            }
        }
    }

    /// A string from its first quote on; two quotes are one, and with `escapes` a backslash hides the next byte.
    fn string(&mut self, escapes: bool) -> Token {
        self.at += 1;
        let mut before = 0;
        while let Some(&byte) = self.text.get(self.at) {
            self.at += 1;
            match byte {
                b'\'' if self.text.get(self.at) == Some(&b'\'') => self.at += 1,
                b'\'' => return Token::Text,
                // The second byte of a character, in some encodings.
                b'\\' if escapes && before >= 0x80 => return Token::Unclear,
                b'\\' if escapes => self.at += 1,
                b'\\' if self.text.get(self.at) == Some(&b'\'') => return Token::Unclear,
                _ => {}
            }
            before = byte;
        }
        self.at = self.text.len();
        Token::End
    }

    fn quoted(&mut self) -> Token {
        let start = self.at;
        self.at += 1;
        while let Some(&byte) = self.text.get(self.at) {
            self.at += 1;
            if byte == b'"' {
                if self.text.get(self.at) != Some(&b'"') {
                    return Token::Quoted(start..self.at);
                }
                self.at += 1;
            }
        }
        Token::End
    }

    /// A parameter, or a string between two equal tags.
    fn dollar(&mut self) -> Token {
        let start = self.at;
        self.at += 1;
        if !self.text.get(self.at).is_some_and(|byte| *byte == b'$' || is_word_start(*byte)) {
            self.advance_while(|byte| byte.is_ascii_digit());
            return Token::Text;
        }
        self.advance_while(|byte| is_word_part(byte) && byte != b'$');
        if self.text.get(self.at) != Some(&b'$') {
            return if self.at == self.text.len() { Token::End } else { Token::Symbol(b'$') };
        }
        self.at += 1;
        let tag = &self.text[start..self.at];
        match memchr::memmem::find(&self.text[self.at..], tag) {
            Some(found) => {
                self.at += found + tag.len();
                Token::Text
            }
            None => {
                self.at = self.text.len();
                Token::End
            }
        }
    }
}

fn is_word_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn is_word_part(byte: u8) -> bool {
    is_word_start(byte) || byte.is_ascii_digit() || byte == b'$'
}

pub(super) fn undouble(inner: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(byte) = bytes.next() {
        out.push(*byte);
        if *byte == b'"' {
            bytes.next();
        }
    }
    out
}

#[cfg(test)]
#[path = "sql_tests.rs"]
mod tests;
