//! The line before a lane: whose turn it is, for how many, and for how long.

use std::rc::Rc;

use super::*;
use crate::clock;

#[derive(Default)]
struct Somebody {
    place: Place,
    gone: Cell<bool>,
    woken: Cell<u32>,
}

impl Stands for Rc<Somebody> {
    fn place(&self) -> &Place {
        &self.place
    }

    fn is_there(&self) -> bool {
        !self.gone.get()
    }

    fn wake(&self) {
        self.woken.set(self.woken.get() + 1);
    }
}

type Line = Turns<Rc<Somebody>>;

fn load(commands: usize, bytes: usize) -> Load {
    Load { commands, bytes, full: FULL_BYTES }
}

fn asks_at(line: &Line, load: Load, most: usize, who: &Rc<Somebody>, now: Instant) -> Admission {
    asks_after(line, load, most, who, now, Duration::ZERO)
}

/// The same for somebody who has waited elsewhere.
fn asks_after(line: &Line, load: Load, most: usize, who: &Rc<Somebody>, now: Instant, waited: Duration) -> Admission {
    line.admits(load, || Bounds { length: most, patience: None, refuse_early: false, waited }, || Rc::clone(who), &who.place, || now)
}

fn asks(line: &Line, load: Load, who: &Rc<Somebody>) -> Admission {
    asks_at(line, load, 1000, who, clock::now())
}

fn some(count: usize) -> Vec<Rc<Somebody>> {
    (0..count).map(|_| Rc::default()).collect()
}

fn of(identity: u16, count: usize) -> Vec<Rc<Somebody>> {
    let all = some(count);
    all.iter().for_each(|one| one.place.identity.set(IdentityId(identity)));
    all
}

/// Those among `all` whose turn it is now; they come.
fn called(line: &Line, load: Load, all: &[Rc<Somebody>]) -> Vec<usize> {
    line.call(load, clock::now, drop);
    let turns = (0..all.len()).filter(|index| all[*index].place.state.get() == State::Turn);
    turns.inspect(|index| assert_eq!(asks(line, load, &all[*index]), Admission::Now)).collect()
}

/// The next of them, one at a time.
fn order(line: &Line, all: &[Rc<Somebody>], count: usize) -> Vec<usize> {
    // Room for one.
    let tight = Load { commands: 0, bytes: 0, full: 1 };
    (0..count).flat_map(|_| called(line, tight, all)).collect()
}

#[test]
fn each_bound_closes_the_lane() {
    let line = Line::default();
    let all = some(3);
    assert_eq!(asks(&line, load(FULL_COMMANDS - 1, FULL_BYTES - 1), &all[0]), Admission::Now);
    assert_eq!(asks(&line, load(FULL_COMMANDS, 0), &all[0]), Admission::Later);
    assert_eq!(asks(&line, load(0, FULL_BYTES), &all[1]), Admission::Later);
    assert_eq!(asks(&line, load(0, 0), &all[2]), Admission::Later, "nobody overtakes those in line");
    assert_eq!(asks(&line, load(0, 0), &all[0]), Admission::Later, "it stands in line once");
    assert_eq!(called(&line, load(0, 0), &all), [0, 1, 2], "an idle lane has nobody waiting");
    assert!(line.is_empty());
    assert_eq!(asks(&line, load(FULL_COMMANDS, 0), &all[0]), Admission::Later, "each had one turn");
}

#[test]
fn whoever_waits_longest_comes_first_and_only_as_many_as_there_is_room_for() {
    let line = Line::default();
    let all = some(100);
    all.iter().for_each(|one| assert_eq!(asks(&line, load(FULL_COMMANDS, FULL_BYTES), one), Admission::Later));
    assert!(called(&line, load(100, FULL_BYTES - 1), &all).is_empty(), "not before there is room for many");
    assert!(called(&line, load(FULL_COMMANDS - 1, 100), &all).is_empty());
    let half = FULL_BYTES / 2 / QUANTUM;
    line.call(load(100, FULL_BYTES / 2), clock::now, drop);
    line.call(load(100, FULL_BYTES / 2), clock::now, drop);
    assert_eq!(line.len(), 100 - half, "what others have been called for is not given away twice");
    assert_eq!(called(&line, load(100, FULL_BYTES), &all), (0..half).collect::<Vec<_>>());
    all[half].gone.set(true);
    assert_eq!(order(&line, &all, 1), [half + 1], "who is gone is passed over");
}

#[test]
fn whoever_took_more_than_its_quantum_waits_longer() {
    let line = Line::default();
    let all = some(3);
    all[0].place.took(3 * QUANTUM);
    all.iter().for_each(|one| assert_eq!(asks(&line, load(1, FULL_BYTES), one), Admission::Later));
    assert_eq!(order(&line, &all, 3), [1, 2, 0]);
    // Paid: the next time it is one of three.
    all.iter().for_each(|one| assert_eq!(asks(&line, load(1, FULL_BYTES), one), Admission::Later));
    assert_eq!(order(&line, &all, 3), [0, 1, 2]);
}

#[test]
fn identities_take_turns_however_many_clients_each_has() {
    let line = Line::default();
    let all = [of(1, 50), of(2, 1), of(3, 2)].concat();
    all.iter().for_each(|one| assert_eq!(asks(&line, load(0, FULL_BYTES), one), Admission::Later));
    assert_eq!(order(&line, &all, 8), [0, 50, 51, 1, 52, 2, 3, 4]);
    // Who comes anew comes before one whose last turn is not as long ago.
    assert_eq!(asks(&line, load(0, FULL_BYTES), &all[50]), Admission::Later);
    assert_eq!(order(&line, &all, 3), [50, 5, 6]);
}

#[test]
fn a_turn_that_is_not_used_is_free_again() {
    let line = Line::default();
    let all = some(3);
    let tight = Load { commands: 0, bytes: 0, full: 1 };
    all.iter().for_each(|one| assert_eq!(asks(&line, load(0, FULL_BYTES), one), Admission::Later));
    line.call(tight, clock::now, drop);
    line.call(tight, clock::now, drop);
    assert_eq!(line.len(), 2, "one was called, and not yet another");
    line.leave(&all[0].place, clock::now);
    line.leave(&all[1].place, clock::now);
    assert_eq!(order(&line, &all, 1), [2], "one gave its turn up, the other its place");
    assert!(line.is_empty());
}

#[test]
fn the_line_is_bounded_in_length_and_time() {
    let line = Line::default();
    let (many, few) = (of(1, 4), of(2, 2));
    let start = clock::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    (0..3).for_each(|index| assert_eq!(asks_at(&line, load(0, FULL_BYTES), 3, &many[index], at(index as u64)), Admission::Later));
    let full = Admission::Refused(RefuseReason::QueueFull);
    assert_eq!(asks_at(&line, load(0, FULL_BYTES), 3, &many[3], at(3)), full);
    assert_eq!(asks_at(&line, load(0, FULL_BYTES), 3, &few[0], at(3)), Admission::Later, "who has less of it finds room");
    assert_eq!((asks_at(&line, load(0, 0), 3, &many[2], at(3)), many[2].woken.get()), (full, 1), "and the last of the others goes");
    assert_eq!(asks_at(&line, load(0, FULL_BYTES), 3, &few[1], at(3)), full, "now nobody has two more");
    line.refuse_overdue(at(10), Some(Duration::from_secs(10)));
    let late = Admission::Refused(RefuseReason::WaitTimeout);
    assert_eq!((asks(&line, load(0, 0), &many[0]), many[0].woken.get(), line.len()), (late, 1, 2));
    line.refuse_overdue(at(1000), None);
    assert_eq!(line.len(), 2, "there is no limit");
}

/// A line in which somebody has had a turn each 100 ms for a while, and so many of the first identity wait; and the time then.
fn paced(waiting: usize) -> (Line, Vec<Rc<Somebody>>, Instant) {
    let (line, mut now) = (Line::default(), clock::now());
    let all = of(1, waiting + 20);
    all.iter().for_each(|one| assert_eq!(asks_at(&line, load(0, FULL_BYTES), 1000, one, now), Admission::Later));
    for one in &all[..20] {
        now += Duration::from_millis(100);
        line.call(Load { commands: 0, bytes: 0, full: 1 }, || now, drop);
        assert_eq!(asks_at(&line, load(0, FULL_BYTES), 1000, one, now), Admission::Now);
    }
    (line, all, now)
}

#[test]
fn who_would_time_out_is_refused_at_once_where_that_is_wanted() {
    let (line, _all, now) = paced(10);
    let asks = |who: &Rc<Somebody>, patience: u64, refuse_early: bool| {
        let bounds = Bounds { length: 1000, patience: Some(Duration::from_millis(patience)), refuse_early, waited: Duration::ZERO };
        line.admits(load(0, FULL_BYTES), || bounds, || Rc::clone(who), &who.place, || now)
    };
    let (more, other) = (of(1, 3), of(2, 1));
    assert_eq!(asks(&more[0], 1_000, true), Admission::Refused(RefuseReason::WouldTimeOut));
    let outlook = line.outlook(IdentityId(1), Some(Duration::from_millis(1_000)), now).expect("there is a pace");
    assert_eq!((outlook.expected.as_millis(), outlook.again.as_millis()), (1_100, 100), "when one more has had its turn");
    assert_eq!(asks(&more[1], 1_500, true), Admission::Later, "it waits for longer");
    assert_eq!(asks(&other[0], 1_000, true), Admission::Later, "of another identity one only has a turn before it");
    assert_eq!(asks(&more[2], 1_000, false), Admission::Later, "it may be lucky");
}

#[test]
fn who_is_next_is_never_refused_early() {
    // Each identity with one client: those that have had a turn come after one that has not.
    let (line, _all, now) = paced(0);
    let asks = |who: &Rc<Somebody>, patience: u64| {
        let bounds = Bounds { length: 1000, patience: Some(Duration::from_millis(patience)), refuse_early: true, waited: Duration::ZERO };
        line.admits(load(0, FULL_BYTES), || bounds, || Rc::clone(who), &who.place, || now)
    };
    for identity in 2..17 {
        line.had(IdentityId(identity));
        assert_eq!(asks(&of(identity, 1)[0], 60_000), Admission::Later);
    }
    assert_eq!(asks(&of(20, 1)[0], 1), Admission::Later, "it has its turn before all of them, however long one takes");
    line.had(IdentityId(30));
    assert_eq!(asks(&of(30, 1)[0], 1_000), Admission::Refused(RefuseReason::WouldTimeOut), "it has just had its turn");
}

#[test]
fn without_a_pace_nobody_is_refused_early() {
    let (line, all, now) = paced(10);
    let asks = |line: &Line, who: &Rc<Somebody>, now: Instant| {
        let bounds = Bounds { length: 1000, patience: Some(Duration::from_millis(1_000)), refuse_early: true, waited: Duration::ZERO };
        line.admits(load(0, FULL_BYTES), || bounds, || Rc::clone(who), &who.place, || now)
    };
    let more = of(1, 2);
    assert_eq!(asks(&line, &more[0], now + Duration::from_secs(31)), Admission::Later, "long ago is no pace");
    let stuck = Line::default();
    all.iter().for_each(|one| one.place.state.set(State::Out));
    all.iter().for_each(|one| assert_eq!(asks(&stuck, one, now), Admission::Later, "nobody was ever called"));
    assert_eq!(stuck.outlook(IdentityId(1), None, now), None);
    assert_eq!(stuck.oldest(), Some(now));
}

#[test]
fn time_in_which_nobody_waits_is_not_the_lines() {
    let (line, all, now) = paced(0);
    let later = now + Duration::from_secs(20);
    assert_eq!(asks_at(&line, load(0, FULL_BYTES), 1000, &all[0], later), Admission::Later);
    let outlook = line.outlook(IdentityId(1), None, later).expect("there is a pace");
    assert_eq!(outlook.expected.as_millis(), 200);
    line.leave(&all[0].place, || later);
    assert_eq!(line.outlook(IdentityId(1), None, later + Duration::from_secs(5)).map(|outlook| outlook.expected.as_millis()), Some(100));
}

#[test]
fn who_comes_from_another_line_has_waited_already() {
    let line = Line::default();
    let (all, start) = (some(3), clock::now());
    let (full, after) = (load(FULL_COMMANDS, 0), |seconds| start + Duration::from_secs(seconds));
    assert_eq!(asks_at(&line, full, 10, &all[0], start), Admission::Later);
    assert_eq!(asks_at(&line, full, 10, &all[1], after(2)), Admission::Later);
    assert_eq!(asks_after(&line, full, 10, &all[2], after(3), Duration::from_secs(2)), Admission::Later);
    line.refuse_overdue(after(6), Some(Duration::from_secs(5)));
    let late = Admission::Refused(RefuseReason::WaitTimeout);
    assert_eq!(asks_at(&line, full, 10, &all[0], after(6)), late);
    assert_eq!(asks_at(&line, full, 10, &all[2], after(6)), late, "before who came to this line earlier, and waits for less long");
    assert_eq!(asks_at(&line, full, 10, &all[1], after(6)), Admission::Later);
}
