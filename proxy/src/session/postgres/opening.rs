//! Reads what a client says before it has proven who it is: exactly as many bytes as each packet has, never more than a packet may have, so that
//! nothing is held for strangers and nothing that belongs to the session is taken from it.

use std::io;
use std::sync::Arc;

use sidepool_config::model::{ClientSslMode, ClientTls};
use sidepool_config::tls::{ALPN, ClientContext};
use sidepool_protocol::postgres::cancel_key::CancelKey;
use sidepool_protocol::postgres::fault::{Fault, SqlState};
use sidepool_protocol::postgres::frame::{self, HEAD_BYTES};
use sidepool_protocol::postgres::login::client_side::MAX_ANSWER_BYTES;
use sidepool_protocol::postgres::startup::{self, MAX_PACKET_BYTES, Opening, StartupError, Stranger};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::account::Exceeded;
use super::denied::Denied;
use super::refusal;
use crate::arrivals::Newcomer;
use crate::transport::stream::Stream;
use crate::transport::tls;

/// How a Terminate begins; as a length it would be no packet that anybody sends.
const TERMINATE: &[u8] = b"X\0\0\0";

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
    /// The TLS handshake failed.
    Handshake(io::Error),
    /// It is told why.
    Refused(Fault, Denied),
}

impl Farewell {
    /// Why, as one of few words.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Left => "left",
            Self::Broken(_) => "connection_broken",
            Self::Stranger(stranger) => stranger.label(),
            Self::Handshake(_) => "tls",
            Self::Refused(_, denied) => denied.label(),
        }
    }

    /// Why it was denied; `None`: it left.
    pub(super) fn denied(&self) -> Option<Denied> {
        match self {
            Self::Silent | Self::Left | Self::Broken(_) => None,
            Self::Stranger(_) => Some(Denied::NotPostgres),
            Self::Handshake(_) => Some(Denied::TlsFailed),
            Self::Refused(_, denied) => Some(*denied),
        }
    }
}

impl From<io::Error> for Farewell {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof { Self::Left } else { Self::Broken(error) }
    }
}

impl From<Fault> for Farewell {
    fn from(fault: Fault) -> Self {
        let denied = Denied::by_code(&fault);
        Self::Refused(fault, denied)
    }
}

impl From<StartupError> for Farewell {
    fn from(error: StartupError) -> Self {
        let denied = match &error {
            StartupError::Option(_) | StartupError::Replication(_) => Denied::Parameter,
            StartupError::NoUser => Denied::AuthRejected,
            StartupError::Layout | StartupError::Encoding | StartupError::LongName(_) => Denied::Protocol,
        };
        Self::Refused(error.fault(), denied)
    }
}

impl From<Exceeded> for Farewell {
    fn from(exceeded: Exceeded) -> Self {
        Self::Refused(refusal::too_many_clients(exceeded), exceeded.into())
    }
}

/// Reads up to what the client came for. Requests for encryption are answered, and TLS is spoken where the configuration has it: in a box, for
/// each login has room for all that it may have to wait for, and is moved with it.
pub(super) async fn wish(stream: &mut Stream, tls: &ClientTls, arrival: &Newcomer) -> Result<Wish, Farewell> {
    let offered = match stream {
        Stream::Tcp(_) => tls.context.as_ref(),
        // Whoever can read along there can do anything.
        Stream::Unix(_) | Stream::Tls(_) | Stream::Ring(_) => None,
    };
    let (mut asked_ssl, mut asked_gss, mut has_turn) = (false, false, false);
    loop {
        let is_secure = stream.tls_peer().is_some();
        // Up to here it takes no room, and no turn.
        let listening = has_turn.then(|| arrival.listen());
        let head = head(stream, asked_ssl || asked_gss || is_secure).await?;
        drop(listening);
        let opening = startup::opening(head).map_err(Farewell::Stranger)?;
        // Cancels wait for nobody: they let others go on.
        if !has_turn && !matches!(opening, Opening::Cancel(_)) {
            arrival.turn().await;
            has_turn = true;
        }
        let asked_before = match (opening, offered) {
            (Opening::Ssl | Opening::Gss, _) if is_secure => {
                return Err(Fault::fatal(SqlState::PROTOCOL_VIOLATION, "SSL req inside SSL").into());
            }
            (Opening::Ssl, Some(context)) => {
                Box::pin(secure(stream, context, arrival)).await?;
                continue;
            }
            (Opening::DirectTls, Some(context)) if !asked_ssl && !asked_gss && !is_secure => {
                Box::pin(secure_directly(stream, context, head, arrival)).await?;
                continue;
            }
            (Opening::DirectTls, _) => return Err(Farewell::Stranger(Stranger::Tls)),
            (Opening::Ssl, None) => std::mem::replace(&mut asked_ssl, true),
            (Opening::Gss, _) => std::mem::replace(&mut asked_gss, true),
            (Opening::Cancel(remaining), _) => return Ok(Wish::Cancel(key(&exactly(stream, remaining).await?))),
            (Opening::Startup { minor, remaining }, _) => {
                let listening = arrival.listen();
                let packet = exactly(stream, remaining).await?;
                drop(listening);
                if offered.is_some() && !is_secure && is_required(tls.sslmode) {
                    let fault = Fault::fatal(SqlState::INVALID_AUTHORIZATION, "SSL required").with_hint("Set sslmode=require.");
                    return Err(Farewell::Refused(fault, Denied::TlsRequired));
                }
                return Ok(Wish::Startup(packet, minor));
            }
        };
        if asked_before {
            return Err(Fault::fatal(SqlState::PROTOCOL_VIOLATION, "encryption was asked for twice").into());
        }
        stream.write_all(b"N").await?;
    }
}

fn is_required(mode: ClientSslMode) -> bool {
    match mode {
        ClientSslMode::Disable | ClientSslMode::Allow | ClientSslMode::Prefer => false,
        ClientSslMode::Require | ClientSslMode::VerifyCa | ClientSslMode::VerifyFull => true,
    }
}

/// Answers SSLRequest with yes. What came behind the request came in the clear, and may be somebody else's words: nothing of it is ever taken for
/// what the client says under TLS, and it is said aloud (CVE-2021-23222).
async fn secure(stream: &mut Stream, context: &Arc<ClientContext>, arrival: &Newcomer) -> Result<(), Farewell> {
    if stream.has_unread_bytes() {
        let fault = Fault::fatal(SqlState::PROTOCOL_VIOLATION, "received unencrypted data after SSL request");
        let detail = "This could be either a client-software bug or evidence of an attempted man-in-the-middle attack.";
        return Err(fault.with_detail(detail).into());
    }
    stream.write_all(b"S").await?;
    tls::accept(stream, context, Vec::new(), Some(arrival)).await.map_err(Farewell::Handshake)
}

/// TLS from the first byte, as of PostgreSQL 17: such a client has to name the protocol, or it may have meant another server.
async fn secure_directly(
    stream: &mut Stream,
    context: &Arc<ClientContext>,
    head: [u8; startup::HEAD_BYTES],
    arrival: &Newcomer,
) -> Result<(), Farewell> {
    tls::accept(stream, context, head.to_vec(), Some(arrival)).await.map_err(Farewell::Handshake)?;
    if stream.tls_peer().is_some_and(|peer| peer.alpn() == Some(ALPN)) {
        return Ok(());
    }
    let message = "received direct SSL connection request without ALPN protocol negotiation extension";
    Err(Fault::fatal(SqlState::PROTOCOL_VIOLATION, message).into())
}

/// Reads a message of a client that is logging in.
pub(super) async fn answer(stream: &mut Stream, arrival: &Newcomer) -> Result<(u8, Vec<u8>), Farewell> {
    let _listening = arrival.listen();
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
        if head.starts_with(TERMINATE) {
            // It has thought better of it before it said anything: node-postgres says goodbye even then.
            return Err(Farewell::Left);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_startup_message_is_refused_for_what_is_wrong_with_it() {
        let why = |error: StartupError| Farewell::from(error).denied();
        assert_eq!(why(StartupError::Option("-e".into())), Some(Denied::Parameter));
        assert_eq!(why(StartupError::Replication("perhaps".into())), Some(Denied::Parameter));
        assert_eq!(why(StartupError::NoUser), Some(Denied::AuthRejected));
        assert_eq!(why(StartupError::Layout), Some(Denied::Protocol));
    }
}
