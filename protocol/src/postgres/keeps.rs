//! Whether a text is certain to leave something on its session that outlives its transaction, if it succeeds.
//!
//! Stricter than a hint: what may as well be gone by then (`ON COMMIT DROP`, a lock that the same text releases) is not certain, and neither
//! is what hides in a function. Source: PostgreSQL documentation, "SQL Commands".

use super::hints::Kinds;
use super::sql::{Token, Tokens};

/// What the words of one statement have told.
#[derive(Default)]
struct Seen {
    kinds: Kinds,
    /// How many words there were.
    words: usize,
    creates: bool,
    /// Nothing but words that may stand between CREATE and TEMP.
    leads: bool,
    declares: bool,
    loads: bool,
    /// It ends with the transaction, or with the text.
    ends: bool,
}

/// What it leaves. Nothing where that is not certain.
#[must_use]
pub fn keeps(text: &[u8]) -> Kinds {
    let (mut tokens, mut kinds, mut seen) = (Tokens::new(text), Kinds::NONE, Seen::default());
    // The last three words, in lower case.
    let mut last: [Vec<u8>; 3] = Default::default();
    loop {
        match tokens.next() {
            Token::Word(range) => {
                last.rotate_left(1);
                last[2] = text[range].to_ascii_lowercase();
                seen.word(&last);
            }
            Token::Symbol(b'(') => seen.call(&last[2]),
            Token::Symbol(b';') => {
                if seen.ends {
                    return Kinds::NONE;
                }
                kinds = kinds.with(std::mem::take(&mut seen).kinds);
                last = Default::default();
            }
            Token::Text => {
                seen.text();
                last[2].clear();
            }
            Token::Quoted(_) | Token::Symbol(_) => last[2].clear(),
            Token::End => return if seen.ends { Kinds::NONE } else { kinds.with(seen.kinds) },
            Token::Unclear => return Kinds::NONE,
        }
    }
}

impl Seen {
    fn word(&mut self, [second, before, word]: &[Vec<u8>; 3]) {
        self.words += 1;
        let led = self.leads;
        self.leads = match &**word {
            b"create" => self.words == 1,
            b"or" | b"replace" | b"global" | b"local" => led,
            _ => false,
        };
        match (&**second, &**before, &**word) {
            (_, _, b"create") if self.words == 1 => self.creates = true,
            (_, _, b"declare") if self.words == 1 => self.declares = true,
            (_, _, b"load") if self.words == 1 => self.loads = true,
            // Something is thrown away, perhaps what this text has made.
            (_, _, b"drop" | b"close" | b"discard" | b"rollback" | b"abort") if self.words == 1 => self.ends = true,
            (b"on", b"commit", b"drop") => self.ends = true,
            // CREATE [OR REPLACE] [GLOBAL | LOCAL] TEMP …
            (_, _, b"temp" | b"temporary") if led => self.add(Kinds::TEMPORARY),
            (_, _, b"pg_temp") if self.creates => self.add(Kinds::TEMPORARY),
            (_, b"into", b"temp" | b"temporary") => self.add(Kinds::TEMPORARY),
            (_, b"with", b"hold") if self.declares => self.add(Kinds::CURSORS),
            _ => {}
        }
    }

    /// A parenthesis behind this word.
    fn call(&mut self, function: &[u8]) {
        match function {
            b"pg_advisory_lock" | b"pg_advisory_lock_shared" | b"pg_try_advisory_lock" | b"pg_try_advisory_lock_shared" => {
                self.add(Kinds::LOCKS);
            }
            b"pg_advisory_unlock" | b"pg_advisory_unlock_shared" | b"pg_advisory_unlock_all" => self.ends = true,
            _ => {}
        }
    }

    fn text(&mut self) {
        if self.loads && self.words == 1 {
            self.add(Kinds::LIBRARIES);
        }
    }

    fn add(&mut self, kinds: Kinds) {
        self.kinds = self.kinds.with(kinds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_is_known() {
        for (text, kinds) in [
            ("CREATE TEMP TABLE t (n int)", Kinds::TEMPORARY),
            ("create local temporary table t (n int)", Kinds::TEMPORARY),
            ("CREATE OR REPLACE TEMP VIEW v AS SELECT 1", Kinds::TEMPORARY),
            ("CREATE/**/TEMPORARY SEQUENCE s", Kinds::TEMPORARY),
            ("CREATE TABLE pg_temp.t (n int)", Kinds::TEMPORARY),
            ("SELECT 1 AS n INTO TEMP t", Kinds::TEMPORARY),
            ("BEGIN; SELECT 1; CREATE TEMP TABLE t (n int); COMMIT", Kinds::TEMPORARY),
            ("DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT 1", Kinds::CURSORS),
            ("SELECT pg_advisory_lock(1)", Kinds::LOCKS),
            ("SELECT pg_catalog.pg_try_advisory_lock_shared ($1, $2)", Kinds::LOCKS),
            ("LOAD 'auto_explain'", Kinds::LIBRARIES),
            ("CREATE TEMP TABLE t (n int); LOAD 'x'", Kinds::TEMPORARY.with(Kinds::LIBRARIES)),
        ] {
            assert_eq!(keeps(text.as_bytes()), kinds, "{text}");
        }
    }

    #[test]
    fn what_may_not_stay_is_not_certain() {
        for text in [
            "",
            "SELECT 1",
            "CREATE TABLE t (temp int)",
            "CREATE TABLE temp_table (n int)",
            "CREATE TEMP TABLE t (n int) ON COMMIT DROP",
            "CREATE TEMP TABLE t (n int); DROP TABLE t",
            "CREATE TEMP TABLE t (n int); DISCARD TEMP",
            "BEGIN; CREATE TEMP TABLE t (n int); ROLLBACK",
            "SELECT 'CREATE TEMP TABLE t (n int)'",
            "DO $$ BEGIN CREATE TEMP TABLE t (n int); END $$",
            "DECLARE c CURSOR WITHOUT HOLD FOR SELECT 1",
            "DECLARE c CURSOR FOR SELECT 1",
            "SELECT pg_advisory_xact_lock(1), pg_try_advisory_xact_lock(2)",
            "SELECT pg_advisory_lock(1), pg_advisory_unlock(1)",
            "SELECT pg_advisory_lock FROM t",
            "SELECT load, 'x'",
            "SELECT '\\'; LOAD 'x'",
        ] {
            assert_eq!(keeps(text.as_bytes()), Kinds::NONE, "{text}");
        }
    }
}
