//! `sidepool check`: all problems of a file at once, each with its key path, its line and the nearest valid name.

use std::process::{Command, Output};

use sidepool_tests::binary::{Build, path};
use sidepool_tests::place;

fn check(text: &str) -> Output {
    let file = place::directory("check").join("sidepool.toml");
    std::fs::write(&file, text).expect("our own directory");
    Command::new(path(Build::Checked)).arg("check").arg(&file).output().expect("it starts")
}

fn printed(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_good_file_is_said_to_be_good() {
    let output = check("[postgres.databases.app]\nhost = \"127.0.0.1\"\n\n[postgres.users.app]\npassword = \"secret-77\"\n");
    assert!(output.status.success(), "{}", printed(&output));
    assert!(!printed(&output).contains("secret-77"));
}

#[test]
fn all_problems_are_told_at_once() {
    let output = check(
        "[postgres]\nauth_type = \"trsut\"\ndefault_pool_siz = 20\nquery_wait_timeout = \"ten seconds\"\n\n\
         [postgres.databases.app]\nhost = \"127.0.0.1\"\npool_size = 0\npool_mode = \"transactoin\"\n\n[rediss.main]\nport = 99999\n",
    );
    assert_eq!(output.status.code(), Some(2), "{}", printed(&output));
    let text = printed(&output);
    let expected = [
        ("trsut", "trust"),
        ("default_pool_siz", "default_pool_size"),
        ("query_wait_timeout", "ten seconds"),
        ("pool_size", "0"),
        ("transactoin", "transaction"),
        ("rediss", "redis"),
    ];
    for (problem, help) in expected {
        assert!(
            text.lines().any(|line| line.contains(problem) && line.contains(help)),
            "{problem} and {help} are not in one line of:\n{text}"
        );
    }
    for line in ["2", "3", "4", "8", "9"] {
        assert!(text.contains(&format!(":{line}")) || text.contains(&format!("line {line}")), "line {line} is not named:\n{text}");
    }
    assert!(text.contains("postgres.databases.app.pool_mode"), "the key path:\n{text}");
}

#[test]
fn what_is_not_toml_is_told_with_its_line() {
    let output = check("[postgres]\nlisten = [\n");
    assert_eq!(output.status.code(), Some(2));
    assert!(printed(&output).contains('2') || printed(&output).contains('3'), "{}", printed(&output));
    let missing = Command::new(path(Build::Checked)).args(["check", "/nowhere/sidepool.toml"]).output().expect("it starts");
    assert_eq!(missing.status.code(), Some(2));
    assert!(printed(&missing).contains("/nowhere/sidepool.toml"));
}

#[test]
fn a_bad_file_is_refused_before_anything_is_bound() {
    let file = place::directory("check").join("sidepool.toml");
    std::fs::write(&file, "[postgres]\nnonsense = 1\n").expect("our own directory");
    let output = Command::new(path(Build::Checked)).arg(&file).output().expect("it starts");
    assert_eq!(output.status.code(), Some(2), "an exit code of its own");
    assert!(printed(&output).contains("nonsense"));
}
