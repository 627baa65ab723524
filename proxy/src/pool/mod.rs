//! Who gets which upstream connection, for both protocols.
//!
//! `core` is the pure state machine: ids and times in, actions out. `handle` is what sessions hold: it turns the core's answers into
//! [`Lease`]s. `driver` opens, resets and closes on the core's behalf. Not here: what a connection speaks (`upstream`).

pub mod fault;
pub mod id;
pub mod limits;
pub mod reason;
pub mod traits;
