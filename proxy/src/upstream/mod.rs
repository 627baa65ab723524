//! One connection to a database: opening, logging in, resetting, probing.

pub mod breaker;
pub mod dial;
pub mod postgres;
pub mod redis;
pub mod roster;
