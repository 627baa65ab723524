//! Replication connections: one client, one server connection of its own for as long as it stays, and bytes both ways as they come.
//!
//! The server connection takes a place in its pool and so counts toward every limit; an idle one gives way to it. It is opened with the client's own
//! startup parameters and is never used by anybody else. Not here: logging the client in (`login`).

mod frames;
mod pipe;

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use sidepool_protocol::postgres::encode;
use sidepool_protocol::postgres::fault::Fault;
use sidepool_protocol::postgres::startup::{Replication, Startup};
use sidepool_protocol::postgres::tracker::TransactionStatus;

use self::frames::Frames;
use self::pipe::{Flow, Pipe};
use super::account::Member;
use super::cancel::CancelTicket;
use super::count::Present;
use super::refusal;
use super::run::End;
use crate::observe::record::PoolCounter;
use crate::pool::acquire::AcquireError;
use crate::pool::fault::ConnectFault;
use crate::pool::handle::Pool;
use crate::pool::slot::Slot;
use crate::pool::traits::Connection as _;
use crate::transport::stream::Stream;
use crate::upstream::postgres::connection::PgConnection;
use crate::upstream::postgres::connector::PgConnector;
use crate::worker::Worker;

/// A replication connection to a server, for a client that has proven who it is.
pub struct Replicating {
    kind: Replication,
    pool: Rc<Pool<PgConnector>>,
    connection: Box<PgConnection>,
    ticket: CancelTicket,
    /// Kept for its drop, after which the pool may open another connection in its place.
    slot: Slot<PgConnector>,
    member: Member,
}

/// Why there is none.
pub(super) enum Refused {
    /// No place in the pool.
    Pool(AcquireError),
    /// The server cannot be connected to, or says no.
    Server(ConnectFault),
}

impl Replicating {
    /// Opens the server's side for a client with this startup message.
    pub(super) async fn open(
        pool: &Rc<Pool<PgConnector>>,
        startup: &Startup,
        kind: Replication,
        ticket: CancelTicket,
        member: Member,
    ) -> Result<Self, Refused> {
        let slot = pool.occupy(ticket.presence().identity()).await.map_err(Refused::Pool)?;
        let mut parameters = vec![("replication".into(), kind.value().into())];
        parameters.extend(startup.forwarded.iter().cloned());
        let opened = pool.connector().connect_with(&parameters).await;
        let connection = Box::new(opened.map_err(Refused::Server)?);
        ticket.running(&connection.cancel);
        Ok(Self { kind, pool: Rc::clone(pool), connection, ticket, slot, member })
    }

    /// What the client is told when it is in.
    pub(super) fn welcome(&self, out: &mut Vec<u8>) {
        encode::parameter_statuses(&self.connection.parameters, out);
        let key = self.ticket.key();
        encode::backend_key_data(key.process_id(), &key.secret(), out);
        encode::ready_for_query(TransactionStatus::Idle, out);
    }

    /// Which kind it is.
    #[must_use]
    pub fn kind(&self) -> Replication {
        self.kind
    }

    /// Carries bytes, those first that the client has `said` already, until one of the two is gone, or the process is.
    pub(super) async fn run(self, client: Stream, said: Vec<u8>, worker: &Rc<Worker>) {
        let present = Present::arrived(worker, &self.pool, self.ticket.number(), &client);
        let Self { connection, pool, ticket, slot, member, .. } = self;
        let mut frames = Frames::default();
        if !said.is_empty() {
            pool.record().add(PoolCounter::BytesFromClient, said.len() as u64);
            pool.record().add(PoolCounter::BytesToServer, said.len() as u64);
            frames.asked();
        }
        let mut relay = Relay { client, connection, pool, to_server: Pipe::begun(said), to_client: Pipe::default(), frames };
        let end = poll_fn(|cx| relay.poll(cx, worker)).await;
        relay.connection.close();
        present.left(worker, ticket.presence(), end);
        drop((ticket, slot, member));
    }
}

/// The two sides and what is on its way between them.
struct Relay {
    client: Stream,
    connection: Box<PgConnection>,
    pool: Rc<Pool<PgConnector>>,
    to_server: Pipe,
    to_client: Pipe,
    frames: Frames,
}

impl Relay {
    fn poll(&mut self, cx: &mut Context<'_>, worker: &Worker) -> Poll<End> {
        let (record, server) = (self.pool.record(), &mut self.connection.stream);
        let from_client = self.to_server.poll(cx, &mut self.client, server, |bytes| {
            record.add(PoolCounter::BytesFromClient, bytes.len() as u64);
            record.add(PoolCounter::BytesToServer, bytes.len() as u64);
            self.frames.asked();
        });
        let from_server = self.to_client.poll(cx, server, &mut self.client, |bytes| {
            record.add(PoolCounter::BytesFromServer, bytes.len() as u64);
            record.add(PoolCounter::BytesToClient, bytes.len() as u64);
            self.frames.answered(bytes);
        });
        match (from_client, from_server) {
            (Flow::Ended, _) => Poll::Ready(End::Left),
            (Flow::ReaderLost, _) | (_, Flow::WriterLost) => Poll::Ready(End::Lost),
            // What it said last is with the client already.
            (_, Flow::Ended) => Poll::Ready(End::Left),
            (Flow::WriterLost, _) | (_, Flow::ReaderLost) => Poll::Ready(End::ServerLost),
            (Flow::Waits, Flow::Waits) => {
                if worker.drain.is_draining() && self.frames.may_end() && self.to_client.is_empty() {
                    self.say_goodbye(&refusal::draining());
                    return Poll::Ready(End::Drained);
                }
                Poll::Pending
            }
        }
    }

    /// Between two messages of the server a last one of our own fits in.
    fn say_goodbye(&mut self, fault: &Fault) {
        let mut words = Vec::new();
        encode::error_response(fault, &mut words);
        // A client that does not take it now has been told by the end of the connection.
        let _ = self.client.poll_write(&mut Context::from_waker(Waker::noop()), &words);
    }
}
