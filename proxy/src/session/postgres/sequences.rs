//! Where a client asks for a value that a sequence has given, those that others have drawn on the connection are forgotten before.
//!
//! ```text
//!   extended protocol     [DISCARD SEQUENCES, in the same batch] Bind …         where it does not run, neither does what follows it
//!   simple query, quiet   [DISCARD SEQUENCES] and the query waits for its end   it may fail (a cancel): it is tried three times
//!   … in a failed block   nothing can be forgotten: a text of several statements, which may end the block and then ask, is refused
//! ```
//! What the client has drawn in the same transaction goes with it, so this happens once: from then on each client of the database begins with nothing
//! on a connection that others have used, and keeps what it draws itself. Not here: whose values they are (`upstream::postgres::sequences`).

use std::rc::Rc;
use std::sync::Arc;

use sidepool_protocol::postgres::encode;
use sidepool_protocol::postgres::fault::Fault;
use sidepool_protocol::postgres::frame::Head;
use sidepool_protocol::postgres::hints::Kinds;
use sidepool_protocol::postgres::statement::{self, SYNC};
use sidepool_protocol::postgres::tag::FrontendTag;
use sidepool_protocol::postgres::tracker::{Owed, TransactionStatus};

use super::carrying::carry;
use super::following::Own;
use super::hinting::Hinted;
use super::inbound::{Body, Inbound, OWN_PORTAL};
use super::outbound::field;
use super::refusal;
use super::run::Session;
use crate::upstream::postgres::link::{Link, Note};
use crate::worker::Worker;

/// Forgets what sequences have given.
const FORGETS: &str = "DISCARD SEQUENCES";

/// The statement in which the proxy does so, under a name: the unnamed one may be the client's.
const OWN_STATEMENT: &[u8] = b"sidepool sequences";

/// How often it is tried for one message before the client is told that it cannot be.
const MOST_TRIES: u8 = 3;

impl Inbound<'_, '_> {
    /// The next message of a batch may ask for values, by what was found in it.
    pub(super) fn forget_in_batch(&mut self, kinds: Kinds) {
        // In a failed block only its end runs, which what is owed may be.
        let nothing_runs = self.link.tracker.status() == TransactionStatus::Failed && !self.link.tracker.runs_something();
        if !nothing_runs {
            self.forget_in_this(kinds);
        }
    }

    fn forget_in_this(&mut self, kinds: Kinds) {
        if self.has_to_forget(kinds) && !self.link.tracker.batch_has(|note| matches!(note, Note::Forgets)) {
            self.put_forgetting();
        }
    }

    /// Whether a batch that begins here waits for an earlier one, which is to forget what others have drawn: what this client draws in it stays.
    pub(super) fn waits_for_forgetting(&mut self, tag: FrontendTag) -> bool {
        let Link { tracker, sequences, .. } = &mut *self.link;
        if !sequences.is_forgetting()
            || tracker.is_batch_open()
            || matches!(tag, FrontendTag::Terminate | FrontendTag::Sync | FrontendTag::Flush)
        {
            return false;
        }
        let owed = tracker.owed().any(|owed| matches!(owed, Owed::OwnExecute(Note::Forgets)));
        if !owed {
            sequences.on_answered();
        }
        owed
    }

    /// The next message, which is no part of a batch, may ask for values. `several`: it may be more than one statement.
    pub(super) fn forget_before(&mut self, kinds: Kinds, several: bool, head: Head) -> Hinted {
        if !self.has_to_forget(kinds) {
            return Hinted::Noted;
        }
        if self.link.tracker.is_batch_open() {
            // The client has sent no Sync: what fails ends the message, too. Several statements may end a failed block and then ask.
            if several {
                self.forget_in_this(kinds);
            } else {
                self.forget_in_batch(kinds);
            }
            return Hinted::Noted;
        }
        if self.link.tracker.is_owed() {
            return Hinted::Held;
        }
        if self.link.tracker.status() == TransactionStatus::Failed {
            return if several { self.refuse_asking(&refusal::values_of_others(), head) } else { Hinted::Noted };
        }
        if self.link.sequences.tries() >= MOST_TRIES {
            let cause = self.link.own_error.take();
            let message = cause.as_deref().and_then(|body| field(body, b'M')).map(String::from_utf8_lossy).unwrap_or_default();
            return self.refuse_asking(&refusal::values_not_forgotten(&message), head);
        }
        self.put_forgetting();
        self.link.tracker.owe(Owed::OwnSync);
        self.out.put().extend_from_slice(&SYNC);
        Hinted::Held
    }

    fn has_to_forget(&mut self, kinds: Kinds) -> bool {
        kinds.has(Kinds::SEQUENCES.with(Kinds::UNKNOWN)) && self.link.sequences.on_ask(!kinds.has(Kinds::SEQUENCES))
    }

    fn put_forgetting(&mut self) {
        self.link.sequences.on_try();
        // An earlier one that was cancelled may have left its statement.
        statement::put_close(self.out.put(), OWN_STATEMENT);
        let close = || Owed::OwnClose(Note::None);
        for own in [close(), Owed::OwnParse(Note::None), Owed::OwnBind, Owed::OwnExecute(Note::Forgets), close(), close()] {
            self.link.tracker.owe(own);
        }
        statement::put_run(self.out.put(), OWN_STATEMENT, OWN_PORTAL, &[FORGETS.as_bytes()]);
    }

    fn refuse_asking(&mut self, fault: &Fault, head: Head) -> Hinted {
        let mut told = Vec::new();
        encode::error_response(fault, &mut told);
        self.refuse_with(told.into());
        *self.body = Body { remaining: head.body, forward: false };
        Hinted::Refused
    }
}

impl Session {
    /// What others have drawn is forgotten behind `own`, if this client may ask for it.
    pub(super) fn forget_values(&self, link: &mut Link, own: Option<Own>) -> Option<Own> {
        let asks = link.rules.as_ref().is_some_and(|rules| rules.asks_sequences());
        if !link.sequences.on_link(self.ticket.number(), asks) {
            return own;
        }
        let own = own.map_or_else(|| carry(link, FORGETS), |own| own.and(FORGETS));
        if own.is_ahead() {
            // Otherwise nothing that is sent behind it runs.
            link.sequences.on_forgotten();
        }
        Some(own)
    }

    /// Tells all pools of the database, on all workers, that its clients ask for values.
    pub(super) fn note_sequences(&self, link: &Link) {
        if !link.sequences.is_asked() || !link.rules.as_ref().is_some_and(|rules| rules.ask_sequences()) {
            return;
        }
        let connector = self.pool.connector();
        let (database, hosts) = (Arc::clone(&connector.target().dbname), connector.target().hosts.clone());
        let tell = move |worker: &Rc<Worker>| worker.postgres.pools.ask_sequences(&database, &hosts);
        for id in self.worker.mailboxes.ids() {
            self.worker.mailboxes.post(id, tell.clone());
        }
    }
}
