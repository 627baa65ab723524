//! Looks a user's secret up on a server: `auth_query` with the name as its parameter, over the extended protocol, so that no name can become a
//! part of the query.
//!
//! Not here: when that is done, and what the secret is good for (`session::postgres::lookups`).

use bytes::BytesMut;
use postgres_protocol::IsNull;
use postgres_protocol::message::frontend;
use sidepool_config::secret::Secret;
use sidepool_protocol::postgres::login::upstream_side::{MAX_MESSAGES, ServerError};
use sidepool_protocol::postgres::tag::BackendTag;

use super::connection::PgConnection;
use super::login::lost;
use super::messages::Messages;
use super::target::Target;
use crate::pool::fault::{ConnectFault, ConnectFaultKind};

/// A user as the server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its name.
    pub name: Box<str>,
    /// Its secret; `None`: it has none.
    pub secret: Option<Secret>,
}

/// Why there is no answer.
#[derive(Debug, Clone)]
pub enum LookupFault {
    /// The connection cannot be used any more.
    Connection(ConnectFault),
    /// The query failed or answered something that is no user; the connection is as good as before.
    Query(String),
}

/// Looks `user` up. The caller bounds it in time.
pub async fn look_up(query: &str, user: &str, connection: &mut PgConnection, target: &Target) -> Result<Option<Found>, LookupFault> {
    let broken = |what: &str| LookupFault::Connection(target.fault(ConnectFaultKind::Protocol, what));
    let mut out = BytesMut::new();
    encode(query, user, &mut out).map_err(|message| LookupFault::Query(format!("auth_query cannot be sent: {message}")))?;
    let PgConnection { stream, parameters, .. } = connection;
    let mut messages = Messages::new(stream);
    messages.send(&mut out).await.map_err(|silence| LookupFault::Connection(lost(silence, target)))?;
    let (mut found, mut error) = (None, None);
    for _ in 0..MAX_MESSAGES {
        let message = messages.next().await.map_err(|silence| LookupFault::Connection(lost(silence, target)))?;
        match BackendTag::from_byte(message.tag) {
            Some(BackendTag::ReadyForQuery) => {
                return match (messages.rest().is_empty() && &*message.body == b"I", error) {
                    (false, _) => Err(broken("auth_query did not end outside of a transaction")),
                    (true, Some(error)) => Err(LookupFault::Query(error)),
                    (true, None) => Ok(found),
                };
            }
            Some(BackendTag::ErrorResponse) => {
                let ServerError { message, .. } = ServerError::read(&message.body);
                error.get_or_insert(format!("auth_query failed: {message}"));
            }
            Some(BackendTag::RowDescription) => {
                let columns = message.body.first_chunk::<2>().map_or(0, |count| u16::from_be_bytes(*count));
                if columns != 2 {
                    error.get_or_insert(format!("auth_query has to answer 2 columns (name and secret), and not {columns}"));
                }
            }
            Some(BackendTag::NoData | BackendTag::EmptyQueryResponse) => {
                error.get_or_insert("auth_query answers no rows: it has to be a SELECT of name and secret".to_owned());
            }
            Some(BackendTag::DataRow) if found.is_none() && error.is_none() => match row(&message.body) {
                Ok(row) => found = Some(row),
                Err(message) => error = Some(message),
            },
            Some(BackendTag::ParameterStatus) => {
                parameters.take_in(&message.body).ok_or_else(|| broken("malformed ParameterStatus"))?;
            }
            Some(
                BackendTag::DataRow
                | BackendTag::ParseComplete
                | BackendTag::BindComplete
                | BackendTag::CommandComplete
                | BackendTag::PortalSuspended
                | BackendTag::NoticeResponse
                | BackendTag::NotificationResponse,
            ) => {}
            Some(tag) => return Err(broken(&format!("an unexpected {tag:?} answered auth_query"))),
            None => return Err(broken(&format!("an unknown message 0x{:02x} answered auth_query", message.tag))),
        }
    }
    Err(broken("the answer to auth_query has no end"))
}

fn encode(query: &str, user: &str, out: &mut BytesMut) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    frontend::parse("", query, [], out).map_err(text)?;
    let value = |value: &str, out: &mut BytesMut| {
        out.extend_from_slice(value.as_bytes());
        Ok(IsNull::No)
    };
    frontend::bind("", "", [], [user], value, [], out).map_err(|_| "the user name is too long".to_owned())?;
    frontend::describe(b'P', "", out).map_err(text)?;
    // The first row is all that counts.
    frontend::execute("", 1, out).map_err(text)?;
    frontend::sync(out);
    Ok(())
}

/// Reads a DataRow of name and secret.
fn row(body: &[u8]) -> Result<Found, String> {
    let malformed = || "auth_query was answered with a malformed row".to_owned();
    let mut rest = body.get(2..).ok_or_else(malformed)?;
    let mut column = || -> Result<Option<&str>, String> {
        let (length, after) = rest.split_first_chunk::<4>().ok_or_else(malformed)?;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            rest = after;
            return Ok(None);
        };
        let (value, after) = after.split_at_checked(length).ok_or_else(malformed)?;
        rest = after;
        std::str::from_utf8(value).map(Some).map_err(|_| "auth_query answered something that is not UTF-8".to_owned())
    };
    let name = column()?.ok_or("auth_query answered a user without a name")?;
    let secret = column()?.filter(|secret| !secret.is_empty()).map(Secret::new);
    Ok(Found { name: name.into(), secret })
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::sync::Arc;

    use sidepool_config::model::Upstream;
    use sidepool_protocol::postgres::encode as server;
    use sidepool_protocol::postgres::fault::{Fault, SqlState};
    use sidepool_protocol::postgres::tracker::TransactionStatus;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixStream;

    use super::*;
    use crate::transport::stream::Stream;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[tag], length.as_slice(), body].concat()
    }

    fn data_row(columns: &[Option<&str>]) -> Vec<u8> {
        let mut body = u16::try_from(columns.len()).unwrap().to_be_bytes().to_vec();
        for column in columns {
            match column {
                Some(text) => body.extend([&i32::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat()),
                None => body.extend((-1_i32).to_be_bytes()),
            }
        }
        message(b'D', &body)
    }

    fn answer(parts: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = [message(b'1', b""), message(b'2', b"")].concat();
        parts.iter().for_each(|part| bytes.extend(part));
        server::ready_for_query(TransactionStatus::Idle, &mut bytes);
        bytes
    }

    async fn ask(bytes: &[u8]) -> Result<Option<Found>, LookupFault> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut connection =
            PgConnection::new(Stream::Unix(ours), Rc::default(), Box::default(), Arc::new(crate::upstream::dial::Server::nowhere()));
        let target = Target::of_bob(Upstream::Unix("/s".into()));
        theirs.write_all(bytes).await.unwrap();
        let answer = look_up("SELECT $1", "bob'; --", &mut connection, &target).await;
        let mut asked = vec![0; 1024];
        let read = theirs.read(&mut asked).await.unwrap();
        let text = String::from_utf8_lossy(&asked[..read]).into_owned();
        assert!(text.contains("SELECT $1\0") && text.contains("\u{8}bob'; --"), "the name is a parameter: {text:?}");
        answer
    }

    fn description(columns: u16) -> Vec<u8> {
        message(b'T', &columns.to_be_bytes())
    }

    #[tokio::test]
    async fn the_first_row_is_the_user() {
        let done = message(b'C', b"SELECT 1\0");
        let rows = [description(2), data_row(&[Some("bob"), Some("md5x")]), data_row(&[Some("eve"), None]), done.clone()];
        let found = ask(&answer(&rows)).await.unwrap().unwrap();
        assert_eq!((&*found.name, found.secret), ("bob", Some(Secret::new("md5x"))));
        for secret in [None, Some("")] {
            let found = ask(&answer(&[description(2), data_row(&[Some("bob"), secret]), message(b's', b"")])).await.unwrap().unwrap();
            assert_eq!(found.secret, None, "NULL and nothing are no password");
        }
        assert_eq!(ask(&answer(&[description(2), done])).await.unwrap(), None);
    }

    #[tokio::test]
    async fn an_answer_that_is_no_user_is_named_and_leaves_the_connection_good() {
        let mut error = Vec::new();
        server::error_response(&Fault::error(SqlState::INTERNAL_ERROR, "permission denied"), &mut error);
        for (parts, expected) in [
            (vec![description(1), data_row(&[Some("bob")])], "2 columns"),
            (vec![description(3), data_row(&[Some("bob"), None, None])], "2 columns"),
            (vec![description(2), data_row(&[None, Some("x")])], "without a name"),
            (vec![description(2), message(b'D', b"\0\x02\0\0\0\x09bob")], "malformed"),
            (vec![description(2), message(b'D', b"\0\x02\0\0\0\x01\xff\0\0\0\0")], "UTF-8"),
            (vec![message(b'n', b"")], "no rows"),
            (vec![error], "permission denied"),
        ] {
            match ask(&answer(&parts)).await {
                Err(LookupFault::Query(message)) => assert!(message.contains(expected), "{message}"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_connection_that_goes_wrong_is_of_no_more_use() {
        let mut failed = message(b'1', b"");
        server::ready_for_query(TransactionStatus::InTransaction, &mut failed);
        for bytes in [failed, message(b'G', b"\0\0\0"), message(b'?', b""), [answer(&[]), message(b'1', b"")].concat()] {
            assert!(matches!(ask(&bytes).await, Err(LookupFault::Connection(_))), "{bytes:?}");
        }
    }
}
