//! Sees what is so: the ways to servers, servers, this machine. Nothing is changed anywhere. Not here: what it means (`judge`).

pub mod local;
pub mod postgres;
pub mod reach;
pub mod redis;

use std::future::Future;
use std::time::Duration;

use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::facts::{Clock, TlsShown};
use crate::clock;
use crate::transport::stream::Stream;

/// The longest that a name, a connect or a question may take.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The longest that a login may take, however long the proxy would wait.
const LOGIN_PATIENCE: Duration = Duration::from_secs(10);

/// How long a login may take: as long as the proxy waits, within reason.
fn login_patience(configured: Duration) -> Duration {
    if configured.is_zero() { LOGIN_PATIENCE } else { configured.min(LOGIN_PATIENCE) }
}

/// What a server shows under TLS; `None`: it is none.
fn shown(stream: &Stream) -> Option<TlsShown> {
    let peer = stream.tls_peer()?;
    let not_after = peer.certificate().and_then(|certificate| {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        Some(certificate.validity().not_after.timestamp())
    });
    Some(TlsShown { description: peer.to_string(), not_after })
}

/// How far a clock is ahead that shows `theirs` (in seconds since the epoch) somewhere within `asking`.
async fn clock_of<T>(asking: impl Future<Output = T>, theirs: impl FnOnce(&T) -> Option<f64>) -> (T, Option<Clock>) {
    let (before, begun) = (clock::wall(), clock::now());
    let answer = asking.await;
    let took = clock::now().saturating_duration_since(begun).as_secs_f64();
    let ours = before.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs_f64() + took / 2.0;
    let seen = theirs(&answer).map(|theirs| Clock { ahead: theirs - ours, doubt: took / 2.0 });
    (answer, seen)
}
