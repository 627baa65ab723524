//! The scanner against the redis-protocol crate as the oracle, whole and byte by byte.

use proptest::prelude::*;
use redis_protocol::resp3::decode::complete::decode;

use super::*;

/// Ends of all values in `bytes`, fed in pieces of `size`.
fn ends(bytes: &[u8], size: usize) -> Result<Vec<(usize, Value)>, FrameFault> {
    let mut scanner = FrameScanner::default();
    let mut found = Vec::new();
    let mut base = 0;
    for piece in bytes.chunks(size) {
        let mut rest = piece;
        while !rest.is_empty() {
            match scanner.scan(rest)? {
                Scan::More => break,
                Scan::End { used, value } => {
                    found.push((base + (piece.len() - rest.len()) + used, value));
                    rest = &rest[used..];
                }
            }
        }
        base += piece.len();
    }
    Ok(found)
}

#[test]
fn one_value_of_each_type() {
    for (text, kind, null) in [
        ("+OK\r\n", b'+', false),
        ("-ERR no\r\n", b'-', false),
        (":12\r\n", b':', false),
        ("$3\r\nabc\r\n", b'$', false),
        ("$0\r\n\r\n", b'$', false),
        ("$-1\r\n", b'$', true),
        ("*-1\r\n", b'*', true),
        ("*0\r\n", b'*', false),
        ("*2\r\n:1\r\n*1\r\n$1\r\na\r\n", b'*', false),
        ("*1\r\n$-1\r\n", b'*', false),
        ("_\r\n", b'_', true),
        ("#t\r\n", b'#', false),
        (",1.5\r\n", b',', false),
        ("(123456789012345678901234567890\r\n", b'(', false),
        ("!5\r\nERR x\r\n", b'!', false),
        ("=7\r\ntxt:abc\r\n", b'=', false),
        ("%1\r\n+a\r\n*1\r\n:1\r\n", b'%', false),
        ("~2\r\n:1\r\n:2\r\n", b'~', false),
        (">2\r\n+message\r\n+x\r\n", b'>', false),
        ("|1\r\n+ttl\r\n:1\r\n$1\r\na\r\n", b'$', false),
        ("*1\r\n|1\r\n+ttl\r\n*2\r\n:1\r\n:2\r\n:3\r\n", b'*', false),
        ("|1\r\n+a\r\n_\r\n*0\r\n", b'*', false),
    ] {
        for size in [1, 2, 3, text.len()] {
            assert_eq!(ends(text.as_bytes(), size), Ok(vec![(text.len(), Value { kind, null })]), "{text:?} in pieces of {size}");
        }
    }
}

#[test]
fn what_is_not_resp_is_a_fault() {
    for (text, fault) in [
        ("x", FrameFault::Type(b'x')),
        ("$x\r\n", FrameFault::Length),
        ("$-2\r\n", FrameFault::Length),
        ("%-1\r\n", FrameFault::Length),
        ("*\r\n", FrameFault::Length),
        ("$1\rX", FrameFault::LineEnd),
        ("*9999999999999999999\r\n", FrameFault::Length),
        ("*999999999999999999\r\n", FrameFault::Elements),
        ("%999999999999999999\r\n", FrameFault::Elements),
        ("*1\r\n?\r\n", FrameFault::Type(b'?')),
    ] {
        assert_eq!(ends(text.as_bytes(), 1), Err(fault), "{text:?}");
    }
}

#[test]
fn depth_costs_no_memory() {
    let deep = "*1\r\n".repeat(100_000) + ":1\r\n";
    assert_eq!(ends(deep.as_bytes(), 4096).unwrap().len(), 1);
}

fn value(depth: u32) -> BoxedStrategy<String> {
    let leaf = prop_oneof![
        "[a-z ]{0,8}".prop_map(|text| format!("+{text}\r\n")),
        any::<i64>().prop_map(|number| format!(":{number}\r\n")),
        "[a-z\r\n]{0,9}".prop_map(|text| format!("${}\r\n{text}\r\n", text.len())),
        "ERR [a-z]{1,9}".prop_map(|text| format!("-{text}\r\n")),
        Just("_\r\n".to_owned()),
        Just("#f\r\n".to_owned()),
    ];
    if depth == 0 {
        return leaf.boxed();
    }
    let inner = value(depth - 1);
    prop_oneof![
        leaf,
        prop::collection::vec(inner.clone(), 0..4).prop_map(|all| format!("*{}\r\n{}", all.len(), all.concat())),
        prop::collection::vec(inner, 1..3).prop_map(|all| format!(
            "%{}\r\n{}",
            all.len(),
            all.iter().enumerate().map(|(key, one)| format!(":{key}\r\n{one}")).collect::<String>()
        )),
    ]
    .boxed()
}

proptest! {
    #[test]
    fn ends_where_the_oracle_says(values in prop::collection::vec(value(3), 1..5), size in 1_usize..40) {
        let bytes = values.concat().into_bytes();
        let mut expected = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let (_, used) = decode(&bytes[at..]).unwrap().unwrap();
            at += used;
            expected.push(at);
        }
        let found: Vec<usize> = ends(&bytes, size).unwrap().into_iter().map(|(end, _)| end).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), size in 1_usize..20) {
        let _ = ends(&bytes, size);
    }
}
