//! sidepool's configuration as a value: read from a file, URLs or the environment, validated whole, compared with the one before.
//!
//! A leaf: it knows no runtime, opens no socket, and no part of it is global. Whoever needs a setting is handed it.

pub mod model;
pub mod secret;
