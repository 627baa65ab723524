//! Saying no to a client that is one too many or too late, in its own protocol and with the reason, without letting the refused take up room
//! for long.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use sidepool_config::tls::ClientContext;
use sidepool_protocol::postgres::encode;
use sidepool_protocol::postgres::fault::{Fault, SqlState};
use sidepool_protocol::postgres::startup;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::task::{AbortHandle, spawn_local};

use super::gate::{Door, Gate, GateNumbers, Permit};
use crate::console::guest::CONSOLE_DATABASE;
use crate::session;
use crate::transport::stream::Stream;
use crate::transport::tls;
use crate::worker::Worker;

/// How many refusals are under way at most; a client beyond them is closed without a word, unless it has come to cancel a query.
const MOST_AT_A_TIME: u32 = 256;

/// How many of those beyond are looked at for that at a time. The one that has been silent for longest makes way for the next. And so many
/// cancels are on their way at a time that were found like this; one beyond them is closed.
const MOST_LOOKED_AT: usize = 64;

/// The same where there are no files to be had: each takes one.
const FEW_LOOKED_AT: usize = 8;

/// The longest cancel request: its head, and a key of 256 bytes.
const LONGEST_CANCEL: usize = 12 + 256;

/// How long a refused client may take to hear us out.
const PATIENCE: Duration = Duration::from_secs(2);

/// Longest startup packet that is read before we answer (as PostgreSQL's own limit); one that claims more is answered at once.
const LONGEST_STARTUP: u32 = 10_000;

/// How much of what a refused client goes on sending is thrown away before it is cut.
const MOST_DRAINED: u64 = 64 * 1024;

const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;

/// Why a client is refused.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reason {
    /// There are as many as there may be.
    TooMany(GateNumbers),
    /// Memory is running out.
    Memory,
    /// The listener is closing.
    ShuttingDown,
}

impl Reason {
    /// Whether there is no file for the client, though there may be more clients.
    fn is_for_files(self) -> bool {
        match self {
            Self::TooMany(gate) => gate.files < gate.max,
            Self::Memory | Self::ShuttingDown => false,
        }
    }

    /// Whether an operator comes in all the same.
    fn lets_the_console_in(self) -> bool {
        match self {
            Self::TooMany(_) | Self::Memory => true,
            Self::ShuttingDown => false,
        }
    }
}

/// The refusals of one accept loop.
pub(super) struct Refusals {
    door: Rc<Door>,
    gate: Arc<Gate>,
    worker: Rc<Worker>,
    under_way: Rc<Cell<u32>>,
    /// Those whose first bytes are waited for, the oldest first.
    looked_at: RefCell<VecDeque<AbortHandle>>,
    /// Cancels that were found among them and are on their way.
    cancels: Rc<Cell<u32>>,
}

impl Refusals {
    pub(super) fn new(door: Rc<Door>, gate: Arc<Gate>, worker: Rc<Worker>) -> Self {
        Self { door, gate, worker, under_way: Rc::default(), looked_at: RefCell::default(), cancels: Rc::default() }
    }

    /// Refuses a client. The permit, if there is one, is kept until it has been told.
    pub(super) fn refuse(&self, stream: Stream, reason: Reason, permit: Option<Permit>) {
        if self.under_way.get() >= MOST_AT_A_TIME {
            return self.look(stream, if reason.is_for_files() { FEW_LOOKED_AT } else { MOST_LOOKED_AT });
        }
        let excuse = if reason.is_for_files() { self.gate.excuse() } else { None };
        if reason.is_for_files() && excuse.is_none() {
            return self.look(stream, FEW_LOOKED_AT);
        }
        let under_way = (UnderWay::new(&self.under_way), excuse);
        let door = Rc::clone(&self.door);
        let worker = Rc::clone(&self.worker);
        spawn_local(async move {
            let refusal = async {
                match &*door {
                    Door::Postgres => {
                        let config = Arc::clone(&worker.config.borrow());
                        let tls = config.postgres.as_ref().and_then(|postgres| postgres.client_tls.context.as_ref());
                        postgres(stream, tls, reason).await
                    }
                    Door::Redis(_) => farewell(stream, reason.redis().as_bytes()).await.map(|()| None),
                }
            };
            // A client that does not listen is closed all the same.
            if let Ok(Ok(Some(cancel))) = tokio::time::timeout(PATIENCE, refusal).await {
                Box::pin(session::postgres::serve(cancel, worker)).await;
            }
            drop((under_way, permit));
        });
    }

    /// There is no time to tell this one, but it may have come to cancel a query, which makes room. `most` are looked at together.
    fn look(&self, mut stream: Stream, most: usize) {
        match *self.door {
            Door::Postgres => {}
            Door::Redis(_) => return,
        }
        let (worker, cancels) = (Rc::clone(&self.worker), Rc::clone(&self.cancels));
        match is_cancel_now(&stream) {
            Some(true) => return cancel(stream, worker, &cancels, most),
            Some(false) => return,
            None => {}
        }
        let mut looked_at = self.looked_at.borrow_mut();
        looked_at.retain(|looking| !looking.is_finished());
        while looked_at.len() >= most {
            looked_at.pop_front().inspect(AbortHandle::abort);
        }
        let looking = spawn_local(async move {
            if let Ok(Ok(true)) = tokio::time::timeout(PATIENCE, is_cancel(&mut stream)).await {
                cancel(stream, worker, &cancels, most);
            }
        });
        looked_at.push_back(looking.abort_handle());
    }
}

/// Lets a cancel request go its way, unless `most` are on theirs. Nobody makes it stop now: it is there as a whole, so that it is not waited for.
fn cancel(stream: Stream, worker: Rc<Worker>, cancels: &Rc<Cell<u32>>, most: usize) {
    if let Some(on_its_way) = on_its_way(cancels, most) {
        spawn_local(async move {
            Box::pin(session::postgres::serve(stream, worker)).await;
            drop(on_its_way);
        });
    }
}

/// A place among the cancels that are on their way, if fewer than `most` are: each takes files until the server has taken it.
fn on_its_way(cancels: &Rc<Cell<u32>>, most: usize) -> Option<UnderWay> {
    (usize::try_from(cancels.get()).is_ok_and(|under_way| under_way < most)).then(|| UnderWay::new(cancels))
}

struct UnderWay(Rc<Cell<u32>>);

impl UnderWay {
    fn new(count: &Rc<Cell<u32>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Answers requests for encryption, for TLS with yes where it is configured (a client that insists on it would not hear us otherwise), and refuses
/// everything else but cancel requests and the admin console: they free room, and must work above all when there is none, so their stream is
/// handed back untouched.
async fn postgres(mut stream: Stream, tls: Option<&Arc<ClientContext>>, reason: Reason) -> io::Result<Option<Stream>> {
    let mut requests_for_encryption = 0;
    loop {
        let Some((length, code)) = peek_head(&mut stream).await? else { return Ok(None) };
        let tls = if let Stream::Tcp(_) = &stream { tls } else { None };
        match (code, tls) {
            (CANCEL_REQUEST, _) => return Ok(Some(stream)),
            (SSL_REQUEST, Some(context)) if length == 8 => {
                stream.read_exact(&mut [0; 8]).await?;
                stream.write_all(b"S").await?;
                tls::accept(&mut stream, context, Vec::new(), None).await?;
            }
            (_, Some(context)) if length.to_be_bytes().starts_with(&[0x16, 0x03]) => {
                tls::accept(&mut stream, context, Vec::new(), None).await?
            }
            (SSL_REQUEST | GSS_REQUEST, _) if length == 8 && requests_for_encryption < 2 => {
                requests_for_encryption += 1;
                stream.read_exact(&mut [0; 8]).await?;
                stream.write_all(b"N").await?;
            }
            _ if reason.lets_the_console_in() && wants_console(&mut stream, length).await? => return Ok(Some(stream)),
            _ => {
                // Read what it said first: closing a socket with unread bytes in it would take our answer away from the client.
                let length = if length > LONGEST_STARTUP { 0 } else { length };
                let mut startup = (&mut stream).take(length.into());
                tokio::io::copy(&mut startup, &mut tokio::io::sink()).await?;
                return farewell(stream, &reason.postgres()).await.map(|()| None);
            }
        }
    }
}

/// Whether a whole cancel request, and nothing else, is what a client has to say. Waits for it, and leaves it where it is.
async fn is_cancel(stream: &mut Stream) -> io::Result<bool> {
    loop {
        let mut request = [0; LONGEST_CANCEL + 1];
        let peeked = match stream {
            Stream::Tcp(_) | Stream::Unix(_) => peek_some(stream, &mut request).await?,
            Stream::Tls(_) | Stream::Ring(_) => return Ok(false),
        };
        if peeked == 0 {
            return Ok(false);
        }
        if let Some(is_cancel) = says_cancel(&request[..peeked]) {
            return Ok(is_cancel);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The same at this moment, without waiting; `None`: more has to come.
fn is_cancel_now(stream: &Stream) -> Option<bool> {
    let mut request = [0; LONGEST_CANCEL + 1];
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    let peeked = match stream {
        Stream::Tcp(stream) => recv(stream, &mut request, flags),
        Stream::Unix(stream) => recv(stream, &mut request, flags),
        Stream::Tls(_) | Stream::Ring(_) => return Some(false),
    };
    match peeked {
        Ok((0, _)) => Some(false),
        Ok((peeked, _)) => says_cancel(&request[..peeked]),
        Err(Errno::AGAIN) => None,
        Err(_) => Some(false),
    }
}

/// Whether these are the bytes of a cancel request, and no more; `None`: they may become one.
fn says_cancel(bytes: &[u8]) -> Option<bool> {
    let [a, b, c, d, code @ ..] = *bytes.first_chunk::<8>()?;
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    if u32::from_be_bytes(code) != CANCEL_REQUEST || !(12..=LONGEST_CANCEL).contains(&length) {
        return Some(false);
    }
    (bytes.len() >= length).then_some(bytes.len() == length)
}

/// The first eight bytes, left where they are; `None` at the end of the stream.
async fn peek_head(stream: &mut Stream) -> io::Result<Option<(u32, u32)>> {
    loop {
        let mut head = [0; 8];
        let peeked = peek_some(stream, &mut head).await?;
        if peeked == 0 {
            return Ok(None);
        }
        if peeked == head.len() {
            let [a, b, c, d, e, f, g, h] = head;
            return Ok(Some((u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]))));
        }
        // A part of the head is there, so the socket stays readable: look again in a moment. `PATIENCE` bounds this.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whether a startup packet of this length asks for the admin console. It is looked at only when it is there as a whole.
async fn wants_console(stream: &mut Stream, length: u32) -> io::Result<bool> {
    let Some(bytes) = usize::try_from(length).ok().filter(|_| length <= LONGEST_STARTUP) else { return Ok(false) };
    let mut packet = vec![0; bytes];
    let peeked = peek_some(stream, &mut packet).await?;
    let startup = packet.get(8..).filter(|_| peeked == bytes).and_then(|rest| startup::startup(rest, true).ok());
    Ok(startup.is_some_and(|startup| &*startup.database == CONSOLE_DATABASE))
}

/// Some of the bytes that come next, left where they are; under TLS, all of them.
async fn peek_some(stream: &mut Stream, bytes: &mut [u8]) -> io::Result<usize> {
    match stream {
        Stream::Tcp(stream) => stream.async_io(Interest::READABLE, || peek(&*stream, bytes)).await,
        Stream::Unix(stream) => stream.async_io(Interest::READABLE, || peek(&*stream, bytes)).await,
        // Only who has logged in is there.
        Stream::Ring(_) => Err(io::ErrorKind::Unsupported.into()),
        Stream::Tls(stream) => {
            stream.read_exact(bytes).await?;
            stream.unread(bytes);
            Ok(bytes.len())
        }
    }
}

fn peek(socket: impl AsFd, head: &mut [u8]) -> io::Result<usize> {
    let (peeked, _) = recv(socket, head, RecvFlags::PEEK)?;
    Ok(peeked)
}

/// Sends the last words, then waits until the client has closed, so that nothing it sent meanwhile turns the close into a reset.
async fn farewell(mut stream: Stream, words: &[u8]) -> io::Result<()> {
    stream.write_all(words).await?;
    stream.shutdown().await?;
    let mut rest = (&mut stream).take(MOST_DRAINED);
    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
    Ok(())
}

impl Reason {
    fn redis(self) -> &'static str {
        match self {
            Self::TooMany(gate) if gate.files < gate.max => "-ERR max number of clients reached (limit on open files)\r\n",
            Self::TooMany(_) => "-ERR max number of clients reached\r\n",
            Self::Memory => "-OOM the proxy is running out of memory, connect again later\r\n",
            Self::ShuttingDown => "-ERR the proxy is shutting down\r\n",
        }
    }

    fn postgres(self) -> Vec<u8> {
        let fault = match self {
            Self::TooMany(gate) if gate.files < gate.max => {
                Fault::fatal(SqlState::TOO_MANY_CONNECTIONS, "no more connections allowed (limit on open files)")
                    .with_detail(format!(
                        "{} of {} client connections are in use; other files are kept for connections to servers.",
                        gate.open, gate.files
                    ))
                    .with_hint(
                        "Raise the pooler's limit on open files (ulimit -n, LimitNOFILE), or close client connections that are not in use.",
                    )
            }
            Self::TooMany(gate) => Fault::fatal(SqlState::TOO_MANY_CONNECTIONS, "no more connections allowed (max_client_conn)")
                .with_detail(format!("{} of {} client connections are in use.", gate.open, gate.max))
                .with_hint("Raise max_client_conn, or close client connections that are not in use."),
            Self::Memory => session::postgres::refusal::out_of_memory("the pooler is running out of memory"),
            Self::ShuttingDown => session::postgres::refusal::closed(),
        };
        let mut message = Vec::new();
        encode::error_response(&fault, &mut message);
        message
    }
}

#[cfg(test)]
#[path = "refuse_tests.rs"]
mod tests;
