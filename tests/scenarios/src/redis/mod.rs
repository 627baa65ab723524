//! Redis clients of scenarios.

pub mod client;

pub use client::Session;
