//! A pooler started from a `pgbouncer.ini`: sidepool, or Debian's PgBouncer for comparison. Whatever else a test wants of the file is the
//! test's own text; `LISTEN_PORT`, `SOCKET_DIRECTORY` and `USERS_FILE` in it are put in here.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use crate::binary::{self, Build};
use crate::place;
use crate::postgres::cluster::{PASSWORD, USER};
use crate::process::Process;
use crate::wait;

/// Neither of them runs as root; this is `nobody`.
const NOBODY: u32 = 65534;

/// Which program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Ours.
    Sidepool,
    /// Debian's.
    Pgbouncer,
}

/// A running pooler. Ended with the test.
pub struct IniPooler {
    process: Process,
    port: u16,
    directory: PathBuf,
}

impl IniPooler {
    /// Starts `program` with this file and this list of users, and waits until it accepts clients.
    pub async fn start(program: Program, ini: &str, users: &str) -> Self {
        Self::start_with(program, ini, users, &[]).await
    }

    /// As [`IniPooler::start`], with more files beside the two: their names and what is in them.
    pub async fn start_with(program: Program, ini: &str, users: &str, files: &[(&str, &str)]) -> Self {
        Self::start_on(place::free_port(), program, ini, users, files, &[]).await
    }

    /// Starts another one on the same port (`so_reuseport`), and waits until it says that it is up.
    pub async fn start_beside(&self, program: Program, ini: &str, users: &str) -> Self {
        let pooler = Self::start_on(self.port, program, ini, users, &[], &[]).await;
        pooler.process.log().line_with("process up").await;
        pooler
    }

    /// Starts a sidepool on the same port that takes over from this one (`-R`), and waits until it says that it is up.
    pub async fn successor(&self, ini: &str, users: &str) -> Self {
        let pooler = Self::start_on(self.port, Program::Sidepool, ini, users, &[], &["-R"]).await;
        pooler.process.log().line_with("process up").await;
        pooler
    }

    /// As [`IniPooler::start_with`], with these variables in its environment.
    pub async fn start_in(environment: &[(&str, &str)], program: Program, ini: &str, users: &str, files: &[(&str, &str)]) -> Self {
        Self::launch(place::free_port(), environment, program, ini, users, files, &[]).await
    }

    async fn start_on(port: u16, program: Program, ini: &str, users: &str, files: &[(&str, &str)], flags: &[&str]) -> Self {
        Self::launch(port, &[], program, ini, users, files, flags).await
    }

    async fn launch(
        port: u16,
        environment: &[(&str, &str)],
        program: Program,
        ini: &str,
        users: &str,
        files: &[(&str, &str)],
        flags: &[&str],
    ) -> Self {
        let directory = place::directory("ini");
        let users_file = directory.join("userlist.txt");
        let ini = ini
            .replace("LISTEN_PORT", &port.to_string())
            .replace("SOCKET_DIRECTORY", &directory.to_string_lossy())
            .replace("USERS_FILE", &users_file.to_string_lossy());
        for (name, text) in files {
            std::fs::write(directory.join(name), text).expect("our own directory");
        }
        let file = directory.join("pgbouncer.ini");
        std::fs::write(&file, ini).expect("our own directory");
        std::fs::write(&users_file, users).expect("our own directory");
        let mut command = command(program, &directory, &file);
        command.args(flags).envs(environment.iter().copied());
        let process = Process::spawn(&format!("{program:?}"), command);
        let mut pooler = Self { process, port, directory };
        pooler.ready().await;
        pooler
    }

    /// Runs sidepool with these words behind the program's name, as who may run it, until it ends; `directory` is made that user's. Gives its exit
    /// status and everything it printed.
    pub async fn run(directory: &Path, words: &[&str]) -> (ExitStatus, String) {
        let mut command = Command::new(binary::path(Build::Checked));
        command.args(words);
        as_nobody(&mut command, directory);
        let mut process = Process::spawn("sidepool", command);
        let status = process.ended().await;
        let log = process.log().clone();
        wait::until("its last words", async || log.has_ended().then_some(())).await;
        (status, log.tail(usize::MAX))
    }

    /// A directory with `pgbouncer.ini` and a `userlist.txt` with user `app`, for [`IniPooler::run`]; the words in capitals are put in as in
    /// [`IniPooler::start`].
    pub fn directory_with(ini: &str) -> PathBuf {
        let directory = place::directory("ini");
        put(&directory, "userlist.txt", &format!("\"{USER}\" \"{PASSWORD}\"\n"));
        put(&directory, "pgbouncer.ini", &filled(ini, place::free_port(), &directory));
        directory
    }

    /// Replaces its configuration.
    pub fn rewrite(&self, ini: &str) {
        put(&self.directory, "pgbouncer.ini", &filled(ini, self.port, &self.directory));
    }

    /// Where clients connect.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of its Unix socket and its files.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its process: log, signals.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Its process, to end it.
    pub fn process_mut(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The text without what is different each time: ports and directories.
    pub fn without_ports(&self, text: &str, server: u16) -> String {
        text.replace(&self.directory.to_string_lossy().into_owned(), "SOCKET_DIRECTORY")
            .replace(&self.port.to_string(), "LISTEN_PORT")
            .replace(&server.to_string(), "SERVER_PORT")
    }

    async fn ready(&mut self) {
        wait::until("the pooler to listen", async || {
            if let Some(status) = self.process.poll_end() {
                panic!("the pooler ended at once ({status})");
            }
            tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.ok().map(drop)
        })
        .await;
    }
}

fn command(program: Program, directory: &Path, file: &Path) -> Command {
    let mut command = match program {
        Program::Sidepool => Command::new(binary::path(Build::Checked)),
        Program::Pgbouncer => Command::new("/usr/sbin/pgbouncer"),
    };
    command.arg(file);
    as_nobody(&mut command, directory);
    command
}

/// Where this process is root's, the command is nobody's, and so is the directory.
fn as_nobody(command: &mut Command, directory: &Path) {
    if rustix::process::getuid().is_root() {
        chown(directory, Some(NOBODY), Some(NOBODY)).expect("root may give away its files");
        for entry in std::fs::read_dir(directory).expect("our own directory").flatten() {
            std::fs::set_permissions(entry.path(), std::fs::Permissions::from_mode(0o644)).expect("our own file");
        }
        command.uid(NOBODY).gid(NOBODY);
    }
}

/// The text with what is different each time.
fn filled(ini: &str, port: u16, directory: &Path) -> String {
    ini.replace("LISTEN_PORT", &port.to_string())
        .replace("SOCKET_DIRECTORY", &directory.to_string_lossy())
        .replace("USERS_FILE", &directory.join("userlist.txt").to_string_lossy())
}

/// Writes a file that is replaced as a whole.
fn put(directory: &Path, name: &str, text: &str) {
    let new = directory.join(format!(".{name}.new"));
    std::fs::write(&new, text).expect("our own directory");
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o644)).expect("our own file");
    std::fs::rename(&new, directory.join(name)).expect("the same directory");
}
