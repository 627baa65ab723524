//! What the rows of a statement look like, as a number: by the same rule by which PostgreSQL finds that a plan changes its result type
//! (`equalTupleDescs`), as far as a RowDescription tells: names, types and their modifiers, in order.

use std::hash::{DefaultHasher, Hasher as _};

use super::frame::cstr;

/// The shape of a statement that gives no rows.
pub const NO_ROWS: u64 = 0;

/// Where a column comes from: a table that was made anew has another number, and its rows are still the same.
const ORIGIN_BYTES: usize = 6;

/// The shape that the body of a RowDescription tells of; `None` when it is malformed.
#[must_use]
pub fn of_rows(body: &[u8]) -> Option<u64> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    let mut hasher = DefaultHasher::new();
    hasher.write(count);
    for _ in 0..u16::from_be_bytes(*count) {
        let (name, column) = cstr(rest)?;
        // The type, its length and its modifier; behind them is the format, which a statement has none of yet.
        let (what, next) = column.get(ORIGIN_BYTES..)?.split_at_checked(10)?;
        hasher.write(name);
        hasher.write_u8(0);
        hasher.write(what);
        rest = next.get(2..)?;
    }
    // One is as good as the next, as long as it is not that of no rows.
    rest.is_empty().then(|| hasher.finish().max(NO_ROWS + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(columns: &[(&str, u32, u32)]) -> Vec<u8> {
        let mut body = u16::try_from(columns.len()).unwrap().to_be_bytes().to_vec();
        for (name, table, kind) in columns {
            body.extend_from_slice(name.as_bytes());
            body.push(0);
            body.extend_from_slice(&table.to_be_bytes());
            body.extend_from_slice(&[0, 1]);
            body.extend_from_slice(&kind.to_be_bytes());
            body.extend_from_slice(&[0, 4, 0xff, 0xff, 0xff, 0xff, 0, 0]);
        }
        body
    }

    #[test]
    fn names_and_types_count_and_tables_do_not() {
        let shape = of_rows(&rows(&[("a", 1, 23), ("b", 1, 25)])).unwrap();
        assert_eq!(of_rows(&rows(&[("a", 2, 23), ("b", 3, 25)])), Some(shape));
        for other in [&[("a", 1, 23)][..], &[("a", 1, 23), ("b", 1, 23)], &[("a", 1, 23), ("c", 1, 25)], &[("b", 1, 25), ("a", 1, 23)], &[]]
        {
            assert_ne!(of_rows(&rows(other)), Some(shape));
        }
        assert_ne!(of_rows(&rows(&[])), Some(NO_ROWS));
    }

    #[test]
    fn what_is_cut_has_no_shape() {
        let whole = rows(&[("a", 1, 23), ("b", 1, 25)]);
        for cut in 0..whole.len() {
            assert_eq!(of_rows(&whole[..cut]), None, "{cut}");
        }
        assert_eq!(of_rows(&[&whole[..], b"x"].concat()), None);
    }
}
