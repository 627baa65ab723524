//! Result sets that the proxy itself originates: column descriptions, rows, command tags, and the short answers of the extended protocol.
//!
//! Source: PostgreSQL documentation, "Message Formats", and the binary formats of int4, int8, numeric and text. Not here: what is in the rows.

use std::sync::Arc;

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `text`.
    Text,
    /// `int4`.
    Int4,
    /// `int8`.
    Int8,
    /// `numeric`; whole numbers only.
    Numeric,
    /// `bytea`; only ever NULL.
    Bytea,
}

impl Kind {
    /// Its number in `pg_type`.
    #[must_use]
    pub const fn oid(self) -> u32 {
        match self {
            Self::Text => 25,
            Self::Int4 => 23,
            Self::Int8 => 20,
            Self::Numeric => 1700,
            Self::Bytea => 17,
        }
    }

    const fn size(self) -> i16 {
        match self {
            Self::Int4 => 4,
            Self::Int8 => 8,
            Self::Text | Self::Numeric | Self::Bytea => -1,
        }
    }
}

/// A column: its name and type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
}

/// In which format a client wants the columns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Formats {
    /// All as text.
    #[default]
    Text,
    /// All in binary.
    Binary,
    /// Each in its own: true is binary.
    Each(Arc<[bool]>),
}

impl Formats {
    /// Whether a column is wanted in binary.
    #[must_use]
    pub fn is_binary(&self, column: usize) -> bool {
        match self {
            Self::Text => false,
            Self::Binary => true,
            Self::Each(formats) => formats.get(column).copied().unwrap_or(false),
        }
    }
}

/// RowDescription.
pub fn row_description(columns: &[Column], formats: &Formats, out: &mut Vec<u8>) {
    message(b'T', out, |out| {
        out.extend(count(columns.len()));
        for (index, column) in columns.iter().enumerate() {
            out.extend_from_slice(column.name.as_bytes());
            out.push(0);
            // No table, no column of one.
            out.extend([0; 6]);
            out.extend(column.kind.oid().to_be_bytes());
            out.extend(column.kind.size().to_be_bytes());
            out.extend((-1_i32).to_be_bytes());
            out.extend(i16::from(formats.is_binary(index)).to_be_bytes());
        }
    });
}

/// A DataRow that is being written: each column in order, then [`Row::end`].
pub struct Row<'a> {
    columns: &'a [Column],
    formats: &'a Formats,
    out: &'a mut Vec<u8>,
    start: usize,
    next: usize,
}

impl<'a> Row<'a> {
    /// A row of these columns at the end of `out`.
    pub fn begin(columns: &'a [Column], formats: &'a Formats, out: &'a mut Vec<u8>) -> Self {
        out.push(b'D');
        let start = out.len();
        out.extend([0; 4]);
        out.extend(count(columns.len()));
        Self { columns, formats, out, start, next: 0 }
    }

    /// The next column is NULL.
    pub fn null(&mut self) -> &mut Self {
        self.out.extend((-1_i32).to_be_bytes());
        self.next += 1;
        self
    }

    /// The next column is a text: the same bytes in both formats.
    pub fn text(&mut self, value: &str) -> &mut Self {
        self.value(|out| out.extend_from_slice(value.as_bytes()))
    }

    /// The next column is a text, or NULL.
    pub fn maybe(&mut self, value: Option<&str>) -> &mut Self {
        match value {
            Some(value) => self.text(value),
            None => self.null(),
        }
    }

    /// The next column is a number. What its type cannot hold becomes the largest that it can.
    pub fn number(&mut self, value: impl TryInto<i64>) -> &mut Self {
        let value = value.try_into().unwrap_or(i64::MAX);
        let kind = self.columns.get(self.next).map_or(Kind::Text, |column| column.kind);
        let small = i32::try_from(value).unwrap_or(if value < 0 { i32::MIN } else { i32::MAX });
        let is_binary = self.formats.is_binary(self.next);
        self.value(|out| match kind {
            Kind::Int4 if is_binary => out.extend(small.to_be_bytes()),
            Kind::Int8 if is_binary => out.extend(value.to_be_bytes()),
            Kind::Numeric if is_binary => numeric(value, out),
            Kind::Int4 => out.extend_from_slice(small.to_string().as_bytes()),
            Kind::Int8 | Kind::Numeric | Kind::Text | Kind::Bytea => out.extend_from_slice(value.to_string().as_bytes()),
        })
    }

    /// The row is complete.
    pub fn end(&mut self) {
        debug_assert_eq!(self.next, self.columns.len(), "a row has as many values as columns");
        fill_in_length(self.out, self.start);
    }

    fn value(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> &mut Self {
        let start = self.out.len();
        self.out.extend([0; 4]);
        write(self.out);
        let length = u32::try_from(self.out.len() - start - 4).unwrap_or(0);
        self.out[start..start + 4].copy_from_slice(&length.to_be_bytes());
        self.next += 1;
        self
    }
}

/// A whole number in the binary format of `numeric`: digits to the base 10,000, the first of which counts 10,000 to the power of the weight.
fn numeric(value: i64, out: &mut Vec<u8>) {
    let mut digits = Vec::with_capacity(5);
    let mut rest = value.unsigned_abs();
    while rest > 0 {
        digits.push(u16::try_from(rest % 10_000).unwrap_or(0));
        rest /= 10_000;
    }
    out.extend(count(digits.len()));
    out.extend(i16::try_from(digits.len().saturating_sub(1)).unwrap_or(0).to_be_bytes());
    out.extend(if value < 0 { 0x4000_u16 } else { 0 }.to_be_bytes());
    out.extend([0; 2]);
    for digit in digits.iter().rev() {
        out.extend(digit.to_be_bytes());
    }
}

/// CommandComplete.
pub fn command_complete(tag: &str, out: &mut Vec<u8>) {
    message(b'C', out, |out| {
        out.extend_from_slice(tag.as_bytes());
        out.push(0);
    });
}

/// BindComplete.
pub fn bind_complete(out: &mut Vec<u8>) {
    message(b'2', out, |_| {});
}

/// ParameterDescription of a statement without parameters.
pub fn no_parameters(out: &mut Vec<u8>) {
    message(b't', out, |out| out.extend([0; 2]));
}

/// NoData: what was described gives no rows.
pub fn no_data(out: &mut Vec<u8>) {
    message(b'n', out, |_| {});
}

fn count(items: usize) -> [u8; 2] {
    u16::try_from(items).unwrap_or(u16::MAX).to_be_bytes()
}

fn message(tag: u8, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    let start = out.len();
    out.extend([0; 4]);
    body(out);
    fill_in_length(out, start);
}

fn fill_in_length(out: &mut [u8], start: usize) {
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[Column] = &[
        Column { name: "a", kind: Kind::Text },
        Column { name: "b", kind: Kind::Int4 },
        Column { name: "c", kind: Kind::Int8 },
        Column { name: "d", kind: Kind::Numeric },
        Column { name: "e", kind: Kind::Bytea },
    ];

    fn row(formats: &Formats, number: i64) -> Vec<u8> {
        let mut out = Vec::new();
        Row::begin(COLUMNS, formats, &mut out).text("x").number(number).number(number).number(number).null().end();
        out
    }

    #[test]
    fn a_description_names_types_and_formats() {
        let mut out = Vec::new();
        row_description(&COLUMNS[1..2], &Formats::Binary, &mut out);
        assert_eq!(out, b"T\0\0\0\x1a\0\x01b\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\x01");
    }

    #[test]
    fn rows_as_text() {
        assert_eq!(row(&Formats::Text, 12), b"D\0\0\0\x21\0\x05\0\0\0\x01x\0\0\0\x0212\0\0\0\x0212\0\0\0\x0212\xff\xff\xff\xff");
    }

    #[test]
    fn rows_in_binary_and_in_formats_of_their_own() {
        let binary = row(&Formats::Binary, 12_345_678);
        let wanted = [
            &b"\0\0\0\x01x"[..],
            &[0, 0, 0, 4],
            &12_345_678_i32.to_be_bytes(),
            &[0, 0, 0, 8],
            &12_345_678_i64.to_be_bytes(),
            &[0, 0, 0, 12, 0, 2, 0, 1, 0, 0, 0, 0, 0x04, 0xd2, 0x16, 0x2e],
            &[0xff; 4],
        ];
        assert_eq!(binary[7..], wanted.concat());
        let each = Formats::Each([false, true].into());
        assert!(!each.is_binary(0) && each.is_binary(1) && !each.is_binary(2));
        assert_eq!(row(&each, 1)[7..20], *b"\0\0\0\x01x\0\0\0\x04\0\0\0\x01");
    }

    #[test]
    fn numbers_out_of_range_are_the_largest_there_are() {
        let mut out = Vec::new();
        Row::begin(&COLUMNS[1..2], &Formats::Text, &mut out).number(u64::MAX).end();
        assert!(out.ends_with(b"2147483647"));
        let mut zero = Vec::new();
        numeric(0, &mut zero);
        assert_eq!(zero, [0; 8]);
    }

    #[test]
    fn short_answers() {
        let mut out = Vec::new();
        command_complete("SHOW", &mut out);
        bind_complete(&mut out);
        no_parameters(&mut out);
        no_data(&mut out);
        assert_eq!(out, b"C\0\0\0\x09SHOW\x002\0\0\0\x04t\0\0\0\x06\0\0n\0\0\0\x04");
    }
}
