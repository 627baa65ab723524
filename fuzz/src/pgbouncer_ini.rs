//! Bytes as a `pgbouncer.ini`: every problem points into the file, and what can be used can be shown and migrated, to a file that is read again.

use std::path::Path;

use sidepool_config::file;
use sidepool_config::pgbouncer::{self, migrate, show};
use sidepool_config::problem::Place;

const NAME: &str = "pgbouncer.ini";

/// Runs the target.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    // A file that it names would be read from this machine, or a name resolved.
    if ["file", "listen_addr", "include"].iter().any(|word| text.contains(word)) {
        return;
    }
    let lines = text.split('\n').count();
    let problems = match pgbouncer::load_text(&text, Path::new(NAME)) {
        Ok(loaded) => {
            let rows = show::config(&loaded.config);
            assert_eq!(rows.len(), pgbouncer::table::SETTINGS.len());
            loaded.warnings
        }
        Err(rejected) => {
            assert!(!rejected.problems.is_empty());
            rejected.problems
        }
    };
    for problem in problems {
        match problem.place {
            Place::File { path, line } => {
                assert!(path == Path::new(NAME) && line.is_none_or(|line| (1..=lines).contains(&(line as usize))))
            }
            place @ (Place::Environment | Place::CommandLine | Place::Console) => panic!("{place}"),
        }
    }
    if let Ok(toml) = migrate::text(&text, Path::new(NAME)) {
        if let Err(rejected) = file::load_text(&toml, Path::new("sidepool.toml"), &|_| None) {
            panic!("{rejected}\n{toml}");
        }
    }
}
