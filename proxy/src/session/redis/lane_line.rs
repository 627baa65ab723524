//! The line before a full lane: who may add requests now, and who is called next. Whose turn it is says `turns`, how much may be under way `flow` and
//! `reach`.

use std::rc::Rc;
use std::time::{Duration, Instant};

use sidepool_protocol::redis::tracker::Pipeline;

use super::client::{Client, Owner};
use super::lane::Lane;
use super::reach::Reach;
use super::turns::{Admission, Bounds, FULL_BYTES, Load, Outlook};
use crate::clock;
use crate::observe::record::PoolHistogram;
use crate::pool::id::IdentityId;

impl Lane {
    /// Whether it takes more requests of this client now; when not, the client's session is woken once it does, or once it is refused.
    pub fn admit(&self, client: &Rc<Client>, bounds: impl FnOnce() -> Bounds) -> Admission {
        let admission = self.turns.admits(self.load(), bounds, || Rc::clone(client), &client.place, clock::now);
        if admission != Admission::Now {
            self.meeting.uses(client.place.identity.get());
        }
        admission
    }

    /// Whether not everybody may add requests.
    pub fn is_crowded(&self) -> bool {
        !self.turns.is_empty() || self.load().is_full()
    }

    /// How much a client may add in one go.
    pub fn helping(&self) -> usize {
        let load = self.load();
        let roomy = self.turns.is_empty() && load.full == FULL_BYTES && load.is_less_than_half();
        if roomy { usize::MAX } else { load.quantum() }
    }

    /// A client wants nothing now, or nothing here: somebody else may have its turn.
    pub fn leave_line(&self, client: &Client) {
        self.turns.leave(&client.place, clock::now);
        self.call_next();
    }

    /// Calls those whose turn it is, if it is anybody's.
    pub fn call_next(&self) {
        if !self.turns.is_empty() {
            self.turns.call(self.load(), clock::now, |waited| self.record.observe(PoolHistogram::Wait, waited));
        }
    }

    /// Refuses those who have stood in line for too long.
    pub fn look_at_line(&self, now: Instant, patience: Option<Duration>) {
        self.turns.refuse_overdue(now, patience);
    }

    /// How many stand in line.
    pub fn waiting(&self) -> usize {
        self.turns.len()
    }

    /// What one more client of `identity` has to expect of the line.
    pub fn outlook(&self, identity: IdentityId, patience: Option<Duration>) -> Option<Outlook> {
        self.turns.outlook(identity, patience, clock::now())
    }

    /// Since when the one stands in line that has done so for longest.
    pub fn oldest_in_line(&self) -> Option<Instant> {
        self.turns.oldest()
    }

    /// Whether nothing is owed, and nobody waits.
    #[cfg(test)]
    pub fn is_at_rest(&self) -> bool {
        self.pipeline.borrow().is_empty() && self.turns.is_empty() && self.active.get() == 0
    }

    /// How many bytes of requests it keeps.
    #[cfg(test)]
    pub fn kept(&self) -> usize {
        self.pipeline.borrow().unanswered_bytes()
    }

    fn load(&self) -> Load {
        let several = if self.meeting.is_on() { self.flow.full() } else { FULL_BYTES };
        // What is halted is answered at once when that is over, however much it is.
        let ahead = self.reach.as_ref().filter(|_| !self.pause.is_on()).map_or(FULL_BYTES, Reach::full);
        under_way(&self.pipeline.borrow(), several.min(ahead))
    }
}

/// What of a lane's requests has no answer, where it is full from so many bytes on.
pub(super) fn under_way(pipeline: &Pipeline<Owner>, full: usize) -> Load {
    Load { commands: usize::try_from(pipeline.owed()).unwrap_or(usize::MAX), bytes: pipeline.unanswered_bytes(), full }
}
