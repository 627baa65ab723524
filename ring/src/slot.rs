//! What the ring knows of one socket: what has come, what waits to be sent, and which requests are under way.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::task::Waker;

use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use crate::kernel::{Kernel, PIECE_BYTES, Parcel, Piece, Purpose};

/// Above this many pieces that nobody has read, the ring stops receiving for a socket.
const MOST_PIECES: u16 = 4;

/// How many reads a socket that brought much at a time is read by system calls.
const BULKY_READS: u8 = 16;

/// No piece.
const NONE: u16 = u16::MAX;

/// The request by which a socket waits for something to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waits {
    /// There is none.
    No,
    /// It receives into the buffers of all.
    Receives,
    /// It only hears of it.
    Listens,
}

/// The request for room to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// There is none.
    Unasked,
    /// It has not been answered.
    Asked,
    /// It has, or nobody wants to know any more; it is being ended.
    Ending,
}

/// How what comes from the other end has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It has not.
    Open,
    /// The other end said that it is through.
    Over,
    /// The connection broke: the number of the error.
    Broken(i32),
}

/// What was received into one piece.
#[derive(Debug, Default)]
pub(crate) struct Received {
    piece: Option<Piece>,
    from: u16,
    length: u16,
    next: u16,
}

/// One socket.
pub(crate) struct Slot {
    socket: OwnedFd,
    pub(crate) generation: u32,
    /// Who reads.
    pub(crate) reader: Option<Waker>,
    /// Who writes.
    pub(crate) writer: Option<Waker>,
    first: u16,
    last: u16,
    pieces: u16,
    pub(crate) waits: Waits,
    /// That request is being ended.
    ending: bool,
    /// There may be something that only a system call tells.
    pub(crate) news: bool,
    pub(crate) end: End,
    bulky: u8,
    pub(crate) parcel: Option<Parcel>,
    /// The parcel is with the kernel.
    pub(crate) sends: bool,
    /// It is on the list of those who have something to send.
    pub(crate) listed: bool,
    pub(crate) room: Room,
    /// The number of the error with which sending failed.
    pub(crate) broken: Option<i32>,
    /// Nobody has the socket any more: it is closed when nothing is under way.
    pub(crate) orphaned: bool,
    /// But what it accepted is still sent.
    pub(crate) lingers: bool,
}

impl Slot {
    pub(crate) fn new(socket: OwnedFd, generation: u32) -> Self {
        Self {
            socket,
            generation,
            reader: None,
            writer: None,
            first: NONE,
            last: NONE,
            pieces: 0,
            waits: Waits::No,
            ending: false,
            news: false,
            end: End::Open,
            bulky: 0,
            parcel: None,
            sends: false,
            listed: false,
            room: Room::Unasked,
            broken: None,
            orphaned: false,
            lingers: false,
        }
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(crate) fn raw(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    pub(crate) fn into_socket(self) -> OwnedFd {
        self.socket
    }

    /// Whether a read may have something to answer: always where no request is with the kernel that would have told of it.
    pub(crate) fn may_be_read(&self) -> bool {
        self.waits == Waits::No || self.has_news()
    }

    /// Whether it is known of something that a read has to answer.
    pub(crate) fn has_news(&self) -> bool {
        self.pieces > 0 || self.news || self.last_word().is_some()
    }

    /// Whether nothing comes any more, behind what has not been read.
    pub(crate) fn is_over(&self) -> bool {
        !(self.news && self.end == End::Open) && self.last_word().is_some()
    }

    pub(crate) fn has_pieces(&self) -> bool {
        self.pieces > 0
    }

    /// Whether no request of the socket is with the kernel, or on its way there.
    pub(crate) fn is_still(&self) -> bool {
        self.waits == Waits::No && !self.ending && !self.sends && !self.listed && self.room == Room::Unasked
    }

    /// Keeps what has come.
    pub(crate) fn keep(&mut self, store: &mut [Received], piece: Piece, length: usize) {
        let at = piece.number() as u16;
        store[usize::from(at)] = Received { piece: Some(piece), from: 0, length: length as u16, next: NONE };
        match self.last {
            NONE => self.first = at,
            last => store[usize::from(last)].next = at,
        }
        self.last = at;
        self.pieces += 1;
    }

    /// Moves what has come into `buffer`, as much as there is room for.
    pub(crate) fn take(&mut self, store: &mut [Received], kernel: &mut Kernel, buffer: &mut [u8]) -> usize {
        let mut filled = 0;
        while self.pieces > 0 && filled < buffer.len() {
            let received = &mut store[usize::from(self.first)];
            let Some(piece) = &received.piece else { break };
            let (from, to) = (usize::from(received.from), usize::from(received.length));
            let taken = (to - from).min(buffer.len() - filled);
            buffer[filled..filled + taken].copy_from_slice(&kernel.bytes(piece, to)[from..from + taken]);
            filled += taken;
            received.from += taken as u16;
            if received.from == received.length {
                self.drop_first(store, kernel);
            }
        }
        filled
    }

    /// Nobody wants what has come.
    pub(crate) fn drop_pieces(&mut self, store: &mut [Received], kernel: &mut Kernel) {
        while self.pieces > 0 {
            self.drop_first(store, kernel);
        }
    }

    fn drop_first(&mut self, store: &mut [Received], kernel: &mut Kernel) {
        let received = std::mem::take(&mut store[usize::from(self.first)]);
        self.first = received.next;
        self.pieces -= 1;
        if self.pieces == 0 {
            (self.first, self.last) = (NONE, NONE);
        }
        if let Some(piece) = received.piece {
            kernel.give_back(piece);
        }
    }

    /// Sees that the socket waits for something to read; answers whether there is something new to hand over.
    pub(crate) fn wait(&mut self, kernel: &mut Kernel, number: u32) -> bool {
        if self.waits != Waits::No || self.ending {
            return false;
        }
        if self.bulky > 0 {
            kernel.readable(self.raw(), number, self.generation);
            self.waits = Waits::Listens;
        } else {
            kernel.receive(self.raw(), number, self.generation);
            self.waits = Waits::Receives;
        }
        true
    }

    /// Ends the request by which the socket waits; answers whether there was one.
    pub(crate) fn end_wait(&mut self, kernel: &mut Kernel, number: u32) -> bool {
        let purpose = match self.waits {
            Waits::No => return false,
            Waits::Receives => Purpose::Receive,
            Waits::Listens => Purpose::Readable,
        };
        if !std::mem::replace(&mut self.ending, true) {
            kernel.cancel(purpose, number, self.generation);
        }
        true
    }

    /// Asks for room to write, of which there was none.
    pub(crate) fn ask_for_room(&mut self, kernel: &mut Kernel, number: u32) {
        // One that is being ended is asked for anew by whoever hears of its end.
        if self.room == Room::Unasked {
            kernel.writable(self.raw(), number, self.generation);
            self.room = Room::Asked;
        }
    }

    /// Room is not asked for any more.
    pub(crate) fn end_room(&mut self, kernel: &mut Kernel, number: u32) {
        if self.room == Room::Asked {
            kernel.cancel(Purpose::Writable, number, self.generation);
            self.room = Room::Ending;
        }
    }

    /// Nobody has read what has come for a while, or it is much: the ring takes no more of it.
    pub(crate) fn is_overfull(&mut self) -> bool {
        if self.pieces < MOST_PIECES || self.ending {
            return false;
        }
        self.bulky = BULKY_READS;
        true
    }

    /// The request by which it waited is over: whatever the reason was, a system call will tell more.
    pub(crate) fn waited(&mut self) {
        (self.waits, self.ending, self.news) = (Waits::No, false, true);
    }

    /// The kernel had no buffer left.
    pub(crate) fn found_no_buffer(&mut self) {
        self.bulky = BULKY_READS;
    }

    /// A system call has read this much into a buffer of that size.
    pub(crate) fn read_by_call(&mut self, read: usize, room: usize) {
        // Whoever did not fill the buffer has emptied the socket; what comes behind that, the next request tells.
        self.news = read == room;
        self.bulky = if read < PIECE_BYTES { self.bulky.saturating_sub(1) } else { BULKY_READS };
    }

    /// Sends what the socket takes of it at once; answers how much that was. `None`: it takes nothing any more.
    pub(crate) fn send_by_call(&self, bytes: &[u8]) -> Option<usize> {
        match send(self.socket(), bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(sent) => Some(sent),
            Err(Errno::AGAIN | Errno::INTR) => Some(0),
            Err(_) => None,
        }
    }

    /// Sending has failed with this error. What the other end said before it left may still lie on the socket, and is looked for once more.
    pub(crate) fn broke(&mut self, error: i32, kernel: &mut Kernel, number: u32) {
        self.broken = Some(error);
        if !self.end_wait(kernel, number) {
            self.news = true;
        }
    }

    /// What a read answers when nothing is left to be read.
    pub(crate) fn last_word(&self) -> Option<io::Result<usize>> {
        match (self.end, self.broken) {
            (End::Over, _) => Some(Ok(0)),
            (End::Broken(error), _) => Some(Err(io::Error::from_raw_os_error(error))),
            (End::Open, Some(error)) if self.waits == Waits::No => Some(Err(io::Error::from_raw_os_error(error))),
            (End::Open, _) => None,
        }
    }
}
