//! The harness: real servers, a real sidepool between them and the test, raw clients that can misbehave, and proxies that stall, cut and lie.
//!
//! Each test starts what it needs on free ports and drops it at its end; what a killed test run leaves behind, the [`guardian`] ends.
//! The files under `tests/` hold one concern of an operator each.

pub mod binary;
pub mod browser;
pub mod conformance;
pub mod console;
pub mod descriptors;
pub mod dns;
pub mod fault;
pub mod guardian;
pub mod haproxy;
pub mod image;
pub mod ini;
pub mod kubernetes;
pub mod ldap;
pub mod load;
pub mod log;
pub mod manifests;
pub mod place;
pub mod pooler;
pub mod postgres;
pub mod process;
pub mod prometheus;
pub mod redis;
pub mod scrape;
pub mod settings;
pub mod standalone;
pub mod stream;
pub mod terminal;
pub mod tls;
pub mod wait;
