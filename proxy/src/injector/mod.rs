//! `sidepool injector` and `sidepool inject`: the callers of the library that puts sidecars into pods (`sidepool_injector`).
//!
//! The webhook keeps no state, asks no API server and needs no rights: a pod comes in, a patch goes out. Its certificate is watched and
//! exchanged while it runs; without one it is not ready.

mod certificate;
pub mod command;
pub mod flags;
pub mod metrics;
mod server;
