//! Who gets which upstream connection, for both protocols.
//!
//! `core` is the pure state machine: ids and times in, actions out. `handle` is what sessions hold: it turns the core's answers into
//! [`Lease`]s. `driver` opens, resets and closes on the core's behalf. Not here: what a connection speaks (`upstream`).

pub mod acquire;
pub mod action;
mod aging;
mod backoff;
pub mod caps;
mod ceiling;
pub mod core;
mod driver;
mod facts;
pub mod fault;
pub mod handle;
pub mod id;
pub mod identities;
mod invariants;
pub mod lease;
pub mod limits;
mod list;
pub mod measure;
pub mod pace;
pub mod pinned;
mod queue;
pub(crate) mod random;
pub mod reason;
pub mod registry;
mod settle;
pub mod sharing;
mod sizing;
pub mod slot;
pub mod snapshot;
pub mod state;
mod table;
#[cfg(test)]
mod tests;
mod timers;
pub mod traits;
mod turns;
mod waiting;
