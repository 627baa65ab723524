//! Statements of the extended protocol that name another statement: EXECUTE (also behind EXPLAIN or CREATE TABLE … AS), PREPARE and DEALLOCATE
//! that were sent through Parse.
//!
//! PostgreSQL looks the name up whenever such a statement is described or runs, and it may mean something else each time. So no server keeps
//! one: with each Bind and Describe its text is parsed anew, as the server's unnamed statement, with the name that the server has for what the
//! client's name means just then.
//!
//! ```text
//!   EXECUTE name      what it names is prepared before, where this server does not know it
//!   PREPARE name      gets a new name with each Bind; the Execute of that portal makes it one of the client's statements
//!   DEALLOCATE name   is sent with a name that means nothing, because others may use the same statement; the Execute takes it from the client
//! ```
//! What an Execute does to the client's names is done when it is sent, and taken back when it turns out never to have run (`undo`).
//! Not here: the same in simple queries (`sql_names`), whose answers are waited for.

use std::collections::hash_map::Entry;
use std::rc::Rc;

use sidepool_protocol::postgres::frame::{HEAD_BYTES, Head, cstr};
use sidepool_protocol::postgres::sql::{self, Command, Verb};
use sidepool_protocol::postgres::sql_listing::{self, may_list};
use sidepool_protocol::postgres::statement::{self, BindNames, MAX_NAME_BYTES};
use sidepool_protocol::postgres::tag::FrontendTag;
use sidepool_protocol::postgres::tracker::Owed;

use super::inbound::{Body, Inbound, Violation};
use super::own_view::OwnView;
use super::prepared::MAX_CLIENT_STATEMENTS;
use super::sql_names::{characters, decoy_name, follow};
use crate::upstream::postgres::link::{AllGone, Effect, Note, Portal, Renamed, TakeBack, TextNote};
use crate::upstream::postgres::statements::{NAME_PREFIX, NOBODY, StatementId};

/// Portals that wait for their Execute; past it the oldest is forgotten, and then its Execute changes no names.
const MAX_PORTALS: usize = 64;

/// A text as the server gets it.
#[derive(Default)]
struct Reading {
    /// What follows the name in a Parse, when it is not what the client sent.
    body: Option<Vec<u8>>,
    /// The name that was replaced in it.
    renamed: Option<Renamed>,
    /// What it runs.
    uses: Option<StatementId>,
    /// What its Execute does.
    effect: Option<Effect>,
}

impl Inbound<'_, '_> {
    /// A Parse with such a text. `name` is empty for the unnamed statement.
    pub(super) fn parse_referring(&mut self, body: &[u8], back: TakeBack) -> Result<(), Violation> {
        let reading = self.read(body, false)?;
        self.link.statements.unnamed = None;
        self.link.counts.server_parses += 1;
        self.link.tracker.owe(Owed::Parse(reading.note(back)));
        statement::put_parse(self.out.put(), b"", reading.body.as_deref().unwrap_or(body));
        Ok(())
    }

    /// A Bind of such a statement.
    pub(super) fn bind_referring(&mut self, body: &[u8], names: BindNames<'_>, head: Head) -> Result<usize, Violation> {
        let mut reading = self.read(body, true)?;
        self.parse_own(&reading, body);
        self.link.tracker.owe(Owed::Bind(reading.note(TakeBack::Nothing)));
        if reading.effect.is_some() || reading.renamed.is_some() {
            if self.link.portals.len() >= MAX_PORTALS {
                self.link.portals.remove(0);
            }
            let (effect, uses, renamed) = (reading.effect.take(), reading.uses, reading.renamed.take());
            self.link.portals.push(Portal { name: names.portal.into(), effect, uses, renamed });
        }
        let rest = head.body - names.bytes;
        statement::put_bind_start(self.out.put(), names.portal, b"", rest);
        *self.body = Body { remaining: rest, forward: true };
        Ok(HEAD_BYTES + names.bytes)
    }

    /// A Describe of such a statement.
    pub(super) fn describe_referring(&mut self, body: &[u8]) -> Result<(), Violation> {
        let reading = self.read(body, false)?;
        self.parse_own(&reading, body);
        self.link.tracker.owe(Owed::Describe(reading.note(TakeBack::Nothing)));
        statement::put_describe(self.out.put(), b"");
        Ok(())
    }

    /// A Describe or Close of a portal.
    pub(super) fn on_portal(&mut self, name: &[u8], head: Head, at: usize, tag: FrontendTag) -> usize {
        let Some(portal) = self.link.portals.iter().find(|portal| &*portal.name == name) else { return self.start(head, at, tag) };
        let text = TextNote { uses: portal.uses, renamed: portal.renamed.clone(), back: TakeBack::Nothing };
        let verdict = self.link.tracker.on_frontend(tag, Note::Text(Box::new(text)));
        self.follow(head, at, verdict)
    }

    /// An Execute while there are portals of such statements.
    pub(super) fn on_execute(&mut self, rest: &[u8], head: Head, at: usize) -> Result<Option<usize>, Violation> {
        if head.body > MAX_NAME_BYTES {
            return Err(Violation::Names(FrontendTag::Execute));
        }
        let Some(message) = rest.get(HEAD_BYTES..head.message_bytes()) else { return Ok(None) };
        let (name, _) = cstr(message).ok_or(Violation::Names(FrontendTag::Execute))?;
        let found = self.link.portals.iter().position(|portal| &*portal.name == name);
        let Some(portal) = found.map(|found| self.link.portals.swap_remove(found)) else {
            return Ok(Some(self.start(head, at, FrontendTag::Execute)));
        };
        let back = self.take_effect(portal.effect)?;
        let note = Note::Text(Box::new(TextNote { uses: portal.uses, renamed: portal.renamed, back }));
        let verdict = self.link.tracker.on_frontend(FrontendTag::Execute, note);
        Ok(Some(self.follow(head, at, verdict)))
    }

    fn take_effect(&mut self, effect: Option<Effect>) -> Result<TakeBack, Violation> {
        match effect {
            Some(Effect::Prepared { name, statement }) => {
                let client = self.rewriting.client.get_or_insert_default();
                if client.named.len() >= MAX_CLIENT_STATEMENTS {
                    return Err(Violation::TooManyStatements);
                }
                let id = statement.id();
                let named = match client.named.entry(name.clone()) {
                    // By a Parse since the Bind. What the server now gets under our name, nobody will ever use.
                    Entry::Occupied(_) => None,
                    Entry::Vacant(free) => Some(free.insert(Rc::clone(&statement))).map(|_| name),
                };
                self.make_room(&statement);
                Ok(TakeBack::Prepared { name: named, id })
            }
            Some(Effect::Deallocated { name, .. }) => {
                let gone = self.rewriting.client.as_mut().and_then(|client| client.named.remove_entry(&name));
                Ok(gone.map_or(TakeBack::Nothing, |(name, statement)| TakeBack::Deallocated { name, statement }))
            }
            Some(Effect::AllGone) => {
                let named = self.rewriting.client.as_mut().map(|client| std::mem::take(&mut client.named)).unwrap_or_default();
                let known = self.link.statements.take_named();
                Ok(TakeBack::AllGone(Box::new(AllGone { named, known })))
            }
            Some(Effect::Nothing) | None => Ok(TakeBack::Nothing),
        }
    }

    /// Has the server parse the text anew, as its unnamed statement.
    fn parse_own(&mut self, reading: &Reading, body: &[u8]) {
        self.link.statements.unnamed = None;
        self.link.counts.server_parses += 1;
        self.link.tracker.owe(Owed::OwnParse(reading.note(TakeBack::Nothing)));
        statement::put_parse(self.out.put(), b"", reading.body.as_deref().unwrap_or(body));
    }

    /// What the text says with the names that the server knows; what it needs is sent before. `runs`: a portal is made of it.
    fn read(&mut self, body: &[u8], runs: bool) -> Result<Reading, Violation> {
        let Some((text, types)) = cstr(body) else { return Ok(Reading::default()) };
        let commands = sql::commands(text);
        // Several are refused by the server, and what is not clear is not touched.
        let Some([command]) = commands.as_deref() else {
            let none = commands.is_some_and(|commands| commands.is_empty());
            return Ok(if none { self.read_view(text, types).unwrap_or_default() } else { Reading::default() });
        };
        let name = &*command.name;
        let mut reading = Reading::default();
        let ours: Vec<u8> = match (command.verb, self.named(name)) {
            (Verb::DeallocateAll, _) => {
                reading.effect = runs.then_some(Effect::AllGone);
                return Ok(reading);
            }
            (Verb::Execute, Some(target)) => {
                let followed = follow(target, &text[command.at.end..command.end], |name| self.named(name));
                let Some((target, behind)) = followed else { return Ok(reading) };
                self.hint_executed(&target);
                self.ensure(&target);
                reading.uses = Some(target.id());
                [target.id().server_name().as_bytes(), &behind].concat()
            }
            (Verb::Prepare, None) if runs => {
                let statement = self.rewriting.table.in_sql(&text[command.at.end..command.end]);
                let ours = statement.id().server_name().as_bytes().to_vec();
                reading.effect = Some(Effect::Prepared { name: name.into(), statement });
                ours
            }
            // The server refuses it: the name is taken.
            (Verb::Prepare, Some(_)) if runs => self.put_decoy(0),
            (Verb::Deallocate, Some(_)) if runs => {
                reading.effect = Some(Effect::Deallocated { name: name.into(), id: None });
                self.put_decoy(0)
            }
            (Verb::Execute | Verb::Deallocate, None) if name.starts_with(NAME_PREFIX) => NOBODY.to_vec(),
            (Verb::Execute | Verb::Prepare | Verb::Deallocate, _) => return Ok(reading),
        };
        reading.replace(text, types, command, &ours);
        Ok(reading)
    }

    /// The same of a text that asks for the view `pg_prepared_statements`.
    fn read_view(&mut self, text: &[u8], types: &[u8]) -> Option<Reading> {
        let view = OwnView::of(text, self.rewriting.client.as_deref(), self.rewriting.capacity)?;
        for statement in &view.statements {
            self.ensure(statement);
        }
        let (text, renamed) = view.put(text);
        Some(Reading { body: Some([&text, &[0][..], types].concat()), renamed, ..Reading::default() })
    }

    /// Makes sure that the server knows a name that means nothing.
    pub(super) fn put_decoy(&mut self, number: usize) -> Vec<u8> {
        let name = decoy_name(number);
        self.link.tracker.owe(Owed::OwnClose(Note::None));
        statement::put_close(self.out.put(), &name);
        self.link.tracker.owe(Owed::OwnParse(Note::None));
        statement::put_parse(self.out.put(), &name, &[0, 0, 0]);
        name
    }
}

impl Reading {
    fn replace(&mut self, text: &[u8], types: &[u8], command: &Command<'_>, ours: &[u8]) {
        let before = &text[..command.at.start];
        self.renamed = Some(Renamed {
            theirs: (&*command.name).into(),
            ours: ours.into(),
            at: characters(before),
            characters: characters(&text[command.at.clone()]),
        });
        self.body = Some([before, ours, &text[command.at.end..], &[0], types].concat());
    }

    fn note(&self, back: TakeBack) -> Note {
        Note::Text(Box::new(TextNote { uses: self.uses, renamed: self.renamed.clone(), back }))
    }
}

/// Whether the text of a Parse (what follows the name) is such a text.
pub(super) fn refers(body: &[u8]) -> bool {
    cstr(body).is_some_and(|(text, _)| sql::names_statement(text) || may_list(text) && !sql_listing::edits(text).is_empty())
}

/// What an error says about a name that looks like ours and is the client's own invention.
pub(super) fn invented(name: &[u8]) -> Note {
    let renamed = Renamed { theirs: name.into(), ours: NOBODY.into(), at: usize::MAX, characters: 0 };
    Note::Text(Box::new(TextNote { uses: None, renamed: Some(renamed), back: TakeBack::Nothing }))
}
