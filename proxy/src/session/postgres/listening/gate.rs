//! A client's LISTEN on its way to the server: it is held back until the hub listens to the same channels, so that nothing that is notified after
//! it has been committed can be missed.
//!
//! Only texts are looked at. A LISTEN in a function, in a DO block, or in a text that can be read in two ways is noticed when it has run, and pins
//! the connection. Not here: what becomes of the channels when the transaction has ended (`session`).

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use sidepool_protocol::postgres::channels::{self, Listens};
use sidepool_protocol::postgres::fault::Fault;
use sidepool_protocol::postgres::frame::{self, HEAD_BYTES, Head};
use sidepool_protocol::postgres::parameters::ParameterSet;
use sidepool_protocol::postgres::statement;
use sidepool_protocol::postgres::tag::FrontendTag;

use super::listener::{Ear, Listener, Wanted};
use crate::pool::handle::Pool;
use crate::session::postgres::cancel::CancelTicket;
use crate::session::postgres::inbound::Inbound;
use crate::upstream::postgres::connector::PgConnector;
use crate::worker::Worker;

/// The longest text that is waited for to see whether it listens.
const MAX_TEXT_BYTES: usize = 8 * 1024;

/// The way to a hub, for one client.
pub struct Gate<'a> {
    /// Its worker.
    pub worker: &'a Rc<Worker>,
    /// The client.
    pub ticket: &'a CancelTicket,
    /// Its pool.
    pub pool: &'a Rc<Pool<PgConnector>>,
    /// Of its task.
    pub waker: &'a Waker,
}

/// Whether a message may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// It may.
    Free,
    /// More of it has to be there to tell.
    NeedMore,
    /// Not before the hub has answered.
    Held,
}

impl Gate<'_> {
    /// Makes sure that the hub listens to these channels.
    pub fn want(&self, names: &[Cow<'_, [u8]>]) -> Wanted {
        let side = &self.worker.postgres;
        // A pool that nobody is led to any more: its clients are about to go.
        let Some(key) = side.pools.key_of(self.pool) else { return Wanted::Ready };
        let id = self.ticket.number();
        let listener = side.listening.ear(id).unwrap_or_else(|| {
            let branch = side.listening.branch(&key, &self.worker.mailboxes, self.worker.id);
            let listener = Rc::new(Listener::new(branch, Rc::clone(self.pool), id, self.waker.clone()));
            side.listening.ears.borrow_mut().insert(id, Ear(Rc::clone(&listener)));
            self.ticket.set_listens(true);
            listener
        });
        listener.want(names, &key, || side.listening.next_turn())
    }

    fn refuse_later(&self, fault: Arc<Fault>) {
        if let Some(listener) = self.worker.postgres.listening.ear(self.ticket.number()) {
            listener.put_back(fault);
        }
    }
}

/// Whether texts of a client in this state are such that the hub can listen to what they name: what it hears is in UTF-8.
#[must_use]
fn is_utf8(state: &ParameterSet) -> bool {
    let Some(encoding) = state.get("client_encoding") else { return true };
    let plain: String = encoding.chars().filter(char::is_ascii_alphanumeric).collect();
    plain.eq_ignore_ascii_case("utf8") || plain.eq_ignore_ascii_case("unicode")
}

/// The text of a Query or Parse, as far as it is there, and whether that is all of it. `None`: not even its beginning is.
#[must_use]
fn text_of(tag: FrontendTag, rest: &[u8], head: Head) -> Option<(&[u8], bool)> {
    let message = &rest[HEAD_BYTES..rest.len().min(head.message_bytes())];
    let text = if tag == FrontendTag::Parse { frame::cstr(message)?.1 } else { message };
    Some(frame::cstr(text).map_or((text, message.len() == head.body), |(text, _)| (text, true)))
}

impl Inbound<'_, '_> {
    /// Whether the message may go on as far as listening is concerned.
    pub(crate) fn gate(&mut self, tag: FrontendTag, rest: &[u8], head: Head) -> Passage {
        if self.gate.is_none() || !self.link.tracker.is_plain() {
            return Passage::Free;
        }
        match tag {
            FrontendTag::Query | FrontendTag::Parse => self.gate_text(tag, rest, head),
            FrontendTag::Bind => self.gate_bind(rest, head),
            FrontendTag::Describe
            | FrontendTag::Execute
            | FrontendTag::Close
            | FrontendTag::Sync
            | FrontendTag::Flush
            | FrontendTag::FunctionCall
            | FrontendTag::CopyData
            | FrontendTag::CopyDone
            | FrontendTag::CopyFail
            | FrontendTag::Password
            | FrontendTag::Terminate => Passage::Free,
        }
    }

    fn gate_text(&mut self, tag: FrontendTag, rest: &[u8], head: Head) -> Passage {
        let short = head.message_bytes() <= MAX_TEXT_BYTES;
        match text_of(tag, rest, head) {
            None if short => Passage::NeedMore,
            None => Passage::Free,
            // What is parsed is one statement.
            Some((text, _)) if tag == FrontendTag::Parse && !channels::may_begin_listening(text) => Passage::Free,
            Some((text, true)) => {
                if tag == FrontendTag::Parse && channels::begins_so(text) {
                    self.rewriting.client.get_or_insert_default().listens = true;
                }
                self.gate_whole(text)
            }
            Some((text, false)) if short && channels::may_begin_listening(text) => Passage::NeedMore,
            Some((_, false)) => Passage::Free,
        }
    }

    /// A statement that was parsed before, perhaps on another connection.
    fn gate_bind(&mut self, rest: &[u8], head: Head) -> Passage {
        let available = &rest[HEAD_BYTES..rest.len().min(head.message_bytes())];
        if !self.rewriting.client.as_ref().is_some_and(|client| client.listens) {
            return Passage::Free;
        }
        let Some(names) = statement::bind_names(available) else { return Passage::Free };
        let body = if names.statement.is_empty() {
            self.rewriting.client.as_ref().and_then(|client| client.unnamed.clone()).filter(|body| channels::begins_so(body))
        } else {
            self.named(names.statement).filter(|known| channels::begins_so(known.key())).map(|known| known.key().to_vec())
        };
        match body.as_deref().and_then(frame::cstr) {
            Some((text, _)) => self.gate_whole(text),
            None => Passage::Free,
        }
    }

    fn gate_whole(&mut self, text: &[u8]) -> Passage {
        let Some(gate) = &self.gate else { return Passage::Free };
        let Listens::To(names) = channels::listens(text) else { return Passage::Free };
        if !is_utf8(self.rewriting.state) {
            return Passage::Free;
        }
        match gate.want(&names) {
            Wanted::Ready => {
                (self.link.hearing.carries, self.link.hearing.changed) = (true, true);
                Passage::Free
            }
            Wanted::Wait => Passage::Held,
            Wanted::Refused(fault) => {
                gate.refuse_later(fault);
                Passage::Held
            }
        }
    }
}
