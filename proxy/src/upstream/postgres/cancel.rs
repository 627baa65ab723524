//! Carries a cancel request to a server, or to another pooler. It travels on a connection of its own, which the other side closes once it has
//! acted.
//!
//! Source: PostgreSQL documentation, "Canceling Requests in Progress".

use std::io;
use std::time::Duration;

use sidepool_config::model::{LoadBalance, TcpOptions, Upstream};
use sidepool_protocol::postgres::cancel_key::CancelKey;
use sidepool_protocol::postgres::encode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::target::Target;
use crate::pool::fault::{ConnectFault, ConnectFaultKind};
use crate::transport::stream::Stream;
use crate::upstream::dial::Dialing;

/// How long all of it may take.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

/// Sends the request for `key`, the body of BackendKeyData, and waits until the server closes.
pub(super) async fn send(stream: Stream, key: &[u8], target: &Target) -> Result<(), ConnectFault> {
    let Some((process_id, secret)) = key.split_first_chunk::<4>().filter(|(_, secret)| !secret.is_empty()) else {
        return Err(target.fault(ConnectFaultKind::Other, "it gave no key, so its queries cannot be cancelled"));
    };
    let sent = deliver(stream, i32::from_be_bytes(*process_id), secret).await;
    sent.map_err(|error| target.fault(ConnectFaultKind::Other, &format!("the cancel request was not taken: {error}")))
}

/// Sends the request on to the pooler at `peer`, and waits until it closes, which it does when it has acted.
pub async fn send_to_peer(dialing: &Dialing, peer: &Upstream, key: CancelKey) -> Result<(), ConnectFault> {
    let sending = async {
        let dialer = dialing.dialer(std::slice::from_ref(peer), LoadBalance::default(), &TcpOptions::default(), TIMEOUT).at_once();
        let stream = dialer.connect(TIMEOUT, async |stream, _| Ok(stream)).await?;
        let sent = deliver(stream, key.process_id(), &key.secret()).await;
        sent.map_err(|error| {
            ConnectFault::new(ConnectFaultKind::Other, format!("the peer {peer} did not take the cancel request: {error}"))
        })
    };
    match tokio::time::timeout(TIMEOUT, sending).await {
        Ok(result) => result,
        Err(_) => {
            let message = format!("the peer {peer} took longer than {} ms over a cancel request", TIMEOUT.as_millis());
            Err(ConnectFault::new(ConnectFaultKind::Timeout, message))
        }
    }
}

async fn deliver(mut stream: Stream, process_id: i32, secret: &[u8]) -> io::Result<()> {
    let mut request = Vec::with_capacity(12 + secret.len());
    encode::cancel_request(process_id, secret, &mut request);
    stream.write_all(&request).await?;
    // It answers nothing; the end of the stream is the answer.
    let mut nothing = [0; 64];
    while stream.read(&mut nothing).await? > 0 {}
    Ok(())
}
