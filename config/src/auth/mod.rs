//! The files that say who may log in from where and how: PgBouncer's `auth_hba_file` (the format of PostgreSQL's `pg_hba.conf`) and
//! `auth_ident_file` (`pg_ident.conf`), read into values and matched by pure functions.
//!
//! A line that cannot be read is a fault with its number. What becomes of it is the caller's choice: sidepool.toml refuses the whole
//! configuration; a PgBouncer ini skips the line as PgBouncer does, but never so that a line which was to refuse somebody lets him in.

mod address;
pub mod files;
pub mod hba;
#[cfg(test)]
mod hba_tests;
pub mod ident;
pub mod ldap;
mod read_hba;
mod words;

pub use words::Fault;
