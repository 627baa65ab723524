//! Statements whose rows have come to look different, because tables were changed, on a connection that has never seen them.
//!
//! A client that has asked once what the rows of a statement look like takes it for granted. PostgreSQL refuses to run such a statement when that
//! changes ("cached plan must not change result type"), but only where it had prepared it before the change; a connection on which the statement is
//! prepared afterwards knows nothing of it. So where a client has asked, and does not ask again, the server is asked for it:
//!
//! ```text
//!   Bind of a statement that this server does not know    Parse, Describe and Flush of our own; the Bind waits for the answer
//!   the rows look as they did                             the Bind goes on: nothing of this happens again on this connection
//!   they do not                                           the Bind goes on under a name that nobody has, so that it fails at its place, as it
//!                                                         would have on the server, and the client is told what the server says in such a case
//! ```
//! Whoever describes the portal behind the Bind sees what the rows look like, and is never held up.

use std::rc::Rc;

use sidepool_protocol::postgres::frame::{HEAD_BYTES, Head};
use sidepool_protocol::postgres::shape;
use sidepool_protocol::postgres::statement::{self, BindNames, FLUSH};
use sidepool_protocol::postgres::tag::BackendTag;
use sidepool_protocol::postgres::tracker::Owed;

use super::inbound::{Body, Inbound};
use super::outbound::Outbound;
use crate::upstream::postgres::link::Note;
use crate::upstream::postgres::statements::{NOBODY, Statement};

/// What PostgreSQL says to it. Drivers look at the routine, too.
pub(super) const CHANGED: &[u8] = b"SERROR\0VERROR\0C0A000\0Mcached plan must not change result type\0RRevalidateCachedQuery\0\0";

/// A Describe of a portal, its name aside.
const DESCRIBE_PORTAL: (usize, &[u8]) = (HEAD_BYTES, b"P");

/// What is to become of a Bind.
pub(super) enum Rows {
    /// They look as they did, or nobody minds.
    Same,
    /// The server is being asked.
    Asked,
    /// They do not; it has been sent so that it fails, and so much of the input is done with.
    Changed(usize),
}

impl Inbound<'_, '_> {
    /// Looks after the rows of a statement before a Bind of it. `behind` is what the client has sent behind the Bind.
    pub(super) fn look_after_rows(&mut self, known: &Rc<Statement>, names: &BindNames<'_>, head: Head, behind: &[u8]) -> Rows {
        if known.shape().is_none() || !known.is_outdated() && self.link.statements.knows(known.id()) || describes_portal(behind) {
            return Rows::Same;
        }
        if !known.is_outdated() {
            self.ensure(known);
            self.link.tracker.owe(Owed::OwnDescribe(Note::Shape(Rc::clone(known))));
            statement::put_describe(self.out.put(), known.id().server_name().as_bytes());
            self.out.put().extend_from_slice(&FLUSH);
            return Rows::Asked;
        }
        self.link.tracker.owe(Owed::Bind(Note::Changed(known.id())));
        let body = head.body - names.bytes;
        statement::put_bind_start(self.out.put(), names.portal, NOBODY, body);
        *self.body = Body { remaining: body, forward: true };
        Rows::Changed(HEAD_BYTES + names.bytes)
    }

    /// The client's statement of this name, anew where its rows have come to look different: the client asks what they look like now.
    pub(super) fn described(&mut self, name: &[u8], known: Rc<Statement>) -> Rc<Statement> {
        if !known.is_outdated() {
            return known;
        }
        let renewed = self.rewriting.table.renew(&known);
        if let Some(kept) = self.rewriting.client.as_mut().and_then(|client| client.named.get_mut(name)) {
            *kept = Rc::clone(&renewed);
        }
        renewed
    }
}

/// Whether the client asks next what the rows look like.
fn describes_portal(behind: &[u8]) -> bool {
    let (at, kind) = DESCRIBE_PORTAL;
    behind.first() == Some(&b'D') && behind.get(at..).is_some_and(|rest| rest.starts_with(kind))
}

impl Outbound<'_, '_> {
    /// Whether the server is about to say what the rows of a statement look like, to somebody who wants to know it.
    pub(super) fn tells_shape(&self, tag: BackendTag) -> bool {
        tag == BackendTag::RowDescription
            && matches!(self.link.tracker.owed().next(), Some(Owed::Describe(Note::Shape(_)) | Owed::OwnDescribe(Note::Shape(_))))
    }

    /// The server says what the rows of a statement look like, or that it has none.
    pub(super) fn on_shape(&mut self, tag: BackendTag, body: Option<&[u8]>) {
        let shape = if tag == BackendTag::NoData { Some(shape::NO_ROWS) } else { body.and_then(shape::of_rows) };
        let Some(shape) = shape else { return };
        match self.link.tracker.owed().next() {
            // Clients learn of it at their next Bind.
            Some(Owed::OwnDescribe(Note::Shape(statement))) => {
                statement.take_in_shape(shape);
            }
            // This client knows it already.
            Some(Owed::Describe(Note::Shape(statement))) if !statement.take_in_shape(shape) => {
                self.news.rare().reshaped.push((statement.id(), shape));
            }
            _ => {}
        }
    }
}
