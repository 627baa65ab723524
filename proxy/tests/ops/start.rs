//! Starting: from URLs, from the environment, on ports that are taken, on Unix sockets.

use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Command;

use rustix::process::Signal;

use crate::harness::{Sidepool, command, config, file, run};

const LISTEN: [&str; 6] = ["--admin-listen", "127.0.0.1:0", "--postgres-listen", "127.0.0.1:0", "--redis-listen", "127.0.0.1:0"];

#[test]
fn one_line_is_enough_and_the_banner_says_how_to_go_on() {
    let urls =
        ["--postgres", "postgres://alice:hush-hush@127.0.0.1:1/app", "--redis", "redis://:hush-hush@127.0.0.1:1", "--pool-size", "7"];
    let sidepool = Sidepool::start(&[&urls[..], &LISTEN].concat());
    let psql = sidepool.wait_for("psql -h 127.0.0.1");
    assert!(psql.ends_with(" app"), "{psql}");
    sidepool.wait_for("redis-cli -h 127.0.0.1");
    assert!(sidepool.lines("pool of 7").len() >= 2, "{}", sidepool.said());
    assert_eq!(sidepool.get("/metrics").0, 200);
    assert!(!sidepool.said().contains("hush-hush"));
}

#[test]
fn urls_come_from_the_environment_when_nothing_else_is_said() {
    let mut by_environment = command(&LISTEN);
    by_environment.env("DATABASE_URL", "postgres://alice@127.0.0.1:1/shop");
    let sidepool = Sidepool::start_as(by_environment);
    assert!(sidepool.wait_for("psql").ends_with(" shop"));
}

#[test]
fn flags_win_over_the_file_and_go_on_winning_after_a_reload() {
    let directory = tempfile::tempdir().unwrap();
    let text = |size: u32, most: u32| config(&format!("pool_size = {size}\nmax_client_conn = {most}"));
    let path = file(directory.path(), "sidepool.toml", &text(5, 50));
    let flags = ["--pool-size", "7", "--workers", "2", "--log-format", "json", "--admin-listen", "127.0.0.1:0"];
    let sidepool = Sidepool::start(&[&[path.to_str().unwrap()][..], &flags].concat());
    sidepool.wait_for("pool of 7");
    assert_eq!(sidepool.metric("sidepool_workers"), 2.0);
    let changed =
        text(6, 60).replace("[admin]\nlisten = \"127.0.0.1:0\"", "workers = 1\n[log]\nformat = \"text\"\n[admin]\nlisten = \"off\"");
    file(directory.path(), "sidepool.toml", &changed);
    sidepool.wait_for_metric("sidepool_listener_client_connections_max{listener=\"redis/cache\"}", 60.0);
    sidepool.wait_for("configuration reloaded");
    assert!(sidepool.lines("pool_size").is_empty(), "the file has changed it, but the flag wins: {}", sidepool.said());
    assert_eq!(sidepool.metric("sidepool_config_restart_pending"), 0.0, "{}", sidepool.said());
}

#[test]
fn a_url_beside_a_file_is_refused() {
    let output = run(&["sidepool.toml", "--redis", "redis://127.0.0.1:1"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("'[FILE]' cannot be used with '--redis <URL>'"), "{said}");
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run(&["--redis", "redis://127.0.0.1:1", "--redis-listen", &address, "--admin-listen", "off"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("cannot listen on {address}")), "{said}");
}

#[test]
fn unix_sockets_are_made_and_removed_and_stale_ones_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("redis.sock");
    let text = config("").replace("listen = \"127.0.0.1:0\"\n\n", &format!("listen = \"unix:{}\"\n", socket.display()));
    let path = file(directory.path(), "sidepool.toml", &text);
    let mut first = Sidepool::with_file(&path);
    UnixStream::connect(&socket).unwrap();
    first.signal(Signal::KILL);
    first.ended();
    assert!(socket.exists(), "nobody could remove it");
    let mut second = Sidepool::with_file(&path);
    UnixStream::connect(&socket).unwrap();
    second.signal(Signal::TERM);
    assert!(second.ended().success());
    assert!(!socket.exists());
}

#[test]
fn several_workers_share_a_listener() {
    let sidepool = Sidepool::start(&[&["--redis", "redis://127.0.0.1:1", "--workers", "3"][..], &LISTEN].concat());
    let address = sidepool.wait_for("redis-cli").split(" -p ").nth(1).unwrap().to_owned();
    for _ in 0..12 {
        TcpStream::connect(format!("127.0.0.1:{address}")).unwrap();
    }
    sidepool.wait_for_metric("sidepool_listener_accepts_total{listener=\"redis/redis\"}", 12.0);
    assert_eq!(sidepool.metric("sidepool_workers"), 3.0);
    assert_eq!(sidepool.get("/livez").0, 200);
}

#[test]
fn running_out_of_file_descriptors_is_survived() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), "sidepool.toml", &config(""));
    let sidepool = Sidepool::with_file(&path);
    // Behind its back: what it knows of at its start it goes by, and nobody gets so far.
    let lowered = Command::new("prlimit").args(["--nofile=40:", "--pid", &sidepool.id().to_string()]).status().unwrap();
    assert!(lowered.success());
    let port = sidepool.wait_for("redis-cli").split(" -p ").nth(1).unwrap().to_owned();
    // More than there are descriptors: the last of them wait in the kernel until others have left.
    let clients: Vec<TcpStream> = (0..45).map(|_| TcpStream::connect(format!("127.0.0.1:{port}")).unwrap()).collect();
    sidepool.wait_for("cannot accept clients");
    drop(clients);
    sidepool.wait_for_metric("sidepool_listener_accepts_total{listener=\"redis/cache\"}", 45.0);
    assert!(sidepool.metric("sidepool_listener_accept_errors_total{listener=\"redis/cache\"}") >= 1.0);
}

#[test]
fn a_log_for_machines_is_json_to_the_last_line() {
    let mut sidepool = Sidepool::start(&[&["--redis", "redis://127.0.0.1:1", "--log-format", "json"][..], &LISTEN].concat());
    sidepool.signal(Signal::TERM);
    assert!(sidepool.ended().success());
    sidepool.wait_for("the end");
    for line in sidepool.said().lines() {
        let parsed: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(parsed["message"].is_string() && parsed["level"].is_string(), "{line}");
    }
}

#[test]
fn a_detailed_log_is_about_sidepool_unless_rust_log_asks_for_more() {
    let arguments = [&["--redis", "redis://127.0.0.1:1", "--log-level", "trace"][..], &LISTEN].concat();
    let detailed = |sidepool: &Sidepool| -> Vec<String> {
        assert_eq!(sidepool.get("/metrics").0, 200);
        sidepool.signal(Signal::TERM);
        sidepool.wait_for("the end");
        [sidepool.lines(" TRACE "), sidepool.lines(" DEBUG ")].concat()
    };
    let foreign = |line: &String| !line.contains(" sidepool");
    let lines = detailed(&Sidepool::start(&arguments));
    assert!(!lines.iter().any(foreign), "{lines:?}");
    let mut with_libraries = command(&arguments);
    with_libraries.env("RUST_LOG", "trace");
    assert!(detailed(&Sidepool::start_as(with_libraries)).iter().any(foreign));
}
