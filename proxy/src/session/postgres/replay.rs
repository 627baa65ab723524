//! Sends a batch once more that the server refused only because of what the proxy did not know: that a plan is of no use any more.
//!
//! Kept is what the client sent, when it is small, alone, whole, uses a statement that the server had from before, and begins outside of a
//! transaction or right behind its BEGIN; without what comes first in it and was answered here. Anything else is refused as the server refuses it, and goes well the next time.
//!
//! A connection that is lost is another matter: what was sent over it may have run, whatever the server says. Only two things can be sent again on
//! another connection: what was not sent because the connection was still being brought into the client's state, and a BEGIN, which has no effect
//! that outlives the connection. (A connection that the server had closed before it was given to the client never gets that far.)

use std::task::Context;

use sidepool_config::model::PoolMode;
use sidepool_protocol::postgres::frame::{self, HEAD_BYTES};
use sidepool_protocol::postgres::splice::Splice;
use sidepool_protocol::postgres::tracker::{Owed, TransactionStatus};

use super::inbound::Body;
use super::outbound::field;
use super::own_names;
use super::relay::query;
use super::run::{End, Phase, Session};
use crate::upstream::postgres::link::{Hold, Link, Note, Replay};
use crate::upstream::postgres::statements::StatementId;

/// How often a message is tried on another connection. Each time is a connection that has died at this very moment.
const MAX_BEGUN_AGAIN: u8 = 3;

/// The longest BEGIN that is kept, its head included.
const MAX_BEGIN_BYTES: usize = 128;

/// Before the client's bytes are looked at: whether what they say could be said again.
pub(super) fn prepare(link: &mut Link, body: Body, input: &[u8]) -> bool {
    link.reused = false;
    let tracker = &link.tracker;
    let quiet = (!tracker.is_owed() || link.ahead) && !tracker.is_batch_open() && body.remaining == 0;
    if quiet && tracker.status() == TransactionStatus::Idle {
        link.replay.begin.clear();
        if is_begin(input) {
            link.replay.begin.extend_from_slice(input);
        }
        return true;
    }
    quiet && link.begun && !link.replay.begin.is_empty()
}

/// Whether the input is one simple query that begins a transaction. (Whether that is all it does, its answer tells.)
fn is_begin(input: &[u8]) -> bool {
    let Some((head, text)) = input.split_at_checked(HEAD_BYTES) else { return false };
    let word = text.first_chunk::<5>().is_some_and(|word| word.eq_ignore_ascii_case(b"begin") || word.eq_ignore_ascii_case(b"start"));
    let alone = matches!(frame::head(head), Ok(Some(head)) if head.tag == b'Q' && head.message_bytes() == input.len());
    word && alone && input.len() <= MAX_BEGIN_BYTES
}

/// Afterwards: keeps them, where that is of any use.
pub(super) fn keep(link: &mut Link, input: &[u8]) {
    let in_block = std::mem::take(&mut link.begun);
    if !link.reused || input.len() > Replay::MAX_BYTES {
        return;
    }
    let (mut ends, mut described) = (0, false);
    for owed in link.tracker.owed() {
        ends += usize::from(matches!(owed, Owed::Sync | Owed::Query(_) | Owed::FunctionCall));
        described |= matches!(owed, Owed::Describe(Note::Uses(_) | Note::Shape(_) | Note::Text(_) | Note::None));
    }
    if ends != 1 || link.tracker.is_batch_open() {
        return;
    }
    let own = link.tracker.owed().skip_while(|owed| matches!(owed, Owed::OwnQuery)).take_while(|owed| owed.is_local()).count();
    let replay = &mut link.replay;
    replay.bytes.clear();
    replay.bytes.extend_from_slice(behind(input, own));
    (replay.described, replay.in_block) = (described, in_block);
}

/// What stands behind so many messages: the proxy has answered these itself.
fn behind(mut input: &[u8], messages: usize) -> &[u8] {
    for _ in 0..messages {
        let Ok(Some(head)) = frame::head(input) else { return &[] };
        input = input.get(head.message_bytes()..).unwrap_or_default();
    }
    input
}

/// Whether the message is a simple query that can do nothing but begin a transaction: one command, in which nothing can be called.
fn only_begins(message: &[u8]) -> bool {
    let text = message.get(HEAD_BYTES..).and_then(|text| text.strip_suffix(b"\0")).map(<[u8]>::trim_ascii);
    let text = text.map(|text| text.strip_suffix(b";").unwrap_or(text));
    let harmless = |byte: &u8| byte.is_ascii_alphabetic() || byte.is_ascii_whitespace() || *byte == b',';
    text.is_some_and(|text| !text.is_empty() && text.iter().all(harmless))
}

/// Whether nothing that was sent over the connection, which has just been lost, can have done anything.
pub(super) fn nothing_ran(link: &Link) -> bool {
    let outside = link.tracker.status() == TransactionStatus::Idle && !link.tracker.is_batch_open();
    // What keeps a connection for one client is on no other.
    if !outside || link.half_sent || link.asking.is_some() || !link.pins.is_empty() {
        return false;
    }
    let own = link.tracker.is_owed() && link.tracker.owed().all(|owed| matches!(owed, Owed::OwnQuery));
    if own {
        return link.matching && !link.replay.in_block;
    }
    // Nobody has answered what may have been sent before it, and so the server has not come to it.
    let mut owed = link.tracker.owed().skip_while(|owed| matches!(owed, Owed::OwnQuery));
    matches!((owed.next(), owed.next()), (Some(Owed::Query(_)), None)) && !link.ran && only_begins(&link.replay.begin)
}

impl Session {
    /// The connection is lost: the client's message goes to another one, if that is safe. False when it is not.
    pub(super) fn begin_again(&mut self, cause: &str) -> bool {
        let Phase::Linked(lease) = &mut self.phase else { return false };
        if self.mode == PoolMode::Session || self.begun_again >= MAX_BEGUN_AGAIN || !nothing_ran(&lease.link) {
            return false;
        }
        self.begun_again += 1;
        tracing::info!(pool = %self.pool.name(), cause, "server connection lost before anything ran on it: another one is used");
        let sent = lease.link.tracker.owed().any(|owed| !matches!(owed, Owed::OwnQuery));
        let mut again = if sent { std::mem::take(&mut lease.link.replay.begin) } else { Vec::new() };
        again.append(&mut self.pending);
        self.pending = again;
        self.hold = Hold::No;
        self.body = Body::default();
        self.ticket.idle();
        // Dropped as it is, the connection goes to nobody else.
        self.phase = Phase::Idle;
        true
    }

    /// The same where the server has said why, which the client is told if it is the client's matter after all.
    pub(super) fn lost_early(&mut self, cx: &mut Context<'_>, farewell: &[u8]) -> Result<bool, End> {
        let cause = String::from_utf8_lossy(field(farewell, b'M').unwrap_or_default());
        if self.begin_again(&cause) {
            return Ok(true);
        }
        let mut scratch = Vec::new();
        let mut out = Splice::new(&[], &mut scratch);
        own_names::put(farewell, &mut out);
        self.to_client.send(&mut self.client, cx, out.finish()).map_err(|_| End::Lost)?;
        Ok(false)
    }

    /// The client's statement with this id gets a new plan, under a new name. `shape`: the client knows what its rows look like now.
    pub(super) fn renew(&mut self, id: StatementId, shape: Option<u64>) {
        let Some(client) = &mut self.statements else { return };
        for statement in client.named.values_mut().filter(|statement| statement.id() == id) {
            *statement = self.worker.postgres.statements.renew(statement);
            if let Some(shape) = shape {
                statement.take_in_shape(shape);
            }
        }
    }

    /// Has the refused batch sent again, as soon as the server is where it was before; true when that takes a query of our own.
    pub(super) fn send_again(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let Phase::Linked(lease) = &mut self.phase else { return Ok(false) };
        let link = &mut lease.link;
        let mut again = std::mem::take(&mut link.replay.bytes);
        again.append(&mut self.pending);
        self.pending = again;
        self.hold = Hold::No;
        if !link.replay.in_block {
            return Ok(false);
        }
        link.tracker.owe(Owed::OwnQuery);
        link.tracker.owe(Owed::OwnQuery);
        let anew = [query("ROLLBACK"), std::mem::take(&mut link.replay.begin)].concat();
        self.with_connection(|connection| connection.link.to_server.send(&mut connection.stream, cx, &anew))
            .map_err(|error| self.server_lost(cx, &error.to_string()))?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sidepool_protocol::postgres::statement::put_query;

    #[test]
    fn what_only_begins() {
        let message = |text: &str| {
            let mut message = Vec::new();
            put_query(&mut message, text.as_bytes());
            message
        };
        for text in ["BEGIN", " begin ;", "START TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY"] {
            assert!(is_begin(&message(text)) != text.starts_with(' ') && only_begins(&message(text)), "{text}");
        }
        for text in ["", "BEGIN; SELECT 1", "BEGIN;;", "begin -- x", "BEGIN f()"] {
            assert!(!only_begins(&message(text)), "{text}");
        }
        assert!(!only_begins(b""));
    }
}
