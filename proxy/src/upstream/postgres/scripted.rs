//! A PostgreSQL server for tests that says what it is told to, and remembers what it was told.

use std::cell::RefCell;
use std::rc::Rc;

use sidepool_protocol::postgres::encode;
use sidepool_protocol::postgres::fault::{Fault, SqlState};
use sidepool_protocol::postgres::tracker::TransactionStatus;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixListener;

/// What the server says after each packet that it gets. After the last it waits for one more and closes.
pub(crate) type Script = Vec<Vec<u8>>;

/// A server on a Unix socket.
pub(crate) struct Scripted {
    directory: TempDir,
    heard: Rc<RefCell<Vec<Vec<u8>>>>,
}

impl Scripted {
    /// A server that serves each connection with the next script, the last one for ever. Must run on a `LocalSet`.
    pub(crate) fn start(scripts: Vec<Script>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
        let heard = Rc::new(RefCell::new(Vec::new()));
        let log = Rc::clone(&heard);
        tokio::task::spawn_local(async move {
            for connection in 0.. {
                let Ok((stream, _)) = listener.accept().await else { return };
                let script = scripts.get(connection).or(scripts.last()).cloned().unwrap_or_default();
                tokio::task::spawn_local(play(stream, script, Rc::clone(&log)));
            }
        });
        Self { directory, heard }
    }

    pub(crate) fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("socket")
    }

    /// Where the packets are written down, for when the server is gone.
    pub(crate) fn log(&self) -> Rc<RefCell<Vec<Vec<u8>>>> {
        Rc::clone(&self.heard)
    }

    /// Every packet of every connection, as it came.
    pub(crate) fn heard(&self) -> Vec<Vec<u8>> {
        self.heard.borrow().clone()
    }
}

/// Plays a script to one connection.
pub(crate) async fn play(mut stream: impl AsyncRead + AsyncWrite + Unpin, script: Script, heard: Rc<RefCell<Vec<Vec<u8>>>>) {
    let mut first = true;
    let mut script = script.into_iter();
    loop {
        let Some(packet) = packet(&mut stream, first).await else { return };
        first = false;
        heard.borrow_mut().push(packet);
        let Some(said) = script.next() else { return };
        if stream.write_all(&said).await.is_err() {
            return;
        }
    }
}

async fn packet(stream: &mut (impl AsyncRead + Unpin), first: bool) -> Option<Vec<u8>> {
    let mut packet = vec![0; if first { 4 } else { 5 }];
    stream.read_exact(&mut packet).await.ok()?;
    let length = u32::from_be_bytes(packet[packet.len() - 4..].try_into().unwrap()) as usize - 4;
    let head = packet.len();
    packet.resize(head + length, 0);
    stream.read_exact(&mut packet[head..]).await.ok()?;
    Some(packet)
}

/// What a server says to one that it trusts.
pub(crate) fn welcome() -> Vec<u8> {
    let mut out = Vec::new();
    encode::authentication_ok(&mut out);
    for (name, value) in [("server_version", "15.3"), ("client_encoding", "UTF8"), ("DateStyle", "ISO, MDY"), ("TimeZone", "UTC")] {
        encode::parameter_status(name, value, &mut out);
    }
    encode::backend_key_data(42, &[1, 2, 3, 4], &mut out);
    encode::ready_for_query(TransactionStatus::Idle, &mut out);
    out
}

/// How a server refuses.
pub(crate) fn refusal(code: &[u8], message: &'static str) -> Vec<u8> {
    let mut out = Vec::new();
    encode::error_response(&Fault::fatal(SqlState::parse(code).unwrap(), message), &mut out);
    out
}

/// A command that worked.
pub(crate) fn complete(status: TransactionStatus) -> Vec<u8> {
    let mut out = b"C\0\0\0\x10DISCARD ALL\0".to_vec();
    encode::ready_for_query(status, &mut out);
    out
}
