//! Whole replies as values, for the few that sidepool reads itself: logins, `COMMAND`, messages of subscriptions. Never on the data path.

use redis_protocol::resp2::types::OwnedFrame as Frame2;
use redis_protocol::resp3::types::OwnedFrame as Frame3;
use redis_protocol::{resp2, resp3};

use super::encode::Resp;

/// A reply without the differences between the protocol versions: maps and sets are flat lists, as in RESP2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Nothing.
    Nil,
    /// A number.
    Integer(i64),
    /// Any kind of string.
    Text(Vec<u8>),
    /// An error, its prefix first.
    Error(String),
    /// Array, set, push, or map (keys and values in turn).
    List(Vec<Reply>),
}

/// What the bytes are not: a reply of that protocol version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotAReply(pub String);

/// Decodes the reply at the front of `bytes` and says how long it is; `None`: it is not all there.
pub fn decode(version: Resp, bytes: &[u8]) -> Result<Option<(Reply, usize)>, NotAReply> {
    match version {
        Resp::Two => match resp2::decode::decode(bytes) {
            Ok(found) => Ok(found.map(|(frame, used)| (from_resp2(frame), used))),
            Err(error) => Err(NotAReply(error.to_string())),
        },
        Resp::Three => match resp3::decode::complete::decode(bytes) {
            Ok(found) => Ok(found.map(|(frame, used)| (from_resp3(frame), used))),
            Err(error) => Err(NotAReply(error.to_string())),
        },
    }
}

impl Reply {
    /// The text of a string.
    #[must_use]
    pub fn text(&self) -> Option<&[u8]> {
        match self {
            Self::Text(text) => Some(text),
            Self::Nil | Self::Integer(_) | Self::Error(_) | Self::List(_) => None,
        }
    }

    /// The elements of a list.
    #[must_use]
    pub fn list(&self) -> Option<&[Reply]> {
        match self {
            Self::List(list) => Some(list),
            Self::Nil | Self::Integer(_) | Self::Error(_) | Self::Text(_) => None,
        }
    }

    /// A number.
    #[must_use]
    pub fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(value) => Some(*value),
            Self::Nil | Self::Text(_) | Self::Error(_) | Self::List(_) => None,
        }
    }

    /// What stands behind `key` in a list of keys and values.
    #[must_use]
    pub fn value_of(&self, key: &[u8]) -> Option<&Reply> {
        self.list()?.chunks_exact(2).find(|pair| pair[0].text() == Some(key)).map(|pair| &pair[1])
    }
}

fn from_resp2(frame: Frame2) -> Reply {
    match frame {
        Frame2::SimpleString(text) | Frame2::BulkString(text) => Reply::Text(text),
        Frame2::Error(text) => Reply::Error(text),
        Frame2::Integer(value) => Reply::Integer(value),
        Frame2::Array(all) => Reply::List(all.into_iter().map(from_resp2).collect()),
        Frame2::Null => Reply::Nil,
    }
}

fn from_resp3(frame: Frame3) -> Reply {
    match frame {
        Frame3::BlobString { data, .. }
        | Frame3::SimpleString { data, .. }
        | Frame3::VerbatimString { data, .. }
        | Frame3::BigNumber { data, .. }
        | Frame3::ChunkedString(data) => Reply::Text(data),
        Frame3::BlobError { data, .. } => Reply::Error(String::from_utf8_lossy(&data).into_owned()),
        Frame3::SimpleError { data, .. } => Reply::Error(data),
        Frame3::Boolean { data, .. } => Reply::Integer(i64::from(data)),
        Frame3::Number { data, .. } => Reply::Integer(data),
        Frame3::Double { data, .. } => Reply::Text(data.to_string().into_bytes()),
        Frame3::Array { data, .. } | Frame3::Push { data, .. } => Reply::List(data.into_iter().map(from_resp3).collect()),
        Frame3::Set { data, .. } => Reply::List(data.into_iter().map(from_resp3).collect()),
        Frame3::Map { data, .. } => Reply::List(data.into_iter().flat_map(|(key, value)| [from_resp3(key), from_resp3(value)]).collect()),
        Frame3::Null | Frame3::Hello { .. } => Reply::Nil,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_hello_read_alike() {
        let two = b"*4\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n$2\r\nid\r\n:38\r\n";
        let three = b"%2\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n$2\r\nid\r\n:38\r\n";
        for (version, bytes) in [(Resp::Two, &two[..]), (Resp::Three, three)] {
            let (reply, used) = decode(version, bytes).unwrap().unwrap();
            assert_eq!(used, bytes.len());
            assert_eq!(reply.value_of(b"version").and_then(Reply::text), Some(&b"7.0.15"[..]));
            assert_eq!(reply.value_of(b"id").and_then(Reply::integer), Some(38));
            assert_eq!(decode(version, &bytes[..used - 1]), Ok(None));
        }
    }

    #[test]
    fn nulls_of_either_version_are_nil() {
        assert_eq!(decode(Resp::Two, b"$-1\r\n"), Ok(Some((Reply::Nil, 5))));
        assert_eq!(decode(Resp::Two, b"*-1\r\n"), Ok(Some((Reply::Nil, 5))));
        assert_eq!(decode(Resp::Three, b"_\r\n"), Ok(Some((Reply::Nil, 3))));
    }
}
