//! Texts of SQL on their way into the log: one line of bounded length, and no password.

use sidepool_protocol::postgres::sql_normal::Normal;

/// The longest line.
const MOST: usize = 1024;

/// The body of the target.
pub fn run(input: &[u8]) {
    let line = Normal::new(input, false, MOST).to_string();
    assert!(!line.contains(char::is_control), "{line:?}");
    // Bytes that are no text grow to three each.
    assert!(line.len() <= 3 * MOST + 8, "{}", line.len());
    let secret = Normal::new(&[b"ALTER ROLE bob PASSWORD 'hunter2' ", input].concat(), false, MOST).to_string();
    assert!(secret.starts_with("ALTER ROLE bob PASSWORD ?"), "{secret}");
}
