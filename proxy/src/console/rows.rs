//! Where the rows of a list go: their columns, the formats that the client wants, and the bytes so far.

use sidepool_protocol::postgres::result::{Formats, Row};

use super::show::Show;

/// The rows of a list, as they are put together.
pub struct Rows<'a> {
    show: Show,
    formats: &'a Formats,
    out: &'a mut Vec<u8>,
}

impl<'a> Rows<'a> {
    /// Rows of this list at the end of `out`.
    pub fn new(show: Show, formats: &'a Formats, out: &'a mut Vec<u8>) -> Self {
        Self { show, formats, out }
    }

    /// Which list it is.
    #[must_use]
    pub fn show(&self) -> Show {
        self.show
    }

    /// The next row.
    pub fn row(&mut self) -> Row<'_> {
        Row::begin(self.show.columns(), self.formats, self.out)
    }
}

/// What tests read from rows.
#[cfg(test)]
pub(super) fn read(show: Show, put: impl FnOnce(&mut Rows<'_>)) -> Vec<Vec<Option<String>>> {
    let mut out = Vec::new();
    put(&mut Rows::new(show, &Formats::Text, &mut out));
    let (mut rows, mut rest) = (Vec::new(), &out[..]);
    while let Some((head, after)) = rest.split_at_checked(7) {
        assert_eq!(head[0], b'D');
        let (columns, mut values) = (u16::from_be_bytes([head[5], head[6]]), after);
        let row = (0..columns).map(|_| {
            let (length, after) = values.split_first_chunk::<4>().expect("a length");
            let length = usize::try_from(i32::from_be_bytes(*length)).ok();
            let (value, after) = after.split_at(length.unwrap_or(0));
            values = after;
            length.map(|_| String::from_utf8(value.to_vec()).expect("text"))
        });
        rows.push(row.collect());
        rest = values;
    }
    assert!(rest.is_empty());
    rows
}
