//! What all clients of one user in one database have in common: their names, their limits, and how many there are.
//!
//! An [`Account`] belongs to a worker, the [`ClientCount`]s to the process. A [`Member`] is the right to be a client; it counts until it is
//! dropped. Nothing here is touched per message.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sidepool_config::model::{Postgres, SlowLog, Timeouts};

use crate::console::guest::CONSOLE_DATABASE;

/// How long the parts of a session may take; `None`: as long as they like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bounds {
    /// A query, its wait for a connection included.
    pub query: Option<Duration>,
    /// How long a query that was cancelled for that has to end; `None`: it is not cancelled, its connection is closed.
    pub cancelled: Option<Duration>,
    /// A pause inside of a transaction.
    pub idle_transaction: Option<Duration>,
    /// A transaction.
    pub transaction: Option<Duration>,
    /// A pause outside of transactions.
    pub client_idle: Option<Duration>,
    /// The same, with a pinned connection.
    pub pin_idle: Option<Duration>,
    /// A pause of a client that takes nothing of its answer, while a server connection waits for it.
    pub stall: Option<Duration>,
    /// A transaction that the log names while it is still open.
    pub long_transaction: Option<Duration>,
}

/// How long a cancelled query has to end where `cancel_wait_timeout` sets no bound.
const CANCEL_GRACE: Duration = Duration::from_secs(10);

impl Bounds {
    fn new(timeouts: &Timeouts, slow_log: SlowLog, cancel_wait_timeout: Duration) -> Self {
        let bound = |time: Duration| (!time.is_zero()).then_some(time);
        Self {
            query: bound(timeouts.query_timeout),
            cancelled: timeouts.query_timeout_cancels.then(|| bound(cancel_wait_timeout).unwrap_or(CANCEL_GRACE)),
            idle_transaction: bound(timeouts.idle_transaction_timeout),
            transaction: bound(timeouts.transaction_timeout),
            client_idle: bound(timeouts.client_idle_timeout),
            pin_idle: bound(timeouts.pin_idle_timeout),
            stall: bound(timeouts.client_stall_timeout),
            long_transaction: bound(slow_log.transaction),
        }
    }

    /// The shortest of them; `None`: there are none.
    #[must_use]
    pub fn shortest(&self) -> Option<Duration> {
        let Self { query, cancelled: _, idle_transaction, transaction, client_idle, pin_idle, stall, long_transaction } = *self;
        [query, idle_transaction, transaction, client_idle, pin_idle, stall, long_transaction].into_iter().flatten().min()
    }

    /// Whether there are any for a session that keeps nothing from others, reads, and is in no transaction that may be long.
    #[must_use]
    pub fn is_any(&self) -> bool {
        Self { pin_idle: None, stall: None, long_transaction: None, ..*self }.shortest().is_some()
    }
}

/// Clients of one kind: those of a database, or those of a user. Shared by all workers.
#[derive(Debug, Default)]
pub struct ClientCount {
    open: AtomicU32,
    /// Zero: as many as like.
    max: AtomicU32,
}

impl ClientCount {
    /// How many there are, and how many there may be (zero: any number).
    #[must_use]
    pub fn numbers(&self) -> (u32, u32) {
        (self.open.load(Ordering::Relaxed), self.max.load(Ordering::Relaxed))
    }

    fn enter(&self) -> bool {
        let max = self.max.load(Ordering::Relaxed);
        let entered =
            self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| (max == 0 || open < max).then(|| open.saturating_add(1)));
        entered.is_ok()
    }

    fn leave(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts clients by database and by user, for the whole process.
#[derive(Debug, Clone, Default)]
pub struct ClientCounts(Arc<Mutex<Counts>>);

type ByName = BTreeMap<Arc<str>, std::sync::Weak<ClientCount>>;

#[derive(Debug, Default)]
struct Counts {
    databases: ByName,
    users: ByName,
}

impl ClientCounts {
    fn get(&self, database: &Arc<str>, user: &Arc<str>) -> (Arc<ClientCount>, Arc<ClientCount>) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (count_of(&mut counts.databases, database), count_of(&mut counts.users, user))
    }
}

fn count_of(counts: &mut ByName, name: &Arc<str>) -> Arc<ClientCount> {
    if let Some(count) = counts.get(name).and_then(std::sync::Weak::upgrade) {
        return count;
    }
    // Names come from clients: those that nobody uses any more are not kept.
    counts.retain(|_, count| count.strong_count() > 0);
    let count = Arc::<ClientCount>::default();
    counts.insert(Arc::clone(name), Arc::downgrade(&count));
    count
}

/// One user in one database.
#[derive(Debug)]
pub struct Account {
    /// The database that the clients asked for.
    pub database: Arc<str>,
    /// The user that they are.
    pub user: Arc<str>,
    bounds: Cell<Bounds>,
    bounded: Cell<bool>,
    patience: Cell<Option<Duration>>,
    fast_close: Cell<bool>,
    slow_log: Cell<SlowLog>,
    sampling: Cell<Option<u32>>,
    observed: Cell<bool>,
    database_clients: Arc<ClientCount>,
    user_clients: Arc<ClientCount>,
}

impl Account {
    /// How long the parts of a session may take.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        self.bounds.get()
    }

    /// Whether any of them is bounded, for a session that keeps nothing from others.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        self.bounded.get()
    }

    /// How long this user waits for a connection, where that is not what the pool's limits say.
    #[must_use]
    pub fn patience(&self) -> Option<Duration> {
        self.patience.get()
    }

    /// Whether a client in session mode ends when its connection is to be closed.
    #[must_use]
    pub fn fast_close(&self) -> bool {
        self.fast_close.get()
    }

    /// What takes so long that the log says so.
    #[must_use]
    pub fn slow_log(&self) -> SlowLog {
        self.slow_log.get()
    }

    /// Whether the log names transactions that are still open.
    #[must_use]
    #[inline]
    pub fn tells_open(&self) -> bool {
        self.is_observed() && !self.slow_log().transaction.is_zero()
    }

    /// One transaction in so many is traced; `None`: none is.
    #[must_use]
    pub fn sampling(&self) -> Option<u32> {
        self.sampling.get()
    }

    /// Whether somebody wants to know how long things take.
    #[must_use]
    #[inline]
    pub fn is_observed(&self) -> bool {
        self.observed.get()
    }

    /// Takes the limits in force; answers whether what is bounded in time has changed.
    fn apply(&self, config: &Postgres) -> bool {
        let user = config.users.get(&*self.user);
        let slow_log = config.slow_log_for(&self.database, user);
        let bounds = Bounds::new(&config.timeouts_for(user), slow_log, config.cancel_wait_timeout);
        self.slow_log.set(slow_log);
        let sampling = config.traces.endpoint.is_some().then_some(config.traces.sample_one_in);
        self.sampling.set(sampling);
        self.observed.set(slow_log != SlowLog::default() || sampling.is_some());
        let changed = self.bounds.replace(bounds) != bounds;
        self.bounded.set(bounds.is_any());
        self.patience.set(user.and_then(|user| user.query_wait_timeout));
        self.fast_close.set(config.server_fast_close);
        let of_user = user.and_then(|user| user.max_user_client_connections).unwrap_or(config.max_user_client_connections);
        self.user_clients.max.store(of_user, Ordering::Relaxed);
        if &*self.database == CONSOLE_DATABASE {
            self.database_clients.max.store(config.max_db_client_connections, Ordering::Relaxed);
        } else if let Some(database) = config.database(&self.database) {
            self.database_clients.max.store(database.max_db_client_connections, Ordering::Relaxed);
        }
        changed
    }
}

/// Clients that are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crowd {
    /// Those of one database.
    Database,
    /// Those of one user.
    User,
}

impl Crowd {
    /// The setting that bounds it.
    #[must_use]
    pub fn setting(self) -> &'static str {
        match self {
            Self::Database => "max_db_client_connections",
            Self::User => "max_user_client_connections",
        }
    }
}

/// A limit on clients that is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded {
    /// Of whom there are too many.
    pub of: Crowd,
    /// How many clients there may be.
    pub max: u32,
}

/// The right to be a client of an account.
#[derive(Debug)]
pub struct Member(Rc<Account>);

impl Member {
    /// Whose client it is.
    #[must_use]
    pub fn account(&self) -> &Rc<Account> {
        &self.0
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.0.database_clients.leave();
        self.0.user_clients.leave();
    }
}

/// Database and user.
type Key = (Arc<str>, Arc<str>);

/// One worker's accounts.
#[derive(Debug)]
pub struct Accounts {
    counts: ClientCounts,
    accounts: RefCell<BTreeMap<Key, Weak<Account>>>,
}

impl Accounts {
    /// None yet. The counts are those of the process.
    #[must_use]
    pub fn new(counts: ClientCounts) -> Self {
        Self { counts, accounts: RefCell::default() }
    }

    /// One more client, if its database and its user may have one more.
    pub fn enter(&self, config: &Postgres, database: &str, user: &str) -> Result<Member, Exceeded> {
        let account = self.get(config, database, user);
        let exceeded = |of, count: &ClientCount| Exceeded { of, max: count.numbers().1 };
        if !account.database_clients.enter() {
            return Err(exceeded(Crowd::Database, &account.database_clients));
        }
        if !account.user_clients.enter() {
            account.database_clients.leave();
            return Err(exceeded(Crowd::User, &account.user_clients));
        }
        Ok(Member(account))
    }

    /// One more client, however many there are.
    pub fn enter_anyway(&self, config: &Postgres, database: &str, user: &str) -> Member {
        let account = self.get(config, database, user);
        account.database_clients.open.fetch_add(1, Ordering::Relaxed);
        account.user_clients.open.fetch_add(1, Ordering::Relaxed);
        Member(account)
    }

    /// Takes over a new configuration; answers whether sessions have to look at their bounds again.
    pub fn apply(&self, config: &Postgres) -> bool {
        let accounts = self.accounts.borrow();
        let mut changed = false;
        for account in accounts.values().filter_map(Weak::upgrade) {
            changed |= account.apply(config);
        }
        changed
    }

    fn get(&self, config: &Postgres, database: &str, user: &str) -> Rc<Account> {
        let key: Key = (database.into(), user.into());
        let mut accounts = self.accounts.borrow_mut();
        if let Some(account) = accounts.get(&key).and_then(Weak::upgrade) {
            return account;
        }
        accounts.retain(|_, account| account.strong_count() > 0);
        let (database_clients, user_clients) = self.counts.get(&key.0, &key.1);
        let account = Rc::new(Account {
            database: Arc::clone(&key.0),
            user: Arc::clone(&key.1),
            bounds: Cell::default(),
            bounded: Cell::default(),
            patience: Cell::default(),
            slow_log: Cell::default(),
            sampling: Cell::default(),
            observed: Cell::new(false),
            fast_close: Cell::default(),
            database_clients,
            user_clients,
        });
        account.apply(config);
        accounts.insert(key, Rc::downgrade(&account));
        account
    }
}

#[cfg(test)]
mod tests {
    use sidepool_config::model::{Base, PgDatabase, PgUser, Upstream};

    use super::*;

    fn config() -> Postgres {
        let mut config = Postgres { max_user_client_connections: 3, ..Postgres::default() };
        let at = PgDatabase::at(Upstream::Unix("/s".into()));
        config.databases.insert("a".into(), PgDatabase { max_db_client_connections: 2, ..at.clone() });
        config.databases.insert("*".into(), PgDatabase { max_db_client_connections: 1, ..at });
        config.users.insert("one".into(), PgUser { max_user_client_connections: Some(1), ..PgUser::default() });
        config
    }

    #[test]
    fn clients_are_counted_by_database_and_by_user_over_all_workers() {
        let (config, counts) = (config(), ClientCounts::default());
        let (here, there) = (Accounts::new(counts.clone()), Accounts::new(counts));
        let exceeded = |result: Result<Member, Exceeded>| result.err().map(|exceeded| (exceeded.of.setting(), exceeded.max));
        let first = here.enter(&config, "a", "u").unwrap();
        let _second = there.enter(&config, "a", "v").unwrap();
        assert_eq!(exceeded(here.enter(&config, "a", "u")), Some(("max_db_client_connections", 2)));
        drop(first);
        let _third = there.enter(&config, "a", "u").unwrap();
        let _other = here.enter(&config, "x", "u").unwrap();
        assert_eq!(exceeded(there.enter(&config, "x", "v")), Some(("max_db_client_connections", 1)), "each auto-database has its own");
        let _again = here.enter(&config, "y", "u").unwrap();
        assert_eq!(exceeded(here.enter(&config, "z", "u")), Some(("max_user_client_connections", 3)));
        let _one = here.enter(&config, "z", "one").unwrap();
        assert_eq!(exceeded(there.enter(&config, "w", "one")), Some(("max_user_client_connections", 1)));
        assert_eq!(exceeded(there.enter(&config, "w", "v")), None, "who is refused by one count is not left in the other");
    }

    #[test]
    fn a_reload_changes_the_limits_of_those_who_are_there() {
        let mut config = config();
        let accounts = Accounts::new(ClientCounts::default());
        let member = accounts.enter(&config, "a", "u").unwrap();
        assert!(!member.account().is_bounded());
        assert!(!accounts.apply(&config));
        config.timeouts.query_timeout = Duration::from_secs(3);
        config.databases.get_mut("a").unwrap().max_db_client_connections = 1;
        assert!(accounts.apply(&config));
        assert_eq!(member.account().bounds().shortest(), Some(Duration::from_secs(3)));
        assert!(accounts.enter(&config, "a", "v").is_err());
    }

    #[test]
    fn who_is_idle_is_not_bounded_by_what_makes_a_transaction_long() {
        let base = Base { slow_log: SlowLog { transaction: Duration::from_secs(1), ..SlowLog::default() }, ..Base::default() };
        let config = Postgres { base, ..Postgres::default() };
        let member = Accounts::new(ClientCounts::default()).enter(&config, "a", "u").unwrap();
        assert!(!member.account().is_bounded() && member.account().tells_open());
    }

    #[test]
    fn names_that_nobody_uses_are_forgotten() {
        let (config, counts) = (Postgres::default(), ClientCounts::default());
        let accounts = Accounts::new(counts.clone());
        for name in 0..1000 {
            drop(accounts.enter(&config, &name.to_string(), &name.to_string()).unwrap());
        }
        assert!(accounts.accounts.borrow().len() <= 2 && counts.0.lock().unwrap().databases.len() <= 2);
    }
}
