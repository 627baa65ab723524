//! PgBouncer's own configuration file as a way to say ours: `pgbouncer.ini` with its defaults, its table of settings, and the way from there.
//!
//! ```text
//! text ─ lines ─ document (includes, places) ─ set, entries ─► model::Config
//!                table (every setting) ─┘  └─ migrate ─► sidepool.toml
//! ```

mod connection_string;
pub(crate) mod document;
mod lines;
pub mod table;
mod value;
