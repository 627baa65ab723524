//! Where finished lines go: standard error, a file that is opened again on request, syslog.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use sidepool_config::pgbouncer::process::Syslog;
use tracing::Level;

/// Where the system's log listens, unless [`SYSLOG_ELSEWHERE`] says otherwise.
const SYSLOG_SOCKET: &str = "/dev/log";

/// The variable that names another socket, as where a container is given one.
const SYSLOG_ELSEWHERE: &str = "SIDEPOOL_SYSLOG_SOCKET";

/// Where lines are to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Targets {
    /// To standard error.
    pub stderr: bool,
    /// To this file.
    pub file: Option<PathBuf>,
    /// To the system's log.
    pub syslog: Option<Syslog>,
}

impl Default for Targets {
    fn default() -> Self {
        Self { stderr: true, file: None, syslog: None }
    }
}

/// One line with how severe it is.
pub(super) struct Line {
    pub(super) level: Level,
    pub(super) text: Box<[u8]>,
}

/// The opened targets. Lives on the thread that writes.
pub(super) struct Opened {
    stderr: bool,
    file: Option<File>,
    syslog: Option<(Syslog, Option<UnixDatagram>)>,
}

impl Opened {
    /// Opens everything; a file that cannot be opened is what fails.
    pub(super) fn open(targets: &Targets) -> io::Result<Self> {
        let file = targets.file.as_deref().map(open).transpose()?;
        let syslog = targets.syslog.clone().map(|syslog| (syslog, connect()));
        Ok(Self { stderr: targets.stderr, file, syslog })
    }

    /// Standard error alone.
    pub(super) fn stderr() -> Self {
        Self { stderr: true, file: None, syslog: None }
    }

    /// Writes a line everywhere. Nobody is left to be told where that does not work.
    pub(super) fn write(&mut self, line: &Line) {
        if self.stderr {
            let _ = io::stderr().write_all(&line.text);
        }
        if let Some(file) = &mut self.file {
            let _ = file.write_all(&line.text);
        }
        if let Some((syslog, socket)) = &mut self.syslog {
            let datagram = datagram(syslog, line);
            let sent = socket.as_ref().is_some_and(|socket| socket.send(&datagram).is_ok());
            if !sent {
                // The system's log may have been started anew.
                *socket = connect();
                let _ = socket.as_ref().map(|socket| socket.send(&datagram));
            }
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

fn connect() -> Option<UnixDatagram> {
    let socket = UnixDatagram::unbound().ok()?;
    socket.connect(std::env::var_os(SYSLOG_ELSEWHERE).unwrap_or_else(|| SYSLOG_SOCKET.into())).ok()?;
    socket.set_nonblocking(true).ok()?;
    Some(socket)
}

/// The line as syslog takes it: priority, name and process, then the message without the time, which syslog adds.
fn datagram(syslog: &Syslog, line: &Line) -> Vec<u8> {
    let severity = match line.level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    };
    let priority = u32::from(syslog.facility) * 8 + severity;
    let mut datagram = format!("<{priority}>{}[{}]: ", syslog.ident, std::process::id()).into_bytes();
    datagram.extend_from_slice(message(&line.text).trim_ascii_end());
    datagram
}

/// What stands behind `TIME [PID] LEVEL `.
fn message(line: &[u8]) -> &[u8] {
    let behind_pid = memchr::memmem::find(line, b"] ").map(|at| &line[at + 2..]);
    behind_pid.and_then(|rest| memchr::memchr(b' ', rest).map(|at| &rest[at + 1..])).unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syslog_gets_the_message_alone() {
        let syslog = Syslog { ident: "pgbouncer".to_owned(), facility: 3 };
        let line =
            Line { level: Level::WARN, text: b"2026-11-21 10:00:00.123 UTC [7] WARNING C-0x1: a/b@c:1 told [x] so\n".as_slice().into() };
        let text = String::from_utf8(datagram(&syslog, &line)).unwrap();
        assert_eq!(text, format!("<28>pgbouncer[{}]: C-0x1: a/b@c:1 told [x] so", std::process::id()));
    }

    #[test]
    fn a_file_is_appended_to_and_one_that_cannot_be_opened_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let targets = Targets { stderr: false, file: Some(path.clone()), syslog: None };
        for _ in 0..2 {
            let line = Line { level: Level::INFO, text: b"line\n".as_slice().into() };
            Opened::open(&targets).unwrap().write(&line);
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), "line\nline\n");
        let targets = Targets { file: Some(directory.path().join("no/log")), ..Targets::default() };
        assert!(Opened::open(&targets).is_err());
    }
}
