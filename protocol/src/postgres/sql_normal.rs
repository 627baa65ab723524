//! SQL without what it is about: for logs and traces, where a statement has to be recognised and its values are nobody's business.
//!
//! ```text
//!   SELECT * FROM t  -- why          SELECT * FROM t WHERE a = ? AND b IN (?)
//!    WHERE a = 'x' AND b IN (1,2)  ⇒
//! ```
//! Strings and numbers become `?`, parameters (`$1`) stay, comments go, white space is one space, lists of values are one value. What follows
//! PASSWORD in CREATE or ALTER ROLE, and what a SET sets, becomes `?` however it is written. Any bytes go in, and one line of text comes out. Where a text can
//! be read in two ways, or what is behind PASSWORD is nothing that the server takes, the result ends. Not here: a parser; two texts that mean the same may come out differently.

use std::fmt;

use super::sql_tokens::{Token, Tokens, is};

/// What stands for a value.
const VALUE: &[u8] = b"?";

/// What may stand behind a password: the options of roles.
const OPTIONS: [&[u8]; 23] = [
    b"superuser",
    b"nosuperuser",
    b"createdb",
    b"nocreatedb",
    b"createrole",
    b"nocreaterole",
    b"inherit",
    b"noinherit",
    b"login",
    b"nologin",
    b"replication",
    b"noreplication",
    b"bypassrls",
    b"nobypassrls",
    b"connection",
    b"encrypted",
    b"password",
    b"valid",
    b"in",
    b"role",
    b"admin",
    b"user",
    b"sysid",
];

/// What says that something is left out.
const ELLIPSIS: &str = "…";

/// A statement to be written without its values; the work is done by whoever writes it.
#[derive(Debug, Clone, Copy)]
pub struct Normal<'a> {
    text: &'a [u8],
    cut: bool,
    most: usize,
}

impl<'a> Normal<'a> {
    /// The statement of this text, which is the beginning of a longer one if it is `cut`, in about `most` bytes.
    #[must_use]
    pub fn new(text: &'a [u8], cut: bool, most: usize) -> Self {
        Self { text, cut, most }
    }
}

impl fmt::Display for Normal<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (pieces, whole) = Reader::new(self.text).read();
        let mut room = self.most;
        for (at, piece) in without_lists(&pieces).enumerate() {
            if piece.text.len() + 1 > room {
                return out.write_str(ELLIPSIS);
            }
            room -= piece.text.len() + 1;
            if piece.spaced && at > 0 {
                out.write_str(" ")?;
            }
            write_one_line(piece.text, out)?;
        }
        if whole && !self.cut { Ok(()) } else { out.write_str(ELLIPSIS) }
    }
}

/// Bytes of others as a part of one line.
fn write_one_line(bytes: &[u8], out: &mut fmt::Formatter<'_>) -> fmt::Result {
    let text = String::from_utf8_lossy(bytes);
    if !text.contains(char::is_control) {
        return out.write_str(&text);
    }
    text.chars().try_for_each(|character| fmt::Write::write_char(out, if character.is_control() { ' ' } else { character }))
}

/// A piece of what comes out.
#[derive(Debug, Clone, Copy)]
struct Piece<'a> {
    text: &'a [u8],
    /// Something blank stands before it.
    spaced: bool,
    /// It stands for a value.
    value: bool,
}

impl Piece<'_> {
    fn is(&self, symbol: u8) -> bool {
        self.text == [symbol]
    }

    /// A value or a parameter.
    fn is_value(&self) -> bool {
        self.value || self.text.first() == Some(&b'$')
    }
}

/// What of a statement is nobody's business although it is no literal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Secret {
    /// Nothing.
    No,
    /// The token behind PASSWORD.
    Password,
    /// What follows the `=` or TO of a SET.
    Setting,
}

struct Reader<'a> {
    tokens: Tokens<'a>,
    pieces: Vec<Piece<'a>>,
    /// How many words of the present statement have been read.
    words: usize,
    first: &'a [u8],
    second: &'a [u8],
    sets: bool,
    secret: Secret,
}

impl<'a> Reader<'a> {
    fn new(text: &'a [u8]) -> Self {
        // What comes from the wire may have its final zero.
        let text = text.strip_suffix(b"\0").unwrap_or(text);
        let tokens = Tokens::new(text);
        Self { tokens, pieces: Vec::new(), words: 0, first: b"", second: b"", sets: false, secret: Secret::No }
    }

    /// All pieces, and whether they are all that there is.
    fn read(mut self) -> (Vec<Piece<'a>>, bool) {
        loop {
            let before = self.tokens.at();
            if !self.tokens.skip_blanks() {
                return (self.pieces, true);
            }
            let start = self.tokens.at();
            let spaced = start > before;
            let token = self.tokens.next();
            let text = &self.tokens.text[start..self.tokens.at()];
            if self.secret == Secret::Password {
                if !self.is_password(&token, text) {
                    self.value(spaced);
                    return (self.pieces, false);
                }
                self.secret = Secret::No;
            }
            match token {
                Token::Word(_) => self.on_word(text, spaced),
                Token::Quoted(_) if self.secret != Secret::No => self.value(spaced),
                Token::Quoted(_) => self.pieces.push(Piece { text, spaced, value: false }),
                Token::Text if text.get(1).is_some_and(|byte| text[0] == b'$' && byte.is_ascii_digit()) => {
                    self.pieces.push(Piece { text, spaced, value: false });
                }
                Token::Text => {
                    self.finish_number(text);
                    self.value(spaced);
                }
                // What begins like a string between tags.
                Token::Symbol(_) if text.len() > 1 => self.value(spaced),
                Token::Symbol(symbol) => self.on_symbol(symbol, text, spaced),
                // Half a string, half a name.
                Token::End | Token::Unclear => {
                    self.value(spaced);
                    return (self.pieces, false);
                }
            }
        }
    }

    fn on_word(&mut self, text: &'a [u8], spaced: bool) {
        self.words += 1;
        match self.words {
            1 => self.first = text,
            2 => self.second = text,
            _ => {}
        }
        if self.secret == Secret::Setting {
            return self.value(spaced);
        }
        self.sets |= is(text, b"set") && (self.words == 1 || self.may_set());
        let defines = is(self.first, b"create") || is(self.first, b"alter");
        if is(text, b"password") && defines && [&b"role"[..], b"user", b"group"].iter().any(|kind| is(self.second, kind)) {
            self.secret = Secret::Password;
        } else if self.sets && is(text, b"to") {
            self.secret = Secret::Setting;
        }
        self.pieces.push(Piece { text, spaced, value: false });
    }

    /// Whether SET stands among the rest of the present statement for a setting.
    fn may_set(&self) -> bool {
        // Of tables, ON DELETE SET NULL is said, too.
        let routine = [&b"or"[..], b"function", b"procedure"].iter().any(|kind| is(self.second, kind));
        is(self.first, b"alter") || is(self.first, b"create") && routine
    }

    /// Whether the server would take this behind PASSWORD: NULL or a whole literal, and what may follow that. Otherwise nobody knows where the password ends.
    fn is_password(&self, token: &Token, text: &[u8]) -> bool {
        let whole = match token {
            Token::Word(_) => is(text, b"null"),
            Token::Text => text.ends_with(b"'") || text.len() >= 4 && text.starts_with(b"$") && text.ends_with(b"$"),
            Token::Quoted(_) | Token::Symbol(_) | Token::End | Token::Unclear => false,
        };
        let apart = self.tokens.rest().first().is_none_or(|byte| matches!(byte, b' ' | b'\t'..=b'\r' | b';'));
        let mut behind = self.tokens.clone();
        whole
            && apart
            && match behind.next() {
                Token::Word(range) => OPTIONS.iter().any(|option| is(&behind.text[range.clone()], option)),
                Token::Symbol(symbol) => symbol == b';',
                // It is over, but for a comment; or half a string follows, of which nothing is shown.
                Token::End => true,
                Token::Quoted(_) | Token::Text | Token::Unclear => false,
            }
    }

    fn on_symbol(&mut self, symbol: u8, text: &'a [u8], spaced: bool) {
        match symbol {
            b';' => (self.words, self.sets, self.secret, self.first, self.second) = (0, false, Secret::No, b"", b""),
            b'=' if self.sets => self.secret = Secret::Setting,
            // A number may begin with its point.
            b'.' if self.tokens.rest().first().is_some_and(u8::is_ascii_digit) && (spaced || !self.ends_in_name()) => {
                let start = self.tokens.at();
                self.tokens.next();
                let number = &self.tokens.text[start..self.tokens.at()];
                self.finish_number(number);
                return self.value(spaced);
            }
            // A part of what is set.
            _ if self.secret == Secret::Setting && !b",()=".contains(&symbol) => return self.value(spaced),
            _ => {}
        }
        self.pieces.push(Piece { text, spaced, value: false });
    }

    /// Whether a point would be one between names.
    fn ends_in_name(&self) -> bool {
        self.pieces
            .last()
            .and_then(|piece| piece.text.last())
            .is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'"' | 0x80..))
    }

    /// The exponent of a number has a sign of its own.
    fn finish_number(&mut self, text: &[u8]) {
        let has_exponent =
            text.first().is_some_and(u8::is_ascii_digit) && !text.starts_with(b"0x") && matches!(text.last(), Some(b'e' | b'E'));
        if let [b'+' | b'-', digit, ..] = self.tokens.rest()
            && has_exponent
            && digit.is_ascii_digit()
        {
            self.tokens.next();
            self.tokens.next();
        }
    }

    /// A value: with what introduces it (`X'…'`, `U&'…'`), and one with those that it continues.
    fn value(&mut self, spaced: bool) {
        let mut spaced = spaced;
        if !spaced {
            let introduced = match &self.pieces[..] {
                [.., word, and] if and.is(b'&') && is(word.text, b"u") && !and.spaced => 2,
                [.., word] if word.text.len() == 1 && b"bBnNxX".contains(&word.text[0]) => 1,
                _ => 0,
            };
            let kept = self.pieces.len() - introduced;
            spaced = self.pieces.get(kept).map_or(spaced, |piece| piece.spaced);
            self.pieces.truncate(kept);
        }
        if !self.pieces.last().is_some_and(|piece| piece.value) {
            self.pieces.push(Piece { text: VALUE, spaced, value: true });
        }
    }
}

/// The pieces without the second and later values of lists behind IN, and without the second and later rows behind VALUES.
fn without_lists<'p, 'a>(pieces: &'p [Piece<'a>]) -> impl Iterator<Item = Piece<'a>> + 'p {
    let (mut at, mut left_out_next) = (0, 0);
    // How deep in parentheses behind VALUES.
    let mut depth = None;
    std::iter::from_fn(move || {
        let piece = *pieces.get(at)?;
        at += 1 + std::mem::take(&mut left_out_next);
        if piece.is(b'(') && at >= 2 && is(pieces[at - 2].text, b"in") || piece.is(b'[') {
            left_out_next = values_of_list(&pieces[at..]).saturating_sub(1);
        }
        if is(piece.text, b"values") {
            depth = Some(0_usize);
        } else if piece.is(b'(') {
            depth = depth.map(|depth| depth + 1);
        } else if piece.is(b')') {
            depth = depth.map(|depth| depth.saturating_sub(1));
            if depth == Some(0) {
                at += rows(&pieces[at..]);
                depth = None;
            }
        }
        Some(piece)
    })
}

/// How many pieces at the beginning are a list of values alone, with its commas; 0: it is not one.
fn values_of_list(pieces: &[Piece<'_>]) -> usize {
    let (mut end, mut wants_value) = (0, true);
    for piece in pieces {
        if wants_value != piece.is_value() || !wants_value && !piece.is(b',') {
            break;
        }
        (end, wants_value) = (end + 1, !wants_value);
    }
    let closes = pieces.get(end).is_none_or(|piece| piece.is(b')') || piece.is(b']'));
    if closes { end } else { 0 }
}

/// How many pieces are further rows, each behind a comma.
fn rows(pieces: &[Piece<'_>]) -> usize {
    let mut end = 0;
    while let [comma, open, rest @ ..] = &pieces[end..]
        && comma.is(b',')
        && open.is(b'(')
    {
        let mut depth = 1;
        let closed = rest.iter().position(|piece| {
            depth += usize::from(piece.is(b'('));
            depth -= usize::from(piece.is(b')'));
            depth == 0
        });
        match closed {
            Some(closed) => end += closed + 3,
            None => return pieces.len(),
        }
    }
    end
}

#[cfg(test)]
#[path = "sql_normal_tests.rs"]
mod tests;
