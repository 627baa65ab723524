//! The ring of one thread: hands over what its sockets want, and gives them what has come.
//!
//! Not here: what a socket may do (`socket`), or memory that the kernel uses (`kernel`).

use std::cell::RefCell;
use std::future::{Future as _, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};

use crate::kernel::{Answer, Kernel, Purpose, says_room};
use crate::lingering::{Lingering, STEP};
use crate::slot::{End, Received, Room, Slot};

/// So many sockets that have something to send are not let wait for the others.
const MANY: usize = 32;

/// So often one turn asks the kernel to go on with what has come; then it is the turn of others first.
const ROUNDS: usize = 64;

/// Errors that the kernel answers with, by their numbers.
const EINTR: i32 = rustix::io::Errno::INTR.raw_os_error();
const EAGAIN: i32 = rustix::io::Errno::AGAIN.raw_os_error();
const ECANCELED: i32 = rustix::io::Errno::CANCELED.raw_os_error();
const ENOBUFS: i32 = rustix::io::Errno::NOBUFS.raw_os_error();

thread_local! {
    static CURRENT: RefCell<Option<Rc<Ring>>> = const { RefCell::new(None) };
}

/// The ring of a thread.
pub struct Ring {
    pub(crate) state: RefCell<State>,
    /// How often it was turned.
    #[cfg(test)]
    pub(crate) turns: std::cell::Cell<usize>,
}

/// All that the sockets of a ring share.
pub(crate) struct State {
    pub(crate) kernel: Kernel,
    pub(crate) slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    generation: u32,
    pub(crate) store: Vec<Received>,
    /// Who has something to send.
    list: Vec<u32>,
    /// Who was dropped before all that he had accepted was sent.
    pub(crate) lingering: Lingering,
    /// Who turns the ring, and whether he has been told to.
    driver: Option<Waker>,
    told: bool,
    answers: Vec<Answer>,
    woken: Vec<Waker>,
}

impl Ring {
    /// Asks the kernel for a ring. It fails where io_uring is forbidden (EPERM), not there (ENOSYS), or older than Linux 6.1 (EINVAL).
    pub fn new() -> io::Result<Rc<Self>> {
        let kernel = Kernel::new()?;
        let store = std::iter::repeat_with(Received::default).take(Kernel::PIECES).collect();
        let state = State {
            kernel,
            slots: Vec::new(),
            free: Vec::new(),
            generation: 0,
            store,
            list: Vec::new(),
            lingering: Lingering::default(),
            driver: None,
            told: false,
            answers: Vec::new(),
            woken: Vec::new(),
        };
        Ok(Rc::new(Self {
            state: RefCell::new(state),
            #[cfg(test)]
            turns: std::cell::Cell::new(0),
        }))
    }

    /// The ring that this thread's sockets are on, if it has one.
    #[must_use]
    pub fn current() -> Option<Rc<Self>> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// Makes this the ring of the thread; `None`: it has none any more.
    pub fn set_current(ring: Option<Rc<Self>>) {
        let before = CURRENT.replace(ring);
        drop(before);
    }

    /// Turns the ring whenever there is something to hand over or something has come. Ends only when the runtime does, or with an error.
    pub async fn drive(self: Rc<Self>) -> io::Result<()> {
        let news = self.state.borrow().kernel.watch()?;
        // Runs only while somebody lingers; that the first step may be short is why it takes two.
        let mut step = pin!(None);
        loop {
            // Whoever is awake has his turn first: the more is handed over at once, the less it costs.
            let mut has_waited = false;
            poll_fn(|cx| {
                let mut state = self.state.borrow_mut();
                if state.driver.as_ref().is_none_or(|known| !known.will_wake(cx.waker())) {
                    state.driver = Some(cx.waker().clone());
                }
                let has_come = match news.poll_read_ready(cx) {
                    Poll::Ready(Ok(mut guard)) => {
                        guard.clear_ready();
                        true
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => false,
                };
                if !state.lingering.is_empty() {
                    if step.is_none() {
                        step.set(Some(tokio::time::sleep(STEP)));
                    }
                    if step.as_mut().as_pin_mut().is_some_and(|step| step.poll(cx).is_ready()) {
                        step.set(None);
                        state.grow_older();
                        state.tell_driver();
                    }
                }
                if has_come || state.told && has_waited {
                    return Poll::Ready(Ok(()));
                }
                if state.told {
                    has_waited = true;
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            })
            .await?;
            self.turn()?;
        }
    }

    /// Hands over what there is, and takes what has come.
    pub fn turn(&self) -> io::Result<()> {
        #[cfg(test)]
        self.turns.set(self.turns.get() + 1);
        let mut woken = {
            let mut state = self.state.borrow_mut();
            state.hand_over();
            // Linux 6.13 and later finish only about 20 requests with each system call, and then say nothing of the rest.
            for _ in 0..ROUNDS {
                state.kernel.turn()?;
                state.take_in()?;
                if !state.kernel.has_news() {
                    break;
                }
            }
            if state.kernel.has_news() {
                state.tell_driver();
            }
            std::mem::take(&mut state.woken)
        };
        for waker in woken.drain(..) {
            waker.wake();
        }
        self.state.borrow_mut().woken = woken;
        Ok(())
    }

    /// How many sockets are on it, those included that are being closed.
    #[must_use]
    pub fn sockets(&self) -> usize {
        let state = self.state.borrow();
        state.slots.len() - state.free.len()
    }
}

impl State {
    pub(crate) fn enter(&mut self, socket: OwnedFd) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        let slot = Slot::new(socket, self.generation);
        match self.free.pop() {
            Some(number) => {
                self.slots[number as usize] = Some(slot);
                number
            }
            None => {
                self.slots.push(Some(slot));
                // There are no more sockets than descriptors, which are `i32`.
                (self.slots.len() - 1) as u32
            }
        }
    }

    /// Takes a socket off the ring, of which no request is under way.
    pub(crate) fn remove(&mut self, number: u32) -> Option<OwnedFd> {
        let mut slot = self.slots[number as usize].take()?;
        slot.drop_pieces(&mut self.store, &mut self.kernel);
        if let Some(parcel) = slot.parcel.take() {
            self.kernel.put_back(parcel);
        }
        if slot.lingers {
            self.lingering.leave(number);
        }
        self.free.push(number);
        Some(slot.into_socket())
    }

    /// There is something to hand over.
    pub(crate) fn tell_driver(&mut self) {
        if !std::mem::replace(&mut self.told, true)
            && let Some(driver) = &self.driver
        {
            driver.wake_by_ref();
        }
    }

    /// This socket has something to send.
    pub(crate) fn list(&mut self, number: u32) {
        self.list.push(number);
        if self.list.len() >= MANY {
            self.hand_over();
            // What fails here is tried again with the next turn.
            let _ = self.kernel.submit();
        }
        self.tell_driver();
    }

    /// Makes requests of what waits to be sent.
    pub(crate) fn hand_over(&mut self) {
        let mut list = std::mem::take(&mut self.list);
        for number in list.drain(..) {
            let Some(slot) = &mut self.slots[number as usize] else { continue };
            if std::mem::take(&mut slot.listed)
                && let Some(parcel) = &slot.parcel
            {
                slot.sends = true;
                self.kernel.send(slot.raw(), parcel, slot.generation);
            }
        }
        self.list = list;
    }

    fn take_in(&mut self) -> io::Result<()> {
        self.told = false;
        let mut answers = std::mem::take(&mut self.answers);
        self.kernel.answers(&mut answers)?;
        for answer in answers.drain(..) {
            self.on_answer(answer);
        }
        self.answers = answers;
        if self.kernel.has_requests() || !self.list.is_empty() {
            self.tell_driver();
        }
        Ok(())
    }

    fn on_answer(&mut self, answer: Answer) {
        let Answer { slot: number, purpose, result, piece, more } = answer;
        let Some(slot) = self.slots.get_mut(number as usize).and_then(Option::as_mut) else {
            debug_assert!(purpose == Purpose::Cancel && piece.is_none(), "an answer to nobody");
            return;
        };
        match purpose {
            Purpose::Cancel => return,
            Purpose::Receive => {
                if !more {
                    slot.waited();
                }
                match (piece, result) {
                    (Some(piece), 1..) if !slot.orphaned => slot.keep(&mut self.store, piece, result.unsigned_abs() as usize),
                    (Some(piece), _) => self.kernel.give_back(piece),
                    (None, _) => {}
                }
                match -result {
                    ..0 => {}
                    0 => slot.end = End::Over,
                    EINTR | EAGAIN | ECANCELED => {}
                    ENOBUFS => {
                        slot.found_no_buffer();
                        self.kernel.widen();
                    }
                    error => slot.end = End::Broken(error),
                }
                if more && slot.is_overfull() {
                    slot.end_wait(&mut self.kernel, number);
                }
                self.woken.extend(slot.reader.take());
            }
            Purpose::Readable => {
                slot.waited();
                self.woken.extend(slot.reader.take());
            }
            Purpose::Writable => {
                let before = slot.room;
                if !more {
                    slot.room = Room::Unasked;
                }
                // Whoever was refused while it was being ended has to be told, too.
                if !more || before == Room::Asked && says_room(result) {
                    slot.end_room(&mut self.kernel, number);
                    self.on_room(number);
                }
            }
            Purpose::Send => self.on_sent(number, result),
        }
        self.close_if_left(number);
    }

    /// There may be room again.
    fn on_room(&mut self, number: u32) {
        let Some(slot) = &mut self.slots[number as usize] else { return };
        self.woken.extend(slot.writer.take());
        if slot.sends || slot.listed || slot.parcel.is_none() {
            return;
        }
        if slot.orphaned {
            self.send_rest(number);
        } else {
            slot.listed = true;
            self.list.push(number);
        }
    }

    fn on_sent(&mut self, number: u32, result: i32) {
        let Some(slot) = &mut self.slots[number as usize] else { return };
        slot.sends = false;
        let Some(parcel) = &slot.parcel else { return };
        let more = match result {
            0.. => self.kernel.sent(parcel, result.unsigned_abs() as usize),
            error if -error == EAGAIN && !slot.orphaned => return slot.ask_for_room(&mut self.kernel, number),
            error if [EINTR, EAGAIN].contains(&-error) => true,
            error => {
                slot.broke(-error, &mut self.kernel, number);
                // Where a wait is being ended, its end wakes him: who is woken before that sees nothing new, and need not ask again.
                if slot.has_news() {
                    self.woken.extend(slot.reader.take());
                }
                false
            }
        };
        self.woken.extend(slot.writer.take());
        if more && slot.orphaned {
            self.send_rest(number);
        } else if more {
            slot.listed = true;
            self.list.push(number);
        } else if let Some(parcel) = slot.parcel.take() {
            self.kernel.put_back(parcel);
        }
    }

    /// Nobody has the socket any more, and nothing of it is being sent: what it takes is sent at once, the rest when there is room, if it may linger.
    pub(crate) fn send_rest(&mut self, number: u32) {
        let Some(slot) = &mut self.slots[number as usize] else { return };
        let Some(parcel) = slot.parcel.take() else { return };
        let sent = slot.send_by_call(self.kernel.unsent(&parcel));
        if sent.is_some_and(|sent| self.kernel.sent(&parcel, sent)) && slot.lingers {
            slot.parcel = Some(parcel);
            slot.ask_for_room(&mut self.kernel, number);
        } else {
            self.kernel.put_back(parcel);
            slot.end_room(&mut self.kernel, number);
        }
        self.tell_driver();
    }

    /// This one lingers from now on, until all is sent or it has taken too long.
    pub(crate) fn linger(&mut self, number: u32) {
        if let Some(longest) = self.lingering.enter(number) {
            self.cut(longest);
        }
    }

    fn grow_older(&mut self) {
        for number in self.lingering.grow_older() {
            self.cut(number);
        }
    }

    /// What the other end has not taken by now is not sent.
    fn cut(&mut self, number: u32) {
        let Some(slot) = &mut self.slots[number as usize] else { return };
        slot.lingers = false;
        slot.end_room(&mut self.kernel, number);
        // What is being sent has been when the ring is turned next.
        if !slot.sends
            && let Some(parcel) = slot.parcel.take()
        {
            self.kernel.put_back(parcel);
        }
        self.tell_driver();
        self.close_if_left(number);
    }

    /// Closes a socket that nobody has any more, once nothing of it is under way.
    pub(crate) fn close_if_left(&mut self, number: u32) {
        if let Some(slot) = &self.slots[number as usize]
            && slot.orphaned
            && slot.is_still()
        {
            drop(self.remove(number));
        }
    }
}
