//! sidepool's configuration as a value: read from a file, URLs or the environment, validated whole, compared with the one before.
//!
//! A leaf: it knows no runtime, opens no socket, and no part of it is global. Whoever needs a setting is handed it.
//!
//! ```text
//! sidepool.toml ─ file ─ reading, section ─ read_postgres, read_redis ─┐
//! flags ─ overriding ──────────────────────────────────────────────────┤
//! URLs, variables ─ environment ─ postgres_url, redis_url ─────────────┴─ checks ─► model::Config ─► effective ─ diff, render
//!                     settings (the one table of all of them) ─ reference
//! ```

pub mod auth;
mod checks;
pub mod diff;
#[cfg(test)]
mod diff_tests;
pub mod effective;
pub mod environment;
#[cfg(test)]
mod environment_tests;
pub mod file;
#[cfg(test)]
mod file_tests;
pub mod hosts;
mod listen;
pub mod model;
pub mod names;
mod overriding;
pub mod pgbouncer;
mod postgres_url;
pub mod problem;
mod read_auth;
mod read_limits;
mod read_postgres;
mod read_redis;
mod read_server;
mod read_tls;
mod reading;
mod redis_url;
pub mod reference;
pub mod render;
pub mod secret;
mod secret_field;
mod section;
pub mod settings;
pub mod sources;
mod stored;
pub mod tls;
pub mod units;
mod upstream_url;
pub mod userlist;
