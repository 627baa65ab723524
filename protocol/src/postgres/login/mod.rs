//! Logging in, on both sides, as state machines without IO: messages in, bytes and verdicts out.

pub mod binding;
pub mod client_side;
pub mod keys;
pub mod md5;
pub mod scram;
pub mod secret;
pub mod upstream_side;
