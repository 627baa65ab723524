//! Load by the field's own tools: pgbench and redis-benchmark, with what they report.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::place;
use crate::postgres::cluster::{PASSWORD, USER, program};
use crate::wait;

/// What pgbench reports of a run without errors.
#[derive(Debug, Clone, Copy)]
pub struct Pgbench {
    /// Transactions done.
    pub transactions: u64,
    /// Transactions a second, without the time for connecting.
    pub per_second: f64,
}

/// Makes pgbench's tables in database `app`, with 100,000 accounts for each of `scale` branches.
pub async fn pgbench_tables(port: u16, scale: u32) {
    run(pgbench_command(port, &["-i", "-q", "-s", &scale.to_string()])).await;
}

/// Runs pgbench against database `app`; any failed transaction, aborted client or error line fails the test.
pub async fn pgbench(port: u16, arguments: &[&str]) -> Pgbench {
    let text = run(pgbench_command(port, arguments)).await;
    let number = |label: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(label)).unwrap_or_else(|| panic!("no {label:?} in:\n{text}"));
        let end = line.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(line.len());
        line[..end].parse::<f64>().unwrap_or_else(|_| panic!("{label:?} is not a number in:\n{text}"))
    };
    assert!(number("number of failed transactions: ") == 0.0, "pgbench saw failures:\n{text}");
    assert!(!text.contains("error") && !text.contains("aborted"), "pgbench saw errors:\n{text}");
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
    let transactions = number("number of transactions actually processed: ") as u64;
    Pgbench { transactions, per_second: number("tps = ") }
}

fn pgbench_command(port: u16, arguments: &[&str]) -> Command {
    let mut command = Command::new(program("pgbench"));
    command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-U", USER]).args(arguments).arg("app").env("PGPASSWORD", PASSWORD);
    command
}

/// A file with a pgbench script.
pub fn script(text: &str) -> String {
    let path = place::directory("pgbench").join("script.sql");
    std::fs::write(&path, text).expect("our own directory");
    path.to_string_lossy().into_owned()
}

/// Runs redis-benchmark; any error line fails the test. Gives its lines, one for each kind of request.
pub async fn redis_benchmark(port: u16, arguments: &[&str]) -> Vec<String> {
    let mut command = Command::new("redis-benchmark");
    command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-q"]).args(arguments);
    let text = run(command).await;
    assert!(!text.to_lowercase().contains("error"), "redis-benchmark saw errors:\n{text}");
    text.split(['\r', '\n']).filter(|line| line.contains("requests per second")).map(str::to_owned).collect()
}

async fn run(mut command: Command) -> String {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let what = format!("{command:?}");
    let output = wait::within(Duration::from_secs(180), &what, command.output()).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{what} ended with {}:\n{text}", output.status);
    text
}
