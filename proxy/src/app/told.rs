//! What the control loop does with each signal, and what it says of it: in PgBouncer's words where those are the habits.

use super::operator::Operator;
use super::reloading::Reloader;
use super::shutdown::{ShutdownMode, Way};
use super::upgrade::Doorway;
use crate::admin::facts::Trigger;
use crate::handover::channel::Channel;
use crate::signals::{Habits, Name, Request, Signals};

/// Why the control loop goes over to the end.
pub enum Ending {
    /// It was told to, in this way.
    Way(Way),
    /// A new process serves already.
    Successor(Channel),
}

/// Serves signals, the console and changed files until one says how to end, or a successor is there.
pub async fn until_told_to_end(signals: &mut Signals, reloader: &mut Reloader, operator: &mut Operator, doorway: &mut Doorway) -> Ending {
    let facts = operator.facts();
    loop {
        tokio::select! {
            name = signals.next() => match name.request(signals.habits()) {
                Request::Reload => {
                    say(signals, name, "re-reading config");
                    reloader.reload(Trigger::Signal);
                }
                Request::Shutdown(_) if operator.is_suspended() => {
                    say(signals, name, "suspend was in progress, going down immediately");
                    return Ending::Way(Way::Mode(ShutdownMode::Immediate));
                }
                Request::Shutdown(way) => {
                    say(signals, name, how(way));
                    return Ending::Way(way);
                }
                Request::Pause if operator.is_paused() => say(signals, name, "but already paused/suspended"),
                Request::Resume if !operator.is_paused() => say(signals, name, "but not paused/suspended"),
                Request::Pause => {
                    say(signals, name, "pausing all activity");
                    operator.pause(true, reloader.running()).await;
                }
                Request::Resume => {
                    say(signals, name, "continuing from PAUSE");
                    operator.pause(false, reloader.running()).await;
                }
            },
            () = reloader.files_changed() => reloader.look(),
            work = operator.next() => if let Some(mode) = operator.work(work, reloader).await {
                return Ending::Way(Way::Mode(mode));
            },
            () = facts.quit.asked() => {
                tracing::info!("asked to end over HTTP");
                return Ending::Way(Way::Drain);
            }
            channel = doorway.successor() => return Ending::Successor(channel),
        }
    }
}

/// Serves signals and the console on the way out until one says to be quick about it.
pub async fn told_again(signals: &mut Signals, reloader: &mut Reloader, operator: &mut Operator) {
    loop {
        let name = tokio::select! {
            name = signals.next() => name,
            work = operator.next() => match operator.work(work, reloader).await {
                Some(ShutdownMode::Immediate) => return,
                // The process is on its way already.
                Some(ShutdownMode::WaitForServers | ShutdownMode::WaitForClients) | None => continue,
            },
        };
        match name.request(signals.habits()) {
            Request::Reload => tracing::info!("got {}: not reloading on the way out", name.label()),
            Request::Pause | Request::Resume => tracing::info!("got {} while shutting down, ignoring", name.label()),
            Request::Shutdown(_) => {
                match signals.habits() {
                    Habits::Own => {}
                    Habits::Pgbouncer if name == Name::Quit => tracing::info!("got SIGQUIT, fast exit"),
                    Habits::Pgbouncer => tracing::info!("got {} while shutting down, fast exit", name.label()),
                }
                return;
            }
        }
    }
}

/// Our own habits have their own words where things happen.
fn say(signals: &Signals, name: Name, what: &str) {
    match signals.habits() {
        Habits::Own => {}
        Habits::Pgbouncer => tracing::info!("got {}, {what}", name.label()),
    }
}

fn how(way: Way) -> &'static str {
    match way {
        Way::Drain => "draining",
        Way::Mode(ShutdownMode::Immediate) => "fast exit",
        Way::Mode(ShutdownMode::WaitForServers) => "shutting down, waiting for all servers connections to be released",
        Way::Mode(ShutdownMode::WaitForClients) => "shutting down, waiting for all clients disconnect",
    }
}
