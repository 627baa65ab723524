//! Commands that turn out to be slow. Some are known to keep a server busy; others do for what they are asked: a range of a million, a search of a
//! module. Ten times a second and more, but not at each message, a worker looks at its lanes: where no reply has come since the last look, the
//! command that is waited for is held to be slow. What is slow on average goes down the heavy lane for a while.
//!
//! One row for each command of the table, and no more. That somebody else's command kept the server busy meanwhile is noise: it evens out over the
//! uses.

use std::cell::Cell;
use std::rc::Weak;
use std::time::Duration;

use sidepool_protocol::redis::command::{self, Command};
use tokio::time::MissedTickBehavior;

use super::server::Server;

/// How often lanes are looked at while there is work.
const LOOK: Duration = Duration::from_millis(10);

/// After so many looks at which nobody had work, nobody looks any more.
const IDLE_LOOKS: u32 = 20;

/// A command is slow from so many looks on at which it was waited for, …
const STALLS_MIN: u32 = 4;

/// … if that is one for every so many uses: about 15 ms for each.
const USES_PER_STALL: u32 = 2;

/// For how many looks it then is: a minute of work.
const SLOW_FOR: u32 = 6_000;

/// After so many looks, what was seen counts half.
const HALF_LIFE: u32 = 1_000;

/// What one worker has seen of the commands of one server.
#[derive(Debug)]
pub struct Slow {
    rows: Box<[Row]>,
    /// Counts the looks.
    now: Cell<u32>,
}

#[derive(Debug, Default)]
struct Row {
    uses: Cell<u32>,
    stalls: Cell<u32>,
    /// Until which look it is held to be slow.
    until: Cell<u32>,
}

impl Default for Slow {
    fn default() -> Self {
        Self { rows: (0..command::COUNT).map(|_| Row::default()).collect(), now: Cell::new(0) }
    }
}

impl Slow {
    /// The command is used; whether it is held to be slow.
    pub fn note(&self, command: &'static Command) -> bool {
        let Some(row) = self.rows.get(command::number(command)) else { return false };
        row.uses.set(row.uses.get().saturating_add(1));
        row.until.get() > self.now.get()
    }

    /// The command was waited for. Whether it is slow from now on, and was not before.
    pub fn stalled(&self, command: &'static Command) -> bool {
        let Some(row) = self.rows.get(command::number(command)) else { return false };
        let stalls = row.stalls.get().saturating_add(1);
        row.stalls.set(stalls);
        if stalls < STALLS_MIN || row.uses.get() > stalls.saturating_mul(USES_PER_STALL) {
            return false;
        }
        let known = row.until.replace(self.now.get().saturating_add(SLOW_FOR)) > self.now.get();
        !known
    }

    /// A look is over.
    pub fn on_look(&self) {
        let now = self.now.get().saturating_add(1);
        self.now.set(now);
        if now.is_multiple_of(HALF_LIFE) {
            for row in &self.rows {
                row.uses.set(row.uses.get() / 2);
                row.stalls.set(row.stalls.get() / 2);
            }
        }
    }
}

/// Looks at the lanes of a server for as long as there is work.
pub async fn look(server: Weak<Server>) {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut idle, mut last) = (0, looks.tick().await);
    while idle < IDLE_LOOKS {
        let now = looks.tick().await;
        let ms = u32::try_from(now.saturating_duration_since(last).as_millis()).unwrap_or(u32::MAX);
        last += Duration::from_millis(u64::from(ms));
        let Some(server) = server.upgrade() else { return };
        idle = if server.look(ms) { 0 } else { idle + 1 };
    }
    if let Some(server) = server.upgrade() {
        server.stop_looking();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(name: &str) -> &'static Command {
        command::lookup(name.as_bytes()).unwrap()
    }

    #[test]
    fn what_is_waited_for_each_time_is_slow_for_a_while() {
        let slow = Slow::default();
        let (lrange, get) = (command("lrange"), command("get"));
        let mut found = 0;
        for _ in 0..10 {
            assert!(!slow.note(get));
            slow.note(lrange);
            found += u32::from(slow.stalled(lrange));
            slow.on_look();
        }
        assert_eq!(found, 1, "it is news once");
        assert!(slow.note(lrange) && !slow.note(get));
        (0..=SLOW_FOR).for_each(|_| slow.on_look());
        assert!(!slow.note(lrange), "it has another chance");
    }

    #[test]
    fn what_is_used_often_is_not_slow_for_being_waited_for_now_and_then() {
        let slow = Slow::default();
        let get = command("get");
        for round in 0..50_000 {
            assert!(!slow.note(get));
            if round % 100 == 99 {
                assert!(!slow.stalled(get));
            }
            if round % 1000 == 0 {
                slow.on_look();
            }
        }
    }

    #[test]
    fn one_long_wait_is_forgotten() {
        let slow = Slow::default();
        let get = command("get");
        slow.note(get);
        (0..STALLS_MIN - 1).for_each(|_| assert!(!slow.stalled(get)));
        (0..HALF_LIFE * 3).for_each(|_| slow.on_look());
        (0..STALLS_MIN - 1).for_each(|_| assert!(!slow.stalled(get)));
    }
}
