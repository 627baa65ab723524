//! What everybody writes and nobody on the data path reads: counters and histograms as plain cells of one worker.
//!
//! A leaf: it imports nothing of the proxy. The admin side collects a copy at each scrape; nothing here is atomic, locked or keyed by text.

pub mod record;
