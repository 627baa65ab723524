//! `sidepool check`, and what happens to a configuration that cannot be used.

use crate::harness::{config, file, run};

#[test]
fn every_problem_is_reported_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let text = config("pool_sice = 5\nquery_wait_timeout = \"soon\"");
    let path = file(directory.path(), "sidepool.toml", &text);
    for arguments in [&["check", path.to_str().unwrap()][..], &[path.to_str().unwrap()][..]] {
        let output = run(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("sidepool.toml:6") && said.contains("pool_sice") && said.contains("pool_size"), "{said}");
        assert!(said.contains("sidepool.toml:7") && said.contains("query_wait_timeout") && said.contains("2 problems"), "{said}");
        assert!(output.stdout.is_empty(), "nothing was started");
    }
}

#[test]
fn a_good_file_is_summed_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), "sidepool.toml", &config("pool_size = 7\npassword = \"hush-hush\""));
    let output = run(&["check", path.to_str().unwrap()]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("ok") && said.contains("pool of 7"), "{said}");
    assert!(!said.contains("hush-hush"));
}

#[test]
fn nothing_to_do_is_said_so() {
    let output = run(&[]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("DATABASE_URL"), "{said}");
}

#[test]
fn the_flags_beside_the_file_are_checked_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), "sidepool.toml", &config(""));
    let output = run(&["check", path.to_str().unwrap(), "--pool-size", "0", "--postgres-listen", "127.0.0.1:0"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("command line: --pool-size: ") && said.contains("--postgres-listen: the file has no section"), "{said}");
}

#[test]
fn the_reference_of_all_settings_is_printed() {
    let output = run(&["settings"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(said.contains("[postgres.databases.NAME]") && said.contains("query_wait_timeout") && said.contains("DATABASE_URL"), "{said}");
}
