//! What one worker knows of the PostgreSQL side: pools, cancel keys, statement texts.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use sidepool_config::model::{Config, Postgres};
use tokio::sync::Semaphore;
use tokio::sync::mpsc;

use super::account::{Accounts, ClientCounts};
use super::authenticate::MOST_ASKED_ELSEWHERE;
use super::cancel::CancelRegistry;
use super::cancel_lines::CancelLines;
use super::deadlines::Deadlines;
use super::entrances::Entrances;
use super::keyring::Keyring;
use super::listening::Listening;
use super::lookups::Lookups;
use super::moving::Leaver;
use super::peering::Elder;
use super::pools::PgPools;
use super::prepared::StatementTable;
use super::presence::Fate;
use super::relay::ALL_AHEAD;
use super::route::PoolKey;
use super::schema_clock::SchemaClock;
use super::states::{StateTable, WhoTable};
use super::verifiers::Verifiers;
use crate::arrivals::Arrivals;
use crate::clock;
use crate::dns;
use crate::dns::cache::Terms;
use crate::observe::report::PoolReport;
use crate::pool::caps::Caps;
use crate::pool::registry::Directory;
use crate::traces::Traces;
use crate::transport::backlog::Pot;
use crate::upstream::dial::Dialing;
use crate::upstream::postgres::roll::{Numbers, Roll};
use crate::worker::{Worker, WorkerId};

/// Random bytes of the process, from which the salts of users without a verifier are made: the same on all workers, or a client that connects
/// twice could tell a user that exists from one that does not.
#[derive(Clone)]
pub struct LoginSeed([u8; 32]);

impl LoginSeed {
    /// A new one. Without random numbers there is nothing to hide behind, so that is an error.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for LoginSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LoginSeed(***)")
    }
}

/// What the workers of a process have in common on the PostgreSQL side.
#[derive(Clone)]
pub struct PostgresCommons {
    /// The cores of the pools.
    pub directory: Directory<PoolKey>,
    /// What logins brought for logging in upstream.
    pub keyring: Keyring,
    /// For salts.
    pub seed: LoginSeed,
    /// How many clients there are of each database and each user.
    pub clients: ClientCounts,
    /// How many connections they have.
    pub caps: Caps,
    /// Names and addresses of servers.
    pub dialing: Dialing,
    /// For clients and connections.
    pub numbers: Numbers,
    /// How often schemas have changed.
    pub schema: SchemaClock,
    /// How many cancels are on their way.
    pub cancel_lines: CancelLines,
    /// Who served before us.
    pub elder: Elder,
    /// Traces on their way to a collector.
    pub traces: Traces,
}

impl PostgresCommons {
    /// For a process with so many workers.
    pub fn new(workers: usize) -> Result<Self, getrandom::Error> {
        Ok(Self {
            directory: Directory::new(workers),
            keyring: Keyring::default(),
            seed: LoginSeed::random()?,
            clients: ClientCounts::default(),
            caps: Caps::default(),
            dialing: Dialing::default(),
            numbers: Numbers::default(),
            schema: SchemaClock::default(),
            cancel_lines: CancelLines::default(),
            elder: Elder::default(),
            traces: Traces::default(),
        })
    }
}

/// The PostgreSQL state of one worker.
pub struct PostgresSide {
    /// What clients of the same user and database have in common.
    pub accounts: Accounts,
    /// The sessions that are bounded in time.
    pub deadlines: Deadlines,
    /// What may be taken from servers before clients take it.
    pub ahead: Pot,
    /// The clients that can be cancelled.
    pub cancels: CancelRegistry,
    /// How many cancels are on their way, in the whole process.
    pub cancel_lines: CancelLines,
    /// Clients on their way to a new process, while there is one.
    pub leavers: RefCell<Option<mpsc::UnboundedSender<Leaver>>>,
    /// Who served before us, while it still has clients.
    pub elder: Elder,
    /// Traces on their way to a collector.
    pub traces: Traces,
    /// Whether they have texts.
    pub traces_statements: Cell<bool>,
    /// Prepared statements of all clients.
    pub statements: StatementTable,
    /// How often schemas have changed.
    pub schema: SchemaClock,
    /// How many of them a server connection keeps.
    pub statement_capacity: Cell<usize>,
    /// Session states of all clients.
    pub states: StateTable,
    /// Pools by where they lead.
    pub pools: PgPools,
    /// Verifiers of users with plain passwords.
    pub verifiers: Verifiers,
    /// Turns at asking LDAP servers and PAM.
    pub password_turns: Semaphore,
    /// Users that are being looked up.
    pub lookups: Lookups,
    /// Clients that listen for notifications, and who listens for them.
    pub listening: Listening,
    /// For salts.
    pub seed: LoginSeed,
    /// Names and addresses of servers.
    pub dialing: Dialing,
    /// For clients and connections.
    pub numbers: Numbers,
    /// The names that clients go by.
    pub names: WhoTable,
    /// Where clients come in.
    pub entrances: Entrances,
    /// Clients that have not proven who they are.
    pub arrivals: Rc<Arrivals>,
    /// How many clients have not logged in yet.
    pub arriving: Cell<u32>,
    /// What the client was told whose session is just ending.
    pub last_words: RefCell<Option<Box<str>>>,
    /// When the worker started: clients note times as what has passed since.
    pub born: Instant,
}

impl PostgresSide {
    /// An empty side: pools come with the configuration.
    #[must_use]
    pub fn new(worker: WorkerId, commons: PostgresCommons) -> Self {
        Self {
            accounts: Accounts::new(commons.clients),
            deadlines: Deadlines::default(),
            ahead: Pot::new(ALL_AHEAD),
            cancels: CancelRegistry::default(),
            cancel_lines: commons.cancel_lines,
            leavers: RefCell::default(),
            elder: commons.elder,
            traces: commons.traces,
            traces_statements: Cell::default(),
            statements: StatementTable::new(worker, commons.schema.clone()),
            schema: commons.schema,
            statement_capacity: Cell::default(),
            states: StateTable::default(),
            pools: PgPools::new(
                commons.directory,
                commons.keyring,
                commons.dialing.clone(),
                Roll::new(commons.numbers.clone()),
                commons.caps,
            ),
            dialing: commons.dialing,
            verifiers: Verifiers::default(),
            password_turns: Semaphore::new(MOST_ASKED_ELSEWHERE),
            lookups: Lookups::default(),
            listening: Listening::default(),
            seed: commons.seed,
            numbers: commons.numbers,
            names: WhoTable::default(),
            entrances: Entrances::default(),
            arrivals: Rc::default(),
            arriving: Cell::new(0),
            last_words: RefCell::default(),
            born: clock::now(),
        }
    }

    /// Takes over from `old` to `new`: at the start (`old` is then empty) and at each reload. Cannot fail: `new` is validated.
    pub fn apply(&self, old: &Config, new: &Arc<Config>, worker: &Rc<Worker>) {
        let as_pgbouncer = new.pgbouncer.is_some();
        self.pools.roll.log(as_pgbouncer && new.log.connections, as_pgbouncer && new.log.disconnections);
        if old.postgres == new.postgres {
            return;
        }
        if let Some(postgres) = &new.postgres {
            // Sessions that have begun to share statements go on doing so.
            self.statement_capacity.set((postgres.max_prepared_statements as usize).max(1));
            self.dialing.dns.configure(names(postgres));
            self.traces_statements.set(postgres.traces.statements);
            let workers = u32::try_from(worker.mailboxes.workers()).unwrap_or(1).max(1);
            self.arrivals.resize(postgres.max_client_logins.div_ceil(workers));
        }
        self.pools.apply(new.postgres.as_ref(), worker);
        if new.postgres.as_ref().is_some_and(|postgres| self.accounts.apply(postgres) || postgres.server_fast_close) {
            // Whoever had no bounds is not watched yet; whoever keeps a connection may have to give it up.
            worker.drain.wake_all();
        }
        if let Some(postgres) = new.postgres.as_ref().filter(|_| as_pgbouncer) {
            // As in PgBouncer; without an ini, who is in a transaction may end it first.
            self.cancels.end(Fate::Removed, |presence| postgres.database(&presence.who.database).is_none());
        }
        self.verifiers.retain(|user| new.postgres.as_ref()?.users.get(user));
    }

    /// A time as clients note it: microseconds since the worker started, never 0.
    #[must_use]
    pub fn micros(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.born).as_micros()).unwrap_or(u64::MAX).max(1)
    }

    /// What the pools have to report to a scrape.
    #[must_use]
    pub fn pools(&self, now: Instant) -> Vec<PoolReport> {
        self.pools.reports(now)
    }

    /// All sessions have ended, or are about to be cut: says goodbye to the upstream.
    pub fn drain(&self) {
        self.pools.drain_all();
    }
}

/// How names are resolved.
#[must_use]
pub fn names(postgres: &Postgres) -> dns::Settings {
    let terms = Terms { max_ttl: postgres.dns_max_ttl, nxdomain_ttl: postgres.dns_nxdomain_ttl };
    dns::Settings { terms, resolv_conf: postgres.resolv_conf.clone() }
}
