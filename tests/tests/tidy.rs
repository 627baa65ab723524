//! Lints of the project's own that no tool has: import arrows, the clock rule, file heads and sizes, nothing unfinished.

use std::path::{Path, PathBuf};

/// Most lines of a file.
const LONGEST_FILE: usize = 600;

/// A source file: its path below the workspace and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// Lines of code with their numbers: comments are left out, and so is what follows a module of unit tests.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let tests = self.text.find("\n#[cfg(test)]").unwrap_or(self.text.len());
        let lines = self.text[..tests].lines().enumerate().map(|(index, line)| (index + 1, line));
        lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    fn is_under(&self, places: &[&str]) -> bool {
        places.iter().any(|place| self.path.starts_with(place))
    }
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a member of the workspace")
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    for folder in ["protocol", "config", "injector", "ring", "proxy", "tests", "fuzz"] {
        gather(&workspace().join(folder), &mut found);
    }
    assert!(found.len() > 20, "the sources are not where they were");
    found
}

fn gather(folder: &Path, found: &mut Vec<Source>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !name.starts_with('.') && !["target", "node_modules", "corpus"].contains(&name.as_str()) {
            gather(&path, found);
        } else if name.ends_with(".rs") {
            let relative = path.strip_prefix(workspace()).expect("below it").to_string_lossy().into_owned();
            found.push(Source { path: relative, text: std::fs::read_to_string(&path).expect("a readable file") });
        }
    }
}

fn report(problems: &[String], rule: &str) {
    assert!(problems.is_empty(), "{rule}:\n  {}", problems.join("\n  "));
}

/// Whether `line` uses `item`, a module or a crate: what follows it is a path separator or, in an import, the end.
fn names(line: &str, item: &str) -> bool {
    let is_word = |character: char| character.is_alphanumeric() || character == '_';
    line.match_indices(item).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = &line[at + item.len()..];
        let whole = !before.is_some_and(is_word) && !after.chars().next().is_some_and(is_word);
        whole && (after.starts_with("::") || line.trim_start().trim_start_matches("pub ").starts_with("use "))
    })
}

/// Who (a place) must not know whom, and why.
const ARROWS: &[(&[&str], &[&str], &str)] = &[
    (
        &["protocol/src"],
        &["tokio", "sidepool", "sidepool_config", "std::net", "std::fs", "std::thread", "std::time"],
        "protocol is bytes only",
    ),
    (&["config/src"], &["tokio", "sidepool", "sidepool_protocol", "sidepool_injector"], "config is a leaf"),
    (
        &["injector/src"],
        &["tokio", "sidepool", "sidepool_protocol", "std::net", "std::fs", "std::thread", "std::time", "std::env"],
        "the injector turns documents into documents",
    ),
    (
        &["ring/src"],
        &["sidepool", "sidepool_config", "sidepool_protocol", "std::fs", "std::thread", "std::time"],
        "the ring knows sockets, and nothing of what flows through them",
    ),
    (
        &["proxy/src/injector"],
        &["crate::session", "crate::upstream", "crate::pool", "crate::worker", "crate::listener"],
        "the webhook carries no traffic",
    ),
    (
        &["proxy/src/pool/core", "proxy/src/pool/id.rs", "proxy/src/pool/limits.rs", "proxy/src/pool/reason.rs"],
        &["tokio", "crate::session", "crate::upstream", "crate::transport", "crate::admin", "crate::observe", "std::net"],
        "the pool core is pure",
    ),
    (
        &["proxy/src/observe"],
        &["tokio", "crate::session", "crate::upstream", "crate::transport", "crate::admin", "crate::listener", "crate::worker"],
        "observe is a leaf that everybody writes to",
    ),
    (&["proxy/src/session", "proxy/src/upstream", "proxy/src/pool", "proxy/src/transport"], &["crate::admin"], "admin is on top"),
    (
        &["proxy/src/operate"],
        &["tokio", "crate::session", "crate::pool", "crate::upstream", "crate::worker", "crate::listener", "crate::admin", "crate::app"],
        "operate reads the catalogue and nothing that runs",
    ),
    (&["proxy/src/transport"], &["crate::session", "crate::pool", "crate::upstream", "crate::listener"], "transport only moves bytes"),
    (&["proxy/src/pool", "proxy/src/upstream"], &["crate::listener"], "connections do not know who listens"),
];

#[test]
fn imports_follow_the_arrows() {
    let mut problems = Vec::new();
    for source in sources() {
        for (places, banned, reason) in ARROWS.iter().filter(|(places, ..)| source.is_under(places)) {
            for (number, line) in source.code() {
                for item in banned.iter().filter(|item| names(line, item)) {
                    problems.push(format!("{}:{number} names {item}, but {reason} ({places:?})", source.path));
                }
            }
        }
    }
    report(&problems, "arrows of the layout");
}

#[test]
fn only_the_clock_asks_for_the_time() {
    let mut problems = Vec::new();
    for source in sources().iter().filter(|source| source.is_under(&["protocol/", "config/", "injector/", "ring/", "proxy/"])) {
        if source.path == "proxy/src/clock.rs" || source.path.contains("/tests/") || source.path.contains("/benches/") {
            continue;
        }
        for (number, line) in source.code().filter(|(_, line)| line.contains("Instant::now") || line.contains("SystemTime::now")) {
            problems.push(format!("{}:{number} {}", source.path, line.trim()));
        }
    }
    report(&problems, "time is an argument; only proxy/src/clock.rs asks for it");
}

#[test]
fn each_file_says_first_what_it_is() {
    let lacks = |source: &Source| {
        let mut lines = source.text.lines().skip_while(|line| line.starts_with("#!["));
        let head = lines.next().unwrap_or_default();
        head.strip_prefix("//! ").is_none_or(|text| text.len() < 15)
    };
    let problems: Vec<String> = sources().into_iter().filter(lacks).map(|source| source.path).collect();
    report(&problems, "a file opens with `//!` and a sentence");
}

#[test]
fn no_file_is_too_long() {
    let lengths = sources().into_iter().map(|source| (source.text.lines().count(), source.path));
    let problems: Vec<String> =
        lengths.filter(|(lines, _)| *lines > LONGEST_FILE).map(|(lines, path)| format!("{path}: {lines}")).collect();
    report(&problems, "one idea a file: at most 600 lines");
}

#[test]
fn nothing_is_unfinished_or_skipped() {
    // Put together from halves, so that this file does not find itself.
    let banned = [["todo", "!("], ["unimpl", "emented!("], ["#[ign", "ore"], ["dbg", "!("], ["FIX", "ME"], ["TO", "DO:"]];
    let banned: Vec<String> = banned.iter().map(|halves| halves.concat()).collect();
    let mut problems = Vec::new();
    for source in sources() {
        for (index, line) in source.text.lines().enumerate() {
            for word in banned.iter().filter(|word| line.contains(word.as_str())) {
                problems.push(format!("{}:{} {word}", source.path, index + 1));
            }
        }
    }
    report(&problems, "a commit holds what is done");
}

#[test]
fn unsafe_code_is_in_one_file() {
    // Put together from halves, so that this file does not find itself.
    let permit = ["allow(", "unsafe_code)"].concat();
    let found: Vec<String> = sources().into_iter().filter(|source| source.text.contains(&permit)).map(|source| source.path).collect();
    assert_eq!(found, ["ring/src/kernel.rs"], "who may say it, and why, stands in ring/src/lib.rs");
}

#[test]
fn main_is_a_table_of_contents() {
    // What it runs lives in the library, where tests reach it.
    let main = std::fs::read_to_string(workspace().join("proxy/src/main.rs")).expect("the binary has a main");
    assert!(main.lines().count() <= 200, "main is a table of contents");
}

#[test]
fn the_readme_names_each_setting() {
    let Ok(readme) = std::fs::read_to_string(workspace().join("README.md")) else { return };
    let settings = sidepool_config::settings::SETTINGS.iter().map(|setting| setting.name);
    let missing: Vec<String> = settings.filter(|name| !readme.contains(&format!("`{name}`"))).map(str::to_owned).collect();
    report(&missing, "settings that README.md does not name");
}

#[test]
fn shell_scripts_stop_at_the_first_error() {
    let mut problems = Vec::new();
    for script in ["tests/run", "tests/drivers/install", "deploy/quickstart", "deploy/packages", ".ci/run"] {
        let text = std::fs::read_to_string(workspace().join(script)).expect(script);
        if !text.starts_with("#!/usr/bin/env bash\n# ") || !text.contains("\nset -euo pipefail\n") {
            problems.push(format!("{script}: bash, a sentence about it, `set -euo pipefail`"));
        }
    }
    report(&problems, "scripts are careful");
}
