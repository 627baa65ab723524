//! Starts the real binary on free ports, reads what it says, and asks its admin listener.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

const STEP: Duration = Duration::from_millis(20);

/// Far beyond what anything here takes on a busy machine.
const STEPS: usize = 1500;

/// A running sidepool; killed when dropped.
pub(crate) struct Sidepool {
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
}

impl Sidepool {
    /// Starts it with these arguments, and waits for the banner.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_as(command(arguments))
    }

    /// Starts it with this configuration file.
    pub(crate) fn with_file(path: &Path) -> Self {
        Self::start(&[path.to_str().unwrap()])
    }

    /// Starts it by this command.
    pub(crate) fn start_as(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let said = Arc::new(Mutex::new(Vec::new()));
        listen_to(child.stdout.take().unwrap(), &said);
        listen_to(child.stderr.take().unwrap(), &said);
        let this = Self { child, said };
        this.wait_for("/metrics");
        this
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has said a line with `text` in it, and gives the line.
    pub(crate) fn wait_for(&self, text: &str) -> String {
        self.wait_for_times(text, 1)
    }

    /// Waits until it has said so many lines with `text` in them, and gives the last.
    pub(crate) fn wait_for_times(&self, text: &str, times: usize) -> String {
        until(|| self.lines(text).into_iter().nth(times - 1)).unwrap_or_else(|| panic!("never said {text:?}:\n{}", self.said()))
    }

    /// The lines with `text` in them.
    pub(crate) fn lines(&self, text: &str) -> Vec<String> {
        self.said.lock().unwrap().iter().filter(|line| line.contains(text)).cloned().collect()
    }

    /// All that it has said.
    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().join("\n")
    }

    /// `host:port` of the admin listener.
    pub(crate) fn admin(&self) -> String {
        let line = self.wait_for("http://");
        line.split("http://").nth(1).unwrap().split('/').next().unwrap().to_owned()
    }

    /// The status and the body that a path of the admin listener gives.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        get(&self.admin(), path)
    }

    /// The value of a series.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let (_, text) = self.get("/metrics");
        let line = text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
        line.unwrap_or_else(|| panic!("no {series} in\n{text}")).rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Waits until a series has this value.
    pub(crate) fn wait_for_metric(&self, series: &str, value: f64) {
        let reached = until(|| ((self.metric(series) - value).abs() < f64::EPSILON).then_some(()));
        assert!(reached.is_some(), "{series} is {}, not {value}:\n{}", self.metric(series), self.said());
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until it has ended.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        until(|| self.child.try_wait().unwrap()).unwrap_or_else(|| panic!("does not end:\n{}", self.said.lock().unwrap().join("\n")))
    }
}

impl Drop for Sidepool {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The binary with these arguments and an environment that says nothing.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidepool"));
    command.args(arguments).env_remove("DATABASE_URL").env_remove("REDIS_URL").env_remove("RUST_LOG");
    command
}

/// Runs the binary to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

/// Asks `host:port` for a path.
pub(crate) fn get(admin: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(admin).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Tries again until there is something, or until it has been long enough.
pub(crate) fn until<T>(mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    for _ in 0..STEPS {
        if let Some(found) = attempt() {
            return Some(found);
        }
        pause(STEP);
    }
    None
}

/// Waits.
pub(crate) fn pause(duration: Duration) {
    let (_keep, nothing): (_, Receiver<()>) = channel();
    let _ = nothing.recv_timeout(duration);
}

/// A configuration with one Redis server behind a listener on any port, and what else is said.
pub(crate) fn config(more_of_redis: &str) -> String {
    format!("[admin]\nlisten = \"127.0.0.1:0\"\n[redis.cache]\nurl = \"redis://127.0.0.1:1\"\nlisten = \"127.0.0.1:0\"\n{more_of_redis}\n")
}

/// Writes a file into a directory.
pub(crate) fn file(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, text).unwrap();
    path
}

fn listen_to(stream: impl Read + Send + 'static, said: &Arc<Mutex<Vec<String>>>) {
    let said = Arc::clone(said);
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            said.lock().unwrap().push(line);
        }
    });
}
