//! The seats of the sessions of one worker that wait: where a granted connection or a refusal is put down for each of them.
//!
//! A seat belongs to its session until that has collected what was put down, or leaves. The core may have forgotten the session long
//! before, or have given the place in its queue to another: so a delivery must name the session exactly.

use std::task::Waker;
use std::time::Instant;

use super::id::{ConnId, WaiterId};
use super::reason::Refusal;

/// What a waiter gets.
pub(super) enum Delivery<C> {
    /// A connection, granted then.
    Connection(ConnId, Box<C>, Instant),
    /// None.
    Refused(Box<Refusal>),
    /// A connection that was lost on the way; it has to ask again.
    Lost,
}

/// One waiter.
struct Seat<C> {
    waiter: WaiterId,
    waker: Waker,
    delivery: Option<Delivery<C>>,
    /// It has waited for a while, and shall be told.
    notice: bool,
}

/// All waiters of one pool on one worker.
pub(super) struct Seats<C> {
    seats: Vec<Option<Seat<C>>>,
    free: Vec<u32>,
}

impl<C> Default for Seats<C> {
    fn default() -> Self {
        Self { seats: Vec::new(), free: Vec::new() }
    }
}

impl<C> Seats<C> {
    /// The seat that the next one who sits down will have.
    pub(super) fn next(&self) -> u32 {
        self.free.last().copied().unwrap_or_else(|| u32::try_from(self.seats.len()).unwrap_or(u32::MAX))
    }

    /// The session sits down on the seat in its name, which is the next one.
    pub(super) fn sit(&mut self, waiter: WaiterId, waker: Waker) {
        debug_assert_eq!(waiter.seat, self.next(), "seats are taken in order");
        if self.free.pop().is_none() {
            self.seats.push(None);
        }
        self.seats[waiter.seat as usize] = Some(Seat { waiter, waker, delivery: None, notice: false });
    }

    /// Puts something down for a waiter and wakes it; gives it back when the waiter has left.
    pub(super) fn deliver(&mut self, waiter: WaiterId, delivery: Delivery<C>) -> Result<(), Delivery<C>> {
        match self.seats.get_mut(waiter.seat as usize) {
            Some(Some(seat)) if seat.waiter == waiter => {
                seat.delivery = Some(delivery);
                seat.waker.wake_by_ref();
                Ok(())
            }
            Some(_) | None => Err(delivery),
        }
    }

    /// Wakes a waiter that has waited for a while.
    pub(super) fn notify(&mut self, waiter: WaiterId) {
        if let Some(Some(seat)) = self.seats.get_mut(waiter.seat as usize)
            && seat.waiter == waiter
        {
            seat.notice = true;
            seat.waker.wake_by_ref();
        }
    }

    /// Whether the waiter has waited for a while and has not been told so; it is told once.
    pub(super) fn take_notice(&mut self, waiter: WaiterId) -> bool {
        match self.seats.get_mut(waiter.seat as usize) {
            Some(Some(seat)) if seat.waiter == waiter => std::mem::take(&mut seat.notice),
            Some(_) | None => false,
        }
    }

    /// Takes what was delivered, and gives the seat up with it; without a delivery, remembers whom to wake.
    pub(super) fn collect(&mut self, waiter: WaiterId, waker: &Waker) -> Option<Delivery<C>> {
        let seat = self.seats.get_mut(waiter.seat as usize)?.as_mut()?;
        match seat.delivery.take() {
            Some(delivery) => {
                self.leave(waiter);
                Some(delivery)
            }
            None => {
                seat.waker.clone_from(waker);
                None
            }
        }
    }

    /// The session leaves, with what was delivered meanwhile.
    pub(super) fn leave(&mut self, waiter: WaiterId) -> Option<Delivery<C>> {
        let seat = self.seats.get_mut(waiter.seat as usize)?.take()?;
        debug_assert_eq!(seat.waiter, waiter, "a seat has one owner");
        self.free.push(waiter.seat);
        seat.delivery
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_for_somebody_who_left_does_not_reach_the_next_on_the_seat() {
        let mut seats: Seats<u8> = Seats::default();
        let first = WaiterId { slot: 0, generation: 0, seat: seats.next() };
        seats.sit(first, Waker::noop().clone());
        assert!(seats.leave(first).is_none());
        let second = WaiterId { slot: 0, generation: 1, seat: seats.next() };
        assert_eq!(second.seat, first.seat);
        seats.sit(second, Waker::noop().clone());
        assert!(seats.deliver(first, Delivery::Lost).is_err());
        assert!(seats.deliver(second, Delivery::Lost).is_ok());
    }

    #[test]
    fn a_delivery_waits_although_the_queue_has_given_the_place_away() {
        let mut seats: Seats<u8> = Seats::default();
        let first = WaiterId { slot: 0, generation: 0, seat: seats.next() };
        seats.sit(first, Waker::noop().clone());
        assert!(seats.deliver(first, Delivery::Lost).is_ok());
        let second = WaiterId { slot: 0, generation: 1, seat: seats.next() };
        seats.sit(second, Waker::noop().clone());
        assert!(matches!(seats.collect(first, Waker::noop()), Some(Delivery::Lost)));
        assert!(seats.collect(second, Waker::noop()).is_none());
    }
}
