//! Who may add requests to a lane. While there is room, everybody; once it is full, those who want more stand in line, first come first served within an
//! identity and in turn between identities (`queue_fairness`). Whenever there is room again the first of them may add a quantum and goes to the end of the
//! line: a deficit round robin, in which a small command counts for more than its bytes. Whoever took more than a quantum, because a request cannot be
//! cut, waits that much longer the next time. The line is bounded in length and time, as the queue of the pool is, and as there (`refuse_early`) who would
//! wait in vain at the pace of the last moments need not wait to learn it.
//!
//! Pure: how much room a lane has (`flow`), and who is woken, is the lane's to know.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::pool::id::IdentityId;
use crate::pool::pace::Pace;
use crate::pool::reason::RefuseReason;

/// A lane with so many unanswered requests takes no more.
pub const FULL_COMMANDS: usize = 16 * 1024;

/// A lane with so many bytes of unanswered requests takes no more.
pub const FULL_BYTES: usize = 4 * 1024 * 1024;

/// What a client may add in one turn.
pub const QUANTUM: usize = 64 * 1024;

const KIB: usize = 1024;

/// What a command costs beside its bytes.
pub const COMMAND: usize = FULL_BYTES / FULL_COMMANDS;

/// What requests cost.
#[must_use]
pub fn cost(commands: usize, bytes: usize) -> usize {
    bytes + commands * COMMAND
}

/// What is under way, and how much may be.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// So many requests have no answer.
    pub commands: usize,
    /// They have so many bytes.
    pub bytes: usize,
    /// From so many bytes on, or commands that count for as many, the lane is full.
    pub full: usize,
}

impl Load {
    /// What counts.
    #[must_use]
    pub fn cost(self) -> usize {
        self.bytes.max(self.commands.saturating_mul(COMMAND))
    }

    /// What may still come.
    fn room(self) -> usize {
        self.full.saturating_sub(self.cost())
    }

    /// What a client may add in one turn: never all there is room for, or others would find none.
    #[must_use]
    pub fn quantum(self) -> usize {
        QUANTUM.min((self.full / 4).max(1))
    }

    /// Whether nothing may come.
    #[must_use]
    pub fn is_full(self) -> bool {
        self.room() == 0
    }

    /// Whether more than half may still come.
    #[must_use]
    pub fn is_less_than_half(self) -> bool {
        self.room() > self.full / 2
    }

    fn is_idle(self) -> bool {
        self.commands == 0 && self.bytes == 0
    }
}

/// How many may stand in line.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// So many at most.
    pub length: usize,
    /// For so long at most.
    pub patience: Option<Duration>,
    /// Whether who would wait for longer than that does not begin to.
    pub refuse_early: bool,
    /// Who comes has waited for so long already, in another line.
    pub waited: Duration,
}

/// What is to be expected of the line, at the pace of the last moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outlook {
    /// So long one more would wait.
    pub expected: Duration,
    /// After so long somebody has had a turn, and one more would not wait for too long.
    pub again: Duration,
}

/// A client's place.
#[derive(Debug, Default)]
pub struct Place {
    state: Cell<State>,
    /// What it took beyond its quantum, in KiB: every client has room for this.
    debt: Cell<u16>,
    /// Among whom it stands.
    pub identity: Cell<IdentityId>,
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
    /// It has waited in vain.
    Refused(RefuseReason),
}

impl Place {
    /// Whether it is its turn.
    #[must_use]
    pub fn is_called(&self) -> bool {
        self.state.get() == State::Turn
    }

    /// Whether it has nothing to do with the line.
    #[must_use]
    pub fn is_out(&self) -> bool {
        self.state.get() == State::Out
    }

    /// It is told so when it asks next.
    pub fn refuse(&self, reason: RefuseReason) {
        self.state.set(State::Refused(reason));
    }

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
    /// Has it look at its place.
    fn wake(&self);
}

/// Whether a client may add requests now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It may.
    Now,
    /// It is in line.
    Later,
    /// It is not, and what it asks for is refused.
    Refused(RefuseReason),
}

/// The clients of one identity, first the one that has stood there for longest, with the time when each came.
#[derive(Debug)]
struct Side<T> {
    identity: IdentityId,
    clients: VecDeque<(T, Instant)>,
}

/// The line before a lane.
#[derive(Debug)]
pub struct Turns<T> {
    /// The identities that somebody waits of. None is empty.
    sides: RefCell<Vec<Side<T>>>,
    /// Of each identity, which turn was its last: it is the turn of the one whose last is longest ago, whether it waited in between or not.
    had: RefCell<Vec<u64>>,
    turns: Cell<u64>,
    /// How many stand there.
    length: Cell<usize>,
    /// How many have been told that it is their turn, and have not come yet.
    called: Cell<usize>,
    pace: RefCell<Pace>,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self {
            sides: RefCell::default(),
            had: RefCell::default(),
            turns: Cell::new(0),
            length: Cell::new(0),
            called: Cell::new(0),
            pace: RefCell::default(),
        }
    }
}

impl<T: Stands> Turns<T> {
    /// Whether `who` may add requests now. If not, it is in line, or refused. `now` is asked for only then.
    pub fn admits(
        &self,
        load: Load,
        bounds: impl FnOnce() -> Bounds,
        who: impl FnOnce() -> T,
        place: &Place,
        now: impl FnOnce() -> Instant,
    ) -> Admission {
        match place.state.get() {
            State::Turn => {
                self.come(place);
                Admission::Now
            }
            State::Waiting => Admission::Later,
            State::Refused(reason) => {
                place.state.set(State::Out);
                Admission::Refused(reason)
            }
            State::Out if self.is_empty() && load.room() > 0 => Admission::Now,
            State::Out => self.line_up(bounds(), who(), place, now()),
        }
    }

    /// Whether nobody stands in line.
    pub fn is_empty(&self) -> bool {
        self.length.get() == 0
    }

    /// How many stand in line.
    pub fn len(&self) -> usize {
        self.length.get()
    }

    /// Since when the one waits that has waited for longest.
    pub fn oldest(&self) -> Option<Instant> {
        self.sides.borrow().iter().flat_map(|side| &side.clients).map(|(_, since)| *since).min()
    }

    /// What one more client of `identity` has to expect that waits for `patience` at most, if there is a pace.
    pub fn outlook(&self, identity: IdentityId, patience: Option<Duration>, now: Instant) -> Option<Outlook> {
        let interval = self.pace.borrow().interval(now)?;
        let turns = u32::try_from(self.turns_before(identity)).unwrap_or(u32::MAX);
        let expected = interval.saturating_mul(turns.saturating_add(1));
        Some(Outlook { expected, again: expected.saturating_sub(patience.unwrap_or_default()).max(interval) })
    }

    /// Whoever was called, and whoever stood in line, does so no longer: it wants nothing now.
    pub fn leave(&self, place: &Place, now: impl FnOnce() -> Instant) {
        match place.state.get() {
            State::Out => {}
            State::Turn => self.come(place),
            State::Refused(_) => place.state.set(State::Out),
            State::Waiting => {
                place.state.set(State::Out);
                self.take_out(|client| std::ptr::eq(client.place(), place));
                self.note_end(now);
            }
        }
    }

    /// Those who have stood in line for too long are refused.
    pub fn refuse_overdue(&self, now: Instant, patience: Option<Duration>) {
        let Some(patience) = patience else { return };
        let mut overdue = Vec::new();
        let mut sides = self.sides.borrow_mut();
        for side in &mut *sides {
            let due = |(_, since): &mut (T, Instant)| now.saturating_duration_since(*since) >= patience;
            while let Some((client, _)) = side.clients.pop_front_if(due) {
                overdue.push(client);
            }
        }
        sides.retain(|side| !side.clients.is_empty());
        drop(sides);
        self.length.set(self.length.get() - overdue.len());
        self.note_end(|| now);
        overdue.iter().for_each(|client| refuse(client, RefuseReason::WaitTimeout));
    }

    /// Calls those whose turn it is: none before a quarter of the lane is free, and one in any case when nothing is owed.
    /// `tell` hears how long each of them has waited.
    pub fn call(&self, load: Load, now: impl Fn() -> Instant, tell: impl Fn(Duration)) {
        if self.is_empty() {
            return;
        }
        let (quantum, called) = (load.quantum(), self.called.get());
        // Where there is little room nobody is called before it is known how much the one before took.
        let one_by_one = load.full < FULL_BYTES;
        if one_by_one && called > 0 {
            return;
        }
        let idle = load.is_idle() && called == 0;
        let mut room = load.room().saturating_sub(called * quantum);
        if !idle && room < (load.full / 4).max(1) {
            return;
        }
        let mut sides = self.sides.borrow_mut();
        while room >= quantum {
            let Some(index) = self.first(&sides) else { break };
            let side = &mut sides[index];
            let Some((client, since)) = side.clients.pop_front() else { break };
            let (identity, place) = (side.identity, client.place());
            let last = side.clients.is_empty();
            let debt = place.debt.get();
            // Who is alone has nobody to let go first.
            if client.is_there() && usize::from(debt) * KIB >= QUANTUM && self.length.get() > 1 {
                place.debt.set(debt - (QUANTUM / KIB) as u16);
                side.clients.push_back((client, since));
                self.had(identity);
                continue;
            }
            if last {
                sides.remove(index);
            }
            self.length.set(self.length.get() - 1);
            if !client.is_there() {
                // It was nobody's turn.
                place.state.set(State::Out);
                continue;
            }
            self.had(identity);
            place.debt.set(0);
            place.state.set(State::Turn);
            self.called.set(self.called.get() + 1);
            room = room.saturating_sub(quantum + usize::from(debt) * KIB);
            let now = now();
            self.pace.borrow_mut().served(now);
            tell(now.saturating_duration_since(since));
            client.wake();
            if one_by_one {
                break;
            }
        }
        drop(sides);
        self.note_end(now);
    }

    /// How many turns come before that of one more client of `identity`: each identity has one in a round, and those begin it that had theirs longest ago.
    fn turns_before(&self, identity: IdentityId) -> usize {
        let (sides, had) = (self.sides.borrow(), self.had.borrow());
        let had = |identity: IdentityId| had.get(usize::from(identity.0)).copied().unwrap_or(0);
        let own = sides.iter().find(|side| side.identity == identity).map_or(0, |side| side.clients.len());
        let before = |side: &Side<T>| match side.identity {
            same if same == identity => own,
            other => side.clients.len().min(own + usize::from(had(other) <= had(identity))),
        };
        sides.iter().map(before).sum()
    }

    /// Where nobody stands in line any more, that is no time in which somebody waits.
    fn note_end(&self, now: impl FnOnce() -> Instant) {
        if self.is_empty() {
            self.pace.borrow_mut().note(now(), false);
        }
    }

    /// The identity whose turn it is.
    fn first(&self, sides: &[Side<T>]) -> Option<usize> {
        let had = self.had.borrow();
        (0..sides.len()).min_by_key(|index| had.get(usize::from(sides[*index].identity.0)).copied().unwrap_or(0))
    }

    /// It has had its turn.
    fn had(&self, identity: IdentityId) {
        let mut had = self.had.borrow_mut();
        let place = usize::from(identity.0);
        if had.len() <= place {
            had.resize(place + 1, 0);
        }
        self.turns.set(self.turns.get() + 1);
        had[place] = self.turns.get();
    }

    fn come(&self, place: &Place) {
        place.state.set(State::Out);
        self.called.set(self.called.get() - 1);
    }

    fn line_up(&self, bounds: Bounds, who: T, place: &Place, now: Instant) -> Admission {
        let identity = place.identity.get();
        let Bounds { length, patience, refuse_early, waited } = bounds;
        let since = now.checked_sub(waited).unwrap_or(now);
        let left = patience.map(|patience| patience.saturating_sub(waited));
        if refuse_early && self.would_time_out(identity, left, now) {
            return Admission::Refused(RefuseReason::WouldTimeOut);
        }
        if self.length.get() >= length && !self.make_room(identity) {
            return Admission::Refused(RefuseReason::QueueFull);
        }
        self.pace.borrow_mut().note(now, true);
        place.state.set(State::Waiting);
        self.length.set(self.length.get() + 1);
        let mut sides = self.sides.borrow_mut();
        match sides.iter_mut().find(|side| side.identity == identity) {
            Some(side) => {
                let before = side.clients.iter().rposition(|(_, other)| *other <= since);
                side.clients.insert(before.map_or(0, |place| place + 1), (who, since));
            }
            None => sides.push(Side { identity, clients: VecDeque::from([(who, since)]) }),
        }
        Admission::Later
    }

    /// Never true of one that would be next.
    fn would_time_out(&self, identity: IdentityId, patience: Option<Duration>, now: Instant) -> bool {
        let Some(patience) = patience.filter(|_| self.turns_before(identity) > 0) else { return false };
        self.outlook(identity, Some(patience), now).is_some_and(|outlook| outlook.expected > patience)
    }

    /// The last one of the identity that has most in line goes, if that has at least two more than `identity`: one identity could keep all others out.
    fn make_room(&self, identity: IdentityId) -> bool {
        let mut sides = self.sides.borrow_mut();
        let own = sides.iter().find(|side| side.identity == identity).map_or(0, |side| side.clients.len());
        let longest = sides.iter_mut().max_by_key(|side| side.clients.len()).filter(|side| side.clients.len() >= own + 2);
        let Some((last, _)) = longest.and_then(|side| side.clients.pop_back()) else { return false };
        drop(sides);
        self.length.set(self.length.get() - 1);
        refuse(&last, RefuseReason::QueueFull);
        true
    }

    /// All of them look at their places, because nothing more is to be had here.
    pub fn wake_all(&self) {
        self.sides.borrow().iter().flat_map(|side| &side.clients).for_each(|(client, _)| client.wake());
    }

    fn take_out(&self, is: impl Fn(&T) -> bool) {
        let mut sides = self.sides.borrow_mut();
        for side in &mut *sides {
            let before = side.clients.len();
            side.clients.retain(|(client, _)| !is(client));
            self.length.set(self.length.get() - (before - side.clients.len()));
        }
        sides.retain(|side| !side.clients.is_empty());
    }
}

fn refuse(client: &impl Stands, reason: RefuseReason) {
    client.place().state.set(State::Refused(reason));
    client.wake();
}

#[cfg(test)]
#[path = "turns_tests.rs"]
mod tests;
