//! The log in PgBouncer's words: who comes and goes, servers too, what clients are told, the summary of each period, and what turns them off.

use std::os::unix::fs::PermissionsExt as _;

use sidepool_tests::conformance::proves;
use sidepool_tests::ini::{IniPooler, Program};
use sidepool_tests::postgres::cluster::{PASSWORD, USER};
use sidepool_tests::postgres::{Cluster, Wire, frame};
use sidepool_tests::{place, wait};

async fn start(cluster: &Cluster, more: &str) -> IniPooler {
    let ini = format!(
        "[databases]\napp = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = LISTEN_PORT\n\
         unix_socket_dir =\nauth_type = plain\nauth_file = USERS_FILE\npool_mode = transaction\n{more}\n",
        cluster.port()
    );
    IniPooler::start(Program::Sidepool, &ini, &format!("\"{USER}\" \"{PASSWORD}\"\n")).await
}

/// What stands behind the prefix of a client's or a server's line, which is looked at as well.
fn behind_prefix<'l>(line: &'l str, kind: char, who: &str) -> &'l str {
    let (_, rest) = line.split_once("] ").expect("a process number");
    let (_, rest) = rest.split_once(' ').expect("a level");
    let (number, rest) = rest.split_once(": ").expect("a connection");
    let digits = number.strip_prefix(&format!("{kind}-0x")).unwrap_or_else(|| panic!("{line}"));
    assert!(digits.len() == 12 && digits.chars().all(|digit| digit.is_ascii_hexdigit()), "{line}");
    let rest = rest.strip_prefix(&format!("{who}@127.0.0.1:")).unwrap_or_else(|| panic!("{line}"));
    rest.split_once(' ').expect("a port").1
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_and_servers_come_and_go() {
    let _proof = proves(&["setting log_connections", "setting log_disconnections", "setting server_idle_timeout"]);
    let cluster = Cluster::start().await;
    let pool = start(&cluster, "server_idle_timeout = 0.2\n").await;
    let log = pool.process().log();
    let mut wire = Wire::login(pool.port(), USER, "app", PASSWORD).await;
    assert_eq!(wire.value("SELECT 1").await, "1");
    let line = log.line_with("login attempt").await;
    assert_eq!(behind_prefix(&line, 'C', "app/app"), "login attempt: db=app user=app tls=no replication=no");
    let line = log.line_with("new connection to server").await;
    assert!(line.contains(&format!("@127.0.0.1:{} ", cluster.port())), "{line}");
    assert!(behind_prefix(&line, 'S', "app/app").starts_with("new connection to server (from 127.0.0.1:"), "{line}");

    wire.send(b"X\0\0\0\x04").await;
    let line = log.line_with("client close request").await;
    assert!(behind_prefix(&line, 'C', "app/app").starts_with("closing because: client close request (age="), "{line}");
    drop(Wire::login(pool.port(), USER, "app", PASSWORD).await);
    log.line_with("closing because: client unexpected eof (age=").await;
    let line = log.line_with("server idle timeout").await;
    assert!(behind_prefix(&line, 'S', "app/app").starts_with("closing because: server idle timeout (age="), "{line}");
    assert!(log.lines().iter().all(|line| !line.contains(PASSWORD)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_are_told_is_logged() {
    let _proof = proves(&["setting log_pooler_errors"]);
    let cluster = Cluster::start().await;
    let pool = start(&cluster, "client_login_timeout = 5\n").await;
    let log = pool.process().log();
    let login = async |user: &str, database: &str, password: &str| {
        Wire::try_login(pool.port(), &[("user", user), ("database", database)], password).await.err().expect("refused")
    };
    login(USER, "app", "wrong").await;
    let line = log.line_with("WARNING C-").await;
    assert_eq!(behind_prefix(&line, 'C', "app/app"), "pooler error: password authentication failed");
    log.line_with("closing because: password authentication failed").await;
    let from = log.len();
    login(USER, "nothing\nhere", PASSWORD).await;
    let line = log.line_with_after(from, "login failed: db=nothing\\nhere user=app").await;
    assert!(line.contains(" LOG C-"), "{line}");
    let line = log.line_with_after(from, "pooler error: no such database: nothing\\nhere").await;
    assert!(line.contains(" WARNING C-") && line.contains(": nothing\\nhere/app@"), "{line}");

    let from = log.len();
    let mut slow = Wire::connect(pool.port()).await;
    slow.send(&frame::startup(&[("user", USER), ("database", "app")])).await;
    slow.until_closed().await;
    let line = log.line_with_after(from, "pooler error: client_login_timeout").await;
    assert!(line.contains(": app/app@"), "who it said it was: {line}");
    log.line_with_after(from, "closing because: client_login_timeout").await;

    let from = log.len();
    let mut wire = Wire::login(pool.port(), USER, "app", PASSWORD).await;
    wire.query("SELECT 1").await;
    wire.send(b"!\0\0\0\x04").await;
    wire.until_closed().await;
    let told = log.line_with_after(from, "pooler error: ").await;
    let (_, message) = told.split_once("pooler error: ").unwrap();
    let closed = log.line_with_after(from, "closing because: ").await;
    assert!(closed.contains(&format!("closing because: {message} (age=")), "{closed} {message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_line_can_be_turned_off() {
    let cluster = Cluster::start().await;
    let pool =
        start(&cluster, "log_connections = 0\nlog_disconnections = 0\nlog_pooler_errors = 0\nlog_stats = 0\nstats_period = 1\n").await;
    let mut wire = Wire::login(pool.port(), USER, "app", PASSWORD).await;
    wire.query("SELECT 1").await;
    Wire::try_login(pool.port(), &[("user", USER), ("database", "app")], "wrong").await.err().expect("refused");
    drop(wire);
    pool.process().signal(sidepool_tests::process::Signal::USR1);
    wait::until("the servers to be closed", async || (cluster.connections().await == 0).then_some(())).await;
    for line in pool.process().log().lines() {
        for word in ["login attempt", "closing because", "pooler error", "new connection", "stats:"] {
            assert!(!line.contains(word), "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_period_has_its_summary() {
    let _proof = proves(&["setting log_stats", "setting stats_period"]);
    let cluster = Cluster::start().await;
    let pool = start(&cluster, "stats_period = 1\n").await;
    let mut wire = Wire::login(pool.port(), USER, "app", PASSWORD).await;
    wire.send(&frame::query("SELECT 1")).await;
    wire.until_ready().await;
    let line = pool.process().log().line_with("LOG stats: ").await;
    let shape: String = line.split("LOG ").nth(1).unwrap().chars().filter(|c| !c.is_ascii_digit()).collect();
    assert_eq!(
        shape,
        "stats:  xacts/s,  queries/s,  client parses/s,  server parses/s,  binds/s, in  B/s, out  B/s, xact  us, query  us, wait  us"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_no_is_in_the_log() {
    let mut cluster = Cluster::start().await;
    let pool = start(&cluster, "server_login_retry = 1\n").await;
    let mut wire = Wire::login(pool.port(), USER, "app", PASSWORD).await;
    wire.query("SELECT 1").await;
    cluster.stop();
    pool.process().log().line_with("closing because: server conn crashed? (age=").await;
    wire.send(&frame::query("SELECT 2")).await;
    let line = pool.process().log().line_with("closing because: connect failed (age=").await;
    assert!(line.contains(&format!(": app/app@127.0.0.1:{} closing", cluster.port())) && line.contains(" LOG S-"), "{line}");
    let line = pool.process().log().line_with("cannot connect to the server").await;
    assert!(line.contains(" WARNING ") && line.contains("Connection refused"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_systems_log_gets_each_line_under_the_name_and_facility_that_are_set() {
    let _proof = proves(&["setting syslog", "setting syslog_ident", "setting syslog_facility"]);
    let directory = place::directory("syslog");
    let path = directory.join("log");
    let socket = tokio::net::UnixDatagram::bind(&path).expect("our own directory");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).expect("our own file");
    let ini = "[databases]\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = LISTEN_PORT\nunix_socket_dir =\nauth_type = trust\n\
               syslog = 1\nsyslog_ident = my-pooler\nsyslog_facility = local3\n";
    let elsewhere = [("SIDEPOOL_SYSLOG_SOCKET", &*path.to_string_lossy())];
    let pool = IniPooler::start_in(&elsewhere, Program::Sidepool, ini, "", &[]).await;
    let told = async |what: &str| {
        loop {
            let mut line = vec![0; 4096];
            let length = wait::soon(what, socket.recv(&mut line)).await.expect("a datagram");
            let line = String::from_utf8_lossy(&line[..length]).into_owned();
            if line.contains(what) {
                return line;
            }
        }
    };
    // Facility 19, severity 6, and no time: that is the system's affair.
    let start = format!("<158>my-pooler[{}]: process up: PgBouncer", pool.process().id());
    let line = told("process up").await;
    assert!(line.starts_with(&start) && !line.ends_with('\n'), "{line}");
    Wire::try_login(pool.port(), &[("user", USER), ("database", "none")], "").await.err().expect("nobody is known");
    let line = told("pooler error").await;
    assert!(line.starts_with("<156>my-pooler[") && line.contains("]: C-0x"), "a warning: {line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_to_the_console_is_logged_like_everybody() {
    let cluster = Cluster::start().await;
    let pool = start(&cluster, "admin_users = app\n").await;
    let log = pool.process().log();
    // Who looked whether it listens.
    log.line_with("(nodb)/(nouser)").await;
    for (command, goodbye, reason) in [
        ("SHOW VERSION", true, "client close request"),
        ("nonsense", false, "client unexpected eof"),
        ("RELOAD", true, "client close request"),
    ] {
        let from = log.len();
        let mut wire = Wire::login(pool.port(), USER, "pgbouncer", PASSWORD).await;
        wire.query(command).await;
        let line = log.line_with_after(from, "login attempt").await;
        assert_eq!(behind_prefix(&line, 'C', "pgbouncer/app"), "login attempt: db=pgbouncer user=app tls=no replication=no");
        if command == "nonsense" {
            let line = log.line_with_after(from, "WARNING C-").await;
            assert_eq!(behind_prefix(&line, 'C', "pgbouncer/app"), "pooler error: invalid command 'nonsense', use SHOW HELP;");
        }
        if goodbye {
            wire.send(b"X\0\0\0\x04").await;
        }
        drop(wire);
        let line = log.line_with_after(from, "closing because").await;
        assert!(behind_prefix(&line, 'C', "pgbouncer/app").starts_with(&format!("closing because: {reason} (age=")), "{line}");
    }
    let mut wire = Wire::login(pool.port(), USER, "pgbouncer", PASSWORD).await;
    wire.send(&frame::message(b'F', b"\0\0\0\0")).await;
    wire.until_closed().await;
    log.line_with("closing because: unsupported packet type for admin console: 70 (age=").await;
    assert!(log.lines().iter().all(|line| !line.contains("console session")));
}
