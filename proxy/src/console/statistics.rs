//! SHOW STATS and its kin: what each database has done in all, and on average since the start of the last full period. Pure.
//!
//! Times are in microseconds. A transaction's time is the time that it had its server connection; the time of its queries is that without the
//! pauses in which nothing was asked (`upstream::postgres::spent`). Neither has the wait for the connection, which is a column of its own.

use std::array::from_fn;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::gather::ConsoleFacts;
use super::rows::Rows;
use super::show::Show;
use crate::observe::record::{PoolCounter, PoolHistogram, PoolNumbers};

/// How many numbers there are.
const COUNT: usize = 12;

const ASSIGNMENTS: usize = 0;
const TRANSACTIONS: usize = 1;
const QUERIES: usize = 2;
const TRANSACTION_TIME: usize = 5;
const QUERY_TIME: usize = 6;
const WAIT_TIME: usize = 7;
const LOGINS: usize = 11;

/// Their names in SHOW TOTALS, behind `total_` or `avg_`.
const NAMES: [&str; COUNT] = [
    "server_assignment_count",
    "xact_count",
    "query_count",
    "client_bytes",
    "server_bytes",
    "xact_time",
    "query_time",
    "wait_time",
    "ps_client_parse_count",
    "ps_server_parse_count",
    "ps_bind_count",
    "client_login_count",
];

/// What one database has done, in the order of the columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals([u64; COUNT]);

/// What each database has done.
pub type PerDatabase = BTreeMap<Box<str>, Totals>;

impl Totals {
    /// Of a pool with these cells.
    #[must_use]
    pub fn of(numbers: &PoolNumbers) -> Self {
        let counter = |counter: PoolCounter| numbers.counters[counter as usize];
        let micros = |histogram: PoolHistogram| numbers.histograms[histogram as usize].sum_nanos / 1000;
        Self([
            counter(PoolCounter::Assignments),
            counter(PoolCounter::Transactions),
            counter(PoolCounter::Queries),
            counter(PoolCounter::BytesFromClient),
            counter(PoolCounter::BytesToClient),
            counter(PoolCounter::TransactionTime) / 1000,
            micros(PoolHistogram::Query),
            micros(PoolHistogram::Wait),
            counter(PoolCounter::ClientParses),
            counter(PoolCounter::ServerParses),
            counter(PoolCounter::Binds),
            counter(PoolCounter::Logins),
        ])
    }

    /// Of the console itself: each command is a query and a transaction.
    #[must_use]
    pub fn of_console(facts: ConsoleFacts) -> Self {
        let mut totals = [0; COUNT];
        (totals[TRANSACTIONS], totals[QUERIES], totals[LOGINS]) = (facts.queries, facts.queries, facts.logins);
        Self(totals)
    }

    /// Adds what another one has done.
    pub fn add(&mut self, other: &Self) {
        for (number, more) in self.0.iter_mut().zip(other.0) {
            *number += more;
        }
    }

    /// What was done since `before` on average: counts a second, times for each of what took them.
    #[must_use]
    fn average(&self, before: &Self, period: Duration) -> Self {
        let micros = u64::try_from(period.as_micros()).unwrap_or(u64::MAX);
        // A pool that is gone has taken its numbers along.
        let since = |index: usize| self.0[index].saturating_sub(before.0[index]);
        let each = |index: usize, of: usize| since(index).checked_div(since(of)).unwrap_or(0);
        let a_second = |count: u64| u64::try_from(u128::from(count) * 1_000_000 / u128::from(micros.max(1))).unwrap_or(u64::MAX);
        Self(from_fn(|index| match index {
            TRANSACTION_TIME => each(index, TRANSACTIONS),
            QUERY_TIME => each(index, QUERIES),
            WAIT_TIME => each(index, ASSIGNMENTS),
            _ => a_second(since(index)),
        }))
    }
}

/// What there was to count at the ends of the last two periods. Averages are taken since the older of them, so over one to two periods.
#[derive(Debug, Default)]
pub struct History {
    older: Option<(Instant, PerDatabase)>,
    newer: Option<(Instant, PerDatabase)>,
}

impl History {
    /// A period has ended, or the first one begins.
    pub fn tick(&mut self, now: Instant, totals: PerDatabase) {
        self.older = self.newer.replace((now, totals)).or(self.older.take());
    }

    /// Whether the first period is still to begin.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.newer.is_none()
    }

    /// What each database did on average, up to now.
    #[must_use]
    pub fn averages(&self, now: Instant, totals: &PerDatabase) -> PerDatabase {
        let Some((since, before)) = self.older.as_ref().or(self.newer.as_ref()) else { return PerDatabase::new() };
        let period = now.saturating_duration_since(*since);
        let none = Totals::default();
        let average = |totals: &Totals, database: &str| totals.average(before.get(database).unwrap_or(&none), period);
        totals.iter().map(|(database, totals)| (database.clone(), average(totals, database))).collect()
    }

    /// What all databases together did on average, up to now.
    #[must_use]
    pub fn average_of_all(&self, now: Instant, totals: &PerDatabase) -> Totals {
        let Some((since, before)) = self.older.as_ref().or(self.newer.as_ref()) else { return Totals::default() };
        sum(totals).average(&sum(before), now.saturating_duration_since(*since))
    }
}

fn sum(totals: &PerDatabase) -> Totals {
    totals.values().fold(Totals::default(), |mut sum, totals| {
        sum.add(totals);
        sum
    })
}

/// The line that PgBouncer logs at the end of each period.
#[must_use]
pub fn log_line(average: &Totals) -> String {
    let [_, transactions, queries, received, sent, transaction_time, query_time, wait_time, client_parses, server_parses, binds, _] =
        average.0;
    format!(
        "stats: {transactions} xacts/s, {queries} queries/s, {client_parses} client parses/s, {server_parses} server parses/s, {binds} binds/s, in {received} B/s, out {sent} B/s, xact {transaction_time} us, query {query_time} us, wait {wait_time} us"
    )
}

/// The rows of SHOW STATS, STATS_TOTALS or STATS_AVERAGES.
pub fn put(rows: &mut Rows<'_>, totals: &PerDatabase, averages: &PerDatabase) {
    let none = Totals::default();
    let rows_are_old = rows.show() == Show::OldStats;
    let (with_totals, with_averages) = (rows.show() != Show::StatsAverages, rows.show() != Show::StatsTotals);
    for (database, totals) in totals {
        let average = averages.get(database).unwrap_or(&none);
        let mut row = rows.row();
        row.text(database);
        for number in totals.0.into_iter().filter(|_| with_totals).chain(average.0.into_iter().filter(|_| with_averages)) {
            row.number(number);
        }
        if rows_are_old {
            row.number(totals.0[QUERIES]);
        }
        row.end();
    }
}

/// The rows of SHOW TOTALS.
pub fn put_totals(rows: &mut Rows<'_>, totals: &PerDatabase, average: &Totals) {
    for (prefix, numbers) in [("total", sum(totals)), ("avg", *average)] {
        for (name, number) in NAMES.iter().zip(numbers.0) {
            rows.row().text(&format!("{prefix}_{name}")).number(number).end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::rows::read;
    use crate::observe::record::PoolRecord;

    fn numbered() -> Totals {
        Totals(from_fn(|index| index as u64 * 100))
    }

    fn databases(totals: Totals) -> PerDatabase {
        [("app".into(), totals), ("pgbouncer".into(), Totals::default())].into()
    }

    #[test]
    fn cells_are_in_their_columns() {
        let record = PoolRecord::default();
        for (counter, amount) in [
            (PoolCounter::Assignments, 1),
            (PoolCounter::Transactions, 2),
            (PoolCounter::Queries, 3),
            (PoolCounter::BytesFromClient, 4),
            (PoolCounter::BytesToClient, 5),
            (PoolCounter::ClientParses, 8),
            (PoolCounter::ServerParses, 9),
            (PoolCounter::Binds, 10),
            (PoolCounter::Logins, 11),
            (PoolCounter::TransactionTime, 6999),
        ] {
            record.add(counter, amount);
        }
        record.observe(PoolHistogram::Wait, Duration::from_micros(7));
        record.observe(PoolHistogram::Query, Duration::from_nanos(5000));
        let totals = databases(Totals::of(&record.numbers()));
        let rows = read(Show::StatsTotals, |rows| put(rows, &totals, &PerDatabase::new()));
        let values: Vec<_> =
            Show::StatsTotals.columns().iter().zip(&rows[0]).map(|(column, value)| (column.name, value.clone().unwrap())).collect();
        let wanted = [
            ("database", "app"),
            ("server_assignment_count", "1"),
            ("xact_count", "2"),
            ("query_count", "3"),
            ("bytes_received", "4"),
            ("bytes_sent", "5"),
            ("xact_time", "6"),
            ("query_time", "5"),
            ("wait_time", "7"),
            ("client_parse_count", "8"),
            ("server_parse_count", "9"),
            ("bind_count", "10"),
            ("client_login_count", "11"),
        ];
        assert_eq!(values, wanted.map(|(name, value)| (name, value.to_owned())));
    }

    #[test]
    fn averages_are_a_second_or_each() {
        let start = crate::clock::now();
        let mut history = History::default();
        assert!(history.averages(start, &databases(numbered())).is_empty());
        history.tick(start, databases(Totals::default()));
        let later = start + Duration::from_secs(10);
        let average = history.averages(later, &databases(numbered()))["app"];
        // 100 transactions and 200 queries in 10 s; 500 µs for the former, 600 µs for the latter; nobody was assigned.
        assert_eq!(average.0, [0, 10, 20, 30, 40, 5, 3, 0, 80, 90, 100, 110]);
        history.tick(later, databases(numbered()));
        assert_eq!(history.averages(later, &databases(numbered()))["app"], average, "the older end counts");
        history.tick(later + Duration::from_secs(10), databases(numbered()));
        assert_eq!(history.averages(later + Duration::from_secs(15), &databases(numbered()))["app"], Totals::default());
        assert_eq!(history.averages(later, &databases(Totals::default()))["app"], Totals::default(), "nothing is negative");
    }

    #[test]
    fn totals_and_averages_are_side_by_side() {
        let rows = read(Show::Stats, |rows| put(rows, &databases(numbered()), &databases(Totals([7; COUNT]))));
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0][1].as_deref(), rows[0][12].as_deref(), rows[0][13].as_deref()), (Some("0"), Some("1100"), Some("7")));
        assert_eq!(read(Show::StatsAverages, |rows| put(rows, &databases(numbered()), &PerDatabase::new()))[0][12].as_deref(), Some("0"));
    }

    #[test]
    fn totals_of_all_are_rows() {
        let rows = read(Show::Totals, |rows| put_totals(rows, &databases(numbered()), &Totals([3; COUNT])));
        assert_eq!(rows.len(), 24);
        assert_eq!(rows[1], [Some("total_xact_count".to_owned()), Some("100".to_owned())]);
        assert_eq!(rows[23], [Some("avg_client_login_count".to_owned()), Some("3".to_owned())]);
    }

    #[test]
    fn the_console_counts_its_commands() {
        let facts = ConsoleFacts { present: 1, logins: 4, queries: 9 };
        assert_eq!(Totals::of_console(facts).0, [0, 9, 9, 0, 0, 0, 0, 0, 0, 0, 0, 4]);
        assert!(log_line(&numbered()).starts_with("stats: 100 xacts/s, 200 queries/s,"));
    }
}
