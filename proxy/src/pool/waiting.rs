//! The seats of the sessions of one worker that wait: where a granted connection or a refusal is put down for each of them.

use std::task::Waker;

use super::id::{ConnId, WaiterId};
use super::reason::Refusal;

/// What a waiter gets.
pub(super) enum Delivery<C> {
    /// A connection.
    Connection(ConnId, Box<C>),
    /// None.
    Refused(Refusal),
    /// A connection that was lost on the way; it has to ask again.
    Lost,
}

/// One waiter.
struct Seat<C> {
    generation: u32,
    waker: Waker,
    delivery: Option<Delivery<C>>,
}

/// All waiters of one pool on one worker.
pub(super) struct Seats<C> {
    seats: Vec<Option<Seat<C>>>,
}

impl<C> Default for Seats<C> {
    fn default() -> Self {
        Self { seats: Vec::new() }
    }
}

impl<C> Seats<C> {
    /// The session sits down.
    pub(super) fn sit(&mut self, waiter: WaiterId, waker: Waker) {
        let slot = waiter.slot as usize;
        if self.seats.len() <= slot {
            self.seats.resize_with(slot + 1, || None);
        }
        self.seats[slot] = Some(Seat { generation: waiter.generation, waker, delivery: None });
    }

    /// Puts something down for a waiter and wakes it; gives it back when the waiter has left.
    pub(super) fn deliver(&mut self, waiter: WaiterId, delivery: Delivery<C>) -> Result<(), Delivery<C>> {
        match self.seats.get_mut(waiter.slot as usize) {
            Some(Some(seat)) if seat.generation == waiter.generation => {
                seat.delivery = Some(delivery);
                seat.waker.wake_by_ref();
                Ok(())
            }
            Some(_) | None => Err(delivery),
        }
    }

    /// Takes what was delivered, and with it the seat; without a delivery, remembers whom to wake.
    pub(super) fn collect(&mut self, waiter: WaiterId, waker: &Waker) -> Option<Delivery<C>> {
        let seat = self.seats.get_mut(waiter.slot as usize)?;
        match seat {
            Some(taken) if taken.generation == waiter.generation => match taken.delivery.take() {
                Some(delivery) => {
                    *seat = None;
                    Some(delivery)
                }
                None => {
                    taken.waker.clone_from(waker);
                    None
                }
            },
            Some(_) | None => None,
        }
    }

    /// The session leaves, with what was delivered meanwhile.
    pub(super) fn leave(&mut self, waiter: WaiterId) -> Option<Delivery<C>> {
        let seat = self.seats.get_mut(waiter.slot as usize)?;
        let left = seat.take_if(|seat| seat.generation == waiter.generation)?;
        left.delivery
    }
}
