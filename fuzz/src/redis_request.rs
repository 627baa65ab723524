//! Bytes as what a Redis client sends, whole and in pieces: the same requests and the same fault either way, and what is found can be walked
//! and encoded anew to the same arguments.

use sidepool_protocol::redis::fault::RequestFault;
use sidepool_protocol::redis::inline;
use sidepool_protocol::redis::request::{Arguments, RequestScanner, Scanned};
use sidepool_protocol::redis::{encode, transaction};

/// Runs the target.
pub fn run(data: &[u8]) {
    let Some((pieces, bytes)) = data.split_first() else { return };
    let whole = read(bytes, bytes.len().max(1));
    assert_eq!(whole, read(bytes, usize::from(*pieces % 32) + 1), "in pieces it is another conversation");
    for arguments in &whole.0 {
        let words: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
        let mut again = Vec::new();
        encode::command(&mut again, &words);
        assert_eq!(read(&again, again.len()).0, [arguments.clone()]);
    }
    if let Some(closed) = transaction::closed(bytes, Default::default()) {
        assert!(closed.length <= bytes.len() && closed.replies >= 2);
    }
}

fn read(bytes: &[u8], piece: usize) -> (Vec<Vec<Vec<u8>>>, Option<RequestFault>) {
    let mut scanner = RequestScanner::default();
    let (mut found, mut at, mut there) = (Vec::new(), 0, 0);
    loop {
        match scanner.scan(&bytes[at..there], false) {
            Ok(Scanned::Request(request)) => {
                assert!(request.length <= there - at && request.name.end <= request.length);
                let arguments: Vec<Vec<u8>> = Arguments::new(&bytes[at..at + request.length]).map(<[u8]>::to_vec).collect();
                assert_eq!(arguments.len() as u64, request.arguments);
                found.push(arguments);
                at += request.length;
            }
            Ok(Scanned::Inline { text, length }) => {
                match inline::split(&bytes[at + text.start..at + text.end]) {
                    Ok(arguments) => found.push(arguments),
                    Err(fault) => return (found, Some(fault)),
                }
                at += length;
            }
            Ok(Scanned::Nothing { length }) => at += length,
            Ok(Scanned::Incomplete { needs }) => {
                assert!(needs > (there - at) as u64, "it asks for what is there");
                if there == bytes.len() {
                    return (found, None);
                }
                there = (there + piece).min(bytes.len());
            }
            Err(fault) => return (found, Some(fault)),
        }
    }
}
