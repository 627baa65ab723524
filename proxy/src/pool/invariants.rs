//! What always holds, checked after every step of a debug build, and by the model tests and the fuzzer.

use super::core::Core;
use super::state::ConnState;

/// Longer queues are checked by their counts alone: the full check walks the queue.
const WALKED_QUEUE: u32 = 256;

impl Core {
    /// Panics, naming the invariant, when one does not hold. Call it between inputs.
    pub fn check_invariants(&self) {
        let Self { conns, queue, limits, .. } = self;
        assert!(conns.total() <= self.allowed.connections.max(limits.most()), "I1: no more connections than allowed");
        conns.check();
        if queue.len() <= WALKED_QUEUE {
            queue.check();
        }
        let leased = conns.all().filter(|(_, state)| *state == ConnState::Leased);
        let mut held: Vec<u32> = queue.held().collect();
        leased.for_each(|(slot, _)| held[usize::from(conns.at(slot).holder.0)] -= 1);
        assert!(held.iter().all(|left| *left == 0), "I4: what each identity holds follows from the connections");
        let idle = conns.count(ConnState::Idle);
        assert!(queue.is_empty() || idle == 0, "I3: nobody waits beside an idle connection");
        assert!(self.draining || self.paused || queue.is_empty() || self.something_comes(), "I8: somebody waits and nothing will come");
        assert!(queue.len() <= self.allowed.waiters.max(limits.queue_length), "I9: no more waiters than allowed");
        assert!(self.timers.earliest().is_none_or(|at| at > self.now), "I10: no deadline in the past");
        assert!(!self.draining || (queue.is_empty() && idle == 0), "I11: a drained pool keeps neither waiters nor idle connections");
        assert!(!self.paused || idle == 0, "a paused pool keeps no idle connections");
    }

    fn something_comes(&self) -> bool {
        let coming = [ConnState::Connecting, ConnState::Leased, ConnState::Resetting, ConnState::Probing, ConnState::Closing];
        let retry = self.backoff.retry_at(self.now).is_some_and(|at| self.timers.earliest().is_some_and(|earliest| earliest <= at));
        retry || self.limits.max == 0 || self.capped.is_some() || coming.into_iter().any(|state| self.conns.count(state) > 0)
    }
}
