//! A client that does not take a large reply as fast as it comes: the lane retires, so that others get a new one, and reads on at the client's
//! pace. Who already waits behind it does not wait for long.

use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::Context;
use std::time::Duration;

use tokio::time::Sleep;

use super::client::{Client, Fate, HIGH_WATER, Owner};
use super::group::Group;
use super::lane::{Held, Lane};

/// A client that lets a large reply lie for so long, while others wait behind it, is closed.
const PATIENCE: Duration = Duration::from_secs(1);

/// Nothing is read until a client has taken more of its large reply.
pub(super) struct Throttle {
    client: Rc<Client>,
    backlog: usize,
    /// Only while others wait behind it.
    patience: Option<Pin<Box<Sleep>>>,
}

impl Lane {
    /// A client does not keep up: whether the lane has to care.
    pub(super) fn watch_backlog(&self, held: &mut Held, client: Rc<Client>, inside: bool, group: &Weak<Group>) {
        let backlog = client.backlog();
        if backlog <= HIGH_WATER {
            return;
        }
        if !inside {
            if backlog > held.limit {
                client.doom(Fate::TooSlow);
            }
            return;
        }
        if !self.retired.replace(true)
            && let Some(group) = group.upgrade()
        {
            group.forget_retired();
        }
        let others = self.pipeline.borrow().others_wait(&Owner(Rc::clone(&client)));
        if !others || backlog > held.limit {
            let patience = others.then(|| Box::pin(tokio::time::sleep(PATIENCE)));
            held.throttle = Some(Throttle { client, backlog, patience });
        }
    }
}

impl Held {
    /// Whether nothing may be read yet.
    pub(super) fn throttled(&mut self, lane: &Lane, cx: &mut Context<'_>) -> bool {
        let Some(throttle) = &mut self.throttle else { return false };
        let backlog = throttle.client.backlog();
        if throttle.client.fate() != Fate::Alive || backlog <= HIGH_WATER {
            self.throttle = None;
            return false;
        }
        if throttle.patience.is_none() && lane.pipeline.borrow().others_wait(&Owner(Rc::clone(&throttle.client))) {
            throttle.backlog = backlog;
            throttle.patience = Some(Box::pin(tokio::time::sleep(PATIENCE)));
        }
        if let Some(patience) = &mut throttle.patience
            && patience.as_mut().poll(cx).is_ready()
        {
            if backlog >= throttle.backlog {
                throttle.client.doom(Fate::TooSlow);
                self.throttle = None;
                return false;
            }
            throttle.backlog = backlog;
            *patience = Box::pin(tokio::time::sleep(PATIENCE));
            // Registers for the new deadline; it cannot have passed already.
            let _ = patience.as_mut().poll(cx);
        }
        throttle.client.on_progress(cx.waker());
        true
    }
}
