//! The client's bytes on their way to the server: heads are read, statement names rewritten, bodies passed.
//!
//! ```text
//!   Query, Execute, Sync, COPY …   passed as they are, announced to the tracker
//!   Parse name                     the server has the text: answered here      else sent under the server's name for it
//!   Bind / Describe name           renamed; where this server has not seen the text, a Parse of our own goes before
//!   Close name                     answered here; the server keeps the statement for the others
//!   a name the client never made   passed as it is, so that the server itself says what PostgreSQL says (26000, 42P05)
//!   PREPARE, EXECUTE … in SQL      `sql_names`, and `referring` where they come through Parse
//! ```
//! Not here: reading, writing, waiting. The input may end anywhere; what was not consumed comes again with more behind it.

use std::borrow::Cow;
use std::rc::Rc;

use sidepool_protocol::postgres::frame::{self, HEAD_BYTES, Head};
use sidepool_protocol::postgres::parameters::ParameterSet;
use sidepool_protocol::postgres::plain::is_plain;
use sidepool_protocol::postgres::splice::Splice;
use sidepool_protocol::postgres::sql_databases::{may_want_alone, wants_alone};
use sidepool_protocol::postgres::statement::{self, MAX_NAME_BYTES, Target};
use sidepool_protocol::postgres::tag::FrontendTag;
use sidepool_protocol::postgres::tracker::{Inbound as Verdict, Owed, TransactionStatus};

use super::admitting::Admit;
use super::hinting::Hinted;
use super::listening::gate::{Gate, Passage};
use super::matching::{ROLE, USER};
use super::prepared::{ClientStatements, MAX_CLIENT_STATEMENTS, StatementTable};
use super::referring::{self, refers};
use super::shapes::Rows;
use super::sql_names::{Named, may_name};
use crate::upstream::postgres::link::{Hold, Link, Note, TakeBack};
use crate::upstream::postgres::statements::{NAME_PREFIX, NOBODY, Statement, UnnamedOwner};

/// The longest Parse whose text is kept. PostgreSQL allows 1 GiB; a statement of this size is machine-made and belongs into a table.
pub const MAX_PARSE_BYTES: usize = 16 * 1024 * 1024;

/// The longest name of a statement that the client does not have which a server is asked for: it hangs up at small messages over 10,000 bytes.
const MAX_UNKNOWN_NAME: usize = 8 * 1024;

/// The portal that the proxy itself uses.
pub(super) const OWN_PORTAL: &[u8] = b"sidepool";

/// The message that the client is in the middle of.
#[derive(Debug, Clone, Copy, Default)]
pub struct Body {
    /// How much of it is still to come.
    pub remaining: usize,
    /// Whether it goes on to the server, or is dropped.
    pub forward: bool,
}

/// Why scanning stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Everything that can be decided was; what was not consumed needs more bytes.
    NeedMore,
    /// The next message names a statement, and what is not answered yet decides what the name means.
    Held(Hold),
    /// The client said goodbye.
    Terminate,
}

/// What a client may not send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// A length that no message can have.
    Length(frame::BadLength),
    /// A tag that no client message has, or has at this time.
    Tag(u8),
    /// Names in a Bind, Describe or Close that do not end, or are too long.
    Names(FrontendTag),
    /// A Parse above [`MAX_PARSE_BYTES`].
    ParseTooLong(usize),
    /// More named statements than [`MAX_CLIENT_STATEMENTS`].
    TooManyStatements,
    /// A simple query where `disable_pqexec` forbids it.
    SimpleQuery,
    /// A message longer than `max_packet_size`: what there is of its head.
    Packet([u8; 8], usize),
}

/// What rewriting needs to know of the client, beside its bytes.
pub struct Rewriting<'a> {
    /// The client's own names.
    pub client: &'a mut Option<Box<ClientStatements>>,
    /// A number that no other client of this process has.
    pub client_id: u64,
    /// Texts of all clients.
    pub table: &'a StatementTable,
    /// How many statements a server connection keeps; 0: names are passed as they are.
    pub capacity: usize,
    /// The parameters that follow the client.
    pub state: &'a ParameterSet,
}

/// What the configuration allows a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// The longest message, head included (`max_packet_size`).
    pub max_packet: u32,
    /// Whether simple queries are allowed (`disable_pqexec` is off).
    pub simple_queries: bool,
}

impl Rules {
    /// What does not depend on the state of anything.
    pub fn check(self, head: Head, message: &[u8]) -> Result<FrontendTag, Violation> {
        let tag = FrontendTag::from_byte(head.tag).ok_or(Violation::Tag(head.tag))?;
        if head.message_bytes() > self.max_packet as usize {
            let mut start = [0; 8];
            let here = message.len().min(8);
            start[..here].copy_from_slice(&message[..here]);
            return Err(Violation::Packet(start, here));
        }
        if tag == FrontendTag::Query && !self.simple_queries {
            return Err(Violation::SimpleQuery);
        }
        Ok(tag)
    }
}

/// Whether the whole of a Parse is there, and nothing in its text needs a closer look.
#[inline]
fn is_plain_parse(rest: &[u8], head: Head) -> bool {
    let body = rest.get(HEAD_BYTES..head.message_bytes());
    body.and_then(frame::cstr).and_then(|(_name, body)| frame::cstr(body)).is_some_and(|(text, _)| is_plain(text))
}

/// What decides which tables the names in a text mean: the search path, and who one is, as whom `"$user"` in it stands for.
fn place(state: &ParameterSet) -> Cow<'_, str> {
    let path = state.get("search_path").unwrap_or_default();
    let role = state.get(ROLE).filter(|role| *role != "none").or_else(|| state.get(USER));
    role.map_or(Cow::Borrowed(path), |role| Cow::Owned(format!("{path}\0{role}")))
}

/// One look at the client's bytes, with the server connection they go to.
pub struct Inbound<'a, 's> {
    /// The server connection.
    pub link: &'a mut Link,
    /// The message that is under way.
    pub body: &'a mut Body,
    /// The rewriting.
    pub rewriting: Rewriting<'a>,
    /// What is allowed.
    pub rules: Rules,
    /// Who listens for the client, where that is shared.
    pub gate: Option<Gate<'a>>,
    /// Who may be pinned.
    pub admit: Admit<'a>,
    /// What is sent to the server.
    pub out: &'a mut Splice<'s>,
}

impl Inbound<'_, '_> {
    /// Scans `input`; the answer says how much of it was consumed, and why scanning stopped.
    pub fn scan(&mut self, input: &[u8]) -> Result<(usize, Stop), Violation> {
        let mut at = 0;
        loop {
            at += self.pass_body(at, input.len());
            let rest = &input[at..];
            let Some(head) = frame::head(rest).map_err(Violation::Length)? else { return Ok((at, Stop::NeedMore)) };
            let tag = self.rules.check(head, rest)?;
            if tag == FrontendTag::Query && self.is_plain_query(rest, head) {
                at += self.pass_query(head, at);
                if self.link.journal.is_some() {
                    self.note_sent(tag, rest, head);
                }
                continue;
            }
            let rewrite = self.rewriting.capacity > 0 && self.link.tracker.is_plain();
            if rewrite && self.is_unsettled(tag) {
                return Ok((at, Stop::Held(Hold::Names)));
            }
            let plain = rewrite && tag == FrontendTag::Parse && is_plain_parse(rest, head);
            if !plain && matches!(tag, FrontendTag::Query | FrontendTag::Parse) {
                self.look_for_databases(tag, rest, head);
            }
            if self.link.rules.is_some() && self.link.tracker.is_plain() {
                if self.waits_for_forgetting(tag) {
                    return Ok((at, Stop::Held(Hold::All)));
                }
                match self.hint(tag, rest, head) {
                    Hinted::Noted => {}
                    Hinted::NeedMore => return Ok((at, Stop::NeedMore)),
                    Hinted::Held => return Ok((at, Stop::Held(Hold::All))),
                    Hinted::Refused => {
                        self.note_sent(tag, rest, head);
                        at += HEAD_BYTES;
                        continue;
                    }
                }
            }
            let passage = if plain { Passage::Free } else { self.gate(tag, rest, head) };
            match passage {
                Passage::Free => {}
                Passage::NeedMore => return Ok((at, Stop::NeedMore)),
                Passage::Held => return Ok((at, Stop::Held(Hold::Channels))),
            }
            let consumed = match tag {
                FrontendTag::Terminate => return Ok((at, Stop::Terminate)),
                FrontendTag::Password => return Err(Violation::Tag(head.tag)),
                FrontendTag::Query if self.refuse_query(rest, head) => Some(head.message_bytes()),
                FrontendTag::Parse if rewrite => self.on_parse(rest, head, at, plain)?,
                FrontendTag::Bind if rewrite => self.on_bind(rest, head, at)?,
                FrontendTag::Describe | FrontendTag::Close if rewrite => self.on_target(rest, head, at, tag)?,
                FrontendTag::Execute if rewrite && !self.link.portals.is_empty() => self.on_execute(rest, head, at)?,
                FrontendTag::Query if rewrite && may_name(rest, head) => match self.on_named_query(rest, head, at)? {
                    Named::Consumed(bytes) => Some(bytes),
                    Named::Alone(bytes) => {
                        self.note_sent(tag, rest, head);
                        return Ok((at + bytes, Stop::Held(Hold::All)));
                    }
                    Named::NeedMore => None,
                    Named::Held(hold) => return Ok((at, Stop::Held(hold))),
                },
                FrontendTag::Query => Some(self.pass_query(head, at)),
                FrontendTag::Parse
                | FrontendTag::Bind
                | FrontendTag::Describe
                | FrontendTag::Close
                | FrontendTag::Execute
                | FrontendTag::Sync
                | FrontendTag::Flush
                | FrontendTag::FunctionCall
                | FrontendTag::CopyData
                | FrontendTag::CopyDone
                | FrontendTag::CopyFail => Some(self.start(head, at, tag)),
            };
            let Some(bytes) = consumed else {
                let asked = self.link.tracker.owes_own_describe();
                return Ok((at, if asked { Stop::Held(Hold::Shape) } else { Stop::NeedMore }));
            };
            at += bytes;
            if self.link.journal.is_some() {
                self.note_sent(tag, rest, head);
            }
            // Who has the statements to itself prepares nothing that would be counted, as in PgBouncer.
            self.link.counts.client_parses += u32::from(rewrite && tag == FrontendTag::Parse);
            self.link.counts.binds += u32::from(rewrite && tag == FrontendTag::Bind);
        }
    }

    /// Whether the whole of a simple query is there, and nothing in it needs a closer look. Functions that hide what they do need one.
    #[inline]
    fn is_plain_query(&self, rest: &[u8], head: Head) -> bool {
        let hides = self.link.rules.as_ref().is_some_and(|rules| !rules.functions.is_empty());
        !hides && matches!(rest.get(HEAD_BYTES..head.message_bytes()), Some([text @ .., 0]) if is_plain(text))
    }

    /// Notes what the text of a whole message wants of other connections.
    #[inline]
    fn look_for_databases(&mut self, tag: FrontendTag, rest: &[u8], head: Head) {
        let Some(body) = rest.get(HEAD_BYTES..head.message_bytes()) else { return };
        let text = if tag == FrontendTag::Parse { frame::cstr(body).map_or(body, |(_name, rest)| rest) } else { body };
        if may_want_alone(text)
            && let Some((text, _)) = frame::cstr(text)
            && let Some(database) = wants_alone(text)
        {
            self.link.wanted_alone.push((&*database).into());
        }
    }

    /// Whether what this message means depends on the end of an earlier batch. Batches that change no statements never hold up the next.
    pub(super) fn is_unsettled(&mut self, tag: FrontendTag) -> bool {
        match tag {
            FrontendTag::Parse | FrontendTag::Bind | FrontendTag::Describe | FrontendTag::Close => self.is_held_by_names(),
            FrontendTag::Sync => {
                self.link.unsettled |= self.link.tracker.batch_has(Note::is_about_a_name);
                false
            }
            FrontendTag::Execute => !self.link.portals.is_empty() && self.is_held_by_names(),
            FrontendTag::Query
            | FrontendTag::Flush
            | FrontendTag::FunctionCall
            | FrontendTag::CopyData
            | FrontendTag::CopyDone
            | FrontendTag::CopyFail
            | FrontendTag::Password
            | FrontendTag::Terminate => false,
        }
    }

    fn is_held_by_names(&mut self) -> bool {
        self.link.unsettled = self.link.unsettled && self.link.tracker.owes_sync();
        self.link.unsettled || self.link.naming && self.link.is_naming()
    }

    /// Passes (or drops) what is there of the body under way.
    fn pass_body(&mut self, at: usize, length: usize) -> usize {
        let here = self.body.remaining.min(length - at);
        if here > 0 && self.body.forward {
            self.out.pass(at, here);
        }
        self.body.remaining -= here;
        here
    }

    /// Announces a message to the tracker and passes (or drops) its head; its body follows by itself.
    pub(super) fn start(&mut self, head: Head, at: usize, tag: FrontendTag) -> usize {
        let verdict = self.link.tracker.on_frontend(tag, Note::None);
        self.link.counts.server_parses +=
            u32::from(tag == FrontendTag::Parse && self.rewriting.capacity > 0 && verdict == Verdict::Forward);
        self.follow(head, at, verdict)
    }

    pub(super) fn follow(&mut self, head: Head, at: usize, verdict: Verdict) -> usize {
        let forward = verdict == Verdict::Forward;
        if forward {
            self.out.pass(at, HEAD_BYTES);
        }
        *self.body = Body { remaining: head.body, forward };
        HEAD_BYTES
    }

    /// A simple query as it is.
    pub(super) fn pass_query(&mut self, head: Head, at: usize) -> usize {
        // One that is skipped destroys nothing.
        if !self.link.tracker.is_skipping() {
            self.forget_unnamed();
        }
        self.start(head, at, FrontendTag::Query)
    }

    /// A simple query destroys the unnamed statement (PostgreSQL documentation, "Extended Query").
    pub(super) fn forget_unnamed(&mut self) {
        if let Some(client) = self.rewriting.client.as_mut() {
            client.unnamed = None;
            client.unnamed_version += 1;
        }
        self.link.statements.unnamed = None;
    }

    fn on_parse(&mut self, rest: &[u8], head: Head, at: usize, plain: bool) -> Result<Option<usize>, Violation> {
        if head.message_bytes() > MAX_PARSE_BYTES {
            return Err(Violation::ParseTooLong(head.body));
        }
        let Some(message) = rest.get(..head.message_bytes()) else { return Ok(None) };
        let (name, text) = frame::cstr(&message[HEAD_BYTES..]).ok_or(Violation::Names(FrontendTag::Parse))?;
        if name.is_empty() {
            return self.parse_unnamed(text, head, at, plain).map(Some);
        }
        let client = self.rewriting.client.get_or_insert_default();
        if let Some(existing) = client.named.get(name) {
            // The server itself refuses a second statement of that name.
            let existing = Rc::clone(existing);
            self.parse_duplicate(&existing, name, text);
            return Ok(Some(head.message_bytes()));
        }
        if client.named.len() >= MAX_CLIENT_STATEMENTS {
            return Err(Violation::TooManyStatements);
        }
        let parsed = self.rewriting.table.parsed(text, &place(self.rewriting.state));
        client.named.insert(name.into(), Rc::clone(&parsed));
        if parsed.refers() {
            self.parse_referring(text, TakeBack::Name(name.into()))?;
            return Ok(Some(head.message_bytes()));
        }
        let id = parsed.id();
        let known = self.link.statements.touch(id);
        if known && self.link.tracker.status() == TransactionStatus::Failed {
            // In a failed transaction the server refuses a Parse, and so it has to see this one.
            self.link.statements.remove(id);
            self.link.tracker.owe(Owed::OwnClose(Note::Server(id)));
            statement::put_close(self.out.put(), id.server_name().as_bytes());
        } else if known {
            self.link.tracker.owe(Owed::LocalParse(Note::Named { name: name.into(), id: None }));
            return Ok(Some(head.message_bytes()));
        }
        self.make_room(&parsed);
        self.link.tracker.owe(Owed::Parse(Note::Named { name: name.into(), id: Some(id) }));
        self.link.counts.server_parses += 1;
        statement::put_parse(self.out.put(), id.server_name().as_bytes(), text);
        Ok(Some(head.message_bytes()))
    }

    /// The client has a statement of that name: the server itself refuses a second one.
    fn parse_duplicate(&mut self, existing: &Rc<Statement>, name: &[u8], text: &[u8]) {
        let server_name = if existing.refers() {
            self.put_decoy(0)
        } else {
            self.ensure(existing);
            existing.id().server_name().as_bytes().to_vec()
        };
        self.link.tracker.owe(Owed::Parse(Note::Duplicate(name.into())));
        self.link.counts.server_parses += 1;
        statement::put_parse(self.out.put(), &server_name, text);
    }

    fn parse_unnamed(&mut self, text: &[u8], head: Head, at: usize, plain: bool) -> Result<usize, Violation> {
        let client = self.rewriting.client.get_or_insert_default();
        client.unnamed_version += 1;
        // Only what stands behind something else can be skipped.
        let before = if self.link.tracker.is_owed() { client.unnamed.take() } else { None };
        let kept = client.unnamed.get_or_insert_default();
        kept.clear();
        kept.extend_from_slice(text);
        client.unnamed_plain = plain;
        client.unnamed_refers = !plain && refers(text);
        let version = client.unnamed_version;
        if client.unnamed_refers {
            self.parse_referring(text, TakeBack::Unnamed { before, version })?;
            return Ok(head.message_bytes());
        }
        self.link.statements.unnamed = Some(UnnamedOwner { client: self.rewriting.client_id, version });
        self.link.tracker.owe(Owed::Parse(Note::Unnamed { before, version }));
        self.link.counts.server_parses += 1;
        Ok(self.pass_whole(head, at))
    }

    /// Passes a message that is there as a whole and already announced.
    fn pass_whole(&mut self, head: Head, at: usize) -> usize {
        self.out.pass(at, head.message_bytes());
        head.message_bytes()
    }

    fn on_bind(&mut self, rest: &[u8], head: Head, at: usize) -> Result<Option<usize>, Violation> {
        let available = &rest[HEAD_BYTES..rest.len().min(head.message_bytes())];
        let Some(names) = statement::bind_names(available) else {
            let unfinished = available.len() < head.body && available.len() <= MAX_NAME_BYTES;
            return if unfinished { Ok(None) } else { Err(Violation::Names(FrontendTag::Bind)) };
        };
        if !self.link.portals.is_empty() {
            self.link.portals.retain(|portal| &*portal.name != names.portal);
        }
        let values = &available[names.bytes..];
        if names.statement.is_empty() {
            if !self.hint_unnamed(values, head) {
                return Ok(None);
            }
            if let Some(consumed) = self.refuse_unnamed(&names, head) {
                return Ok(Some(consumed));
            }
            if let Some(body) = self.unnamed_referring() {
                return self.bind_referring(&body, names, head).map(Some);
            }
            self.ensure_unnamed();
        } else if let Some(known) = self.named(names.statement) {
            if !self.hint_bind(&known, values, head) {
                return Ok(None);
            }
            if let Some(consumed) = self.refuse_bind(known.key(), &names, head) {
                return Ok(Some(consumed));
            }
            if known.refers() {
                return self.bind_referring(known.key(), names, head).map(Some);
            }
            match self.look_after_rows(&known, &names, head, rest.get(head.message_bytes()..).unwrap_or_default()) {
                Rows::Same => {}
                Rows::Asked => return Ok(None),
                Rows::Changed(consumed) => return Ok(Some(consumed)),
            }
            self.ensure(&known);
            self.link.tracker.owe(Owed::Bind(Note::Uses(known.id())));
            let body = head.body - names.bytes;
            statement::put_bind_start(self.out.put(), names.portal, known.id().server_name().as_bytes(), body);
            *self.body = Body { remaining: body, forward: true };
            return Ok(Some(HEAD_BYTES + names.bytes));
        } else if names.statement.starts_with(NAME_PREFIX) {
            self.link.tracker.owe(Owed::Bind(referring::invented(names.statement)));
            let body = head.body - names.bytes;
            statement::put_bind_start(self.out.put(), names.portal, NOBODY, body);
            *self.body = Body { remaining: body, forward: true };
            return Ok(Some(HEAD_BYTES + names.bytes));
        }
        Ok(Some(self.start(head, at, FrontendTag::Bind)))
    }

    fn on_target(&mut self, rest: &[u8], head: Head, at: usize, tag: FrontendTag) -> Result<Option<usize>, Violation> {
        if head.body > MAX_NAME_BYTES {
            return Err(Violation::Names(tag));
        }
        let Some(message) = rest.get(..head.message_bytes()) else { return Ok(None) };
        let name = match statement::target(&message[HEAD_BYTES..]).ok_or(Violation::Names(tag))? {
            Target::Portal(name) => return Ok(Some(self.on_portal(name, head, at, tag))),
            Target::Statement(name) => name,
        };
        if tag == FrontendTag::Close {
            return Ok(Some(self.close_statement(name, head, at)));
        }
        if name.is_empty() {
            if let Some(body) = self.unnamed_referring() {
                self.describe_referring(&body)?;
                return Ok(Some(head.message_bytes()));
            }
            self.ensure_unnamed();
        } else if let Some(known) = self.named(name) {
            if known.refers() {
                self.describe_referring(known.key())?;
                return Ok(Some(head.message_bytes()));
            }
            let known = self.described(name, known);
            self.ensure(&known);
            self.link.tracker.owe(Owed::Describe(Note::Shape(Rc::clone(&known))));
            statement::put_describe(self.out.put(), known.id().server_name().as_bytes());
            return Ok(Some(head.message_bytes()));
        } else if name.starts_with(NAME_PREFIX) || name.len() > MAX_UNKNOWN_NAME {
            self.link.tracker.owe(Owed::Describe(referring::invented(name)));
            statement::put_describe(self.out.put(), NOBODY);
            return Ok(Some(head.message_bytes()));
        }
        Ok(Some(self.start(head, at, tag)))
    }

    fn close_statement(&mut self, name: &[u8], head: Head, at: usize) -> usize {
        if name.is_empty() {
            if let Some(text) = self.rewriting.client.as_mut().and_then(|client| client.unnamed.take()) {
                self.link.tracker.owe(Owed::LocalClose(Note::ClosedUnnamed(text)));
                return head.message_bytes();
            }
        } else if let Some((name, statement)) = self.rewriting.client.as_mut().and_then(|client| client.named.remove_entry(name)) {
            self.link.tracker.owe(Owed::LocalClose(Note::Closed { name, statement }));
            return head.message_bytes();
        } else if name.starts_with(NAME_PREFIX) || name.len() > MAX_UNKNOWN_NAME {
            // Nothing of the client's: PostgreSQL says that it is closed, and others use what has that name.
            self.link.tracker.owe(Owed::LocalClose(Note::None));
            return head.message_bytes();
        }
        self.start(head, at, FrontendTag::Close)
    }

    pub(super) fn named(&self, name: &[u8]) -> Option<Rc<Statement>> {
        self.rewriting.client.as_ref()?.named.get(name).map(Rc::clone)
    }

    /// The client's unnamed statement, if its text names another one.
    fn unnamed_referring(&self) -> Option<Vec<u8>> {
        let client = self.rewriting.client.as_ref()?;
        if client.unnamed_refers { client.unnamed.clone() } else { None }
    }

    /// Makes sure that the server knows the statement by the time it reads what comes next.
    pub(super) fn ensure(&mut self, statement: &Rc<Statement>) {
        if self.link.statements.touch(statement.id()) {
            self.link.reused = true;
            return;
        }
        self.make_room(statement);
        self.prepare(statement);
    }

    /// Prepares a statement that is marked as known already.
    pub(super) fn prepare(&mut self, statement: &Statement) {
        let id = statement.id();
        let name = id.server_name();
        self.link.counts.server_parses += 1;
        if let Some((body, _)) = statement.parse() {
            self.link.tracker.owe(Owed::OwnParse(Note::Server(id)));
            statement::put_parse(self.out.put(), name.as_bytes(), body);
            return;
        }
        // This makes use of the unnamed statement.
        self.link.statements.unnamed = None;
        for own in [Owed::OwnParse(Note::None), Owed::OwnBind, Owed::OwnExecute(Note::Server(id)), Owed::OwnClose(Note::None)] {
            self.link.tracker.owe(own);
        }
        statement::put_run(self.out.put(), b"", OWN_PORTAL, &[b"PREPARE ", name.as_bytes(), statement.key()]);
    }

    /// Marks the statement as known, and closes others where there are too many: one, or more after the setting has been lowered.
    pub(super) fn make_room(&mut self, statement: &Statement) {
        let (id, capacity) = (statement.id(), self.rewriting.capacity);
        let evicted = self.link.statements.insert(id, capacity);
        for evicted in evicted.into_iter().chain(std::iter::from_fn(|| self.link.statements.evict(0, capacity, |other| other == id))) {
            self.link.tracker.owe(Owed::OwnClose(Note::Server(evicted)));
            statement::put_close(self.out.put(), evicted.server_name().as_bytes());
        }
    }

    /// The same for the client's unnamed statement, which another client may have replaced on this connection.
    fn ensure_unnamed(&mut self) {
        let client = self.rewriting.client.as_ref();
        let Some((client, text)) = client.and_then(|client| Some((client, client.unnamed.as_ref()?))) else {
            // The one on this connection is somebody else's: it goes, so that the server itself says that there is none.
            self.link.statements.unnamed = None;
            self.link.tracker.owe(Owed::OwnClose(Note::None));
            statement::put_close(self.out.put(), b"");
            return;
        };
        let mine = UnnamedOwner { client: self.rewriting.client_id, version: client.unnamed_version };
        if self.link.statements.unnamed == Some(mine) {
            return;
        }
        self.link.statements.unnamed = Some(mine);
        self.link.tracker.owe(Owed::OwnParse(Note::Unnamed { before: None, version: mine.version }));
        self.link.counts.server_parses += 1;
        statement::put_parse(self.out.put(), b"", text);
    }
}
