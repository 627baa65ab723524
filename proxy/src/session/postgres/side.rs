//! What one worker knows of the PostgreSQL side: pools, cancel keys, statement texts.

/// The PostgreSQL state of one worker.
#[derive(Default)]
pub struct PostgresSide {}
