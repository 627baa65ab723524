//! The PostgreSQL (protocol 3.0) and Redis (RESP2, RESP3) wire protocols as pure functions over bytes.
//!
//! Free of: sockets, clocks, threads, random numbers, global state and `unsafe`. What a caller must decide (a salt, a nonce, a limit) is an
//! argument. The two halves mirror each other file by file.

pub mod postgres;
pub mod redis;
