//! A text that is certain to pin its connection, while as many are pinned as may be, does not run: it is refused in its place among the client's
//! messages, in its transaction.
//!
//! ```text
//!   Query CREATE TEMP TABLE …    ─▶ Query EXECUTE "refused …"     the server refuses that as it would any mistake: the transaction has
//!   Bind of such a statement     ─▶ Bind "refused …"              failed, the rest of the batch is skipped
//!   its error (26000)            ─▶ ours, which says why
//! ```
//! Where there is room, a place is kept for it until the transaction is over. Not here: how many may be pinned (`pool`), what is pinned in the end
//! (`pinning`).

use sidepool_protocol::postgres::frame::{HEAD_BYTES, Head, cstr};
use sidepool_protocol::postgres::hints::Kinds;
use sidepool_protocol::postgres::keeps::keeps;
use sidepool_protocol::postgres::statement;
use sidepool_protocol::postgres::statement::BindNames;
use sidepool_protocol::postgres::tracker::{Owed, TransactionStatus};

use super::inbound::{Body, Inbound};
use crate::upstream::postgres::link::Note;
use crate::upstream::postgres::pins::{Cause, Pins};

/// Asks for a place among the pinned connections, until the transaction is over; `Some`: what the client is told instead (an ErrorResponse).
pub(super) type Admit<'a> = &'a dyn Fn(Pins) -> Option<Box<[u8]>>;

/// A statement that no server has. It is what the server's log shows.
const REFUSED: &str = "refused by sidepool";

const BY_KIND: [(Kinds, Cause); 4] = [
    (Kinds::TEMPORARY, Cause::TemporaryTables),
    (Kinds::CURSORS, Cause::HeldCursors),
    (Kinds::LOCKS, Cause::AdvisoryLocks),
    (Kinds::LIBRARIES, Cause::Library),
];

/// What the text is certain to leave.
fn pins_by(text: &[u8]) -> Pins {
    let kinds = keeps(text);
    BY_KIND.into_iter().filter(|(kind, _)| kinds.has(*kind)).map(|(_, cause)| cause).collect()
}

impl Inbound<'_, '_> {
    /// A simple query that does not run; false: it may.
    pub(super) fn refuse_query(&mut self, rest: &[u8], head: Head) -> bool {
        if !self.may_pin() {
            return false;
        }
        let Some(told) = rest.get(HEAD_BYTES..head.message_bytes()).and_then(cstr).and_then(|(text, _)| self.refusal_of(text)) else {
            return false;
        };
        self.refuse_with(told);
        true
    }

    /// What the client is told instead of the answer to a simple query: in its place stands one that is certain to fail, in a failed block too.
    pub(super) fn refuse_with(&mut self, told: Box<[u8]>) {
        self.forget_unnamed();
        statement::put_query(self.out.put(), format!("EXECUTE \"{REFUSED}\"").as_bytes());
        self.link.tracker.owe(Owed::Query(Note::Refused(told)));
    }

    /// The same of a Bind of a statement with this text.
    pub(super) fn refuse_bind(&mut self, text: &[u8], names: &BindNames<'_>, head: Head) -> Option<usize> {
        if !self.may_pin() {
            return None;
        }
        let told = self.refusal_of(cstr(text).map_or(text, |(text, _)| text))?;
        self.link.tracker.owe(Owed::Bind(Note::Refused(told)));
        let body = head.body - names.bytes;
        statement::put_bind_start(self.out.put(), names.portal, REFUSED.as_bytes(), body);
        *self.body = Body { remaining: body, forward: true };
        Some(HEAD_BYTES + names.bytes)
    }

    /// The same of a Bind of the client's unnamed statement.
    pub(super) fn refuse_unnamed(&mut self, names: &BindNames<'_>, head: Head) -> Option<usize> {
        if !self.may_pin() {
            return None;
        }
        let text = self.rewriting.client.as_ref()?.unnamed.clone()?;
        self.refuse_bind(&text, names, head)
    }

    /// Whether what comes next may be the first to pin the connection.
    fn may_pin(&self) -> bool {
        let link = &*self.link;
        let kinds = BY_KIND.into_iter().fold(Kinds::NONE, |all, (kind, _)| all.with(kind));
        link.dirt.kinds().has(kinds)
            && link.pins.is_empty()
            && !link.promised
            && link.tracker.status() != TransactionStatus::Failed
            && !link.tracker.is_skipping()
    }

    fn refusal_of(&mut self, text: &[u8]) -> Option<Box<[u8]>> {
        let pins = pins_by(text);
        if pins.is_empty() {
            return None;
        }
        let told = (self.admit)(pins);
        self.link.promised = told.is_none();
        told
    }
}
