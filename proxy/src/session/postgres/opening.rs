//! Reads what a client says before it has proven who it is: exactly as many bytes as each packet has, never more than a packet may have, so that
//! nothing is held for strangers and nothing that belongs to the session is taken from it.

use std::io;

use sidepool_protocol::postgres::cancel_key::CancelKey;
use sidepool_protocol::postgres::fault::{Fault, SqlState};
use sidepool_protocol::postgres::frame::{self, HEAD_BYTES};
use sidepool_protocol::postgres::login::client_side::MAX_ANSWER_BYTES;
use sidepool_protocol::postgres::startup::{self, MAX_PACKET_BYTES, Opening, StartupError, Stranger};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::transport::stream::Stream;

/// Room for what clients usually say.
const FIRST_ROOM: usize = 512;

/// What a client came for.
pub(super) enum Wish {
    /// To log in: the rest of the packet and the minor version of the protocol.
    Startup(Vec<u8>, u16),
    /// To cancel what another client does. `None`: a key that cannot be one of ours.
    Cancel(Option<CancelKey>),
}

/// Why a client that has not logged in is sent away, or has left.
#[derive(Debug)]
pub(super) enum Farewell {
    /// It left without having said anything: a port scan, a health check.
    Silent,
    /// It left in the middle.
    Left,
    /// The connection broke.
    Broken(io::Error),
    /// It does not speak PostgreSQL.
    Stranger(Stranger),
    /// It is told why.
    Refused(Fault),
}

impl From<io::Error> for Farewell {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof { Self::Left } else { Self::Broken(error) }
    }
}

impl From<Fault> for Farewell {
    fn from(fault: Fault) -> Self {
        Self::Refused(fault)
    }
}

impl From<StartupError> for Farewell {
    fn from(error: StartupError) -> Self {
        Self::Refused(error.fault())
    }
}

/// Reads up to what the client came for. Requests for encryption are answered: not here.
pub(super) async fn wish(stream: &mut Stream) -> Result<Wish, Farewell> {
    let (mut asked_ssl, mut asked_gss) = (false, false);
    loop {
        let said_something = asked_ssl || asked_gss;
        let head = head(stream, said_something).await?;
        let asked_before = match startup::opening(head).map_err(Farewell::Stranger)? {
            Opening::Ssl => std::mem::replace(&mut asked_ssl, true),
            Opening::Gss => std::mem::replace(&mut asked_gss, true),
            Opening::Cancel(remaining) => return Ok(Wish::Cancel(key(&exactly(stream, remaining).await?))),
            Opening::Startup { minor, remaining } => return Ok(Wish::Startup(exactly(stream, remaining).await?, minor)),
        };
        if asked_before {
            return Err(Fault::fatal(SqlState::PROTOCOL_VIOLATION, "encryption was asked for twice").into());
        }
        stream.write_all(b"N").await?;
    }
}

/// Reads a message of a client that is logging in.
pub(super) async fn answer(stream: &mut Stream) -> Result<(u8, Vec<u8>), Farewell> {
    let mut head = [0; HEAD_BYTES];
    stream.read_exact(&mut head).await?;
    let bad_length = |facts: String| Fault::fatal(SqlState::PROTOCOL_VIOLATION, "invalid message length").with_detail(facts);
    match frame::head(&head) {
        Ok(Some(head)) if head.body <= MAX_ANSWER_BYTES => Ok((head.tag, exactly(stream, head.body).await?)),
        Ok(_) => Err(bad_length(format!("During login a message has at most {MAX_ANSWER_BYTES} bytes.")).into()),
        Err(bad) => Err(bad_length(bad.to_string()).into()),
    }
}

/// The first bytes of a packet, or as many as it takes to see that it is none.
async fn head(stream: &mut Stream, said_something: bool) -> Result<[u8; startup::HEAD_BYTES], Farewell> {
    let mut head = [0; startup::HEAD_BYTES];
    let mut filled = 0;
    while filled < head.len() {
        match stream.read(&mut head[filled..]).await? {
            0 if filled == 0 && !said_something => return Err(Farewell::Silent),
            0 => return Err(Farewell::Left),
            read => filled += read,
        }
        let length = head.first_chunk::<4>().map_or(0, |length| u32::from_be_bytes(*length));
        if filled >= 4 && length as usize > MAX_PACKET_BYTES + 4 {
            // No packet of ours; more may never come.
            break;
        }
    }
    Ok(head)
}

/// Memory follows the bytes that really come, and not the length that is claimed.
async fn exactly(stream: &mut Stream, bytes: usize) -> io::Result<Vec<u8>> {
    let mut buffer = Vec::with_capacity(bytes.min(FIRST_ROOM));
    stream.take(bytes as u64).read_to_end(&mut buffer).await?;
    if buffer.len() < bytes { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(buffer) }
}

fn key(rest: &[u8]) -> Option<CancelKey> {
    rest.try_into().ok().map(CancelKey::from_bytes)
}
