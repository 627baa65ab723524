//! What the comings and goings of PostgreSQL clients add to the metrics and the log. What happens in between is counted where it happens.

use std::rc::Rc;

use super::denied::Denied;
use super::opening::Farewell;
use super::presence::Presence;
use super::run::{End, Start};
use super::say;
use crate::observe::record::{PoolCounter, PoolGauge, WorkerCounter};
use crate::pool::handle::Pool;
use crate::transport::stream::Stream;
use crate::upstream::postgres::connector::PgConnector;
use crate::worker::Worker;

/// A client that is logged in, for as long as this lives.
pub(super) struct Present {
    pool: Rc<Pool<PgConnector>>,
    /// Its number, by which its two log lines find together.
    client: u64,
}

impl Present {
    /// It is here.
    pub(super) fn new(worker: &Worker, start: &Start) -> Self {
        Self::arrived(worker, &start.pool, start.ticket.number(), &start.client)
    }

    /// The client of this number and pool is here.
    pub(super) fn arrived(worker: &Worker, pool: &Rc<Pool<PgConnector>>, client: u64, stream: &Stream) -> Self {
        pool.record().shift(PoolGauge::Clients, 1);
        pool.enter();
        pool.record().add(PoolCounter::Logins, 1);
        let config = worker.config.borrow();
        if config.log.connections && config.pgbouncer.is_none() {
            tracing::info!(peer = %stream.peer(), client, pool = %pool.name(), "client connected");
        }
        Self { pool: Rc::clone(pool), client }
    }

    /// It is gone, and this is why.
    pub(super) fn left(self, worker: &Worker, presence: &Presence, end: End) {
        if !say::gone(worker, presence, end) && worker.config.borrow().log.disconnections {
            let (who, age_s) = (&presence.who, say::age(presence.connected));
            tracing::info!(client = self.client, pool = %self.pool.name(), peer = presence.ends.peer(), user = &*who.user, database = &*who.database, age_s, reason = end.label(), "client disconnected");
        }
        let record = self.pool.record();
        match end {
            End::Left | End::Gone | End::Moved => {}
            End::Lost => worker.record.add(WorkerCounter::PostgresFaultLost, 1),
            End::Violation => {
                worker.record.add(WorkerCounter::PostgresFaultProtocol, 1);
                record.add(PoolCounter::ErrorProtocol, 1);
            }
            End::ServerLost => record.add(PoolCounter::ErrorUpstreamLost, 1),
            End::Mode => record.add(PoolCounter::ErrorUnsupported, 1),
            End::Pinned => record.add(PoolCounter::ErrorRefused, 1),
            End::TimedOut(_) => record.add(PoolCounter::ErrorTimedOut, 1),
            End::Reconfigured => record.add(PoolCounter::ErrorReconfigured, 1),
            End::Ended => {}
            End::Drained => record.add(PoolCounter::ErrorShutdown, 1),
        }
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.pool.record().shift(PoolGauge::Clients, -1);
        self.pool.leave();
    }
}

/// A client did not get in. Answers the counter of how its login ended.
pub(super) fn turned_away(worker: &Worker, farewell: &Farewell) -> WorkerCounter {
    let Some(denied) = farewell.denied() else { return WorkerCounter::PostgresLoginOther };
    let (result, reason) = denied.counters();
    worker.record.add(reason, 1);
    if matches!(denied, Denied::NotPostgres | Denied::Protocol) {
        worker.record.add(WorkerCounter::PostgresFaultProtocol, 1);
    }
    result
}

/// The counter of an SQLSTATE class.
pub(super) fn error_counter(class: [u8; 2]) -> PoolCounter {
    match &class {
        b"08" => PoolCounter::Error08,
        b"22" => PoolCounter::Error22,
        b"23" => PoolCounter::Error23,
        b"25" => PoolCounter::Error25,
        b"26" => PoolCounter::Error26,
        b"28" => PoolCounter::Error28,
        b"40" => PoolCounter::Error40,
        b"42" => PoolCounter::Error42,
        b"53" => PoolCounter::Error53,
        b"55" => PoolCounter::Error55,
        b"57" => PoolCounter::Error57,
        b"XX" => PoolCounter::ErrorXx,
        _ => PoolCounter::ErrorOtherClass,
    }
}
