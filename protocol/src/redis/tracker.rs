//! What is owed to whom, in what order, on a connection that many clients share; and what becomes of it when the connection is lost.
//!
//! ```text
//!   requests:  [ answered | sent, reply owed | not sent yet ]        one buffer, kept until answered
//!   slots:                [ A: 3 reads | B: 1 write | A: said by ourselves | A: 2 writes ]
//! ```
//! Replies come in the order of the requests, so the first slot always owns the next reply. Requests are kept until they are answered, because
//! a lost connection means that some must be sent again. Not here: sockets, and where the replies end (`frame`).

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;
use std::ops::Range;

use super::request::{RequestScanner, Scanned};

/// What kind of requests a slot stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Requests that change nothing.
    Reads,
    /// Requests of which at least one may change something.
    Writes,
    /// One transaction from `MULTI` to `EXEC`.
    Transaction,
}

/// The requests of one client that stand next to each other, and the replies owed for them.
#[derive(Debug)]
pub struct Slot<T> {
    /// Whose they are.
    pub owner: T,
    /// Whether the owner wants no replies.
    pub muted: bool,
    /// Its owner was told that it waits no longer: the replies are dropped when they come, and nothing of it is sent again.
    pub abandoned: bool,
    /// In which turn of the watch it was queued.
    turn: u32,
    /// And when, as far as the pipeline was told the time.
    asked: u32,
    /// By how much the numbers in its one reply are too low; empty: the reply is handed over as it comes.
    pub raise: Box<[u32]>,
    owed: Owed,
}

#[derive(Debug)]
enum Owed {
    Server { work: Work, replies: u32, answered: u32, bytes: usize, replayed: bool },
    Own { text: Box<[u8]>, replies: u32 },
}

/// A reply of our own whose turn has come.
#[derive(Debug)]
pub struct Own<T> {
    /// For whom.
    pub owner: T,
    /// Whether the owner wants no replies.
    pub muted: bool,
    /// What it says.
    pub text: Box<[u8]>,
    /// How many replies that is.
    pub replies: u32,
}

/// What a lost connection meant, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Loss {
    /// Requests that had not been sent and go to the next connection.
    pub moved: u64,
    /// Reads that were sent and are asked again.
    pub replayed: u64,
    /// Requests whose outcome nobody knows.
    pub unknown: u64,
}

/// The requests and debts of one shared connection.
#[derive(Debug)]
pub struct Pipeline<T> {
    requests: Vec<u8>,
    /// Where in `requests` the first unanswered slot begins.
    answered: usize,
    /// How far `requests` is written to the server.
    sent: usize,
    slots: VecDeque<Slot<T>>,
    /// How many replies of the server the slots own together.
    owed: u64,
    /// Counts the turns of the watch ([`on_turn`](Pipeline::on_turn)).
    turn: u32,
    /// What time it was when it was last told ([`at`](Pipeline::at)), in milliseconds.
    now: u32,
}

/// What an owner hears when it has waited for too long, in this order.
#[derive(Debug)]
pub enum GivenUp<T> {
    /// Replies of the server are late.
    Late(Abandoned<T>),
    /// A reply of our own that stood behind such.
    Own(Own<T>),
}

/// What an owner waits for no longer.
#[derive(Debug)]
pub struct Abandoned<T> {
    /// Who.
    pub owner: T,
    /// Whether it wanted no replies.
    pub muted: bool,
    /// How many replies.
    pub replies: u32,
}

/// Answered bytes are dropped from the front once there are so many.
const COMPACT_BYTES: usize = 64 * 1024;

impl<T> Default for Pipeline<T> {
    fn default() -> Self {
        Self { requests: Vec::new(), answered: 0, sent: 0, slots: VecDeque::new(), owed: 0, turn: 0, now: 0 }
    }
}

impl<T: Clone + Eq + Hash> Pipeline<T> {
    /// Queues requests whose bytes [`extend`](Self::extend) adds, in the same order.
    pub fn push(&mut self, owner: &T, work: Work, replies: u32, bytes: usize, muted: bool) {
        self.owed += u64::from(replies);
        if work != Work::Transaction
            && let Some(Slot {
                owner: last,
                muted: last_muted,
                raise,
                abandoned: false,
                turn,
                asked,
                owed: Owed::Server { work: last_work, replies: owed, bytes: length, replayed: false, .. },
            }) = self.slots.back_mut()
            && raise.is_empty()
            && *turn == self.turn
            && *asked == self.now
            && last == owner
            && *last_muted == muted
            && *last_work == work
        {
            *owed += replies;
            *length += bytes;
            return;
        }
        let owed = Owed::Server { work, replies, answered: 0, bytes, replayed: false };
        self.slots.push_back(Slot {
            owner: owner.clone(),
            muted,
            abandoned: false,
            turn: self.turn,
            asked: self.now,
            raise: Box::default(),
            owed,
        });
    }

    /// Queues one request of which the numbers in the reply have to be raised. [`extend`](Self::extend) adds its bytes.
    pub fn push_raised(&mut self, owner: &T, work: Work, bytes: usize, muted: bool, raise: Box<[u32]>) {
        self.owed += 1;
        let owed = Owed::Server { work, replies: 1, answered: 0, bytes, replayed: false };
        self.slots.push_back(Slot { owner: owner.clone(), muted, abandoned: false, turn: self.turn, asked: self.now, raise, owed });
    }

    /// Adds the bytes of requests.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.requests.extend_from_slice(bytes);
    }

    /// Queues a reply of our own behind what is owed to `owner`.
    pub fn push_own(&mut self, owner: &T, text: &[u8], muted: bool) {
        self.slots.push_back(Slot {
            owner: owner.clone(),
            muted,
            abandoned: false,
            turn: self.turn,
            asked: self.now,
            raise: Box::default(),
            owed: Owed::Own { text: text.into(), replies: 1 },
        });
    }

    /// What is to be written to the server.
    #[must_use]
    pub fn unsent(&self) -> &[u8] {
        &self.requests[self.sent..]
    }

    /// So many bytes of [`unsent`](Self::unsent) were written.
    pub fn on_sent(&mut self, bytes: usize) {
        self.sent += bytes;
        debug_assert!(self.sent <= self.requests.len());
    }

    /// How many bytes of requests are not answered.
    #[must_use]
    pub fn unanswered_bytes(&self) -> usize {
        self.requests.len() - self.answered
    }

    /// How many replies of the server are owed.
    #[must_use]
    pub fn owed(&self) -> u64 {
        self.owed
    }

    /// Whether the server has something of what it owes replies for.
    #[must_use]
    pub fn awaits(&self) -> bool {
        self.sent > self.answered
    }

    /// Whether nothing is owed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// How many slots there are.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Who gets the next reply of the server; `None`: nobody is owed one. Replies of our own come first: take them with [`take_own`](Self::take_own).
    #[must_use]
    pub fn next(&self) -> Option<&Slot<T>> {
        self.slots.front()
    }

    /// Whether somebody other than `owner` waits behind the first slot.
    #[must_use]
    pub fn others_wait(&self, owner: &T) -> bool {
        self.slots.iter().skip(1).any(|slot| slot.owner != *owner)
    }

    /// How many replies of the server the first slot still owns.
    #[must_use]
    pub fn next_replies(&self) -> u32 {
        match self.slots.front().map(|slot| &slot.owed) {
            Some(Owed::Server { replies, answered, .. }) => replies - answered,
            Some(Owed::Own { .. }) | None => 0,
        }
    }

    /// `replies` of the first slot's replies came. Never more than [`next_replies`](Self::next_replies).
    pub fn on_replies(&mut self, count: u32) {
        let Some(Slot { owed: Owed::Server { replies, answered, bytes, .. }, .. }) = self.slots.front_mut() else {
            debug_assert!(false, "a reply that nobody is owed");
            return;
        };
        *answered += count;
        self.owed -= u64::from(count);
        debug_assert!(answered <= replies);
        if answered == replies {
            self.answered += *bytes;
            self.slots.pop_front();
            self.compact();
        }
    }

    /// A reply of our own whose turn has come.
    pub fn take_own(&mut self) -> Option<Own<T>> {
        if !matches!(self.slots.front()?.owed, Owed::Own { .. }) {
            return None;
        }
        let Slot { owner, muted, owed, .. } = self.slots.pop_front()?;
        match owed {
            Owed::Own { text, replies } => Some(Own { owner, muted, text, replies }),
            Owed::Server { .. } => None,
        }
    }

    /// The connection is lost. What cannot have been executed, or changes nothing, stays queued for the next one; everything else is answered
    /// by `lost` in its place.
    pub fn on_loss(&mut self, lost: &str) -> Loss {
        let mut loss = Loss::default();
        // A read is not asked again when a write behind it may have been executed: it would see what it came before.
        let mut writers_behind: HashSet<T> = HashSet::new();
        let mut ends = Vec::with_capacity(self.slots.len());
        let mut at = self.answered;
        for slot in &self.slots {
            at += slot.bytes();
            ends.push(at);
        }
        let mut may_replay = vec![true; self.slots.len()];
        for (index, slot) in self.slots.iter().enumerate().rev() {
            may_replay[index] = !writers_behind.contains(&slot.owner);
            let begins = ends[index] - slot.bytes();
            if matches!(slot.owed, Owed::Server { work: Work::Writes | Work::Transaction, .. }) && begins < self.sent {
                writers_behind.insert(slot.owner.clone());
            }
        }
        let requests = std::mem::take(&mut self.requests);
        let slots = std::mem::take(&mut self.slots);
        let sent = self.sent;
        (self.answered, self.sent, self.owed) = (0, 0, 0);
        for ((slot, end), may_replay) in slots.into_iter().zip(ends).zip(may_replay) {
            let range = end - slot.bytes()..end;
            self.keep_or_fail(slot, range, &requests, sent, may_replay, lost, &mut loss);
        }
        loss
    }

    /// The request of the first slot that the reply after the next `more` answers; `None` where that is a part of a transaction, or not there.
    #[must_use]
    pub fn nth_request(&self, more: u32) -> Option<&[u8]> {
        let Owed::Server { work: Work::Reads | Work::Writes, answered, bytes, .. } = self.slots.front()?.owed else { return None };
        let slot = self.requests.get(self.answered..self.answered + bytes)?;
        let begins = skip(slot, answered + more);
        slot.get(begins..begins + request_length(&slot[begins..]))
    }

    /// It is so many milliseconds later than at some moment.
    pub fn at(&mut self, now: u32) {
        self.now = now;
    }

    /// A turn of the watch begins.
    pub fn on_turn(&mut self) {
        self.turn = self.turn.wrapping_add(1);
    }

    /// How many turns the first slot has waited.
    #[must_use]
    pub fn age(&self) -> u32 {
        self.slots.front().map_or(0, |slot| self.turn.wrapping_sub(slot.turn))
    }

    /// Gives up on what has waited for so many turns, from the front; `inside`: the first slot's reply has begun and is left alone, with all else that its
    /// owner waits for, who could not be told of it in the middle of a reply. What stands behind a reply that somebody still waits for stays behind it.
    pub fn abandon(&mut self, turns: u32, inside: bool) -> Vec<GivenUp<T>> {
        let mut given_up = Vec::new();
        if self.slots.is_empty() || self.age() < turns {
            return given_up;
        }
        let mut waiting: HashSet<T> = self.slots.front().filter(|_| inside).map(|slot| slot.owner.clone()).into_iter().collect();
        for mut slot in std::mem::take(&mut self.slots) {
            let waits = waiting.contains(&slot.owner);
            let old = self.turn.wrapping_sub(slot.turn) >= turns;
            match slot.owed {
                Owed::Own { text, replies } if !waits => {
                    given_up.push(GivenUp::Own(Own { owner: slot.owner, muted: slot.muted, text, replies }));
                    continue;
                }
                Owed::Server { replies, answered, .. } if old && !waits && !slot.abandoned => {
                    slot.abandoned = true;
                    let (owner, muted) = (slot.owner.clone(), slot.muted);
                    given_up.push(GivenUp::Late(Abandoned { owner, muted, replies: replies - answered }));
                }
                Owed::Server { .. } if !slot.abandoned => drop(waiting.insert(slot.owner.clone())),
                Owed::Own { .. } | Owed::Server { .. } => {}
            }
            self.slots.push_back(slot);
        }
        given_up
    }

    /// Everything that is owed is answered with `text`: there will be no connection.
    pub fn fail_all(&mut self, text: &str) {
        self.slots.retain(|slot| !slot.abandoned);
        for slot in &mut self.slots {
            if let Owed::Server { replies, answered, .. } = slot.owed {
                let count = replies - answered;
                slot.owed = Owed::Own { text: errors(text, count), replies: count };
            }
        }
        self.requests = Vec::new();
        (self.answered, self.sent, self.owed) = (0, 0, 0);
    }

    /// For how many milliseconds the first of those has waited that were `replayed`, because they had been sent to a connection that was lost, or that
    /// were not.
    #[must_use]
    pub fn longest_wait(&self, replayed: bool) -> Option<u32> {
        let first = self.slots.iter().find(|slot| slot.is_owed(replayed));
        first.map(|slot| self.now.wrapping_sub(slot.asked))
    }

    /// Those of them that have waited for so many milliseconds or more: each is answered with the error `text`. How many. Only while there is no
    /// connection.
    pub fn fail_waited(&mut self, replayed: bool, ms: u32, text: &str) -> u64 {
        debug_assert!(self.sent == 0 && self.answered == 0, "nothing is under way");
        let (requests, mut at, mut failed) = (std::mem::take(&mut self.requests), 0, 0);
        for slot in &mut self.slots {
            let over = slot.is_owed(replayed) && self.now.wrapping_sub(slot.asked) >= ms;
            let Owed::Server { replies, bytes, .. } = slot.owed else { continue };
            if over {
                slot.owed = Owed::Own { text: errors(text, replies), replies };
                failed += u64::from(replies);
            } else {
                self.requests.extend_from_slice(&requests[at..at + bytes]);
            }
            at += bytes;
        }
        self.owed -= failed;
        failed
    }

    /// Replies of our own, wherever they stand, before which nothing else is owed to their owners: nobody waits for another client's answer to hear what
    /// is known already.
    pub fn take_known(&mut self) -> Vec<Own<T>> {
        let (mut known, mut waiting) = (Vec::new(), HashSet::new());
        for slot in std::mem::take(&mut self.slots) {
            match slot.owed {
                Owed::Own { text, replies } if !waiting.contains(&slot.owner) => {
                    known.push(Own { owner: slot.owner, muted: slot.muted, text, replies });
                }
                Owed::Own { .. } => self.slots.push_back(slot),
                Owed::Server { .. } => {
                    waiting.insert(slot.owner.clone());
                    self.slots.push_back(slot);
                }
            }
        }
        known
    }

    #[expect(clippy::too_many_arguments, reason = "one step of on_loss, split off for its length")]
    fn keep_or_fail(
        &mut self,
        slot: Slot<T>,
        range: Range<usize>,
        requests: &[u8],
        sent: usize,
        may_replay: bool,
        lost: &str,
        loss: &mut Loss,
    ) {
        let Slot { owner, muted, abandoned, turn, asked, raise, owed } = slot;
        if abandoned {
            return;
        }
        let (work, replies, answered, replayed) = match owed {
            Owed::Own { .. } => return self.slots.push_back(Slot { owner, muted, abandoned, turn, asked, raise, owed }),
            Owed::Server { work, replies, answered, replayed, .. } => (work, replies, answered, replayed),
        };
        let count = replies - answered;
        let unanswered = skip(&requests[range.clone()], answered);
        let begins = range.start + unanswered;
        // What has waited goes on waiting, and is what it was.
        let kept = |replies: u32, replayed: bool| Slot {
            owner: owner.clone(),
            muted,
            abandoned: false,
            turn,
            asked,
            raise,
            owed: Owed::Server { work, replies, answered: 0, bytes: 0, replayed },
        };
        match work {
            Work::Reads if begins >= sent || (may_replay && !replayed) => {
                self.keep(kept(count, replayed || begins < sent), &requests[begins..range.end]);
                *(if begins < sent { &mut loss.replayed } else { &mut loss.moved }) += u64::from(count);
            }
            Work::Reads => {
                loss.unknown += u64::from(count);
                self.say(owner, muted, [turn, asked], errors(lost, count), count);
            }
            // Without its last byte the server has not executed a request, or a transaction.
            Work::Transaction if sent < range.end && answered == 0 => {
                self.keep(kept(count, false), &requests[range]);
                loss.moved += u64::from(count);
            }
            Work::Transaction => {
                loss.unknown += u64::from(count);
                let known = sent < range.end;
                let last = if known { "EXECABORT Transaction discarded because the connection to the server was lost." } else { lost };
                let mut text = errors(if known { last } else { lost }, count - 1).into_vec();
                text.extend_from_slice(&errors(last, 1));
                self.say(owner, muted, [turn, asked], text.into(), count);
            }
            Work::Writes => {
                let (whole, gone) = complete_before(&requests[begins..range.end], sent.saturating_sub(begins));
                if whole > 0 {
                    loss.unknown += u64::from(whole);
                    self.say(owner.clone(), muted, [turn, asked], errors(lost, whole), whole);
                }
                if count > whole {
                    loss.moved += u64::from(count - whole);
                    self.keep(kept(count - whole, false), &requests[begins + gone..range.end]);
                }
            }
        }
    }

    fn keep(&mut self, mut slot: Slot<T>, request: &[u8]) {
        if let Owed::Server { replies, bytes, .. } = &mut slot.owed {
            self.owed += u64::from(*replies);
            *bytes = request.len();
        }
        self.requests.extend_from_slice(request);
        self.slots.push_back(slot);
    }

    fn say(&mut self, owner: T, muted: bool, [turn, asked]: [u32; 2], text: Box<[u8]>, replies: u32) {
        let owed = Owed::Own { text, replies };
        self.slots.push_back(Slot { owner, muted, abandoned: false, turn, asked, raise: Box::default(), owed });
    }

    fn compact(&mut self) {
        if self.answered == self.requests.len() {
            self.requests.clear();
            self.requests.shrink_to(COMPACT_BYTES);
            (self.answered, self.sent) = (0, 0);
        } else if self.answered >= COMPACT_BYTES && self.answered * 2 >= self.requests.len() {
            self.requests.drain(..self.answered);
            self.sent -= self.answered;
            self.answered = 0;
        }
    }
}

impl<T> Slot<T> {
    /// Whether it owns replies of the server, to requests that were asked again or that were not.
    fn is_owed(&self, again: bool) -> bool {
        matches!(self.owed, Owed::Server { replayed, .. } if replayed == again)
    }

    fn bytes(&self) -> usize {
        match self.owed {
            Owed::Server { bytes, .. } => bytes,
            Owed::Own { .. } => 0,
        }
    }
}

/// Where the request behind the first `count` begins.
fn skip(bytes: &[u8], count: u32) -> usize {
    let mut at = 0;
    for _ in 0..count {
        at += request_length(&bytes[at..]);
    }
    at
}

/// How many requests lie wholly in the first `sent` bytes, and where the next one begins.
fn complete_before(bytes: &[u8], sent: usize) -> (u32, usize) {
    let (mut count, mut at) = (0, 0);
    while at < bytes.len() {
        let length = request_length(&bytes[at..]);
        if length == 0 || at + length > sent {
            break;
        }
        at += length;
        count += 1;
    }
    (count, at)
}

fn request_length(bytes: &[u8]) -> usize {
    match RequestScanner::default().scan(bytes, false) {
        Ok(Scanned::Request(request)) => request.length,
        // Only whole multibulk requests are queued; a test cuts them.
        Ok(Scanned::Incomplete { .. } | Scanned::Nothing { .. } | Scanned::Inline { .. }) | Err(_) => 0,
    }
}

fn errors(text: &str, count: u32) -> Box<[u8]> {
    let mut one = Vec::with_capacity(text.len() + 3);
    super::encode::error(&mut one, text);
    one.repeat(count as usize).into()
}

#[cfg(test)]
#[path = "tracker_tests.rs"]
mod tests;
