//! Runs one simple query of our own on a connection that nobody uses, and makes sure that nothing is left of it.

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use sidepool_protocol::postgres::login::upstream_side::{MAX_MESSAGES, ServerError};
use sidepool_protocol::postgres::tag::BackendTag;

use super::connection::PgConnection;
use super::login::lost;
use super::messages::Messages;
use super::pins::{Cause, Pins};
use super::target::Target;
use crate::pool::fault::{ConnectFault, ConnectFaultKind};

/// What the answers of a query say that it cleaned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// DISCARD ALL has run: everything.
    pub all: bool,
    /// DEALLOCATE ALL has run: all prepared statements.
    pub statements: bool,
    /// UNLISTEN * has run (or another UNLISTEN: they look the same).
    pub listening: bool,
}

impl Cleaned {
    /// What of these is still there.
    #[must_use]
    pub fn leaves(self, pins: Pins) -> Pins {
        let stays = |cause: &Cause| match cause {
            Cause::Library => true,
            Cause::TemporaryTables | Cause::HeldCursors | Cause::AdvisoryLocks => !self.all,
            Cause::Statements => !self.all && !self.statements,
            Cause::Listening => !self.all && !self.listening,
        };
        pins.iter().filter(stays).collect()
    }
}

/// Runs `sql`. Afterwards the server is outside of a transaction and has said all it had to say; otherwise it is an error.
pub(super) async fn run(sql: &str, connection: &mut PgConnection, target: &Target) -> Result<Cleaned, ConnectFault> {
    run_whatever(sql, connection, target).await?
}

/// As [`run`], but an error of the query alone is only told: the connection is of use all the same.
pub(super) async fn run_whatever(
    sql: &str,
    connection: &mut PgConnection,
    target: &Target,
) -> Result<Result<Cleaned, ConnectFault>, ConnectFault> {
    run_with(sql, connection, target, &mut |_| {}).await
}

/// As [`run_whatever`]; the body of each DataRow goes to `row`.
async fn run_with(
    sql: &str,
    connection: &mut PgConnection,
    target: &Target,
    row: &mut dyn FnMut(&[u8]),
) -> Result<Result<Cleaned, ConnectFault>, ConnectFault> {
    let mut out = BytesMut::new();
    frontend::query(sql, &mut out).map_err(|error| target.fault(ConnectFaultKind::Other, &error.to_string()))?;
    let PgConnection { stream, parameters, .. } = connection;
    let mut messages = Messages::new(stream);
    messages.send(&mut out).await.map_err(|silence| lost(silence, target))?;
    let mut error = None;
    let mut cleaned = Cleaned::default();
    for _ in 0..MAX_MESSAGES {
        let message = messages.next().await.map_err(|silence| lost(silence, target))?;
        match BackendTag::from_byte(message.tag) {
            Some(BackendTag::ReadyForQuery) => {
                let quiet = messages.rest().is_empty() && &*message.body == b"I";
                return match error {
                    Some(error) if quiet => Ok(Err(error)),
                    None if quiet => Ok(Ok(cleaned)),
                    Some(error) => Err(error),
                    None => Err(target.fault(ConnectFaultKind::Protocol, &format!("\"{sql}\" did not end outside of a transaction"))),
                };
            }
            Some(BackendTag::ErrorResponse) => {
                let ServerError { sqlstate, message } = ServerError::read(&message.body);
                let fault = target.fault(ConnectFaultKind::Other, &format!("\"{sql}\" failed: {message}"));
                error = Some(ConnectFault { code: sqlstate.map(|code| code.as_str().into()), ..fault });
            }
            Some(BackendTag::ParameterStatus) => {
                parameters.take_in(&message.body).ok_or_else(|| target.fault(ConnectFaultKind::Protocol, "malformed ParameterStatus"))?;
            }
            Some(BackendTag::CommandComplete) => {
                cleaned.all |= &*message.body == b"DISCARD ALL\0";
                cleaned.statements |= &*message.body == b"DEALLOCATE ALL\0";
                cleaned.listening |= &*message.body == b"UNLISTEN\0";
            }
            Some(
                BackendTag::NoticeResponse | BackendTag::NotificationResponse | BackendTag::EmptyQueryResponse | BackendTag::RowDescription,
            ) => {}
            Some(BackendTag::DataRow) => row(&message.body),
            Some(tag) => return Err(target.fault(ConnectFaultKind::Protocol, &format!("an unexpected {tag:?} answered \"{sql}\""))),
            None => {
                return Err(
                    target.fault(ConnectFaultKind::Protocol, &format!("an unknown message 0x{:02x} answered \"{sql}\"", message.tag))
                );
            }
        }
    }
    Err(target.fault(ConnectFaultKind::Protocol, &format!("\"{sql}\" has no end")))
}

/// A row as text; `None` is NULL.
pub type Row = Vec<Option<String>>;

/// Asks a question and keeps its answer, which is short. An error of the query alone leaves the connection as good as before.
pub async fn rows(sql: &str, connection: &mut PgConnection, target: &Target) -> Result<Result<Vec<Row>, ConnectFault>, ConnectFault> {
    let mut found = Vec::new();
    let asked = run_with(sql, connection, target, &mut |body| found.push(columns(body))).await?;
    Ok(asked.map(|_| found))
}

fn columns(body: &[u8]) -> Row {
    let mut rest = body.get(2..).unwrap_or_default();
    let mut row = Row::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            row.push(None);
            rest = after;
            continue;
        };
        let Some((value, after)) = after.split_at_checked(length) else { break };
        row.push(Some(String::from_utf8_lossy(value).into_owned()));
        rest = after;
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_texts_and_nulls_and_a_cut_one_ends_early() {
        let body = b"\0\x03\0\0\0\x02ab\xff\xff\xff\xff\0\0\0\0";
        assert_eq!(columns(body), [Some("ab".to_owned()), None, Some(String::new())]);
        assert_eq!(columns(&body[..7]), Row::new());
        assert_eq!(columns(b""), Row::new());
    }
}
