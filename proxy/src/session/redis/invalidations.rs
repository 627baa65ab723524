//! A connection on which nothing arrives but the invalidations that a tracking client has redirected to another client, and their way to that one, on
//! whichever worker it is.
//!
//! It speaks RESP3, in which they come without a subscription: nobody who publishes to or asks about the channel `__redis__:invalidate` notices it.
//! No more is read from it before what was read is handed over, so that a worker that is busy has never more than one piece waiting. It stays when the target
//! leaves: each invalidation that then comes is one that did not get through, and the tracking client learns of it as from the server. When it is not
//! needed any more, it is given back behind the reply to a `PING`: what the server has sent before that is handed over.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use sidepool_protocol::redis::encode::Resp;
use sidepool_protocol::redis::frame::{FrameScanner, Scan};
use tokio::sync::oneshot;

use super::bound::Seat;
use super::end::End;
use super::group::Key;
use super::leased::{Counted, patience};
use super::refusal;
use super::run::Session;
use super::server::Server;
use crate::observe::record::{PoolCounter, PoolGauge};
use crate::pool::id::IdentityId;
use crate::pool::lease::Lease;
use crate::pool::reason::Condition;
use crate::upstream::redis::connector::RedisConnector;
use crate::worker::{Worker, WorkerId};

/// How an invalidation begins in RESP3, and in RESP2 as a message.
const PUSH: &[u8] = b">2\r\n$10\r\ninvalidate\r\n";
const MESSAGE: &[u8] = b"*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n";

const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// How long it may be until nothing more is on its way.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where a client is, and what comes to an end when it leaves.
pub(super) struct There {
    home: WorkerId,
    stays: oneshot::Receiver<()>,
}

/// The connection.
pub(super) struct Sink {
    lease: Lease<RedisConnector>,
    scanner: FrameScanner,
    /// The beginning of a frame that is not all there.
    inbox: Vec<u8>,
    limit: usize,
    /// Where the target is.
    home: WorkerId,
    /// Comes to an end with the target; `None`: it has.
    stays: Option<oneshot::Receiver<()>>,
    /// The `PING` is answered: nothing more comes.
    ended: bool,
    /// Another worker is handing over what was read.
    handing: Option<oneshot::Receiver<()>>,
    _counted: Counted<2>,
    _seat: Option<Seat>,
}

/// Where client `id` is; `None`: there is none.
pub(super) async fn find(worker: &Worker, name: Arc<str>, id: u64) -> Option<There> {
    for home in worker.mailboxes.ids() {
        let (sender, receiver) = oneshot::channel();
        let name = Arc::clone(&name);
        worker.mailboxes.post(home, move |worker| {
            // Whoever asked may have gone.
            let _ = sender.send(worker.redis.server(&name).and_then(|server| server.watch(id)));
        });
        if let Ok(Some(stays)) = receiver.await {
            return Some(There { home, stays });
        }
    }
    None
}

impl Sink {
    /// Takes a connection for invalidations, as a client would that waits for others; an error: why there is none.
    pub(super) async fn open(server: &Server, worker: &Rc<Worker>, key: Key, there: There) -> Result<Self, String> {
        let group = server.group(&Key { version: Resp::Three, ..key.plain() }, worker);
        let pool = Rc::clone(&group.leased);
        let seat = match group.blocking() {
            None => None,
            Some(bound) => {
                let (patience, queue_length) = patience(&server.config().limits);
                Some(bound.enter(patience, queue_length).await.map_err(|full| refusal::full(pool.name(), full))?)
            }
        };
        let lease = loop {
            match pool.acquire(IdentityId::default()).await {
                Ok(lease) => break lease,
                Err(error) if group.on_refused(&pool, &error) => {}
                Err(error) => return Err(refusal::line(&error)),
            }
        };
        pool.record().add(PoolCounter::LeasedTracking, 1);
        Ok(Self {
            lease,
            scanner: FrameScanner::default(),
            inbox: Vec::new(),
            limit: group.output_limits().normal.most(),
            home: there.home,
            stays: Some(there.stays),
            ended: false,
            handing: None,
            _counted: Counted::new(&pool, [PoolGauge::RedisLeased, PoolGauge::PinnedOther]),
            _seat: seat,
        })
    }

    /// The server's number of the connection.
    pub(super) fn id(&self) -> i64 {
        self.lease.id
    }

    /// Hands on what has come; says how many invalidations came in vain. An error: the connection is lost, or has said more than anybody is to keep.
    pub(super) fn poll(&mut self, server: &Server, worker: &Worker, target: u64, cx: &mut Context<'_>) -> Result<Poll<u32>, ()> {
        if self.stays.as_mut().is_some_and(|stays| Pin::new(stays).poll(cx).is_ready()) {
            self.stays = None;
        }
        if let Some(handing) = &mut self.handing {
            // A worker that has ended hands nothing over, and has no target any more.
            let Poll::Ready(_) = Pin::new(handing).poll(cx) else { return Ok(Poll::Pending) };
            self.handing = None;
        }
        let mut buffer = worker.buffers.read.borrow_mut();
        let read = match self.lease.stream.poll_read(cx, &mut buffer) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(Ok(0) | Err(_)) => return Err(()),
            Poll::Ready(Ok(read)) => read,
        };
        self.lease.pool().record().add(PoolCounter::BytesFromServer, read as u64);
        let (frames, count) = self.whole(&buffer[..read])?;
        drop(buffer);
        if self.stays.is_none() {
            return Ok(Poll::Ready(count));
        }
        self.hand(server, worker, target, frames);
        Ok(Poll::Ready(0))
    }

    /// The frames that are all there, and how many they are.
    fn whole(&mut self, bytes: &[u8]) -> Result<(Vec<u8>, u32), ()> {
        let (mut at, mut frames, mut count) = (0, Vec::new(), 0);
        while at < bytes.len() {
            match self.scanner.scan(&bytes[at..]).map_err(drop)? {
                Scan::More => {
                    self.inbox.extend_from_slice(&bytes[at..]);
                    break;
                }
                Scan::End { used, value } => {
                    if value.is_push() {
                        frames.append(&mut self.inbox);
                        frames.extend_from_slice(&bytes[at..at + used]);
                        count += 1;
                    } else {
                        self.inbox = Vec::new();
                        self.ended = true;
                    }
                    at += used;
                }
            }
        }
        if self.inbox.len() > self.limit { Err(()) } else { Ok((frames, count)) }
    }

    fn hand(&mut self, server: &Server, worker: &Worker, target: u64, frames: Vec<u8>) {
        let limit = self.limit;
        if frames.is_empty() {
            return;
        }
        if self.home == worker.id {
            deliver(server, target, &frames, limit);
            return;
        }
        let (sender, receiver) = oneshot::channel();
        let name = Arc::clone(&server.name);
        worker.mailboxes.post(self.home, move |worker| {
            if let Some(server) = worker.redis.server(&name) {
                deliver(&server, target, &frames, limit);
            }
            // Whoever reads them may have gone.
            let _ = sender.send(());
        });
        self.handing = Some(receiver);
    }

    /// Nothing more is redirected here: what is on its way is handed over, and the connection given back.
    pub(super) fn retire(mut self, session: &Session, target: u64) {
        let (server, worker) = (Rc::clone(&session.server), Rc::clone(&session.worker));
        tokio::task::spawn_local(async move {
            let ended = tokio::time::timeout(PATIENCE, self.end(&server, &worker, target)).await;
            self.lease.release(if ended == Ok(Ok(())) { Condition::Clean } else { Condition::Broken });
        });
    }

    async fn end(&mut self, server: &Server, worker: &Worker, target: u64) -> Result<(), ()> {
        let mut sent = 0;
        poll_fn(|cx| {
            while sent < PING.len() {
                match self.lease.stream.poll_write(cx, &PING[sent..]) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(())),
                    Poll::Ready(Ok(written)) => sent += written,
                }
            }
            if let Poll::Ready(Err(_)) = self.lease.stream.poll_sent(cx) {
                return Poll::Ready(Err(()));
            }
            while !self.ended {
                match self.poll(server, worker, target, cx) {
                    Ok(Poll::Ready(_in_vain)) => {}
                    Ok(Poll::Pending) => return Poll::Pending,
                    Err(()) => return Poll::Ready(Err(())),
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Closes the target, which cannot know otherwise that something may be missing.
    pub(super) fn close_target(&self, session: &Session, target: u64) {
        let name = Arc::clone(&session.server.name);
        session.worker.mailboxes.post(self.home, move |worker| {
            if let Some(client) = worker.redis.server(&name).and_then(|server| server.client(target)) {
                client.doom(End::Gap);
            }
        });
    }
}

/// Hands invalidations to a client of this worker, in the form that it is to get them in; in RESP2 only to a subscriber.
fn deliver(server: &Server, target: u64, frames: &[u8], limit: usize) {
    let Some(client) = server.client(target) else { return };
    match client.shown.version.get() {
        Resp::Three => client.deliver_message(frames),
        Resp::Two if client.shown.is_subscribed() => client.deliver_message(&messages(frames)),
        Resp::Two => {}
    }
    if client.backlog() > limit {
        client.doom(End::OutputLimit);
    }
}

/// The same as messages of a channel.
fn messages(mut frames: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(frames.len() + MESSAGE.len());
    while let Ok(Scan::End { used, .. }) = FrameScanner::default().scan(frames) {
        let (frame, rest) = frames.split_at(used);
        if let Some(keys) = frame.strip_prefix(PUSH) {
            out.extend_from_slice(MESSAGE);
            out.extend_from_slice(keys);
        }
        frames = rest;
        if frames.is_empty() {
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pushed_in_resp3_is_a_message_in_resp2() {
        let pushed = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n>2\r\n$10\r\ninvalidate\r\n$-1\r\n";
        let told = [MESSAGE, b"*1\r\n$1\r\nk\r\n", MESSAGE, b"$-1\r\n"].concat();
        assert_eq!(messages(pushed), told);
        assert!(messages(b"+OK\r\n").is_empty());
        assert!(messages(b"").is_empty());
    }
}
