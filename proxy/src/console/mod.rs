//! The admin console: what PgBouncer's operators and their tools know as the database `pgbouncer`.
//!
//! ```text
//!   session ──▶ command (parse) ──▶ answer ──▶ gather: a job for each worker ──▶ tables, sockets, statistics: rows
//!      │  extended: prepared commands    │
//!      │                                 └──▶ control ──▶ the control loop: reload, SET, pause, end
//!      ▼
//!   the client
//! ```
//! Pure: `command`, `show`, `tables`, `sockets`, `fds`, `pins`, `statistics`, `switching`, `extended`. Not here: who is let in (`session::postgres::operator`).

pub mod command;
pub mod control;
pub mod extended;
pub mod gather;
pub mod guest;
pub mod rows;
pub mod session;
pub mod show;
pub mod statistics;
pub mod switching;

mod answer;
mod fds;
mod pins;
mod sockets;
mod tables;
mod waiting;
