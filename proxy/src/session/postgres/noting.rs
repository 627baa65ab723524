//! What goes over a server connection is noted in its journal, where there is one: the client's messages with their texts, and the server's answers.

use sidepool_protocol::postgres::frame::{self, HEAD_BYTES, Head};
use sidepool_protocol::postgres::statement;
use sidepool_protocol::postgres::tag::{BackendTag, FrontendTag};
use sidepool_protocol::postgres::tracker::Owed;

use super::inbound::Inbound;
use super::outbound::{Outbound, field};
use crate::upstream::postgres::journal::Text;

impl Inbound<'_, '_> {
    /// The message at the front of `rest` has been passed on.
    pub(super) fn note_sent(&mut self, tag: FrontendTag, rest: &[u8], head: Head) {
        if !self.link.tracker.is_plain() {
            return;
        }
        let body = &rest[HEAD_BYTES..rest.len().min(head.message_bytes())];
        let cut = body.len() < head.body;
        // The names of statements are on the connection itself.
        let own = self.rewriting.capacity == 0;
        let Some(journal) = &mut self.link.journal else { return };
        match tag {
            FrontendTag::Query => journal.on_query(Text::copy(body.strip_suffix(b"\0").unwrap_or(body), cut)),
            FrontendTag::FunctionCall => journal.on_query(Text::copy(b"fastpath function call", false)),
            FrontendTag::Sync => journal.on_sync(),
            FrontendTag::Execute => journal.on_execute(frame::cstr(body).map_or(body, |(portal, _)| portal)),
            FrontendTag::Parse if own => {
                if let Some((name, rest)) = frame::cstr(body) {
                    journal.on_parse(name, text_of_parse(rest, cut));
                }
            }
            FrontendTag::Bind => {
                let Some(names) = statement::bind_names(body) else { return };
                let client = self.rewriting.client.as_ref();
                let text = match client {
                    Some(client) if !own && names.statement.is_empty() => client.unnamed.as_ref().map(|rest| text_of_parse(rest, false)),
                    Some(client) if !own => client.named.get(names.statement).map(|known| Text::Statement(known.clone())),
                    Some(_) | None => Some(journal.named(names.statement)),
                };
                journal.on_bind(names.portal, text.unwrap_or_default());
            }
            FrontendTag::Parse
            | FrontendTag::Describe
            | FrontendTag::Close
            | FrontendTag::Flush
            | FrontendTag::CopyData
            | FrontendTag::CopyDone
            | FrontendTag::CopyFail
            | FrontendTag::Password
            | FrontendTag::Terminate => {}
        }
    }
}

/// The text in what follows the name in a Parse, as far as it is there.
fn text_of_parse(rest: &[u8], cut: bool) -> Text {
    frame::cstr(rest).map_or_else(|| Text::copy(rest, cut), |(text, _)| Text::copy(text, false))
}

impl Outbound<'_, '_> {
    /// The server says that a command of the client is through, or that it failed. Before the tracker learns of it.
    pub(super) fn note_answer(&mut self, tag: BackendTag, body: &[u8]) {
        let front = self.link.tracker.owed().next();
        // An error in what prepares a statement is one of its batch.
        let is_clients = match front {
            Some(Owed::Query(_) | Owed::Execute(_) | Owed::FunctionCall) => true,
            Some(
                Owed::Sync
                | Owed::OwnQuery
                | Owed::Parse(_)
                | Owed::OwnParse(_)
                | Owed::LocalParse(_)
                | Owed::Bind(_)
                | Owed::Describe(_)
                | Owed::OwnDescribe(_)
                | Owed::Close
                | Owed::OwnBind
                | Owed::OwnExecute(_)
                | Owed::OwnClose(_)
                | Owed::OwnSync
                | Owed::LocalClose(_)
                | Owed::CopyData
                | Owed::CopyEnd,
            )
            | None => false,
        };
        if let Some(journal) = self.link.journal.as_mut().filter(|_| is_clients) {
            if tag == BackendTag::ErrorResponse {
                journal.on_error(field(body, b'C').unwrap_or_default());
            } else {
                journal.on_complete(body);
            }
        }
    }
}
