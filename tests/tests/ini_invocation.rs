//! `sidepool FILE.ini` as whoever runs PgBouncer starts it: flags, who it runs as, pidfile, daemon, sockets, problems with their lines.

use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use sidepool_tests::conformance::proves;
use sidepool_tests::ini::{IniPooler, Program};
use sidepool_tests::postgres::Cluster;
use sidepool_tests::postgres::cluster::{PASSWORD, USER};
use sidepool_tests::wait;

fn ini(cluster: &Cluster, more: &str) -> String {
    format!(
        "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = LISTEN_PORT\n\
         unix_socket_dir = SOCKET_DIRECTORY\nauth_type = trust\nauth_file = USERS_FILE\n{more}\n",
        cluster.port()
    )
}

fn users() -> String {
    format!("\"{USER}\" \"{PASSWORD}\"\n")
}

async fn psql(host: &str, port: u16, sql: &str) -> String {
    let mut command = tokio::process::Command::new("/usr/lib/postgresql/15/bin/psql");
    command
        .args(["-X", "-A", "-t", "-h", host, "-p", &port.to_string(), "-U", "app", "-d", "app", "-c", sql])
        .env("PGCONNECT_TIMEOUT", "20");
    let output = wait::soon("psql", command.output()).await.expect("psql starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Runs it with `words`, in which `FILE` is the ini file.
async fn run(ini: &str, words: &str) -> (Option<i32>, String, std::path::PathBuf) {
    let directory = IniPooler::directory_with(ini);
    let file = directory.join("pgbouncer.ini").to_string_lossy().into_owned();
    let words: Vec<&str> = words.split_whitespace().map(|word| if word == "FILE" { file.as_str() } else { word }).collect();
    let (status, said) = IniPooler::run(&directory, &words).await;
    (status.code(), said, directory)
}

fn pid_in(path: &Path) -> Option<Pid> {
    Pid::from_raw(fs::read_to_string(path).ok()?.trim().parse().ok()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_comes_in_over_tcp_and_over_the_unix_socket() {
    let _proof =
        proves(&["setting listen_addr", "setting listen_port", "setting unix_socket_dir", "setting auth_file", "setting auth_type"]);
    let cluster = Cluster::start().await;
    let pool = IniPooler::start(Program::Sidepool, &ini(&cluster, ""), &users()).await;
    assert_eq!(psql("127.0.0.1", pool.port(), "SELECT 1").await, "1");
    assert_eq!(psql(&pool.directory().to_string_lossy(), pool.port(), "SELECT 2").await, "2");
    let log = pool.process().log();
    log.line_with(&format!("listening on 127.0.0.1:{}", pool.port())).await;
    log.line_with(&format!("listening on unix:{}/.s.PGSQL.{}", pool.directory().display(), pool.port())).await;
    let up = log.line_with("process up: PgBouncer 1.25.2").await;
    let shape: String = up.chars().take(29).map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
    assert!(shape.starts_with("9999-99-99 99:99:99.999 "), "{up}");
    assert!(up.contains(&format!(" [{}] LOG process up", pool.process().id())), "{up}");
    log.line_with("kernel file descriptor limit: ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abstract_socket_has_no_file() {
    let cluster = Cluster::start().await;
    let name = format!("@sidepool-{}", std::process::id());
    let text = ini(&cluster, "").replace("unix_socket_dir = SOCKET_DIRECTORY", &format!("unix_socket_dir = {name}"));
    let pool = IniPooler::start(Program::Sidepool, &text, &users()).await;
    assert_eq!(psql(&name, pool.port(), "SELECT 1").await, "1");
    assert!(!pool.directory().join(format!(".s.PGSQL.{}", pool.port())).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn version_and_help_and_mistakes_on_the_command_line() {
    let _proof = proves(&["flag -V", "flag -h"]);
    let (code, said, _) = run("", "-V FILE").await;
    assert!(
        code == Some(0) && said.starts_with("PgBouncer 1.25.2\nsidepool ") && said.contains("\nadns: ") && said.contains("\ntls: "),
        "{said}"
    );
    let (code, said, _) = run("", "FILE --help").await;
    assert!(code == Some(0) && said.contains("-R, --reboot"), "{said}");
    for (words, expected) in [("FILE -x", "invalid option -- 'x'"), ("FILE FILE", "more than one"), ("FILE --what", "unrecognized option")]
    {
        let (code, said, _) = run("", words).await;
        assert!(code == Some(1) && said.contains(expected) && said.contains("Try \""), "{words}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_problem_is_said_with_its_file_and_line_and_nothing_starts() {
    let text = "[databases]\na = host=h pool_sise=1\n[pgbouncer]\npool_mode = tx\nlisten_adr = x\n%include SOCKET_DIRECTORY/gone.ini\n";
    let (code, said, directory) = run(text, "-q FILE").await;
    let file = directory.join("pgbouncer.ini").display().to_string();
    assert_eq!(code, Some(1));
    for expected in [
        format!("ERROR unrecognized connection parameter: pool_sise in configuration ({file}:2)"),
        format!("ERROR invalid value \"tx\" for parameter pool_mode in configuration ({file}:4): expected"),
        format!("ERROR unknown parameter: pgbouncer/listen_adr in configuration ({file}:5): did you mean"),
        "gone.ini".to_owned(),
        "FATAL cannot load config file".to_owned(),
    ] {
        assert!(said.contains(&expected), "{expected}\n{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn roots_process_becomes_somebody_or_ends() {
    let _proof = proves(&["setting user", "flag -u"]);
    if !rustix::process::getuid().is_root() {
        return;
    }
    let run_as_root = |words: Vec<String>| async move {
        let mut command = tokio::process::Command::new(sidepool_tests::binary::path(sidepool_tests::binary::Build::Checked));
        let output = wait::soon("sidepool", command.args(words).output()).await.expect("it starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let directory = IniPooler::directory_with("[pgbouncer]\nunix_socket_dir = SOCKET_DIRECTORY\n");
    let file = directory.join("pgbouncer.ini").to_string_lossy().into_owned();
    let (code, said) = run_as_root(vec![file.clone()]).await;
    assert!(code == Some(1) && said.contains("FATAL PgBouncer should not run as root"), "{said}");
    let (code, said) = run_as_root(vec!["-u".to_owned(), "no-such-user".to_owned(), file.clone()]).await;
    assert!(code == Some(1) && said.contains("FATAL could not find user 'no-such-user' to switch to"), "{said}");
    // The directory stays root's, so what it becomes cannot listen there: that is how the change shows.
    let (code, said) = run_as_root(vec!["-u".to_owned(), "nobody".to_owned(), file]).await;
    assert!(code == Some(1) && said.contains("Permission denied"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_living_process_is_not_disturbed() {
    let _proof = proves(&["setting pidfile"]);
    let cluster = Cluster::start().await;
    let text = ini(&cluster, "pidfile = SOCKET_DIRECTORY/pid\n");
    let mut pool = IniPooler::start(Program::Sidepool, &text, &users()).await;
    let (file, pidfile) = (pool.directory().join("pgbouncer.ini"), pool.directory().join("pid"));
    let file = file.to_string_lossy();
    let pid = wait::until("the pidfile", async || pid_in(&pidfile)).await;
    assert_eq!(pid.as_raw_nonzero().get().unsigned_abs(), pool.process().id());
    let (status, said) = IniPooler::run(pool.directory(), &[&file]).await;
    assert!(status.code() == Some(1) && said.contains("FATAL unix socket is in use, cannot continue"), "{said}");
    pool.rewrite(&text.replace("unix_socket_dir = SOCKET_DIRECTORY", "unix_socket_dir ="));
    let (status, said) = IniPooler::run(pool.directory(), &[&file]).await;
    assert!(status.code() == Some(1) && said.contains("exists, another instance running?"), "{said}");
    pool.process().signal(Signal::TERM);
    assert!(pool.process_mut().ended().await.success());
    assert!(!pidfile.exists(), "removed at the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_is_up_when_its_starter_has_ended() {
    let _proof = proves(&["flag -d", "setting logfile"]);
    let cluster = Cluster::start().await;
    let (code, said, _) = run(&ini(&cluster, ""), "-d FILE").await;
    assert!(code == Some(1) && said.contains("FATAL daemon needs pidfile configured"), "{said}");
    let more = "pidfile = SOCKET_DIRECTORY/pid\nlogfile = SOCKET_DIRECTORY/log\n";
    let (code, said, directory) = run(&ini(&cluster, more), "-d FILE").await;
    assert!(code == Some(0) && said.is_empty(), "{said}");
    let pid = pid_in(&directory.join("pid")).expect("written before the starter ended");
    let text =
        wait::until("the log", async || fs::read_to_string(directory.join("log")).ok().filter(|text| text.contains("process up"))).await;
    let port =
        text.lines().find_map(|line| line.split("listening on 127.0.0.1:").nth(1)).expect("the log says where").trim().parse().unwrap();
    assert_eq!(psql("127.0.0.1", port, "SELECT 1").await, "1");
    kill_process(pid, Signal::INT).unwrap();
    wait::until("the daemon's end", async || test_kill_process(pid).is_err().then_some(())).await;
    assert!(!directory.join("pid").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_pidfile_is_replaced() {
    let cluster = Cluster::start().await;
    let mut child = std::process::Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let directory = IniPooler::directory_with("");
    let pidfile = directory.join("stale");
    fs::write(&pidfile, format!("{}\n", child.id())).unwrap();
    std::os::unix::fs::chown(&directory, Some(65534), None).ok();
    let pool = IniPooler::start(Program::Sidepool, &ini(&cluster, &format!("pidfile = {}\n", pidfile.display())), &users()).await;
    pool.process().log().line_with("LOG stale pidfile, removing").await;
    pool.process().log().line_with("process up").await;
    let pid = wait::until("the pidfile", async || pid_in(&pidfile)).await;
    assert_eq!(pid.as_raw_nonzero().get().unsigned_abs(), pool.process().id());
}

#[tokio::test(flavor = "multi_thread")]
async fn quiet_writes_to_the_logfile_alone_and_verbose_writes_more() {
    let _proof = proves(&["flag -q", "flag -v", "setting verbose"]);
    let cluster = Cluster::start().await;
    let more = "pidfile = SOCKET_DIRECTORY/pid\nlogfile = SOCKET_DIRECTORY/log\n";
    let (code, said, directory) = run(&ini(&cluster, more), "-qvd FILE").await;
    assert!(code == Some(0) && said.is_empty(), "{said}");
    let log = directory.join("log");
    wait::until("the log", async || fs::read_to_string(&log).ok().filter(|text| text.contains("process up"))).await;
    let pid = pid_in(&directory.join("pid")).expect("a daemon");
    kill_process(pid, Signal::QUIT).unwrap();
    wait::until("the daemon's end", async || test_kill_process(pid).is_err().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migrated_file_is_accepted_and_means_the_same() {
    let cluster = Cluster::start().await;
    let directory = IniPooler::directory_with(&ini(&cluster, "pool_mode = transaction\npidfile = x\nmetrics_listen = 127.0.0.1:19\n"));
    let file = directory.join("pgbouncer.ini").to_string_lossy().into_owned();
    let (status, toml) = IniPooler::run(&directory, &["migrate", &file]).await;
    assert!(status.success() && toml.contains("# pidfile has no equal: "), "{toml}");
    fs::write(directory.join("sidepool.toml"), &toml).unwrap();
    let path = directory.join("sidepool.toml").to_string_lossy().into_owned();
    let (status, said) = IniPooler::run(&directory, &["check", &path]).await;
    assert!(status.success(), "{said}\n{toml}");
    let (status, of_ini) = IniPooler::run(&directory, &["check", &file]).await;
    assert!(status.success(), "{of_ini}");
    let summary = |said: &str| said.split(": ok\n").nth(1).map(str::to_owned);
    assert_eq!(summary(&said), summary(&of_ini));
}
