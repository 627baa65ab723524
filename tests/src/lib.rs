//! The harness: real servers, a real sidepool between them and the test, raw clients that can misbehave, and proxies that stall, cut and lie.
//!
//! Each test starts what it needs on free ports and drops it at its end; what a killed test run leaves behind, the [`guardian`] ends.
//! The files under `tests/` hold one concern of an operator each.

pub mod binary;
pub mod browser;
pub mod calm;
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

/// Says that a test is left out because of what is missing here: past the harness, which shows nothing of a test that passes and knows no skipping.
pub fn left_out(missing: &str) {
    use std::io::Write as _;
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "LEFT OUT, NOT PASSED: {test}: there is no {missing}");
}
