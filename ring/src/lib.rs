//! The sockets of one thread, read and written through one io_uring: what all of them want is handed to the kernel in one system call, instead of
//! one for each read and each write.
//!
//! ```text
//!   RingSocket::poll_read ──▶ pieces that have come        RingSocket::poll_write ──▶ its buffer, and the socket on the list
//!                                   ▲                                                          │
//!                    Ring::turn: [submit what is on the list · take what has come · wake whom it concerns]
//! ```
//! A socket that waits for something has one long-lived request in the kernel (multishot receive) and no buffer: the kernel takes one from those that
//! all sockets share when there are bytes. Whoever is read slowly, or brings much at a time, leaves that way and is read as ever, by system calls,
//! when the ring has said that there is something. The ring is a guest of a tokio runtime: [`Ring::drive`] is a task that turns it.
//!
//! # Why there is `unsafe` code here
//! What a request of io_uring reads or writes is named by address, and no compiler sees for how long the kernel uses it. `kernel.rs` is the only
//! file that may say `unsafe`. It owns all memory that the kernel is told of, and gives none of it back before the kernel has said that it is
//! done; everything else in the crate, and in the workspace, is safe code over that. What it is good for is measured in README.md ("io_uring").

mod driver;
mod kernel;
mod lingering;
mod slot;
mod socket;
mod trial;

#[cfg(test)]
mod tests;

pub use driver::Ring;
pub use socket::RingSocket;
