//! Bytes as what a Redis server sends, whole and in pieces: the ends of values are found at the same places, and where the redis-protocol crate
//! decodes a value, it ends where we say.

use sidepool_protocol::redis::encode::Resp;
use sidepool_protocol::redis::frame::{FrameScanner, Scan};
use sidepool_protocol::redis::reply;

/// Runs the target.
pub fn run(data: &[u8]) {
    let Some((pieces, bytes)) = data.split_first() else { return };
    let (ends, whole) = scan(bytes, bytes.len().max(1));
    let (again, _) = scan(bytes, usize::from(*pieces % 32) + 1);
    assert_eq!(ends, again, "in pieces it ends elsewhere");
    let mut at = 0;
    for end in ends {
        // What the crate does not take is not compared: it knows streamed types, which no server sends, and refuses some odd numbers.
        if let Ok(Some((_, used))) = reply::decode(Resp::Two, &bytes[at..end]) {
            assert_eq!(at + used, end, "RESP2 at {at}");
        }
        at = end;
    }
    assert!(at <= bytes.len() || whole.is_err());
}

fn scan(bytes: &[u8], piece: usize) -> (Vec<usize>, Result<(), ()>) {
    let mut scanner = FrameScanner::default();
    let (mut ends, mut base) = (Vec::new(), 0);
    for piece in bytes.chunks(piece) {
        let mut at = 0;
        while at < piece.len() {
            match scanner.scan(&piece[at..]) {
                Ok(Scan::More) => break,
                Ok(Scan::End { used, .. }) => {
                    assert!(used > 0 && at + used <= piece.len());
                    at += used;
                    ends.push(base + at);
                    assert!(scanner.is_between());
                }
                Err(_) => return (ends, Err(())),
            }
        }
        base += piece.len();
    }
    (ends, Ok(()))
}
