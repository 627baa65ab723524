//! A connected socket on a ring: what its owner may do with it.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::task::coop;

use crate::driver::{Ring, State};
use crate::kernel::SEND_BYTES;
use crate::slot::{End, Room, Slot};

/// How many turns the requests of a socket are given to end that is taken off the ring. They end with the first, but for the unforeseen.
const LAST_TURNS: usize = 8;

/// A connected socket on a ring. What it accepted is sent even if it is dropped at once: it lingers, as a socket does that is closed, for as long as
/// `lingering.rs` says.
pub struct RingSocket {
    ring: Rc<Ring>,
    number: u32,
}

impl fmt::Debug for RingSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RingSocket").field(&self.descriptor()).finish()
    }
}

impl RingSocket {
    /// Puts a connected stream socket onto a ring. It must be on no other, and not be read or written elsewhere.
    #[must_use]
    pub fn new(ring: &Rc<Ring>, socket: OwnedFd) -> Self {
        let number = ring.state.borrow_mut().enter(socket);
        Self { ring: Rc::clone(ring), number }
    }

    /// Reads what is there into `buffer`; `Ok(0)` is the end of the stream, unless there is no room.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.with(|state, number| {
            let State { kernel, slots, store, .. } = state;
            let Some(slot) = &mut slots[number as usize] else { return Poll::Ready(Ok(0)) };
            if buffer.is_empty() {
                // Of nothing that is read it cannot be said that it is the end.
                return Poll::Ready(Ok(0));
            }
            if slot.has_pieces() {
                return Poll::Ready(Ok(slot.take(store, kernel, buffer)));
            }
            if slot.news && slot.end == End::Open {
                let budget = ready!(coop::poll_proceed(cx));
                match recv(slot.socket(), &mut *buffer, RecvFlags::DONTWAIT) {
                    Ok((0, _)) => slot.end = End::Over,
                    Ok((read, _)) => {
                        budget.made_progress();
                        slot.read_by_call(read, buffer.len());
                        return Poll::Ready(Ok(read));
                    }
                    Err(Errno::AGAIN | Errno::INTR) => slot.news = false,
                    Err(error) => slot.end = End::Broken(error.raw_os_error()),
                }
            }
            if let Some(last) = slot.last_word() {
                return Poll::Ready(last);
            }
            remember(&mut slot.reader, cx);
            if slot.wait(kernel, number) {
                state.tell_driver();
            }
            Poll::Pending
        })
    }

    /// Ready when a read may have something to answer, of which nothing is taken.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.with(|state, number| {
            let State { kernel, slots, .. } = state;
            let Some(slot) = &mut slots[number as usize] else { return Poll::Ready(()) };
            if slot.has_news() {
                return Poll::Ready(());
            }
            remember(&mut slot.reader, cx);
            if slot.wait(kernel, number) {
                state.tell_driver();
            }
            Poll::Pending
        })
    }

    /// Whether a read may have something to answer; false only while the kernel has been asked to say so, which a read does, and
    /// [`poll_readable`](Self::poll_readable). Costs no system call.
    #[inline]
    #[must_use]
    pub fn may_be_read(&self) -> bool {
        self.look(Slot::may_be_read).unwrap_or(true)
    }

    /// Whether bytes have been taken off the socket that nobody has read.
    #[must_use]
    pub fn has_received(&self) -> bool {
        self.look(Slot::has_pieces).unwrap_or(false)
    }

    /// A system call found nothing to read: what was heard of has been read, or never came.
    pub fn found_nothing(&self) {
        self.with(|state, number| {
            if let Some(slot) = &mut state.slots[number as usize] {
                slot.news = false;
            }
        });
    }

    /// Whether it is known that nothing comes from the other end any more, behind what has not been read.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.look(Slot::is_over).unwrap_or(true)
    }

    /// Takes as much of `bytes` as there is room for, to be sent with the next turn of the ring.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.with(|state, number| {
            let State { kernel, slots, .. } = state;
            let Some(slot) = &mut slots[number as usize] else { return Poll::Ready(Ok(0)) };
            if let Some(error) = slot.broken {
                return Poll::Ready(Err(io::Error::from_raw_os_error(error)));
            }
            if slot.parcel.is_none() && bytes.len() <= SEND_BYTES {
                slot.parcel = kernel.parcel(number);
            }
            let Some(parcel) = &slot.parcel else { return write_by_call(state, number, cx, bytes) };
            let taken = kernel.fill(parcel, bytes);
            if taken == 0 && !bytes.is_empty() {
                remember(&mut slot.writer, cx);
                return Poll::Pending;
            }
            if !slot.sends && slot.room != Room::Asked && !std::mem::replace(&mut slot.listed, true) {
                state.list(number);
            }
            Poll::Ready(Ok(taken))
        })
    }

    /// Ready when all that was accepted has been sent.
    pub fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|state, number| {
            let Some(slot) = &mut state.slots[number as usize] else { return Poll::Ready(Ok(())) };
            match slot.broken {
                Some(error) => Poll::Ready(Err(io::Error::from_raw_os_error(error))),
                None if slot.parcel.is_some() => {
                    remember(&mut slot.writer, cx);
                    Poll::Pending
                }
                None => Poll::Ready(Ok(())),
            }
        })
    }

    /// Ends all requests of the socket; whether that could be done, and it holds nothing that was received and not read, nor anything to send. The
    /// waker is woken when more has been sent. What was received is still there, and reading and writing goes on as ever afterwards.
    pub fn come_to_rest(&mut self, waker: &Waker) -> bool {
        // Whoever cannot rest yet goes on waiting for what is said: told that his wait has ended, he would only ask again.
        if !self.has_sent_all() && (self.ring.turn().is_err() || !self.has_sent_all()) {
            self.with(|state, number| {
                if let Some(slot) = &mut state.slots[number as usize] {
                    remember(&mut slot.writer, &Context::from_waker(waker));
                }
            });
            return false;
        }
        self.with(|state, number| {
            let State { kernel, slots, .. } = state;
            if let Some(slot) = &mut slots[number as usize] {
                slot.end_wait(kernel, number);
            }
        });
        for _ in 0..LAST_TURNS {
            if self.look(Slot::is_still).unwrap_or(true) || self.ring.turn().is_err() {
                break;
            }
        }
        self.look(|slot| slot.is_still() && slot.parcel.is_none() && !slot.has_pieces() && slot.end == End::Open && slot.broken.is_none())
            .unwrap_or(false)
    }

    fn has_sent_all(&self) -> bool {
        self.look(|slot| slot.parcel.is_none() && slot.room == Room::Unasked).unwrap_or(true)
    }

    /// Takes the socket off the ring. Fails, and closes it, if something is left on it: received and not read, or not sent.
    pub fn leave(mut self) -> io::Result<OwnedFd> {
        if !self.come_to_rest(Waker::noop()) {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "the socket is in the middle of something"));
        }
        self.with(State::remove).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Runs `look` on the socket itself, which is not to be read or written.
    pub fn with_socket<R>(&self, look: impl FnOnce(BorrowedFd<'_>) -> R) -> Option<R> {
        self.look(|slot| look(slot.socket()))
    }

    /// Its number in this process; -1 if it has none any more.
    #[must_use]
    pub fn descriptor(&self) -> RawFd {
        self.look(|slot| slot.socket().as_raw_fd()).unwrap_or(-1)
    }

    #[inline]
    fn look<R>(&self, look: impl FnOnce(&Slot) -> R) -> Option<R> {
        self.ring.state.borrow().slots.get(self.number as usize).and_then(Option::as_ref).map(look)
    }

    #[inline]
    fn with<R>(&self, run: impl FnOnce(&mut State, u32) -> R) -> R {
        run(&mut self.ring.state.borrow_mut(), self.number)
    }
}

impl Drop for RingSocket {
    fn drop(&mut self) {
        self.with(|state, number| {
            let State { kernel, slots, store, .. } = state;
            let Some(slot) = &mut slots[number as usize] else { return };
            (slot.reader, slot.writer, slot.orphaned, slot.lingers, slot.listed) = (None, None, true, true, false);
            slot.drop_pieces(store, kernel);
            let waits = slot.end_wait(kernel, number);
            if slot.parcel.is_none() {
                slot.end_room(kernel, number);
            }
            let sends = slot.sends;
            if waits || sends || slot.room == Room::Ending {
                state.tell_driver();
            }
            if !sends {
                state.send_rest(number);
            }
            if state.slots[number as usize].as_ref().is_some_and(|slot| slot.parcel.is_some()) {
                state.linger(number);
            }
            state.close_if_left(number);
        });
    }
}

/// Writes what is too much to be copied, or what there is no buffer for. Nothing of the socket waits to be sent.
fn write_by_call(state: &mut State, number: u32, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    let State { kernel, slots, .. } = state;
    let Some(slot) = &mut slots[number as usize] else { return Poll::Ready(Ok(0)) };
    if slot.room != Room::Asked {
        let budget = ready!(coop::poll_proceed(cx));
        loop {
            match send(slot.socket(), bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(sent) => {
                    budget.made_progress();
                    return Poll::Ready(Ok(sent));
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(error) => {
                    slot.broke(error.raw_os_error(), kernel, number);
                    state.tell_driver();
                    return Poll::Ready(Err(error.into()));
                }
            }
        }
        slot.ask_for_room(kernel, number);
    }
    remember(&mut slot.writer, cx);
    state.tell_driver();
    Poll::Pending
}

fn remember(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(known) => known.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_socket_is_small() {
        assert!(size_of::<Slot>() <= 128, "{}", size_of::<Slot>());
        assert!(size_of::<RingSocket>() <= 16);
    }
}
