//! One connection to a PostgreSQL server.

pub mod cancellable;
pub mod connection;
pub mod connector;
pub mod link;
pub mod statements;
