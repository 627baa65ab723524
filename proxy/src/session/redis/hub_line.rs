//! The connection of a hub: opened when somebody subscribes, given back when nobody does any more, opened again when it is lost, and replaced
//! without a gap when another one is to be used (`hub_heir`).

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use sidepool_protocol::redis::frame::{FrameScanner, Scan};

use super::beat::Beat;
use super::hub::Hub;
use super::hub_handover::Manner;
use super::hub_heir::Heir;
use super::refusal;
use crate::clock;
use crate::observe::record::{PoolCounter, PoolGauge};
use crate::pool::acquire::AcquireError;
use crate::pool::id::IdentityId;
use crate::pool::lease::Lease;
use crate::pool::reason::Condition;
use crate::upstream::redis::connector::RedisConnector;
use crate::worker::Worker;

/// How long to wait before trying again when there is no connection to be had.
const RETRY: Duration = Duration::from_millis(500);

/// How often it is asked whether the connection is still the right one.
const LOOK: Duration = Duration::from_secs(1);

/// How long before another one is tried when one could not take over.
const PAUSE: Duration = Duration::from_secs(30);

/// A connection, and how far it has sent what it is to send.
pub(super) struct Line {
    lease: Lease<RedisConnector>,
    scanner: FrameScanner,
    /// The beginning of a frame that is not all there.
    inbox: Vec<u8>,
    sent: usize,
}

impl Line {
    pub(super) fn new(lease: Lease<RedisConnector>) -> Self {
        Self { lease, scanner: FrameScanner::default(), inbox: Vec::new(), sent: 0 }
    }

    /// Sends what there is, as far as the connection takes it.
    pub(super) fn write(&mut self, out: &mut Vec<u8>, cx: &mut Context<'_>) -> Result<(), ()> {
        while self.sent < out.len() {
            match self.lease.stream.poll_write(cx, &out[self.sent..]) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0) | Err(_)) => return Err(()),
                Poll::Ready(Ok(written)) => self.sent += written,
            }
        }
        *out = Vec::new();
        self.sent = 0;
        match self.lease.stream.poll_sent(cx) {
            Poll::Ready(Err(_)) => Err(()),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    /// Hands over whole frames of what has come; the rest is kept. Whether something has. A server sends no frame longer than its own
    /// `proto-max-bulk-len` allows.
    pub(super) fn read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8], mut on_frame: impl FnMut(&[u8])) -> Result<bool, ()> {
        let bytes = match self.lease.stream.poll_read(cx, buffer) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(0) | Err(_)) => return Err(()),
            Poll::Ready(Ok(read)) => &buffer[..read],
        };
        self.lease.pool().record().add(PoolCounter::BytesFromServer, bytes.len() as u64);
        let mut at = 0;
        while at < bytes.len() {
            match self.scanner.scan(&bytes[at..]).map_err(drop)? {
                Scan::More => {
                    self.inbox.extend_from_slice(&bytes[at..]);
                    break;
                }
                Scan::End { used, .. } if self.inbox.is_empty() => {
                    on_frame(&bytes[at..at + used]);
                    at += used;
                }
                Scan::End { used, .. } => {
                    self.inbox.extend_from_slice(&bytes[at..at + used]);
                    on_frame(&std::mem::take(&mut self.inbox));
                    at += used;
                }
            }
        }
        Ok(true)
    }

    /// Whether the pool wants it back, or it came in with a secret that is not the present one.
    fn is_outdated(&self) -> bool {
        self.lease.is_recalled() || !self.lease.pool().connector().is_current(&self.lease)
    }
}

type Opening = Pin<Box<dyn Future<Output = Result<Lease<RedisConnector>, AcquireError>>>>;

/// What a hub has at the moment.
struct Held {
    line: Line,
    look: Beat,
    /// When another connection may be tried.
    not_before: Instant,
    opening: Option<Opening>,
    heir: Option<Box<Heir>>,
}

enum Ended {
    Idle,
    Lost,
}

/// Serves a hub until nobody has it any more.
pub(super) async fn run(hub: Weak<Hub>, worker: Rc<Worker>) {
    loop {
        let waited = poll_fn(|cx| match hub.upgrade() {
            None => Poll::Ready(false),
            Some(hub) => {
                hub.remember(cx);
                if hub.is_idle() { Poll::Pending } else { Poll::Ready(true) }
            }
        });
        if !waited.await {
            return;
        }
        let Some(strong) = hub.upgrade() else { return };
        let pool = Rc::clone(strong.group.hub_pool());
        let lease = match pool.acquire(IdentityId::default()).await {
            Ok(lease) => lease,
            // There is another password, which is tried at once.
            Err(error) if strong.group.on_refused(&pool, &error) => continue,
            Err(error) => {
                strong.refuse_waiting(&refusal::line(&error));
                drop(strong);
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        let mut held = Held { line: Line::new(lease), look: Beat::every(LOOK), not_before: clock::now(), opening: None, heir: None };
        strong.begin();
        pool.record().shift(PoolGauge::RedisPubsub, 1);
        let ended = poll_fn(|cx| strong.drive(&mut held, cx, &worker)).await;
        pool.record().shift(PoolGauge::RedisPubsub, -1);
        match ended {
            Ended::Idle => held.line.lease.release(Condition::Clean),
            Ended::Lost => {
                held.line.lease.release(Condition::Broken);
                strong.hear(held.heir.map(|heir| heir.given_up()).unwrap_or_default());
                let closed = strong.on_loss();
                tracing::warn!(pool = &**pool.name(), closed, "the subscriber connection to Redis was lost");
            }
        }
    }
}

impl Hub {
    fn drive(&self, held: &mut Held, cx: &mut Context<'_>, worker: &Worker) -> Poll<Ended> {
        self.remember(cx);
        loop {
            let Held { line, heir, .. } = held;
            if line.write(&mut self.out.borrow_mut(), cx).is_err() {
                return Poll::Ready(Ended::Lost);
            }
            let limit = self.group.output_limits().pubsub.most();
            let hand = |frame: &[u8]| {
                if heir.as_mut().is_none_or(|heir| heir.on_old(frame)) {
                    self.on_frame(frame, limit);
                }
            };
            let read = line.read(cx, &mut worker.buffers.read.borrow_mut(), hand);
            match read {
                Err(()) => return Poll::Ready(Ended::Lost),
                Ok(true) => {}
                Ok(false) if self.succeed(held, cx, worker) => {}
                Ok(false) => break,
            }
        }
        let idle = held.heir.is_none() && held.line.inbox.is_empty() && self.is_idle();
        if idle && self.out.borrow().is_empty() { Poll::Ready(Ended::Idle) } else { Poll::Pending }
    }

    /// Sees to it that the connection is the right one; whether another one has taken over just now.
    fn succeed(&self, held: &mut Held, cx: &mut Context<'_>, worker: &Worker) -> bool {
        if held.look.is_due(cx) {
            self.look(held);
        }
        if let Some(opening) = &mut held.opening
            && let Poll::Ready(opened) = opening.as_mut().poll(cx)
        {
            held.opening = None;
            match opened {
                Ok(lease) => {
                    let heir = Heir::new(lease, self.wanted(), held.line.lease.is_stale());
                    self.join_mark(heir.mark());
                    self.defer();
                    held.heir = Some(Box::new(heir));
                }
                // There is another password, which is tried at the next look.
                Err(error) if self.group.on_refused(self.group.hub_pool(), &error) => {}
                Err(error) => self.give_up(held, &refusal::line(&error)),
            }
        }
        let Some(heir) = &mut held.heir else { return false };
        match heir.drive(cx, &mut worker.buffers.read.borrow_mut(), self.is_quiet(), &self.group.leased) {
            Ok(None) => false,
            Ok(Some(manner)) => {
                self.take_over(held, manner);
                true
            }
            Err(why) => {
                self.give_up(held, &why);
                false
            }
        }
    }

    fn look(&self, held: &mut Held) {
        if let Some(heir) = &mut held.heir {
            heir.look();
        } else if held.opening.is_none() && clock::now() >= held.not_before && held.line.is_outdated() && self.is_quiet() {
            let pool = self.group.hub_pool();
            if !pool.snapshot(clock::now()).draining {
                held.opening = Some(Box::pin(pool.acquire(IdentityId::default())));
            }
        }
    }

    fn take_over(&self, held: &mut Held, manner: Manner) {
        let Some(heir) = held.heir.take() else { return };
        let (mark, pool) = (Rc::clone(heir.mark()), &**self.group.hub_pool().name());
        let (line, joined, frames) = heir.taken_over(manner);
        let old = std::mem::replace(&mut held.line, line);
        self.hear(frames);
        match manner {
            Manner::Clean => {
                old.lease.release(Condition::Dirty);
                self.catch_up();
                self.leave_mark(&mark);
                tracing::info!(pool, "another connection to Redis hears for the subscribers; nothing was lost");
            }
            Manner::Forced => {
                // What it owes will not come: everything is asked of the new one once more, which says what it allows.
                old.lease.release(Condition::Broken);
                self.begin();
                self.leave_unwanted(joined);
                self.leave_mark(&mark);
                let closed = self.on_loss();
                tracing::warn!(
                    pool,
                    closed,
                    "another connection to Redis hears for the subscribers; the one before did not come to the same place, and messages may have been missed"
                );
            }
        }
    }

    /// The old connection stays. It hands over what it held back; what was to wait for the new one is sent on it.
    fn give_up(&self, held: &mut Held, why: &str) {
        held.not_before = clock::now().checked_add(PAUSE).unwrap_or(held.not_before);
        if let Some(heir) = held.heir.take() {
            let mark = Rc::clone(heir.mark());
            self.hear(heir.given_up());
            self.catch_up();
            self.leave_mark(&mark);
        }
        tracing::warn!(
            pool = &**self.group.hub_pool().name(),
            why,
            "the connection that hears for subscribers could not be replaced and stays"
        );
    }

    /// What was kept for a while is handed over.
    fn hear(&self, frames: Vec<Vec<u8>>) {
        let limit = self.group.output_limits().pubsub.most();
        frames.iter().for_each(|frame| self.on_frame(frame, limit));
    }
}
