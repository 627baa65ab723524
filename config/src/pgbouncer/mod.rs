//! PgBouncer's own configuration file as a way to say ours: `pgbouncer.ini` with its defaults, its table of settings, and the way from there.
//!
//! ```text
//! text ─ lines ─ document (includes, places) ─ draft, entries (said again as TOML) ─┬─ load ─► model::Config
//!                table (every setting) ─┘                                            └─ migrate ─► sidepool.toml
//! ```

mod connection_string;
pub(crate) mod document;
mod draft;
mod entries;
mod lines;
mod load;
#[cfg(test)]
mod load_tests;
pub mod migrate;
pub mod process;
pub(crate) mod say;
pub mod show;
pub mod table;
mod value;

pub use load::{Flags, Set, load, load_text};
