//! SQL as tokens: words, names in quotes, strings and numbers, other bytes; comments and white space stand between them.
//!
//! Source: PostgreSQL documentation, "Lexical Structure". Where two readings are possible (a backslash before a quote means one thing or the
//! other by `standard_conforming_strings`), the answer is that it is not clear. Not here: what the words mean (`sql`, `sql_databases`).

use std::borrow::Cow;
use std::ops::Range;

/// Texts up to this size are looked at behind their first words, too, and waited for.
pub const MAX_LOOKED_BYTES: usize = 16 * 1024;

/// PostgreSQL keeps this many bytes of a name.
pub(super) const MAX_NAME_BYTES: usize = 63;

/// A name without quotes, in lower case where it was not quoted, and where it stands.
pub(super) type Name<'a> = (Cow<'a, [u8]>, Range<usize>);

/// Whether a word is this keyword.
pub(super) fn is(word: &[u8], keyword: &[u8]) -> bool {
    word.eq_ignore_ascii_case(keyword)
}

/// The text can be read in two ways.
#[derive(Debug)]
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

#[derive(Clone)]
pub(super) struct Tokens<'a> {
    pub(super) text: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Tokens<'a> {
    /// The tokens of a text.
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

    /// What a token is as a name, as PostgreSQL sees it, and where it stands; nothing when it is none.
    pub(super) fn as_name(&self, name: Token) -> Result<Option<Name<'a>>, Unclear> {
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
        if name.is_empty() || name.len() > MAX_NAME_BYTES { Err(Unclear) } else { Ok(Some((name, at))) }
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

    /// The next token.
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
                // A string between tags may stand right behind it.
                self.advance_while(|byte| is_word_part(byte) && byte != b'$' || byte == b'.');
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
