//! Names of prepared statements in SQL: PREPARE, EXECUTE and DEALLOCATE in a simple query, in transaction mode.
//!
//! ```text
//!   PREPARE name    sent under a name that no other client has; once the server has answered, it is one of the client's statements
//!   EXECUTE name    sent under the server's name; where this server has not seen the statement, it is prepared there before, apart
//!   DEALLOCATE name sent under a name that means nothing, because other clients may use the same statement
//!   anything else   passed as it is; a PREPARE among it keeps the connection for this client (`Link::pins`)
//! ```
//! They may stand behind other commands in the same text, up to a length. Such a query is sent when nothing else is owed (but for an open batch),
//! and what names a statement behind it waits for its end: so nothing has ever to be taken back. Behind an open batch nothing at all is sent before
//! its end: where what had to be prepared fails, the server skips the query, and its end is asked for by a Sync (`undo`).
//! Not here: finding the names (`protocol::postgres::sql`), or what the answers mean (`outbound`).

use std::rc::Rc;

use sidepool_protocol::postgres::frame::{HEAD_BYTES, Head, cstr};
use sidepool_protocol::postgres::sql::{self, Command, Start, Verb};
use sidepool_protocol::postgres::sql_listing::may_list;
use sidepool_protocol::postgres::sql_tokens::MAX_LOOKED_BYTES;
use sidepool_protocol::postgres::statement::{self, SYNC};
use sidepool_protocol::postgres::tag::FrontendTag;
use sidepool_protocol::postgres::tracker::{Owed, TransactionStatus};

use super::inbound::{Inbound, MAX_PARSE_BYTES, Violation};
use super::own_view::{self, OwnView};
use super::prepared::MAX_CLIENT_STATEMENTS;
use crate::upstream::postgres::link::{Effect, Hold, Note, Renamed, SqlNote};
use crate::upstream::postgres::statements::{NAME_PREFIX, NOBODY, Statement, StatementId};

/// How much of a text is read in search of its first word.
const MAX_LEAD_BYTES: usize = 8 * 1024;

/// Most commands about statements in one text; more are passed as they are.
const MAX_COMMANDS: usize = 1000;

/// How many statements may be an EXECUTE of the next one.
const MAX_FOLLOWED: usize = 8;

/// What became of a query.
pub(super) enum Named {
    /// So much of the input is done with.
    Consumed(usize),
    /// The same, and the rest has to wait until everything is answered.
    Alone(usize),
    /// The rest of the message has to be there.
    NeedMore,
    /// This has to be answered before.
    Held(Hold),
}

/// What a name means in the middle of a text: a statement, or nothing any more.
type Meaning = Option<Rc<Statement>>;

/// A query with its names replaced, in the making.
#[derive(Default)]
struct Rewrite {
    note: SqlNote,
    /// Names that mean something else behind the commands that were looked at.
    changed: Vec<(Box<[u8]>, Meaning)>,
    /// All statements are gone by now.
    cleared: bool,
    /// Statements that have to be there before the query.
    needed: Vec<Rc<Statement>>,
    /// How many names that mean nothing are needed.
    decoys: usize,
    /// How many statements the server will have more.
    more: usize,
    text: Vec<u8>,
    copied: usize,
    /// How many edits for the view have been made.
    edited: usize,
}

/// Whether a simple query may name a statement, as far as can be told from what is there of it.
#[inline]
pub(super) fn may_name(rest: &[u8], head: Head) -> bool {
    let here = &rest[HEAD_BYTES..rest.len().min(head.message_bytes())];
    sql::may_name(here) || head.body <= MAX_LOOKED_BYTES && (here.len() < head.body || sql::may_be_several(here) || may_list(here))
}

impl Inbound<'_, '_> {
    /// A simple query that perhaps names a statement.
    pub(super) fn on_named_query(&mut self, rest: &[u8], head: Head, at: usize) -> Result<Named, Violation> {
        let here = &rest[HEAD_BYTES..rest.len().min(head.message_bytes())];
        let whole = here.len() == head.body;
        let text = match cstr(here) {
            // With something behind the text it is no query, and the server says so.
            Some((text, [])) => text,
            Some(_) => return Ok(Named::Consumed(self.pass_query(head, at))),
            None => here,
        };
        let short = head.body <= MAX_LOOKED_BYTES;
        match sql::start(text, whole) {
            Start::Other if short && !whole => return Ok(Named::NeedMore),
            Start::Other if short && (sql::may_be_several(text) || may_list(text)) => {}
            Start::Other => return Ok(Named::Consumed(self.pass_query(head, at))),
            Start::NeedMore if here.len() > MAX_LEAD_BYTES => return Ok(Named::Consumed(self.pass_query(head, at))),
            Start::NeedMore => return Ok(Named::NeedMore),
            Start::Names if head.message_bytes() > MAX_PARSE_BYTES => return Err(Violation::ParseTooLong(head.body)),
            Start::Names if !whole => return Ok(Named::NeedMore),
            Start::Names => {}
        }
        let commands = sql::commands(text).filter(|commands| commands.len() <= MAX_COMMANDS).unwrap_or_default();
        let view = OwnView::of(text, self.rewriting.client.as_deref(), self.rewriting.capacity);
        if commands.is_empty() && view.is_none() {
            return Ok(Named::Consumed(self.pass_query(head, at)));
        }
        // The answers to an open batch may never come before its Sync. What it changes of names is taken for done, as within the batch.
        let open = self.link.tracker.is_batch_open();
        if open && self.is_unsettled(FrontendTag::Bind) {
            return Ok(Named::Held(Hold::Names));
        }
        if !open && self.link.tracker.is_owed() {
            return Ok(Named::Held(Hold::All));
        }
        let mut rewrite = Rewrite::default();
        for command in &commands {
            rewrite.put_view(view.as_ref(), text, command.at.start);
            self.replace_name(&mut rewrite, text, command)?;
        }
        rewrite.put_view(view.as_ref(), text, text.len());
        if let Some(view) = view {
            rewrite.note.uses.extend(view.statements.iter().map(|statement| statement.id()));
            rewrite.needed.extend(view.statements);
        }
        if rewrite.note.renamed.is_empty() && !rewrite.cleared {
            return Ok(Named::Consumed(self.pass_query(head, at)));
        }
        let prepares = self.send_renamed(rewrite, text);
        if open && prepares {
            self.note_sent(FrontendTag::Query, rest, head);
            return Ok(Named::Alone(head.message_bytes()));
        }
        Ok(Named::Consumed(head.message_bytes()))
    }

    fn replace_name(&mut self, rewrite: &mut Rewrite, text: &[u8], command: &Command<'_>) -> Result<(), Violation> {
        let name = &*command.name;
        let known = match rewrite.meaning(name) {
            Some(changed) => changed,
            None => self.named(name),
        };
        match (command.verb, known) {
            (Verb::Prepare, None) => {
                let count = self.rewriting.client.as_ref().map_or(0, |client| client.named.len());
                if count + rewrite.more >= MAX_CLIENT_STATEMENTS {
                    return Err(Violation::TooManyStatements);
                }
                let statement = self.rewriting.table.in_sql(&text[command.at.end..command.end]);
                rewrite.replace(text, command, statement.id().server_name().as_bytes());
                rewrite.changed.push((name.into(), Some(Rc::clone(&statement))));
                rewrite.note.effects.push_back(Effect::Prepared { name: name.into(), statement });
                rewrite.more += 1;
            }
            // The server refuses it: the name is taken.
            (Verb::Prepare, Some(_)) => {
                let decoy = rewrite.decoy();
                rewrite.replace(text, command, &decoy);
                rewrite.note.effects.push_back(Effect::Nothing);
            }
            (Verb::Execute, Some(statement)) => {
                let named = |name: &[u8]| rewrite.meaning(name).unwrap_or_else(|| self.named(name));
                let Some((statement, behind)) = follow(statement, &text[command.at.end..command.end], named) else { return Ok(()) };
                self.hint_executed(&statement);
                let id = statement.id();
                rewrite.replace(text, command, &[id.server_name().as_bytes(), &behind].concat());
                rewrite.note.uses.push(id);
                if !rewrite.makes(id) {
                    rewrite.needed.push(statement);
                }
            }
            (Verb::Deallocate, Some(statement)) => {
                // What was prepared in SQL is this client's alone, and goes where it is.
                let id = statement.id();
                let really = rewrite.makes(id) || statement.parse().is_none() && self.link.statements.touch(id);
                let server_name = if really { id.server_name().as_bytes().to_vec() } else { rewrite.decoy() };
                rewrite.replace(text, command, &server_name);
                rewrite.changed.push((name.into(), None));
                rewrite.note.uses.extend(really.then_some(id));
                rewrite.note.effects.push_back(Effect::Deallocated { name: name.into(), id: really.then_some(id) });
            }
            (Verb::Execute, None) => rewrite.hide(text, command),
            (Verb::Deallocate, None) => {
                rewrite.hide(text, command);
                rewrite.note.effects.push_back(Effect::Nothing);
            }
            (Verb::DeallocateAll, _) => {
                rewrite.changed.clear();
                rewrite.cleared = true;
                rewrite.note.effects.push_back(Effect::AllGone);
            }
        }
        Ok(())
    }

    /// Sends what the query needs before it, and the query. True when something had to be sent before.
    fn send_renamed(&mut self, mut rewrite: Rewrite, text: &[u8]) -> bool {
        rewrite.text.extend_from_slice(&text[rewrite.copied..]);
        if self.link.tracker.status() == TransactionStatus::Failed {
            // The server prepares nothing in a transaction that failed. What means nothing it takes, and a ROLLBACK may stand before it.
            rewrite.needed.clear();
        }
        let prepares = self.send_needed(&rewrite);
        rewrite.note.prepares = prepares;
        self.forget_unnamed();
        self.link.naming |= rewrite.note.prepares || !rewrite.note.effects.is_empty();
        self.link.own_error = None;
        statement::put_query(self.out.put(), &rewrite.text);
        self.link.tracker.owe(Owed::Query(Note::Sql(Box::new(rewrite.note))));
        prepares
    }

    /// Makes the statements that the query uses known to the server, apart from it: where that fails, the query itself says why. False when
    /// nothing had to be sent.
    fn send_needed(&mut self, rewrite: &Rewrite) -> bool {
        let (open, before) = (self.link.tracker.is_batch_open(), self.link.tracker.len());
        for decoy in 0..rewrite.decoys {
            self.put_decoy(decoy);
        }
        for statement in &rewrite.needed {
            if self.link.statements.touch(statement.id()) {
                self.link.reused = true;
            } else {
                self.link.statements.insert(statement.id(), usize::MAX);
                self.prepare(statement);
            }
        }
        let needed = |id: StatementId| rewrite.note.uses.contains(&id);
        while let Some(evicted) = self.link.statements.evict(rewrite.more, self.rewriting.capacity, needed) {
            self.link.tracker.owe(Owed::OwnClose(Note::Server(evicted)));
            statement::put_close(self.out.put(), evicted.server_name().as_bytes());
        }
        // A Sync would end the client's own batch. Without it a failure of what was put here ends the batch, as any other in it.
        let sent = self.link.tracker.len() > before;
        if sent && !open {
            self.link.tracker.owe(Owed::OwnSync);
            self.out.put().extend_from_slice(&SYNC);
        }
        sent
    }
}

impl Rewrite {
    /// What a name means in the middle of the text; the outer `None`: nothing has changed.
    fn meaning(&self, name: &[u8]) -> Option<Meaning> {
        let changed = self.changed.iter().rev().find(|(changed, _)| &**changed == name);
        changed.map(|(_, statement)| statement.clone()).or(if self.cleared { Some(None) } else { None })
    }

    /// Whether the text itself prepares the statement.
    fn makes(&self, id: StatementId) -> bool {
        self.note.effects.iter().any(|effect| matches!(effect, Effect::Prepared { statement, .. } if statement.id() == id))
    }

    /// A name that the server knows, and that means nothing.
    fn decoy(&mut self) -> Vec<u8> {
        self.decoys += 1;
        decoy_name(self.decoys - 1)
    }

    /// A name that looks like ours, and is the client's own invention, shall not hit what others have prepared.
    fn hide(&mut self, text: &[u8], command: &Command<'_>) {
        if command.name.starts_with(NAME_PREFIX) {
            self.replace(text, command, NOBODY);
        }
    }

    /// Puts what stands in the place of the view `pg_prepared_statements`, up to `end`.
    fn put_view(&mut self, view: Option<&OwnView>, text: &[u8], end: usize) {
        let Some(view) = view else { return };
        while let Some(edit) = view.edits.get(self.edited).filter(|edit| edit.at().start < end) {
            self.text.extend_from_slice(&text[self.copied..edit.at().start]);
            let ours = view.text(edit);
            self.note.renamed.push(own_view::renamed(&self.text, ours.as_bytes(), &text[edit.at()]));
            self.text.extend_from_slice(ours.as_bytes());
            (self.copied, self.edited) = (edit.at().end, self.edited + 1);
        }
    }

    fn replace(&mut self, text: &[u8], command: &Command<'_>, ours: &[u8]) {
        self.text.extend_from_slice(&text[self.copied..command.at.start]);
        let renamed = Renamed {
            theirs: (&*command.name).into(),
            ours: ours.into(),
            at: characters(&self.text),
            characters: characters(&text[command.at.clone()]),
        };
        self.note.renamed.push(renamed);
        self.text.extend_from_slice(ours);
        self.copied = command.at.end;
    }
}

/// The statement that an EXECUTE comes to, where the one that it names is an EXECUTE itself, and what stands behind the name there. `None` where
/// it is something else that names a statement: what a server would need for this it never keeps. `behind`: what the command itself says behind
/// the name.
pub(super) fn follow(
    statement: Rc<Statement>,
    behind: &[u8],
    named: impl Fn(&[u8]) -> Option<Rc<Statement>>,
) -> Option<(Rc<Statement>, Vec<u8>)> {
    let (mut statement, mut arguments) = (statement, Vec::new());
    // The server counts what is in parentheses against what such a statement takes, which is nothing.
    if statement.refers() && behind.trim_ascii_start().starts_with(b"(") {
        return None;
    }
    for _ in 0..MAX_FOLLOWED {
        if !statement.refers() {
            return Some((statement, arguments));
        }
        let (text, _types) = cstr(statement.key())?;
        let commands = sql::commands(text).filter(|_| sql::begins_with_execute(text))?;
        let [command] = commands.as_slice() else { return None };
        arguments = text[command.at.end..command.end].to_vec();
        let next = named(&command.name)?;
        statement = next;
    }
    None
}

/// What names are called that the server knows, and that mean nothing.
pub(super) fn decoy_name(number: usize) -> Vec<u8> {
    [NAME_PREFIX, format!("none_{number}").as_bytes()].concat()
}

/// How many characters the server counts.
pub(super) fn characters(utf8: &[u8]) -> usize {
    utf8.iter().filter(|byte| **byte & 0xc0 != 0x80).count()
}
