//! Who waits, and whose turn it is: first come first served within an identity, and between identities as `turns` says.
//!
//! A waiter stands in three lists at once: all waiters by age, those with a patience like its own (for the wait timeout), and its identity's waiters on
//! its worker (for its turn). They are linked through the table, so that a cancelled waiter costs a constant. Not here: connections, except for how many each
//! identity holds.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::id::{Asker, IdentityId, WaiterId};
use super::limits::bounded;
use super::list::{Chain, List};
use super::turns::{Turns, rank, share};
use crate::worker::WorkerId;

/// A session in the queue, as others see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Waiting {
    /// Its name.
    pub(super) id: WaiterId,
    /// Where it is.
    pub(super) worker: WorkerId,
    /// For whom it asks.
    pub(super) identity: IdentityId,
    /// Since when it waits.
    pub(super) since: Instant,
    /// How long it waits, where it has said so itself.
    pub(super) patience: Option<Duration>,
}

/// How a released connection chooses between the oldest waiter and the oldest of its own worker.
pub(super) struct Affinity<F: Fn(WorkerId) -> bool> {
    /// Where the connection is.
    pub(super) home: WorkerId,
    /// How much longer than a waiter of the same worker one elsewhere must have waited to be served first.
    pub(super) patience: Duration,
    /// Whether that other worker has connections of its own that will come free.
    pub(super) will_free: F,
}

/// One place in the table of waiters.
#[derive(Debug, Clone)]
struct Waiter {
    generation: u32,
    waiting: bool,
    since: Instant,
    order: u64,
    worker: WorkerId,
    seat: u32,
    identity: IdentityId,
    patience: Option<Duration>,
}

/// The waiters of one identity, by worker.
#[derive(Debug, Clone, Default)]
struct Lane {
    sides: Vec<List>,
    waiters: u32,
    /// How many connections its clients hold.
    held: u32,
}

impl Lane {
    /// Its part of the turns, beside those of others.
    fn share(&self) -> u64 {
        share(self.held, self.waiters)
    }

    /// The same, and nothing if it has no waiters.
    fn part(&self) -> u64 {
        if self.waiters > 0 { self.share() } else { 0 }
    }

    /// Where it stands in the turns, if it has waiters.
    fn rank(&self) -> Option<u32> {
        (self.waiters > 0).then(|| rank(self.held, self.waiters))
    }
}

/// The wait queue.
#[derive(Debug, Clone)]
pub(super) struct Queue {
    slots: Vec<Waiter>,
    free: Vec<u32>,
    ages: Chain,
    places: Chain,
    by_age: List,
    patiences: Chain,
    /// Those who wait as long as the pool's limits say, by age.
    ordinary: List,
    /// When each of the others has waited for long enough, if it ever has.
    deadlines: BTreeSet<(Instant, u32)>,
    /// The oldest one that has not been told that it waits; all behind it have not been told either.
    untold: Option<u32>,
    /// By identity. There are few, and their names are small numbers (`identities`).
    lanes: Vec<Lane>,
    turns: Turns,
    /// The parts of all identities with waiters.
    shares: u64,
    per_worker: Vec<u32>,
    waiters: u32,
    first_order: u64,
    last_order: u64,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            ages: Chain::default(),
            places: Chain::default(),
            by_age: List::default(),
            patiences: Chain::default(),
            ordinary: List::default(),
            deadlines: BTreeSet::new(),
            untold: None,
            lanes: Vec::new(),
            turns: Turns::default(),
            shares: 0,
            per_worker: Vec::new(),
            waiters: 0,
            first_order: u64::MAX / 2,
            last_order: u64::MAX / 2,
        }
    }
}

impl Queue {
    /// How many wait.
    pub(super) fn len(&self) -> u32 {
        self.waiters
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiters == 0
    }

    /// How many wait on `worker`.
    pub(super) fn waiting_on(&self, worker: WorkerId) -> u32 {
        self.per_worker.get(usize::from(worker.0)).copied().unwrap_or(0)
    }

    /// The one that has waited for longest.
    pub(super) fn oldest(&self) -> Option<Waiting> {
        self.by_age.first().map(|slot| self.at(slot))
    }

    /// Those who have waited for longer than they are willing to: with a patience of their own, or with `common`.
    pub(super) fn overdue(&self, now: Instant, common: Option<Duration>) -> (Vec<WaiterId>, Option<Instant>) {
        let (mut overdue, mut next) = (Vec::new(), None);
        let ordinary = self.ordinary.iter(&self.patiences).filter_map(|slot| Some((self.slots[slot as usize].since + common?, slot)));
        for deadlines in [&mut ordinary.into_iter() as &mut dyn Iterator<Item = _>, &mut self.deadlines.iter().copied()] {
            for (deadline, slot) in deadlines {
                if deadline > now {
                    next = Some(next.map_or(deadline, |next: Instant| next.min(deadline)));
                    break;
                }
                overdue.push(self.name(slot));
            }
        }
        (overdue, next)
    }

    /// The oldest one that has not been told that it waits.
    pub(super) fn untold(&self) -> Option<Waiting> {
        self.untold.map(|slot| self.at(slot))
    }

    /// It has been told.
    pub(super) fn tell(&mut self) {
        self.untold = self.untold.and_then(|slot| self.ages.after(slot));
    }

    /// How many of the oldest `most` wait since `since` or longer, and since when the first of them waits who does not.
    pub(super) fn waiting_since(&self, since: Instant, most: u32) -> (u32, Option<Instant>) {
        let mut count = 0;
        for slot in self.by_age.iter(&self.ages).take(most as usize) {
            let entered = self.slots[slot as usize].since;
            if entered > since {
                return (count, Some(entered));
            }
            count += 1;
        }
        (count, None)
    }

    /// The session comes last.
    pub(super) fn push(&mut self, now: Instant, asker: Asker) -> WaiterId {
        self.last_order += 1;
        let slot = self.enter(now, self.last_order, asker);
        self.by_age.push_last(&mut self.ages, slot);
        if asker.patience.is_none() {
            self.ordinary.push_last(&mut self.patiences, slot);
        }
        self.untold = self.untold.or(Some(slot));
        self.lanes[usize::from(asker.identity.0)].sides[usize::from(asker.worker.0)].push_last(&mut self.places, slot);
        self.name(slot)
    }

    /// The session had its turn already and comes first again, with the age it has.
    pub(super) fn push_again(&mut self, since: Instant, asker: Asker) -> WaiterId {
        self.first_order -= 1;
        let slot = self.enter(since, self.first_order, asker);
        if asker.patience.is_none() {
            match self.first_since(since, self.ordinary, &self.patiences) {
                Some(other) => self.ordinary.insert_before(&mut self.patiences, slot, other),
                None => self.ordinary.push_last(&mut self.patiences, slot),
            }
        }
        match self.first_since(since, self.by_age, &self.ages) {
            Some(other) => self.by_age.insert_before(&mut self.ages, slot, other),
            None => {
                self.by_age.push_last(&mut self.ages, slot);
                self.untold = self.untold.or(Some(slot));
            }
        }
        self.lanes[usize::from(asker.identity.0)].sides[usize::from(asker.worker.0)].push_first(&mut self.places, slot);
        self.name(slot)
    }

    /// A name for a session that is served without having waited.
    pub(super) fn pass(&mut self, now: Instant, asker: Asker) -> WaiterId {
        let Asker { worker, identity, seat, .. } = asker;
        let slot = self.take_slot(Waiter { generation: 0, waiting: false, since: now, order: 0, worker, seat, identity, patience: None });
        let name = self.name(slot);
        self.give_slot(slot);
        name
    }

    /// Takes a waiter out before its turn; `None` when it does not wait any more.
    pub(super) fn remove(&mut self, id: WaiterId) -> Option<Waiting> {
        let waiter = self.slots.get(id.slot as usize)?;
        if !waiter.waiting || waiter.generation != id.generation {
            return None;
        }
        Some(self.leave(id.slot))
    }

    /// Takes out the one whose turn it is.
    pub(super) fn next<F: Fn(WorkerId) -> bool>(&mut self, affinity: Option<&Affinity<F>>) -> Option<Waiting> {
        let lane = self.turns.first()?;
        let slot = self.choose(&self.lanes[lane as usize], affinity)?;
        self.turns.serve(lane);
        Some(self.leave(slot))
    }

    /// A client of `identity` holds this connection now.
    pub(super) fn took(&mut self, identity: IdentityId, connection: u32) {
        self.turns.took(u32::from(identity.0), connection);
        self.change(identity, |lane| lane.held += 1);
    }

    /// A client of `identity` does not hold this connection any more.
    pub(super) fn gave(&mut self, identity: IdentityId, connection: u32) {
        self.change(identity, |lane| lane.held -= 1);
        let waits = self.lane(identity).waiters > 0;
        self.turns.gave(u32::from(identity.0), connection, waits);
    }

    /// How many waiters are served before one more of `identity` would be, as far as the shares of the identities tell.
    pub(super) fn turns_before(&self, identity: IdentityId) -> u32 {
        let Some(lane) = self.lanes.get(usize::from(identity.0)).filter(|lane| lane.waiters > 0) else { return 0 };
        if self.turns.lanes() == 1 {
            return self.waiters;
        }
        let turns = u64::from(lane.waiters) * self.shares / lane.share();
        u32::try_from(turns).unwrap_or(u32::MAX).min(self.waiters)
    }

    /// How many connections the clients of each identity hold.
    pub(super) fn held(&self) -> impl Iterator<Item = u32> {
        self.lanes.iter().map(|lane| lane.held)
    }

    /// The youngest waiter of the identity that has most of them, if that has at least two more than `identity`: it makes room when the queue is
    /// full, or one identity could keep all others out of it.
    pub(super) fn youngest_of_the_longest(&self, identity: IdentityId) -> Option<WaiterId> {
        let own = self.lanes.get(usize::from(identity.0)).map_or(0, |lane| lane.waiters);
        let longest = self.turns.iter().map(|(lane, _)| &self.lanes[lane as usize]).max_by_key(|lane| lane.waiters)?;
        if longest.waiters < own.saturating_add(2) {
            return None;
        }
        let lasts = longest.sides.iter().filter_map(List::last);
        lasts.max_by_key(|slot| self.slots[*slot as usize].order).map(|slot| self.name(slot))
    }

    /// All waiters of `worker`.
    pub(super) fn on_worker(&self, worker: WorkerId) -> Vec<WaiterId> {
        self.by_age.iter(&self.ages).filter(|slot| self.slots[*slot as usize].worker == worker).map(|slot| self.name(slot)).collect()
    }

    /// Counts everything again and compares.
    pub(super) fn check(&self) {
        let by_age: Vec<u32> = self.by_age.iter(&self.ages).collect();
        assert_eq!(by_age.len(), self.waiters as usize, "the list by age holds all waiters");
        let told = self.untold.map(|slot| by_age.contains(&slot));
        assert_ne!(told, Some(false), "only who waits is told so");
        assert!(by_age.is_sorted_by_key(|slot| self.slots[*slot as usize].since), "the list by age is sorted by age");
        let mut found = 0;
        for lane in &self.lanes {
            let mut waiters = 0;
            for list in &lane.sides {
                let orders: Vec<u64> = list.iter(&self.places).map(|slot| self.slots[slot as usize].order).collect();
                assert!(orders.is_sorted(), "I4: first come first served within an identity");
                waiters += u32::try_from(orders.len()).unwrap_or(u32::MAX);
            }
            assert_eq!(waiters, lane.waiters, "the waiters of an identity are counted");
            found += waiters;
        }
        assert_eq!(found, self.waiters, "each waiter stands in one lane");
        assert_eq!(self.lanes.iter().map(Lane::part).sum::<u64>(), self.shares, "the shares are counted");
        let ordinary: Vec<u32> = by_age.iter().copied().filter(|slot| self.slots[*slot as usize].patience.is_none()).collect();
        assert_eq!(self.ordinary.iter(&self.patiences).collect::<Vec<_>>(), ordinary, "the list of the ordinary ones is sorted by age");
        let own: BTreeSet<(Instant, u32)> = by_age.iter().filter_map(|slot| Some((self.deadline(*slot)?, *slot))).collect();
        assert_eq!(own, self.deadlines, "who has a patience of its own has a deadline");
        assert_eq!(self.per_worker.iter().sum::<u32>(), self.waiters, "each waiter is counted for its worker");
        let turns: Vec<(u32, u32)> = self.turns.iter().collect();
        let places = turns.iter().filter(|(lane, rank)| self.lanes[*lane as usize].rank() == Some(*rank));
        assert_eq!(places.count(), turns.len(), "I4: an identity has its turn by its rank");
        let waiting = self.lanes.iter().filter(|lane| lane.waiters > 0).count();
        assert_eq!((waiting, waiting), (turns.len(), self.turns.lanes() as usize), "I4: each identity with waiters gets its turn");
    }

    /// All identities in the order of their ranks, each with its waiters in the order of their turns.
    #[cfg(test)]
    pub(super) fn turns(&self) -> Vec<(IdentityId, Vec<Waiting>)> {
        let waiters = |lane: &Lane| {
            let mut slots: Vec<u32> = lane.sides.iter().flat_map(|side| side.iter(&self.places)).collect();
            slots.sort_by_key(|slot| self.slots[*slot as usize].order);
            slots.into_iter().map(|slot| self.at(slot)).collect()
        };
        let identity = |lane| IdentityId(u16::try_from(lane).unwrap_or(u16::MAX));
        self.turns.iter().map(|(lane, _)| (identity(lane), waiters(&self.lanes[lane as usize]))).collect()
    }

    fn at(&self, slot: u32) -> Waiting {
        let waiter = &self.slots[slot as usize];
        let Waiter { worker, identity, since, patience, .. } = *waiter;
        Waiting { id: self.name(slot), worker, identity, since, patience }
    }

    fn name(&self, slot: u32) -> WaiterId {
        let Waiter { generation, seat, .. } = self.slots[slot as usize];
        WaiterId { slot, generation, seat }
    }

    fn choose<F: Fn(WorkerId) -> bool>(&self, lane: &Lane, affinity: Option<&Affinity<F>>) -> Option<u32> {
        let oldest = lane.sides.iter().filter_map(List::first).min_by_key(|slot| self.slots[*slot as usize].order)?;
        let Some(affinity) = affinity else { return Some(oldest) };
        let (there, home) = (&self.slots[oldest as usize], affinity.home);
        if there.worker == home {
            return Some(oldest);
        }
        let near = lane.sides.get(usize::from(home.0)).and_then(List::first);
        Some(
            near.filter(|near| {
                let ahead = self.slots[*near as usize].since.saturating_duration_since(there.since);
                ahead < affinity.patience && (affinity.will_free)(there.worker)
            })
            .unwrap_or(oldest),
        )
    }

    fn enter(&mut self, since: Instant, order: u64, asker: Asker) -> u32 {
        let Asker { worker, identity, seat, patience } = asker;
        let slot = self.take_slot(Waiter { generation: 0, waiting: true, since, order, worker, seat, identity, patience });
        if let Some(deadline) = self.deadline(slot) {
            self.deadlines.insert((deadline, slot));
        }
        let side = usize::from(worker.0);
        let lane = self.lane(identity);
        if lane.sides.len() <= side {
            lane.sides.resize_with(side + 1, List::default);
        }
        self.change(identity, |lane| lane.waiters += 1);
        if self.per_worker.len() <= side {
            self.per_worker.resize(side + 1, 0);
        }
        self.per_worker[side] += 1;
        self.waiters += 1;
        slot
    }

    fn leave(&mut self, slot: u32) -> Waiting {
        let left = self.at(slot);
        let lane = &mut self.lanes[usize::from(left.identity.0)];
        lane.sides[usize::from(left.worker.0)].remove(&mut self.places, slot);
        self.change(left.identity, |lane| lane.waiters -= 1);
        if self.untold == Some(slot) {
            self.tell();
        }
        self.by_age.remove(&mut self.ages, slot);
        if self.slots[slot as usize].patience.is_none() {
            self.ordinary.remove(&mut self.patiences, slot);
        } else if let Some(deadline) = self.deadline(slot) {
            self.deadlines.remove(&(deadline, slot));
        }
        self.per_worker[usize::from(left.worker.0)] -= 1;
        self.waiters -= 1;
        self.give_slot(slot);
        left
    }

    /// The first one of the list that has waited since then, or for less.
    fn first_since(&self, since: Instant, list: List, chain: &Chain) -> Option<u32> {
        list.iter(chain).find(|other| self.slots[*other as usize].since >= since)
    }

    /// Until when one with a patience of its own waits.
    fn deadline(&self, slot: u32) -> Option<Instant> {
        let waiter = &self.slots[slot as usize];
        bounded(waiter.patience).map(|patience| waiter.since + patience)
    }

    fn take_slot(&mut self, waiter: Waiter) -> u32 {
        if let Some(slot) = self.free.pop() {
            let generation = self.slots[slot as usize].generation;
            self.slots[slot as usize] = Waiter { generation, ..waiter };
            return slot;
        }
        let slot = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        self.slots.push(waiter);
        self.ages.reach(slot);
        self.patiences.reach(slot);
        self.places.reach(slot);
        slot
    }

    fn give_slot(&mut self, slot: u32) {
        let waiter = &mut self.slots[slot as usize];
        waiter.waiting = false;
        waiter.generation = waiter.generation.wrapping_add(1);
        self.free.push(slot);
    }

    /// Changes a lane, and its turn with it.
    fn change(&mut self, identity: IdentityId, change: impl FnOnce(&mut Lane)) {
        let lane = self.lane(identity);
        let (before, part) = (lane.rank(), lane.part());
        change(lane);
        let (after, name) = (lane.rank(), u32::from(identity.0));
        let now = lane.part();
        self.shares = self.shares - part + now;
        match (before, after) {
            (None, None) => {}
            (None, Some(rank)) => self.turns.join(name, rank),
            (Some(rank), None) => self.turns.leave(name, rank),
            (Some(before), Some(after)) if before == after => {}
            (Some(before), Some(after)) => self.turns.shift(name, before, after),
        }
    }

    /// The lane of `identity`, made if it is new.
    fn lane(&mut self, identity: IdentityId) -> &mut Lane {
        let index = usize::from(identity.0);
        if self.lanes.len() <= index {
            self.lanes.resize_with(index + 1, Lane::default);
        }
        &mut self.lanes[index]
    }
}
