//! Carries a cancel request to a server. It travels on a connection of its own, which the server closes once it has acted.
//!
//! Source: PostgreSQL documentation, "Canceling Requests in Progress".

use std::time::Duration;

use sidepool_protocol::postgres::encode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::target::Target;
use crate::pool::fault::{ConnectFault, ConnectFaultKind};
use crate::transport::stream::Stream;

/// How long all of it may take.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

/// Sends the request for `key`, the body of BackendKeyData, and waits until the server closes.
pub(super) async fn send(mut stream: Stream, key: &[u8], target: &Target) -> Result<(), ConnectFault> {
    let Some((process_id, secret)) = key.split_first_chunk::<4>().filter(|(_, secret)| !secret.is_empty()) else {
        return Err(target.fault(ConnectFaultKind::Other, "it gave no key, so its queries cannot be cancelled"));
    };
    let mut request = Vec::with_capacity(12 + secret.len());
    encode::cancel_request(i32::from_be_bytes(*process_id), secret, &mut request);
    let broken = |error: std::io::Error| target.fault(ConnectFaultKind::Other, &format!("the cancel request was not taken: {error}"));
    stream.write_all(&request).await.map_err(broken)?;
    // It answers nothing; the end of the stream is the answer.
    let mut nothing = [0; 64];
    while stream.read(&mut nothing).await.map_err(broken)? > 0 {}
    Ok(())
}
