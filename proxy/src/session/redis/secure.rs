//! TLS with a client, before anything else. Redis has no way to ask for it in words: a client begins with a handshake or with a request.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;

use sidepool_config::model::ClientSslMode;
use sidepool_config::tls::ClientContext;

use super::end::End;
use super::login::{Login, poll_over};
use super::run::Session;
use super::steps::After;
use crate::arrivals::Newcomer;
use crate::observe::record::WorkerCounter;
use crate::transport::stream::Stream;
use crate::transport::tls;
use crate::worker::Worker;

/// The first byte of a TLS handshake. No request begins with it.
const HANDSHAKE: u8 = 0x16;
/// As much is read of it before anybody knows what it is.
const FIRST_BYTES: usize = 1024;
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
        let Some(mut login) = self.login.take() else { return After::End };
        let Login { end, arrival, .. } = &mut *login;
        let begun = tokio::select! {
            biased;
            begun = begin(&mut stream, &context, optional, arrival, &self.worker) => begun,
            over = poll_fn(|cx| poll_over(end.as_mut(), arrival, cx)) => {
                Err((over, io::ErrorKind::TimedOut.into()))
            }
        };
        self.login = Some(login);
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
            Err((end, error)) => {
                if end == End::Handshake {
                    self.worker.record.add(WorkerCounter::RedisFaultProtocol, 1);
                }
                self.client.doom(end);
                // The log names where it came from.
                self.client.put_stream(stream);
                // Nobody has been let in, although nobody would have had to say who it is.
                self.account = None;
                tracing::debug!(client = self.client.id, server = &*self.server.name, %error, "no TLS with a Redis client");
                After::End
            }
        }
    }
}

/// What the client has said in the clear, where it may. Who goes before having said anything has not failed at TLS: a health check, a port scan.
async fn begin(
    stream: &mut Stream,
    context: &Arc<ClientContext>,
    optional: bool,
    arrival: &Newcomer,
    worker: &Worker,
) -> Result<Vec<u8>, (End, io::Error)> {
    // Up to here it takes no room.
    let first = poll_fn(|cx| {
        let mut buffer = worker.buffers.read.borrow_mut();
        stream.poll_read(cx, &mut buffer[..FIRST_BYTES]).map_ok(|read| buffer[..read].to_vec())
    })
    .await
    .map_err(|error| (End::Lost, error))?;
    match first.first() {
        Some(&HANDSHAKE) => {
            arrival.turn().await;
            tls::accept(stream, context, first, Some(arrival)).await.map_err(|error| (End::Handshake, error))?;
            // What TLS needs it keeps, and with it the turn, until it is known who this is.
            arrival.is_expected();
            Ok(Vec::new())
        }
        Some(_) if optional => Ok(first),
        Some(_) => {
            let _ = poll_fn(|cx| stream.poll_write(cx, TLS_NEEDED)).await;
            Err((End::Handshake, io::Error::other("it begins in the clear, and TLS is required")))
        }
        None => Err((End::Gone, io::ErrorKind::UnexpectedEof.into())),
    }
}
