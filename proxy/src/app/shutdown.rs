//! The ways out of the process: how it stops listening, for whom it waits, and when it ends.
//!
//! Our own: not ready at once, no new clients after a while, idle clients leave, transactions finish, and what is left is cut in the end.
//! PgBouncer's: no new clients at once, and then nobody is cut: the process waits for clients, or for servers.

use std::sync::Arc;
use std::time::Duration;

use sidepool_config::model::Drain;
use tokio::sync::oneshot;
use tokio::time::{Instant, interval, sleep_until};

use super::Listening;
use crate::admin::facts::Facts;
use crate::clock;
use crate::drain::Stage;
use crate::listener::accept::Closing;

/// The ways out that PgBouncer knows (its signals in ini mode, and SHUTDOWN on the console). What SIGTERM does without an ini file is [`drain`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutdownMode {
    /// At once, cutting everybody.
    Immediate,
    /// No new clients; those that need a server are closed; the end comes when all servers have been released.
    WaitForServers,
    /// No new clients; those that are there are served until they leave.
    WaitForClients,
}

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// As `[drain]` says.
    Drain,
    /// As PgBouncer does.
    Mode(ShutdownMode),
}

/// How long clients without a transaction have to hear that the servers are gone.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How often it is looked whether everybody has left.
const LOOK: Duration = Duration::from_millis(10);

/// Tells the workers that the process is on its way out like this.
pub fn begin(facts: &Facts, mode: ShutdownMode) {
    let stage = match mode {
        ShutdownMode::Immediate => return,
        ShutdownMode::WaitForClients => Stage::NobodyNew,
        ShutdownMode::WaitForServers => Stage::NoServers,
    };
    facts.set_draining();
    advance(facts, stage);
}

/// Goes all the way; returns when the process may end.
pub async fn leave(facts: &Arc<Facts>, listening: Listening, way: Way, bounds: &Drain) {
    match way {
        Way::Drain => drain(facts, listening, bounds).await,
        Way::Mode(ShutdownMode::Immediate) => {
            facts.add_forced_closes(facts.gates().open());
        }
        Way::Mode(mode @ ShutdownMode::WaitForClients) => {
            begin(facts, mode);
            let _kept = close_tcp(listening, Closing::ServeTheRest);
            everybody_has_left(facts).await;
            tracing::info!("client connections dropped, exiting");
        }
        Way::Mode(mode @ ShutdownMode::WaitForServers) => {
            begin(facts, mode);
            let _kept = close_tcp(listening, Closing::TurnAway);
            servers_are_released(facts).await;
            tracing::info!("server connections dropped, exiting");
            advance(facts, Stage::Leaving);
            if tokio::time::timeout(LAST_WORDS, everybody_has_left(facts)).await.is_err() {
                facts.add_forced_closes(facts.gates().open());
            }
        }
    }
}

/// Closes the TCP listeners. Unix sockets stay open to the end: peers bring cancel requests there, and whoever wants to log in is told why not.
fn close_tcp(listening: Listening, closing: Closing) -> Listening {
    let (kept, closed): (Listening, Listening) = listening.into_iter().partition(|listener| listener.is_unix);
    closed.into_iter().for_each(|listener| listener.close(closing));
    kept
}

fn advance(facts: &Facts, stage: Stage) {
    for id in facts.mailboxes.ids() {
        facts.mailboxes.post(id, move |worker| {
            if stage == Stage::NoServers {
                // Whoever waits is refused; connections close when they come back.
                worker.postgres.drain();
            }
            worker.drain.advance(stage);
        });
    }
}

async fn servers_are_released(facts: &Facts) {
    let mut look = interval(LOOK);
    while in_use(facts).await > 0 {
        look.tick().await;
    }
}

/// How many server connections clients hold.
async fn in_use(facts: &Facts) -> u64 {
    let mut all = 0;
    for id in facts.mailboxes.ids() {
        let (answer, asked) = oneshot::channel();
        facts.mailboxes.post(id, move |worker| {
            // Nobody waits for the answer any more when the process ends meanwhile.
            let _ = answer.send(worker.postgres.pools.in_use(clock::now()));
        });
        all += asked.await.unwrap_or(0);
    }
    all
}

/// Our own way.
async fn drain(facts: &Arc<Facts>, listening: Listening, drain: &Drain) {
    let begun = Instant::from_std(clock::now());
    facts.set_draining();
    let clients = facts.gates().open();
    tracing::info!(clients, accept_for_s = drain.accept_for.as_secs(), timeout_s = drain.timeout.as_secs(), "draining");
    sleep_until(begun + drain.accept_for.min(drain.timeout)).await;
    drop(listening);
    advance(facts, Stage::Leaving);
    let left = tokio::time::timeout_at(begun + drain.timeout, everybody_has_left(facts)).await;
    let open = facts.gates().open();
    match left {
        Ok(()) => tracing::info!("all clients have left"),
        Err(_) => {
            facts.add_forced_closes(open);
            tracing::warn!(clients = open, "the drain timeout is over: cutting the clients that are left");
        }
    }
}

async fn everybody_has_left(facts: &Facts) {
    let mut look = interval(LOOK);
    while facts.gates().open() > 0 {
        look.tick().await;
    }
}
