//! Bytes as `sidepool.toml`, behind sections with secrets in them: reading never panics, and nothing that is said shows a secret.

use std::path::Path;

use sidepool_config::file::load_text;
use sidepool_config::render;

const PLANTED: &str = "Q7ZX9planted";

const BEFORE: &str = "[postgres]\nauth_type = \"plain\"\n[postgres.users.planted]\npassword = \"Q7ZX9planted\"\n\
    [redis.planted]\nurl = \"redis://:Q7ZX9planted@h\"\nlisten = \"127.0.0.1:1\"\n[postgres.databases.planted]\n\
    url = \"postgres://u:Q7ZX9planted@h/d\"\n";

/// Runs the target.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let variable = |_: &str| Some(PLANTED.to_owned());
    for text in [text.to_string(), format!("{BEFORE}{text}")] {
        let said = match load_text(&text, Path::new("sidepool.toml"), &variable) {
            Ok(loaded) => format!("{loaded:?}{}{:?}", render::summary(&loaded.config), render::commands(&loaded.config)),
            Err(rejected) => {
                assert!(rejected.problems.iter().any(sidepool_config::problem::Problem::is_error), "refused without a reason");
                format!("{rejected}{rejected:?}")
            }
        };
        assert!(!said.contains(PLANTED), "{said}");
    }
}
