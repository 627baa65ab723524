//! How much of a lane one client may have, in replies and in time: the others shall not wait for a flood, nor for an answer that does not come.

use std::rc::{Rc, Weak};
use std::task::Context;
use std::time::Duration;

use sidepool_protocol::redis::encode;
use sidepool_protocol::redis::tracker::{Abandoned, GivenUp};

use super::client::Client;
use super::group::Group;
use super::lane::{Held, Lane};
use super::refusal;
use crate::observe::record::{PoolCounter, PoolRecord};

/// How many replies the clients of a lane may wait for together, more or less.
const WINDOW: u32 = 4096;

/// A client may wait for so many in any case.
const WINDOW_MIN: u32 = 64;

/// A reply is late after so many looks at the clock.
const WATCH_TURNS: u32 = 4;

/// After so many times what a reply may take, it is the connection that is given up.
const DEAD_AFTER: u32 = 3;

impl Lane {
    /// A client waits for so many more replies.
    pub(super) fn owe(&self, client: &Rc<Client>, replies: u32) {
        if client.pending() == 0 && replies > 0 {
            self.active.set(self.active.get() + 1);
        }
        client.owe(replies);
    }

    /// A client has got so many, or waits for them no longer.
    pub(super) fn pay(&self, client: &Rc<Client>, replies: u32) {
        client.paid(replies);
        if client.pending() == 0 && replies > 0 {
            self.active.set(self.active.get() - 1);
        }
    }

    /// How many replies one client may wait for: all there is room for when it is alone, and a fair share of that when others want theirs.
    pub fn window(&self) -> u32 {
        (WINDOW / self.active.get().max(1)).max(WINDOW_MIN)
    }

    /// Gives up on replies that take too long; the connection stays for the others, unless it is the connection that is dead.
    pub(super) fn watch(&self, held: &mut Held, cx: &mut Context<'_>, group: &Weak<Group>, record: &PoolRecord) -> Result<(), ()> {
        let Some(timeout) = group.upgrade().map(|group| group.request_timeout()).filter(|timeout| !timeout.is_zero()) else {
            return Ok(());
        };
        if self.pipeline.borrow().is_empty() {
            held.watch = None;
            return Ok(());
        }
        let turn = (timeout / WATCH_TURNS).max(Duration::from_millis(1));
        let watch = held.watch.get_or_insert_with(|| Box::pin(tokio::time::sleep(turn)));
        while watch.as_mut().poll(cx).is_ready() {
            *watch = Box::pin(tokio::time::sleep(turn));
            self.pipeline.borrow_mut().on_turn();
            let inside = !held.scanner.is_between();
            let late = self.pipeline.borrow_mut().abandon(WATCH_TURNS, inside);
            for given_up in late {
                let Abandoned { owner, muted, replies } = match given_up {
                    GivenUp::Late(late) => late,
                    GivenUp::Own(own) => {
                        self.hand_over(&own);
                        continue;
                    }
                };
                record.add(PoolCounter::RedisTimedOut, u64::from(replies));
                if !muted {
                    let mut line = Vec::new();
                    encode::error(&mut line, refusal::TOO_LATE);
                    owner.0.deliver(&line.repeat(replies as usize), false);
                }
                self.pay(&owner.0, replies);
            }
            if self.pipeline.borrow().age() >= WATCH_TURNS * DEAD_AFTER {
                return Err(());
            }
        }
        Ok(())
    }
}
