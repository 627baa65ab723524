//! How many connects go to one address at the same time, all pools of the process together: so many while it works; while it does not, one, and a
//! pause after each. Those that come meanwhile stand in line, first come first served; those whose own last login came to nothing behind all others.
//! That nobody is there, or that the server starts up, is told to them all; what comes of a login is not, as it may be one pool's trouble.
//!
//! ```text
//!   works: up to MOST at once ── several quick failures in a row, or nobody is there ──▶ down: one at a time, with pauses
//!          ▲     a login that hangs: a few at once                                          │ those in line are told, if nobody is there
//!          └──── one works, or hangs in its login: a few at once, then one more for each that works ◀────┘
//! ```
//! A connect that takes long is not in the way of others for longer than [`SLOW`]. Not here: which address is tried (`roster`), and how often a pool
//! tries (`pool::backoff`).

use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::race::UNBOUNDED_SHARE;
use super::roster::Place;
use crate::clock;
use crate::pool::fault::{ConnectFault, ConnectFaultKind};
use crate::pool::random::Random;

/// So many at once while the address works.
const MOST: usize = 64;

/// So many at once when it works again; one more for each that does.
const AT_FIRST: usize = 2;

/// A connect that takes longer than this is not counted any more: others are tried beside it.
const SLOW: Duration = Duration::from_secs(1);

/// So many of those may hang while the address does not work, before no more are tried.
const MOST_HANGING: usize = 16;

/// So many quick failures in a row say that it is down.
const IN_A_ROW: u32 = 3;

/// Where somebody was let in so lately, one silence says nothing of the address.
const ANSWERED: Duration = Duration::from_secs(5);

/// A failure that is older than this is not counted with the next one.
const REMEMBERED: Duration = Duration::from_secs(5);

/// The first pause between two tries of an address that is down; doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The longest: an address that is back is found soon.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// So many addresses are kept in mind; connects to more are not bounded.
const MOST_ADDRESSES: usize = 1024;

/// What a Redis server says to everybody for as long as it loads its data.
const LOADING: &str = "LOADING";

/// The crowds before the addresses that a process connects to.
#[derive(Debug, Clone, Default)]
pub(super) struct Crowds(Arc<Mutex<BTreeMap<Place, Arc<Crowd>>>>);

impl Crowds {
    /// The one before this address; `None` where there are more addresses than anybody keeps in mind.
    pub(super) fn before(&self, place: &Place, seed: impl FnOnce() -> u64) -> Option<Arc<Crowd>> {
        let mut crowds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(crowd) = crowds.get(place) {
            return Some(Arc::clone(crowd));
        }
        if crowds.len() >= MOST_ADDRESSES {
            crowds.retain(|_, crowd| Arc::strong_count(crowd) > 1 || crowd.lock().is_down);
        }
        if crowds.len() >= MOST_ADDRESSES {
            return None;
        }
        let crowd = Arc::new(Crowd(Mutex::new(State::new(place.clone(), seed()))));
        crowds.insert(place.clone(), Arc::clone(&crowd));
        Some(crowd)
    }
}

/// Those that connect to one address, and those that want to.
#[derive(Debug)]
pub(super) struct Crowd(Mutex<State>);

impl Crowd {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn to connect, or for the fault of somebody who has tried meanwhile.
    pub(super) async fn turn(self: &Arc<Self>, past: Past) -> Result<Seat, ConnectFault> {
        let asking = Asking { crowd: self, ticket: self.lock().ask(past) };
        let mut timer = pin!(sleep(Duration::ZERO));
        let mut set_for = None;
        let admitted = poll_fn(|cx| {
            loop {
                let now = clock::now();
                let (answer, next) = self.lock().poll(now, asking.ticket, cx.waker());
                next.into_iter().for_each(Waker::wake);
                match answer {
                    Answer::Enter => return Poll::Ready(Ok(())),
                    Answer::Told(fault) => return Poll::Ready(Err(fault)),
                    Answer::Wait(None) => return Poll::Pending,
                    Answer::Wait(Some(at)) => {
                        if set_for != Some(at) {
                            timer.as_mut().reset(tokio::time::Instant::from_std(at));
                            set_for = Some(at);
                        }
                        if timer.as_mut().poll(cx).is_pending() {
                            return Poll::Pending;
                        }
                        set_for = None;
                    }
                }
            }
        })
        .await;
        let ticket = asking.ticket;
        admitted.map(|()| Seat { crowd: Arc::clone(self), ticket })
    }

    /// A connect to the address worked, or the server has answered.
    pub(super) fn worked(&self) {
        let now = clock::now();
        let woken = self.lock().worked(now);
        woken.into_iter().for_each(Waker::wake);
    }

    /// A connect to it failed: everybody in line is told, when that says that it is down.
    pub(super) fn failed(&self, fault: &ConnectFault, reached: Reached, past: Past) {
        let now = clock::now();
        let woken = self.lock().failed(now, fault, reached, past);
        woken.into_iter().for_each(Waker::wake);
    }

    /// Of what kind the failures are because of which so few may connect; `None`: it works.
    pub(super) fn trouble(&self) -> Option<ConnectFaultKind> {
        self.lock().trouble
    }
}

/// Who was there when a connect failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reached {
    /// There was no connection yet.
    Nobody,
    /// It was open, and logging in.
    Somebody,
}

/// What came of the last login of whoever wants to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Past {
    /// It worked, or there was none.
    Clear,
    /// It hung, or was broken off. One pool that has such trouble all the time says no more by it than it has said once.
    Troubled,
}

/// Somebody in line.
struct Asking<'a> {
    crowd: &'a Crowd,
    ticket: u64,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let next = self.crowd.lock().leave_line(self.ticket);
        next.into_iter().for_each(Waker::wake);
    }
}

/// The right to connect to an address; ends when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    crowd: Arc<Crowd>,
    ticket: u64,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let next = self.crowd.lock().rise(self.ticket);
        next.into_iter().for_each(Waker::wake);
    }
}

/// What somebody in line hears.
#[derive(Debug)]
enum Answer {
    Enter,
    Told(ConnectFault),
    /// To be asked again then, or when woken.
    Wait(Option<Instant>),
}

/// Tickets, the lowest first, and whom to wake.
type Line = VecDeque<(u64, Option<Waker>)>;

/// Pure: times and results go in.
#[derive(Debug)]
struct State {
    place: Place,
    /// Who connects, and since when.
    seats: Vec<(u64, Instant)>,
    /// Who waits, the first first.
    line: Line,
    /// The same for those who come after all others.
    behind: Line,
    /// Who has been told how it went for another.
    told: BTreeMap<u64, ConnectFault>,
    tickets: u64,
    width: usize,
    /// Failures since the last success, each soon after the one before.
    streak: u32,
    failed_at: Option<Instant>,
    worked_at: Option<Instant>,
    is_down: bool,
    /// How the last connect failed that said that it is down.
    trouble: Option<ConnectFaultKind>,
    /// Logins hang, and nothing else is wrong.
    is_narrowed: bool,
    pauses: u32,
    not_before: Option<Instant>,
    random: Random,
}

impl State {
    fn new(place: Place, seed: u64) -> Self {
        Self {
            place,
            seats: Vec::new(),
            line: Line::new(),
            behind: Line::new(),
            told: BTreeMap::new(),
            tickets: 0,
            width: MOST,
            streak: 0,
            failed_at: None,
            worked_at: None,
            is_down: false,
            trouble: None,
            is_narrowed: false,
            pauses: 0,
            not_before: None,
            random: Random::new(seed),
        }
    }

    fn ask(&mut self, past: Past) -> u64 {
        self.tickets += 1;
        let line = match past {
            Past::Clear => &mut self.line,
            Past::Troubled => &mut self.behind,
        };
        line.push_back((self.tickets, None));
        self.tickets
    }

    /// The line in which the next one is.
    fn next(&mut self) -> &mut Line {
        if self.line.is_empty() { &mut self.behind } else { &mut self.line }
    }

    /// Where somebody waits.
    fn find(&mut self, ticket: u64) -> Option<(&mut Line, usize)> {
        [&mut self.line, &mut self.behind].into_iter().find_map(|line| {
            let index = line.binary_search_by_key(&ticket, |(other, _)| *other).ok()?;
            Some((line, index))
        })
    }

    /// What to tell somebody in line; and who is to look next.
    fn poll(&mut self, now: Instant, ticket: u64, waker: &Waker) -> (Answer, Option<Waker>) {
        if let Some(fault) = self.told.remove(&ticket) {
            return (Answer::Told(fault), None);
        }
        let is_first = self.next().front().is_some_and(|(first, _)| *first == ticket);
        let wait = if is_first { self.opens(now) } else { Some(None) };
        match wait {
            None => {
                self.next().pop_front();
                self.seats.push((ticket, now));
                (Answer::Enter, self.first())
            }
            Some(at) => {
                if let Some((line, index)) = self.find(ticket) {
                    line[index].1 = Some(waker.clone());
                }
                (Answer::Wait(at), None)
            }
        }
    }

    /// When the first in line may connect: now (`None`), at a time, or when another is done.
    fn opens(&self, now: Instant) -> Option<Option<Instant>> {
        if let Some(at) = self.not_before.filter(|at| now < *at) {
            return Some(Some(at));
        }
        // One that hangs for ever keeps nobody away for as long.
        let hanging = self.seats.iter().filter(|(_, since)| now.saturating_duration_since(*since) < UNBOUNDED_SHARE);
        if self.is_down && hanging.clone().count() >= MOST_HANGING {
            return Some(hanging.map(|(_, since)| *since + UNBOUNDED_SHARE).min());
        }
        let width = if self.is_down { 1 } else { self.width };
        let mut counted = self.seats.iter().filter(|(_, since)| now.saturating_duration_since(*since) < SLOW).peekable();
        let oldest = counted.peek().map(|(_, since)| *since + SLOW);
        (counted.count() >= width).then_some(oldest)
    }

    fn first(&mut self) -> Option<Waker> {
        self.next().front_mut().and_then(|(_, waker)| waker.take())
    }

    /// Whoever was the first has looked when the next one may connect: now another one has to.
    fn leave_line(&mut self, ticket: u64) -> Option<Waker> {
        self.told.remove(&ticket);
        let was_first = self.next().front().is_some_and(|(first, _)| *first == ticket);
        let (line, index) = self.find(ticket)?;
        line.remove(index);
        if was_first { self.first() } else { None }
    }

    fn rise(&mut self, ticket: u64) -> Option<Waker> {
        self.seats.retain(|(other, _)| *other != ticket);
        self.first()
    }

    fn worked(&mut self, now: Instant) -> Option<Waker> {
        self.worked_at = Some(now);
        self.width = match (self.is_down, self.is_narrowed) {
            (true, _) => AT_FIRST,
            (false, true) => MOST,
            (false, false) => (self.width + 1).min(MOST),
        };
        self.somebody_is_there();
        self.is_narrowed = false;
        self.first()
    }

    fn somebody_is_there(&mut self) {
        (self.streak, self.is_down, self.trouble, self.pauses, self.not_before) = (0, false, None, 0, None);
    }

    fn failed(&mut self, now: Instant, fault: &ConnectFault, reached: Reached, past: Past) -> Vec<Waker> {
        match fault.kind {
            ConnectFaultKind::Unavailable if is_of_a_database(fault) => return Vec::new(),
            ConnectFaultKind::Refused | ConnectFaultKind::Timeout | ConnectFaultKind::Unavailable => {}
            ConnectFaultKind::Auth | ConnectFaultKind::NoDatabase | ConnectFaultKind::TooMany => {
                return self.worked(now).into_iter().collect();
            }
            // What may be wrong with one pool's settings says nothing of others.
            ConnectFaultKind::Tls | ConnectFaultKind::Protocol | ConnectFaultKind::Resolve | ConnectFaultKind::Other => return Vec::new(),
        }
        let concerns_all = reached == Reached::Nobody || is_of_the_server(fault);
        // Where others were let in meanwhile, it is one that was unlucky.
        let answers = self.worked_at.is_some_and(|at| now.saturating_duration_since(at) < ANSWERED);
        if fault.kind == ConnectFaultKind::Timeout && !concerns_all {
            return if answers { Vec::new() } else { self.narrow().into_iter().collect() };
        }
        if past == Past::Troubled && !concerns_all && !self.is_down {
            return Vec::new();
        }
        let is_fresh = self.failed_at.replace(now).is_some_and(|at| now.saturating_duration_since(at) < REMEMBERED);
        self.streak = if is_fresh { self.streak.saturating_add(1) } else { 1 };
        let says_so = match reached {
            Reached::Nobody => self.streak >= IN_A_ROW || (fault.kind == ConnectFaultKind::Timeout && !answers),
            Reached::Somebody => self.streak >= IN_A_ROW && (concerns_all || !answers),
        };
        if !self.is_down && !says_so {
            return Vec::new();
        }
        (self.is_down, self.is_narrowed, self.trouble) = (true, false, Some(fault.kind));
        // Those that were under way together count once.
        if self.not_before.is_none_or(|at| at <= now) {
            let pause = FIRST_PAUSE.saturating_mul(1 << self.pauses.min(8)).min(LONGEST_PAUSE);
            self.pauses = self.pauses.saturating_add(1);
            self.not_before = Some(now + self.random.share(pause, 500, 1000));
        }
        if !concerns_all {
            return Vec::new();
        }
        let (mut line, hearsay) = (std::mem::take(&mut self.line), hearsay(&self.place, fault));
        line.append(&mut self.behind);
        self.told.extend(line.iter().map(|(ticket, _)| (*ticket, hearsay.clone())));
        line.into_iter().filter_map(|(_, waker)| waker).collect()
    }

    /// Somebody is there, and lets somebody wait: that may be one pool's trouble. Others come, fewer at a time.
    fn narrow(&mut self) -> Option<Waker> {
        self.width = if self.is_down { AT_FIRST } else { (self.width / 2).max(AT_FIRST) };
        // After it was down, those that are let in become more one by one.
        self.is_narrowed |= !self.is_down;
        self.somebody_is_there();
        self.first()
    }
}

/// What others are told of a fault: nothing of whose it was. Its text may name a database and a user.
fn hearsay(place: &Place, fault: &ConnectFault) -> ConnectFault {
    let message = format!("another connect to {place} has just failed: {}", fault.kind.label());
    let code = fault.code.clone().filter(|_| is_of_the_server(fault));
    // Drivers know these words, and wait.
    let said = code.as_deref().filter(|code| *code == LOADING).map(|_| "LOADING Redis is loading the dataset in memory".into());
    ConnectFault { code, said, ..ConnectFault::new(fault.kind, message) }
}

/// Whether the server says no to everybody: it starts up or shuts down, or loads its data.
fn is_of_the_server(fault: &ConnectFault) -> bool {
    fault.code.as_deref().is_some_and(|code| matches!(code, "57P03" | LOADING))
}

/// Whether the server has answered, and others may be let in: SQLSTATEs of want of resources, and of what one database is not ready for.
fn is_of_a_database(fault: &ConnectFault) -> bool {
    fault.code.as_deref().is_some_and(|code| code.starts_with("53") || code.starts_with("55"))
}

#[cfg(test)]
#[path = "crowd_tests.rs"]
mod tests;
