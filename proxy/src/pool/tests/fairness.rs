//! How long a small identity waits beside a greedy one, measured over a core in virtual time: sessions use a connection, pause, and come again.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant};

use super::bench::{ALICE, BOB, Bench, HOME, LIMITS};
use crate::pool::action::{Action, Outcome};
use crate::pool::id::{Asker, ConnId, IdentityId, WaiterId};
use crate::pool::limits::Limits;
use crate::pool::random::Random;
use crate::pool::reason::Condition;
use crate::pool::turns::PASSED_OVER;

const SIZE: u32 = 4;
const SERVED: usize = 4_000;

/// Clients of one identity that do the same.
#[derive(Clone, Copy)]
struct Crowd {
    identity: IdentityId,
    clients: usize,
    /// How long each uses a connection, and how long it then pauses: on average, in milliseconds.
    uses: u32,
    pauses: u32,
}

/// What happens to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Asks(usize),
    GivesBack(usize, ConnId),
}

/// What the sessions of one identity have seen.
#[derive(Default, Clone, Copy)]
struct Seen {
    served: usize,
    waited: Duration,
    used: Duration,
    /// The longest wait of one of them.
    longest: Duration,
}

impl Seen {
    fn wait(&self) -> f64 {
        self.waited.as_secs_f64() * 1000.0 / self.served as f64
    }

    fn response(&self) -> f64 {
        (self.waited + self.used).as_secs_f64() * 1000.0 / self.served as f64
    }
}

struct World {
    bench: Bench,
    random: Random,
    events: BinaryHeap<Reverse<(Instant, Event)>>,
    /// Who waits, and since when.
    waiting: BTreeMap<WaiterId, (usize, Instant)>,
    sessions: Vec<Crowd>,
    seen: BTreeMap<IdentityId, Seen>,
}

impl World {
    fn new(crowds: &[Crowd]) -> Self {
        let mut bench = Bench::new(Limits { max: SIZE, queue_length: 10_000, ..LIMITS });
        bench.idle(SIZE as usize);
        let sessions: Vec<Crowd> = crowds.iter().flat_map(|crowd| vec![*crowd; crowd.clients]).collect();
        let events = (0..sessions.len()).map(|session| Reverse((bench.now, Event::Asks(session)))).collect();
        Self { bench, random: Random::new(7), events, waiting: BTreeMap::new(), sessions, seen: BTreeMap::new() }
    }

    /// A time that is `mean` on average.
    fn about(&mut self, mean: u32) -> Duration {
        Duration::from_micros(u64::from(self.random.between(0, 2000)) * u64::from(mean))
    }

    fn served(&mut self, session: usize, conn: ConnId, waited: Duration) {
        let crowd = self.sessions[session];
        let used = self.about(crowd.uses);
        let seen = self.seen.entry(crowd.identity).or_default();
        *seen = Seen { served: seen.served + 1, waited: seen.waited + waited, used: seen.used + used, longest: seen.longest.max(waited) };
        self.events.push(Reverse((self.bench.now + used, Event::GivesBack(session, conn))));
    }

    /// What everybody has seen when enough of `whose` clients were served.
    fn run(mut self, whose: IdentityId) -> BTreeMap<IdentityId, Seen> {
        while self.seen.get(&whose).is_none_or(|seen| seen.served < SERVED) {
            self.step();
        }
        self.seen
    }

    /// What everybody has seen after so long a time.
    fn run_for(mut self, time: Duration) -> BTreeMap<IdentityId, Seen> {
        let end = self.bench.now + time;
        while self.bench.now < end {
            self.step();
        }
        self.seen
    }

    /// The next thing happens.
    fn step(&mut self) {
        let Reverse((at, event)) = self.events.pop().expect("sessions come again");
        self.bench.now = at;
        match event {
            Event::Asks(session) => {
                let asker = Asker { worker: HOME, identity: self.sessions[session].identity, seat: 0, patience: None };
                match self.bench.core.acquire(at, asker) {
                    Outcome::Granted(conn) => self.served(session, conn, Duration::ZERO),
                    Outcome::Queued(waiter) => drop(self.waiting.insert(waiter, (session, at))),
                    Outcome::Refused(refusal) => panic!("{refusal:?}"),
                }
            }
            Event::GivesBack(session, conn) => {
                self.bench.release(conn, Condition::Clean);
                let pause = self.about(self.sessions[session].pauses);
                self.events.push(Reverse((at + pause, Event::Asks(session))));
            }
        }
        for action in self.bench.actions() {
            if let Action::Grant { waiter, conn, .. } = action {
                let (session, since) = self.waiting.remove(&waiter).expect("it waits");
                self.served(session, conn, at - since);
            }
        }
    }
}

/// What a small identity sees alone, and beside others.
fn compare(small: Crowd, others: &[Crowd]) -> (Seen, Seen) {
    let mut crowds = others.to_vec();
    crowds.push(small);
    let seen = |crowds: &[Crowd]| World::new(crowds).run(small.identity)[&small.identity];
    (seen(&[small]), seen(&crowds))
}

const SMALL: Crowd = Crowd { identity: ALICE, clients: 8, uses: 10, pauses: 0 };

/// So much longer than alone: what one session waits for a connection that somebody else has just taken.
const TURN_MS: f64 = 10.0;

#[test]
fn beside_a_greedy_identity_a_small_one_waits_at_most_twice_as_long() {
    for (clients, pauses) in [(8, 0), (16, 0), (8, 10), (8, 20), (8, 40), (4, 20), (2, 10)] {
        for greedy_uses in [2, 10] {
            let small = Crowd { clients, pauses, ..SMALL };
            let greedy = Crowd { identity: BOB, clients: 50 * clients, uses: greedy_uses, pauses };
            let (alone, beside) = compare(small, &[greedy]);
            let what = format!("{clients} clients that pause for {pauses} ms beside transactions of {greedy_uses} ms");
            assert!(beside.response() <= 2.0 * alone.response(), "{what}: {:.2} -> {:.2} ms", alone.response(), beside.response());
            assert!(beside.wait() <= 2.0 * alone.wait() + TURN_MS / 2.0, "{what}: {:.2} -> {:.2} ms", alone.wait(), beside.wait());
            if pauses == 0 {
                assert!(beside.wait() <= 2.0 * alone.wait(), "{what}: {:.2} -> {:.2} ms", alone.wait(), beside.wait());
            }
        }
    }
}

#[test]
fn long_transactions_of_others_cost_a_small_identity_one_of_them_shared_by_all_connections() {
    let greedy = Crowd { identity: BOB, clients: 400, uses: 100, pauses: 0 };
    let (alone, beside) = compare(SMALL, &[greedy]);
    assert!(
        beside.wait() <= 2.0 * alone.wait() + f64::from(greedy.uses) / f64::from(SIZE),
        "{:.2} -> {:.2} ms",
        alone.wait(),
        beside.wait()
    );
}

#[test]
fn several_greedy_identities_leave_a_small_one_its_share() {
    let greedy = |number| Crowd { identity: IdentityId(number), clients: 400, uses: 10, pauses: 0 };
    let small = Crowd { clients: 2, pauses: 20, ..SMALL };
    let (alone, beside) = compare(small, &[greedy(10), greedy(11), greedy(12), greedy(13), greedy(14)]);
    assert!(beside.response() <= 2.0 * alone.response(), "{:.2} -> {:.2} ms", alone.response(), beside.response());
}

#[test]
fn a_greedy_identity_is_not_starved_either() {
    let greedy = Crowd { identity: BOB, clients: 400, uses: 10, pauses: 0 };
    let world = World::new(&[SMALL, greedy]);
    let seen = world.run(greedy.identity);
    let since = seen[&ALICE].used + seen[&BOB].used;
    let part = seen[&BOB].used.as_secs_f64() / since.as_secs_f64();
    assert!((0.2..0.5).contains(&part), "it used {part:.2} of the time");
}

const MINUTE: Duration = Duration::from_secs(60);

/// What Alice's sessions see while another of hers keeps a connection for good, and so many others with sessions of their own keep the rest busy.
fn beside_a_session_that_keeps_its_connection(others: u16, clients: usize) -> Seen {
    let small = |identity, clients| Crowd { identity, clients, uses: 10, pauses: 0 };
    let mut crowds = vec![small(ALICE, 4)];
    crowds.extend((0..others).map(|number| small(IdentityId(10 + number), clients)));
    let mut world = World::new(&crowds);
    world.bench.take();
    world.run_for(MINUTE).get(&ALICE).copied().unwrap_or_default()
}

#[test]
fn who_keeps_a_connection_for_long_does_not_shut_out_the_others_of_its_identity() {
    for (others, clients) in [(20, 5), (4, 1), (1, 400), (200, 2)] {
        let seen = beside_a_session_that_keeps_its_connection(others, clients);
        // What is left of the connections serves one each 10 / 3 ms; each of her four waits for the other three.
        let turns = f64::from(others + 1) * f64::from(PASSED_OVER + 1);
        let bound = 4.0 * turns * 10.0 / f64::from(SIZE - 1);
        let longest = seen.longest.as_secs_f64() * 1000.0;
        let served = 4.0 * MINUTE.as_secs_f64() * 1000.0 / (1.5 * bound);
        assert!(seen.served as f64 >= served, "beside {others} others hers were served {} times, not {served:.0} times", seen.served);
        assert!(longest <= 1.5 * bound, "beside {others} others one of hers waited {longest:.0} ms, more than {bound:.0} ms");
    }
}
