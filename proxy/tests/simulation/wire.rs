//! Messages of both sides, as far as the simulation speaks them.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::dice::Dice;

/// The protocol's version 3.0.
const VERSION: i32 = 196_608;
/// In place of a version: a request to cancel.
pub(crate) const CANCEL: i32 = 80_877_102;

/// A message with a tag.
pub(crate) fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend_from_slice(&length(body.len() + 4));
    bytes.extend_from_slice(body);
    bytes
}

/// The first message of a client.
pub(crate) fn startup(user: &str, database: &str) -> Vec<u8> {
    let mut body = VERSION.to_be_bytes().to_vec();
    for word in ["user", user, "database", database] {
        body.extend_from_slice(&text(word));
    }
    body.push(0);
    [length(body.len() + 4).as_slice(), &body].concat()
}

/// Query.
pub(crate) fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &text(sql))
}

/// Parse.
pub(crate) fn parse(name: &str, sql: &str) -> Vec<u8> {
    message(b'P', &[text(name), text(sql), vec![0, 0]].concat())
}

/// Bind of the unnamed portal with one parameter.
pub(crate) fn bind(statement: &str, parameter: &str) -> Vec<u8> {
    let head = [text(""), text(statement), vec![0, 0, 0, 1]].concat();
    message(b'B', &[head, length(parameter.len()).to_vec(), parameter.as_bytes().to_vec(), vec![0, 0]].concat())
}

/// Execute of the unnamed portal, to its end.
pub(crate) fn execute() -> Vec<u8> {
    message(b'E', &[text(""), vec![0; 4]].concat())
}

/// Close of a statement.
pub(crate) fn close(statement: &str) -> Vec<u8> {
    message(b'C', &[b"S".to_vec(), text(statement)].concat())
}

/// A row with one value.
pub(crate) fn row(value: &str) -> Vec<u8> {
    message(b'D', &[vec![0, 1], length(value.len()).to_vec(), value.as_bytes().to_vec()].concat())
}

/// The value of such a row.
pub(crate) fn value(row: &[u8]) -> String {
    String::from_utf8_lossy(row.get(6..).expect("a row with one value")).into_owned()
}

/// A text and the zero behind it.
pub(crate) fn text(value: &str) -> Vec<u8> {
    [value.as_bytes(), &[0]].concat()
}

/// Texts that each end with a zero.
pub(crate) fn texts(body: &[u8]) -> Vec<String> {
    body.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}

/// The next packet without a tag; `None` at the end.
pub(crate) async fn packet(stream: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let size = usize::try_from(stream.read_i32().await.ok()?).ok()?.checked_sub(4)?;
    let mut body = vec![0; size];
    stream.read_exact(&mut body).await.ok()?;
    Some(body)
}

/// The next message; `None` at the end.
pub(crate) async fn next(stream: &mut (impl AsyncRead + Unpin)) -> Option<(u8, Vec<u8>)> {
    let tag = stream.read_u8().await.ok()?;
    Some((tag, packet(stream).await?))
}

/// Sends bytes, sometimes in pieces between which time passes. False: the other side has gone.
pub(crate) async fn send(stream: &mut UnixStream, mut bytes: &[u8], dice: &mut Dice) -> bool {
    while !bytes.is_empty() {
        let size = if dice.chance(100) { 1 + dice.index(bytes.len()) } else { bytes.len() };
        let (piece, rest) = bytes.split_at(size);
        if stream.write_all(piece).await.is_err() {
            return false;
        }
        bytes = rest;
        if !bytes.is_empty() {
            tokio::time::sleep(dice.up_to(20)).await;
        }
    }
    true
}

fn length(size: usize) -> [u8; 4] {
    i32::try_from(size).expect("small").to_be_bytes()
}
