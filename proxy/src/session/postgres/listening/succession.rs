//! A new connection that listens takes over from the old one, without losing or doubling a notification: an operator asked for new connections, or
//! an address or a password has changed.
//!
//! ```text
//!   new:  LISTEN everything, LISTEN mark ──▶ confirmed ──▶ NOTIFY mark ──▶ hears the mark ──▶ keeps what comes behind it ──▶ takes over
//!   old:  LISTEN mark ─────────────────────▶ confirmed      hands over what comes … up to the mark, and nothing behind it ──▶ closes
//! ```
//! All connections of a database are told all notifications in one order, so the mark is at the same place for both. Where the new connection leads
//! to another server the old one never hears the mark: that is a loss. Not here: when it begins (`hub`).

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Poll};

use sidepool_protocol::postgres::subscriber::{Channel, Event, Subscriber};

use crate::pool::lease::Lease;
use crate::upstream::postgres::connector::PgConnector;

/// How many ticks it may take.
const MOST_TICKS: u32 = 15;

/// How much the new connection keeps while the old one has not come to the mark, in bytes.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// A connection and how far it has sent what it is to send.
pub(super) struct Line {
    pub(super) lease: Lease<PgConnector>,
    pub(super) sent: usize,
}

impl Line {
    pub(super) fn new(lease: Lease<PgConnector>) -> Self {
        Self { lease, sent: 0 }
    }

    /// Sends what there is, as far as the connection takes it.
    pub(super) fn write(&mut self, subscriber: &mut Subscriber, cx: &mut Context<'_>) -> Result<(), String> {
        let out = subscriber.out();
        while self.sent < out.len() {
            match self.lease.stream.poll_write(cx, &out[self.sent..]) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0)) => return Err("the connection takes nothing any more".to_owned()),
                Poll::Ready(Ok(written)) => self.sent += written,
                Poll::Ready(Err(error)) => return Err(error.to_string()),
            }
        }
        *out = Vec::new();
        self.sent = 0;
        match self.lease.stream.poll_sent(cx) {
            Poll::Ready(Err(error)) => Err(error.to_string()),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    /// How much has been read; `None`: there is nothing.
    pub(super) fn read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Result<Option<usize>, String> {
        match self.lease.stream.poll_read(cx, buffer) {
            Poll::Pending => Ok(None),
            Poll::Ready(Ok(0)) => Err("the server closed it".to_owned()),
            Poll::Ready(Err(error)) => Err(error.to_string()),
            Poll::Ready(Ok(read)) => Ok(Some(read)),
        }
    }
}

/// Notifications, each with its channel.
type Kept = Vec<(Channel, Arc<[u8]>)>;

/// The new connection.
pub(super) struct Heir {
    pub(super) line: Line,
    pub(super) subscriber: Subscriber,
    mark: Channel,
    /// The mark was notified.
    told: bool,
    /// It has heard it itself.
    reached: bool,
    /// The old one has.
    passed: bool,
    /// What came behind it.
    kept: Kept,
    bytes: usize,
    ticks: u32,
}

/// What there is to do about a channel.
pub(super) enum Confirmed {
    /// Nothing: the old connection confirms it.
    Before,
    /// It is listened to, on the new connection alone.
    Behind(Channel, u64),
}

impl Heir {
    /// One that is to listen to these channels, each with its number, once it has been prepared with this SQL.
    pub(super) fn new(lease: Lease<PgConnector>, prepare: &str, channels: impl Iterator<Item = (Channel, u64)>) -> Self {
        let mut random = [0; 16];
        // Without random numbers the name is one that somebody might use, and would have to.
        let _ = getrandom::fill(&mut random);
        let mark: Channel = format!("sidepool_mark_{:032x}", u128::from_ne_bytes(random)).into_bytes().into();
        let mut subscriber = Subscriber::default();
        subscriber.run(prepare);
        channels.for_each(|(channel, number)| subscriber.listen(&channel, number));
        subscriber.listen(&mark, 0);
        let (kept, line) = (Vec::new(), Line::new(lease));
        Self { line, subscriber, mark, told: false, reached: false, passed: false, kept, bytes: 0, ticks: 0 }
    }

    /// The channel that both listen to.
    pub(super) fn mark(&self) -> &Channel {
        &self.mark
    }

    /// The old connection has heard something: whether it is to be handed over.
    pub(super) fn on_old(&mut self, channel: &[u8]) -> bool {
        self.passed |= *channel == *self.mark;
        !self.passed
    }

    /// Whether a channel that is asked for now is the new connection's alone.
    pub(super) fn is_told(&self) -> bool {
        self.told
    }

    /// A tick has passed; an error when it takes too long.
    pub(super) fn tick(&mut self) -> Result<(), String> {
        self.ticks += 1;
        if self.ticks > MOST_TICKS { Err("the connection that was to replace it leads to another server".to_owned()) } else { Ok(()) }
    }

    /// Reads and writes. Gives what was confirmed; an error means that this connection is of no use.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>, buffer: &mut [u8], old_is_quiet: bool) -> Result<Vec<Confirmed>, String> {
        let mut confirmed = Vec::new();
        loop {
            if !self.told && old_is_quiet && self.subscriber.is_quiet() {
                self.told = true;
                self.subscriber.run(&format!("NOTIFY \"{}\"", String::from_utf8_lossy(&self.mark)));
            }
            self.line.write(&mut self.subscriber, cx)?;
            let Some(read) = self.line.read(cx, buffer)? else { return Ok(confirmed) };
            let Self { subscriber, mark, told, reached, kept, bytes, .. } = self;
            let mut refused = None;
            let mut names: HashMap<Box<[u8]>, Channel> = HashMap::new();
            subscriber.on_bytes(&buffer[..read], |event| match event {
                Event::Listening(channel, number) if *told => confirmed.push(Confirmed::Behind(channel, number)),
                Event::Listening(..) => confirmed.push(Confirmed::Before),
                Event::Refused(_, _, refusal) => refused = Some(refusal.message),
                Event::Heard(channel, _) if *channel == **mark => *reached = true,
                Event::Heard(channel, message) if *reached => {
                    let channel = names.entry(channel.into()).or_insert_with(|| channel.into());
                    *bytes += message.len();
                    kept.push((Arc::clone(channel), message.into()));
                }
                // The old connection hears it, too.
                Event::Heard(..) => {}
            })?;
            if let Some(refused) = refused {
                return Err(refused);
            }
            if self.bytes > MOST_BYTES {
                return Err("too much came before it could take over".to_owned());
            }
        }
    }

    /// Whether it takes over now.
    pub(super) fn is_ready(&self) -> bool {
        self.passed && self.reached
    }

    /// It takes over: the connection, and what it has kept.
    pub(super) fn into_parts(mut self) -> (Line, Subscriber, Kept) {
        self.subscriber.unlisten(&self.mark);
        (self.line, self.subscriber, self.kept)
    }
}
