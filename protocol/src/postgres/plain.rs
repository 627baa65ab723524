//! Whether a text of SQL is so plain that nobody needs to look closer: most texts are, and each message asks.
//!
//! Plain is one statement that begins with a command which changes no state of the session, in which no word occurs that could be a function or
//! an option that does. False means only that it has to be read properly (`hints`, `channels`, `sql`, `sql_databases`). The look at the words is
//! a comparison of a few rare pairs and triples of letters, made of operations that compilers turn into vector instructions.

/// How many bytes are compared at a time.
const BLOCK: usize = 32;

/// What is read beyond a block, for what begins at its end.
const BEYOND: usize = 2;

/// Whether the text is one statement that can leave nothing behind on its session, as far as its words go.
#[must_use]
#[inline]
pub fn is_plain(text: &[u8]) -> bool {
    begins_plainly(text) && !has_rare(without_end(text))
}

/// The first letters of commands that leave nothing behind, and are not about prepared statements, channels or databases.
fn begins_plainly(text: &[u8]) -> bool {
    let Some(start) = text.first_chunk::<3>() else { return false };
    matches!(
        &start.map(|byte| byte | 0x20),
        b"sel"
            | b"ins"
            | b"upd"
            | b"del"
            | b"wit"
            | b"val"
            | b"mer"
            | b"fet"
            | b"beg"
            | b"sta"
            | b"com"
            | b"end"
            | b"rol"
            | b"abo"
            | b"sav"
    )
}

/// Without the semicolon that ends many texts.
fn without_end(text: &[u8]) -> &[u8] {
    let text = text.trim_ascii_end();
    text.strip_suffix(b";").unwrap_or(text)
}

/// Whether anything occurs that no plain text has. Some of what is found stands in other words: that costs the closer look.
fn has_rare(text: &[u8]) -> bool {
    let mut rest = text;
    while let Some(block) = rest.first_chunk::<{ BLOCK + BEYOND }>() {
        if is_rare(block) {
            return true;
        }
        rest = &rest[BLOCK..];
    }
    let mut last = [0; BLOCK + BEYOND];
    last[..rest.len()].copy_from_slice(rest);
    is_rare(&last)
}

/// Whether one of the marks begins in the block. Letters are compared in lower case; what else that makes equal is a false alarm.
#[inline]
fn is_rare(block: &[u8; BLOCK + BEYOND]) -> bool {
    let mut found = 0;
    for at in 0..BLOCK {
        let [a, b, c] = [block[at] | 0x20, block[at + 1] | 0x20, block[at + 2] | 0x20];
        let is = |yes: bool| u8::from(yes);
        // Another statement.
        found |= is(a == b';')
            // lastval (and nextval, setval); currval; advisory
            | (is(b == b'v') & (is(a == b't') | is(a == b'r') | is(a == b'd')))
            // set_config
            | (is(a == b'n') & is(b == b'f'))
            // pg_settings
            | (is(a == b'g') & is(b == b's'))
            // pg_prepared_statements
            | (is(a == b'd') & is(b == b'_' | 0x20) & is(c == b's'))
            // setseed
            | (is(a == b'e') & is(b == b'e') & is(c == b'd'))
            // temp, temporary, pg_temp
            | (is(a == b'e') & is(b == b'm') & is(c == b'p'))
            // WITH HOLD
            | (is(a == b'h') & is(b == b'o') & is(c == b'l'))
            // U&"…", in which any name may hide
            | (is(a == b'&') & is(b == b'"'));
    }
    found != 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{channels, hints, keeps, sql, sql_databases, sql_listing};
    use super::*;

    #[test]
    fn what_applications_send_is_plain() {
        for text in [
            "SELECT abalance FROM pgbench_accounts WHERE aid = 4711;",
            "UPDATE pgbench_accounts SET abalance = abalance + -12 WHERE aid = 4711;\n",
            "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (1, 2, 3, 4, CURRENT_TIMESTAMP);",
            "select u.id, u.name from users u join orders o on o.user_id = u.id where o.total > $1 order by o.total desc limit 20",
            "WITH x AS (SELECT 1) SELECT * FROM x",
            "BEGIN",
            "begin;",
            "COMMIT",
            "END;",
            "ROLLBACK TO SAVEPOINT a",
        ] {
            assert!(is_plain(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn what_may_change_something_is_not() {
        for text in [
            "",
            "SE",
            "SET work_mem = 1",
            "SELECT 1; SELECT 2",
            "SELECT set_config('a', 'b', false)",
            "select SETSEED(0.5)",
            "SELECT pg_advisory_lock(1)",
            "SELECT lastval()",
            "SELECT currval('s')",
            "SELECT 1 INTO TEMP t",
            "SELECT * FROM pg_temp.t",
            "UPDATE pg_settings SET setting = 1",
            "SELECT U&\"x\"()",
            "SELECT * FROM pg_prepared_statements",
            "LISTEN a",
            "EXECUTE a",
            "DROP DATABASE a",
            "LOAD 'x'",
        ] {
            assert!(!is_plain(text.as_bytes()), "{text}");
        }
    }

    /// At every distance from the edges of the blocks.
    #[test]
    fn a_word_is_found_wherever_it_stands() {
        for word in [
            "set_config",
            "advisory_lock",
            "setseed",
            "lastval",
            "currval",
            "temp",
            "hold",
            "pg_settings",
            "u&\"",
            "pg_prepared_statements",
        ] {
            for before in 0..3 * BLOCK {
                for after in [0, 1, BLOCK] {
                    let text = format!("SELECT {}{}{}", " ".repeat(before), word, " x".repeat(after));
                    assert!(!is_plain(text.as_bytes()), "{text}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn who_looks_closer_at_a_plain_text_finds_nothing(
            first in "(?i)(select|insert|update|delete|with|begin|commit|end|rollback|savepoint|values|set|reset|do|listen|prepare|create)",
            rest in "(?i)( |;|\n|'|\"|/|-|\\*|,|\\(|\\)|[a-z_]{1,5}|temp|hold|set|lastval|nextval|set_config|advisory_lock|listen|execute|database|drop){0,12}",
        ) {
            let text = format!("{first}{rest}");
            let text = text.as_bytes();
            if is_plain(text) {
                prop_assert!(hints::look_closer(text).is_nothing());
                prop_assert_eq!(channels::listens(text), channels::Listens::No);
                prop_assert!(sql::start(text, true) == sql::Start::Other || sql::commands(text).is_none_or(|commands| commands.is_empty()));
                prop_assert!(sql_databases::wants_alone(text).is_none());
                prop_assert!(!sql_listing::may_list(text));
                prop_assert!(keeps::keeps(text).is_empty());
            }
        }
    }
}
