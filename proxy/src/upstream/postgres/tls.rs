//! TLS towards a PostgreSQL server: asks for it on an open socket, before anything else is said.
//!
//! Source: PostgreSQL documentation, "SSL Session Encryption". Not here: the handshake itself (`transport::tls`).

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use sidepool_config::model::{Upstream, UpstreamTls};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::target::Target;
use crate::pool::fault::{ConnectFault, ConnectFaultKind};
use crate::transport::stream::Stream;
use crate::transport::tls::{self, Proof};

/// Secures the connection as the target wants it. Unix sockets need nothing: whoever can read along can do anything.
pub(super) async fn secure(stream: Stream, target: &Target) -> Result<Stream, ConnectFault> {
    let proof = match target.tls {
        UpstreamTls::Disable => return Ok(stream),
        UpstreamTls::Prefer | UpstreamTls::Require => Proof::None,
        UpstreamTls::VerifyFull => Proof::Host,
    };
    let (mut socket, host) = match (stream, &target.upstream) {
        (Stream::Tcp(socket), Upstream::Tcp { host, .. }) => (socket, host),
        (stream, Upstream::Tcp { .. } | Upstream::Unix(_)) => return Ok(stream),
    };
    let broken = |error: std::io::Error| target.fault(ConnectFaultKind::Tls, &format!("TLS failed: {error}"));
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    socket.write_all(&request).await.map_err(broken)?;
    // Exactly one byte: what comes after it is already TLS.
    match socket.read_u8().await.map_err(broken)? {
        b'S' => tls::connect(socket, host, proof).await.map_err(broken),
        b'N' if target.tls == UpstreamTls::Prefer => Ok(Stream::Tcp(socket)),
        b'N' => Err(target.fault(ConnectFaultKind::Tls, "it does not offer TLS, which the configuration requires")),
        other => Err(target.fault(ConnectFaultKind::Protocol, &format!("it answered 0x{other:02x} when asked for TLS"))),
    }
}
