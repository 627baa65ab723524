//! Whole messages from a server, one at a time: for logins, resets and probes, where little is said and nobody waits for the last microsecond.
//!
//! Not here: what flows between a client and a server (`session::postgres`).

use std::io;

use bytes::{Buf as _, Bytes, BytesMut};
use sidepool_protocol::postgres::frame::{self, HEAD_BYTES};
use sidepool_protocol::postgres::login::upstream_side::MAX_MESSAGE_BYTES;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::transport::stream::Stream;

/// How much room there is for what a server says while we log in; a longer message makes it grow.
const ROOM: usize = 2048;

/// A reader of whole messages. Made for one conversation and dropped after it.
pub(super) struct Messages<'a> {
    stream: &'a mut Stream,
    buffer: BytesMut,
}

/// A message.
pub(super) struct Message {
    pub(super) tag: u8,
    pub(super) body: Bytes,
}

/// Why there is no next message.
pub(super) enum Silence {
    /// The server closed the connection.
    Closed,
    /// The connection broke.
    Broken(io::Error),
    /// What came is not a message, or a longer one than we accept here.
    NotAMessage(String),
}

impl<'a> Messages<'a> {
    pub(super) fn new(stream: &'a mut Stream) -> Self {
        Self { stream, buffer: BytesMut::with_capacity(ROOM) }
    }

    /// Sends what is in `out` and empties it.
    pub(super) async fn send(&mut self, out: &mut BytesMut) -> Result<(), Silence> {
        if out.is_empty() {
            return Ok(());
        }
        let sent = self.stream.write_all(out).await;
        out.clear();
        // A server that closes has often said why: that is still to be read.
        match sent {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Silence::Broken(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// The next message.
    pub(super) async fn next(&mut self) -> Result<Message, Silence> {
        loop {
            if let Some(head) = frame::head(&self.buffer).map_err(|bad| Silence::NotAMessage(bad.to_string()))? {
                if head.body > MAX_MESSAGE_BYTES {
                    return Err(Silence::NotAMessage(format!("message 0x{:02x} of {} bytes", head.tag, head.body)));
                }
                if self.buffer.len() >= head.message_bytes() {
                    self.buffer.advance(HEAD_BYTES);
                    return Ok(Message { tag: head.tag, body: self.buffer.split_to(head.body).freeze() });
                }
                self.buffer.reserve(head.message_bytes() - self.buffer.len());
            }
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) => return Err(Silence::Closed),
                Ok(_) => {}
                Err(error) => return Err(Silence::Broken(error)),
            }
        }
    }

    /// What has been read beyond the last message.
    pub(super) fn rest(self) -> BytesMut {
        self.buffer
    }
}
