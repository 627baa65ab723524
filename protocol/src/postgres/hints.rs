//! A cheap look at a text of SQL: which kinds of session state may be different once it has run.
//!
//! A hint decides only whether the server is asked afterwards, and what: a false alarm costs one query. What a text does behind the back of its
//! words (a function that calls `set_config`) cannot be seen here. One pass of one automaton over the text; the words at the beginnings of its
//! statements; and tokens only where either of them found something. Source: PostgreSQL documentation, "SQL Commands".

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, Anchored, Input, MatchKind, StartKind};

use super::frame::cstr;
use super::hint_words as words;
use super::parameters::is_name;
use super::plain::is_plain;

/// Most names in one hint; a text with more is not looked into.
pub const MAX_NAMES: usize = 32;

/// Kinds of session state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kinds(u16);

impl Kinds {
    /// None.
    pub const NONE: Self = Self(0);
    /// The settings that are named.
    pub const SETTINGS: Self = Self(1);
    /// Some of the settings that are named may be back at their defaults.
    pub const RESETS: Self = Self(1 << 1);
    /// All settings may be back at their defaults.
    pub const RESETS_ALL: Self = Self(1 << 2);
    /// Anything.
    pub const UNKNOWN: Self = Self(1 << 3);
    /// Names of settings are among the values of a Bind.
    pub const BOUND: Self = Self(1 << 4);
    /// Temporary tables, or other things in the temporary schema.
    pub const TEMPORARY: Self = Self(1 << 5);
    /// Cursors that outlive their transaction.
    pub const CURSORS: Self = Self(1 << 6);
    /// Advisory locks of the session.
    pub const LOCKS: Self = Self(1 << 7);
    /// Loaded libraries.
    pub const LIBRARIES: Self = Self(1 << 8);
    /// The seed of random numbers.
    pub const SEED: Self = Self(1 << 9);
    /// Values of sequences are read that the session remembers.
    pub const SEQUENCES: Self = Self(1 << 10);
    /// What sessions of a role or a database begin with.
    pub const DEFAULTS: Self = Self(1 << 11);
    /// Statements under names of the client's own.
    pub const STATEMENTS: Self = Self(1 << 13);
    /// Something is gone that a client may have kept its connection for.
    pub const ENDS: Self = Self(1 << 12);

    /// Both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These without the others.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether one of the others is among them.
    #[must_use]
    pub const fn has(self, any: Self) -> bool {
        self.0 & any.0 != 0
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// What a text may change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hints {
    /// Which kinds.
    pub kinds: Kinds,
    /// It has a SET or RESET that was understood, be it one that ends with the transaction.
    pub sets: bool,
    /// Names of settings, in lower case.
    pub names: Vec<Box<str>>,
}

impl Hints {
    /// What nothing is known of.
    #[must_use]
    pub fn unknown() -> Self {
        Self::of(Kinds::UNKNOWN)
    }

    /// These kinds, and no names.
    #[must_use]
    pub fn of(kinds: Kinds) -> Self {
        Self { kinds, ..Self::default() }
    }

    /// Whether there is nothing to keep in mind.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.kinds.is_empty() && !self.sets
    }

    pub(super) fn add(&mut self, kinds: Kinds) {
        self.kinds = self.kinds.with(kinds);
    }

    /// A setting is named. What no setting of ours can be called may be anything.
    pub(super) fn name(&mut self, name: &[u8]) {
        let Some(name) = std::str::from_utf8(name).ok().filter(|name| is_name(name)) else { return self.add(Kinds::UNKNOWN) };
        self.add(Kinds::SETTINGS);
        if self.names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            return;
        }
        if self.names.len() >= MAX_NAMES {
            return self.add(Kinds::UNKNOWN);
        }
        self.names.push(name.to_ascii_lowercase().into());
    }
}

/// What the automaton looks for.
#[rustfmt::skip]
const WORDS: [(&str, Found); 10] = [
    ("set_config", Found::SetConfig),
    ("advisory_lock", Found::Lock),
    ("advisory_unlock", Found::Lock),
    ("setseed", Found::Kind(Kinds::SEED)),
    ("lastval", Found::Kind(Kinds::SEQUENCES)),
    ("currval", Found::Kind(Kinds::SEQUENCES)),
    ("temp", Found::Temp),
    ("hold", Found::Word(Kinds::CURSORS)),
    // By which settings can be changed, too.
    ("pg_settings", Found::Kind(Kinds::UNKNOWN)),
    // A name in which every character may be written as a number.
    ("u&\"", Found::Kind(Kinds::UNKNOWN)),
];

#[derive(Clone, Copy)]
enum Found {
    Kind(Kinds),
    /// Unless it is a part of another word.
    Word(Kinds),
    SetConfig,
    Lock,
    Temp,
}

static AUTOMATON: LazyLock<Option<AhoCorasick>> = LazyLock::new(|| automaton(WORDS.iter().map(|(word, _)| *word)));

/// Finds any of these words, in any case. `None` when they are too many to be looked for.
fn automaton<'w>(words: impl Iterator<Item = &'w str>) -> Option<AhoCorasick> {
    AhoCorasick::builder()
        .ascii_case_insensitive(true)
        .match_kind(MatchKind::LeftmostFirst)
        .start_kind(StartKind::Unanchored)
        .kind(Some(aho_corasick::AhoCorasickKind::DFA))
        .build(words)
        .ok()
}

/// What a whole text may change.
#[must_use]
#[inline]
pub fn look(text: &[u8]) -> Hints {
    if is_plain(text) { Hints::default() } else { look_closer(text) }
}

/// The same of a text that is not plain.
#[must_use]
pub fn look_closer(text: &[u8]) -> Hints {
    let mut hints = Hints::default();
    let Some(automaton) = &*AUTOMATON else { return Hints::unknown() };
    for found in automaton.find_iter(Input::new(text).anchored(Anchored::No)) {
        let (before, after) = (&text[..found.start()], &text[found.end()..]);
        match WORDS[found.pattern().as_usize()].1 {
            Found::Kind(kinds) => hints.add(kinds),
            Found::SetConfig => words::set_config(after, &mut hints),
            Found::Lock => hints.add(Kinds::LOCKS),
            Found::Word(kinds) if !ends_in_word(before) && !begins_with_part(after) => hints.add(kinds),
            Found::Temp if is_temp(before, after) => hints.add(Kinds::TEMPORARY),
            Found::Word(_) | Found::Temp => {}
        }
    }
    words::statements(text, &mut hints);
    hints
}

/// Whether the word is TEMP, TEMPORARY, or the name of the temporary schema, and not a part of another word.
fn is_temp(before: &[u8], after: &[u8]) -> bool {
    let rest = if starts_with(after, b"orary") { &after[5..] } else { after };
    // pg_temp_3 is some session's, perhaps this one's.
    ends_with(before, b"pg_") || !ends_in_word(before) && !begins_with_part(rest)
}

fn ends_in_word(text: &[u8]) -> bool {
    text.last().is_some_and(|byte| words::is_part(*byte))
}

fn begins_with_part(text: &[u8]) -> bool {
    text.first().is_some_and(|byte| words::is_part(*byte))
}

fn starts_with(text: &[u8], word: &[u8]) -> bool {
    text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
}

fn ends_with(text: &[u8], word: &[u8]) -> bool {
    text.len() >= word.len() && text[text.len() - word.len()..].eq_ignore_ascii_case(word)
}

/// The names of settings that may be among the values of a Bind; `values` is what follows its names. `None` when it is not formed as it should be.
#[must_use]
pub fn bound_names(values: &[u8]) -> Option<Hints> {
    let mut hints = Hints::default();
    let (formats, mut rest) = count(values)?;
    rest = rest.get(formats * 2..)?;
    let (number, mut rest) = count(rest)?;
    for _ in 0..number {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            rest = after;
            continue;
        };
        let value = after.get(..length)?;
        rest = &after[length..];
        if std::str::from_utf8(value).is_ok_and(is_name) {
            hints.name(value);
        }
    }
    Some(hints)
}

/// The names of settings of the users' own (`app.tenant_id`) that stand in quotes in a text: arguments, perhaps, of what sets them.
#[must_use]
pub fn quoted_names(text: &[u8]) -> Hints {
    let mut hints = Hints::default();
    for quoted in text.split(|byte| *byte == b'\'') {
        if quoted.contains(&b'.') && std::str::from_utf8(quoted).is_ok_and(is_name) && hints.names.len() < MAX_NAMES {
            hints.name(quoted);
        }
    }
    hints
}

fn count(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (count, rest) = bytes.split_first_chunk::<2>()?;
    Some((usize::from(u16::from_be_bytes(*count)), rest))
}

/// The same for the body of a Parse behind its name: the text, and what follows it.
#[must_use]
pub fn look_at_parse(body: &[u8]) -> Hints {
    cstr(body).map_or_else(Hints::unknown, |(text, _)| look(text))
}

/// Functions that are known to change session state without saying so.
#[derive(Debug, Default)]
pub struct Functions(Option<AhoCorasick>);

impl Functions {
    /// These functions, by their names without a schema.
    #[must_use]
    pub fn new<S: AsRef<str>>(names: &[S]) -> Self {
        let mut names = names.iter().map(AsRef::as_ref).filter(|name| !name.is_empty()).peekable();
        Self(if names.peek().is_some() { automaton(names) } else { None })
    }

    /// Whether one of them is named in a text.
    #[must_use]
    pub fn are_in(&self, text: &[u8]) -> bool {
        self.0.as_ref().is_some_and(|automaton| automaton.is_match(text))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

/// Whether a function that is called by its number (FunctionCall) is one for large objects: all that these leave behind ends with the
/// transaction.
#[must_use]
pub fn is_large_object(function: u32) -> bool {
    // lo_import, lo_export, lo_create, lo_open … lo_truncate64 (pg_proc.dat).
    matches!(function, 764 | 765 | 767 | 715 | 952..=958 | 964 | 1004 | 3170..=3172)
}

#[cfg(test)]
#[path = "hints_tests.rs"]
mod tests;
