//! Texts and names in SQL of the proxy's own. All of it is plain ASCII whatever they hold, so that no client encoding can read a quote into the
//! middle of a character, and no setting of the session can change what a quote means.

use std::fmt::Write as _;

/// A string constant (PostgreSQL documentation, "String Constants with C-Style Escapes" and "with Unicode Escapes").
#[must_use]
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 3);
    out.push_str("E'");
    for character in text.chars() {
        match character {
            '\'' => out.push_str("''"),
            '\\' => out.push_str("\\\\"),
            ' '..='~' => out.push(character),
            _ => {
                let _ = write!(out, "\\U{:08X}", u32::from(character));
            }
        }
    }
    out.push('\'');
    out
}

/// A setting's name, each part of it quoted. Names come from the server or have been checked before, and are ASCII.
#[must_use]
pub fn quoted_name(name: &str) -> String {
    name.split('.').map(|part| format!("\"{}\"", part.replace('"', "\"\""))).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_cannot_leave_their_quotes() {
        assert_eq!(quoted("a'b\\c"), "E'a''b\\\\c'");
        assert_eq!(quoted("é\n\u{1F600}"), "E'\\U000000E9\\U0000000A\\U0001F600'");
        assert_eq!(quoted_name("a\"b.c"), "\"a\"\"b\".\"c\"");
    }
}
