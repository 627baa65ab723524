//! What took long, in the log: each slow statement, and each long transaction once while it is open and once at its end, with whose it was.
//!
//! Where nobody asks, a session pays one branch for each batch of messages. The texts come without values (`sql_normal`), which is worked out only
//! for lines that are written.

use std::time::{Duration, Instant};

use sidepool_protocol::postgres::sql_normal::Normal;

use super::account::Account;
use super::run::{Phase, Session};
use crate::clock;
use crate::pool::lease::Lease;
use crate::upstream::postgres::connector::PgConnector;
use crate::upstream::postgres::journal::{Journal, Ran, Report, Text, Transaction};
use crate::upstream::postgres::link::Link;

/// The longest text in a line, in bytes.
pub(super) const MOST_TEXT: usize = 1024;

/// Before messages are sent: there is a journal where somebody asks, and it knows what time it is.
#[inline]
pub(super) fn at_send(link: &mut Link, account: &Account) {
    if account.is_observed() {
        keep(link, account, clock::now());
    } else if link.journal.is_some() {
        link.journal = None;
    }
}

/// Before answers are looked at: the journal knows what time it is.
#[inline]
pub(super) fn at_answer(link: &mut Link, account: &Account) {
    if let Some(journal) = &mut link.journal {
        journal.set_now(clock::now(), account.slow_log());
    }
}

fn keep(link: &mut Link, account: &Account, now: Instant) {
    let limits = account.slow_log();
    let journal = link.journal.get_or_insert_with(|| Box::new(Journal::new(limits, now, seed())));
    journal.set_now(now, limits);
    journal.sample(account.sampling());
}

/// Where the choice of what is traced begins: without random numbers at the same place for all, which is no harm.
fn seed() -> u64 {
    getrandom::u64().unwrap_or_default()
}

/// A time in milliseconds, to the microsecond.
fn ms(time: Duration) -> f64 {
    // A time that is logged has far fewer digits than this holds.
    #[expect(clippy::cast_precision_loss, reason = "see above")]
    let micros = time.as_micros() as f64;
    micros / 1000.0
}

fn shown(text: &Text) -> Normal<'_> {
    let (bytes, cut) = text.bytes();
    Normal::new(bytes, cut, MOST_TEXT)
}

/// The texts of what came through together, each without its values for itself: a quote that one of them leaves open is nothing to the next.
fn shown_all(ran: &Ran) -> String {
    let mut out = shown(&ran.text).to_string();
    for text in &ran.others {
        let (bytes, cut) = text.bytes();
        // What would not fit is an ellipsis, here and below.
        out = format!("{out}; {}", Normal::new(bytes, cut, MOST_TEXT.saturating_sub(out.len())));
        if out.len() >= MOST_TEXT {
            return out;
        }
    }
    if ran.others.len() + 1 < ran.statements as usize { out + "; …" } else { out }
}

/// Whose line it is.
struct Subject<'a> {
    pool: &'a str,
    client: u64,
    peer: String,
    user: &'a str,
    database: &'a str,
    application_name: Box<str>,
    server_pid: u32,
}

/// A line about something of a client's, with whose it is first.
macro_rules! tell {
    ($subject:expr, $message:literal, $($fields:tt)*) => {{
        let Subject { pool, client, peer, user, database, application_name, server_pid } = $subject;
        tracing::warn!(pool, client, peer, user, database, application_name, server_pid, $($fields)*, $message);
    }};
}

impl Session {
    /// The connection has been waited for, which is a part of what runs on it first.
    pub(super) fn note_wait(&self, lease: &mut Lease<PgConnector>) {
        let since = lease.since();
        let waited = self.worker.postgres.micros(since).saturating_sub(self.presence().asked());
        let waited = Duration::from_micros(waited);
        let opening = lease.opening.and_then(|opening| opening.seen_by(since.checked_sub(waited)?));
        keep(&mut lease.link, self.member.account(), since);
        if let Some(journal) = &mut lease.link.journal {
            journal.has_waited(waited, opening);
        }
    }

    /// Logs what the journal has to tell.
    #[inline]
    pub(super) fn tell_slow(&mut self) {
        if let Phase::Linked(lease) = &mut self.phase
            && let Some(journal) = &mut lease.link.journal
            && journal.has_reports()
        {
            let reports = journal.take_reports();
            self.log_reports(&reports);
        }
    }

    #[cold]
    fn log_reports(&self, reports: &[Report]) {
        for report in reports {
            match report {
                Report::Slow(ran) => self.log_statement(ran),
                Report::Long(transaction) => self.log_transaction(transaction, "closed"),
                Report::Traced(transaction, ran, parent) => self.trace(transaction, ran, *parent),
            }
        }
    }

    /// Logs the transaction that is open.
    pub(super) fn tell_open(&self) {
        let Phase::Linked(lease) = &self.phase else { return };
        if let Some(transaction) = lease.link.journal.as_ref().and_then(|journal| journal.transaction(clock::now())) {
            self.log_transaction(&transaction, "open");
        }
    }

    /// The client will not see the end of what it has begun: what was long already is logged.
    pub(super) fn abandon_journal(&mut self) {
        let Phase::Linked(lease) = &mut self.phase else { return };
        let Some(journal) = &mut lease.link.journal else { return };
        journal.set_now(clock::now(), self.member.account().slow_log());
        journal.abandon();
        self.tell_slow();
    }

    fn subject(&self) -> Subject<'_> {
        let presence = self.presence();
        let key = match &self.phase {
            Phase::Linked(lease) => lease.cancel.key(),
            Phase::Idle | Phase::Waiting(_) => &[],
        };
        Subject {
            pool: self.pool.name(),
            client: presence.id,
            peer: presence.ends.peer(),
            user: &presence.who.user,
            database: &presence.who.database,
            application_name: self.state().get("application_name").unwrap_or_default().into(),
            server_pid: key.first_chunk().map_or(0, |pid| u32::from_be_bytes(*pid)),
        }
    }

    fn log_statement(&self, ran: &Ran) {
        tell!(
            self.subject(),
            "slow statement",
            duration_ms = ms(ran.waited + ran.took),
            wait_ms = ms(ran.waited),
            server_ms = ms(ran.took),
            statements = ran.statements,
            outcome = ran.outcome.label(),
            tag = &*String::from_utf8_lossy(&ran.tag),
            statement = shown_all(ran)
        );
    }

    fn log_transaction(&self, transaction: &Transaction, state: &'static str) {
        tell!(
            self.subject(),
            "long transaction",
            state,
            duration_ms = ms(transaction.took),
            idle_ms = ms(transaction.idle),
            statements = transaction.statements,
            last_statement = %shown(&transaction.last)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::postgres::journal::Outcome;

    fn ran(first: &str, others: &[&str], statements: u32) -> Ran {
        let text = |text: &str| Text::copy(text.as_bytes(), false);
        let (since, outcome) = (clock::now(), Outcome::Failed);
        let others = others.iter().map(|other| text(other)).collect();
        Ran { since, waited: Duration::ZERO, took: Duration::ZERO, outcome, tag: Box::default(), text: text(first), others, statements }
    }

    #[test]
    fn a_quote_that_one_text_leaves_open_is_nothing_to_the_next() {
        assert_eq!(shown_all(&ran("SELECT 'abc", &["SELECT 'secret word', a"], 2)), "SELECT ?…; SELECT ?, a");
        assert_eq!(shown_all(&ran("SELECT /* abc", &["SELECT 1"], 3)), "SELECT; SELECT ?; …");
    }

    #[test]
    fn texts_of_many_are_one_bounded_line() {
        let long = "SELECT a, b FROM c ".repeat(20);
        let line = shown_all(&ran(&long, &vec![&*long; 60], 61));
        assert!(line.ends_with('…') && line.len() < 2 * MOST_TEXT, "{line}");
    }
}
