//! Sends a batch once more that the server refused only because of what the proxy did not know: that a plan is of no use any more.
//!
//! Kept is what the client sent, when it is small, alone, whole, uses a statement that the server had from before, and begins outside of a
//! transaction or right behind its BEGIN. Anything else is refused as the server refuses it, and goes well the next time.

use std::task::Context;

use sidepool_protocol::postgres::frame::{self, HEAD_BYTES};
use sidepool_protocol::postgres::tracker::{Owed, TransactionStatus};

use super::inbound::Body;
use super::relay::query;
use super::run::{End, Phase, Session};
use crate::upstream::postgres::link::{Hold, Link, Note, Replay};
use crate::upstream::postgres::statements::StatementId;

/// The longest BEGIN that is kept, its head included.
const MAX_BEGIN_BYTES: usize = 128;

/// Before the client's bytes are looked at: whether what they say could be said again.
pub(super) fn prepare(link: &mut Link, body: Body, input: &[u8]) -> bool {
    link.reused = false;
    let tracker = &link.tracker;
    let quiet = !tracker.is_owed() && !tracker.is_batch_open() && body.remaining == 0;
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
        described |= matches!(owed, Owed::Describe(Note::Uses(_) | Note::Text(_) | Note::None));
    }
    if ends != 1 || link.tracker.is_batch_open() {
        return;
    }
    let replay = &mut link.replay;
    replay.bytes.clear();
    replay.bytes.extend_from_slice(input);
    (replay.described, replay.in_block) = (described, in_block);
}

impl Session {
    /// The client's statement with this id gets a new plan, under a new name.
    pub(super) fn renew(&mut self, id: StatementId) {
        let Some(client) = &mut self.statements else { return };
        for statement in client.named.values_mut().filter(|statement| statement.id() == id) {
            *statement = self.worker.postgres.statements.renew(statement);
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
