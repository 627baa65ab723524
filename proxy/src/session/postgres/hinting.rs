//! What the client's messages may change of its session's state is noted with the connection while they pass.
//!
//! Nothing is held up for it but a message of a few kilobytes that has not come as a whole. A longer one that is in pieces may change anything.
//! Not here: what a text says (`protocol::postgres::hints`).

use std::rc::Rc;

use sidepool_protocol::postgres::frame::{HEAD_BYTES, Head, cstr};
use sidepool_protocol::postgres::hints::{self, Hints, Kinds};
use sidepool_protocol::postgres::statement::{self, SYNC};
use sidepool_protocol::postgres::tag::FrontendTag;
use sidepool_protocol::postgres::tracker::{Owed, TransactionStatus};

use super::inbound::{Inbound, OWN_PORTAL};
use crate::upstream::postgres::dirt::StateRules;
use crate::upstream::postgres::link::Note;
use crate::upstream::postgres::statements::Statement;

/// Messages up to this size are waited for, to be looked at as a whole.
const WAITED_BYTES: usize = 16 * 1024;

impl Inbound<'_, '_> {
    /// Notes what a message may change that is passed as it is; false: the rest of it has to be there.
    pub(super) fn hint(&mut self, tag: FrontendTag, rest: &[u8], head: Head) -> bool {
        let Some(rules) = &self.link.rules else { return true };
        let rules = Rc::clone(rules);
        match tag {
            FrontendTag::Query => self.hint_query(&rules, rest, head),
            FrontendTag::Parse if self.rewriting.capacity == 0 => {
                self.hint_parse(&rules, rest, head);
                true
            }
            FrontendTag::Bind if self.rewriting.capacity == 0 => {
                let names = statement::bind_names(&rest[HEAD_BYTES..rest.len().min(head.message_bytes())]);
                if !names.is_some_and(|names| names.statement.is_empty() && self.link.dirt.has_seen_unnamed()) {
                    // Whose statement of that name it is, and what is in it, nobody knows.
                    self.link.dirt.add_unknown();
                }
                true
            }
            FrontendTag::FunctionCall => {
                let function = rest.get(HEAD_BYTES..HEAD_BYTES + 4).and_then(<[u8]>::first_chunk).copied();
                if !function.is_some_and(|function| hints::is_large_object(u32::from_be_bytes(function))) {
                    self.link.dirt.add_unknown();
                }
                true
            }
            FrontendTag::Parse
            | FrontendTag::Bind
            | FrontendTag::Describe
            | FrontendTag::Execute
            | FrontendTag::Close
            | FrontendTag::Sync
            | FrontendTag::Flush
            | FrontendTag::CopyData
            | FrontendTag::CopyDone
            | FrontendTag::CopyFail
            | FrontendTag::Password
            | FrontendTag::Terminate => true,
        }
    }

    fn hint_query(&mut self, rules: &StateRules, rest: &[u8], head: Head) -> bool {
        let here = &rest[HEAD_BYTES..rest.len().min(head.message_bytes())];
        if here.len() == head.body {
            let text = here.strip_suffix(&[0]).unwrap_or(here);
            let hints = hints::look(text);
            self.note_alone(rules, text, &hints);
            self.on_sequences(hints.kinds);
            return true;
        }
        if head.message_bytes() <= WAITED_BYTES {
            return false;
        }
        self.link.dirt.add_unknown();
        true
    }

    fn hint_parse(&mut self, rules: &StateRules, rest: &[u8], head: Head) {
        let whole = rest.get(HEAD_BYTES..head.message_bytes());
        let Some((name, text)) = whole.and_then(cstr).and_then(|(name, body)| Some((name, cstr(body)?.0))) else {
            return self.link.dirt.add_unknown();
        };
        self.note_alone(rules, text, &hints::look(text));
        if name.is_empty() {
            self.link.dirt.see_unnamed();
        }
    }

    /// Notes what a statement may change that is about to be bound to these values; false: the rest of the message has to be there.
    pub(super) fn hint_bind(&mut self, known: &Statement, values: &[u8], head: Head) -> bool {
        let Some(rules) = &self.link.rules else { return true };
        let hints = known.hints();
        if hints.is_nothing() && rules.functions.is_empty() {
            return true;
        }
        let found = Found::of(rules, known.key(), hints);
        self.hint_use(hints, found, values, head)
    }

    /// The same of the unnamed statement.
    pub(super) fn hint_unnamed(&mut self, values: &[u8], head: Head) -> bool {
        let Some(rules) = &self.link.rules else { return true };
        let Some(client) = self.rewriting.client else { return true };
        if client.unnamed_plain && rules.functions.is_empty() {
            return true;
        }
        let Some(body) = &client.unnamed else { return true };
        let text = cstr(body).map_or(&[][..], |(text, _)| text);
        let hints = hints::look(text);
        if hints.is_nothing() && rules.functions.is_empty() {
            return true;
        }
        let found = Found::of(rules, text, &hints);
        self.hint_use(&hints, found, values, head)
    }

    fn hint_use(&mut self, hints: &Hints, found: Found, values: &[u8], head: Head) -> bool {
        if found.hides || hints.kinds.has(Kinds::BOUND) {
            match hints::bound_names(values) {
                Some(names) => self.link.dirt.add(&names),
                None if head.message_bytes() <= WAITED_BYTES => return false,
                None => self.link.dirt.add_unknown(),
            }
        }
        self.note(hints, &found);
        self.on_sequences(hints.kinds);
        true
    }

    /// A statement that SQL's EXECUTE runs.
    pub(super) fn hint_executed(&mut self, known: &Statement) {
        if let Some(rules) = &self.link.rules {
            let rules = Rc::clone(rules);
            self.note_alone(&rules, known.key(), known.hints());
        }
    }

    /// Where what follows asks for a value that a sequence has given, those that others have drawn are forgotten before.
    fn on_sequences(&mut self, kinds: Kinds) {
        if kinds.has(Kinds::DRAWS) {
            self.link.sequences.on_draw();
        }
        if !kinds.has(Kinds::SEQUENCES)
            || self.link.tracker.status() == TransactionStatus::Failed
            || self.rewriting.capacity == 0 && self.link.tracker.is_batch_open()
        {
            return;
        }
        if self.link.tracker.owed().any(|owed| matches!(owed, Owed::Query(_) | Owed::Execute(_) | Owed::FunctionCall)) {
            self.link.sequences.on_run();
        }
        if !self.link.sequences.on_ask(self.rewriting.client_id) {
            return;
        }
        let in_batch = self.link.tracker.is_batch_open();
        // This makes use of the unnamed statement.
        self.link.statements.unnamed = None;
        for own in [Owed::OwnParse(Note::None), Owed::OwnBind, Owed::OwnExecute(Note::None), Owed::OwnClose(Note::None)] {
            self.link.tracker.owe(own);
        }
        statement::put_run(self.out.put(), OWN_PORTAL, &[b"DISCARD SEQUENCES"]);
        if !in_batch {
            self.link.tracker.owe(Owed::OwnSync);
            self.out.put().extend_from_slice(&SYNC);
        }
    }

    /// Notes what a text may change that stands alone: without values there are no names among them.
    fn note_alone(&mut self, rules: &StateRules, text: &[u8], hints: &Hints) {
        self.note(hints, &Found::of(rules, text, hints));
        if hints.kinds.has(Kinds::BOUND) {
            self.link.dirt.add_unknown();
        }
    }

    fn note(&mut self, hints: &Hints, found: &Found) {
        if !hints.is_nothing() {
            self.link.dirt.add(hints);
        }
        if found.hides {
            self.link.dirt.add_unknown();
            // Nobody but the text says which of the users' own settings may be meant.
            self.link.dirt.add(&found.names);
        }
    }
}

/// What a text hides, by the rules of its pool.
struct Found {
    /// Anything may have changed.
    hides: bool,
    /// Names in quotes.
    names: Hints,
}

impl Found {
    fn of(rules: &StateRules, text: &[u8], hints: &Hints) -> Self {
        let hides = hints.kinds.has(Kinds::UNKNOWN) || rules.functions.are_in(text);
        Self { hides, names: if hides { hints::quoted_names(text) } else { Hints::default() } }
    }
}
