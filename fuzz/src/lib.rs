//! The bodies of the fuzz targets: one file each, a function from bytes to nothing that panics when something does not hold.
//!
//! `fuzz_targets/` hands them to libFuzzer; the test `fuzz_corpus` of the main workspace replays the committed corpus through them on stable.

pub mod config_toml;
pub mod console;
pub mod handover;
pub mod hba;
pub mod pgbouncer_ini;
pub mod pool_core;
pub mod postgres_hints;
pub mod postgres_normal;
pub mod postgres_session;
pub mod postgres_startup;
pub mod redis_frame;
pub mod redis_lane;
pub mod redis_pipeline;
pub mod redis_request;
pub mod userlist;

/// A target: its name, which is that of its corpus, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("config_toml", config_toml::run),
    ("console", console::run),
    ("handover", handover::run),
    ("hba", hba::run),
    ("pgbouncer_ini", pgbouncer_ini::run),
    ("pool_core", pool_core::run),
    ("postgres_hints", postgres_hints::run),
    ("postgres_normal", postgres_normal::run),
    ("postgres_session", postgres_session::run),
    ("postgres_startup", postgres_startup::run),
    ("redis_frame", redis_frame::run),
    ("redis_lane", redis_lane::run),
    ("redis_pipeline", redis_pipeline::run),
    ("redis_request", redis_request::run),
    ("userlist", userlist::run),
];
