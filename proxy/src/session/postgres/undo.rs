//! An error of the server: what was announced and never ran is taken back, and what the client is told of it.
//!
//! Some errors are about the proxy's own doing, and not the client's. A plan that was made before the tables changed is made anew, and where the
//! client has seen nothing of the batch yet, the batch is sent again. Names of statements in a message are the client's names again.

use sidepool_protocol::postgres::encode;
use sidepool_protocol::postgres::fault::{Fault, SqlState};
use sidepool_protocol::postgres::tracker::{Outbound as Verdict, Owed, Tracker};

use super::outbound::{Outbound, field};
use super::own_names;
use super::prepared::ClientStatements;
use super::{replay, shapes};
use crate::upstream::postgres::link::{Exits, Note, Renamed, TakeBack};
use crate::upstream::postgres::statements::{ServerStatements, StatementId};

/// What failed.
#[derive(Default)]
struct Failed {
    /// A Parse of a name that the client uses already.
    duplicate: Option<Box<[u8]>>,
    /// A Parse of the unnamed statement.
    unnamed: bool,
    /// A use of this statement.
    used: Option<StatementId>,
    /// A Bind of this statement, whose rows have come to look different.
    changed: Option<StatementId>,
    /// Something about a text in which this name was replaced.
    renamed: Option<Renamed>,
    /// What stands in the place of what does not run.
    refused: Option<Box<[u8]>>,
}

/// What the proxy can do about an error itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Remedy {
    None,
    /// The plan of a statement gives other rows than it did when it was made.
    NewPlan,
    /// The server does not know a statement that it should know.
    PrepareAgain,
}

impl Outbound<'_, '_> {
    pub(super) fn on_error(&mut self, body: Option<&[u8]>) -> Verdict {
        let body = body.unwrap_or_default();
        let link = &mut *self.link;
        let fatal = matches!(field(body, b'V').or_else(|| field(body, b'S')), Some(b"FATAL" | b"PANIC"));
        let code = field(body, b'C').unwrap_or(b"??");
        // The server ends the session because the client's state cannot be carried, and would do so elsewhere.
        let carried = link.ahead && link.tracker.is_own_query_next() && !code.starts_with(b"57");
        if fatal && !carried && replay::nothing_ran(link) {
            self.news.fatal = true;
            self.news.rare().unheard = Some(body.into());
            return Verdict::Swallow;
        }
        let own_query = link.tracker.is_own_query_next();
        let unprepared = unprepared(&link.tracker);
        let (statements, client) = (&mut link.statements, &mut *self.client);
        // The last one taken back is the one that failed.
        let mut failed = Failed::default();
        let verdict = link.tracker.on_error(|owed| failed = undo(owed, statements, client));
        if failed.unnamed
            && let Some(client) = client
        {
            // A Parse that fails leaves no unnamed statement.
            client.put_back_unnamed(None);
        }
        if let Some(renamed) = unprepared {
            failed.renamed = renamed;
            // The server skips the query. Its end is what the Sync brings, and nothing was sent behind it.
            link.tracker.owe(Owed::Sync);
            self.news.resumes = true;
        }
        if verdict == Verdict::Swallow {
            let kept = Some(body.into());
            if own_query {
                self.on_own_error(body)
            } else {
                link.own_error = kept
            }
            return Verdict::Swallow;
        }
        link.dirt.on_undone();
        if matches!(code, b"26000" | b"25P02")
            && let Some(told) = failed.refused.take().or_else(|| self.refused_query())
        {
            self.out.put().extend_from_slice(&told);
            return Verdict::Swallow;
        }
        if let Some(id) = failed.changed.filter(|_| code == b"26000") {
            self.news.rare().errors.push(*b"0A");
            self.news.rare().outdated.push(id);
            own_names::put(shapes::CHANGED, self.out);
            return Verdict::Swallow;
        }
        if self.rewriting && self.is_remedied(remedy(code, body), body, failed.used) {
            return Verdict::Swallow;
        }
        self.news.rare().errors.push([code.first().copied().unwrap_or(b'?'), code.get(1).copied().unwrap_or(b'?')]);
        self.news.fatal |= fatal;
        if let Some(name) = failed.duplicate.filter(|_| code == b"42P05") {
            let message = format!("prepared statement \"{}\" already exists", String::from_utf8_lossy(&name));
            encode::error_response(&Fault::error(SqlState::DUPLICATE_STATEMENT, message), self.out.put());
            return Verdict::Swallow;
        }
        if self.rewriting && self.put_with_own_names(code, body, failed.renamed.as_slice()) { Verdict::Swallow } else { Verdict::Forward }
    }

    /// What the client is told of a simple query that does not run.
    fn refused_query(&mut self) -> Option<Box<[u8]>> {
        match self.link.tracker.query_note_mut() {
            Some(Note::Refused(told)) => Some(std::mem::take(told)),
            _ => None,
        }
    }

    /// A query of the proxy itself failed.
    fn on_own_error(&mut self, body: &[u8]) {
        let link = &mut *self.link;
        if link.own_may_fail == Some(link.own_done) {
            if link.exits == Exits::Asked {
                link.exits = Exits::No;
                return;
            }
            let message = String::from_utf8_lossy(field(body, b'M').unwrap_or_default()).into_owned();
            return tracing::warn!("connect_query failed: {message}");
        }
        match &mut link.asking {
            Some(asking) => {
                asking.on_error(field(body, b'C').unwrap_or_default(), &String::from_utf8_lossy(field(body, b'M').unwrap_or_default()))
            }
            None => self.news.rare().own_error = Some(body.into()),
        }
    }

    /// Does something about an error; true when the client need not know of it, because what it sent will be sent again.
    fn is_remedied(&mut self, remedy: Remedy, body: &[u8], used: Option<StatementId>) -> bool {
        let link = &mut *self.link;
        let in_sql: Vec<StatementId> = match link.tracker.query_note_mut() {
            Some(Note::Sql(sql)) => sql.uses.clone(),
            _ => Vec::new(),
        };
        let told = !in_sql.is_empty() || link.replay.described;
        if used.is_none() && in_sql.is_empty() {
            // The client's own mistake.
            return false;
        }
        let mut affected = used.into_iter().chain(in_sql);
        let harmless = match remedy {
            Remedy::None => return false,
            Remedy::NewPlan => {
                self.news.rare().outdated.extend(affected);
                // Who does not ask what the rows look like would take them for what they were.
                told
            }
            Remedy::PrepareAgain => {
                // Others that the same text uses are there, as far as anybody knows.
                let Some(missing) = affected.find(|id| own_names::names(body, *id)) else { return false };
                link.statements.remove(missing);
                true
            }
        };
        if !harmless || link.replay.bytes.is_empty() || !link.tracker.disown() {
            return false;
        }
        link.matching = true;
        self.news.replay = true;
        true
    }

    /// Sends the error with the client's names of statements in the place of ours; false when there are none in it.
    fn put_with_own_names(&mut self, code: &[u8], body: &[u8], renamed: &[Renamed]) -> bool {
        let link = &mut *self.link;
        let own_error = link.own_error.take();
        let Some(Note::Sql(sql)) = link.tracker.query_note_mut() else {
            return own_names::put_error(body, self.client.as_deref(), renamed, self.out);
        };
        // Preparing it failed before, and that is why it is not there.
        let cause = own_error.filter(|_| code == b"26000" && !sql.uses.is_empty());
        own_names::put_error(cause.as_deref().unwrap_or(body), self.client.as_deref(), &sql.renamed, self.out) || {
            if let Some(cause) = &cause {
                own_names::put(cause, self.out);
            }
            cause.is_some()
        }
    }
}

/// If the next reply is about what the proxy had to prepare for a simple query behind an open batch: the name that was replaced in it.
fn unprepared(tracker: &Tracker<Note>) -> Option<Option<Renamed>> {
    let own = |owed: &Owed<Note>| matches!(owed, Owed::OwnParse(_) | Owed::OwnBind | Owed::OwnExecute(_) | Owed::OwnClose(_));
    let behind = tracker.owed().find(|owed| !own(owed));
    let Some(Owed::Query(Note::Sql(sql))) = behind else { return None };
    (sql.prepares && tracker.owed().next().is_some_and(own)).then(|| sql.renamed.first().cloned())
}

/// What can be done about an error. The routine's name is the same in all languages, and forks of PostgreSQL have the message in English.
fn remedy(code: &[u8], body: &[u8]) -> Remedy {
    match code {
        b"0A000" => {
            let routine = field(body, b'R') == Some(b"RevalidateCachedQuery");
            let message = field(body, b'M') == Some(b"cached plan must not change result type");
            if routine || message { Remedy::NewPlan } else { Remedy::None }
        }
        b"26000" => Remedy::PrepareAgain,
        _ => Remedy::None,
    }
}

/// Takes back what was announced and never ran.
fn undo(owed: Owed<Note>, statements: &mut ServerStatements, client: &mut Option<Box<ClientStatements>>) -> Failed {
    let mut failed = Failed::default();
    match owed {
        Owed::Parse(Note::Duplicate(name)) => failed.duplicate = Some(name),
        Owed::Parse(Note::Unnamed { before, version }) => {
            statements.unnamed = None;
            failed.unnamed = take_back_unnamed(client, before, version);
        }
        Owed::Parse(Note::Text(text))
        | Owed::OwnParse(Note::Text(text))
        | Owed::Bind(Note::Text(text))
        | Owed::Describe(Note::Text(text))
        | Owed::Execute(Note::Text(text)) => {
            (failed.used, failed.renamed) = (text.uses, text.renamed);
            failed.unnamed = take_back(text.back, statements, client);
        }
        Owed::Parse(note) | Owed::OwnParse(note) | Owed::LocalParse(note) | Owed::OwnExecute(note) => match note {
            Note::Unnamed { .. } => statements.unnamed = None,
            Note::Named { name, id } => {
                if let Some(client) = client {
                    client.named.remove(&name);
                }
                if let Some(id) = id {
                    statements.remove(id);
                }
            }
            Note::Server(id) => statements.remove(id),
            Note::None
            | Note::Duplicate(_)
            | Note::Closed { .. }
            | Note::ClosedUnnamed(_)
            | Note::Uses(_)
            | Note::Shape(_)
            | Note::Changed(_)
            | Note::Forgets
            | Note::Sql(_)
            | Note::Text(_)
            | Note::Refused(_) => {}
        },
        Owed::OwnClose(Note::Server(id)) => statements.put_back(id),
        Owed::LocalClose(Note::Closed { name, statement }) => {
            // A Parse behind the next Sync may have taken the name since.
            client.get_or_insert_default().named.entry(name).or_insert(statement);
        }
        Owed::LocalClose(Note::ClosedUnnamed(text)) => client.get_or_insert_default().put_back_unnamed(Some(text)),
        Owed::Bind(Note::Uses(id)) => failed.used = Some(id),
        Owed::Bind(Note::Changed(id)) => failed.changed = Some(id),
        Owed::Describe(Note::Shape(statement)) => failed.used = Some(statement.id()),
        Owed::Bind(Note::Refused(told)) => failed.refused = Some(told),
        Owed::OwnClose(_)
        | Owed::LocalClose(_)
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
        | Owed::CopyData
        | Owed::CopyEnd => {}
    }
    failed
}

/// Takes back a Parse of the unnamed statement; false when a later one counts.
fn take_back_unnamed(client: &mut Option<Box<ClientStatements>>, before: Option<Vec<u8>>, version: u64) -> bool {
    let client = client.get_or_insert_default();
    let present = client.unnamed_version == version;
    if present {
        client.put_back_unnamed(before);
        client.unnamed_version -= 1;
    }
    present
}

/// The same about a statement whose text names another one; true when it was a Parse of the unnamed statement.
fn take_back(back: TakeBack, statements: &mut ServerStatements, client: &mut Option<Box<ClientStatements>>) -> bool {
    match back {
        TakeBack::Nothing => {}
        TakeBack::Unnamed { before, version } => return take_back_unnamed(client, before, version),
        TakeBack::Name(name) => {
            client.get_or_insert_default().named.remove(&name);
        }
        TakeBack::Prepared { name, id } => {
            if let (Some(name), Some(client)) = (name, client) {
                client.named.remove(&name);
            }
            statements.remove(id);
        }
        TakeBack::Deallocated { name, statement } => {
            client.get_or_insert_default().named.entry(name).or_insert(statement);
        }
        TakeBack::AllGone(gone) => {
            client.get_or_insert_default().named.extend(gone.named);
            statements.restore(gone.known);
        }
    }
    false
}
