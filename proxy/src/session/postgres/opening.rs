//! Understands what a client says before it has proven who it is. Little is held for strangers: nothing before there is a turn for it, then no more
//! than a packet may have and what was read with it, which belongs to the session if it comes to that.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use sidepool_config::model::{ClientSslMode, ClientTls};
use sidepool_config::tls::{ALPN, ClientContext};
use sidepool_protocol::postgres::cancel_key::CancelKey;
use sidepool_protocol::postgres::fault::{Fault, SqlState};
use sidepool_protocol::postgres::frame::{self, HEAD_BYTES};
use sidepool_protocol::postgres::login::client_side::MAX_ANSWER_BYTES;
use sidepool_protocol::postgres::startup::{self, MAX_PACKET_BYTES, Opening, StartupError, Stranger};
use tokio::io::AsyncWriteExt as _;

use super::account::Exceeded;
use super::denied::Denied;
use super::heard::{Heard, PIECE_BYTES};
use super::refusal;
use crate::arrivals::Newcomer;
use crate::transport::buffer::Buffers;
use crate::transport::stream::Stream;
use crate::transport::tls;

/// How a Terminate begins; as a length it would be no packet that anybody sends.
const TERMINATE: &[u8] = b"X\0\0\0";

/// A client that we listen to.
pub(super) struct Speaker<'a> {
    pub(super) stream: &'a mut Stream,
    /// What it has said.
    pub(super) heard: &'a mut Heard,
    /// What it is heard with.
    pub(super) buffers: &'a Buffers,
    /// It has not proven who it is.
    pub(super) arrival: &'a Newcomer,
}

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

/// Hears what the client came for. Requests for encryption are answered, and TLS is spoken where the configuration has it: in a box, for each login
/// has room for all that it may have to wait for, and is moved with it.
pub(super) async fn wish(speaker: &mut Speaker<'_>, tls: &ClientTls) -> Result<Wish, Farewell> {
    let offered = match speaker.stream {
        Stream::Tcp(_) => tls.context.as_ref(),
        // Whoever can read along there can do anything.
        Stream::Unix(_) | Stream::Tls(_) | Stream::Ring(_) => None,
    };
    let (mut asked_ssl, mut asked_gss, mut has_turn) = (false, false, false);
    loop {
        let is_secure = speaker.stream.tls_peer().is_some();
        let head = speaker.head(&mut has_turn, asked_ssl || asked_gss || is_secure).await?;
        let opening = startup::opening(head).map_err(Farewell::Stranger)?;
        // Cancels wait for nobody: they let others go on.
        if !has_turn && !matches!(opening, Opening::Cancel(_)) {
            speaker.arrival.turn().await;
            has_turn = true;
        }
        let asked_before = match (opening, offered) {
            (Opening::Ssl | Opening::Gss, _) if is_secure => {
                return Err(Fault::fatal(SqlState::PROTOCOL_VIOLATION, "SSL req inside SSL").into());
            }
            (Opening::Ssl, Some(context)) => {
                speaker.heard.take(startup::HEAD_BYTES);
                Box::pin(secure(speaker, context)).await?;
                continue;
            }
            (Opening::DirectTls, Some(context)) if !asked_ssl && !asked_gss && !is_secure => {
                Box::pin(secure_directly(speaker, context)).await?;
                continue;
            }
            (Opening::DirectTls, _) => return Err(Farewell::Stranger(Stranger::Tls)),
            (Opening::Ssl, None) => std::mem::replace(&mut asked_ssl, true),
            (Opening::Gss, _) => std::mem::replace(&mut asked_gss, true),
            (Opening::Cancel(remaining), _) => return Ok(Wish::Cancel(key(&speaker.packet(remaining, has_turn).await?))),
            (Opening::Startup { minor, remaining }, _) => {
                let packet = speaker.packet(remaining, has_turn).await?;
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
        speaker.heard.take(startup::HEAD_BYTES);
        speaker.stream.write_all(b"N").await?;
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
async fn secure(speaker: &mut Speaker<'_>, context: &Arc<ClientContext>) -> Result<(), Farewell> {
    if !speaker.heard.bytes().is_empty() || speaker.stream.has_unread_bytes() {
        let fault = Fault::fatal(SqlState::PROTOCOL_VIOLATION, "received unencrypted data after SSL request");
        let detail = "This could be either a client-software bug or evidence of an attempted man-in-the-middle attack.";
        return Err(fault.with_detail(detail).into());
    }
    speaker.stream.write_all(b"S").await?;
    tls::accept(speaker.stream, context, Vec::new(), Some(speaker.arrival)).await.map_err(Farewell::Handshake)
}

/// TLS from the first byte, as of PostgreSQL 17: such a client has to name the protocol, or it may have meant another server.
async fn secure_directly(speaker: &mut Speaker<'_>, context: &Arc<ClientContext>) -> Result<(), Farewell> {
    let first = std::mem::take(speaker.heard).rest();
    tls::accept(speaker.stream, context, first, Some(speaker.arrival)).await.map_err(Farewell::Handshake)?;
    if speaker.stream.tls_peer().is_some_and(|peer| peer.alpn() == Some(ALPN)) {
        return Ok(());
    }
    let message = "received direct SSL connection request without ALPN protocol negotiation extension";
    Err(Fault::fatal(SqlState::PROTOCOL_VIOLATION, message).into())
}

impl Speaker<'_> {
    /// Hears a message of a client that is logging in: its tag and its body.
    pub(super) async fn message(&mut self) -> Result<(u8, Vec<u8>), Farewell> {
        let bad_length = |facts: String| Fault::fatal(SqlState::PROTOCOL_VIOLATION, "invalid message length").with_detail(facts);
        let _listening = self.arrival.listen();
        loop {
            match frame::head(self.heard.bytes()) {
                Ok(None) => {}
                Ok(Some(head)) if head.body > MAX_ANSWER_BYTES => {
                    return Err(bad_length(format!("During login a message has at most {MAX_ANSWER_BYTES} bytes.")).into());
                }
                Ok(Some(head)) if head.message_bytes() <= self.heard.bytes().len() => {
                    let mut message = self.heard.take(head.message_bytes());
                    message.drain(..HEAD_BYTES);
                    return Ok((head.tag, message));
                }
                Ok(Some(_)) => {}
                Err(bad) => return Err(bad_length(bad.to_string()).into()),
            }
            self.heard.more(self.stream, self.buffers, PIECE_BYTES).await?;
        }
    }

    /// The first bytes of a packet, or as many as it takes to see that it is none. They stay where they are. Who speaks takes a turn if there is one
    /// to be had at once; where there is none, it takes no room up to here.
    async fn head(&mut self, has_turn: &mut bool, said_something: bool) -> Result<[u8; startup::HEAD_BYTES], Farewell> {
        let _listening = has_turn.then(|| self.arrival.listen());
        loop {
            let bytes = self.heard.bytes();
            let mut head = [0; startup::HEAD_BYTES];
            let filled = bytes.len().min(head.len());
            head[..filled].copy_from_slice(&bytes[..filled]);
            if head.starts_with(TERMINATE) {
                // It has thought better of it before it said anything: node-postgres says goodbye even then.
                return Err(Farewell::Left);
            }
            let length = head.first_chunk::<4>().map_or(0, |length| u32::from_be_bytes(*length));
            // What is no packet of ours may never have more than its length.
            if filled == head.len() || filled >= 4 && length as usize > MAX_PACKET_BYTES + 4 {
                return Ok(head);
            }
            let heard = if *has_turn {
                self.heard.more(self.stream, self.buffers, PIECE_BYTES).await
            } else {
                poll_fn(|cx| self.poll_first(cx, has_turn)).await
            };
            match heard {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && filled == 0 && !said_something => {
                    return Err(Farewell::Silent);
                }
                heard => heard?,
            }
        }
    }

    /// Hears somebody who has no turn. Who says next to nothing takes none.
    fn poll_first(&mut self, cx: &mut Context<'_>, has_turn: &mut bool) -> Poll<io::Result<()>> {
        ready!(self.stream.poll_said(cx));
        self.arrival.turn_at_once(|has| {
            let room = if has { PIECE_BYTES } else { startup::HEAD_BYTES - self.heard.bytes().len() };
            let heard = self.heard.poll_more(cx, self.stream, self.buffers, room);
            *has_turn = has && self.heard.bytes().len() >= startup::HEAD_BYTES;
            (*has_turn, heard)
        })
    }

    /// The rest of the packet whose head has been heard. Who has no turn stays with those who have none: sending it away frees none.
    async fn packet(&mut self, remaining: usize, has_turn: bool) -> Result<Vec<u8>, Farewell> {
        let _listening = has_turn.then(|| self.arrival.listen());
        let whole = startup::HEAD_BYTES + remaining;
        while self.heard.bytes().len() < whole {
            self.heard.more(self.stream, self.buffers, PIECE_BYTES).await?;
        }
        let mut packet = self.heard.take(whole);
        packet.drain(..startup::HEAD_BYTES);
        Ok(packet)
    }
}

fn key(rest: &[u8]) -> Option<CancelKey> {
    rest.try_into().ok().map(CancelKey::from_bytes)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::rc::Rc;
    use std::time::Duration;

    use tokio::net::UnixStream;
    use tokio::task::LocalSet;
    use tokio::time::timeout;

    use super::*;
    use crate::arrivals::{Arrivals, GRACE};
    use crate::clock;

    #[test]
    fn a_startup_message_is_refused_for_what_is_wrong_with_it() {
        let why = |error: StartupError| Farewell::from(error).denied();
        assert_eq!(why(StartupError::Option("-e".into())), Some(Denied::Parameter));
        assert_eq!(why(StartupError::Replication("perhaps".into())), Some(Denied::Parameter));
        assert_eq!(why(StartupError::NoUser), Some(Denied::AuthRejected));
        assert_eq!(why(StartupError::Layout), Some(Denied::Protocol));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_held_for_who_has_no_turn_and_little_for_who_has_one() {
        let run = async {
            let (all, (mut client, ours)) = (Rc::<Arrivals>::default(), UnixStream::pair().unwrap());
            let (mut stream, arrival) = (Stream::Unix(ours), all.enter());
            let (mut heard, buffers, tls) = (Heard::default(), Buffers::default(), ClientTls::default());
            // A packet, and behind it more than is read at a time.
            client.write_all(&[&[0, 0, 0, 9, 0, 3, 0, 0, 0], &[b'x'; 2 * PIECE_BYTES][..]].concat()).await.unwrap();
            let mut speaker = Speaker { stream: &mut stream, heard: &mut heard, buffers: &buffers, arrival: &arrival };
            assert!(timeout(Duration::from_secs(5), wish(&mut speaker, &tls)).await.is_err(), "there are no turns");
            assert_eq!(speaker.heard.bytes(), [0, 0, 0, 9, 0, 3, 0, 0]);
            all.resize(1);
            assert!(matches!(wish(&mut speaker, &tls).await, Ok(Wish::Startup(packet, 0)) if packet == [0]));
            assert_eq!(speaker.heard.bytes(), [b'x'; PIECE_BYTES - 1], "what is said too early is kept, and no more of it is read");
            assert_eq!(speaker.heard.take(2), b"xx");
            assert_eq!(heard.rest().len(), PIECE_BYTES - 3);
        };
        LocalSet::new().run_until(run).await;
    }

    #[tokio::test]
    async fn half_a_cancel_has_no_turn_and_stands_with_the_silent() {
        let (all, (mut client, ours)) = (Rc::<Arrivals>::default(), UnixStream::pair().unwrap());
        let (mut stream, arrival, later) = (Stream::Unix(ours), all.enter(), all.enter());
        let (mut heard, buffers, tls) = (Heard::default(), Buffers::default(), ClientTls::default());
        client.write_all(b"\0\0\0\x10\x04\xd2\x16\x2e\0\0").await.unwrap();
        let mut speaker = Speaker { stream: &mut stream, heard: &mut heard, buffers: &buffers, arrival: &arrival };
        let mut cancel = pin!(wish(&mut speaker, &tls));
        assert!(timeout(Duration::from_millis(20), &mut cancel).await.is_err(), "half of it is missing");
        assert!(all.make_room(clock::now() + 2 * GRACE));
        timeout(Duration::ZERO, arrival.sent_away()).await.expect("it came first, and keeps nobody from a turn");
        assert!(timeout(Duration::ZERO, later.sent_away()).await.is_err());
    }
}
