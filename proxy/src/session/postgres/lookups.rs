//! Looks up users that the configuration does not list: `auth_query`, on connections of its own.
//!
//! Each login looks up anew, as in PgBouncer, so that a changed password counts at once; but a login burst is no query burst. Logins of one user
//! that come while a query for it is under way wait for the *next* one, and share it: every answer is of a query that began after the login had
//! come, and there is at most one query at a time for each user, database and worker. Nothing is kept afterwards.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sidepool_config::model::Postgres;
use tokio::sync::{Mutex, OnceCell};
use tokio::time::timeout;

use super::route::{Lookup, PoolKey};
use crate::observe::record::WorkerCounter;
use crate::pool::fault::ConnectFaultKind;
use crate::pool::id::IdentityId;
use crate::pool::reason::Condition;
use crate::upstream::postgres::lookup::{Found, LookupFault, look_up};
use crate::worker::Worker;

/// How long a lookup may take where logins have no bound.
const LONGEST: Duration = Duration::from_secs(60);

/// What is looked up where, for whom.
#[derive(PartialEq, Eq, Hash, Clone)]
struct Subject {
    key: PoolKey,
    query: Arc<str>,
    user: Box<str>,
}

/// Those who look the same up: one query runs, the next is waited for.
#[derive(Default)]
struct Line {
    /// Held while a query runs.
    turn: Mutex<()>,
    /// The query that has not begun.
    next: RefCell<Option<Rc<Flight>>>,
}

type Flight = OnceCell<Result<Option<Found>, Trouble>>;

/// The lookups of one worker that are under way.
#[derive(Default)]
pub struct Lookups(RefCell<HashMap<Subject, Rc<Line>>>);

/// Why a user could not be looked up: for the log, not for a client that has proven nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What went wrong.
    pub message: Arc<str>,
    /// Whether it may work later without anybody doing anything.
    pub transient: bool,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Takes an entry that nobody waits at out of the table.
struct Seat<'a> {
    lookups: &'a Lookups,
    subject: Subject,
    line: Rc<Line>,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut lines = self.lookups.0.borrow_mut();
        // The table has it once, and so do we.
        if Rc::strong_count(&self.line) <= 2 {
            lines.remove(&self.subject);
        }
    }
}

impl Lookups {
    /// Looks `user` up as the configuration wants it for `database`. `None`: there is no such user.
    pub async fn find(&self, lookup: &Lookup, config: &Postgres, user: &str, worker: &Rc<Worker>) -> Result<Option<Found>, Trouble> {
        let subject = Subject { key: lookup.route.key.clone(), query: Arc::clone(&lookup.query), user: user.into() };
        let line = Rc::clone(self.0.borrow_mut().entry(subject.clone()).or_default());
        let seat = Seat { lookups: self, subject, line };
        let bound = if config.client_login_timeout.is_zero() { LONGEST } else { config.client_login_timeout };
        let answer = seat
            .line
            .share(async || match timeout(bound, ask(lookup, user, worker)).await {
                Ok(answer) => answer,
                Err(_) => Err(Trouble { message: format!("auth_query took longer than {} ms", bound.as_millis()).into(), transient: true }),
            })
            .await;
        let result = match &answer {
            Ok(Some(_)) => WorkerCounter::AuthLookupFound,
            Ok(None) => WorkerCounter::AuthLookupMissing,
            Err(_) => WorkerCounter::AuthLookupError,
        };
        worker.record.add(result, 1);
        answer
    }
}

impl Line {
    /// The answer of a query that begins after now: of this one, or of one that others wait for already.
    async fn share(&self, ask: impl AsyncFnOnce() -> Result<Option<Found>, Trouble>) -> Result<Option<Found>, Trouble> {
        let flight = Rc::clone(self.next.borrow_mut().get_or_insert_default());
        let answer = flight.get_or_init(async || {
            let _turn = self.turn.lock().await;
            // From here on, who comes is too late for this query.
            self.next.borrow_mut().take_if(|next| Rc::ptr_eq(next, &flight));
            ask().await
        });
        answer.await.clone()
    }
}

async fn ask(lookup: &Lookup, user: &str, worker: &Rc<Worker>) -> Result<Option<Found>, Trouble> {
    let pools = &worker.postgres.pools;
    let pool = pools
        .get(&lookup.route, worker)
        .map_err(|_| Trouble { message: "too many different databases are in use".into(), transient: true })?;
    let mut lease = match pool.pool.acquire(IdentityId::default()).await {
        Ok(lease) => lease,
        Err(error) => {
            drop(pool);
            pools.forget_if_unused(&lookup.route.key);
            // A client that names a database which does not exist learns nothing of that before it has proven who it is.
            let kind = error.fault.as_ref().map(|fault| fault.kind);
            if kind == Some(ConnectFaultKind::NoDatabase) && lookup.route.key.is_auto() {
                return Ok(None);
            }
            return Err(Trouble { message: error.to_string().into(), transient: kind != Some(ConnectFaultKind::Auth) });
        }
    };
    let target = pool.pool.connector();
    match look_up(&lookup.query, user, &mut lease, target.target()).await {
        Ok(found) => {
            lease.release(Condition::Clean);
            Ok(found)
        }
        Err(LookupFault::Query(message)) => {
            lease.release(Condition::Clean);
            Err(Trouble { message: message.into(), transient: false })
        }
        Err(LookupFault::Connection(fault)) => {
            lease.release(Condition::Broken);
            Err(Trouble { message: fault.message, transient: true })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::task::{LocalSet, yield_now};

    use super::*;

    fn found(name: String) -> Result<Option<Found>, Trouble> {
        Ok(Some(Found { name: name.into(), secret: None }))
    }

    #[tokio::test]
    async fn a_burst_shares_the_query_after_the_one_that_runs() {
        let (line, asked, gate) = (Rc::new(Line::default()), Rc::new(Cell::new(0)), Rc::new(tokio::sync::Semaphore::new(0)));
        let look_up = || {
            let (line, asked, gate) = (Rc::clone(&line), Rc::clone(&asked), Rc::clone(&gate));
            tokio::task::spawn_local(async move {
                line.share(async || {
                    asked.set(asked.get() + 1);
                    let number = asked.get();
                    gate.acquire().await.unwrap().forget();
                    found(number.to_string())
                })
                .await
            })
        };
        LocalSet::new()
            .run_until(async {
                let first = look_up();
                yield_now().await;
                assert_eq!(asked.get(), 1);
                let burst: Vec<_> = (0..100).map(|_| look_up()).collect();
                yield_now().await;
                assert_eq!(asked.get(), 1, "one at a time");
                gate.add_permits(1);
                assert_eq!(first.await.unwrap(), found("1".into()));
                gate.add_permits(1);
                for one in burst {
                    assert_eq!(one.await.unwrap(), found("2".into()), "a query that began after they had come");
                }
                assert_eq!(asked.get(), 2);
                gate.add_permits(1);
                assert_eq!(look_up().await.unwrap(), found("3".into()), "nothing is kept");
            })
            .await;
    }

    #[tokio::test]
    async fn one_who_gives_up_takes_nobody_along_and_trouble_is_shared() {
        let (line, asked) = (Rc::new(Line::default()), Rc::new(Cell::new(0)));
        let trouble = || Err(Trouble { message: "down".into(), transient: true });
        LocalSet::new()
            .run_until(async {
                let gone = Rc::clone(&line);
                let quitter = tokio::task::spawn_local(async move { gone.share(async || std::future::pending().await).await });
                yield_now().await;
                let others: Vec<_> = (0..10)
                    .map(|_| {
                        let (line, asked) = (Rc::clone(&line), Rc::clone(&asked));
                        tokio::task::spawn_local(async move {
                            line.share(async || {
                                asked.set(asked.get() + 1);
                                yield_now().await;
                                trouble()
                            })
                            .await
                        })
                    })
                    .collect();
                yield_now().await;
                quitter.abort();
                for other in others {
                    assert_eq!(other.await.unwrap(), trouble());
                }
                assert_eq!(asked.get(), 1, "who waited for the same query got the same trouble");
            })
            .await;
    }
}
