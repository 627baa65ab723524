//! PgBouncer's `userlist.txt`: one `"name" "secret"` a line, a quote inside written twice, `;` for comments, the rest of a line ignored.

use std::collections::BTreeMap;

use crate::secret::Secret;
use crate::stored;

/// Users with their secrets (`None`: an empty one), and what is wrong by line.
pub type Users = (BTreeMap<String, Option<Secret>>, Vec<(u32, &'static str)>);

/// Reads the users, and the lines that are none.
#[must_use]
pub fn parse(text: &str) -> Users {
    let (mut users, mut wrong) = (BTreeMap::new(), Vec::new());
    for (line, number) in text.lines().zip(1_u32..) {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with(';') {
            continue;
        }
        match quoted(line).and_then(|(name, rest)| Some((name, quoted(rest.trim_start())?.0))) {
            None => wrong.push((number, "expected \"name\" \"secret\", both in double quotes")),
            Some((name, _)) if name.is_empty() => wrong.push((number, "the name is empty")),
            Some((name, _)) if users.contains_key(&name) => wrong.push((number, "this user is in the file twice")),
            Some((name, secret)) => {
                wrong.extend(stored::fault(&secret).map(|message| (number, message)));
                users.insert(name, if secret.is_empty() { None } else { Some(Secret::new(secret)) });
            }
        }
    }
    (users, wrong)
}

/// A text in double quotes at the front, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut rest = text.strip_prefix('"')?;
    let mut unquoted = String::new();
    loop {
        let (part, after) = rest.split_once('"')?;
        unquoted.push_str(part);
        match after.strip_prefix('"') {
            Some(more) => {
                unquoted.push('"');
                rest = more;
            }
            None => return Some((unquoted, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_of_pgbouncer() {
        let text =
            "; users\n\n\"app\" \"hunter2\" and more\n\"o\"\"dd\" \"a\"\"b\"\nplain line\n\"app\" \"again\"\n\"open\" \"x\n\"none\" \"\"\n";
        let (users, wrong) = parse(text);
        let users: Vec<_> = users.iter().map(|(name, secret)| (name.as_str(), secret.as_ref().map(Secret::reveal))).collect();
        assert_eq!(users, [("app", Some("hunter2")), ("none", None), ("o\"dd", Some("a\"b"))]);
        assert_eq!(wrong.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [5, 6, 7]);
    }
}
