//! Traces of the sampled share of what Redis clients do: what one has sent until all of it is answered, or what it does on a connection of its own.
//! Names of commands and how many there were; never a key or a value.
//!
//! Where nobody asks, a batch of requests pays one branch. Of what goes down a lane only the client's side is known: the connection, and who waits for
//! it, are everybody's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sidepool_config::model::Upstream;
use sidepool_protocol::redis::command::{Command, Handling};
use sidepool_protocol::redis::request::{RequestScanner, Scanned};

use super::relay::Relay;
use super::requests::resolve;
use super::run::Session;
use crate::clock;
use crate::pool::lease::Lease;
use crate::traces::{Trace, Work};
use crate::upstream::redis::connector::RedisConnector;

/// So many requests of one read are looked at.
const MOST_NAMED: usize = 64;

/// A connection that was there at once was not waited for.
const NO_WAIT: Duration = Duration::from_millis(1);

/// What commands that were sent together are called together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Operation {
    /// Nothing is known yet.
    #[default]
    None,
    /// All are the same one; `None`: one that the table does not have.
    Same(Option<&'static Command>),
    /// They differ.
    Mixed,
    /// A transaction is among them.
    Transaction,
}

impl Operation {
    /// One more.
    pub(super) fn add(&mut self, command: Option<&'static Command>) {
        *self = match *self {
            _ if command.is_some_and(|command| command.handling == Handling::Exec) => Self::Transaction,
            Self::None => Self::Same(command),
            Self::Same(before) if before == command => Self::Same(command),
            Self::Same(_) | Self::Mixed => Self::Mixed,
            Self::Transaction => Self::Transaction,
        };
    }

    /// As OpenTelemetry's conventions for Redis have it.
    fn name(self, count: u32) -> Box<str> {
        match self {
            Self::Same(Some(command)) => {
                let name = command.name.replace('|', " ").to_ascii_uppercase();
                if count > 1 { format!("PIPELINE {name}").into() } else { name.into() }
            }
            Self::Transaction => "MULTI".into(),
            Self::None | Self::Same(None) | Self::Mixed if count > 1 => "PIPELINE".into(),
            Self::None | Self::Same(None) | Self::Mixed => "COMMAND".into(),
        }
    }
}

/// A batch of requests that is traced.
#[derive(Debug)]
pub(super) struct Traced {
    since: Instant,
    operation: Operation,
    count: u32,
}

impl Traced {
    fn add(&mut self, requests: &[u8], count: u32) {
        self.count = self.count.saturating_add(count);
        let mut at = 0;
        for _ in 0..MOST_NAMED {
            let Ok(Scanned::Request(request)) = RequestScanner::default().scan(&requests[at..], false) else { return };
            self.operation.add(resolve(&requests[at..], &request));
            at += request.length;
        }
    }
}

impl Session {
    /// So many requests have gone down the lane.
    #[cold]
    pub(super) fn note_sent(&mut self, requests: &[u8], count: u32) {
        let is_first = self.client.pending() <= count;
        if self.traced.is_none() && is_first && self.server.samples() {
            self.traced = Some(Box::new(Traced { since: clock::now(), operation: Operation::None, count: 0 }));
        }
        if let Some(traced) = &mut self.traced {
            traced.add(requests, count);
        }
    }

    /// Hands the trace over once all is answered; until then the session is woken when it is.
    pub(super) fn end_traced(&mut self) {
        if self.client.poll_pending_below(1).is_pending() {
            return;
        }
        let (Some(traced), Some(attached)) = (self.traced.take(), &self.attached) else { return };
        let (pool, server) = (Arc::clone(attached.group.shared.name()), configured(&self.server.config().upstream));
        let work = Work::Commands { operation: traced.operation.name(traced.count), count: traced.count };
        self.hand_over(pool, server, traced.since, (traced.since, clock::now()), None, work);
    }

    /// A lease that was asked for then is over.
    pub(super) fn trace_lease(&self, asked: Instant, lease: &Lease<RedisConnector>, relay: &Relay) {
        let opening = lease.opening.and_then(|opening| opening.seen_by(asked));
        let waited = lease.since().saturating_duration_since(asked);
        let began = if opening.is_none() && waited < NO_WAIT { lease.since() } else { asked };
        let operation = relay.operation.name(relay.commands);
        let work = Work::Commands { operation, count: relay.commands };
        let opening = opening.map(|opening| (opening.began, opening.took));
        self.hand_over(Arc::clone(lease.pool().name()), lease.server.place.address(), began, (lease.since(), clock::now()), opening, work);
    }

    fn hand_over(
        &self,
        pool: Arc<str>,
        server: (Box<str>, Option<u16>),
        asked: Instant,
        (since, now): (Instant, Instant),
        opening: Option<(Instant, Duration)>,
        work: Work,
    ) {
        let Some(endpoint) = self.server.config().traces.endpoint.clone() else { return };
        let wall = clock::wall();
        let at = |then: Instant| wall.checked_sub(now.saturating_duration_since(then)).unwrap_or(wall);
        self.worker.postgres.traces.push(Trace {
            endpoint,
            pool,
            namespace: self.database.to_string().into(),
            server,
            began: at(since),
            took: now.saturating_duration_since(since),
            waited: since.saturating_duration_since(asked),
            opening: opening.map(|(began, took)| (at(began), took)),
            work,
            parent: None,
        });
    }
}

/// The server as it is configured.
fn configured(upstream: &Upstream) -> (Box<str>, Option<u16>) {
    match upstream {
        Upstream::Tcp { host, port } => (host.as_str().into(), Some(*port)),
        Upstream::Unix(path) => (path.to_string_lossy().into(), None),
    }
}

#[cfg(test)]
mod tests {
    use sidepool_protocol::redis::command;

    use super::*;

    #[test]
    fn commands_are_named_as_the_conventions_say_and_by_nothing_else() {
        let mut traced = Traced { since: clock::now(), operation: Operation::None, count: 0 };
        let (get, set) = (&b"*2\r\n$3\r\nget\r\n$6\r\nsecret\r\n"[..], &b"*3\r\n$3\r\nSET\r\n$6\r\nsecret\r\n$1\r\nx\r\n"[..]);
        traced.add(get, 1);
        assert_eq!(&*traced.operation.name(traced.count), "GET");
        traced.add(&[get, get].concat(), 2);
        assert_eq!((&*traced.operation.name(traced.count), traced.count), ("PIPELINE GET", 3));
        traced.add(set, 1);
        assert_eq!(&*traced.operation.name(traced.count), "PIPELINE");
        traced.add(b"*1\r\n$4\r\nEXEC\r\n", 1);
        assert_eq!(&*traced.operation.name(traced.count), "MULTI");
        assert_eq!(&*Operation::Same(None).name(1), "COMMAND");
        assert_eq!(&*Operation::Same(command::lookup_sub(command::lookup(b"config").unwrap(), b"get")).name(1), "CONFIG GET");
    }
}
