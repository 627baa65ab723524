//! PostgreSQL: a throwaway cluster, and a client that speaks the bare protocol.

pub mod cancel;
pub mod cluster;
pub mod frame;
pub mod wire;

pub use cluster::Cluster;
pub use wire::{Message, Wire, tags};
