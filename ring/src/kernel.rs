//! One io_uring and all memory that its requests use. The only file with `unsafe` code; nothing that is done with a [`Kernel`] from outside can make
//! the kernel read or write memory that is not there any more.
//!
//! The rules that make it so: buffers live in this struct; a buffer to receive into belongs either to the kernel or to whoever was told of a
//! [`Piece`], and what is to be sent is not touched while it is under way; nothing is freed before the ring has no requests.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};
use rustix::event::{EventfdFlags, PollFlags, eventfd};
use rustix::net::SendFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How much one piece of what is received may be.
pub(crate) const PIECE_BYTES: usize = 4096;

/// How much of one socket may wait to be sent.
pub(crate) const SEND_BYTES: usize = 4096;

/// Requests that may wait to be handed over. Tests have few, so that both queues overflow in them.
const ENTRIES: u32 = if cfg!(test) { 16 } else { 512 };

/// Answers that may wait to be taken. Beyond that the kernel keeps them elsewhere.
const ANSWERS: u32 = if cfg!(test) { 32 } else { 4096 };

/// Buffers to receive into, all in all. Memory that was never needed is never touched.
const PIECES: u16 = 512;

/// How many of them the kernel has at first. The same few are used again and again, so that they stay in the processor's caches.
const FIRST_PIECES: u16 = 64;

/// The most buffers to send from.
const SENDS: usize = 4096;

/// How many of them are kept when nobody needs them.
const IDLE_SENDS: usize = 256;

/// The group of the buffers to receive into.
const GROUP: u16 = 0;

/// What the list of buffers has to be aligned to.
const PAGE: usize = 4096;

/// How often the last requests are waited for, each time for [`PATIENCE`].
const LAST_WAITS: usize = 20;
const PATIENCE: Timespec = Timespec::new().nsec(50_000_000);

/// A buffer with something that was received. It has to be given back by [`Kernel::give_back`].
#[derive(Debug)]
pub(crate) struct Piece(u16);

impl Piece {
    /// Its number, below [`Kernel::PIECES`].
    pub(crate) fn number(&self) -> usize {
        usize::from(self.0)
    }
}

/// A buffer to send from.
#[derive(Debug)]
pub(crate) struct Parcel(u32);

/// What a request was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To receive.
    Receive,
    /// To hear that there is something to read.
    Readable,
    /// To hear that there is room to write.
    Writable,
    /// To send.
    Send,
    /// To end another request.
    Cancel,
}

/// What the kernel said of a request.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Whose request it was.
    pub(crate) slot: u32,
    /// What for.
    pub(crate) purpose: Purpose,
    /// Bytes, or an error as a negative number.
    pub(crate) result: i32,
    /// What was received.
    pub(crate) piece: Option<Piece>,
    /// Whether the request goes on.
    pub(crate) more: bool,
}

/// The ring.
pub(crate) struct Kernel {
    uring: IoUring,
    /// Where the kernel says that there are answers.
    signal: Rc<OwnedFd>,
    /// What found no room in the queue.
    overflow: VecDeque<squeue::Entry>,
    /// Requests of which the last answer has not come.
    open: usize,
    arena: Arena,
    /// Buffers to receive into that nobody has.
    spare: Vec<u16>,
    /// How many the kernel has, and how many it is to have.
    given: u16,
    wanted: u16,
    sends: Vec<Sending>,
    idle_sends: Vec<u32>,
}

/// The memory to receive into, and the list by which it is given to the kernel.
struct Arena {
    bytes: NonNull<u8>,
    list: NonNull<BufRingEntry>,
    tail: u16,
}

/// Bytes `sent..end` of a buffer wait to be sent; those before `sent + under_way` are read by the kernel.
struct Sending {
    bytes: NonNull<u8>,
    sent: usize,
    under_way: usize,
    end: usize,
    slot: u32,
}

impl Kernel {
    /// How many pieces there can be.
    pub(crate) const PIECES: usize = PIECES as usize;

    /// Asks the kernel for a ring.
    pub(crate) fn new() -> io::Result<Self> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(ANSWERS)
            .build(ENTRIES)?;
        let signal = Rc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        uring.submitter().register_eventfd(signal.as_raw_fd())?;
        let arena = Arena::new();
        // SAFETY: the list is page-aligned memory of as many entries, which is freed after the ring (the order of fields, and `drop`).
        unsafe { uring.submitter().register_buf_ring_with_flags(arena.list.as_ptr() as u64, PIECES, GROUP, 0)? };
        let mut kernel = Self {
            uring,
            signal,
            overflow: VecDeque::new(),
            open: 0,
            arena,
            spare: (0..PIECES).rev().collect(),
            given: 0,
            wanted: FIRST_PIECES,
            sends: Vec::new(),
            idle_sends: Vec::new(),
        };
        kernel.give_spare();
        Ok(kernel)
    }

    /// Receives from now on until it is cancelled, or something stops it.
    pub(crate) fn receive(&mut self, socket: RawFd, slot: u32, generation: u32) {
        let entry = opcode::RecvMulti::new(Fd(socket), GROUP).build();
        self.push(entry.user_data(name(Purpose::Receive, generation, slot)));
    }

    /// Says once when there is something to read.
    pub(crate) fn readable(&mut self, socket: RawFd, slot: u32, generation: u32) {
        let wanted = libc_poll(PollFlags::IN | PollFlags::RDHUP);
        self.push(opcode::PollAdd::new(Fd(socket), wanted).build().user_data(name(Purpose::Readable, generation, slot)));
    }

    /// Says until it is cancelled when there is room to write, and at other times: see [`says_room`]. Asked for once, the kernel would answer at once
    /// that the other end has closed its direction, again and again.
    pub(crate) fn writable(&mut self, socket: RawFd, slot: u32, generation: u32) {
        let wanted = libc_poll(PollFlags::OUT);
        self.push(opcode::PollAdd::new(Fd(socket), wanted).multi(true).build().user_data(name(Purpose::Writable, generation, slot)));
    }

    /// Ends a request of this purpose. Its last answer comes all the same.
    pub(crate) fn cancel(&mut self, purpose: Purpose, slot: u32, generation: u32) {
        let entry = opcode::AsyncCancel::new(name(purpose, generation, slot)).build();
        self.push(entry.user_data(name(Purpose::Cancel, generation, slot)));
    }

    /// A buffer to send from; `None`: there are too many already.
    pub(crate) fn parcel(&mut self, slot: u32) -> Option<Parcel> {
        let number = match self.idle_sends.pop() {
            Some(number) => number,
            None if self.sends.len() < SENDS => {
                self.sends.push(Sending { bytes: NonNull::dangling(), sent: 0, under_way: 0, end: 0, slot });
                u32::try_from(self.sends.len() - 1).ok()?
            }
            None => return None,
        };
        let sending = &mut self.sends[number as usize];
        if sending.bytes == NonNull::dangling() {
            sending.bytes = allocate(SEND_LAYOUT);
        }
        (sending.sent, sending.under_way, sending.end, sending.slot) = (0, 0, 0, slot);
        Some(Parcel(number))
    }

    /// Adds as much of `bytes` as there is room for; answers how much that is.
    pub(crate) fn fill(&mut self, parcel: &Parcel, bytes: &[u8]) -> usize {
        let sending = &mut self.sends[parcel.0 as usize];
        let taken = bytes.len().min(SEND_BYTES - sending.end);
        // SAFETY: `end + taken` is within the buffer, and the kernel reads nothing behind `end`; `bytes` is not in it, for nobody has a reference.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), sending.bytes.as_ptr().add(sending.end), taken) };
        sending.end += taken;
        taken
    }

    /// Sends what is in it, as much as the socket takes at once. One sending at a time.
    pub(crate) fn send(&mut self, socket: RawFd, parcel: &Parcel, generation: u32) {
        let sending = &mut self.sends[parcel.0 as usize];
        assert!(sending.under_way == 0, "one sending at a time");
        sending.under_way = sending.end - sending.sent;
        // SAFETY: `sent` is within the buffer.
        let from = unsafe { sending.bytes.as_ptr().add(sending.sent) };
        // At most SEND_BYTES.
        let length = sending.under_way as u32;
        // Left to wait, the kernel would try 128 times and then give a thread to each socket whose other end has closed its direction.
        let flags = (SendFlags::NOSIGNAL | SendFlags::DONTWAIT).bits() as i32;
        let entry = opcode::Send::new(Fd(socket), from, length).flags(flags).build();
        self.push(entry.user_data(name(Purpose::Send, generation, parcel.0)));
    }

    /// So much of it was sent. Answers whether there is more.
    pub(crate) fn sent(&mut self, parcel: &Parcel, bytes: usize) -> bool {
        let sending = &mut self.sends[parcel.0 as usize];
        sending.sent = (sending.sent + bytes).min(sending.end);
        if sending.sent == sending.end {
            (sending.sent, sending.end) = (0, 0);
        }
        sending.sent < sending.end
    }

    /// What has not been sent, and is not under way.
    pub(crate) fn unsent(&self, parcel: &Parcel) -> &[u8] {
        let Sending { bytes, sent, under_way, end, .. } = self.sends[parcel.0 as usize];
        // SAFETY: within the buffer, all of it was written, and nobody writes to it while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().add(sent + under_way), end - sent - under_way) }
    }

    /// The buffer is not needed any more. Nothing of it is under way.
    pub(crate) fn put_back(&mut self, parcel: Parcel) {
        let sending = &mut self.sends[parcel.0 as usize];
        assert!(sending.under_way == 0, "it is under way");
        if self.idle_sends.len() >= IDLE_SENDS {
            // SAFETY: it was allocated like this, the kernel is through with it, and it is not used again.
            unsafe { dealloc(sending.bytes.as_ptr(), SEND_LAYOUT) };
            sending.bytes = NonNull::dangling();
        }
        self.idle_sends.push(parcel.0);
    }

    /// The first `length` bytes of a piece.
    pub(crate) fn bytes(&self, piece: &Piece, length: usize) -> &[u8] {
        assert!(length <= PIECE_BYTES);
        // SAFETY: within the arena, which is never uninitialised; the kernel has not got the buffer back, or there were no `Piece` of it.
        unsafe { std::slice::from_raw_parts(self.arena.bytes.as_ptr().add(piece.number() * PIECE_BYTES), length) }
    }

    /// What was received has been used.
    pub(crate) fn give_back(&mut self, piece: Piece) {
        self.spare.push(piece.0);
        self.give_spare();
    }

    /// The kernel had no buffer left: it gets twice as many.
    pub(crate) fn widen(&mut self) {
        self.wanted = self.wanted.saturating_mul(2).min(PIECES);
        self.give_spare();
    }

    /// Whether there is anything to hand over.
    pub(crate) fn has_requests(&mut self) -> bool {
        !self.overflow.is_empty() || !self.uring.submission().is_empty()
    }

    /// Hands requests over, without asking for answers.
    pub(crate) fn submit(&mut self) -> io::Result<()> {
        let waiting = self.uring.submission().len();
        self.enter(waiting, EnterFlags::empty())
    }

    /// Hands requests over and has the kernel finish what it can. Does nothing where there is nothing to do.
    pub(crate) fn turn(&mut self) -> io::Result<()> {
        loop {
            let queue = self.uring.submission();
            let waiting = queue.len();
            drop(queue);
            if waiting == 0 && !self.has_news() {
                return Ok(());
            }
            self.enter(waiting, EnterFlags::GETEVENTS)?;
            // Where the kernel takes nothing for now, the next turn tries again.
            if self.overflow.is_empty() || self.uring.submission().len() >= waiting.max(1) {
                return Ok(());
            }
            self.refill();
        }
    }

    /// Whether the kernel has work that it finishes, or answers that it gives, with the next system call only. Nothing else tells of them.
    pub(crate) fn has_news(&mut self) -> bool {
        let queue = self.uring.submission();
        queue.taskrun() || queue.cq_overflow()
    }

    /// Takes the answers that have come. Fails when the kernel had no memory to keep one: nobody knows then what has been done.
    pub(crate) fn answers(&mut self, into: &mut Vec<Answer>) -> io::Result<()> {
        let mut queue = self.uring.completion();
        queue.sync();
        let lost = queue.overflow();
        for entry in queue {
            let flags = entry.flags();
            let (purpose, slot) = read_name(entry.user_data());
            let more = cqueue::more(flags);
            if !more {
                self.open -= 1;
            }
            let piece = cqueue::buffer_select(flags).map(Piece);
            self.given -= u16::from(piece.is_some());
            let slot = match purpose {
                Purpose::Send => {
                    let sending = &mut self.sends[slot as usize];
                    sending.under_way = 0;
                    sending.slot
                }
                Purpose::Receive | Purpose::Readable | Purpose::Writable | Purpose::Cancel => slot,
            };
            into.push(Answer { slot, purpose, result: entry.result(), piece, more });
        }
        self.give_spare();
        if lost > 0 { Err(io::Error::other("the kernel has lost answers of io_uring")) } else { Ok(()) }
    }

    /// Tells this thread's runtime when there are answers.
    pub(crate) fn watch(&self) -> io::Result<AsyncFd<Rc<OwnedFd>>> {
        // SAFETY: the descriptor is owned, and stays open as long as it is watched.
        Ok(unsafe { AsyncFd::register_with_interest(Rc::clone(&self.signal), Interest::READABLE) }?)
    }

    /// Readable when there are answers.
    pub(crate) fn signal(&self) -> &OwnedFd {
        &self.signal
    }

    fn enter(&mut self, waiting: usize, flags: EnterFlags) -> io::Result<()> {
        // SAFETY: without an argument there is nothing to be wrong about.
        let entered = unsafe { self.uring.submitter().enter::<()>(waiting as u32, 0, flags.bits(), None) };
        match entered {
            Ok(_) => Ok(()),
            // Tried again with the next turn.
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ResourceBusy | io::ErrorKind::WouldBlock) => {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn push(&mut self, entry: squeue::Entry) {
        self.open += 1;
        if self.overflow.is_empty() {
            if self.try_push(&entry) {
                return;
            }
            let _ = self.submit();
            if self.try_push(&entry) {
                return;
            }
        }
        self.overflow.push_back(entry);
    }

    fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: entries are made in this file, of memory that is in this struct and is left alone until the answer.
        unsafe { self.uring.submission().push(entry) }.is_ok()
    }

    fn refill(&mut self) {
        while let Some(entry) = self.overflow.pop_front() {
            if !self.try_push(&entry) {
                self.overflow.push_front(entry);
                return;
            }
        }
    }

    fn give_spare(&mut self) {
        if self.given >= self.wanted {
            return;
        }
        while self.given < self.wanted
            && let Some(number) = self.spare.pop()
        {
            self.arena.offer(number);
            self.given += 1;
        }
        self.arena.publish();
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.open += 1;
        let all = opcode::AsyncCancel2::new(CancelBuilder::any()).build();
        self.overflow.push_back(all.user_data(name(Purpose::Cancel, 0, 0)));
        let (mut answers, patience) = (Vec::new(), SubmitArgs::new().timespec(&PATIENCE));
        for _ in 0..LAST_WAITS {
            self.refill();
            let _ = self.uring.submitter().submit_with_args(1, &patience);
            let _ = self.answers(&mut answers);
            if self.open == 0 {
                break;
            }
        }
        if self.open > 0 {
            // Something is under way that cannot be stopped: its memory stays where it is.
            return;
        }
        // SAFETY: the ring has no requests, and the list is taken from it first; all of it was allocated like this.
        unsafe {
            let _ = self.uring.submitter().unregister_buf_ring(GROUP);
            dealloc(self.arena.bytes.as_ptr(), PIECES_LAYOUT);
            dealloc(self.arena.list.as_ptr().cast(), LIST_LAYOUT);
            for sending in self.sends.iter().filter(|sending| sending.bytes != NonNull::dangling()) {
                dealloc(sending.bytes.as_ptr(), SEND_LAYOUT);
            }
        }
    }
}

const fn layout(bytes: usize, align: usize) -> Layout {
    match Layout::from_size_align(bytes, align) {
        Ok(layout) => layout,
        Err(_) => panic!("a layout that cannot be"),
    }
}

const SEND_LAYOUT: Layout = layout(SEND_BYTES, 16);
/// So much comes straight from the kernel, zeroed and not there before it is touched; with a larger alignment it would be zeroed by hand.
const PIECES_LAYOUT: Layout = layout(PIECES as usize * PIECE_BYTES, 16);
const LIST_LAYOUT: Layout = layout(PIECES as usize * size_of::<BufRingEntry>(), PAGE);

fn allocate(layout: Layout) -> NonNull<u8> {
    // SAFETY: no layout of this file is empty.
    NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap_or_else(|| handle_alloc_error(layout))
}

impl Arena {
    fn new() -> Self {
        Self { bytes: allocate(PIECES_LAYOUT), list: allocate(LIST_LAYOUT).cast(), tail: 0 }
    }

    /// Puts a buffer at the end of the list, where the kernel does not see it before [`publish`](Self::publish).
    fn offer(&mut self, number: u16) {
        let at = usize::from(self.tail % PIECES);
        // SAFETY: `at` is within the list, and the kernel does not look at entries behind the tail. The tail itself lies in a field of the first
        // entry that is not set here.
        unsafe {
            let entry = &mut *self.list.as_ptr().add(at);
            entry.set_addr(self.bytes.as_ptr().add(usize::from(number) * PIECE_BYTES) as u64);
            entry.set_len(PIECE_BYTES as u32);
            entry.set_bid(number);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&mut self) {
        // SAFETY: the list is that of a ring of buffers; its tail is aligned, and written only here.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.list.as_ptr()).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

/// Whether what was answered to [`Kernel::writable`] is that there is room, or that there will be none.
pub(crate) fn says_room(result: i32) -> bool {
    let room = PollFlags::OUT | PollFlags::ERR | PollFlags::HUP;
    result < 0 || result.unsigned_abs() & libc_poll(room) != 0
}

fn libc_poll(flags: PollFlags) -> u32 {
    u32::from(flags.bits())
}

/// A request's name: so many bits are of its place that no generation comes again while an old answer is on its way.
fn name(purpose: Purpose, generation: u32, slot: u32) -> u64 {
    (purpose as u64) << 60 | u64::from(generation & 0x0FFF_FFFF) << 32 | u64::from(slot)
}

fn read_name(name: u64) -> (Purpose, u32) {
    let purpose = match name >> 60 {
        0 => Purpose::Receive,
        1 => Purpose::Readable,
        2 => Purpose::Writable,
        3 => Purpose::Send,
        _ => Purpose::Cancel,
    };
    (purpose, name as u32)
}
