//! One POST to a collector, in the clear or under TLS. Nothing of the answer matters but its first line.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use sidepool_config::model::{OtlpEndpoint, UpstreamTls};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::transport::stream::Stream;
use crate::transport::tls;

/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How much of the answer is read.
const ANSWER_BYTES: usize = 256;

/// Sends this body; an error when the collector is not there or does not take it.
pub(super) async fn post(endpoint: &OtlpEndpoint, body: &[u8]) -> io::Result<()> {
    tokio::time::timeout(PATIENCE, send(endpoint, body)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn send(endpoint: &OtlpEndpoint, body: &[u8]) -> io::Result<()> {
    let mut stream = Stream::Tcp(TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?);
    if endpoint.secure {
        // Validated with the configuration: there is one.
        let context = endpoint.tls.as_ref().ok_or_else(|| io::Error::other("no authorities are loaded"))?;
        tls::connect(&mut stream, &endpoint.host, Arc::clone(context.for_mode(UpstreamTls::VerifyFull))).await?;
    }
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        endpoint.path,
        endpoint.authority(),
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    let mut answer = Vec::with_capacity(ANSWER_BYTES);
    while answer.len() < ANSWER_BYTES && !answer.contains(&b'\n') && stream.read_buf(&mut answer).await? > 0 {}
    let answer = String::from_utf8_lossy(&answer);
    let line = answer.lines().next().unwrap_or_default();
    match line.split(' ').nth(1) {
        Some(status) if line.starts_with("HTTP/1.") && status.starts_with('2') => Ok(()),
        _ => Err(io::Error::other(format!("it answers {line:?}"))),
    }
}
