//! A connection of one's own: how a session comes to it, waits for it, and what it is told when there is none or it is lost.
//!
//! What happens while it is held is in `relay`.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use sidepool_config::model::PoolLimits;
use sidepool_protocol::redis::command::Handling;
use sidepool_protocol::redis::request::{Arguments, RequestScanner, parse_integer};

use super::blocked::{Burst, Waits};
use super::count;
use super::end::End;
use super::identity::Named;
use super::leased_times::Times;
use super::lost::Lost;
use super::refusal;
use super::relay::{Ended, Relay};
use super::requests::handling;
use super::run::Session;
use super::steps::After;
use crate::clock;
use crate::observe::record::{PoolCounter, PoolGauge};
use crate::pool::handle::Pool;
use crate::pool::measure;
use crate::pool::reason::{Condition, RefuseReason};
use crate::upstream::redis::connector::RedisConnector;

/// How much is read from a client that waits for something.
const CARRY_MAX: usize = 256 * 1024;

/// A gauge that goes down again when this is dropped.
pub(super) struct Counted<const COUNT: usize> {
    pool: Rc<Pool<RedisConnector>>,
    gauges: [PoolGauge; COUNT],
}

impl<const COUNT: usize> Counted<COUNT> {
    pub(super) fn new(pool: &Rc<Pool<RedisConnector>>, gauges: [PoolGauge; COUNT]) -> Self {
        gauges.iter().for_each(|gauge| pool.record().shift(*gauge, 1));
        Self { pool: Rc::clone(pool), gauges }
    }
}

impl<const COUNT: usize> Drop for Counted<COUNT> {
    fn drop(&mut self) {
        self.gauges.iter().for_each(|gauge| self.pool.record().shift(*gauge, -1));
    }
}

impl Session {
    /// Takes a connection for what stands at the front of `carry`, and keeps it for as long as that needs it.
    pub(super) async fn leased(&mut self) -> After {
        let Some(mut key) = self.key() else { return After::GoOn };
        let first = self.front_handling();
        if first == Some(Handling::Control) {
            key.database = 0;
        }
        let group = self.server.group(&key, &self.worker);
        let pool = Rc::clone(&group.leased);
        let blocks = self.front_blocks();
        let _seat = match group.blocking().filter(|_| waits_for_others(first) || blocks) {
            None => None,
            Some(bound) => {
                let (patience, queue_length) = patience(&self.server.config().limits);
                let _waiting = Counted::new(&pool, [PoolGauge::BlockingWaiting]);
                match self.wait_to(blocks, bound.enter(patience, queue_length)).await {
                    None => return After::End,
                    Some(Ok(seat)) => Some(seat),
                    Some(Err(full)) => {
                        pool.record().add(measure::refusal(full.reason), 1);
                        return self.refuse(first, &pool, full.reason, &refusal::full(pool.name(), full));
                    }
                }
            }
        };
        let asked = self.server.samples().then(clock::now);
        let named = Named::new(&self.worker.identities, &self.server.config(), &self.client);
        let mut lease = loop {
            match self.wait_to(blocks, pool.acquire(named.id())).await {
                None => return After::End,
                Some(Ok(lease)) => break lease,
                Some(Err(error)) if group.on_refused(&pool, &error) => {}
                Some(Err(error)) => return self.refuse(first, &pool, error.refusal.reason, &refusal::line(&error)),
            }
        };
        pool.record().add(count::lease(first), 1);
        let _counted = Counted::new(&pool, [PoolGauge::RedisLeased, pinned_for(first, blocks)]);
        self.client.shown.leased.set(lease.id);
        self.scanner = RequestScanner::default();
        let mut relay = Relay { times: Times::of(&group), ..Relay::default() };
        let connector = pool.connector();
        relay.log_in_again(connector.renewal(&mut lease));
        let ended = poll_fn(|cx| relay.poll(self, &mut lease, cx)).await;
        self.client.shown.leased.set(0);
        relay.show(self, true);
        relay.end_redirect(self, matches!(ended, Ended::Lost | Ended::Late));
        if let Some(asked) = asked {
            self.trace_lease(asked, &lease, &relay);
        }
        self.fresh = true;
        match ended {
            Ended::Free(condition) => {
                lease.release(condition);
                After::GoOn
            }
            Ended::ClientGone => {
                // Closed at once: a blocked client must not be given an element any more.
                lease.release(Condition::Broken);
                After::End
            }
            Ended::Lost => {
                lease.release(Condition::Lost);
                self.lose(&relay, &pool, PoolCounter::ErrorUpstreamLost, refusal::LOST)
            }
            Ended::Late => {
                lease.release(Condition::Broken);
                self.lose(&relay, &pool, PoolCounter::RedisTimedOut, refusal::TOO_LATE)
            }
        }
    }

    /// Waits for `work`, while the client is still there. What it sends meanwhile is kept; `None`: it is gone. One that says no more but may still
    /// listen is there.
    pub(super) async fn wait_for<F: Future>(&mut self, work: F) -> Option<F::Output> {
        self.wait_to(false, work).await
    }

    /// The same for one that is to be blocked then, perhaps: if it says no more it would be given an element in vain, but for one that is there at once.
    async fn wait_to<F: Future>(&mut self, blocks: bool, work: F) -> Option<F::Output> {
        let mut work = pin!(work);
        let mut burst = blocks.then(Burst::begins);
        poll_fn(|cx| {
            self.client.set_session(cx);
            if let Poll::Ready(output) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            self.poll_gone(burst.as_mut(), cx).map(|()| None)
        })
        .await
    }

    /// Ready when the client is gone; reads on to find out. With `burst`, one that says no more is gone when that is over.
    fn poll_gone(&mut self, burst: Option<&mut Burst>, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_flush(false, cx);
        if !self.client.is_alive() {
            return Poll::Ready(());
        }
        let worker = Rc::clone(&self.worker);
        while self.carry.len() < CARRY_MAX {
            let mut buffer = worker.buffers.read.borrow_mut();
            let end = match std::task::ready!(self.client.poll_read(cx, &mut buffer)) {
                Ok(0) => {
                    let Some(burst) = burst else { return Poll::Pending };
                    std::task::ready!(burst.poll_over(cx));
                    End::Gone
                }
                Err(_) => End::Lost,
                Ok(read) => {
                    self.carry.extend_from_slice(&buffer[..read]);
                    continue;
                }
            };
            self.client.doom(end);
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// `CLIENT PAUSE` and `UNPAUSE`: what is halted must not hold up what is not.
    pub(super) fn note_pause(&self, whole: &[u8]) {
        let words: Vec<&[u8]> = Arguments::new(whole).collect();
        match words.as_slice() {
            [client, unpause] if client.eq_ignore_ascii_case(b"client") && unpause.eq_ignore_ascii_case(b"unpause") => {
                self.server.pause.set(None)
            }
            [client, pause, ms, ..] if client.eq_ignore_ascii_case(b"client") && pause.eq_ignore_ascii_case(b"pause") => {
                let ms = parse_integer(ms).and_then(|ms| u64::try_from(ms).ok()).unwrap_or(0);
                self.server.pause.set(clock::now().checked_add(Duration::from_millis(ms)));
            }
            _other_control => {}
        }
    }

    /// Whether the front of `carry` asks to be blocked.
    fn front_blocks(&self) -> bool {
        Waits::of(self.front_handling(), &self.carry, &self.server.facts) == Waits::ForOthers
    }

    /// What the front of `carry` asks for; `None`: something that the table does not have, or too large to be there.
    pub(super) fn front_handling(&self) -> Option<Handling> {
        handling(&self.carry)
    }

    /// There is no connection for the request at the front of `carry`.
    fn refuse(&mut self, first: Option<Handling>, pool: &Pool<RedisConnector>, reason: RefuseReason, line: &str) -> After {
        self.note_refused(pool.name(), reason, line);
        if !self.refuse_front(line) {
            // The rest of a large request is still to come and would be taken for requests.
            self.closing = Some(End::Refused);
            return After::GoOn;
        }
        if first == Some(Handling::Multi) {
            self.give_up_transaction(End::Refused, !self.carry.is_empty());
        }
        After::GoOn
    }

    /// The connection was given up with something on it, which is counted as that; what may have been executed is answered with `unknown`.
    fn lose(&mut self, relay: &Relay, pool: &Rc<Pool<RedisConnector>>, counter: PoolCounter, unknown: &'static str) -> After {
        let owed = relay.owed(unknown);
        pool.record().add(counter, owed.len() as u64);
        tracing::debug!(client = self.client.id, pool = &**pool.name(), owed = owed.len(), "a leased Redis connection was given up");
        if relay.is_inside() {
            // Half a request or half a reply cannot be taken back.
            self.client.doom(End::ServerLost);
            return After::End;
        }
        for line in owed {
            self.say_error(line);
        }
        self.lost = relay.lost();
        if relay.has_just_begun() {
            self.give_up_transaction(End::ServerLost, !self.carry.is_empty());
        }
        After::GoOn
    }

    /// `MULTI` failed. What was sent behind it belongs to the transaction and must not run outside it: where something has come (`has_more`),
    /// everything up to its `EXEC` fails. Where nothing has come nobody can tell whether more is on its way: the client is told and closed, as by a
    /// server that is gone.
    pub(super) fn give_up_transaction(&mut self, end: End, has_more: bool) {
        self.lost = Lost::Transaction;
        self.closing = self.closing.or((!has_more).then_some(end));
    }
}

/// How long somebody waits for a connection, and beside how many others.
pub(super) fn patience(limits: &PoolLimits) -> (Option<Duration>, u32) {
    (Some(limits.query_wait_timeout).filter(|patience| !patience.is_zero()), limits.max_queue_length)
}

/// Whether it is up to others how long the connection is held.
fn waits_for_others(handling: Option<Handling>) -> bool {
    matches!(
        handling,
        Some(Handling::Block | Handling::ShareUnlessBlock | Handling::Wait | Handling::Monitor | Handling::Tracking | Handling::Takeover)
    )
}

fn pinned_for(handling: Option<Handling>, blocks: bool) -> PoolGauge {
    match handling {
        _ if blocks => PoolGauge::PinnedBlocking,
        Some(Handling::Block | Handling::ShareUnlessBlock | Handling::Wait) => PoolGauge::PinnedBlocking,
        Some(Handling::Multi | Handling::Watch) => PoolGauge::PinnedTransaction,
        Some(_) | None => PoolGauge::PinnedOther,
    }
}
