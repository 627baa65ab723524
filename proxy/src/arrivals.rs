//! Clients that have not proven who they are: how many are being logged in at a time, and who has to go when places are short.
//!
//! ```text
//!   silent ──first bytes──▶ waits for a turn ──▶ logs in: we work, or wait for it (asked) ──▶ is in
//!      ▲ these two may be sent away ───────────────────────────────────────▲
//! ```
//! Who has not begun to speak holds a place and nothing else. Who has takes one of a bounded number of turns, and memory with it. Nobody is sent away for
//! what takes us long; but when there are as many clients as there may be, or others wait for a turn, the one that has kept us waiting longest for its
//! next whole message makes room, however many single bytes it sends. One for each worker and kind of clients. Not here: how long a login may take.
//!
//! Where a whole login is one message (Redis), nothing is kept for whoever sends it whole. Those who are in the middle of it take no turn: of them there
//! are only so many, and the one that has been at it longest makes room for the next at once.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_local;

use crate::clock;

/// Nobody is sent away who has not kept us waiting for so long: across the world an answer takes a third of it.
pub const GRACE: Duration = Duration::from_secs(1);

/// How often somebody is looked for who could make room, while others wait for a turn.
const LOOK: Duration = Duration::from_millis(20);

/// Arrivals that we wait for, since when, by the order in which that began.
type Line = RefCell<BTreeMap<u64, (Instant, Rc<Mark>)>>;

/// Those who arrive.
pub struct Arrivals {
    /// They have said nothing at all.
    silent: Line,
    /// They are in the middle of a message that they began without a turn.
    halting: Line,
    /// They are in the middle of a login, and it is their turn to speak.
    asked: Line,
    numbers: Cell<u64>,
    turns: Arc<Semaphore>,
    most: Cell<u32>,
    /// Turns that are to be taken away when they are given back.
    owed: Cell<u32>,
    /// How many wait for a turn.
    waiting: Cell<u32>,
    looking: Cell<bool>,
}

/// Which line somebody stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stands {
    Nowhere,
    Silent(u64),
    Halting(u64),
    Asked(u64),
}

/// What an arrival is told by.
#[derive(Default)]
struct Mark {
    sent_away: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Default for Arrivals {
    fn default() -> Self {
        Self {
            silent: Line::default(),
            halting: Line::default(),
            asked: Line::default(),
            numbers: Cell::new(0),
            turns: Arc::new(Semaphore::new(0)),
            most: Cell::new(0),
            owed: Cell::new(0),
            waiting: Cell::new(0),
            looking: Cell::new(false),
        }
    }
}

impl Arrivals {
    /// So many may be logged in at a time from now on.
    pub fn resize(&self, most: u32) {
        let before = self.most.replace(most);
        if most >= before {
            let more = most - before;
            let forgiven = more.min(self.owed.get());
            self.owed.set(self.owed.get() - forgiven);
            self.turns.add_permits((more - forgiven) as usize);
        } else {
            let fewer = before - most;
            let taken = u32::try_from(self.turns.forget_permits(fewer as usize)).unwrap_or(fewer);
            self.owed.set(self.owed.get() + fewer - taken);
        }
    }

    /// Somebody has connected, and has said nothing yet.
    #[must_use]
    pub fn enter(self: &Rc<Self>) -> Newcomer {
        let arrival = Newcomer { all: Rc::clone(self), mark: Rc::default(), stands: Cell::new(Stands::Nowhere), turn: RefCell::default() };
        arrival.stand_in(Stands::Silent);
        arrival
    }

    fn line(&self, stands: Stands) -> Option<(&Line, u64)> {
        match stands {
            Stands::Nowhere => None,
            Stands::Silent(number) => Some((&self.silent, number)),
            Stands::Halting(number) => Some((&self.halting, number)),
            Stands::Asked(number) => Some((&self.asked, number)),
        }
    }

    /// There is no place for one more: sends somebody away who has kept us waiting. False if there is nobody.
    pub fn make_room(&self, now: Instant) -> bool {
        send_away(&self.silent, now) || send_away(&self.halting, now) || send_away(&self.asked, now)
    }

    /// Makes room for those who wait for a turn, for as long as there are any.
    async fn look(self: Rc<Self>) {
        while self.waiting.get() > 0 {
            let now = clock::now();
            for _ in 0..self.waiting.get() {
                if !send_away(&self.asked, now) {
                    break;
                }
            }
            tokio::time::sleep(LOOK).await;
        }
        self.looking.set(false);
    }
}

/// Sends away who has kept us waiting longest, if that is long enough.
fn send_away(line: &Line, now: Instant) -> bool {
    let long = line.borrow().first_key_value().is_some_and(|(_, (since, _))| now.saturating_duration_since(*since) >= GRACE);
    if long {
        send_first_away(line);
    }
    long
}

fn send_first_away(line: &Line) {
    let Some((_, (_, mark))) = line.borrow_mut().pop_first() else { return };
    mark.sent_away.set(true);
    if let Some(waker) = mark.waker.take() {
        waker.wake();
    }
}

/// A client that has not proven who it is, for as long as this lives.
pub struct Newcomer {
    all: Rc<Arrivals>,
    mark: Rc<Mark>,
    stands: Cell<Stands>,
    turn: RefCell<Option<OwnedSemaphorePermit>>,
}

impl Newcomer {
    /// Takes a turn if there is one to be had at once, for as long as `speaks` takes, and keeps it if that says so. If it does not, or there is none, it
    /// stays where it stands.
    pub fn turn_at_once<T>(&self, speaks: impl FnOnce(bool) -> (bool, T)) -> T {
        *self.turn.borrow_mut() = Arc::clone(&self.all.turns).try_acquire_owned().ok();
        let has = self.turn.borrow().is_some();
        let (keeps, said) = speaks(has);
        match has && keeps {
            true => self.leave_lines(),
            false => self.give_back(),
        }
        said
    }

    /// Takes a turn when there is one. From here on it is nobody who has said nothing.
    pub async fn turn(&self) {
        if self.turn_at_once(|has| (true, has)) {
            return;
        }
        self.leave_lines();
        let _waiting = Waiting::begin(&self.all.waiting);
        if !self.all.looking.replace(true) {
            spawn_local(Rc::clone(&self.all).look());
        }
        // Nobody closes the semaphore.
        let turn = Arc::clone(&self.all.turns).acquire_owned().await.ok();
        *self.turn.borrow_mut() = turn;
    }

    /// It is the client's turn to speak, for as long as the answer lives.
    #[must_use]
    pub fn listen(&self) -> Listening<'_> {
        self.is_expected();
        Listening(self)
    }

    /// It is the client's turn to speak, until it is in.
    pub fn is_expected(&self) {
        self.leave_lines();
        self.stand_in(Stands::Asked);
    }

    /// Where clients need no turn to begin: whether it is in the middle of what it says, so that memory is kept for it.
    pub fn speaks(&self, in_the_middle: bool) {
        let new = match self.stands.get() {
            Stands::Silent(_) if in_the_middle => Stands::Halting,
            Stands::Halting(_) if !in_the_middle => Stands::Silent,
            Stands::Nowhere | Stands::Silent(_) | Stands::Halting(_) | Stands::Asked(_) => return,
        };
        self.leave_lines();
        self.stand_in(new);
        while self.all.halting.borrow().len() > self.all.most.get() as usize {
            send_first_away(&self.all.halting);
        }
    }

    /// It has proven who it is: what it waits for from here on is no fault of its own.
    pub fn is_in(&self) {
        self.leave_lines();
        self.give_back();
    }

    /// Ready when it is to make room.
    pub async fn sent_away(&self) {
        poll_fn(|cx| {
            if self.mark.sent_away.get() {
                return Poll::Ready(());
            }
            let mut waker = self.mark.waker.borrow_mut();
            if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    fn stand_in(&self, line: impl Fn(u64) -> Stands) {
        if self.mark.sent_away.get() {
            return;
        }
        let number = self.all.numbers.get() + 1;
        self.all.numbers.set(number);
        let stands = line(number);
        self.stands.set(stands);
        if let Some((line, number)) = self.all.line(stands) {
            line.borrow_mut().insert(number, (clock::now(), Rc::clone(&self.mark)));
        }
    }

    fn leave_lines(&self) {
        if let Some((line, number)) = self.all.line(self.stands.replace(Stands::Nowhere)) {
            line.borrow_mut().remove(&number);
        }
    }

    fn give_back(&self) {
        let Some(turn) = self.turn.take() else { return };
        let owed = self.all.owed.get();
        if owed > 0 {
            self.all.owed.set(owed - 1);
            turn.forget();
        }
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        self.is_in();
    }
}

/// The client is waited for.
pub struct Listening<'a>(&'a Newcomer);

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.0.leave_lines();
    }
}

struct Waiting<'a>(&'a Cell<u32>);

impl<'a> Waiting<'a> {
    fn begin(count: &'a Cell<u32>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::LocalSet;

    use super::*;

    fn arrivals(most: u32) -> Rc<Arrivals> {
        let arrivals = Rc::<Arrivals>::default();
        arrivals.resize(most);
        arrivals
    }

    fn kept(has: bool) -> (bool, bool) {
        (true, has)
    }

    fn is_sent_away(arrival: &Newcomer) -> bool {
        arrival.mark.sent_away.get()
    }

    #[test]
    fn who_has_kept_us_waiting_longest_makes_room_and_the_silent_before_the_slow() {
        let all = arrivals(10);
        let (first, second, third) = (all.enter(), all.enter(), all.enter());
        let listening = first.listen();
        let now = clock::now();
        assert!(!all.make_room(now), "nobody has kept us waiting for long");
        let later = now + GRACE + Duration::from_millis(1);
        assert!(all.make_room(later) && is_sent_away(&second) && !is_sent_away(&third));
        drop(third);
        assert!(all.make_room(later) && is_sent_away(&first), "who has gone is passed over");
        assert!(!all.make_room(later));
        drop(listening);
        drop((first, second));
        assert!(all.silent.borrow().is_empty() && all.asked.borrow().is_empty());
    }

    #[test]
    fn nobody_is_sent_away_for_our_own_work_nor_who_is_in() {
        let all = arrivals(10);
        let (working, speaking, inside) = (all.enter(), all.enter(), all.enter());
        assert!(working.turn_at_once(kept) && speaking.turn_at_once(kept) && inside.turn_at_once(kept));
        drop(working.listen());
        inside.is_in();
        assert!(!all.make_room(clock::now() + 2 * GRACE));
        let _listening = speaking.listen();
        assert!(all.make_room(clock::now() + 2 * GRACE) && is_sent_away(&speaking));
    }

    #[test]
    fn of_those_in_the_middle_of_something_there_are_only_so_many() {
        let all = arrivals(2);
        let arriving: Vec<Newcomer> = (0..4).map(|_| all.enter()).collect();
        let asked = all.enter();
        asked.is_expected();
        arriving[..2].iter().for_each(|newcomer| newcomer.speaks(true));
        arriving[0].speaks(true);
        asked.speaks(true);
        assert!(!arriving.iter().any(is_sent_away));
        arriving[2].speaks(true);
        assert!(is_sent_away(&arriving[0]) && !is_sent_away(&arriving[1]), "at once, however short a time that was");
        arriving[1].speaks(false);
        arriving[3].speaks(true);
        assert!(!arriving[1..].iter().any(is_sent_away));
        arriving[0].speaks(false);
        arriving[0].speaks(true);
        let lengths = |all: &Arrivals| [&all.silent, &all.halting, &all.asked].map(|line| line.borrow().len());
        assert_eq!(lengths(&all), [1, 2, 1], "who has been sent away does not come back");
        all.resize(1);
        arriving[1].speaks(true);
        assert_eq!(lengths(&all), [0, 1, 1], "there are fewer places now");
        assert!(!is_sent_away(&asked), "who has a turn is no part of it");
        drop((arriving, asked));
        assert_eq!(lengths(&all), [0; 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn turns_are_bounded_and_come_free_for_those_who_wait() {
        let run = async {
            let all = arrivals(2);
            let (one, two, three) = (all.enter(), all.enter(), all.enter());
            assert!(one.turn_at_once(kept) && two.turn_at_once(kept) && !three.turn_at_once(kept));
            drop(one);
            three.turn().await;
            let four = all.enter();
            assert!(!four.turn_at_once(kept));
            all.resize(1);
            two.is_in();
            assert!(!four.turn_at_once(kept), "there is one turn less now");
            three.is_in();
            assert!(four.turn_at_once(kept));
            all.resize(3);
            assert!(two.turn_at_once(kept) && three.turn_at_once(kept) && !all.enter().turn_at_once(kept));
            assert_eq!(all.owed.get(), 0);
        };
        LocalSet::new().run_until(run).await;
    }

    #[tokio::test]
    async fn who_waits_for_a_turn_has_the_slow_ones_sent_away() {
        let run = async {
            let all = arrivals(1);
            let (slow, next) = (all.enter(), all.enter());
            assert!(slow.turn_at_once(kept));
            let slow = spawn_local(async move {
                let _listening = slow.listen();
                slow.sent_away().await;
            });
            let began = clock::now();
            tokio::time::timeout(Duration::from_secs(20), next.turn()).await.expect("it comes to pass");
            assert!(clock::now().saturating_duration_since(began) >= GRACE - Duration::from_millis(50));
            slow.await.unwrap();
        };
        LocalSet::new().run_until(run).await;
    }
}
