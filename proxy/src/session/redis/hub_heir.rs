//! A new connection takes over from the one that a hub has, without losing or doubling a message: the secret or the address has changed, or the
//! connection has lived long enough.
//!
//! ```text
//!   new:  SUBSCRIBE everything and a mark ──▶ confirmed ──▶ (PUBLISH mark) ──▶ hears the mark ──▶ keeps what comes behind it ──▶ takes over
//!   old:  SUBSCRIBE the mark ───────────────▶ confirmed      hands over what comes … up to the mark, and nothing behind it ──▶ is given back
//! ```
//! A server tells all subscribers in one order, so the mark is at the same place for both. Not here: who has come how far and what follows from it
//! (`hub_handover`), and when it begins (`hub_line`).

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use sidepool_protocol::redis::encode::{self, Resp};
use sidepool_protocol::redis::reply::Reply;

use super::hub_handover::{Handover, Manner};
use super::hub_line::Line;
use super::refusal;
use super::topics::{Kind, new_mark};
use super::unknown::ANSWER_TIMEOUT;
use crate::pool::handle::Pool;
use crate::pool::id::IdentityId;
use crate::pool::lease::Lease;
use crate::pool::reason::Condition;
use crate::upstream::redis::connector::RedisConnector;

type Telling = Pin<Box<dyn Future<Output = Result<(), String>>>>;

/// What somebody wants to hear.
pub(super) type Wanted = Vec<(Kind, Rc<[u8]>)>;

/// The new connection.
pub(super) struct Heir {
    line: Line,
    out: Vec<u8>,
    /// What it is subscribed to beside the mark.
    joined: Wanted,
    state: Handover,
    /// The mark is being published.
    telling: Option<Telling>,
    told: bool,
}

impl Heir {
    /// One that is to subscribe to all that is `wanted`. `forced`: the old one leads elsewhere.
    pub(super) fn new(lease: Lease<RedisConnector>, wanted: Wanted, forced: bool) -> Self {
        let (mut out, mark) = (Vec::new(), new_mark());
        for (kind, name) in &wanted {
            encode::command(&mut out, &[kind.subscribe().as_bytes(), name]);
        }
        encode::command(&mut out, &[Kind::Channel.subscribe().as_bytes(), &mark]);
        let state = Handover::new(mark, wanted.len() + 1, forced);
        Self { line: Line::new(lease), out, joined: wanted, state, telling: None, told: false }
    }

    /// The channel that both listen to.
    pub(super) fn mark(&self) -> &Rc<[u8]> {
        self.state.mark()
    }

    /// The old connection has heard something: whether it is to be handed over now.
    pub(super) fn on_old(&mut self, frame: &[u8]) -> bool {
        self.state.on_old(frame)
    }

    /// Some time has passed.
    pub(super) fn look(&mut self) {
        self.state.look();
    }

    /// Reads and writes; how it takes over now, if it does. An error means that it never does.
    pub(super) fn drive(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
        old_is_quiet: bool,
        leased: &Rc<Pool<RedisConnector>>,
    ) -> Result<Option<Manner>, String> {
        let lost = |()| "the new connection was lost".to_owned();
        self.line.write(&mut self.out, cx).map_err(lost)?;
        while self.line.read(cx, buffer, |frame| self.state.on_new(frame.to_vec())).map_err(lost)? {}
        if self.state.is_ready() && old_is_quiet && !self.told {
            self.told = true;
            self.telling = Some(Box::pin(publish(Rc::clone(leased), Rc::clone(self.state.mark()))));
        }
        if let Some(telling) = &mut self.telling
            && let Poll::Ready(told) = telling.as_mut().poll(cx)
        {
            self.telling = None;
            if let Err(why) = told {
                self.state.refuse(why);
            }
        }
        self.state.verdict()
    }

    /// It takes over: the connection, what it is subscribed to, and what is still to be handed over.
    pub(super) fn taken_over(self, manner: Manner) -> (Line, Wanted, Vec<Vec<u8>>) {
        (self.line, self.joined, self.state.taken_over(manner))
    }

    /// It does not: what is still to be handed over.
    pub(super) fn given_up(self) -> Vec<Vec<u8>> {
        self.state.given_up()
    }
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
