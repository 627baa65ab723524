//! Started as PgBouncer is: `sidepool [OPTION]... FILE.ini`, or the program under the name `pgbouncer`.
//!
//! ```text
//! flags ─► load ─► identity (who to become; never root) ─► socket in use? pidfile? ─► daemon ─► app
//! ```

mod daemon;
pub mod flags;
mod identity;
pub mod pidfile;
mod socket;
pub mod start;

/// Which PgBouncer this one takes the place of.
pub const PGBOUNCER_VERSION: &str = "1.25.2";

/// As the first line of `-V` and SHOW VERSION say it: programs compare it with PgBouncer's.
#[must_use]
pub fn version() -> String {
    format!("PgBouncer {PGBOUNCER_VERSION}")
}

/// What this really is.
pub const OWN_VERSION: &str = concat!("sidepool ", env!("CARGO_PKG_VERSION"));

/// What does the work of PgBouncer's libraries, as `-V` and the log say it.
pub const LIBRARIES: [&str; 3] = ["runtime: tokio (epoll)", "adns: hickory", "tls: rustls (aws-lc-rs)"];
