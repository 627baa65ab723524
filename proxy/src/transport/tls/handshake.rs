//! The handshake. What it costs to compute (a signature of RSA takes most of a millisecond) is computed off the worker's thread, a few at a time
//! (`aside`), so that a thousand clients who reconnect at once do not stand between others and their queries.
//!
//! The caller bounds it in time; a handshake that is dropped half-way leaves the plain stream.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::session::Session;
use crate::arrivals::Newcomer;
use crate::aside::{self, For};
use crate::transport::stream::Stream;

/// Most bytes of handshake that are held: rustls' own bound for one message, of which a chain of certificates is the longest.
const MAX_HANDSHAKE_BYTES: usize = 64 * 1024;

/// How much is read at a time: a ClientHello with a post-quantum key fits.
const READ_BYTES: usize = 4096;

/// The head of a record: its type, version and length.
const RECORD_HEAD_BYTES: usize = 5;

/// A finished handshake.
pub(super) struct Done {
    pub(super) session: Session,
    /// Bytes of a record that is not complete.
    pub(super) records: Vec<u8>,
    /// What the peer has said right behind its handshake.
    pub(super) plain: Vec<u8>,
    /// And that it says nothing more.
    pub(super) closed: bool,
}

/// A handshake under way, on its way to another thread and back.
struct Step {
    done: Done,
    out: Vec<u8>,
    result: Result<(), rustls::Error>,
}

/// Shakes hands over a plain stream, with a client that arrives or with a server.
pub(super) async fn run(stream: &mut Stream, session: Session, first: Vec<u8>, arrival: Option<&Newcomer>) -> io::Result<Done> {
    // Who is the client of the handshake logs in to a server.
    let (mut begins, whose) = match session {
        Session::Client(_) => (true, For::Server),
        Session::Server(_) => (false, For::Client),
    };
    let mut done = Done { session, records: first, plain: Vec::new(), closed: false };
    loop {
        if begins || has_whole_record(&done.records) {
            begins = false;
            let step = aside::compute(whose, move || step(done)).await?;
            stream.write_all(&step.out).await?;
            step.result.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            done = step.done;
            if !done.session.is_handshaking() {
                done.records.shrink_to_fit();
                return Ok(done);
            }
            continue;
        }
        if done.records.len() >= MAX_HANDSHAKE_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the TLS handshake is too long"));
        }
        done.records.reserve(READ_BYTES);
        let _listening = arrival.map(Newcomer::listen);
        let mut piece = (&mut *stream).take(READ_BYTES as u64);
        if piece.read_buf(&mut done.records).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn step(mut done: Done) -> Step {
    let mut out = Vec::new();
    let plain = &mut done.plain;
    let advanced = done.session.advance(&mut done.records, &mut |bytes| plain.extend_from_slice(bytes), &mut out);
    let result = advanced.map(|advance| {
        done.records.drain(..advance.used);
        done.closed |= advance.closed;
    });
    Step { done, out, result }
}

/// Whether there is anything to compute: a client that sends byte by byte is only listened to.
fn has_whole_record(records: &[u8]) -> bool {
    let Some([kind, _, _, high, low]) = records.first_chunk::<RECORD_HEAD_BYTES>() else { return false };
    // What is no handshake record at all is for rustls to refuse, without waiting for the rest of it.
    let is_handshake = (20..=23).contains(kind);
    !is_handshake || records.len() >= RECORD_HEAD_BYTES + usize::from(u16::from_be_bytes([*high, *low]))
}
