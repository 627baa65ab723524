//! The control loop's side of the admin console: carries out its orders one after the other, and keeps its statistics.
//!
//! Not here: what the console makes of an order (`console`), or how the process ends (`shutdown`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use sidepool_config::model::{Config, Postgres};
use sidepool_config::pgbouncer::show;
use sidepool_protocol::postgres::fault::Fault;
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep_until};

use super::reloading::Reloader;
use super::shutdown::{self, ShutdownMode};
use super::suspend;
use crate::admin::facts::{Facts, Outcome, Trigger};
use crate::clock;
use crate::console::command::Ending;
use crate::console::control::{Control, Order};
use crate::console::gather;
use crate::console::statistics;
use crate::console::switching::{Known, Switch, refused};
use crate::session::postgres::presence::Fate;
use crate::session::postgres::route::{ANY, PoolKey};
use crate::session::postgres::switches::Switches;

/// The control loop's end of the console.
pub struct Operator {
    control: Control,
    orders: Option<mpsc::Receiver<Order>>,
    facts: Arc<Facts>,
    switches: Switches,
    /// Makes each RECONNECT one of its own.
    reconnects: u64,
    /// When the present period of the statistics ends.
    period_ends: Instant,
}

/// What the operator has to do next.
pub enum Work {
    /// Somebody at the console wants something.
    Order(Order),
    /// A period of the statistics has ended.
    Period,
}

impl Operator {
    /// Takes the orders that come over `control`. The first period begins at once.
    #[must_use]
    pub fn new(control: Control, facts: Arc<Facts>) -> Self {
        let orders = control.take_orders();
        Self { control, orders, facts, switches: Switches::default(), reconnects: 0, period_ends: Instant::from_std(clock::now()) }
    }

    /// The next thing to do. May be dropped and called again.
    pub async fn next(&mut self) -> Work {
        let order = async {
            match &mut self.orders {
                Some(orders) => orders.recv().await,
                None => None,
            }
        };
        tokio::select! {
            Some(order) = order => Work::Order(order),
            () = sleep_until(self.period_ends) => Work::Period,
        }
    }

    /// What it knows of the process.
    #[must_use]
    pub fn facts(&self) -> Arc<Facts> {
        Arc::clone(&self.facts)
    }

    /// Does it. The answer says whether the process is to end, and how.
    pub async fn work(&mut self, work: Work, reloader: &mut Reloader) -> Option<ShutdownMode> {
        match work {
            Work::Order(order) => self.obey(order, reloader).await,
            Work::Period => {
                self.end_period(reloader.running()).await;
                None
            }
        }
    }

    async fn obey(&mut self, order: Order, reloader: &mut Reloader) -> Option<ShutdownMode> {
        // Whoever asked may have gone; what was asked for is done all the same.
        match order {
            Order::Reload(answer) => {
                let outcome = reloader.reload(Trigger::Console);
                self.settle().await;
                let _ = answer.send(outcome == Outcome::Ok);
            }
            Order::Set(key, value, answer) => {
                let result = reloader.set(&key, &value).map_err(|why| refused("SET failed".into()).with_detail(why));
                self.settle().await;
                let _ = answer.send(result);
            }
            Order::Config(answer) => {
                let _ = answer.send(show::config(reloader.running()));
            }
            Order::Switch(switch, answer) => {
                let done = self.switch(switch, reloader.running()).await;
                let _ = answer.send(done);
            }
            Order::Suspend(answer) => {
                if let Err(fault) = self.may_suspend() {
                    let _ = answer.send(Err(fault));
                    return None;
                }
                self.switches.suspended = true;
                self.tell_switches().await;
                let bound = reloader.running().postgres.as_ref().map_or(Duration::ZERO, |postgres| postgres.suspend_timeout);
                let facts = Arc::clone(&self.facts);
                // Beside this loop, which has to hear a RESUME meanwhile.
                spawn_local(async move {
                    let closed = suspend::suspend(&facts, bound).await;
                    if closed > 0 {
                        tracing::warn!(closed, "suspend_timeout: clients that did not take what was theirs have been closed");
                    }
                    let _ = answer.send(Ok(()));
                });
            }
            Order::Left(answer) => {
                if self.switches.suspended && gather::console(&self.facts.mailboxes).await.present == 0 {
                    tracing::info!("admin disappeared when suspended, doing RESUME");
                    let _ = self.switch(Switch::Resume(None), reloader.running()).await;
                }
                let _ = answer.send(());
            }
            Order::Shutdown(how, answer) => {
                // What is answered is so by then; who is on his way goes on as he began.
                if !self.facts.is_draining() {
                    shutdown::begin(&self.facts, mode(how));
                    self.settle().await;
                }
                let _ = answer.send(());
                return Some(mode(how));
            }
        }
        None
    }

    /// Whether all pools are paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.switches.paused || self.switches.suspended
    }

    /// Pauses all pools, or resumes them, as a signal wants it.
    pub async fn pause(&mut self, paused: bool, config: &Config) {
        let switch = if paused { Switch::Pause(None) } else { Switch::Resume(None) };
        // Who asks has looked before whether there is anything to do.
        let _ = self.switch(switch, config).await;
    }

    /// Returns when all workers have done what was posted to them.
    async fn settle(&self) {
        gather::ask_all(&self.facts.mailboxes, |_| ()).await;
    }

    /// Whether everybody can be asked to send what is half-way and then stand still.
    fn may_suspend(&self) -> Result<(), Fault> {
        if self.is_paused() {
            return Err(refused("already suspended/paused".into()));
        }
        // What is half-way could not be sent.
        if !self.switches.paused_databases.is_empty() {
            return Err(refused("cannot suspend with paused databases".into()));
        }
        Ok(())
    }

    async fn tell_switches(&self) {
        let switches = Arc::new(self.switches.clone());
        gather::ask_all(&self.facts.mailboxes, move |worker| worker.postgres.pools.switch(&switches)).await;
    }

    /// Whether all sessions keep still: then none of them can be waited for.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.switches.suspended
    }

    async fn switch(&mut self, switch: Switch, config: &Config) -> Result<(), Fault> {
        let mailboxes = &self.facts.mailboxes;
        let in_use: BTreeSet<Box<str>> = gather::pools(mailboxes).await.into_keys().map(|key| (&**key.database()).into()).collect();
        let in_use: Vec<Box<str>> = in_use.into_iter().collect();
        let exists = |name: &str| config.postgres.as_ref().is_some_and(|postgres| exists(postgres, name));
        let known = Known { exists: &exists, in_use: &in_use, ending: self.facts.is_draining() };
        let before = self.switches.clone();
        switch.turn(&mut self.switches, &known)?;
        if self.switches != before {
            self.tell_switches().await;
        }
        if before.suspended && !self.switches.suspended {
            suspend::resume(&self.facts);
        }
        match switch {
            Switch::Reconnect(_) => {
                self.reconnects += 1;
                let token = self.reconnects;
                let concerned = move |key: &PoolKey| switch.concerns(key.database());
                gather::ask_all(mailboxes, move |worker| {
                    worker.postgres.pools.reconnect(token, concerned);
                    // Whoever keeps a connection between transactions may have to give it up (server_fast_close).
                    worker.drain.wake_all();
                })
                .await;
            }
            Switch::Kill(_) => {
                gather::ask_all(mailboxes, move |worker| {
                    worker.postgres.cancels.end(Fate::Removed, |presence| switch.concerns(&presence.who.database))
                })
                .await;
                // The sessions' tasks, which have been woken, run before the next job does.
                self.settle().await;
            }
            Switch::Pause(_) | Switch::Resume(_) | Switch::Disable(_) | Switch::Enable(_) | Switch::Wait(_) => {}
        }
        Ok(())
    }

    /// Takes down what there is to count, and says in the log what the period was like.
    async fn end_period(&mut self, config: &Config) {
        let period =
            config.postgres.as_ref().map_or(Duration::from_secs(60), |postgres| postgres.stats_period).max(Duration::from_millis(100));
        self.period_ends += period;
        let totals = gather::totals(&self.facts.mailboxes).await;
        let now = clock::now();
        let mut history = self.control.history();
        let average = history.average_of_all(now, &totals);
        // The first period begins with this: there is nothing to tell of it yet.
        let is_first = history.is_empty();
        history.tick(now, totals);
        if config.log.stats && !is_first {
            tracing::info!("{}", statistics::log_line(&average));
        }
    }
}

fn exists(config: &Postgres, name: &str) -> bool {
    name != ANY && (config.databases.contains_key(name) || config.databases.contains_key(ANY))
}

fn mode(ending: Ending) -> ShutdownMode {
    match ending {
        Ending::Now => ShutdownMode::Immediate,
        Ending::Servers => ShutdownMode::WaitForServers,
        Ending::Clients => ShutdownMode::WaitForClients,
    }
}
