//! TLS towards a PostgreSQL server: asks for it on an open socket, before anything else is said.
//!
//! Source: PostgreSQL documentation, "SSL Session Encryption". A server that says no is asked nothing more where TLS is required.

use sidepool_config::model::{Upstream, UpstreamTls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::target::Target;
use crate::pool::fault::{ConnectFault, ConnectFaultKind};
use crate::transport::stream::Stream;
use crate::transport::tls::{self, Proof};

/// SSLRequest.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Secures the connection as the target wants it. Unix sockets need nothing: whoever reads along is root.
pub(super) async fn secure(stream: Stream, target: &Target) -> Result<Stream, ConnectFault> {
    let (required, proof) = match target.tls {
        UpstreamTls::Disable => return Ok(stream),
        UpstreamTls::Prefer => (false, Proof::None),
        UpstreamTls::Require => (true, Proof::None),
        UpstreamTls::VerifyFull => (true, Proof::Host),
    };
    let Upstream::Tcp { host, .. } = &target.upstream else { return Ok(stream) };
    let mut socket = match stream {
        Stream::Tcp(socket) => socket,
        Stream::Unix(_) | Stream::Tls(_) => return Ok(stream),
    };
    let fault = |why: String| target.fault(ConnectFaultKind::Tls, &why);
    socket.write_all(&SSL_REQUEST).await.map_err(|error| fault(format!("asking for TLS failed: {error}")))?;
    match socket.read_u8().await {
        Ok(b'S') => tls::connect(socket, host, proof).await.map_err(|error| fault(format!("the TLS handshake failed: {error}"))),
        Ok(b'N') if !required => Ok(Stream::Tcp(socket)),
        Ok(b'N') => Err(fault("TLS is required, and the server does not offer it".to_owned())),
        Ok(other) => Err(fault(format!("the server answered a request for TLS with byte 0x{other:02x}"))),
        Err(error) => Err(fault(format!("the server did not answer a request for TLS: {error}"))),
    }
}
