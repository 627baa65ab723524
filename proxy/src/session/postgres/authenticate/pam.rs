//! Asks the operating system (PAM) whether a password is right: by the program `sidepool-pam`, started for each login.
//!
//! A process of its own bounds what the modules of PAM may do: one that hangs is killed when the login's time is up or the client leaves, one
//! that crashes costs one login, and none runs beside other threads. Not here: the conversation itself (`proxy/pam`).

use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use sidepool_config::secret::Secret;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::sync::Semaphore;

/// The program, which lies beside our own.
const PROGRAM: &str = "sidepool-pam";
/// How long one answer may take, where logins may take for ever.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How much the program may say about its answer.
const MOST_WORDS: u64 = 1024;

/// What PAM says.
pub(super) enum Answer {
    Yes,
    No,
    /// It cannot be asked.
    Nobody,
}

/// One password.
pub(super) struct Question<'a> {
    pub(super) service: &'a str,
    pub(super) user: &'a str,
    /// The client's address.
    pub(super) from: &'a str,
    pub(super) password: &'a Secret,
}

impl Question<'_> {
    /// Waits for a turn, and for the answer.
    pub(super) async fn ask(&self, turns: &Semaphore) -> Answer {
        let Ok(_turn) = turns.acquire().await else { return Answer::Nobody };
        let user = self.user;
        let (status, words) = match tokio::time::timeout(TIMEOUT, self.put()).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                tracing::error!(%error, "PAM cannot be asked: is {PROGRAM} beside sidepool's own program?");
                return Answer::Nobody;
            }
            Err(_) => {
                tracing::warn!(user, service = self.service, "PAM did not answer within {} s", TIMEOUT.as_secs());
                return Answer::No;
            }
        };
        match status.code() {
            Some(0) => Answer::Yes,
            Some(1) => {
                tracing::warn!(user, service = self.service, "{words}");
                Answer::No
            }
            Some(_) | None => {
                tracing::error!(user, service = self.service, "PAM cannot be asked ({status}): {words}");
                Answer::Nobody
            }
        }
    }

    /// Runs the program. When this future is dropped, it is killed.
    async fn put(&self) -> io::Result<(ExitStatus, String)> {
        let mut command = Command::new(program()?);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            let Self { service, user, from, password } = self;
            let question = Secret::new(format!("{service}\0{user}\0{from}\0{}", password.reveal()));
            // A program that ends without having listened says why by how it ends.
            let _ = stdin.write_all(question.reveal().as_bytes()).await;
        }
        let mut words = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout.take(MOST_WORDS).read_to_end(&mut words).await?;
        }
        let status = child.wait().await?;
        Ok((status, String::from_utf8_lossy(&words).trim_end().replace('\n', " ")))
    }
}

fn program() -> io::Result<PathBuf> {
    let ours = std::env::current_exe()?;
    let beside = ours.with_file_name(PROGRAM);
    match beside.try_exists()? {
        true => Ok(beside),
        false => Err(io::Error::new(io::ErrorKind::NotFound, format!("{} does not exist", beside.display()))),
    }
}
