//! Client connections: accepted, counted, and given to a session. Speaks no protocol, except to say no.
//!
//! One accept loop per listening socket, whatever the number of workers; it hands each client to the worker that has the fewest. Why not one
//! accept loop per worker: with `SO_REUSEPORT` the kernel spreads by hash (a pool of few long connections ends up lopsided), clients in the queue
//! of a socket that closes are reset, and a second process on the same port goes unnoticed; with a shared descriptor all workers wake for each
//! client. The price is a message between threads per *connection*, paid only with several workers.

pub mod accept;
pub mod bind;
pub mod gate;
pub mod place;
mod refuse;
mod socket;
