//! Who may add requests to a lane. While there is room, everybody; once it is full, those who want more stand in line, and whenever there is room
//! again the first of them may add a quantum and goes to the end of the line: a deficit round robin, in which a small command counts for more
//! than its bytes. Whoever took more than a quantum, because a request cannot be cut, waits that much longer the next time.
//!
//! Pure: what is full and who is woken is the lane's to know.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

/// A lane with so many unanswered requests takes no more.
pub const FULL_COMMANDS: usize = 16 * 1024;

/// A lane with so many bytes of unanswered requests takes no more.
pub const FULL_BYTES: usize = 4 * 1024 * 1024;

/// What a client may add in one turn.
pub const QUANTUM: usize = 64 * 1024;

const KIB: usize = 1024;

/// What a command costs beside its bytes.
const COMMAND: usize = FULL_BYTES / FULL_COMMANDS;

/// What requests cost.
#[must_use]
pub fn cost(commands: usize, bytes: usize) -> usize {
    bytes + commands * COMMAND
}

/// A client's place.
#[derive(Debug, Default)]
pub struct Place {
    state: Cell<State>,
    /// What it took beyond its quantum, in KiB: every client has room for this.
    debt: Cell<u16>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// Nothing is wanted.
    #[default]
    Out,
    /// In line.
    Waiting,
    /// It is its turn.
    Turn,
}

impl Place {
    /// So much was added in one go.
    pub fn took(&self, cost: usize) {
        if cost > QUANTUM {
            let more = u16::try_from((cost - QUANTUM) / KIB).unwrap_or(u16::MAX);
            self.debt.set(self.debt.get().saturating_add(more));
        }
    }
}

/// Who stands in line.
pub trait Stands {
    /// Its place.
    fn place(&self) -> &Place;
    /// Whether it is still there.
    fn is_there(&self) -> bool;
}

/// The line before a lane.
#[derive(Debug)]
pub struct Turns<T>(RefCell<VecDeque<T>>);

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<T: Stands> Turns<T> {
    /// Whether `who` may add requests now. If not, it is in line.
    pub fn admits(&self, commands: usize, bytes: usize, who: impl Fn() -> T, place: &Place) -> bool {
        match place.state.get() {
            State::Turn => {
                place.state.set(State::Out);
                true
            }
            State::Waiting => false,
            State::Out if commands < FULL_COMMANDS && bytes < FULL_BYTES && self.0.borrow().is_empty() => true,
            State::Out => {
                place.state.set(State::Waiting);
                self.0.borrow_mut().push_back(who());
                false
            }
        }
    }

    /// Whether nobody stands in line.
    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Those whose turn it is, with so much unanswered: none before a quarter of the lane is free, and everybody when nothing is owed.
    pub fn next(&self, commands: usize, bytes: usize) -> Vec<T> {
        let mut line = self.0.borrow_mut();
        let mut next = Vec::new();
        if line.is_empty() || commands > FULL_COMMANDS / 4 * 3 || bytes > FULL_BYTES / 4 * 3 {
            return next;
        }
        let idle = commands == 0 && bytes == 0;
        let mut room = FULL_BYTES.saturating_sub(bytes).min(FULL_COMMANDS.saturating_sub(commands) * COMMAND);
        while idle || room >= QUANTUM {
            let Some(first) = line.pop_front() else { break };
            let place = first.place();
            if !first.is_there() {
                place.state.set(State::Out);
                continue;
            }
            let debt = place.debt.get();
            // Who is alone has nobody to let go first.
            if usize::from(debt) * KIB >= QUANTUM && !idle && !line.is_empty() {
                place.debt.set(debt - (QUANTUM / KIB) as u16);
                line.push_back(first);
                continue;
            }
            place.debt.set(0);
            place.state.set(State::Turn);
            room = room.saturating_sub(QUANTUM + usize::from(debt) * KIB);
            next.push(first);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    #[derive(Default)]
    struct Somebody {
        place: Place,
        gone: Cell<bool>,
    }

    impl Stands for Rc<Somebody> {
        fn place(&self) -> &Place {
            &self.place
        }

        fn is_there(&self) -> bool {
            !self.gone.get()
        }
    }

    fn asks(turns: &Turns<Rc<Somebody>>, commands: usize, bytes: usize, who: &Rc<Somebody>) -> bool {
        turns.admits(commands, bytes, || Rc::clone(who), &who.place)
    }

    fn some(count: usize) -> Vec<Rc<Somebody>> {
        (0..count).map(|_| Rc::default()).collect()
    }

    #[test]
    fn each_bound_closes_the_lane() {
        let turns = Turns::default();
        let all = some(3);
        assert!(asks(&turns, FULL_COMMANDS - 1, FULL_BYTES - 1, &all[0]));
        assert!(!asks(&turns, FULL_COMMANDS, 0, &all[0]));
        assert!(!asks(&turns, 0, FULL_BYTES, &all[1]));
        assert!(!asks(&turns, 0, 0, &all[2]), "nobody overtakes those in line");
        assert!(!asks(&turns, 0, 0, &all[0]), "it stands in line once");
        assert_eq!(turns.next(0, 0).len(), 3, "an idle lane has nobody waiting");
        assert!(turns.is_empty() && all.iter().all(|one| asks(&turns, FULL_COMMANDS, 0, one)), "each has its turn");
        assert!(!asks(&turns, FULL_COMMANDS, 0, &all[0]), "and only one");
    }

    #[test]
    fn whoever_waits_longest_comes_first_and_only_as_many_as_there_is_room_for() {
        let turns = Turns::default();
        let all = some(100);
        all.iter().for_each(|one| assert!(!asks(&turns, FULL_COMMANDS, FULL_BYTES, one)));
        assert!(turns.next(100, FULL_BYTES - 1).is_empty(), "not before there is room for many");
        assert!(turns.next(FULL_COMMANDS - 1, 100).is_empty());
        let next = turns.next(100, FULL_BYTES / 2);
        assert_eq!(next.len(), FULL_BYTES / 2 / QUANTUM);
        assert!(next.iter().zip(&all).all(|(next, one)| Rc::ptr_eq(next, one)));
        all[next.len()].gone.set(true);
        assert!(Rc::ptr_eq(&turns.next(1, 1)[0], &all[next.len() + 1]), "who is gone is passed over");
    }

    #[test]
    fn whoever_took_more_than_its_quantum_waits_longer() {
        let turns = Turns::default();
        let all = some(3);
        all[0].place.took(3 * QUANTUM);
        all.iter().for_each(|one| assert!(!asks(&turns, 1, FULL_BYTES, one)));
        let order = turns.next(1, FULL_BYTES / 4 * 3);
        let expected = [&all[1], &all[2], &all[0]];
        assert!(order.iter().zip(expected).all(|(one, other)| Rc::ptr_eq(one, other)));
        // Paid: the next time it is one of three.
        all.iter().for_each(|one| assert!(asks(&turns, 1, FULL_BYTES, one) && !asks(&turns, 1, FULL_BYTES, one)));
        assert!(Rc::ptr_eq(&turns.next(1, FULL_BYTES / 4 * 3)[0], &all[0]));
    }
}
