//! TLS over connected sockets, in both roles. rustls with the aws-lc-rs provider (measured against ring: half the CPU for an RSA handshake, 1.4
//! times the bulk throughput), through its unbuffered interface: an idle connection holds no buffer, and a socket is read and written in pieces of
//! up to 64 KiB, with memory that belongs to the thread.
//!
//! ```text
//!   handshake ─▶ layer (bytes in and out, polled) ─▶ session (rustls: records to plain bytes and back)
//! ```
//! Not here: when TLS is spoken (the protocol's own affair: PostgreSQL asks first, Redis does not), or keys and authorities (`sidepool_config::tls`).

mod handshake;
mod layer;
mod peer;
mod session;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::{Arc, OnceLock};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use sidepool_config::tls::{ALPN, ClientContext, ServerContext};

pub use self::layer::Tls;
pub use self::peer::TlsPeer;
use self::session::Session;
use super::stream::Stream;
use crate::arrivals::Newcomer;

/// Speaks TLS with the server at the other end of a plain TCP stream, which becomes a TLS stream.
pub async fn connect(stream: &mut Stream, host: &str, config: Arc<ClientConfig>) -> io::Result<()> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let done = handshake::run(stream, Session::client(config, name)?, Vec::new(), None).await?;
    stream.cover(|socket| Tls::new(socket, done, None));
    Ok(())
}

/// Speaks TLS with the client at the other end of a plain TCP stream, which becomes a TLS stream. `first` are bytes of its handshake that have
/// been read already.
pub async fn accept(stream: &mut Stream, context: &Arc<ClientContext>, first: Vec<u8>, arrival: Option<&Newcomer>) -> io::Result<()> {
    let done = handshake::run(stream, Session::server(Arc::clone(&context.config))?, first, arrival).await?;
    stream.cover(|socket| Tls::new(socket, done, Some(Arc::clone(context))));
    Ok(())
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
