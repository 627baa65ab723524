//! One connection to a PostgreSQL server.

pub mod asking;
pub mod cancel;
pub mod cancellable;
pub mod connection;
pub mod connector;
pub mod derived;
pub mod dirt;
pub mod journal;
pub mod link;
pub mod lookup;
pub mod passed;
pub mod pin_questions;
pub mod pins;
pub mod query;
pub mod quoting;
pub mod roll;
pub mod sequences;
pub mod spent;
pub mod statements;
pub mod target;

mod login;
mod messages;
mod tls;

#[cfg(test)]
pub(crate) mod scripted;
