//! One connection to a PostgreSQL server.

pub mod cancellable;
pub mod link;
pub mod statements;
