//! What one worker knows of the Redis side: pools, lanes, the pub/sub hub, command tables.

/// The Redis state of one worker.
#[derive(Default)]
pub struct RedisSide {}
