//! What a client runs over one server connection, with times: for the log of what is slow, and for traces. There is one only where somebody asks.
//!
//! ```text
//!   client ── Query, Execute ──▶ on_sent:  [unit][unit][Sync][unit]      each with its text and when it was sent
//!   server ── CommandComplete, ReadyForQuery ──▶ the unit at the front is through: it ran from the end of the one before, or since it was sent
//! ```
//! It follows the same messages as the tracker and may lose its place where the proxy repeats or answers something itself; it finds it again when nothing is
//! owed. A server answers a pipeline when its buffer is full or at its end: what comes through together is reported together, as nobody can tell which
//! took how long. Nothing depends on any of it. Bounded: see the constants. Pure. Not here: what becomes of the reports (`session::postgres::slow_log`).

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use sidepool_config::model::SlowLog;
use sidepool_protocol::postgres::frame;
use sidepool_protocol::postgres::tracker::TransactionStatus;

use super::statements::Statement;
use crate::pool::random::Random;
use crate::pool::traits::Opening;
use crate::traces::parent::Parent;

/// So much of a text is kept.
pub const TEXT_BYTES: usize = 4096;

/// The most units that are under way; with one more, nothing is noted until all are through.
const MOST_UNITS: usize = 1024;

/// The most names of statements and of portals that are known; with one more, they are forgotten.
const MOST_NAMES: usize = 256;

/// Longer names are nobody's that this is for.
const NAME_BYTES: usize = 64;

/// So much of texts is kept for what is under way, for names of statements, and for those of portals, each.
const MOST_TEXT_BYTES: usize = 64 * 1024;

/// The most statements of a transaction that a trace has.
const MOST_TRACED: usize = 64;

/// The most bytes of a command tag or an SQLSTATE that are kept.
const TAG_BYTES: usize = 64;

/// The text of a statement, as far as it is kept.
#[derive(Debug, Clone, Default)]
pub enum Text {
    /// Nobody knows.
    #[default]
    Unknown,
    /// The beginning, and whether there is more.
    Copy(Rc<[u8]>, bool),
    /// That of a statement which is known by name.
    Statement(Rc<Statement>),
}

impl Text {
    /// A copy of its beginning; `cut`: there is more than this.
    #[must_use]
    pub fn copy(text: &[u8], cut: bool) -> Self {
        Self::Copy(text[..text.len().min(TEXT_BYTES)].into(), cut || text.len() > TEXT_BYTES)
    }

    /// How many bytes are kept for it alone.
    fn held(&self) -> usize {
        match self {
            Self::Copy(text, _) => text.len(),
            Self::Unknown | Self::Statement(_) => 0,
        }
    }

    /// The bytes, and whether there are more.
    #[must_use]
    pub fn bytes(&self) -> (&[u8], bool) {
        match self {
            Self::Unknown => (b"", true),
            Self::Copy(text, cut) => (text, *cut),
            Self::Statement(statement) => {
                let text = statement.parse().map_or(statement.key(), |(body, _)| frame::cstr(body).map_or(body, |(text, _)| text));
                (&text[..text.len().min(TEXT_BYTES)], text.len() > TEXT_BYTES)
            }
        }
    }
}

/// What a unit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It ends with ReadyForQuery.
    Query,
    /// It ends with an answer of its own.
    Execute,
    /// The end of a batch.
    Sync,
}

#[derive(Debug)]
struct Unit {
    kind: Kind,
    text: Text,
    sent: Instant,
    /// What its last command said, if it is slow already.
    tag: Box<[u8]>,
    failed: bool,
}

/// How a statement ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It did what it should.
    Completed,
    /// The server reported an error.
    Failed,
    /// The client or its connection was gone before.
    Abandoned,
}

impl Outcome {
    /// Its name.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Abandoned => "abandoned",
        }
    }
}

/// A statement that is through.
#[derive(Debug, Clone)]
pub struct Ran {
    /// When the server had it and nothing before it.
    pub since: Instant,
    /// How long it waited for a connection before that.
    pub waited: Duration,
    /// How long the server took for it, until its end had come.
    pub took: Duration,
    /// How it ended.
    pub outcome: Outcome,
    /// Its command tag, or its SQLSTATE if it failed; empty where that is not known.
    pub tag: Box<[u8]>,
    /// Its text.
    pub text: Text,
    /// The texts of those that came through together with it, the first ones of them: each is SQL for itself.
    pub others: Vec<Text>,
    /// How many statements of a pipeline came through together.
    pub statements: u32,
}

impl Ran {
    /// Another one came through together with it.
    fn join(&mut self, text: Text) {
        let before: usize = self.others.iter().chain([&self.text]).map(|text| text.bytes().0.len()).sum();
        // Those of which nobody knows the text are bounded, too.
        if before < TEXT_BYTES && self.others.len() < MOST_TRACED {
            self.others.push(text);
        }
    }
}

/// A transaction.
#[derive(Debug, Clone)]
pub struct Transaction {
    /// When its first statement was sent.
    pub since: Instant,
    /// How long it has been going on, or went on.
    pub took: Duration,
    /// How long of that the client was the one to speak.
    pub idle: Duration,
    /// How many statements it ran.
    pub statements: u32,
    /// Its last one.
    pub last: Text,
    /// How its connection was opened, where it waited for that.
    pub opening: Option<Opening>,
}

/// What was long enough.
#[derive(Debug, Clone)]
pub enum Report {
    /// A statement.
    Slow(Ran),
    /// A transaction that is over.
    Long(Transaction),
    /// A transaction that is traced, with its first statements and what it is a part of.
    Traced(Transaction, Vec<Ran>, Option<Parent>),
}

#[derive(Debug)]
struct Open {
    since: Instant,
    idle: Duration,
    paused: Option<Instant>,
    statements: u32,
    /// Its first statement has been reported as slow.
    told: bool,
    last: Text,
    opening: Option<Opening>,
    traced: bool,
    ran: Vec<Ran>,
    parent: Option<Parent>,
}

/// What one client runs.
#[derive(Debug)]
pub struct Journal {
    /// What is long enough.
    limits: SlowLog,
    now: Instant,
    /// How long the client waited for the connection, until that is a part of something.
    waited: Duration,
    /// How it was opened meanwhile, likewise.
    opening: Option<Opening>,
    units: VecDeque<Unit>,
    /// How many bytes their texts have.
    held: usize,
    /// When the unit before the one at the front was through.
    through: Option<Instant>,
    /// There were too many.
    overflown: bool,
    /// Texts by the names of statements, where these are not the proxy's.
    named: Names,
    /// The same by the names of portals.
    portals: Names,
    transaction: Option<Open>,
    /// One transaction in so many is traced; `None`: none is.
    sampling: Option<u32>,
    random: Random,
    reports: Vec<Report>,
}

impl Journal {
    /// An empty one.
    #[must_use]
    pub fn new(limits: SlowLog, now: Instant, seed: u64) -> Self {
        Self {
            limits,
            now,
            waited: Duration::ZERO,
            opening: None,
            units: VecDeque::new(),
            held: 0,
            through: None,
            overflown: false,
            named: Names::default(),
            portals: Names::default(),
            transaction: None,
            sampling: None,
            random: Random::new(seed),
            reports: Vec::new(),
        }
    }

    /// Somebody else uses the connection.
    pub fn clear(&mut self) {
        self.drop_units();
        self.named = Names::default();
        self.portals = Names::default();
        self.reports.clear();
        (self.through, self.transaction, self.overflown, self.waited, self.opening) = (None, None, false, Duration::ZERO, None);
    }

    /// It is so late now, and this is long.
    pub fn set_now(&mut self, now: Instant, limits: SlowLog) {
        (self.now, self.limits) = (now, limits);
    }

    /// One transaction in so many is traced from now on; `None`: none is.
    pub fn sample(&mut self, one_in: Option<u32>) {
        self.sampling = one_in;
    }

    /// Whether the next transaction is traced.
    fn is_sampled(&mut self) -> bool {
        self.sampling.is_some_and(|one_in| self.random.chooses(one_in))
    }

    /// The client has waited so long for the connection, which was opened meanwhile, if that is known.
    pub fn has_waited(&mut self, waited: Duration, opening: Option<Opening>) {
        (self.waited, self.opening) = (waited, opening);
    }

    /// A statement is prepared under a name of the client's.
    pub fn on_parse(&mut self, name: &[u8], text: Text) {
        self.named.put(name, text);
    }

    /// The text of a statement that was so prepared.
    #[must_use]
    pub fn named(&self, name: &[u8]) -> Text {
        self.named.get(name)
    }

    /// A portal stands for this text.
    pub fn on_bind(&mut self, portal: &[u8], text: Text) {
        self.portals.put(portal, text);
    }

    /// A simple query, or a function call, is sent.
    pub fn on_query(&mut self, text: Text) {
        self.push(Kind::Query, text);
    }

    /// A portal is executed.
    pub fn on_execute(&mut self, portal: &[u8]) {
        let text = self.portals.get(portal);
        self.push(Kind::Execute, text);
    }

    /// A batch ends.
    pub fn on_sync(&mut self) {
        self.push(Kind::Sync, Text::Unknown);
    }

    fn push(&mut self, kind: Kind, text: Text) {
        if self.overflown || self.units.len() >= MOST_UNITS {
            self.overflown = true;
            return self.drop_units();
        }
        if kind != Kind::Sync {
            let now = self.now;
            let traced = self.transaction.is_none() && self.is_sampled();
            let open = self.transaction.get_or_insert_with(|| Open { traced, ..Open::new(now) });
            open.opening = open.opening.or(self.opening.take());
            if self.sampling.is_some() {
                open.join(&text);
            }
            if let Some(paused) = open.paused.take() {
                open.idle += now.saturating_duration_since(paused);
            }
            open.statements = open.statements.saturating_add(1);
            open.last = text.clone();
        }
        let text = if self.held + text.held() > MOST_TEXT_BYTES { Text::Unknown } else { text };
        self.held += text.held();
        self.units.push_back(Unit { kind, text, sent: self.now, tag: Box::default(), failed: false });
    }

    fn pop(&mut self) -> Option<Unit> {
        let unit = self.units.pop_front()?;
        self.held -= unit.text.held();
        Some(unit)
    }

    fn drop_units(&mut self) {
        self.units.clear();
        self.held = 0;
    }

    /// A command of the simple query at the front, or the executed portal at the front, is through.
    pub fn on_complete(&mut self, tag: &[u8]) {
        self.note(tag, false);
    }

    /// The server reports an error about what is at the front.
    pub fn on_error(&mut self, sqlstate: &[u8]) {
        self.note(sqlstate, true);
    }

    fn note(&mut self, tag: &[u8], failed: bool) {
        let traced = self.transaction.as_ref().is_some_and(|open| open.traced);
        let told = traced || self.is_slow() || !self.reports.is_empty();
        let Some(front) = self.units.front_mut() else { return };
        front.failed |= failed;
        if told {
            let tag = tag.strip_suffix(b"\0").unwrap_or(tag);
            front.tag = tag[..tag.len().min(TAG_BYTES)].into();
        }
        if front.kind == Kind::Execute {
            self.end_front();
        }
    }

    /// ReadyForQuery: what it ends is through, and what an error had the server skip never ran. `owed`: more is to come.
    pub fn on_ready(&mut self, status: TransactionStatus, owed: bool) {
        while let Some(front) = self.units.front() {
            match front.kind {
                Kind::Query => {
                    self.end_front();
                    break;
                }
                Kind::Sync => {
                    self.pop();
                    break;
                }
                // Skipped.
                Kind::Execute => drop(self.pop()),
            }
        }
        if !owed {
            self.drop_units();
            // What was waited for is through, or never ran: the next one has not waited.
            (self.overflown, self.waited, self.opening) = (false, Duration::ZERO, None);
        }
        match status {
            TransactionStatus::Idle => self.end_transaction(),
            TransactionStatus::InTransaction | TransactionStatus::Failed if owed => {}
            TransactionStatus::InTransaction | TransactionStatus::Failed => {
                let now = self.now;
                self.transaction.get_or_insert_with(|| Open::new(now)).paused = Some(now);
            }
        }
    }

    /// How long the server has had the unit at the front, and since when.
    fn front_ran(&self) -> Option<(Instant, Duration)> {
        let sent = self.units.front()?.sent;
        let since = self.through.map_or(sent, |through| through.max(sent));
        Some((since, self.now.saturating_duration_since(since)))
    }

    fn is_slow(&self) -> bool {
        let limit = self.limits.statement;
        !limit.is_zero() && self.front_ran().is_some_and(|(_, took)| took + self.waited >= limit)
    }

    fn end_front(&mut self) {
        let (slow, ran) = (self.is_slow(), self.front_ran());
        let (Some(unit), Some((since, took))) = (self.pop(), ran) else { return };
        let waited = std::mem::take(&mut self.waited);
        let together = self.through.replace(self.now) == Some(self.now);
        let outcome = if unit.failed { Outcome::Failed } else { Outcome::Completed };
        if let Some(open) = self.transaction.as_mut().filter(|open| open.traced && open.ran.len() < MOST_TRACED) {
            let (tag, text) = (unit.tag.clone(), unit.text.clone());
            open.ran.push(Ran { since, waited, took, outcome, tag, text, others: Vec::new(), statements: 1 });
        }
        if !slow
            && together
            && let Some(Report::Slow(ran)) = self.reports.last_mut()
        {
            ran.join(unit.text);
            (ran.statements, ran.outcome, ran.tag) = (ran.statements + 1, outcome, unit.tag);
            return;
        }
        if slow {
            self.tell(Ran { since, waited, took, outcome, tag: unit.tag, text: unit.text, others: Vec::new(), statements: 1 });
        }
    }

    fn tell(&mut self, ran: Ran) {
        self.reports.push(Report::Slow(ran));
        if let Some(open) = &mut self.transaction {
            open.told = open.statements == 1;
        }
    }

    fn end_transaction(&mut self) {
        if let Some(mut open) = self.transaction.take() {
            if self.is_long(&open) && !(open.told && open.statements == 1) {
                self.reports.push(Report::Long(open.so_far(self.now)));
            }
            if open.traced {
                let ran = std::mem::take(&mut open.ran);
                self.reports.push(Report::Traced(open.so_far(self.now), ran, open.parent));
            }
        }
        let traced = !self.units.is_empty() && self.is_sampled();
        // What was sent ahead is the next one.
        let mut ahead = self.units.iter().filter(|unit| unit.kind != Kind::Sync);
        if let Some(next) = ahead.next() {
            let statements = 1 + u32::try_from(ahead.count()).unwrap_or(u32::MAX - 1);
            let mut open = Open { statements, last: next.text.clone(), traced, ..Open::new(self.now) };
            if self.sampling.is_some() {
                open.join(&next.text);
            }
            self.transaction = Some(open);
        }
    }

    fn is_long(&self, open: &Open) -> bool {
        let limit = self.limits.transaction;
        !limit.is_zero() && self.now.saturating_duration_since(open.since) >= limit
    }

    /// The transaction that is open, as it is at this time.
    #[must_use]
    pub fn transaction(&self, now: Instant) -> Option<Transaction> {
        self.transaction.as_ref().map(|open| open.so_far(now))
    }

    /// The client will not see the end of what it has begun.
    pub fn abandon(&mut self) {
        let ran = self.front_ran().filter(|_| self.is_slow());
        if let Some((since, took)) = ran
            && let Some(Unit { kind: Kind::Query | Kind::Execute, text, tag, .. }) = self.pop()
        {
            let waited = std::mem::take(&mut self.waited);
            self.tell(Ran { since, waited, took, outcome: Outcome::Abandoned, tag, text, others: Vec::new(), statements: 1 });
        }
        self.drop_units();
        self.end_transaction();
    }

    /// Whether there is something to report.
    #[must_use]
    #[inline]
    pub fn has_reports(&self) -> bool {
        !self.reports.is_empty()
    }

    /// What there is.
    pub fn take_reports(&mut self) -> Vec<Report> {
        std::mem::take(&mut self.reports)
    }
}

impl Open {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            idle: Duration::ZERO,
            paused: None,
            statements: 0,
            told: false,
            last: Text::Unknown,
            opening: None,
            traced: false,
            ran: Vec::new(),
            parent: None,
        }
    }

    /// A statement says what the transaction is a part of, and so whether it is traced.
    fn join(&mut self, text: &Text) {
        if self.parent.is_none()
            && let Some(parent) = Parent::in_comment(text.bytes().0)
        {
            self.traced = parent.sampled;
            self.parent = Some(parent);
        }
    }

    fn so_far(&self, now: Instant) -> Transaction {
        let idle = self.idle + self.paused.map_or(Duration::ZERO, |paused| now.saturating_duration_since(paused));
        let took = now.saturating_duration_since(self.since);
        Transaction { since: self.since, took, idle, statements: self.statements, last: self.last.clone(), opening: self.opening }
    }
}

/// Texts by names.
#[derive(Debug, Default)]
struct Names {
    texts: HashMap<Box<[u8]>, Text>,
    /// How many bytes of texts they have.
    held: usize,
}

impl Names {
    fn get(&self, name: &[u8]) -> Text {
        self.texts.get(name).cloned().unwrap_or_default()
    }

    fn put(&mut self, name: &[u8], text: Text) {
        if name.len() > NAME_BYTES {
            return;
        }
        self.held += text.held();
        if let Some(known) = self.texts.get_mut(name) {
            self.held -= std::mem::replace(known, text).held();
        } else {
            if self.texts.len() >= MOST_NAMES || self.held > MOST_TEXT_BYTES {
                self.texts.clear();
                self.held = text.held();
            }
            self.texts.insert(name.into(), text);
        }
    }
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
