//! TLS towards a PostgreSQL server: asks for it on an open socket, before anything else is said.
//!
//! Source: PostgreSQL documentation, "SSL Session Encryption". Not here: the handshake itself (`transport::tls`).

use std::sync::Arc;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use sidepool_config::model::{Upstream, UpstreamTls};
use sidepool_config::tls::ServerContext;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::target::Target;
use crate::pool::fault::{ConnectFault, ConnectFaultKind};
use crate::transport::stream::Stream;
use crate::transport::tls;

/// One way to speak to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// In the clear.
    Plain,
    /// Under TLS; with [`UpstreamTls::Prefer`] in the clear where the server does not offer it.
    Tls,
}

/// The ways that a mode has, in the order in which they are tried.
pub(super) fn ways(mode: UpstreamTls) -> (Way, Option<Way>) {
    match mode {
        UpstreamTls::Disable => (Way::Plain, None),
        UpstreamTls::Allow => (Way::Plain, Some(Way::Tls)),
        UpstreamTls::Prefer => (Way::Tls, Some(Way::Plain)),
        UpstreamTls::Require | UpstreamTls::VerifyCa | UpstreamTls::VerifyFull => (Way::Tls, None),
    }
}

/// Whether the other way may lead where the first did not: the handshake failed, or the server lets nobody in like this (`pg_hba.conf`).
pub(super) fn is_worth_another_way(fault: &ConnectFault) -> bool {
    fault.kind == ConnectFaultKind::Tls || fault.code.as_deref() == Some("28000")
}

/// Secures the connection. Unix sockets need nothing: whoever can read along can do anything.
pub(super) async fn secure(
    mut stream: Stream,
    way: Way,
    target: &Target,
    context: Option<&Arc<ServerContext>>,
) -> Result<Stream, ConnectFault> {
    match way {
        Way::Plain => return Ok(stream),
        Way::Tls => {}
    }
    let Upstream::Tcp { host, .. } = &target.upstream else { return Ok(stream) };
    // A certificate that is no good has OpenSSL's words for it: those are what people look for.
    let words = |error: std::io::Error| error.to_string().replace("invalid peer certificate", "certificate verify failed");
    let broken = |error| target.fault(ConnectFaultKind::Tls, &format!("TLS failed: {}", words(error)));
    let usual = if context.is_none() { Some(tls::usual_postgres().map_err(broken)?) } else { None };
    let Some(context) = context.or(usual.as_ref()) else { return Ok(stream) };
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await.map_err(broken)?;
    // Exactly one byte: what comes after it is already TLS.
    match stream.read_u8().await.map_err(broken)? {
        b'S' => tls::connect(&mut stream, host, Arc::clone(context.for_mode(target.tls))).await.map(|()| stream).map_err(broken),
        b'N' if target.tls == UpstreamTls::Prefer => Ok(stream),
        b'N' => Err(target.fault(ConnectFaultKind::Tls, "it does not offer TLS, which the configuration requires")),
        other => Err(target.fault(ConnectFaultKind::Protocol, &format!("it answered 0x{other:02x} when asked for TLS"))),
    }
}
