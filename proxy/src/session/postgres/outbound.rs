//! The server's bytes on their way to the client: heads are read, what the proxy itself asked for is taken out, rows flow past.
//!
//! Small messages that change what we know (ReadyForQuery, ParameterStatus, CommandComplete, errors) are looked at as a whole; when one is cut
//! by the end of a read, its start waits in [`Link::carry`]. Everything else goes on as it comes, half a row included.

use std::collections::HashMap;
use std::rc::Rc;

use sidepool_protocol::postgres::frame::{self, HEAD_BYTES, Head};
use sidepool_protocol::postgres::hints::Kinds;
use sidepool_protocol::postgres::splice::Splice;
use sidepool_protocol::postgres::statement::{CLOSE_COMPLETE, PARSE_COMPLETE};
use sidepool_protocol::postgres::tag::BackendTag;
use sidepool_protocol::postgres::tracker::{Desync, Local, Outbound as Verdict, Owed, TransactionStatus};

use super::listening::listener::Listener;
use super::prepared::ClientStatements;
use super::schema_clock;
use crate::upstream::postgres::link::{Effect, Link, Note, TakeBack};
use crate::upstream::postgres::pins::Cause;
use crate::upstream::postgres::statements::StatementId;

/// Messages up to this size are looked at as a whole; longer ones of the same kinds flow past unread.
const WHOLE_BYTES: usize = 16 * 1024;

/// What came by that somebody has to act on.
#[derive(Debug, Default)]
pub struct News {
    /// How many ReadyForQuery went to the client.
    pub ready: u64,
    /// How many transactions ended: ReadyForQuery outside of a transaction.
    pub transactions: u64,
    /// How many notifications of other connections went before one of those.
    pub notified: u64,
    /// A query of the proxy itself is through.
    pub own_ready: bool,
    /// The client has thrown its whole session away.
    pub discarded: bool,
    /// Something was created, altered or dropped, or a transaction that did so has ended.
    pub schema: bool,
    /// The server announced the end of the connection (FATAL or PANIC).
    pub fatal: bool,
    /// What the client sent last shall be sent once more; the client was told nothing.
    pub replay: bool,
    /// The server skips everything until a Sync, which is owed.
    pub resumes: bool,
    /// A batch of the proxy itself is through, for which a message of the client may wait.
    pub made_way: bool,
    /// The end of the answer waits for what the client has notified itself of.
    pub waits: bool,
    /// What hardly ever comes by.
    pub rare: Option<Box<Rare>>,
}

/// News that few answers bring, kept apart because each answer makes room for all that it may bring.
#[derive(Debug, Default)]
pub struct Rare {
    /// Parameters that the server reported, in order.
    pub parameters: Vec<Reported>,
    /// The first two characters of the SQLSTATE of each error that went to the client: its class.
    pub errors: Vec<[u8; 2]>,
    /// The body of an error that answered a query of the proxy itself.
    pub own_error: Option<Box<[u8]>>,
    /// The body of the announcement that the connection ends, which the client has not been given: nothing that it sent can have run.
    pub unheard: Option<Box<[u8]>>,
    /// Statements of which the plan is of no use any more.
    pub outdated: Vec<StatementId>,
    /// Statements of which the client has been told that their rows look different now, and how.
    pub reshaped: Vec<(StatementId, u64)>,
}

impl News {
    /// Where to note what is rare.
    pub fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }
}

/// A parameter that the server reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reported {
    /// Its name.
    pub name: Box<str>,
    /// Its value.
    pub value: Box<str>,
    /// It was a query of the proxy itself that changed it.
    pub own: bool,
}

/// Which notifications of the connection itself go to its client.
#[derive(Clone)]
pub enum Notifications {
    /// All.
    All,
    /// All, if the connection is the client's own because it listens.
    Pinned,
    /// One connection listens for all clients. What it does not listen to for this client.
    Others(Option<Rc<Listener>>),
}

impl Notifications {
    /// Whether the client has notified itself of something that is still to come.
    #[must_use]
    pub fn awaits_own(&self) -> bool {
        matches!(self, Self::Others(Some(listener)) if listener.is_awaiting())
    }
}

/// What the server may not send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerFault {
    /// A length that no message can have.
    Length(frame::BadLength),
    /// A tag that no server message has.
    Tag(u8),
    /// An answer to nothing.
    Desync(Desync),
    /// A ReadyForQuery without a status.
    Status,
    /// A message longer than `max_packet_size`.
    Packet(usize),
}

/// One look at the server's bytes.
pub struct Outbound<'a, 's> {
    /// The server connection.
    pub link: &'a mut Link,
    /// The client's names, for what has to be taken back.
    pub client: &'a mut Option<Box<ClientStatements>>,
    /// Which notifications go to this client.
    pub notifications: Notifications,
    /// Whether names of statements are the proxy's.
    pub rewriting: bool,
    /// The longest message, head included.
    pub max_packet: usize,
    /// What is sent to the client.
    pub out: &'a mut Splice<'s>,
    /// What came by.
    pub news: News,
}

impl Outbound<'_, '_> {
    /// Scans `input`; the answer says how much of it was consumed. The rest is the start of a small message.
    pub fn scan(&mut self, input: &[u8]) -> Result<usize, ServerFault> {
        let mut at = self.pass_body(input.len());
        if at > 0 {
            // What waited for the end of this message.
            self.answer_locals();
        }
        loop {
            let rest = &input[at..];
            let Some(head) = frame::head(rest).map_err(ServerFault::Length)? else { return Ok(at) };
            let tag = BackendTag::from_byte(head.tag).ok_or(ServerFault::Tag(head.tag))?;
            if head.message_bytes() > self.max_packet {
                return Err(ServerFault::Packet(head.message_bytes()));
            }
            let is_answer = tag == BackendTag::DataRow && self.link.is_asked();
            let whole = if (is_read_whole(tag) || is_answer || self.tells_shape(tag)) && head.body <= WHOLE_BYTES {
                let Some(message) = rest.get(..head.message_bytes()) else { return Ok(at) };
                Some(&message[HEAD_BYTES..])
            } else {
                None
            };
            if tag == BackendTag::ReadyForQuery && self.waits_for_own() {
                (self.link.held, self.news.waits) = (true, true);
                return Ok(at);
            }
            let verdict = self.judge(tag, whole)?;
            let bytes = if flows(tag) && !is_answer { self.run(head, rest) } else { head.message_bytes() };
            at += self.follow(bytes, at, rest.len(), verdict);
            self.answer_locals();
        }
    }

    /// Gives the replies of the proxy itself whose turn has come. Nothing may be put into the middle of a message.
    #[inline]
    pub fn answer_locals(&mut self) {
        if self.link.remaining == 0 && self.link.tracker.has_local() {
            self.put_locals();
        }
    }

    fn put_locals(&mut self) {
        while let Some(local) = self.link.tracker.next_local() {
            self.out.put().extend_from_slice(match local {
                Local::ParseComplete => &PARSE_COMPLETE,
                Local::CloseComplete => &CLOSE_COMPLETE,
            });
        }
    }

    /// Passes what has come of the message under way.
    fn pass_body(&mut self, length: usize) -> usize {
        let here = self.link.remaining.min(length);
        if here > 0 && self.link.forward {
            self.out.pass(0, here);
        }
        self.link.remaining -= here;
        here
    }

    /// How long a message of rows is, with those behind it that are alike and there as a whole: nothing changes from one to the next, so all of them are
    /// judged as one.
    fn run(&self, first: Head, rest: &[u8]) -> usize {
        let mut bytes = first.message_bytes();
        while let Some(behind) = rest.get(bytes..)
            && let Ok(Some(head)) = frame::head(behind)
            && head.tag == first.tag
            && head.message_bytes() <= self.max_packet.min(behind.len())
        {
            bytes += head.message_bytes();
        }
        bytes
    }

    /// Passes what there is of so many bytes that begin `at`, out of what was read.
    #[inline]
    fn follow(&mut self, bytes: usize, at: usize, length: usize, verdict: Verdict) -> usize {
        let here = bytes.min(length);
        self.link.forward = verdict == Verdict::Forward;
        self.link.remaining = bytes - here;
        if self.link.forward {
            // What the client has seen something of is not sent again.
            self.link.replay.bytes.clear();
            self.out.pass(at, here);
        }
        here
    }

    fn judge(&mut self, tag: BackendTag, body: Option<&[u8]>) -> Result<Verdict, ServerFault> {
        if matches!(tag, BackendTag::RowDescription | BackendTag::NoData) {
            self.on_shape(tag, body);
        }
        match tag {
            BackendTag::ReadyForQuery => self.on_ready(body),
            BackendTag::ErrorResponse => {
                if self.link.journal.is_some() {
                    self.note_answer(tag, body.unwrap_or_default());
                }
                Ok(self.on_error(body))
            }
            BackendTag::ParameterStatus => Ok(if self.on_parameter(body) { Verdict::Forward } else { Verdict::Swallow }),
            BackendTag::NotificationResponse => {
                Ok(if self.is_for_client(body.unwrap_or_default()) { Verdict::Forward } else { Verdict::Swallow })
            }
            BackendTag::DataRow => {
                if self.link.is_asked()
                    && let Some(asking) = &mut self.link.asking
                {
                    asking.on_row(body);
                }
                self.link.tracker.on_backend(tag).map_err(ServerFault::Desync)
            }
            BackendTag::CommandComplete if self.link.asking.is_some() => {
                self.on_answered();
                self.link.tracker.on_backend(tag).map_err(ServerFault::Desync)
            }
            BackendTag::CommandComplete => {
                if self.link.journal.is_some() {
                    self.note_answer(tag, body.unwrap_or_default());
                }
                self.on_command_tag(body.unwrap_or_default());
                self.link.tracker.on_backend(tag).map_err(ServerFault::Desync)
            }
            BackendTag::EmptyQueryResponse | BackendTag::PortalSuspended => {
                if self.link.journal.is_some() {
                    self.note_answer(tag, b"");
                }
                self.link.tracker.on_backend(tag).map_err(ServerFault::Desync)
            }
            // The statement of that name was never parsed after all: now the server's name stands for another text.
            BackendTag::ParseComplete if matches!(self.link.tracker.owed().next(), Some(Owed::Parse(Note::Duplicate(_)))) => {
                Err(ServerFault::Desync(Desync { tag }))
            }
            BackendTag::ParseComplete
            | BackendTag::BindComplete
            | BackendTag::CloseComplete
            | BackendTag::CopyData
            | BackendTag::CopyDone
            | BackendTag::CopyInResponse
            | BackendTag::CopyOutResponse
            | BackendTag::CopyBothResponse
            | BackendTag::BackendKeyData
            | BackendTag::NoticeResponse
            | BackendTag::NoData
            | BackendTag::Authentication
            | BackendTag::RowDescription
            | BackendTag::ParameterDescription
            | BackendTag::FunctionCallResponse
            | BackendTag::NegotiateProtocolVersion => self.link.tracker.on_backend(tag).map_err(ServerFault::Desync),
        }
    }

    fn on_ready(&mut self, body: Option<&[u8]>) -> Result<Verdict, ServerFault> {
        let Some(&[status]) = body else { return Err(ServerFault::Status) };
        let status = TransactionStatus::from_byte(status).ok_or(ServerFault::Status)?;
        let own = self.link.tracker.is_own_query_next();
        self.news.made_way |= matches!(self.link.tracker.owed().next(), Some(Owed::OwnSync));
        let verdict = self.link.tracker.on_ready(status).map_err(ServerFault::Desync)?;
        self.link.ran = false;
        self.link.own_done += u8::from(own);
        if !self.link.portals.is_empty() && self.link.tracker.is_free() {
            self.link.portals.clear();
        }
        match verdict {
            Verdict::Forward => {
                self.news.ready += 1;
                if let Some(journal) = &mut self.link.journal {
                    journal.on_ready(status, self.link.tracker.is_owed());
                }
                if status == TransactionStatus::Idle {
                    // What has ended is not begun again, whatever is sent next.
                    self.link.replay.begin.clear();
                    self.news.transactions += 1;
                    self.link.dirt.on_transaction();
                    self.news.schema |= std::mem::take(&mut self.link.schema_changed);
                    self.notify_in_time();
                }
            }
            Verdict::Swallow => self.news.own_ready |= own && !self.link.tracker.is_own_query_next(),
        }
        Ok(verdict)
    }

    /// Whether a ReadyForQuery is the client's and stays back: what the client has notified itself of comes before it, and the connection that listens
    /// for all has not heard it yet.
    fn waits_for_own(&mut self) -> bool {
        let Notifications::Others(Some(listener)) = &self.notifications else { return false };
        if !listener.is_awaiting() || !matches!(self.link.tracker.owed().next(), Some(Owed::Query(_) | Owed::FunctionCall | Owed::Sync)) {
            return false;
        }
        if self.is_unsure() {
            listener.forget_awaited();
            return false;
        }
        true
    }

    /// Whether the transaction may have changed what the client listens to.
    fn is_unsure(&self) -> bool {
        self.link.hearing.changed || self.link.dirt.kinds().has(Kinds::UNKNOWN)
    }

    /// What the client has heard of by the end of its transaction is told within the answer, as the server does it: who looks for notifications then
    /// finds them. Not where the transaction may have changed what it listens to.
    fn notify_in_time(&mut self) {
        let Notifications::Others(Some(listener)) = &self.notifications else { return };
        if !self.is_unsure() && listener.has_news() {
            self.news.notified += listener.take(WHOLE_BYTES, self.out.put());
        }
    }

    /// True: the client has to be told.
    fn on_parameter(&mut self, body: Option<&[u8]>) -> bool {
        let own = self.link.tracker.is_own_query_next();
        let Some((name, rest)) = body.and_then(frame::cstr) else { return !own };
        let Some((value, _)) = frame::cstr(rest) else { return !own };
        let (Ok(name), Ok(value)) = (std::str::from_utf8(name), std::str::from_utf8(value)) else { return !own };
        // The server may spell a value that is carried in its own way: the client shall know it by that, before anything else it is told.
        let carried = if self.link.asking.is_none() { self.link.applied.as_ref() } else { None };
        let spelled = carried.and_then(|state| state.get(name)).is_some_and(|known| known != value);
        self.news.rare().parameters.push(Reported { name: name.into(), value: value.into(), own });
        !own || spelled
    }

    /// A command of the question is through.
    fn on_answered(&mut self) {
        if self.link.is_asked()
            && let Some(asking) = &mut self.link.asking
        {
            asking.on_complete();
        }
    }

    /// Some command tags tell of changed state.
    fn on_command_tag(&mut self, body: &[u8]) {
        let link = &mut *self.link;
        let begins = matches!(body, b"BEGIN\0" | b"START TRANSACTION\0");
        link.begun = begins && !link.ran && link.tracker.status() == TransactionStatus::Idle;
        link.ran = true;
        let own = matches!(link.tracker.owed().next(), Some(Owed::OwnQuery | Owed::OwnExecute(_)));
        if !own && tells_nothing(body) {
            return link.sequences.on_run();
        }
        if !own && !begins && !body.starts_with(b"SET") {
            link.sequences.on_run();
        }
        match body {
            b"DISCARD ALL\0" => {
                self.on_named(body);
                self.link.pins.remove(Cause::Listening);
                self.link.hearing.changed = true;
                self.link.sequences.on_forgotten();
                self.link.carried = Default::default();
                self.link.applied = None;
                self.news.discarded = true;
            }
            b"DISCARD SEQUENCES\0" => self.link.sequences.on_forgotten(),
            b"PREPARE\0" | b"DEALLOCATE\0" | b"DEALLOCATE ALL\0" => self.on_named(body),
            b"LISTEN\0" | b"UNLISTEN\0" if !self.link.tracker.is_own_query_next() => self.on_listening(body),
            b"LOAD\0" if self.link.rules.is_some() => self.link.pins.add(Cause::Library),
            // What the proxy itself does is known.
            _ if self.link.tracker.is_own_query_next() => {}
            b"SET\0" | b"RESET\0" if self.link.rules.is_some() => self.link.dirt.on_set(),
            b"SET\0" | b"RESET\0" => {
                self.link.doubtful = true;
                self.link.applied = None;
            }
            b"ROLLBACK\0" => self.link.dirt.on_undone(),
            b"DO\0" | b"CALL\0" if self.link.rules.is_some() => self.link.dirt.add_unknown(),
            _ => {}
        }
        if schema_clock::is_change(body) {
            self.link.schema_changed = true;
            self.news.schema = true;
        }
    }

    /// The client listens to something more, or to something less.
    fn on_listening(&mut self, tag: &[u8]) {
        let is_more = tag == b"LISTEN\0";
        match self.notifications {
            Notifications::Others(_) => {
                let hearing = &mut self.link.hearing;
                hearing.carries |= is_more;
                hearing.listened |= is_more;
                hearing.changed = true;
            }
            Notifications::All | Notifications::Pinned if is_more => self.link.pins.add(Cause::Listening),
            Notifications::All | Notifications::Pinned => {}
        }
    }

    /// Whether a notification of this connection goes to its client. What comes to all clients in another way does not.
    fn is_for_client(&self, body: &[u8]) -> bool {
        let pinned = self.link.pins.has(Cause::Listening);
        match &self.notifications {
            Notifications::All => true,
            Notifications::Pinned => pinned,
            Notifications::Others(listener) => {
                if let Some(listener) = listener {
                    listener.expect(body);
                }
                let channel = body.get(4..).and_then(frame::cstr).map_or(&[][..], |(channel, _)| channel);
                // It may have listened in what nobody looks into; whether it has is asked only now.
                let perhaps = self.link.hearing.listened || self.link.dirt.kinds().has(Kinds::UNKNOWN);
                (pinned || perhaps) && !listener.as_ref().is_some_and(|listener| listener.has(channel))
            }
        }
    }

    /// A PREPARE, DEALLOCATE or DISCARD ALL is done.
    fn on_named(&mut self, tag: &[u8]) {
        let link = &mut *self.link;
        let all = matches!(tag, b"DEALLOCATE ALL\0" | b"DISCARD ALL\0");
        match link.tracker.owed().next() {
            Some(Owed::OwnExecute(_)) => return,
            // What it does was done when it was sent.
            Some(Owed::Execute(Note::Text(text))) if !matches!(text.back, TakeBack::Nothing) => {
                return if all {
                    link.pins.remove(Cause::Statements)
                };
            }
            _ => {}
        }
        let effect = match link.tracker.query_note_mut() {
            Some(Note::Sql(sql)) => sql.effects.pop_front(),
            _ => None,
        };
        if all {
            return self.forget_statements();
        }
        match effect {
            Some(Effect::Prepared { name, statement }) => {
                link.statements.insert(statement.id(), usize::MAX);
                self.client.get_or_insert_default().named.insert(name, statement);
            }
            Some(Effect::Deallocated { name, id }) => {
                if let Some(client) = self.client {
                    client.named.remove(&name);
                }
                if let Some(id) = id {
                    link.statements.remove(id);
                }
            }
            // Under the client's own name: nobody else may get the connection.
            None if tag == b"PREPARE\0" && (self.rewriting || link.rules.is_some()) => link.pins.add(Cause::Statements),
            None | Some(Effect::Nothing | Effect::AllGone) => {}
        }
    }

    /// Named statements are gone, but for those of a Parse that is still to come.
    fn forget_statements(&mut self) {
        let Link { tracker, statements, pins, .. } = &mut *self.link;
        statements.forget_named();
        pins.remove(Cause::Statements);
        let mut kept = HashMap::new();
        for owed in tracker.owed() {
            match owed {
                Owed::Parse(Note::Named { name, id: Some(id) }) => {
                    statements.put_back(*id);
                    kept.extend(self.client.as_mut().and_then(|client| client.named.remove_entry(name)));
                }
                Owed::OwnParse(Note::Server(id)) => statements.put_back(*id),
                Owed::LocalParse(Note::Named { name, .. }) => {
                    kept.extend(self.client.as_mut().and_then(|client| client.named.remove_entry(name)));
                }
                Owed::OwnExecute(Note::Server(id)) => statements.put_back(*id),
                Owed::Parse(Note::Text(text)) | Owed::Execute(Note::Text(text)) => match &text.back {
                    TakeBack::Name(name) => kept.extend(self.client.as_mut().and_then(|client| client.named.remove_entry(name))),
                    TakeBack::Prepared { name, id } => {
                        statements.put_back(*id);
                        let named = name.as_ref().zip(self.client.as_mut());
                        kept.extend(named.and_then(|(name, client)| client.named.remove_entry(name)));
                    }
                    TakeBack::Nothing | TakeBack::Unnamed { .. } | TakeBack::Deallocated { .. } | TakeBack::AllGone(_) => {}
                },
                Owed::Parse(_)
                | Owed::OwnParse(_)
                | Owed::LocalParse(_)
                | Owed::Query(_)
                | Owed::FunctionCall
                | Owed::Sync
                | Owed::OwnSync
                | Owed::OwnQuery
                | Owed::Bind(_)
                | Owed::Describe(_)
                | Owed::Execute(_)
                | Owed::Close
                | Owed::OwnBind
                | Owed::OwnDescribe(_)
                | Owed::OwnExecute(_)
                | Owed::OwnClose(_)
                | Owed::LocalClose(_)
                | Owed::CopyData
                | Owed::CopyEnd => {}
            }
        }
        if let Some(client) = self.client.as_mut() {
            client.named = kept;
        }
    }
}

/// Whether this is the tag of a command that is about rows, and about nothing else that anybody wants to know.
fn tells_nothing(tag: &[u8]) -> bool {
    matches!(tag.first_chunk::<7>(), Some(b"SELECT " | b"INSERT " | b"UPDATE " | b"DELETE "))
}

/// Which messages come one after the other, and mean nothing but what they carry.
fn flows(tag: BackendTag) -> bool {
    matches!(tag, BackendTag::DataRow | BackendTag::CopyData)
}

/// Which messages are worth waiting for the end of.
fn is_read_whole(tag: BackendTag) -> bool {
    match tag {
        BackendTag::ReadyForQuery
        | BackendTag::ErrorResponse
        | BackendTag::ParameterStatus
        | BackendTag::CommandComplete
        | BackendTag::NotificationResponse => true,
        BackendTag::ParseComplete
        | BackendTag::BindComplete
        | BackendTag::CloseComplete
        | BackendTag::DataRow
        | BackendTag::CopyData
        | BackendTag::CopyDone
        | BackendTag::CopyInResponse
        | BackendTag::CopyOutResponse
        | BackendTag::CopyBothResponse
        | BackendTag::EmptyQueryResponse
        | BackendTag::BackendKeyData
        | BackendTag::NoticeResponse
        | BackendTag::NoData
        | BackendTag::Authentication
        | BackendTag::PortalSuspended
        | BackendTag::RowDescription
        | BackendTag::ParameterDescription
        | BackendTag::FunctionCallResponse
        | BackendTag::NegotiateProtocolVersion => false,
    }
}

/// One field of an error or notice.
#[must_use]
pub fn field(mut body: &[u8], wanted: u8) -> Option<&[u8]> {
    loop {
        let (&code, rest) = body.split_first()?;
        let (value, next) = frame::cstr(rest)?;
        if code == wanted {
            return Some(value);
        }
        body = next;
    }
}
