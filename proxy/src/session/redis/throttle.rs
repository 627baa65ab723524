//! A client that does not take a large reply as fast as it comes: the lane retires, so that others get a new one, and reads on at the client's
//! pace. Who already waits behind it does not wait for long, and neither does who waits for its connection.

use std::rc::{Rc, Weak};
use std::task::Context;
use std::time::Duration;

use super::beat::Beat;
use super::client::{Client, HIGH_WATER, Owner};
use super::end::End;
use super::group::Group;
use super::lane::{Held, Lane};
use crate::clock;

/// How often a client is looked at that lets a large reply lie. It may do so for no longer when others wait.
const LOOK: Duration = Duration::from_secs(1);

/// Nothing is read until a client has taken more of its large reply.
pub(super) struct Throttle {
    client: Rc<Client>,
    /// How much of it lay there at the last look.
    backlog: usize,
    /// For how long it has taken nothing.
    still: Duration,
    look: Beat,
}

impl Lane {
    /// A client does not keep up: whether the lane has to care.
    pub(super) fn watch_backlog(&self, held: &mut Held, client: Rc<Client>, inside: bool, group: &Weak<Group>) {
        let backlog = client.backlog();
        if backlog <= HIGH_WATER {
            return;
        }
        if !inside {
            if held.limit.is_over_hard(backlog) {
                client.doom(End::OutputLimit);
            }
            return;
        }
        if !self.retired.replace(true)
            && let Some(group) = group.upgrade()
        {
            group.forget_retired();
            self.turns.wake_all();
        }
        let others = self.pipeline.borrow().others_wait(&Owner(Rc::clone(&client)));
        if !others || held.limit.is_over_hard(backlog) {
            held.throttle = Some(Throttle { client, backlog, still: Duration::ZERO, look: Beat::every(LOOK) });
        }
    }
}

impl Held {
    /// Whether nothing may be read yet.
    pub(super) fn throttled(&mut self, lane: &Lane, cx: &mut Context<'_>) -> bool {
        let Some(throttle) = &mut self.throttle else { return false };
        let backlog = throttle.client.backlog();
        if !throttle.client.is_alive() || backlog <= HIGH_WATER {
            self.throttle = None;
            return false;
        }
        if throttle.look.is_due(cx) {
            throttle.still = if backlog < throttle.backlog { Duration::ZERO } else { throttle.still + LOOK };
            throttle.backlog = backlog;
            let behind = lane.pipeline.borrow().others_wait(&Owner(Rc::clone(&throttle.client)));
            let wanted = behind || self.lease.pool().snapshot(clock::now()).waiters > 0;
            if wanted || self.limit.is_too_long(throttle.still) {
                throttle.client.doom(End::OutputLimit);
                self.throttle = None;
                return false;
            }
        }
        throttle.client.on_progress(cx.waker());
        true
    }
}
