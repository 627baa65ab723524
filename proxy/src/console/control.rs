//! How the console reaches the control loop, the one place where the process is steered: each order has its answer.
//!
//! Not here: what the control loop does with an order (`app::operator`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sidepool_config::pgbouncer::show::Row;
use sidepool_protocol::postgres::fault::Fault;
use tokio::sync::{mpsc, oneshot};

use super::command::Ending;
use super::statistics::History;
use super::switching::Switch;

/// Most orders that wait for the control loop. Each session of the console has at most one.
const MOST_ORDERS: usize = 64;

/// Where an answer goes.
pub type Answer<T> = oneshot::Sender<T>;

/// When a setting that was set is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InForce {
    /// From now on.
    Now,
    /// When what belongs to it is set, too.
    Later,
}

/// What the console wants of the control loop.
pub enum Order {
    /// Read the configuration again; the answer says whether it is in force.
    Reload(Answer<bool>),
    /// Set one setting.
    Set(Box<str>, Box<str>, Answer<Result<InForce, Fault>>),
    /// All settings.
    Config(Answer<Vec<Row>>),
    /// Pause, resume and the like. The answer comes when all workers have done it.
    Switch(Switch, Answer<Result<(), Fault>>),
    /// Stand still for a takeover.
    Suspend(Answer<Result<(), Fault>>),
    /// End.
    Shutdown(Ending, Answer<()>),
}

/// A way to the control loop; each worker has one.
#[derive(Clone)]
pub struct Control {
    orders: mpsc::Sender<Order>,
    taken: Arc<Mutex<Option<mpsc::Receiver<Order>>>>,
    history: Arc<Mutex<History>>,
}

impl Default for Control {
    fn default() -> Self {
        let (orders, taken) = mpsc::channel(MOST_ORDERS);
        Self { orders, taken: Arc::new(Mutex::new(Some(taken))), history: Arc::default() }
    }
}

impl Control {
    /// The other end; for the control loop, once.
    #[must_use]
    pub fn take_orders(&self) -> Option<mpsc::Receiver<Order>> {
        lock(&self.taken).take()
    }

    /// Gives an order and waits for its answer; `None`: the control loop is gone.
    pub async fn order<T>(&self, order: impl FnOnce(Answer<T>) -> Order) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.orders.send(order(answer)).await.ok()?;
        answered.await.ok()
    }

    /// What there was to count at the end of the last periods.
    pub fn history(&self) -> MutexGuard<'_, History> {
        lock(&self.history)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
