//! TLS towards upstream servers: the handshake, and what holds where nothing is configured. rustls with the aws-lc-rs provider (measured against
//! ring: half the CPU for an RSA handshake, 1.4 times the bulk throughput).
//!
//! Not here: when TLS is spoken (the protocol's own affair: PostgreSQL asks first, Redis does not), or keys and authorities (`sidepool_config::tls`).

use std::io;
use std::sync::{Arc, OnceLock};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use sidepool_config::tls::{ALPN, ServerContext};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::socket::Socket;
use super::stream::Stream;

/// Speaks TLS over a connected socket.
pub async fn connect(stream: TcpStream, host: &str, config: Arc<ClientConfig>) -> io::Result<Stream> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let tls = TlsConnector::from(config).connect(name, Socket::Attached(stream)).await?;
    Ok(Stream::Tls(Box::new(tls)))
}

/// What PostgreSQL servers are met with where nothing is configured. Made once: sessions are resumed only within one configuration.
pub fn usual_postgres() -> io::Result<Arc<ServerContext>> {
    static CONTEXT: OnceLock<Arc<ServerContext>> = OnceLock::new();
    usual(&CONTEXT, Some(ALPN))
}

/// What Redis servers are met with.
pub fn usual_redis() -> io::Result<Arc<ServerContext>> {
    static CONTEXT: OnceLock<Arc<ServerContext>> = OnceLock::new();
    usual(&CONTEXT, None)
}

fn usual(cell: &'static OnceLock<Arc<ServerContext>>, alpn: Option<&[u8]>) -> io::Result<Arc<ServerContext>> {
    if let Some(context) = cell.get() {
        return Ok(Arc::clone(context));
    }
    let made = Arc::new(ServerContext::usual(alpn).map_err(io::Error::other)?);
    Ok(Arc::clone(cell.get_or_init(|| made)))
}
