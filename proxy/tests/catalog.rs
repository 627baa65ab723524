//! That every cell of the metrics is fed somewhere: a series that never moves is worse than none.

use std::fs;
use std::path::Path;

use sidepool::observe::cells::{PoolCounter, PoolGauge, PoolHistogram, WorkerCounter, WorkerHistogram};

fn gather(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        let name = entry.file_name().into_string().unwrap();
        if path.is_dir() && !["observe", "admin", "tests"].contains(&name.as_str()) {
            gather(&path, text);
        } else if name.ends_with(".rs") && !name.contains("tests") {
            // What follows a module of unit tests feeds nothing.
            text.push_str(fs::read_to_string(&path).unwrap().split("\n#[cfg(test)]\nmod").next().unwrap());
        }
    }
}

#[test]
fn every_cell_is_fed_somewhere() {
    let mut text = String::new();
    gather(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut text);
    let is_word_end = |rest: &str| !rest.starts_with(|next: char| next.is_alphanumeric());
    let is_fed = |name: &String| text.match_indices(name.as_str()).any(|(at, _)| is_word_end(&text[at + name.len()..]));
    let cells = [
        PoolCounter::ALL.iter().map(|cell| format!("PoolCounter::{cell:?}")).collect::<Vec<_>>(),
        PoolGauge::ALL.iter().map(|cell| format!("PoolGauge::{cell:?}")).collect(),
        PoolHistogram::ALL.iter().map(|cell| format!("PoolHistogram::{cell:?}")).collect(),
        WorkerCounter::ALL.iter().map(|cell| format!("WorkerCounter::{cell:?}")).collect(),
        WorkerHistogram::ALL.iter().map(|cell| format!("WorkerHistogram::{cell:?}")).collect(),
    ];
    let starved: Vec<String> = cells.concat().into_iter().filter(|name| !is_fed(name)).collect();
    assert!(starved.is_empty(), "nobody adds to\n  {}", starved.join("\n  "));
}
