//! What tests ask of the admin console: rows by the names of their columns.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::postgres::{Wire, tags};

/// So long a worker is waited for, before a list is shown without it.
const PATIENCE: Duration = Duration::from_secs(2);

/// So often a list is asked for from which a worker may be missing.
const TRIES: u32 = 3;

/// A row: values by column; NULL is `None`.
pub type Row = BTreeMap<String, Option<String>>;

/// The rows of a list, by column.
pub async fn rows(console: &mut Wire, command: &str) -> Vec<Row> {
    let messages = console.query(command).await;
    let description = messages.iter().find(|message| message.tag == b'T').unwrap_or_else(|| panic!("{command}: {}", tags(&messages)));
    let names = column_names(&description.body);
    let rows = messages.iter().filter(|message| message.tag == b'D');
    rows.map(|row| names.iter().cloned().zip(row.columns()).collect()).collect()
}

/// The same, to which every worker has added its own: asked again where one of them may have been late.
pub async fn rows_of_all(console: &mut Wire, command: &str) -> Vec<Row> {
    let mut tries = 0;
    loop {
        let begun = Instant::now();
        let rows = rows(console, command).await;
        tries += 1;
        if begun.elapsed() < PATIENCE || tries == TRIES {
            return rows;
        }
    }
}

/// The names in a RowDescription.
pub fn column_names(body: &[u8]) -> Vec<String> {
    let mut rest = &body[2..];
    let mut names = Vec::new();
    while let Some(end) = rest.iter().position(|byte| *byte == 0) {
        names.push(String::from_utf8_lossy(&rest[..end]).into_owned());
        rest = &rest[end + 19..];
    }
    names
}

/// A value; NULL is `(null)`.
pub fn value<'a>(row: &'a Row, column: &str) -> &'a str {
    row.get(column).unwrap_or_else(|| panic!("no column {column}")).as_deref().unwrap_or("(null)")
}

/// A value that is a number.
pub fn number(row: &Row, column: &str) -> u64 {
    value(row, column).parse().unwrap_or_else(|_| panic!("{column} is {:?}", value(row, column)))
}

/// The row with this value.
pub fn of<'a>(rows: &'a [Row], column: &str, wanted: &str) -> &'a Row {
    rows.iter().find(|row| value(row, column) == wanted).unwrap_or_else(|| panic!("no row with {column} = {wanted}: {rows:?}"))
}
