//! A traced transaction of a client, handed to whoever sends traces.

use std::sync::Arc;

use sidepool_protocol::postgres::sql_normal::Normal;

use super::run::{Phase, Session};
use super::slow_log::MOST_TEXT;
use crate::clock;
use crate::traces::parent::Parent;
use crate::traces::{Statement, Trace, Work};
use crate::upstream::postgres::journal::{Outcome, Ran, Transaction};

impl Session {
    /// Hands it over.
    pub(super) fn trace(&self, transaction: &Transaction, ran: &[Ran], parent: Option<Parent>) {
        let Phase::Linked(lease) = &self.phase else { return };
        let Some(endpoint) = self.worker.config.borrow().postgres.as_ref().and_then(|postgres| postgres.traces.endpoint.clone()) else {
            return;
        };
        let (now, wall) = (clock::now(), clock::wall());
        let at = |since| wall.checked_sub(now.saturating_duration_since(since)).unwrap_or(wall);
        let texts = self.worker.postgres.traces_statements.get();
        let statement = |ran: &Ran| Statement {
            began: at(ran.since),
            took: ran.took,
            failed: (ran.outcome != Outcome::Completed).then(|| String::from_utf8_lossy(&ran.tag).into()),
            text: texts.then(|| {
                let (bytes, cut) = ran.text.bytes();
                Normal::new(bytes, cut, MOST_TEXT).to_string().into()
            }),
        };
        self.worker.postgres.traces.push(Trace {
            endpoint,
            pool: Arc::clone(self.pool.name()),
            namespace: self.presence().who.database.clone(),
            server: lease.server().place.address(),
            began: at(transaction.since),
            took: transaction.took,
            waited: ran.first().map(|ran| ran.waited).unwrap_or_default(),
            opening: transaction.opening.map(|opening| (at(opening.began), opening.took)),
            work: Work::Transaction {
                idle: transaction.idle,
                ran: transaction.statements,
                statements: ran.iter().map(statement).collect(),
            },
            parent,
        });
    }
}
