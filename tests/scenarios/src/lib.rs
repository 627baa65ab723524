//! Scenarios of bursts, queues and faults: thousands of clients, a pooler, a real server, something that goes wrong, and what became of everybody.
//!
//! The same scenario runs through sidepool and through a peer (PgBouncer, nutcracker) with equal settings. In each of them [`witness`]es
//! watch that no reply is lost, doubled, foreign or out of order. Not a benchmark: what a request costs is measured elsewhere (`tests/bench`).

pub mod crowd;
pub mod network;
pub mod postgres;
pub mod redis;
pub mod report;
pub mod scale;
pub mod scenario;
pub mod stage;
pub mod tally;
pub mod witness;
