//! The lines of a `pgbouncer.ini`, as PgBouncer cuts them: section heads, `%include`, `key = value` to the end of the line, comments.
//!
//! Only the cutting: which keys there are and what they mean is elsewhere (`document`). A comment needs a line of its own, because `;` and `#`
//! may stand in values.

use std::borrow::Cow;

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item<'t> {
    /// `[name]`
    Section(&'t str),
    /// `%include file`
    Include(&'t str),
    /// `key = value`
    Pair {
        /// Without quotes.
        key: Cow<'t, str>,
        /// As it stands there, without the space around it.
        value: &'t str,
    },
    /// Nothing that is understood, and why.
    Wrong(&'static str),
}

/// Everything the lines say, each with the number of its line.
pub(crate) fn items(text: &str) -> Vec<(u32, Item<'_>)> {
    let mut found = Vec::new();
    for (line, number) in text.split('\n').zip(1_u32..) {
        let mut rest = line.trim();
        while !rest.is_empty() && !rest.starts_with(['#', ';']) {
            let (item, more) = first(rest);
            found.push((number, item));
            rest = more.trim_start();
        }
    }
    found
}

/// The first thing that a line says, and what is left of it: something only behind a section's head.
fn first(line: &str) -> (Item<'_>, &str) {
    if line.contains('\0') {
        return (Item::Wrong("a zero byte"), "");
    }
    if let Some(file) = line.strip_prefix("%include").filter(|rest| rest.starts_with([' ', '\t'])) {
        return (Item::Include(file.trim()), "");
    }
    if let Some(head) = line.strip_prefix('[') {
        return match head.split_once(']') {
            Some((name, rest)) => (Item::Section(name), rest),
            None => (Item::Wrong("the closing ] of the section is missing"), ""),
        };
    }
    let Some((key, rest)) = key(line) else { return (Item::Wrong("the closing \" of the name is missing"), "") };
    let item = match rest.trim_start_matches([' ', '\t']).strip_prefix('=') {
        Some(_) if key.is_empty() => Item::Wrong("the name before the = is missing"),
        Some(value) => Item::Pair { key, value: value.trim() },
        None => Item::Wrong("expected name = value; names of other characters than letters, digits and _.-* stand in double quotes"),
    };
    (item, "")
}

/// A key: bare, or in double quotes with `""` for a quote in it.
fn key(line: &str) -> Option<(Cow<'_, str>, &str)> {
    let Some(mut rest) = line.strip_prefix('"') else {
        let end = line.find(|c: char| !c.is_ascii_alphanumeric() && !"_.-*".contains(c)).unwrap_or(line.len());
        let (key, rest) = line.split_at(end);
        return Some((Cow::Borrowed(key), rest));
    };
    let mut key = String::new();
    loop {
        let (part, after) = rest.split_once('"')?;
        key.push_str(part);
        match after.strip_prefix('"') {
            Some(more) => {
                key.push('"');
                rest = more;
            }
            None => return Some((Cow::Owned(key), after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair<'t>(key: &'t str, value: &'t str) -> Item<'t> {
        Item::Pair { key: Cow::Borrowed(key), value }
    }

    #[test]
    fn sections_pairs_comments_and_includes() {
        let text = ";; head\n# also\n[databases]\r\n* = host=h\n\"my \"\"db\" =port=1 ; not a comment \n\n%include a b.ini \n  [pgbouncer] pool_mode\t=\tsession\nauth_file=";
        let expected = [
            (3, Item::Section("databases")),
            (4, pair("*", "host=h")),
            (5, pair("my \"db", "port=1 ; not a comment")),
            (7, Item::Include("a b.ini")),
            (8, Item::Section("pgbouncer")),
            (8, pair("pool_mode", "session")),
            (9, pair("auth_file", "")),
        ];
        assert_eq!(items(text), expected);
    }

    #[test]
    fn what_is_not_understood_is_one_item_and_the_rest_goes_on() {
        let text = "[open\nword\n= x\n\"open = 1\n%includes x\na b = c\nz\0 = 1\ngood = 1\n";
        let wrong: Vec<_> = items(text).into_iter().filter(|(_, item)| matches!(item, Item::Wrong(_))).map(|(line, _)| line).collect();
        assert_eq!(wrong, [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(items(text).last(), Some(&(8, pair("good", "1"))));
    }
}
