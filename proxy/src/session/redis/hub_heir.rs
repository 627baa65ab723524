//! A new connection takes over from the one that a hub has, without losing or doubling a message: the secret or the address has changed, or the
//! connection has lived long enough.
//!
//! ```text
//!   new:  SUBSCRIBE everything and a mark ──▶ confirmed ──▶ (PUBLISH mark) ──▶ hears the mark ──▶ keeps what comes behind it ──▶ takes over
//!   old:  SUBSCRIBE the mark ───────────────▶ confirmed      hands over what comes … up to the mark, and nothing behind it ──▶ is given back
//! ```
//! A server tells all subscribers in one order, so the mark is at the same place for both. Where the new connection leads to another server the old one
//! never hears the mark: it takes over all the same, after some time. Not here: when it begins (`hub_line`).

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use sidepool_protocol::redis::encode::{self, Resp};
use sidepool_protocol::redis::reply::Reply;
use sidepool_protocol::redis::request::Arguments;

use super::hub_line::Line;
use super::refusal;
use super::topics::{Kind, new_mark};
use super::unknown::ANSWER_TIMEOUT;
use crate::pool::handle::Pool;
use crate::pool::id::IdentityId;
use crate::pool::lease::Lease;
use crate::pool::reason::Condition;
use crate::upstream::redis::connector::RedisConnector;

/// How many looks it may take.
const MOST_LOOKS: u32 = 3;

/// How much the new connection keeps while the old one has not come to the mark, in bytes.
const MOST_BYTES: usize = 16 * 1024 * 1024;

type Telling = Pin<Box<dyn Future<Output = Result<(), String>>>>;

/// The new connection.
pub(super) struct Heir {
    line: Line,
    out: Vec<u8>,
    mark: Rc<[u8]>,
    /// How many answers are owed.
    left: usize,
    /// What the server does not allow.
    refused: Option<String>,
    /// The mark is being published.
    telling: Option<Telling>,
    told: bool,
    /// It has heard the mark itself.
    reached: bool,
    /// The old one has.
    passed: bool,
    /// What came behind it.
    kept: Vec<Vec<u8>>,
    bytes: usize,
    looks: u32,
    /// The old one leads elsewhere: it is better to lose or double something than to keep it.
    forced: bool,
}

impl Heir {
    /// One that is to subscribe to all that is `wanted`.
    pub(super) fn new(lease: Lease<RedisConnector>, wanted: &[(&str, Rc<[u8]>)], forced: bool) -> Self {
        let (mut out, mark) = (Vec::new(), new_mark());
        for (command, name) in wanted {
            encode::command(&mut out, &[command.as_bytes(), name]);
        }
        encode::command(&mut out, &[Kind::Channel.subscribe().as_bytes(), &mark]);
        Self {
            line: Line::new(lease),
            out,
            mark,
            left: wanted.len() + 1,
            refused: None,
            telling: None,
            told: false,
            reached: false,
            passed: false,
            kept: Vec::new(),
            bytes: 0,
            looks: 0,
            forced,
        }
    }

    /// The channel that both listen to.
    pub(super) fn mark(&self) -> &Rc<[u8]> {
        &self.mark
    }

    /// The old connection has heard something: whether it is to be handed over.
    pub(super) fn on_old(&mut self, frame: &[u8]) -> bool {
        self.passed |= self.is_mark(frame);
        !self.passed
    }

    /// Some time has passed.
    pub(super) fn look(&mut self) {
        self.looks += 1;
    }

    /// Reads and writes; whether it takes over now. An error means that it does not.
    pub(super) fn drive(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
        old_is_quiet: bool,
        leased: &Rc<Pool<RedisConnector>>,
    ) -> Result<bool, String> {
        let lost = |()| "the new connection was lost".to_owned();
        self.line.write(&mut self.out, cx).map_err(lost)?;
        let mut frames = Vec::new();
        while self.line.read(cx, buffer, |frame| frames.push(frame.to_vec())).map_err(lost)? {}
        for frame in frames {
            self.on_new(frame);
        }
        if self.left == 0 && old_is_quiet && !self.told && self.refused.is_none() {
            self.told = true;
            self.telling = Some(Box::pin(publish(Rc::clone(leased), Rc::clone(&self.mark))));
        }
        if let Some(telling) = &mut self.telling
            && let Poll::Ready(told) = telling.as_mut().poll(cx)
        {
            self.telling = None;
            self.refused = self.refused.take().or(told.err());
        }
        let late = self.looks > MOST_LOOKS;
        if self.forced && self.left == 0 && (late || self.refused.is_some()) {
            return Ok(true);
        }
        match &self.refused {
            Some(refused) => Err(refused.clone()),
            None if late => Err("it took too long".to_owned()),
            None if self.bytes > MOST_BYTES => Err("too much came before it could take over".to_owned()),
            None => Ok(self.passed && self.reached),
        }
    }

    fn on_new(&mut self, frame: Vec<u8>) {
        if frame.first() == Some(&b'-') {
            self.refused = Some(String::from_utf8_lossy(&frame[1..]).trim_end().to_owned());
            self.left = self.left.saturating_sub(1);
        } else if !is_message(&frame) {
            self.left = self.left.saturating_sub(1);
        } else if self.reached {
            self.bytes += frame.len();
            self.kept.push(frame);
        } else {
            // What comes before it, the old connection hears, too.
            self.reached = self.is_mark(&frame);
        }
    }

    fn is_mark(&self, frame: &[u8]) -> bool {
        let mut words = Arguments::new(frame);
        words.next() == Some(Kind::Channel.message().as_bytes()) && words.next() == Some(&*self.mark)
    }

    /// It takes over: the connection, and what it has kept.
    pub(super) fn into_parts(self) -> (Line, Vec<Vec<u8>>) {
        (self.line, self.kept)
    }
}

fn is_message(frame: &[u8]) -> bool {
    let word = Arguments::new(frame).next().unwrap_or_default();
    Kind::ALL.into_iter().any(|kind| kind.message().as_bytes() == word)
}

async fn publish(pool: Rc<Pool<RedisConnector>>, mark: Rc<[u8]>) -> Result<(), String> {
    let mut lease = pool.acquire(IdentityId::default()).await.map_err(|error| refusal::line(&error))?;
    let answer = RedisConnector::ask(&mut lease, &[b"PUBLISH", &mark, b""], Resp::Two, ANSWER_TIMEOUT).await;
    lease.release(if answer.is_ok() { Condition::Clean } else { Condition::Broken });
    match answer {
        Ok(Reply::Error(text)) => Err(text),
        Ok(Reply::Nil | Reply::Integer(_) | Reply::Text(_) | Reply::List(_)) => Ok(()),
        Err(fault) => Err(fault.words().to_owned()),
    }
}
