//! A server we started: its log, its signals, its appetite, and its end at the latest when the test ends.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Once;
use std::time::Duration;

pub use rustix::process::Signal;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, kill_process, setrlimit};

use crate::guardian;
use crate::log::Log;
use crate::wait;

/// A running process. Dropping it ends it; when the test is failing, its last words are printed.
pub struct Process {
    name: String,
    child: Child,
    log: Log,
    last_signal: Signal,
}

impl Process {
    /// Starts `command` (taken by value: its copies of the log's pipe must close).
    pub fn spawn(name: &str, mut command: Command) -> Self {
        raise_file_limit();
        let (reader, writer) = std::io::pipe().expect("a pipe");
        command.stdin(Stdio::null()).stdout(writer.try_clone().expect("a second end")).stderr(writer);
        let child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start ({error}): {command:?}"));
        guardian::watch(child.id());
        Self { name: name.to_owned(), child, log: Log::collect(reader), last_signal: Signal::KILL }
    }

    /// The signal that ends it on drop, where KILL would leave something behind.
    #[must_use]
    pub fn ended_by(mut self, signal: Signal) -> Self {
        self.last_signal = signal;
        self
    }

    /// What it printed.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a process id")).expect("not zero");
        kill_process(pid, signal).unwrap_or_else(|error| panic!("{} cannot be signalled: {error}", self.name));
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        let name = self.name.clone();
        wait::until(&format!("{name} to end"), async || self.poll_end()).await
    }

    /// Its end, if that has come.
    pub fn poll_end(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().expect("our own child")?;
        guardian::forget(self.child.id());
        Some(status)
    }

    /// Kills it at once and waits until it is gone.
    pub fn kill(&mut self) {
        self.end_by(Signal::KILL);
    }

    /// Sends `signal` and waits until it is gone; KILL follows after a few seconds.
    pub fn end_by(&mut self, signal: Signal) {
        if self.poll_end().is_some() {
            return;
        }
        self.signal(signal);
        for _ in 0..1_000 {
            if self.poll_end().is_some() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.child.kill().expect("our own child");
        self.child.wait().expect("our own child");
        guardian::forget(self.child.id());
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    /// The most resident memory it ever had, in bytes.
    pub fn peak_resident_bytes(&self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    /// Processor time used so far, in seconds.
    pub fn cpu_seconds(&self) -> f64 {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).expect("a live process");
        // The name in parentheses may hold anything; fields are counted after it.
        let fields: Vec<&str> = text.rsplit(')').next().expect("a last part").split_whitespace().collect();
        let ticks: f64 = [11, 12].iter().map(|index| fields[*index].parse::<f64>().expect("a number")).sum();
        ticks / 100.0
    }

    /// How many file descriptors it has open.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.id())).expect("a live process").count()
    }

    fn status_bytes(&self, key: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("a live process");
        let line = text.lines().find(|line| line.starts_with(key)).expect("Linux reports it");
        let kibibytes: u64 = line.split_whitespace().nth(1).expect("a value").parse().expect("a number");
        kibibytes * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let end = self.poll_end().map(|status| format!(", which had ended ({})", describe(status))).unwrap_or_default();
            eprintln!("--- last words of {}{end} ---\n{}\n---", self.name, self.log.tail(60));
        }
        self.end_by(self.last_signal);
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "in no known way".to_owned(),
    }
}

/// Lets us (and what we start) open as many files as the system allows: 10,000 clients need 10,000 descriptors on each side.
fn raise_file_limit() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("up to the hard limit is always allowed");
    });
}
