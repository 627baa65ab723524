//! What is said when everything is up: how to connect, where to look, how large the pools are. Names no secret.

use sidepool_config::model::Config;
use sidepool_config::render;

/// The lines. `config` has the addresses that are really bound and the workers that really run.
#[must_use]
pub fn lines(config: &Config, max_fds: Option<u64>) -> Vec<String> {
    let fds = max_fds.map_or_else(|| "any number of".to_owned(), |limit| format!("up to {limit}"));
    let mut lines = vec![format!("sidepool {} is ready ({fds} open sockets and files)", env!("CARGO_PKG_VERSION"))];
    lines.extend(render::commands(config).into_iter().map(|command| format!("  {command}")));
    lines.extend(render::summary(config).lines().map(str::to_owned));
    lines
}
