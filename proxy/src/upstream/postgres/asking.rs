//! Asks a server what a session has become: one simple query of the proxy's own, and what is understood of its answer.
//!
//! ```text
//!   SELECT current_setting(name, true), …, EXISTS(temporary tables), …      what hints have named
//!   SELECT name, … FROM pg_settings WHERE source = 'session'                where something may be back at its default, or anything has changed
//!   SELECT pg_listening_channels(); UNLISTEN *                              where the client listens (`session::postgres::listening`)
//!   RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL                      where anything has changed: what nobody knows of is gone, too
//! ```
//! Custom settings (`app.tenant_id`), the role and the session's user are in no list of the server's and are asked for by name. Everything is
//! qualified, because the client's search path is in force. Pure. Not here: what becomes of the answer (`session::postgres::concluding`).

use std::collections::VecDeque;

use sidepool_protocol::postgres::hints::Kinds;
use sidepool_protocol::postgres::parameters::ParameterSet;

use super::dirt::Dirt;
use super::pin_questions;
use super::pins::Cause;
use super::quoting::quoted;

/// Most bytes of an answer: more than a state can have.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// How often a question is put that is cancelled each time. (A cancel that was meant for the client's query may come late.)
const MAX_TRIES: u32 = 4;

/// Takes everything back that a session can set.
pub const CLEANING: &str = "RESET SESSION AUTHORIZATION;RESET ROLE;RESET ALL";

/// What the server said.
#[derive(Debug, Default)]
pub struct Answer {
    /// The settings that were asked for by name, and their values; `None`: there is none of that name.
    pub values: Vec<(Box<str>, Option<Box<str>>)>,
    /// All settings that the session has set, of those that the server lists.
    pub session: Option<Vec<(Box<str>, Box<str>)>>,
    /// Whether there is something that pins the connection.
    pub pins: Vec<(Cause, bool)>,
    /// The channels that the connection listens to.
    pub channels: Option<Vec<Box<[u8]>>>,
    /// Something is prepared in SQL under a name of the proxy's.
    pub squatted: bool,
}

/// What is asked.
#[derive(Debug, Default)]
pub struct Question {
    /// Settings by name.
    pub names: Vec<Box<str>>,
    /// The list of what the session has set.
    pub list: bool,
    /// Whether these pin the connection.
    pub causes: Vec<Cause>,
    /// The channels that the connection listens to.
    pub channels: bool,
    /// Listens to none of them from then on.
    pub forgets: bool,
    /// Takes everything back, too.
    pub cleans: bool,
    /// A new seed for random numbers.
    pub seed: Option<f64>,
    /// Whether texts come as they are: the client's encoding is UTF-8.
    pub is_utf8: bool,
    /// It is asked for no reason but to be sure.
    pub audit: Option<Audit>,
}

/// How far an audit is.
#[derive(Debug, Clone)]
pub enum Audit {
    /// The first look.
    Look,
    /// The second one, after everything was taken back: these were found before, with their values.
    Confirm(Vec<(Box<str>, Box<str>)>),
}

impl Question {
    /// What there is to ask about a client's connection. `custom`: names that the server does not list.
    #[must_use]
    pub fn about(dirt: &Dirt, state: &ParameterSet, custom: Vec<Box<str>>, pinned: bool) -> Self {
        let kinds = dirt.kinds();
        let mut question = Self { names: dirt.names().to_vec(), ..Self::default() };
        question.cleans = kinds.has(Kinds::UNKNOWN);
        question.list = question.cleans || dirt.has_resets() || dirt.is_undone() && !question.names.is_empty();
        if question.cleans {
            custom.into_iter().for_each(|name| question.add(&name));
            question.add("role");
            question.add("session_authorization");
        }
        if kinds.has(Kinds::RESETS_ALL) || question.cleans {
            state.iter().for_each(|(name, _)| question.add(name));
        }
        for (cause, kind) in [
            (Cause::TemporaryTables, Kinds::TEMPORARY),
            (Cause::HeldCursors, Kinds::CURSORS),
            (Cause::AdvisoryLocks, Kinds::LOCKS),
            (Cause::Statements, Kinds::STATEMENTS),
        ] {
            if question.cleans || kinds.has(kind) || pinned && kinds.has(Kinds::ENDS) {
                question.causes.push(cause);
            }
        }
        question
    }

    /// Everything, for no reason but to be sure.
    #[must_use]
    pub fn audit(custom: Vec<Box<str>>, stage: Audit) -> Self {
        let causes = vec![Cause::TemporaryTables, Cause::HeldCursors, Cause::AdvisoryLocks, Cause::Statements];
        let mut question = Self { names: custom, list: true, causes, audit: Some(stage), ..Self::default() };
        question.add("role");
        question.add("session_authorization");
        question
    }

    fn add(&mut self, name: &str) {
        if !self.names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            self.names.push(name.into());
        }
    }

    /// Whether there is anything to be asked or done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && !self.list && self.causes.is_empty() && !self.channels && !self.cleans && self.seed.is_none()
    }

    /// The query, and what waits for its answer.
    #[must_use]
    pub fn put(self) -> (String, Asking) {
        let mut sql: Vec<String> = Vec::new();
        let mut steps = VecDeque::new();
        let columns: Vec<String> = self
            .names
            .iter()
            .map(|name| self.value(&quoted(name)))
            .chain(self.causes.iter().filter_map(|cause| pin_questions::exists(*cause)).map(Into::into))
            .chain(self.asks_for_squatters().then(|| pin_questions::SQUATTERS.into()))
            .collect();
        if !columns.is_empty() {
            sql.push(format!("SELECT {}", columns.join(",")));
            steps.push_back(Step::Values);
        }
        if self.list {
            let value = self.value("name");
            sql.push(format!("SELECT name,{value} FROM pg_catalog.pg_settings WHERE source OPERATOR(pg_catalog.=) E'session'"));
            steps.push_back(Step::List);
        }
        if self.channels {
            sql.push("SELECT pg_catalog.pg_listening_channels()".into());
            steps.push_back(Step::Channels);
        }
        if self.forgets {
            sql.push("UNLISTEN *".into());
            steps.push_back(Step::Nothing);
        }
        if let Some(seed) = self.seed {
            sql.push(format!("SELECT pg_catalog.setseed({seed})"));
            steps.push_back(Step::Nothing);
        }
        if self.cleans {
            sql.push(CLEANING.into());
        }
        let (session, channels) = (self.list.then(Vec::new), self.channels.then(Vec::new));
        let sql = sql.join(";");
        (sql, Asking { question: self, steps, answer: Answer { session, channels, ..Answer::default() }, ..Asking::default() })
    }

    fn asks_for_squatters(&self) -> bool {
        self.causes.contains(&Cause::Statements)
    }

    fn value(&self, name: &str) -> String {
        let value = format!("pg_catalog.current_setting({name},true)");
        if self.is_utf8 { value } else { format!("pg_catalog.encode(pg_catalog.convert_to({value},E'UTF8'),E'hex')") }
    }
}

/// What the next rows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Values,
    List,
    Channels,
    Nothing,
}

/// A question under way.
#[derive(Debug, Default)]
pub struct Asking {
    question: Question,
    steps: VecDeque<Step>,
    answer: Answer,
    bytes: usize,
    tries: u32,
    error: Option<Error>,
    /// How many other queries of the proxy itself are sent before it.
    at: u8,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Its SQLSTATE.
    pub code: [u8; 5],
    /// In the server's words, or ours.
    pub message: Box<str>,
}

impl Asking {
    /// The same, sent behind so many other queries.
    #[must_use]
    pub fn behind(self, others: u8) -> Self {
        Self { at: others, ..self }
    }

    /// Behind how many other queries it is sent.
    #[must_use]
    pub fn at(&self) -> u8 {
        self.at
    }

    /// How far an audit is, if it is one.
    #[must_use]
    pub fn audit(&self) -> Option<Audit> {
        self.question.audit.clone()
    }

    /// Whether everything is taken back behind the answer.
    #[must_use]
    pub fn cleans(&self) -> bool {
        self.question.cleans
    }

    /// The body of a DataRow, `None` when it was too long to be kept.
    pub fn on_row(&mut self, body: Option<&[u8]>) {
        self.bytes += body.map_or(MAX_ANSWER_BYTES, <[u8]>::len);
        let kept = body.filter(|_| self.bytes <= MAX_ANSWER_BYTES).and_then(|body| self.take_in(body));
        if kept.is_none() {
            self.fail(*b"54000", "the answer cannot be kept");
        }
    }

    fn take_in(&mut self, body: &[u8]) -> Option<()> {
        let Some(step) = self.steps.front() else { return Some(()) };
        let mut columns = Columns(body.get(2..)?);
        match step {
            Step::Values => {
                for name in &self.question.names {
                    let value = columns.next()?;
                    let value = value.map(|value| self.question.text(value)).transpose().ok()?;
                    self.answer.values.push((name.clone(), value));
                }
                for cause in &self.question.causes {
                    self.answer.pins.push((*cause, pin_questions::is_true(columns.next()?)));
                }
                self.answer.squatted = self.question.asks_for_squatters() && pin_questions::is_true(columns.next()?);
            }
            Step::List => {
                let name = std::str::from_utf8(columns.next()??).ok()?;
                // What a transaction is like is nobody's but the transaction's.
                if let Some(value) = columns.next()?.filter(|_| !name.starts_with("transaction_")) {
                    let value = self.question.text(value).ok()?;
                    self.answer.session.get_or_insert_default().push((name.into(), value));
                }
            }
            Step::Channels => self.answer.channels.get_or_insert_default().push(columns.next()??.into()),
            Step::Nothing => {}
        }
        Some(())
    }

    /// A command of the query is through.
    pub fn on_complete(&mut self) {
        self.steps.pop_front();
    }

    /// The query failed.
    pub fn on_error(&mut self, code: &[u8], message: &str) {
        self.fail(code.try_into().unwrap_or(*b"XX000"), message);
    }

    fn fail(&mut self, code: [u8; 5], message: &str) {
        self.error.get_or_insert_with(|| Error { code, message: message.into() });
    }

    /// The query is through: the answer, or why there is none, or what to try once more.
    pub fn end(mut self) -> Ended {
        match self.error.take() {
            Some(error) if error.code == *b"57014" && self.tries + 1 < MAX_TRIES => {
                let tries = self.tries + 1;
                let (sql, again) = self.question.put();
                Ended::Again(sql, Asking { tries, ..again })
            }
            Some(error) => Ended::Failed(error),
            None => Ended::Answered(self.answer, self.question.cleans),
        }
    }
}

/// How a question ended.
#[derive(Debug)]
pub enum Ended {
    /// With an answer, and whether everything was taken back.
    Answered(Answer, bool),
    /// It was cancelled, and this is to be sent again.
    Again(String, Asking),
    /// Without.
    Failed(Error),
}

impl Question {
    fn text(&self, value: &[u8]) -> Result<Box<str>, ()> {
        let unhex = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).map_err(drop)?, 16).map_err(drop);
        let bytes: Vec<u8> = if self.is_utf8 { value.to_vec() } else { value.chunks(2).map(unhex).collect::<Result<_, _>>()? };
        String::from_utf8(bytes).map(Into::into).map_err(drop)
    }
}

/// The columns of a DataRow.
struct Columns<'a>(&'a [u8]);

impl<'a> Columns<'a> {
    /// The next one; the inner `None` is NULL.
    fn next(&mut self) -> Option<Option<&'a [u8]>> {
        let (length, rest) = self.0.split_first_chunk::<4>()?;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            self.0 = rest;
            return Some(None);
        };
        let (value, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(Some(value))
    }
}

#[cfg(test)]
#[path = "asking_tests.rs"]
mod tests;
