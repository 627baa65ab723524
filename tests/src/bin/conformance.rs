//! Makes the public table `tests/CONFORMANCE.md`: each setting, command, column and message of PgBouncer with the tests that have just proven it.
//!
//! `conformance CLAIMS` compares the file with what the tests in the directory CLAIMS have written down, and fails where it is another;
//! `conformance CLAIMS --write` writes it. What no test claims stands in it with an empty second column.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

const ITEMS: &str = include_str!("../../conformance/items.txt");
const HEAD: &str = "\
# What of PgBouncer is here, and which test shows it

Made by `tests/run` from the tests that have passed (`tests/src/conformance.rs`); the file is checked in each run. Where sidepool answers
otherwise on purpose, `tests/tests/pgbouncer_comparison/differences.rs` says why, line by line. An empty second column: no test claims it.
";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let claims = arguments.next().expect("usage: conformance CLAIMS [--write]");
    let write = arguments.next().is_some_and(|argument| argument == "--write");
    let proofs = proofs(Path::new(&claims));
    let lines = ITEMS.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let items: Vec<(&str, &str)> = lines.map(|line| line.split_once('\t').unwrap_or((line, ""))).collect();
    let unknown: Vec<&String> = proofs.keys().filter(|item| !items.iter().any(|(known, _)| known == item)).collect();
    let table = table(&items, &proofs);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("CONFORMANCE.md");
    let mut good = true;
    for item in unknown {
        println!("a test proves what is not in items.txt: {item}");
        good = false;
    }
    if write {
        std::fs::write(&path, &table).expect("the table can be written");
    } else if std::fs::read_to_string(&path).unwrap_or_default() != table {
        println!("{} is not what the tests have shown: run the program with --write and commit it", path.display());
        good = false;
    }
    println!("{} items, {} of them proven", items.len(), items.iter().filter(|(item, _)| proofs.contains_key(*item)).count());
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Who has proven what.
fn proofs(claims: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut proofs: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for entry in std::fs::read_dir(claims).expect("tests have written down what they prove").flatten() {
        let text = std::fs::read_to_string(entry.path()).expect("a text");
        for (item, by) in text.lines().filter_map(|line| line.split_once('\t')) {
            proofs.entry(item.to_owned()).or_default().insert(by.to_owned());
        }
    }
    proofs
}

fn table(items: &[(&str, &str)], proofs: &BTreeMap<String, BTreeSet<String>>) -> String {
    let mut text = HEAD.to_owned();
    let mut last = "";
    for (item, otherwise) in items {
        let (kind, name) = item.split_once(' ').expect("KIND NAME");
        if kind != last {
            let _ = writeln!(text, "\n## {}\n\n| {kind} | shown by |\n|---|---|", title(kind));
            last = kind;
        }
        let why = Some(*otherwise).filter(|why| !why.is_empty()).map(|why| format!("otherwise on purpose: {why}"));
        let shown = proofs.get(*item).into_iter().flatten().cloned().chain(why).collect::<Vec<_>>();
        let _ = writeln!(text, "| `{}` | {} |", name.replace('|', "\\|"), shown.join("<br>"));
    }
    text
}

fn title(kind: &str) -> &str {
    match kind {
        "setting" => "Settings",
        "flag" => "Flags",
        "signal" => "Signals",
        "command" => "Commands of the console",
        "column" => "Columns of its tables",
        "message" => "Messages to clients",
        "log" => "Lines of the log",
        "feature" => "Other features",
        other => panic!("items.txt has an item of no known kind: {other}"),
    }
}
