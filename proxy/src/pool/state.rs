//! The connections of a pool: in which state each is, where it lives, and the counts that follow from that.
//!
//! ```text
//!                       ┌────────── granted ──────────┐
//!   Connecting ──► Idle ┤                             ▼
//!        │          ▲ ▲ └─► Probing ─┐              Leased ──► Resetting
//!        │          │ └──── alive ───┘                │            │
//!        │          └────────────── clean ────────────┴────────────┘
//!        ▼ failed
//!      (gone) ◄── Closing ◄── every state, for a CloseReason
//! ```
//! A clean connection goes to the oldest waiter when there is one and then does not pass through `Idle`. One function, `shift`, moves a
//! connection between states. Not here: why it moves (`core`).

use std::time::{Duration, Instant};

use super::id::{ConnId, IdentityId};
use super::list::{Chain, List};
use super::pinned::{CauseBits, Pinned};
use super::reason::CloseReason;
use crate::worker::WorkerId;

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConnState {
    /// Being opened.
    Connecting,
    /// Open and free.
    Idle,
    /// In use, or on its way to a waiter on another worker.
    Leased,
    /// Being cleaned.
    Resetting,
    /// Being asked whether it is alive.
    Probing,
    /// Being closed.
    Closing,
}

/// How many states there are.
pub(super) const STATES: usize = 6;

/// One connection.
#[derive(Debug, Clone)]
pub(super) struct Conn {
    generation: u32,
    state: Option<ConnState>,
    /// Where it lives.
    pub(super) home: WorkerId,
    /// For whom it is, or was last, in use.
    pub(super) holder: IdentityId,
    /// Since when it is open.
    pub(super) opened: Option<Instant>,
    /// Its share of the lifetime, in thousandths, so that connections opened together are not replaced together.
    pub(super) spread: u32,
    /// Since when nobody has used it; meaningful while idle or probing.
    pub(super) idle_since: Instant,
    /// When it was last known to be alive.
    pub(super) heard: Instant,
    /// Why it is to be closed when nobody uses it any more.
    retire: Option<CloseReason>,
    /// Which address and credentials it was opened with.
    pub(super) epoch: u32,
    /// What it is pinned for; nothing unless leased.
    pins: CauseBits,
}

impl Conn {
    /// What it is pinned for.
    pub(super) fn pins(&self) -> CauseBits {
        self.pins
    }
}

/// What the connections of one worker are doing.
#[derive(Debug, Clone, Default)]
pub(super) struct Side {
    /// The last one used first.
    pub(super) idle: List,
    pub(super) counts: [u32; STATES],
    /// Whether this worker takes actions.
    pub(super) attached: bool,
    /// Clients of the pool on this worker.
    pub(super) members: u32,
}

/// All connections of a pool.
#[derive(Debug, Clone, Default)]
pub(super) struct Conns {
    slots: Vec<Conn>,
    free: Vec<u32>,
    idle: Chain,
    sides: Vec<Side>,
    counts: [u32; STATES],
    retiring: u32,
    pinned: Pinned,
    /// Whether the connection that was idle longest is used next.
    pub(super) round_robin: bool,
}

impl Conns {
    /// Clients of the pool.
    pub(super) fn members(&self) -> u32 {
        self.sides.iter().map(|side| side.members).sum()
    }

    /// How many are in `state`.
    pub(super) fn count(&self, state: ConnState) -> u32 {
        self.counts[state as usize]
    }

    /// How many there are.
    pub(super) fn total(&self) -> u32 {
        self.counts.iter().sum()
    }

    /// How many there are without those that are being closed.
    pub(super) fn live(&self) -> u32 {
        self.total() - self.count(ConnState::Closing)
    }

    /// How many there are without those that are being closed or will be at the next occasion.
    pub(super) fn lasting(&self) -> u32 {
        self.live() - self.retiring
    }

    /// How many are open: connected and not being closed.
    pub(super) fn open(&self) -> u32 {
        self.live() - self.count(ConnState::Connecting)
    }

    /// How many of them will serve somebody else when they come free. One that is merely old may.
    pub(super) fn usable(&self) -> u32 {
        if self.retiring == 0 {
            return self.open();
        }
        let lost = self.all().filter(|(slot, state)| {
            let gone = self.retired(*slot).is_some_and(|reason| reason != CloseReason::Lifetime);
            gone && !matches!(state, ConnState::Connecting | ConnState::Closing)
        });
        self.open() - u32::try_from(lost.count()).unwrap_or(u32::MAX)
    }

    /// The sides of all workers, in their order.
    pub(super) fn sides(&self) -> &[Side] {
        &self.sides
    }

    /// The side of `worker`, made if it is new.
    pub(super) fn side(&mut self, worker: WorkerId) -> &mut Side {
        let index = usize::from(worker.0);
        if self.sides.len() <= index {
            self.sides.resize_with(index + 1, Side::default);
        }
        &mut self.sides[index]
    }

    /// Whether `worker` has connections of its own that will come free.
    pub(super) fn will_free(&self, worker: WorkerId) -> bool {
        self.sides.get(usize::from(worker.0)).is_some_and(|side| {
            side.counts[ConnState::Leased as usize]
                + side.counts[ConnState::Connecting as usize]
                + side.counts[ConnState::Resetting as usize]
                > 0
        })
    }

    /// The connection in `slot`.
    pub(super) fn at(&self, slot: u32) -> &Conn {
        &self.slots[slot as usize]
    }

    /// The connection in `slot`.
    pub(super) fn at_mut(&mut self, slot: u32) -> &mut Conn {
        &mut self.slots[slot as usize]
    }

    /// The name of the connection in `slot`.
    pub(super) fn id(&self, slot: u32) -> ConnId {
        ConnId { slot, generation: self.at(slot).generation }
    }

    /// The slot of `id` and its state, if there still is such a connection.
    pub(super) fn find(&self, id: ConnId) -> Option<(u32, ConnState)> {
        let conn = self.slots.get(id.slot as usize)?;
        if conn.generation == id.generation { conn.state.map(|state| (id.slot, state)) } else { None }
    }

    /// The slot of `id` if it is in `state`.
    pub(super) fn find_in(&self, id: ConnId, state: ConnState) -> Option<u32> {
        self.find(id).and_then(|(slot, actual)| (actual == state).then_some(slot))
    }

    /// All slots in use with their states.
    pub(super) fn all(&self) -> impl Iterator<Item = (u32, ConnState)> {
        (0_u32..).zip(&self.slots).filter_map(|(slot, conn)| conn.state.map(|state| (slot, state)))
    }

    /// A new connection, being opened.
    pub(super) fn insert(&mut self, now: Instant, home: WorkerId, epoch: u32) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            let slot = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
            self.slots.push(Conn {
                generation: 0,
                state: None,
                home,
                holder: IdentityId::default(),
                opened: None,
                spread: 1000,
                idle_since: now,
                heard: now,
                retire: None,
                epoch,
                pins: 0,
            });
            self.idle.reach(slot);
            slot
        });
        let conn = self.at_mut(slot);
        let generation = conn.generation;
        *conn = Conn {
            generation,
            state: Some(ConnState::Connecting),
            home,
            holder: IdentityId::default(),
            opened: None,
            spread: 1000,
            idle_since: now,
            heard: now,
            retire: None,
            epoch,
            pins: 0,
        };
        self.counts[ConnState::Connecting as usize] += 1;
        self.side(home).counts[ConnState::Connecting as usize] += 1;
        slot
    }

    /// The connection in `slot` is gone; its name is never used again.
    pub(super) fn remove(&mut self, slot: u32) {
        self.leave(slot);
        let conn = self.at_mut(slot);
        let retired = conn.retire.take().is_some();
        conn.state = None;
        conn.generation = conn.generation.wrapping_add(1);
        self.retiring -= u32::from(retired);
        self.free.push(slot);
    }

    /// Moves a connection to another state; to `Idle` it goes as the one used last.
    pub(super) fn shift(&mut self, slot: u32, to: ConnState) {
        self.leave(slot);
        let home = self.at(slot).home;
        let conn = self.at_mut(slot);
        conn.state = Some(to);
        let left = if to == ConnState::Closing { conn.retire.take().is_some() } else { false };
        self.retiring -= u32::from(left);
        self.counts[to as usize] += 1;
        let side = &mut self.sides[usize::from(home.0)];
        side.counts[to as usize] += 1;
        if to == ConnState::Idle {
            side.idle.push_first(&mut self.idle, slot);
        }
    }

    /// Leases a connection to a session of `worker`, which is its home from now on.
    pub(super) fn lease(&mut self, slot: u32, worker: WorkerId) {
        self.leave(slot);
        let conn = self.at_mut(slot);
        conn.home = worker;
        conn.state = Some(ConnState::Leased);
        self.counts[ConnState::Leased as usize] += 1;
        self.side(worker).counts[ConnState::Leased as usize] += 1;
    }

    /// Puts a probed connection back among the idle ones, to the place it had by the time of its last use.
    pub(super) fn return_idle(&mut self, slot: u32) {
        self.shift(slot, ConnState::Idle);
        let since = self.at(slot).idle_since;
        let list = &mut self.sides[usize::from(self.slots[slot as usize].home.0)].idle;
        let younger = list.iter(&self.idle).skip(1).find(|other| self.slots[*other as usize].idle_since <= since);
        list.remove(&mut self.idle, slot);
        match younger {
            Some(other) => list.insert_before(&mut self.idle, slot, other),
            None => list.push_last(&mut self.idle, slot),
        }
    }

    /// The idle connection of `worker` that is to be used next.
    pub(super) fn warmest(&self, worker: WorkerId) -> Option<u32> {
        self.next_of(self.sides.get(usize::from(worker.0))?)
    }

    fn next_of(&self, side: &Side) -> Option<u32> {
        if self.round_robin { side.idle.last() } else { side.idle.first() }
    }

    /// The idle connection to give to a session of `worker`: its own, else one of the worker that has most to spare.
    pub(super) fn idle_for(&self, worker: WorkerId) -> Option<u32> {
        self.warmest(worker).or_else(|| {
            if self.count(ConnState::Idle) == 0 {
                return None;
            }
            self.next_of(self.sides.iter().max_by_key(|side| side.counts[ConnState::Idle as usize])?)
        })
    }

    /// The idle connection that has been idle for longest.
    pub(super) fn coldest(&self) -> Option<u32> {
        self.sides.iter().filter_map(|side| side.idle.last()).min_by_key(|slot| self.at(*slot).idle_since)
    }

    /// Why the connection in `slot` is to be closed when nobody uses it any more.
    pub(super) fn retired(&self, slot: u32) -> Option<CloseReason> {
        self.at(slot).retire
    }

    /// When the connection in `slot` reaches its age.
    pub(super) fn expires(&self, slot: u32, lifetime: Option<Duration>) -> Option<Instant> {
        let conn = self.at(slot);
        conn.opened.zip(lifetime).map(|(opened, lifetime)| opened + (lifetime / 1000).saturating_mul(conn.spread))
    }

    /// How many are to be closed when nobody uses them any more.
    pub(super) fn retiring(&self) -> u32 {
        self.retiring
    }

    /// How many are pinned, and for what.
    pub(super) fn pinned(&self) -> Pinned {
        self.pinned
    }

    /// The leased connection in `slot` is pinned for these causes and no others.
    pub(super) fn pin(&mut self, slot: u32, causes: CauseBits) {
        let before = std::mem::replace(&mut self.at_mut(slot).pins, causes);
        self.pinned.take(before);
        self.pinned.add(causes);
    }

    /// The connection in `slot`, which is not being closed, is to be closed when nobody uses it any more.
    pub(super) fn retire(&mut self, slot: u32, reason: CloseReason) {
        self.retiring += u32::from(self.at_mut(slot).retire.replace(reason).is_none());
    }

    /// Counts everything again and compares.
    pub(super) fn check(&self) {
        let mut counts = [0; STATES];
        let mut sides = vec![[0; STATES]; self.sides.len()];
        let (mut retiring, mut pinned) = (0, Pinned::default());
        for (slot, state) in self.all() {
            counts[state as usize] += 1;
            sides[usize::from(self.at(slot).home.0)][state as usize] += 1;
            retiring += u32::from(self.retired(slot).is_some());
            pinned.add(self.at(slot).pins);
            assert!(state == ConnState::Leased || self.at(slot).pins == 0, "I2: only leased connections are pinned");
        }
        assert_eq!(counts, self.counts, "I2: the counts follow from the states");
        assert_eq!(retiring, self.retiring, "I2: the count of retiring connections follows from the connections");
        assert_eq!(pinned, self.pinned, "I2: the count of pinned connections follows from the connections");
        for (side, counts) in self.sides.iter().zip(sides) {
            assert_eq!(side.counts, counts, "I2: the counts of each worker follow from the states");
            let idle: Vec<u32> = side.idle.iter(&self.idle).collect();
            assert_eq!(idle.len(), counts[ConnState::Idle as usize] as usize, "I2: the idle list holds what is idle");
            assert!(
                idle.iter().all(|slot| self.at(*slot).state == Some(ConnState::Idle)),
                "I2: only idle connections are in the idle list"
            );
            assert!(idle.is_sorted_by(|a, b| self.at(*a).idle_since >= self.at(*b).idle_since), "the idle list is last used first");
        }
    }

    fn leave(&mut self, slot: u32) {
        let conn = &self.slots[slot as usize];
        let Some(state) = conn.state else { return };
        let side = &mut self.sides[usize::from(conn.home.0)];
        self.counts[state as usize] -= 1;
        side.counts[state as usize] -= 1;
        if state == ConnState::Idle {
            side.idle.remove(&mut self.idle, slot);
        }
        if conn.pins != 0 {
            self.pin(slot, 0);
        }
    }
}
