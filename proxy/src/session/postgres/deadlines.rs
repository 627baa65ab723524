//! How long the parts of a session may take, at no cost per message: no timer, no look at the clock.
//!
//! ```text
//!   session ── "something else began" ──▶ Watched ◀── looks at all of them, a few times in the shortest bound ── sweep (one a worker)
//!      ▲                                     │
//!      └────────────── wakes it: overdue ────┘
//! ```
//! A session that has no bounds has no [`Watched`]. One that has says only *that* something began; the sweep says when, at its next turn: so
//! nothing ends too early, and at most two turns of the sweep too late. Not here: what becomes of a session that is overdue (`run`).

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::task::Waker;
use std::time::{Duration, Instant};

use super::account::Account;
use crate::clock;

/// The longest pause between two turns of the sweep.
const LONGEST_PAUSE: Duration = Duration::from_millis(333);

/// The shortest.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

/// The shortest bound is divided by this.
const TURNS: u32 = 10;

/// What a session is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing, outside of a transaction.
    Idle,
    /// Waiting for a connection.
    Waiting,
    /// Something is owed by the server.
    Running,
    /// Inside of a transaction, and the client is the one to speak next.
    Paused,
    /// Nothing, outside of a transaction, but with a connection that is kept from others.
    Pinned,
}

/// What took too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overdue {
    /// A query, and it was not cancelled.
    Query,
    /// A query that was cancelled and has not ended.
    CancelledQuery,
    /// A query that still waits for a connection.
    QueuedQuery,
    /// A pause inside of a transaction.
    IdleTransaction,
    /// A transaction.
    Transaction,
    /// A pause outside of transactions.
    Client,
    /// The same, with a pinned connection.
    Pin,
    /// A pause in taking an answer for which a connection waits.
    Stall,
}

impl Overdue {
    /// Its name in the log: that of the setting, but for what follows from one.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Query => "query_timeout",
            Self::CancelledQuery => "cancelled_query",
            Self::QueuedQuery => "queued_query",
            Self::IdleTransaction => "idle_transaction_timeout",
            Self::Transaction => "transaction_timeout",
            Self::Client => "client_idle_timeout",
            Self::Pin => "pin_idle_timeout",
            Self::Stall => "client_stall_timeout",
        }
    }
}

/// Whether the log is to know of a transaction that is still open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Long {
    /// It is not that long.
    No,
    /// It is.
    Due,
    /// It knows.
    Told,
}

/// A session with bounds, as the sweep sees it.
#[derive(Debug)]
pub(super) struct Watched {
    account: Rc<Account>,
    stage: Cell<Stage>,
    /// Since when; `None`: since the last turn of the sweep.
    since: Cell<Option<Instant>>,
    /// The same for the transaction.
    transaction_since: Cell<Option<Instant>>,
    /// Its query was cancelled for taking too long.
    cancelled: Cell<bool>,
    /// How many bytes the client has not taken, while its connection waits for that.
    untaken: Cell<Option<usize>>,
    /// Since when it has been as many; `None`: since the last turn of the sweep.
    untaken_since: Cell<Option<Instant>>,
    overdue: Cell<Option<Overdue>>,
    long: Cell<Long>,
    /// The sweep looks at it.
    listed: Cell<bool>,
    waker: Waker,
}

impl Watched {
    /// Says what the session is doing now.
    pub(super) fn is_doing(&self, stage: Stage) {
        let before = self.stage.replace(stage);
        if before == stage {
            return;
        }
        self.overdue.set(None);
        let transaction = |stage| matches!(stage, Stage::Running | Stage::Paused);
        if !(transaction(before) && transaction(stage)) {
            self.forget_transaction();
        }
        // The wait is a part of the query.
        if !(before == Stage::Waiting && stage == Stage::Running) {
            self.begin();
        }
    }

    /// Whether the sweep has to look at it in this stage.
    fn is_swept(&self, stage: Stage) -> bool {
        stage != Stage::Idle || self.account.is_bounded()
    }

    /// Says that something ended, and something of the same kind began.
    pub(super) fn begin(&self) {
        self.since.set(None);
        self.cancelled.set(false);
        self.overdue.set(None);
    }

    /// Says that so many queries and transactions ended.
    pub(super) fn on_ready(&self, queries: u64, transactions: u64) {
        if queries > 0 {
            self.begin();
        }
        if transactions > 0 {
            self.forget_transaction();
        }
    }

    fn forget_transaction(&self) {
        self.transaction_since.set(None);
        self.long.set(Long::No);
    }

    /// Says that the query was cancelled.
    pub(super) fn cancel(&self) {
        self.since.set(None);
        self.cancelled.set(true);
    }

    /// Says how many bytes the client has not taken while its connection waits for that; `None`: it does not.
    pub(super) fn waits_for_client(&self, untaken: Option<usize>) {
        if self.untaken.replace(untaken) != untaken {
            self.untaken_since.set(None);
        }
    }

    /// What took too long, if something did.
    pub(super) fn take_overdue(&self) -> Option<Overdue> {
        self.overdue.take()
    }

    /// Whether the log is to know of the transaction that is open, once.
    pub(super) fn take_long(&self) -> bool {
        let due = self.long.get() == Long::Due;
        if due {
            self.long.set(Long::Told);
        }
        due
    }

    /// Looks whether the transaction is one that the log is to know of; true when that is news.
    fn is_newly_long(&self, now: Instant) -> bool {
        let Some(bound) = self.account.bounds().long_transaction else { return false };
        let open = matches!(self.stage.get(), Stage::Running | Stage::Paused);
        let news = open && self.long.get() == Long::No && elapsed(&self.transaction_since, now) >= bound;
        if news {
            self.long.set(Long::Due);
        }
        news
    }

    /// Notes the time of what is new, and looks what takes too long.
    fn look(&self, now: Instant) -> Option<Overdue> {
        let bounds = self.account.bounds();
        let stage = self.stage.get();
        let took = elapsed(&self.since, now);
        let longer = |took: Duration, bound: Option<Duration>| bound.is_some_and(|bound| took >= bound);
        if let Stage::Running | Stage::Paused = stage
            && longer(elapsed(&self.transaction_since, now), bounds.transaction)
            && !(stage == Stage::Running && longer(took, bounds.query))
        {
            return Some(Overdue::Transaction);
        }
        if self.untaken.get().is_some() && longer(elapsed(&self.untaken_since, now), bounds.stall) {
            return Some(Overdue::Stall);
        }
        match stage {
            Stage::Idle => longer(took, bounds.client_idle).then_some(Overdue::Client),
            Stage::Waiting => longer(took, bounds.query).then_some(Overdue::QueuedQuery),
            Stage::Running if self.cancelled.get() => longer(took, bounds.cancelled).then_some(Overdue::CancelledQuery),
            Stage::Running => longer(took, bounds.query).then_some(Overdue::Query),
            Stage::Paused => longer(took, bounds.idle_transaction).then_some(Overdue::IdleTransaction),
            Stage::Pinned if longer(took, bounds.client_idle) => Some(Overdue::Client),
            Stage::Pinned => longer(took, bounds.pin_idle).then_some(Overdue::Pin),
        }
    }
}

fn elapsed(since: &Cell<Option<Instant>>, now: Instant) -> Duration {
    match since.get() {
        Some(since) => now.saturating_duration_since(since),
        None => {
            since.set(Some(now));
            Duration::ZERO
        }
    }
}

/// The sessions of one worker that have bounds.
#[derive(Debug, Default)]
pub struct Deadlines(Rc<Table>);

#[derive(Debug, Default)]
struct Table {
    watched: RefCell<Vec<Weak<Watched>>>,
    sweeping: Cell<bool>,
}

impl Deadlines {
    /// Watches a session of this account from now on; `waker` is that of its task. Ends when what is given back is dropped.
    pub(super) fn watch(&self, account: &Rc<Account>, waker: &Waker) -> Rc<Watched> {
        let watched = Rc::new(Watched {
            account: Rc::clone(account),
            stage: Cell::new(Stage::Idle),
            since: Cell::new(None),
            transaction_since: Cell::new(None),
            cancelled: Cell::new(false),
            untaken: Cell::default(),
            untaken_since: Cell::default(),
            overdue: Cell::new(None),
            long: Cell::new(Long::No),
            listed: Cell::new(false),
            waker: waker.clone(),
        });
        self.enlist(&watched);
        watched
    }

    /// The sweep looks at it again, if it is doing something that is bounded: it forgets who only has transactions that may be long, and none.
    #[inline]
    pub(super) fn list(&self, watched: &Rc<Watched>, stage: Stage) {
        if !watched.listed.get() && watched.is_swept(stage) {
            self.enlist(watched);
        }
    }

    fn enlist(&self, watched: &Rc<Watched>) {
        watched.listed.set(true);
        self.0.watched.borrow_mut().push(Rc::downgrade(watched));
        if !self.0.sweeping.replace(true) {
            tokio::task::spawn_local(sweep(Rc::downgrade(&self.0)));
        }
    }
}

/// Looks at all of them, again and again, for as long as there are any.
async fn sweep(table: Weak<Table>) {
    while let Some(pause) = table.upgrade().and_then(|table| table.turn(clock::now())) {
        tokio::time::sleep(pause).await;
    }
}

impl Table {
    /// Looks at all of them; answers how long to pause, and `None` when there are none left.
    fn turn(&self, now: Instant) -> Option<Duration> {
        let mut shortest: Option<Duration> = None;
        self.watched.borrow_mut().retain(|watched| {
            let Some(watched) = watched.upgrade() else { return false };
            if !watched.is_swept(watched.stage.get()) {
                watched.listed.set(false);
                return false;
            }
            let bound = watched.account.bounds().shortest();
            shortest = bound.map(|bound| shortest.map_or(bound, |shortest| shortest.min(bound))).or(shortest);
            let overdue = watched.look(now);
            if overdue.is_some() {
                watched.overdue.set(overdue);
            }
            if watched.is_newly_long(now) || overdue.is_some() {
                watched.waker.wake_by_ref();
            }
            true
        });
        if self.watched.borrow().is_empty() {
            self.sweeping.set(false);
            return None;
        }
        Some(shortest.map_or(LONGEST_PAUSE, |bound| (bound / TURNS).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)))
    }
}

#[cfg(test)]
mod tests {
    use sidepool_config::model::{Base, Postgres, SlowLog, Timeouts};

    use super::super::account::{Accounts, ClientCounts, Member};
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_long_transaction_is_told_of_once() {
        let slow_log = SlowLog { transaction: ms(100), ..SlowLog::default() };
        let base = Base { slow_log, ..Base::default() };
        let mut bench = bench_of(Postgres { base, ..Postgres::default() });
        for _ in 0..2 {
            bench.does(Stage::Running);
            assert_eq!(bench.pass(60), None);
            bench.watched.is_doing(Stage::Paused);
            assert_eq!(bench.pass(20), None);
            assert!(!bench.watched.take_long());
            assert_eq!(bench.pass(40), None, "nobody is closed for it");
            assert!(bench.watched.take_long());
            assert_eq!(bench.pass(500), None);
            assert!(!bench.watched.take_long());
            bench.watched.on_ready(1, 1);
            bench.does(Stage::Idle);
            assert_eq!(bench.listed(), 1);
            assert_eq!(bench.pass(500), None);
            assert!(!bench.watched.take_long());
            assert_eq!(bench.listed(), 0, "nobody looks at who is in no transaction");
        }
    }

    struct Bench {
        deadlines: Deadlines,
        watched: Rc<Watched>,
        now: Instant,
        _member: Member,
    }

    fn bench(timeouts: Timeouts) -> Bench {
        bench_of(Postgres { timeouts, cancel_wait_timeout: ms(50), ..Postgres::default() })
    }

    fn bench_of(config: Postgres) -> Bench {
        let member = Accounts::new(ClientCounts::default()).enter(&config, "a", "u").unwrap();
        let deadlines = Deadlines::default();
        deadlines.0.sweeping.set(true);
        let watched = deadlines.watch(member.account(), Waker::noop());
        Bench { deadlines, watched, now: clock::now(), _member: member }
    }

    impl Bench {
        /// What a session does that says what it is doing.
        fn does(&self, stage: Stage) {
            self.deadlines.0.sweeping.set(true);
            self.deadlines.list(&self.watched, stage);
            self.watched.is_doing(stage);
        }

        fn listed(&self) -> usize {
            self.deadlines.0.watched.borrow().len()
        }

        /// Time passes in turns of the sweep; gives what is overdue then.
        fn pass(&mut self, time: u64) -> Option<Overdue> {
            for _ in 0..time / 10 {
                self.now += ms(10);
                self.deadlines.0.turn(self.now);
            }
            self.watched.take_overdue()
        }
    }

    fn all() -> Timeouts {
        Timeouts {
            query_timeout: ms(100),
            query_timeout_cancels: false,
            idle_transaction_timeout: ms(200),
            transaction_timeout: ms(1000),
            client_idle_timeout: ms(300),
            pin_idle_timeout: ms(250),
            client_stall_timeout: ms(150),
        }
    }

    #[test]
    fn each_stage_has_its_own_bound() {
        for (stage, bound, overdue) in [
            (Stage::Idle, 300, Overdue::Client),
            (Stage::Waiting, 100, Overdue::QueuedQuery),
            (Stage::Running, 100, Overdue::Query),
            (Stage::Paused, 200, Overdue::IdleTransaction),
            (Stage::Pinned, 250, Overdue::Pin),
        ] {
            let mut bench = bench(all());
            bench.watched.is_doing(stage);
            assert_eq!(bench.pass(bound), None, "{stage:?} does not end too early");
            assert_eq!(bench.pass(20), Some(overdue));
            bench.watched.is_doing(if stage == Stage::Idle { Stage::Running } else { Stage::Idle });
            assert_eq!(bench.watched.take_overdue(), None, "what ended just in time is not overdue");
        }
    }

    #[test]
    fn a_query_counts_from_its_first_byte_and_each_anew() {
        let mut bench = bench(all());
        bench.watched.is_doing(Stage::Waiting);
        assert_eq!(bench.pass(60), None);
        bench.watched.is_doing(Stage::Running);
        assert_eq!(bench.pass(40), None);
        assert_eq!(bench.pass(20), Some(Overdue::Query), "the wait is a part of it");
        bench.watched.begin();
        assert_eq!(bench.pass(90), None);
    }

    #[test]
    fn a_transaction_has_a_bound_over_all_its_parts() {
        let mut bench = bench(Timeouts { query_timeout: Duration::ZERO, idle_transaction_timeout: Duration::ZERO, ..all() });
        for _ in 0..10 {
            bench.watched.is_doing(Stage::Running);
            assert_eq!(bench.pass(50), None);
            bench.watched.is_doing(Stage::Paused);
            assert_eq!(bench.pass(50), None);
        }
        assert_eq!(bench.pass(20), Some(Overdue::Transaction));
        bench.watched.on_ready(1, 1);
        bench.watched.is_doing(Stage::Running);
        assert_eq!(bench.pass(900), None, "the next has all the time again");
    }

    #[test]
    fn a_cancelled_query_has_a_while_to_end() {
        let mut bench = bench(Timeouts { query_timeout_cancels: true, ..all() });
        bench.watched.is_doing(Stage::Running);
        assert_eq!(bench.pass(120), Some(Overdue::Query));
        bench.watched.cancel();
        assert_eq!(bench.pass(50), None);
        assert_eq!(bench.pass(20), Some(Overdue::CancelledQuery));
    }

    #[test]
    fn who_takes_something_now_and_then_is_slow_and_not_stuck() {
        let mut bench = bench(Timeouts { query_timeout: Duration::ZERO, ..all() });
        bench.watched.is_doing(Stage::Running);
        for untaken in [900, 800, 700] {
            bench.watched.waits_for_client(Some(untaken));
            assert_eq!(bench.pass(100), None);
            bench.watched.waits_for_client(Some(untaken));
        }
        assert_eq!(bench.pass(80), Some(Overdue::Stall));
        bench.watched.waits_for_client(None);
        assert_eq!(bench.pass(500), None, "nothing waits for it");
    }

    #[test]
    fn the_sweep_ends_with_the_last_session() {
        let Bench { deadlines, watched, now, _member } = bench(all());
        let table = &deadlines.0;
        assert_eq!(table.turn(now), Some(ms(10)));
        drop(watched);
        assert_eq!(table.turn(now), None);
        assert!(!table.sweeping.get());
    }
}
