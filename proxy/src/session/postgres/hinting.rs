//! What the client's messages may change of its session's state is noted with the connection while they pass.
//!
//! Nothing is held up for it but a message of a few kilobytes that has not come as a whole. A longer one that is in pieces may change anything.
//! Not here: what a text says (`protocol::postgres::hints`), values of sequences (`sequences`).

use std::rc::Rc;

use sidepool_protocol::postgres::frame::{HEAD_BYTES, Head, cstr};
use sidepool_protocol::postgres::hints::{self, Hints, Kinds};
use sidepool_protocol::postgres::statement;
use sidepool_protocol::postgres::tag::FrontendTag;

use super::inbound::Inbound;
use crate::upstream::postgres::dirt::StateRules;
use crate::upstream::postgres::statements::Statement;

/// Messages up to this size are waited for, to be looked at as a whole.
const WAITED_BYTES: usize = 16 * 1024;

/// What becomes of a message once what it may change has been noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hinted {
    /// It passes.
    Noted,
    /// The rest of it has to be there.
    NeedMore,
    /// It waits for all answers.
    Held,
    /// It does not run: something else stands in its place, and its body is dropped.
    Refused,
}

impl Inbound<'_, '_> {
    /// Notes what a message may change that is passed as it is.
    pub(super) fn hint(&mut self, tag: FrontendTag, rest: &[u8], head: Head) -> Hinted {
        let Some(rules) = &self.link.rules else { return Hinted::Noted };
        let rules = Rc::clone(rules);
        match tag {
            FrontendTag::Query => self.hint_query(&rules, rest, head),
            FrontendTag::Parse if self.rewriting.capacity == 0 => {
                self.hint_parse(&rules, rest, head);
                Hinted::Noted
            }
            FrontendTag::Bind if self.rewriting.capacity == 0 => {
                let names = statement::bind_names(&rest[HEAD_BYTES..rest.len().min(head.message_bytes())]);
                if !names.is_some_and(|names| names.statement.is_empty() && self.link.dirt.has_seen_unnamed()) {
                    // Whose statement of that name it is, and what is in it, nobody knows.
                    self.link.dirt.add_unknown();
                    self.forget_in_batch(Kinds::UNKNOWN);
                }
                Hinted::Noted
            }
            FrontendTag::Close if self.rewriting.capacity == 0 => {
                self.link.dirt.add(&Hints::of(Kinds::ENDS));
                Hinted::Noted
            }
            FrontendTag::FunctionCall => {
                let function = rest.get(HEAD_BYTES..HEAD_BYTES + 4).and_then(<[u8]>::first_chunk).copied();
                if function.is_some_and(|function| hints::is_large_object(u32::from_be_bytes(function))) {
                    return Hinted::Noted;
                }
                self.link.dirt.add_unknown();
                self.forget_before(Kinds::UNKNOWN, false, head)
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
            | FrontendTag::Terminate => Hinted::Noted,
        }
    }

    fn hint_query(&mut self, rules: &StateRules, rest: &[u8], head: Head) -> Hinted {
        let here = &rest[HEAD_BYTES..rest.len().min(head.message_bytes())];
        if here.len() == head.body {
            let text = here.strip_suffix(&[0]).unwrap_or(here);
            let hints = hints::look(text);
            let kinds = self.note_alone(rules, text, &hints);
            return self.forget_before(kinds, text.contains(&b';'), head);
        }
        if head.message_bytes() <= WAITED_BYTES {
            return Hinted::NeedMore;
        }
        self.link.dirt.add_unknown();
        self.forget_before(Kinds::UNKNOWN, true, head)
    }

    fn hint_parse(&mut self, rules: &StateRules, rest: &[u8], head: Head) {
        let whole = rest.get(HEAD_BYTES..head.message_bytes());
        let Some((name, text)) = whole.and_then(cstr).and_then(|(name, body)| Some((name, cstr(body)?.0))) else {
            self.link.dirt.add_unknown();
            return self.forget_in_batch(Kinds::UNKNOWN);
        };
        let kinds = self.note_alone(rules, text, &hints::look(text));
        self.forget_in_batch(kinds);
        if name.is_empty() {
            self.link.dirt.see_unnamed();
        } else {
            self.link.dirt.add(&Hints::of(Kinds::STATEMENTS));
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
        let kinds = self.note(hints, &found);
        self.forget_in_batch(kinds);
        true
    }

    /// A statement that SQL's EXECUTE runs.
    pub(super) fn hint_executed(&mut self, known: &Statement) {
        if let Some(rules) = &self.link.rules {
            let rules = Rc::clone(rules);
            // Its PREPARE was looked at for the values of sequences, too.
            let _ = self.note_alone(&rules, known.key(), known.hints());
        }
    }

    /// Notes what a text may change that stands alone: without values there are no names among them. The answer is all that was found.
    fn note_alone(&mut self, rules: &StateRules, text: &[u8], hints: &Hints) -> Kinds {
        let kinds = self.note(hints, &Found::of(rules, text, hints));
        if hints.kinds.has(Kinds::BOUND) {
            self.link.dirt.add_unknown();
        }
        kinds
    }

    fn note(&mut self, hints: &Hints, found: &Found) -> Kinds {
        if !hints.is_nothing() {
            self.link.dirt.add(hints);
        }
        if found.hides {
            self.link.dirt.add_unknown();
            // Nobody but the text says which of the users' own settings may be meant.
            self.link.dirt.add(&found.names);
            return hints.kinds.with(Kinds::UNKNOWN);
        }
        hints.kinds
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
