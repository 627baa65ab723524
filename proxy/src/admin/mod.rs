//! The admin side: metrics and health over HTTP. Sits on top, runs on the control thread, and only reads.
//!
//! A scrape posts one job to each worker, which answers with a copy of its cells; the data path knows nothing of it.

pub mod collect;
pub mod explain;
pub mod exported;
pub mod exposition;
pub mod facts;
pub mod folding;
mod guard;
pub mod http;
pub mod liveness;
pub mod metrics;
pub mod notices;
pub mod page;
mod pool_status;
pub mod process;
pub mod quantile;
pub mod quit;
pub mod sessions;
pub mod status;
