//! What everybody writes and nobody on the data path reads: counters and histograms as plain cells of one worker.
//!
//! A leaf: it imports nothing of the proxy. The admin side collects a copy at each scrape; nothing here is atomic, locked or keyed by text.
//! To add a metric: a line in [`catalog`], and a variant that names it in [`cells`] (the data path adds to it) or a value in the admin side.

pub mod catalog;
pub mod cells;
pub mod histogram;
pub mod record;
pub mod report;
