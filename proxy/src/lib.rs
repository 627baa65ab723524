//! sidepool as a library: everything the binary is made of, so that tests can drive each part.
//!
//! Data flows down on the way in and back up the same files on the way out: `listener` accepts and limits, `session` speaks to one client,
//! `pool` decides who gets which connection, `upstream` speaks to one database connection. `observe` is a leaf that everybody writes to;
//! `admin` sits on top and only reads. `worker` is the thread they all live on; `app` puts everything together.

pub mod activation;
pub mod admin;
pub mod app;
pub mod arrivals;
pub mod aside;
pub mod chance;
pub mod cli;
pub mod clock;
pub mod console;
pub mod dns;
pub mod doctor;
pub mod drain;
pub mod handover;
pub mod injector;
pub mod invocation;
pub mod listener;
pub mod logging;
pub mod manual;
pub mod observe;
pub mod operate;
pub mod pool;
pub mod probe;
pub mod reload;
pub mod runtime;
pub mod service;
pub mod session;
pub mod signals;
pub mod suspension;
pub mod top;
pub mod traces;
pub mod transport;
pub mod upstream;
pub mod worker;
