//! A session speaks to one client for as long as it is connected. The two protocols mirror each other file by file; no trait stands over both.

pub mod postgres;
pub mod redis;
#[cfg(test)]
mod simulated;
