//! Redis: RESP2 and RESP3 (Redis documentation, "Redis serialization protocol specification").
//!
//! The data path uses `request` (what clients send), `frame` (where replies end) and `tracker` (who is owed them), which copy and decode nothing.
//! `reply` decodes whole replies with the redis-protocol crate where that is convenient: logins, `COMMAND`, messages of subscriptions.

pub mod audience;
pub mod command;
mod command_table;
pub mod encode;
pub mod fault;
pub mod frame;
pub mod handshake;
pub mod inline;
pub mod limits;
pub mod reply;
pub mod request;
pub mod tracker;
pub mod transaction;
