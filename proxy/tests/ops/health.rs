//! Health: what each endpoint says before, during and after a drain, and what the metrics look like to Prometheus.

use std::io::Write;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Sidepool, config, file, get, pause, run};

#[test]
fn not_ready_at_once_alive_to_the_end_and_exit_0() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), "sidepool.toml", &format!("{}[drain]\naccept_for = \"1500ms\"\n", config("")));
    let mut sidepool = Sidepool::with_file(&path);
    let admin = sidepool.admin();
    let port = sidepool.wait_for("redis-cli").split(" -p ").nth(1).unwrap().to_owned();
    for path in ["/livez", "/healthz", "/-/healthy", "/readyz", "/-/ready", "/startupz"] {
        assert_eq!(get(&admin, path), (200, "ok\n".to_owned()), "{path}");
    }
    assert_eq!(sidepool.metric("sidepool_draining"), 0.0);
    sidepool.signal(Signal::TERM);
    sidepool.wait_for("draining");
    assert_eq!(get(&admin, "/readyz"), (503, "draining\n".to_owned()));
    assert_eq!(get(&admin, "/livez").0, 200);
    assert_eq!(sidepool.metric("sidepool_draining"), 1.0);
    TcpStream::connect(format!("127.0.0.1:{port}")).expect("new clients are still accepted");
    assert!(sidepool.ended().success());
    assert!(TcpStream::connect(format!("127.0.0.1:{port}")).is_err());
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), "sidepool.toml", &format!("{}[drain]\naccept_for = \"20s\"\n", config("")));
    let mut sidepool = Sidepool::with_file(&path);
    sidepool.signal(Signal::INT);
    sidepool.wait_for("draining");
    sidepool.signal(Signal::INT);
    assert!(sidepool.ended().success());
    sidepool.wait_for("second time");
}

#[test]
fn healthcheck_and_wait_ask_the_running_one() {
    let directory = tempfile::tempdir().unwrap();
    let sidepool = Sidepool::with_file(&file(directory.path(), "sidepool.toml", &config("")));
    let url = format!("http://{}", sidepool.admin());
    assert_eq!(run(&["healthcheck", "--url", &url]).status.code(), Some(0));
    assert_eq!(run(&["wait", "--url", &url, "--timeout", "5s"]).status.code(), Some(0));
    drop(sidepool);
    assert_eq!(run(&["healthcheck", "--url", &url]).status.code(), Some(1));
    assert_eq!(run(&["wait", "--url", &url, "--timeout", "300ms"]).status.code(), Some(1));
}

#[test]
fn prometheus_likes_the_metrics() {
    let directory = tempfile::tempdir().unwrap();
    let sidepool = Sidepool::with_file(&file(directory.path(), "sidepool.toml", &config("")));
    let (status, text) = sidepool.get("/metrics");
    assert_eq!(status, 200);
    let mut promtool = match Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
    {
        Ok(child) => child,
        Err(error) => return eprintln!("promtool cannot be started ({error}): not asked"),
    };
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn those_who_ask_slowly_are_closed_and_hinder_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let sidepool = Sidepool::with_file(&file(directory.path(), "sidepool.toml", &config("")));
    let admin = sidepool.admin();
    let mut slow: Vec<TcpStream> = (0..80).map(|_| TcpStream::connect(&admin).unwrap()).collect();
    for stream in &mut slow {
        stream.write_all(b"GET /met").unwrap();
    }
    pause(Duration::from_millis(100));
    assert_eq!(get(&admin, "/livez").0, 200, "waits for the slow ones to be closed, no longer");
}

#[test]
fn unknown_paths_and_large_heads_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let sidepool = Sidepool::with_file(&file(directory.path(), "sidepool.toml", &config("")));
    assert_eq!(sidepool.get("/nothing").0, 404);
    assert_eq!(sidepool.get("/").0, 200);
    assert_eq!(sidepool.get("/statusz").0, 200);
    assert!(sidepool.get(&format!("/{}", "x".repeat(60_000))).0 >= 400);
}
