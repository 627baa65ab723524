//! TLS with a client, before anything else. Redis has no way to ask for it in words: a client begins with a handshake or with a request.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use sidepool_config::model::ClientSslMode;
use sidepool_config::tls::ClientContext;
use std::sync::Arc;

use super::run::Session;
use super::steps::After;
use crate::observe::record::WorkerCounter;
use crate::transport::stream::Stream;
use crate::transport::tls;

/// The first byte of a TLS handshake. No request begins with it.
const HANDSHAKE: u8 = 0x16;
/// What a client is told that has to use TLS and does not.
const TLS_NEEDED: &[u8] = b"-ERR TLS is needed here: connect with rediss:// (client_tls_sslmode)\r\n";

impl Session {
    /// Puts TLS over the client's connection, where it is configured and the client wants it.
    pub(super) async fn secure(&mut self) -> After {
        let config = self.server.config();
        let Some(context) = config.client_tls.context.clone() else { return After::GoOn };
        let Some(mut stream) = self.client.take_stream() else { return After::End };
        if matches!(stream, Stream::Unix(_)) {
            self.client.put_stream(stream);
            return After::GoOn;
        }
        let optional = match config.client_tls.sslmode {
            ClientSslMode::Disable | ClientSslMode::Allow | ClientSslMode::Prefer => true,
            ClientSslMode::Require | ClientSslMode::VerifyCa | ClientSslMode::VerifyFull => false,
        };
        let login = &mut self.login;
        let over = poll_fn(|cx| login.as_mut().map_or(Poll::Pending, |login| login.poll_over(cx)));
        let begun = tokio::select! {
            biased;
            begun = begin(&mut stream, &context, optional) => begun,
            counter = over => {
                self.worker.record.add(counter, 1);
                Err(io::ErrorKind::TimedOut.into())
            }
        };
        match begun {
            Ok(first) => {
                self.fresh = !first.is_empty();
                self.carry = first;
                if let Some(peer) = stream.tls_peer() {
                    self.worker.record.add(peer.counter(), 1);
                }
                self.client.put_stream(stream);
                After::GoOn
            }
            Err(error) => {
                self.worker.record.add(WorkerCounter::RedisFaultProtocol, 1);
                tracing::debug!(client = self.client.id, server = &*self.server.name, %error, "no TLS with a Redis client");
                After::End
            }
        }
    }
}

/// What the client has said in the clear, where it may.
async fn begin(stream: &mut Stream, context: &Arc<ClientContext>, optional: bool) -> io::Result<Vec<u8>> {
    let mut first = vec![0; 1024];
    let read = poll_fn(|cx| stream.poll_read(cx, &mut first)).await?;
    first.truncate(read);
    match first.first() {
        Some(&HANDSHAKE) => {
            tls::accept(stream, context, first, None).await?;
            Ok(Vec::new())
        }
        Some(_) if optional => Ok(first),
        Some(_) => {
            let _ = poll_fn(|cx| stream.poll_write(cx, TLS_NEEDED)).await;
            Err(io::Error::other("it begins in the clear, and TLS is required"))
        }
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
