//! TLS towards a PostgreSQL server: asks for it on an open socket, before anything else is said.

use sidepool_config::model::UpstreamTls;

use super::target::Target;
use crate::pool::fault::{ConnectFault, ConnectFaultKind};
use crate::transport::stream::Stream;

/// Secures the connection as the target wants it. Unix sockets need nothing: whoever reads along is root.
#[expect(clippy::unused_async, reason = "handshakes wait")]
pub(super) async fn secure(stream: Stream, target: &Target) -> Result<Stream, ConnectFault> {
    match (target.tls, &stream) {
        (UpstreamTls::Disable | UpstreamTls::Prefer, _) | (_, Stream::Unix(_)) => Ok(stream),
        (UpstreamTls::Require | UpstreamTls::VerifyFull, Stream::Tcp(_)) => {
            Err(target.fault(ConnectFaultKind::Tls, "TLS is required and not supported yet"))
        }
    }
}
