//! Redis: a throwaway server, and a client that speaks the bare protocol.

pub mod server;
pub mod wire;

pub use server::RedisServer;
pub use wire::{Reply, Wire};
