//! One connection to a Redis server: opening it, logging in, cleaning it, asking whether it is alive.

pub mod connection;
pub mod connector;
pub mod facts;
mod login;
pub mod scripts;
