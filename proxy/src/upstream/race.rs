//! Addresses that are connected to for one connection, one beside the other: the next one is begun when those before it have failed, or are slow
//! where others should be quick. A connect is over when somebody is logged in.
//!
//! Not here: in which order (`roster`), how many connects go to an address at once (`crowd`).

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use sidepool_config::model::Upstream;
use tokio::time::sleep;

use super::breaker::Outcome;
use super::crowd::{Reached, Seat};
use super::dial::{Dialer, HEAD_START, Server, fault_of, keep_telling};
use super::roster::{Choice, Standing};
use crate::clock;
use crate::pool::fault::{ConnectFault, ConnectFaultKind};
use crate::transport::stream::Stream;

/// How long an address of which nothing is known may take for the login before the next one is tried beside it.
const STRANGER: Duration = Duration::from_secs(1);

/// The same for one that has worked.
const FRIEND: Duration = Duration::from_millis(1500);

/// How long an address of which nothing is known, and which is to be stayed on, may take to be there: a packet may get lost.
const ONE_LOST: Duration = Duration::from_millis(1500);

/// What one address may take of a connect that has no bound, where there are others.
pub(super) const UNBOUNDED_SHARE: Duration = Duration::from_secs(15);

/// So long before the caller's patience ends, so does the last attempt.
const A_MOMENT: Duration = Duration::from_millis(10);

/// Addresses that are being connected to, and those whose turn has not come.
pub(super) struct Race<'a, T, F> {
    dialer: &'a Dialer,
    enter: &'a F,
    /// There never was another one.
    alone: bool,
    waiting: VecDeque<Choice>,
    /// In the order in which they were started.
    running: Vec<Attempt<'a, T>>,
    deadline: Option<Instant>,
    /// What to tell of each host.
    pub(super) faults: Vec<Option<ConnectFault>>,
}

/// One address that is being connected to.
struct Attempt<'a, T> {
    choice: Choice,
    since: Instant,
    /// How long it may have for itself at most.
    share: Duration,
    stage: Rc<Cell<Stage>>,
    future: Pin<Box<dyn Future<Output = End<T>> + 'a>>,
}

/// How far an attempt is; since when it has been its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Others connect to the address before it.
    InLine,
    Connecting(Instant),
    Entering(Instant),
}

/// How an attempt ended.
struct End<T> {
    result: Result<T, ConnectFault>,
    /// The place in the crowd, if it got one: what it found out is worth telling there.
    seat: Option<Seat>,
}

/// What happens next in a race.
enum News<T> {
    Finished(usize, End<T>),
    HeadStartIsOver,
    DeadlineIsHere,
}

impl<'a, T: 'a, F: AsyncFn(Stream, &Arc<Server>) -> Result<T, ConnectFault>> Race<'a, T, F> {
    pub(super) fn new(
        dialer: &'a Dialer,
        enter: &'a F,
        plan: Vec<Choice>,
        deadline: Option<Instant>,
        faults: Vec<Option<ConnectFault>>,
    ) -> Self {
        Self { dialer, enter, alone: plan.len() == 1, waiting: plan.into(), running: Vec::new(), deadline, faults }
    }

    /// The first that let us in; `None` when no address is left.
    pub(super) async fn run(&mut self) -> Option<T> {
        loop {
            if self.running.is_empty() && !self.start() {
                return None;
            }
            match self.news().await {
                News::HeadStartIsOver => {
                    self.start();
                }
                News::DeadlineIsHere => {
                    self.waiting.clear();
                    self.give_up();
                }
                News::Finished(index, End { result: Ok(entered), seat }) => {
                    let won = self.running.remove(index);
                    self.dialer.ended(&won.choice, Outcome::Worked);
                    self.dialer.tell_crowd(&won.choice.place, Ok(()));
                    drop(seat);
                    self.call_off(index);
                    return Some(entered);
                }
                News::Finished(index, End { result: Err(fault), seat }) => {
                    let lost = self.running.remove(index);
                    if seat.is_some() {
                        self.tell(&lost, &fault);
                    }
                    drop(seat);
                    self.lost(&lost.choice, fault);
                    self.start();
                }
            }
        }
    }

    /// What of the time that is left the one that has just been taken out may take for itself.
    fn share(&self) -> Duration {
        let rest = u32::try_from(self.waiting.len() + 1).unwrap_or(u32::MAX);
        self.deadline.map_or(UNBOUNDED_SHARE, |deadline| deadline.saturating_duration_since(clock::now()) / rest)
    }

    /// The deadline has come: none of those that are being connected to has let us in.
    fn give_up(&mut self) {
        let now = clock::now();
        for attempt in std::mem::take(&mut self.running) {
            let host = &self.dialer.hosts()[attempt.choice.host];
            let (stage, outcome) = (attempt.stage.get(), attempt.stage.get().verdict(now, attempt.share, false));
            let trouble = self.dialer.crowd(&attempt.choice.place).and_then(|crowd| crowd.trouble());
            let complaint = match trouble.filter(|_| outcome.is_none()) {
                Some(trouble) => format!("connects to the server {host} fail ({}): this one's turn has not come", trouble.label()),
                None => stage.complaint(now, host, outcome.is_some()),
            };
            let fault = ConnectFault::new(ConnectFaultKind::Timeout, complaint);
            if outcome.is_some() {
                self.tell(&attempt, &fault);
                self.lost(&attempt.choice, fault);
            } else {
                keep_telling(&mut self.faults[attempt.choice.host], fault);
            }
        }
    }

    /// What an attempt has found out is worth telling to those who connect to the same address.
    fn tell(&self, attempt: &Attempt<'a, T>, fault: &ConnectFault) {
        let reached = match attempt.stage.get() {
            Stage::InLine | Stage::Connecting(_) => Reached::Nobody,
            Stage::Entering(_) => Reached::Somebody,
        };
        self.dialer.tell_crowd(&attempt.choice.place, Err((fault, reached)));
    }

    /// This address is of no use now.
    fn lost(&mut self, choice: &Choice, fault: ConnectFault) {
        if !self.dialer.ended(choice, Outcome::of(&fault)) && !self.alone {
            tracing::warn!(address = %choice.place, "a connect to a server address failed: {}", fault.message);
        }
        keep_telling(&mut self.faults[choice.host], fault);
    }

    fn start(&mut self) -> bool {
        let Some(choice) = self.waiting.pop_front() else { return false };
        let share = self.share();
        let (dialer, enter) = (self.dialer, self.enter);
        let crowd = dialer.crowd(&choice.place);
        let stage = Rc::new(Cell::new(if crowd.is_some() { Stage::InLine } else { Stage::Connecting(clock::now()) }));
        let (to, reached) = (choice.clone(), Rc::clone(&stage));
        let future = Box::pin(async move {
            let seat = match crowd {
                Some(crowd) => match crowd.turn(dialer.past()).await {
                    Ok(seat) => Some(seat),
                    Err(fault) => return End { result: Err(fault), seat: None },
                },
                None => None,
            };
            let turn = clock::now();
            reached.set(Stage::Connecting(turn));
            let result = match dialer.open(&to.place).await {
                Ok(stream) => {
                    reached.set(Stage::Entering(turn));
                    enter(stream, &Arc::new(dialer.server(&to))).await
                }
                Err(error) => Err(fault_of(&error, &dialer.hosts()[to.host], &to.place)),
            };
            End { result, seat }
        });
        self.running.push(Attempt { choice, since: clock::now(), share, stage, future });
        true
    }

    /// The last one, too, ends a moment before the caller's patience does, so that its silence is noted.
    fn end(&self) -> Option<Instant> {
        self.deadline.map(|deadline| deadline.checked_sub(A_MOMENT).unwrap_or(deadline))
    }

    /// When the next one is begun beside those that run, or, where there is none, when they are given up; `None`: never.
    fn patience(&self) -> Option<Instant> {
        let end = self.end();
        let Some(newest) = self.running.last().filter(|_| !self.waiting.is_empty()) else { return end };
        // Others may have learnt something of it meanwhile.
        let (stage, standing) = (newest.stage.get(), self.dialer.standing(&newest.choice.place));
        let Some(head_start) = stage.head_start(standing, self.dialer.stays(), newest.share) else { return end };
        let at = stage.turn().unwrap_or(newest.since) + head_start.min(newest.share);
        Some(end.map_or(at, |end| at.min(end)))
    }

    async fn news(&mut self) -> News<T> {
        let mut timer = pin!(sleep(Duration::ZERO));
        let mut set_for = None;
        poll_fn(|cx| {
            for (index, attempt) in self.running.iter_mut().enumerate() {
                if let Poll::Ready(end) = attempt.future.as_mut().poll(cx) {
                    return Poll::Ready(News::Finished(index, end));
                }
            }
            // What they have come to may have changed it.
            let Some(at) = self.patience() else { return Poll::Pending };
            if set_for != Some(at) {
                timer.as_mut().reset(tokio::time::Instant::from_std(at));
                set_for = Some(at);
            }
            let over = |()| if self.end().is_some_and(|end| end <= at) { News::DeadlineIsHere } else { News::HeadStartIsOver };
            timer.as_mut().poll(cx).map(over)
        })
        .await
    }

    /// One has won: the others are not needed now. Those that were started before it are slow, or dead.
    fn call_off(&mut self, winner: usize) {
        let (now, mut running) = (clock::now(), std::mem::take(&mut self.running));
        running.truncate(winner);
        for attempt in running {
            match attempt.stage.get().verdict(now, attempt.share, true) {
                Some(Outcome::Silent) => {
                    let said = attempt.stage.get().complaint(now, &self.dialer.hosts()[attempt.choice.host], true);
                    let fault = ConnectFault::new(ConnectFaultKind::Timeout, said);
                    self.tell(&attempt, &fault);
                    self.lost(&attempt.choice, fault);
                }
                Some(outcome) => drop(self.dialer.ended(&attempt.choice, outcome)),
                None => self.dialer.dropped(&attempt.choice),
            }
        }
    }
}

impl Stage {
    /// Since when it has been its turn.
    fn turn(self) -> Option<Instant> {
        match self {
            Self::InLine => None,
            Self::Connecting(turn) | Self::Entering(turn) => Some(turn),
        }
    }

    /// How long it has for itself; `None`: for as long as it takes. `stays`: the next host is for when this one has failed, and not for when it is slow
    /// or wanted by many.
    fn head_start(self, standing: Standing, stays: bool, share: Duration) -> Option<Duration> {
        match (standing, self) {
            (Standing::Fails, Self::InLine | Self::Connecting(_)) => Some(HEAD_START),
            // Whoever is let in again says so only at the end of the login, which may be a longer way than to the others.
            (Standing::Fails, Self::Entering(_)) => Some(if stays { HEAD_START } else { STRANGER }),
            (Standing::Unknown | Standing::Works, Self::InLine) if stays => None,
            (Standing::Unknown, Self::Connecting(_)) if stays => Some(ONE_LOST),
            (Standing::Unknown | Standing::Works, Self::Connecting(_) | Self::Entering(_)) if stays => Some(share),
            (Standing::Unknown | Standing::Works, Self::InLine | Self::Connecting(_)) => Some(HEAD_START),
            (Standing::Unknown, Self::Entering(_)) => Some(STRANGER),
            (Standing::Works, Self::Entering(_)) => Some(FRIEND),
        }
    }

    /// What an attempt that is not waited for any longer says of its address, if anything. Where another has `won`, one that has answered may merely
    /// have been slower, as long as it had not used up its share.
    fn verdict(self, now: Instant, share: Duration, won: bool) -> Option<Outcome> {
        let had = now.saturating_duration_since(self.turn()?);
        match self {
            Self::InLine | Self::Connecting(_) | Self::Entering(_) if had < HEAD_START.min(share / 2) => None,
            Self::Entering(_) if won && had < share => Some(Outcome::Ours),
            Self::InLine | Self::Connecting(_) | Self::Entering(_) => Some(Outcome::Silent),
        }
    }

    /// That it came to nothing, in words. It is the server's fault only if it had the time.
    fn complaint(self, now: Instant, host: &Upstream, had_time: bool) -> String {
        match self {
            Self::Connecting(_) if had_time => format!("the server {host} does not answer"),
            Self::Entering(turn) if had_time => {
                let had = now.saturating_duration_since(turn).as_millis();
                format!("the server {host} did not finish the login within {had} ms")
            }
            Self::InLine => format!("too many connects to the server {host} are under way: this one's turn has not come"),
            Self::Connecting(_) | Self::Entering(_) => {
                format!("too many connects to the server {host} are under way: this one's turn has come too late")
            }
        }
    }
}

#[cfg(test)]
#[path = "race_tests.rs"]
mod tests;
