//! PostgreSQL clients of scenarios.

pub mod client;
pub mod scram;

pub use client::{Door, Session};
