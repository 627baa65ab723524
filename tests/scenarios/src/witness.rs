//! Clients that watch, during every scenario, what must hold whatever happens: no reply lost, doubled, foreign or out of order; no money made
//! or lost. They ask little, and come back whenever they are thrown out.

pub mod counting;
pub mod echo;
pub mod money;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

use self::money::Receipts;
use crate::postgres::{Door, Session};

/// Between two of a witness' questions, and before it comes back.
pub const PAUSE: Duration = Duration::from_millis(20);

/// How many of each kind.
const EACH: usize = 3;

/// A client of PostgreSQL that comes back whenever it is thrown out.
pub struct Visitor {
    door: Door,
    session: Option<Session>,
    turns: u64,
    over: Arc<AtomicBool>,
}

impl Visitor {
    /// One that has not come in yet, and comes until it is `over`.
    pub fn new(door: Door, over: Arc<AtomicBool>) -> Self {
        Self { door, session: None, turns: 0, over }
    }

    /// Its connection, and which turn this is; `None` when it is over.
    pub async fn turn(&mut self) -> Option<(&mut Session, u64)> {
        self.session = self.session.take().filter(Session::is_usable);
        while !self.over.load(Ordering::Relaxed) {
            tokio::time::sleep(PAUSE).await;
            if self.session.is_none() {
                self.session = self.door.enter().await.ok();
            }
            if self.session.is_some() {
                self.turns += 1;
                break;
            }
        }
        let turns = self.turns;
        let going_on = !self.over.load(Ordering::Relaxed);
        self.session.as_mut().filter(|_| going_on).map(|session| (session, turns))
    }
}

/// What one witness has seen.
#[derive(Debug, Default)]
pub struct Testimony {
    /// Broken promises.
    pub broken: Vec<String>,
    /// Transfers of money.
    pub receipts: Receipts,
    /// Questions that were answered, rightly or wrongly.
    pub answered: u64,
}

/// All of them.
pub struct Witnesses {
    over: Arc<AtomicBool>,
    tasks: JoinSet<Testimony>,
}

impl Witnesses {
    /// In front of PostgreSQL: transfers, and pipelines of the extended protocol.
    pub fn of_postgres(door: &Door) -> Self {
        let mut witnesses = Self::of_postgres_replies(door);
        for number in 0..EACH {
            witnesses.tasks.spawn(money::transfer_until(door.clone(), number, Arc::clone(&witnesses.over)));
        }
        witnesses
    }

    /// The same without transfers, where the server's memory does not last.
    pub fn of_postgres_replies(door: &Door) -> Self {
        let mut witnesses = Self { over: Arc::default(), tasks: JoinSet::new() };
        for number in 0..EACH {
            witnesses.tasks.spawn(echo::echo_until(door.clone(), number, Arc::clone(&witnesses.over)));
        }
        witnesses
    }

    /// In front of Redis: counters, in pipelines. `restarts` counts how often the server began anew, empty.
    pub fn of_redis(port: u16, restarts: &Arc<AtomicU64>) -> Self {
        let mut witnesses = Self { over: Arc::default(), tasks: JoinSet::new() };
        for number in 0..EACH {
            witnesses.tasks.spawn(counting::count_until(port, number, Arc::clone(restarts), Arc::clone(&witnesses.over)));
        }
        witnesses
    }

    /// Ends them and gives what they have seen broken, and all transfers.
    pub async fn end(mut self) -> (Vec<String>, Receipts) {
        self.over.store(true, Ordering::Relaxed);
        let mut all = Testimony::default();
        while let Some(testimony) = self.tasks.join_next().await {
            match testimony {
                Ok(testimony) => {
                    all.broken.extend(testimony.broken);
                    all.receipts.merge(testimony.receipts);
                    all.answered += testimony.answered;
                }
                Err(error) => all.broken.push(format!("a witness failed: {error}")),
            }
        }
        if all.answered == 0 {
            all.broken.push("no witness was ever answered: nothing was seen".to_owned());
        }
        (all.broken, all.receipts)
    }
}
