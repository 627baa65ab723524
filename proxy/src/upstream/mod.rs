//! One connection to a database: opening, logging in, resetting, probing.

pub mod breaker;
mod crowd;
pub mod dial;
pub mod postgres;
mod race;
pub mod redis;
pub mod roster;
