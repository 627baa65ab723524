//! A session before a full lane: it waits for its turn, first come first served within its identity and fair between identities, for as long as anybody
//! waits for a connection (`query_wait_timeout`) and beside as many others (`max_queue_length`). Who has nothing to say stands in no line. Whoever waits in
//! vain is told so for each request that is there: none of them has been sent.
//!
//! Not here: the line itself (`turns`), and waiting for a connection of one's own (`leased`).

use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use sidepool_config::model::QueueFairness;
use sidepool_protocol::redis::command::Handling;

use super::end::End;
use super::identity;
use super::refusal;
use super::requests::{front, handling};
use super::run::{Attached, Session};
use super::steps::{Next, Replies, Step};
use super::turns::Admission;
use crate::clock;
use crate::observe::record::PoolCounter;
use crate::pool::id::IdentityId;
use crate::pool::measure;
use crate::pool::reason::RefuseReason;

impl Session {
    /// Ready when what the client says next may be dealt with, or is to be refused.
    pub(super) fn poll_admission(&mut self, cx: &mut Context<'_>) -> Poll<Option<RefuseReason>> {
        let crowded = self.attached.as_ref().is_some_and(|Attached { lane, .. }| lane.is_crowded());
        // Whoever is through with a command that takes long stands in no line of such commands before it is known that its next is one, too.
        let heavy = self.attached.as_ref().is_some_and(|Attached { lane, .. }| lane.is_heavy());
        if crowded && heavy && self.client.pending() == 0 && self.client.place.is_out() {
            self.attach(false);
        }
        let has_something_to_say = !crowded || self.fresh || self.poll_said(cx);
        let Some(Attached { group, lane }) = &self.attached else { return Poll::Ready(None) };
        // A lane that has retired takes nothing more: what comes next goes to another one.
        if !has_something_to_say || lane.is_retired() {
            lane.leave_line(&self.client);
            return Poll::Ready(None);
        }
        match lane.admit(&self.client, || group.line()) {
            Admission::Now => Poll::Ready(None),
            Admission::Later => {
                self.lined_up_ms = self.lined_up_ms.or_else(|| NonZeroU32::new(self.age_ms()));
                Poll::Pending
            }
            Admission::Refused(reason) => Poll::Ready(Some(reason)),
        }
    }

    /// For how long it has waited for what it has not sent yet.
    pub(super) fn waited(&self) -> Duration {
        let waited = self.lined_up_ms.map_or(0, |since| self.age_ms().saturating_sub(since.get()));
        Duration::from_millis(u64::from(waited))
    }

    fn age_ms(&self) -> u32 {
        u32::try_from(clock::now().saturating_duration_since(self.client.since).as_millis()).unwrap_or(u32::MAX)
    }

    /// The session has done what it can for now. Whoever takes a step stands in no line meanwhile, and whoever was called and did not come, because it
    /// does not read its replies, is not waited for. What has not been used of a turn is the next one's.
    pub(super) fn end_turn(&mut self, step: &Poll<Step>) {
        match &self.attached {
            Some(Attached { lane, .. }) if step.is_ready() || self.client.place.is_called() => lane.leave_line(&self.client),
            Some(Attached { lane, .. }) => lane.call_next(),
            None => {}
        }
        if self.client.place.is_out() {
            self.lined_up_ms = None;
        }
    }

    /// Whether the client has said something, or has gone. Under TLS that is read, as far as it goes in one go.
    fn poll_said(&mut self, cx: &mut Context<'_>) -> bool {
        if let Some(has) = self.client.has_said(cx) {
            return has;
        }
        let read = self.poll_more(cx).is_ready();
        self.fresh |= read && self.closing.is_none();
        read && self.closing.is_none()
    }

    /// Refuses all requests that are there; what is to be done next, where that takes more.
    pub(super) fn refuse_said(&mut self, reason: RefuseReason, cx: &mut Context<'_>) -> Poll<Next> {
        if !std::mem::take(&mut self.fresh) {
            std::task::ready!(self.poll_more(cx));
        }
        let Some(Attached { group, lane }) = &self.attached else { return Poll::Ready(Next::Done) };
        let (record, pool) = (Rc::clone(&lane.record), Arc::clone(group.shared.name()));
        let (bounds, identity) = (group.line(), self.client.place.identity.get());
        let line = refusal::crowded(&pool, lane.is_heavy(), reason, lane.waiting(), bounds, lane.outlook(identity, bounds.patience));
        let (next, refused) = self.refuse_each(&line);
        // Who has only left, or has not said all of it yet, is not refused anything.
        if refused > 0 {
            record.add(measure::refusal(reason), 1);
            record.add(PoolCounter::ErrorRefused, refused);
            self.note_refused(&pool, reason, &line);
        }
        Poll::Ready(next)
    }

    /// Answers each request that is there with this line; what is to be done next, and how many have been.
    fn refuse_each(&mut self, line: &str) -> (Next, u64) {
        // Each request is looked at once, however many there are.
        let (mut at, mut refused) = (0, 0);
        loop {
            let (whole, length) = match front(&self.carry[at..]) {
                Ok(Some(front)) => front,
                Ok(None) => break,
                Err(fault) => {
                    self.protocol_fault(fault);
                    break;
                }
            };
            at += length;
            let handling = handling(&whole);
            if handling == Some(Handling::Quit) {
                self.say(b"+OK\r\n");
                self.closing = Some(End::Left);
                break;
            }
            // These say what becomes of the replies to those behind them, and need no connection.
            if matches!(handling, Some(Handling::ReplyMode | Handling::Reset)) {
                let next = self.one(&whole);
                if !matches!(next, Next::Done) {
                    self.drop_front(at - length);
                    return (next, refused);
                }
                continue;
            }
            if self.while_lost(handling).is_none() {
                self.say_error(line);
                refused += 1;
                if handling == Some(Handling::Multi) {
                    self.give_up_transaction(End::Refused, at < self.carry.len());
                }
            }
            if self.replies == Replies::Skip {
                self.replies = Replies::On;
            }
        }
        self.drop_front(at);
        // One request that is larger than what is kept of any: it is not read to its end only to be refused.
        if self.carry.len() as u64 > self.server.config().stream_threshold_bytes && self.closing.is_none() {
            self.say_error(line);
            refused += 1;
            self.closing = Some(End::Refused);
        }
        (Next::Done, refused)
    }

    /// Reads on into `carry`.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let worker = Rc::clone(&self.worker);
        let mut buffer = worker.buffers.read.borrow_mut();
        match std::task::ready!(self.client.poll_read(cx, &mut buffer)) {
            Ok(0) => self.closing = Some(End::Gone),
            Err(_) => self.closing = Some(End::Lost),
            Ok(read) => self.carry.extend_from_slice(&buffer[..read]),
        }
        Poll::Ready(())
    }

    /// Among whom the client stands from now on.
    pub(super) fn join_identity(&self) {
        let joined = identity::join(&self.worker.identities, &self.server.config(), &self.client);
        self.part_identity();
        self.client.place.identity.set(joined);
    }

    /// Whether it stands among somebody.
    pub(super) fn has_identity(&self) -> bool {
        self.client.place.identity.get() != IdentityId::default()
    }

    /// It stands among nobody any more.
    pub(super) fn part_identity(&self) {
        self.worker.identities.part(self.client.place.identity.take());
    }

    /// What `by` tells clients apart by has changed of this one: where it is that, the client stands among others.
    pub(super) fn rejoin_identity(&self, by: QueueFairness) {
        if self.has_identity() && self.server.config().queue_fairness == by {
            self.join_identity();
        }
    }
}
