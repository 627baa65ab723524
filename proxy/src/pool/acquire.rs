//! Waiting for a connection, as a future that may be dropped at any moment, and the error when there is none.

use std::fmt;
use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::action::Outcome;
use super::fault::ConnectFault;
use super::handle::Pool;
use super::id::{Asker, IdentityId, WaiterId};
use super::lease::Lease;
use super::measure;
use super::reason::{Condition, Refusal, RefuseReason};
use super::traits::Connector;
use super::waiting::Delivery;
use crate::clock;
use crate::observe::record::PoolHistogram;

/// The future of a [`Lease`]. Dropped, it leaves the queue; a connection that was granted meanwhile goes to the next.
#[must_use = "nothing is asked for before the first poll"]
pub struct Acquire<C: Connector> {
    pool: Rc<Pool<C>>,
    identity: IdentityId,
    /// How long it waits, where that is not as the pool's limits say, in milliseconds: every client has room for this, whether it waits or not.
    patience: Option<NonZeroU32>,
    state: State,
}

/// Stands for ever.
const FOR_EVER: NonZeroU32 = NonZeroU32::MAX;

fn to_ms(patience: Duration) -> NonZeroU32 {
    // A time that is not zero is at least a millisecond.
    let ms = u32::try_from(patience.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX);
    NonZeroU32::new(ms).unwrap_or(FOR_EVER)
}

fn from_ms(ms: NonZeroU32) -> Duration {
    if ms == FOR_EVER { Duration::ZERO } else { Duration::from_millis(u64::from(ms.get())) }
}

/// How far it is.
#[derive(Clone, Copy)]
enum State {
    /// Nothing has been asked yet.
    New,
    /// In the queue, or a connection is on its way.
    Waiting { waiter: WaiterId, since: Instant },
    /// It had its answer.
    Done,
}

impl<C: Connector> Acquire<C> {
    pub(super) fn new(pool: Rc<Pool<C>>, identity: IdentityId) -> Self {
        Self { pool, identity, patience: None, state: State::New }
    }

    /// Bounds the wait otherwise than the pool's limits do; zero is for ever, `None` as they do.
    pub fn within(mut self, patience: Option<Duration>) -> Self {
        self.patience = patience.map(to_ms);
        self
    }

    /// Whether it has waited for so long that whoever waits is to be told, once.
    pub fn take_notice(&self) -> bool {
        match self.state {
            State::Waiting { waiter, .. } => self.pool.seats.borrow_mut().take_notice(waiter),
            State::New | State::Done => false,
        }
    }

    /// Since when it waits, if it does.
    #[must_use]
    pub fn since(&self) -> Option<Instant> {
        match self.state {
            State::Waiting { since, .. } => Some(since),
            State::New | State::Done => None,
        }
    }

    /// Asks the core, as often as it grants a connection that turns out to be dead.
    fn ask(&mut self, again: Option<Instant>, cx: &Context<'_>) -> Poll<Result<Lease<C>, AcquireError>> {
        let pool = Rc::clone(&self.pool);
        loop {
            let seat = pool.seats.borrow().next();
            let asker = Asker { worker: pool.worker, identity: self.identity, seat, patience: self.patience.map(from_ms) };
            let now = clock::now();
            let (outcome, wants) = pool.input(now, |core| match again {
                None => core.acquire(now, asker),
                Some(since) => core.acquire_again(now, asker, since),
            });
            let since = again.unwrap_or(now);
            if let Outcome::Queued(waiter) = outcome {
                // Before the actions that follow are performed: one of them may be for this waiter.
                pool.seats.borrow_mut().sit(waiter, cx.waker().clone());
                self.state = State::Waiting { waiter, since };
            }
            pool.pump(wants);
            match outcome {
                Outcome::Granted(id) => {
                    if let Some(lease) = pool.lease_idle(id, now) {
                        let waited = again.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
                        return Poll::Ready(Ok(self.granted(lease, waited)));
                    }
                }
                Outcome::Queued(waiter) => return self.collect(waiter, since, cx),
                Outcome::Refused(refusal) => return Poll::Ready(Err(self.refused(refusal))),
            }
        }
    }

    fn collect(&mut self, waiter: WaiterId, since: Instant, cx: &Context<'_>) -> Poll<Result<Lease<C>, AcquireError>> {
        let delivery = self.pool.seats.borrow_mut().collect(waiter, cx.waker());
        match delivery {
            None => Poll::Pending,
            Some(Delivery::Connection(id, connection, granted)) => {
                let lease = Lease::new(Rc::clone(&self.pool), id, connection, granted);
                Poll::Ready(Ok(self.granted(lease, granted.saturating_duration_since(since))))
            }
            Some(Delivery::Refused(refusal)) => Poll::Ready(Err(self.refused(refusal))),
            Some(Delivery::Lost) => {
                self.state = State::New;
                self.ask(Some(since), cx)
            }
        }
    }

    fn granted(&mut self, lease: Lease<C>, waited: Duration) -> Lease<C> {
        self.state = State::Done;
        self.pool.record().observe(PoolHistogram::Wait, waited);
        lease
    }

    fn refused(&mut self, refusal: Box<Refusal>) -> AcquireError {
        self.state = State::Done;
        self.pool.record().observe(PoolHistogram::Wait, refusal.waited);
        self.pool.record().add(measure::refusal(refusal.reason), 1);
        AcquireError { refusal, fault: self.pool.last_fault().map(Box::new), pool: Arc::clone(self.pool.name()) }
    }
}

impl<C: Connector> Future for Acquire<C> {
    type Output = Result<Lease<C>, AcquireError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.state {
            State::New => self.ask(None, cx),
            State::Waiting { waiter, since } => self.collect(waiter, since, cx),
            State::Done => unreachable!("polled after it was ready"),
        }
    }
}

impl<C: Connector> Drop for Acquire<C> {
    fn drop(&mut self) {
        let State::Waiting { waiter, .. } = self.state else { return };
        let delivery = self.pool.seats.borrow_mut().leave(waiter);
        match delivery {
            Some(Delivery::Connection(id, connection, _)) => self.pool.give_back(id, connection, Condition::Clean, None),
            Some(Delivery::Refused(_) | Delivery::Lost) => {}
            None => {
                self.pool.step(|core, now| core.cancel(now, waiter));
            }
        }
    }
}

/// Why there is no connection, with what a client should be told.
#[derive(Debug, Clone)]
pub struct AcquireError {
    /// Why, with the facts.
    pub refusal: Box<Refusal>,
    /// Why the last connect failed, if none worked since.
    pub fault: Option<Box<ConnectFault>>,
    /// The pool.
    pub pool: Arc<str>,
}

impl fmt::Display for AcquireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { refusal, fault, pool } = self;
        match refusal.reason {
            RefuseReason::QueueFull => write!(f, "the queue of pool \"{pool}\" is full")?,
            RefuseReason::WaitTimeout => {
                write!(f, "no connection of pool \"{pool}\" came free within {}", Shown(refusal.waited))?;
            }
            RefuseReason::WouldTimeOut => {
                let expected = Shown(refusal.expected.unwrap_or_default());
                write!(f, "a connection of pool \"{pool}\" would come free in about {expected}")?;
            }
            RefuseReason::UpstreamRefuses | RefuseReason::LoginFailing => write!(f, "pool \"{pool}\" cannot connect to its server")?,
            RefuseReason::Paused => write!(f, "pool \"{pool}\" is paused and takes no more waiters")?,
            RefuseReason::Draining => write!(f, "pool \"{pool}\" is being shut down")?,
        }
        let Refusal { connections, leased, max, waiters, queue_length, .. } = &**refusal;
        write!(
            f,
            " ({connections} of at most {max} connections open, {leased} in use; {waiters} of at most {queue_length} clients waiting"
        )?;
        if let Some(timeout) = refusal.wait_timeout {
            write!(f, ", each for at most {}", Shown(timeout))?;
        }
        f.write_str(")")?;
        match fault {
            Some(fault) => write!(f, "; the last connect failed: {}", fault.message),
            None => Ok(()),
        }
    }
}

impl std::error::Error for AcquireError {}

/// A time as people read it.
struct Shown(Duration);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_millis() {
            ms @ 0..10_000 if ms % 1000 != 0 => write!(f, "{ms} ms"),
            ms => write!(f, "{} s", (ms + 500) / 1000),
        }
    }
}
