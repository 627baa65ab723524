//! Bytes as PgBouncer's `userlist.txt`: complaints point into the file, and the users that were found can be written down and read again.

use std::fmt::Write;

use sidepool_config::secret::Secret;
use sidepool_config::userlist;

/// Runs the target.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (users, wrong) = userlist::parse(&text);
    let lines = text.lines().count();
    for (line, _) in wrong {
        assert!((1..=lines).contains(&(line as usize)));
    }
    let quoted = |text: &str| text.replace('"', "\"\"");
    let mut again = String::new();
    for (name, secret) in &users {
        assert!(!name.is_empty());
        let _ = writeln!(again, "\"{}\" \"{}\"", quoted(name), quoted(secret.as_ref().map_or("", Secret::reveal)));
    }
    let (read_again, _) = userlist::parse(&again);
    assert_eq!(users, read_again);
}
