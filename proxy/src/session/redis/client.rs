//! One client as everybody who owes it something sees it: its socket, what it has not taken yet, and how many replies are on the way.
//!
//! The session reads requests and owns the client's life. Lanes and the hub write replies and messages straight to the socket, from whatever
//! buffer they stand in; only what the socket does not take is kept. An idle client keeps nothing.

use std::cell::{Cell, RefCell};
use std::hash::{Hash, Hasher};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::end::End;
use super::output::Lag;
use super::redo::NotExecuted;
use super::shown::Shown;
use super::turns::{Place, Stands};
use crate::clock;
use crate::runtime::pressure::Step as Pressure;
use crate::transport::stream::Stream;

/// Above this, no more requests are read from a client until it takes its replies.
pub const HIGH_WATER: usize = 64 * 1024;

/// The same while memory runs out: whoever does not take its replies gets no more of them.
#[must_use]
pub fn high_water(pressure: Pressure) -> usize {
    match pressure {
        Pressure::Calm => HIGH_WATER,
        Pressure::Throttle | Pressure::Refuse | Pressure::Shed => 0,
    }
}

/// A client.
pub struct Client {
    /// Its number, as `CLIENT ID` says it.
    pub id: u64,
    /// When it came.
    pub since: Instant,
    /// What others may see of its virtual state.
    pub shown: Shown,
    stream: RefCell<Option<Stream>>,
    /// Only while there is something in it.
    backlog: RefCell<Option<Box<Backlog>>>,
    /// Replies that a lane owes.
    pending: Cell<u32>,
    /// Below this many the session wants to be woken.
    wake_below: Cell<u32>,
    session: RefCell<Option<Waker>>,
    /// Who waits for the client to take some of what is kept.
    upstream: RefCell<Option<Waker>>,
    /// Why it is closed, once that is decided.
    end: Cell<Option<End>>,
    /// Where it stands in line before a full lane.
    pub place: Place,
    /// What is to be asked again.
    redo: RefCell<Option<Box<Redo>>>,
    /// Only a part of a reply has been handed over: nothing else may be put in between.
    inside_reply: Cell<bool>,
}

/// A request that the server did not execute.
pub struct Redo {
    /// The request.
    pub request: Vec<u8>,
    /// What the server said.
    pub line: Vec<u8>,
    /// What that means.
    pub why: NotExecuted,
}

#[derive(Default)]
struct Backlog {
    bytes: Vec<u8>,
    sent: usize,
    /// Messages that came in the middle of a reply.
    messages: Vec<u8>,
    /// What is handed over is taken by somebody who puts it elsewhere.
    captured: Option<Vec<u8>>,
    /// Since when, once somebody has looked.
    lag: Option<Box<Lag>>,
}

impl Backlog {
    fn length(&self) -> usize {
        self.bytes.len() - self.sent + self.messages.len()
    }
}

impl Client {
    /// A client that has just come.
    #[must_use]
    pub fn new(id: u64, stream: Stream, now: Instant) -> Rc<Self> {
        Self::with(id, Some(stream), now)
    }

    /// Nobody: who asks what no client asked, and lets the reply lie.
    #[must_use]
    pub fn nobody(now: Instant) -> Rc<Self> {
        Self::with(0, None, now)
    }

    fn with(id: u64, stream: Option<Stream>, now: Instant) -> Rc<Self> {
        Rc::new(Self {
            id,
            since: now,
            shown: Shown { heard: Cell::new(clock::coarse_seconds()), ..Shown::default() },
            stream: RefCell::new(stream),
            backlog: RefCell::default(),
            pending: Cell::new(0),
            wake_below: Cell::new(0),
            session: RefCell::new(None),
            upstream: RefCell::new(None),
            end: Cell::new(None),
            place: Place::default(),
            redo: RefCell::new(None),
            inside_reply: Cell::new(false),
        })
    }

    /// Whether it is nobody.
    pub fn is_nobody(&self) -> bool {
        self.id == 0
    }

    /// Why it is closed; `None`: it is not.
    pub fn end(&self) -> Option<End> {
        self.end.get()
    }

    /// Whether nobody has closed it.
    pub fn is_alive(&self) -> bool {
        self.end.get().is_none()
    }

    /// It is closed, unless it is already; its session ends.
    pub fn doom(&self, end: End) {
        if self.is_alive() {
            self.end.set(Some(end));
            self.wake_session();
        }
    }

    /// The session ends: the socket is closed, and whatever is still owed is dropped when it comes.
    pub fn close(&self) {
        self.end.set(self.end.get().or(Some(End::Gone)));
        *self.stream.borrow_mut() = None;
        *self.backlog.borrow_mut() = None;
        self.wake_upstream();
    }

    /// Remembers whom to wake.
    pub fn set_session(&self, cx: &Context<'_>) {
        let mut session = self.session.borrow_mut();
        if !session.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *session = Some(cx.waker().clone());
        }
    }

    /// Wakes the session.
    pub fn wake_session(&self) {
        if let Some(session) = &*self.session.borrow() {
            session.wake_by_ref();
        }
    }

    /// Reads requests.
    pub fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match &mut *self.stream.borrow_mut() {
            Some(stream) => {
                let read = stream.poll_read(cx, buffer);
                if read.is_ready() {
                    self.shown.heard.set(clock::coarse_seconds());
                }
                read
            }
            None => Poll::Ready(Ok(0)),
        }
    }

    /// Whether it may have said something that has not been read; `None`: under TLS that is seen only by reading.
    pub fn has_said(&self, cx: &mut Context<'_>) -> Option<bool> {
        self.stream.borrow().as_ref().map_or(Some(true), |stream| match stream {
            Stream::Tcp(_) | Stream::Unix(_) | Stream::Ring(_) => Some(stream.poll_said(cx).is_ready()),
            Stream::Tls(_) => None,
        })
    }

    /// Takes the socket, for a handshake over it; until it is back, nothing can be handed over.
    pub fn take_stream(&self) -> Option<Stream> {
        self.stream.borrow_mut().take()
    }

    /// Gives the socket back.
    pub fn put_stream(&self, stream: Stream) {
        *self.stream.borrow_mut() = Some(stream);
    }

    /// Has the socket go onto the worker's ring, if it has one. Nothing is under way on it.
    pub fn join_ring(&self) {
        let stream = self.take_stream();
        *self.stream.borrow_mut() = stream.and_then(|stream| stream.onto_ring().ok());
    }

    /// Runs `look` on the socket.
    pub fn with_stream<R>(&self, look: impl FnOnce(&Stream) -> R) -> Option<R> {
        self.stream.borrow().as_ref().map(look)
    }

    /// Hands bytes of replies over. `inside`: the last reply in them is not whole.
    pub fn deliver(&self, bytes: &[u8], inside: bool) {
        if !self.is_alive() {
            return;
        }
        self.inside_reply.set(inside);
        self.send(bytes);
        if !inside {
            let messages = {
                let mut backlog = self.backlog.borrow_mut();
                match &mut *backlog {
                    Some(backlog) if !backlog.messages.is_empty() => std::mem::take(&mut backlog.messages),
                    Some(_) | None => return,
                }
            };
            self.send(&messages);
        }
    }

    /// What is handed over from now on is only taken down.
    pub fn capture(&self) {
        self.backlog.borrow_mut().get_or_insert_default().captured = Some(Vec::new());
    }

    /// What was handed over since [`capture`](Self::capture), which ends.
    pub fn captured(&self) -> Vec<u8> {
        let mut kept = self.backlog.borrow_mut();
        let captured = kept.as_mut().and_then(|backlog| backlog.captured.take()).unwrap_or_default();
        if kept.as_ref().is_some_and(|backlog| backlog.length() == 0) {
            *kept = None;
        }
        captured
    }

    /// Hands a message over that may stand between any two replies.
    pub fn deliver_message(&self, bytes: &[u8]) {
        if !self.is_alive() {
            return;
        }
        if self.inside_reply.get() {
            self.backlog.borrow_mut().get_or_insert_default().messages.extend_from_slice(bytes);
        } else {
            self.send(bytes);
        }
    }

    fn send(&self, mut bytes: &[u8]) {
        let mut backlog = self.backlog.borrow_mut();
        if let Some(captured) = backlog.as_mut().and_then(|backlog| backlog.captured.as_mut()) {
            captured.extend_from_slice(bytes);
            return;
        }
        if backlog.as_ref().is_none_or(|backlog| backlog.bytes.is_empty()) {
            let mut stream = self.stream.borrow_mut();
            let Some(stream) = &mut *stream else { return };
            // Nobody is to be woken by this attempt: if it fails, the session is told, and it waits for the socket in its own name.
            let mut cx = Context::from_waker(Waker::noop());
            while !bytes.is_empty() {
                match stream.poll_write(&mut cx, bytes) {
                    Poll::Ready(Ok(0) | Err(_)) => {
                        self.doom(End::Lost);
                        return;
                    }
                    Poll::Ready(Ok(written)) => bytes = &bytes[written..],
                    Poll::Pending => break,
                }
            }
            if bytes.is_empty() {
                return;
            }
            self.wake_session();
        }
        backlog.get_or_insert_default().bytes.extend_from_slice(bytes);
    }

    /// How many bytes wait for the client to take them.
    pub fn backlog(&self) -> usize {
        self.backlog.borrow().as_ref().map_or(0, |backlog| backlog.length())
    }

    /// Writes what waits; ready when nothing is left.
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut kept = self.backlog.borrow_mut();
        let Some(backlog) = kept.as_mut().filter(|backlog| !backlog.bytes.is_empty()) else { return Poll::Ready(()) };
        let mut stream = self.stream.borrow_mut();
        let Some(stream) = &mut *stream else { return Poll::Ready(()) };
        let mut progress = false;
        let done = loop {
            if backlog.sent == backlog.bytes.len() {
                break true;
            }
            match stream.poll_write(cx, &backlog.bytes[backlog.sent..]) {
                Poll::Pending => break false,
                Poll::Ready(Ok(0) | Err(_)) => {
                    self.end.set(self.end.get().or(Some(End::Lost)));
                    break true;
                }
                Poll::Ready(Ok(written)) => {
                    backlog.sent += written;
                    progress = true;
                }
            }
        };
        if done {
            (backlog.bytes, backlog.sent) = (Vec::new(), 0);
        } else if backlog.sent >= HIGH_WATER && backlog.sent * 2 >= backlog.bytes.len() {
            let sent = std::mem::take(&mut backlog.sent);
            backlog.bytes.drain(..sent);
        }
        if progress && let Some(lag) = &mut backlog.lag {
            lag.moved = true;
        }
        if backlog.length() == 0 {
            *kept = None;
        }
        drop(kept);
        if progress {
            self.wake_upstream();
        }
        if done { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Ready when nothing of what was handed over is held in this process any more, which is about to end.
    pub fn poll_drained(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.backlog() > 0 {
            return Poll::Pending;
        }
        // To whom nothing can be sent, nothing is owed.
        self.stream.borrow_mut().as_mut().map_or(Poll::Ready(()), |stream| stream.poll_drained(cx).map(drop))
    }

    /// Runs `look` on how long something has waited.
    pub(super) fn with_lag<R>(&self, look: impl FnOnce(&mut Lag) -> R) -> R {
        look(self.backlog.borrow_mut().get_or_insert_default().lag.get_or_insert_default())
    }

    /// Wakes `waiter` when the client has taken some of what waits for it, or is gone.
    pub fn on_progress(&self, waiter: &Waker) {
        *self.upstream.borrow_mut() = Some(waiter.clone());
    }

    fn wake_upstream(&self) {
        if let Some(upstream) = self.upstream.borrow_mut().take() {
            upstream.wake();
        }
    }

    /// Its session is to see that this is asked again, or to hand the line over.
    pub fn put_redo(&self, redo: Redo) {
        *self.redo.borrow_mut() = Some(Box::new(redo));
        self.wake_session();
    }

    /// What is to be asked again.
    pub fn take_redo(&self) -> Option<Redo> {
        self.redo.borrow_mut().take().map(|redo| *redo)
    }

    /// Whether something is to be asked again.
    pub fn has_redo(&self) -> bool {
        self.redo.borrow().is_some()
    }

    /// How many replies lanes owe it.
    pub fn pending(&self) -> u32 {
        self.pending.get()
    }

    /// A lane owes it so many more.
    pub fn owe(&self, replies: u32) {
        self.pending.set(self.pending.get() + replies);
    }

    /// A lane has handed so many over.
    pub fn paid(&self, replies: u32) {
        let pending = self.pending.get() - replies;
        self.pending.set(pending);
        if pending < self.wake_below.get() {
            self.wake_below.set(0);
            self.wake_session();
        }
    }

    /// Ready when fewer than `below` replies are owed. When they are not, the session is woken at half of that.
    pub fn poll_pending_below(&self, below: u32) -> Poll<()> {
        if self.pending.get() < below {
            return Poll::Ready(());
        }
        self.wake_below.set((below / 2).max(1));
        Poll::Pending
    }
}

impl Stands for Rc<Client> {
    fn place(&self) -> &Place {
        &self.place
    }

    fn is_there(&self) -> bool {
        self.is_alive()
    }

    fn wake(&self) {
        self.wake_session();
    }
}

/// A client as the owner of slots: the same client is the same allocation.
#[derive(Clone)]
pub struct Owner(pub Rc<Client>);

impl PartialEq for Owner {
    fn eq(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Owner {}

impl Hash for Owner {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Rc::as_ptr(&self.0).hash(state);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::UnixStream;

    use super::*;

    fn pair() -> (Rc<Client>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Client::new(1, Stream::Unix(ours), clock::now()), theirs)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_the_socket_does_not_take_is_kept_in_order() {
        let (client, mut theirs) = pair();
        theirs.readable_or_so().await;
        let all: Vec<u8> = (0..2_000_000_u32).map(|n| n as u8).collect();
        for piece in all.chunks(50_000) {
            client.deliver(piece, false);
        }
        assert!(client.backlog() > 0);
        let mut got = vec![0; all.len()];
        let reading = theirs.read_exact(&mut got);
        let writing = std::future::poll_fn(|cx| client.poll_flush(cx));
        let (read, ()) = tokio::join!(reading, writing);
        read.unwrap();
        assert!(got == all);
        assert_eq!(client.backlog(), 0);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn messages_wait_for_the_end_of_a_reply() {
        let (client, mut theirs) = pair();
        theirs.readable_or_so().await;
        client.deliver(b"$4\r\nab", true);
        client.deliver_message(b">1\r\n+m\r\n");
        client.deliver(b"cd\r\n", false);
        let mut got = vec![0; 18];
        theirs.read_exact(&mut got).await.unwrap();
        assert_eq!(got, b"$4\r\nabcd\r\n>1\r\n+m\r\n"[..18]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_client_that_is_gone_takes_everything_and_keeps_nothing() {
        let (client, theirs) = pair();
        drop(theirs);
        for _ in 0..10 {
            client.deliver(&[0; 100_000], false);
            tokio::task::yield_now().await;
        }
        client.close();
        client.deliver(&[0; 100_000], false);
        assert_eq!((client.backlog(), client.end()), (0, Some(End::Lost)));
    }

    trait Settle {
        async fn readable_or_so(&mut self);
    }

    impl Settle for UnixStream {
        /// Lets the reactor learn that the other end is writable.
        async fn readable_or_so(&mut self) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}
