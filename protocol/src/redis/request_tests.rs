//! The request scanner: whole and byte by byte, against an encoder and against what a real Redis 7.0 answers to malformed input.

use proptest::prelude::*;

use super::*;
use crate::redis::encode;

fn all(bytes: &[u8]) -> (Vec<Vec<Vec<u8>>>, Result<Scanned, RequestFault>) {
    let mut scanner = RequestScanner::default();
    let mut found = Vec::new();
    let mut at = 0;
    loop {
        match scanner.scan(&bytes[at..], false) {
            Ok(Scanned::Request(request)) => {
                let whole = &bytes[at..at + request.length];
                let arguments: Vec<Vec<u8>> = Arguments::new(whole).map(<[u8]>::to_vec).collect();
                assert_eq!(arguments.len() as u64, request.arguments);
                assert_eq!(arguments[0], bytes[at + request.name.start..at + request.name.end]);
                found.push(arguments);
                at += request.length;
            }
            Ok(Scanned::Inline { text, length }) => {
                match inline::split(&bytes[at + text.start..at + text.end]) {
                    Ok(arguments) => found.push(arguments),
                    Err(fault) => return (found, Err(fault)),
                }
                at += length;
            }
            Ok(Scanned::Nothing { length }) => at += length,
            other => return (found, other),
        }
    }
}

#[test]
fn malformed_input_is_named_as_redis_names_it() {
    let long = |head: &str| [head.as_bytes(), &[b'1'; 70_000]].concat();
    for (bytes, line) in [
        (b"*x\r\n".to_vec(), "ERR Protocol error: invalid multibulk length"),
        (b"*3x\r\n".to_vec(), "ERR Protocol error: invalid multibulk length"),
        (b"*2147483648\r\n".to_vec(), "ERR Protocol error: invalid multibulk length"),
        (b"*01\r\n$4\r\nPING\r\n".to_vec(), "ERR Protocol error: invalid multibulk length"),
        (b"*+1\r\n".to_vec(), "ERR Protocol error: invalid multibulk length"),
        (b"*\r\nPING\r\n".to_vec(), "ERR Protocol error: invalid multibulk length"),
        (b"* 1\r\n".to_vec(), "ERR Protocol error: invalid multibulk length"),
        (b"*1\r\n#4\r\n".to_vec(), "ERR Protocol error: expected '$', got '#'"),
        (b"*1\r\n$x\r\n".to_vec(), "ERR Protocol error: invalid bulk length"),
        (b"*1\r\n$-1\r\n".to_vec(), "ERR Protocol error: invalid bulk length"),
        (b"*1\r\n$9223372036854775808\r\n".to_vec(), "ERR Protocol error: invalid bulk length"),
        (b"*1\r\n$18446744073709551620\r\n".to_vec(), "ERR Protocol error: invalid bulk length"),
        (long("*"), "ERR Protocol error: too big mbulk count string"),
        (long("*1\r\n$"), "ERR Protocol error: too big bulk count string"),
        (long("a"), "ERR Protocol error: too big inline request"),
        (b"PING \"x\r\n".to_vec(), "ERR Protocol error: unbalanced quotes in request"),
    ] {
        let (found, end) = all(&bytes);
        assert!(found.is_empty());
        assert_eq!(
            end.unwrap_err().line().as_deref(),
            Some(line.as_bytes()),
            "{:?}",
            String::from_utf8_lossy(&bytes[..bytes.len().min(40)])
        );
    }
}

#[test]
fn strangers_are_kept_short() {
    let stranger = |bytes: &[u8]| RequestScanner::default().scan(bytes, true);
    assert_eq!(stranger(b"*11\r\n"), Err(RequestFault::UnauthenticatedMultibulkLength));
    assert_eq!(stranger(b"*1\r\n$16385\r\n"), Err(RequestFault::UnauthenticatedBulkLength));
    assert!(matches!(stranger(b"*10\r\n$16384\r\n"), Ok(Scanned::Incomplete { .. })));
}

#[test]
fn what_redis_lets_pass_passes_but_is_not_called_canonical() {
    let mut scanner = RequestScanner::default();
    for (bytes, canonical) in [(&b"*1\r\n$4\r\nPING\r\n"[..], true), (b"*1\r\n$4\r\nPINGXY", false), (b"*1\rX$4\r\nPING\r\n", false)] {
        let Ok(Scanned::Request(request)) = scanner.scan(bytes, false) else { panic!() };
        assert_eq!((request.length, request.canonical), (bytes.len(), canonical));
    }
    assert_eq!(scanner.scan(b"*0\r\nPING", false), Ok(Scanned::Nothing { length: 4 }));
    assert_eq!(scanner.scan(b"*-5\r\nPING", false), Ok(Scanned::Nothing { length: 5 }));
}

#[test]
fn an_incomplete_request_says_its_name_and_its_need() {
    let mut scanner = RequestScanner::default();
    let head = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870912\r\nxx";
    assert_eq!(scanner.scan(head, false), Ok(Scanned::Incomplete { needs: head.len() as u64 - 2 + 536_870_912 + 2 }));
    assert_eq!(scanner.name(head), Some(&b"SET"[..]));
    assert_eq!(scanner.arguments(), Some(3));
    let mut scanner = RequestScanner::default();
    let endless = b"*1\r\n$9223372036854775807\r\nxx";
    assert!(matches!(scanner.scan(endless, false), Ok(Scanned::Incomplete { .. })), "how long is too long is the server's to say");
    assert_eq!(scanner.understood(), i64::MAX as u64 + 26);
}

#[test]
fn integers_are_read_as_redis_reads_them() {
    for (text, value) in [
        ("0", Some(0)),
        ("-1", Some(-1)),
        ("12", Some(12)),
        ("9223372036854775807", Some(i64::MAX)),
        ("-9223372036854775808", Some(i64::MIN)),
        ("9223372036854775808", None),
        ("", None),
        ("-", None),
        ("-0", None),
        ("01", None),
        ("+1", None),
        (" 1", None),
        ("1 ", None),
    ] {
        assert_eq!(parse_integer(text.as_bytes()), value, "{text:?}");
    }
}

proptest! {
    #[test]
    fn finds_what_was_encoded(requests in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 1..6), 1..6), cut in 0_usize..400) {
        let mut bytes = Vec::new();
        for request in &requests {
            let arguments: Vec<&[u8]> = request.iter().map(Vec::as_slice).collect();
            encode::command(&mut bytes, &arguments);
        }
        prop_assert_eq!(&all(&bytes).0, &requests);

        // In two steps: the scanner goes on where it stopped.
        let cut = cut.min(bytes.len());
        let mut scanner = RequestScanner::default();
        let mut at = 0;
        while let Ok(Scanned::Request(request)) = scanner.scan(&bytes[at..cut], false) {
            at += request.length;
        }
        let mut count = 0;
        while let Ok(Scanned::Request(request)) = scanner.scan(&bytes[at..], false) {
            at += request.length;
            count += 1;
        }
        prop_assert_eq!(at, bytes.len());
        prop_assert!(count <= requests.len());
    }

    #[test]
    fn byte_by_byte_is_the_same(text in "(\\*[0-3]\r\n|\\$[0-5]\r\n|[a-c]{0,5}\r\n|PING\r\n|\"|\r|\n){0,12}") {
        let bytes = text.as_bytes();
        let (found, end) = all(bytes);
        let mut scanner = RequestScanner::default();
        let (mut at, mut count, mut fault) = (0, 0, None);
        for length in 0..=bytes.len() {
            loop {
                if at > length { break; }
                match scanner.scan(&bytes[at..length], false) {
                    Ok(Scanned::Request(request)) => { at += request.length; count += 1; }
                    Ok(Scanned::Inline { text, length }) => {
                        if let Err(unbalanced) = inline::split(&bytes[at + text.start..at + text.end]) { fault = Some(unbalanced); }
                        else { count += 1; }
                        at += length;
                    }
                    Ok(Scanned::Nothing { length }) => at += length,
                    Ok(Scanned::Incomplete { .. }) => break,
                    Err(found) => { fault = Some(found); break; }
                }
                if fault.is_some() { break; }
            }
            if fault.is_some() { break; }
        }
        prop_assert_eq!(count, found.len());
        prop_assert_eq!(fault, end.err());
    }

    #[test]
    fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = all(&bytes);
    }
}
