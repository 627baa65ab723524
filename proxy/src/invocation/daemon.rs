//! Going into the background. A process with threads cannot fork, and forking is not safe Rust: the program starts itself once more, with a mark
//! in its environment by which the new process knows that it is the daemon.

use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::clock;

/// Set in the environment of the daemon. What it is set to does not matter.
const MARK: &str = "SIDEPOOL_IS_DAEMON";

/// How long the daemon may take to be ready.
const PATIENCE: Duration = Duration::from_mins(1);

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// Whether this process is the daemon.
pub(crate) fn is_daemon() -> bool {
    std::env::var_os(MARK).is_some()
}

/// Leaves the terminal and the session of who started us.
pub(crate) fn detach() {
    // Fails only if we lead a session of our own already.
    let _ = rustix::process::setsid();
}

/// Starts the daemon, and waits until it is ready: `ready` is asked with its process number.
pub(crate) fn start(ready: impl Fn(u32) -> bool) -> Result<(), String> {
    let program = std::env::current_exe().map_err(|error| format!("fork failed: {error}"))?;
    let mut command = Command::new(program);
    command.args(std::env::args_os().skip(1)).env(MARK, "1");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if let Some(name) = std::env::args_os().next() {
        std::os::unix::process::CommandExt::arg0(&mut command, name);
    }
    let mut child = command.spawn().map_err(|error| format!("fork failed: {error}"))?;
    let begun = clock::now();
    while clock::now().saturating_duration_since(begun) < PATIENCE {
        if ready(child.id()) {
            return Ok(());
        }
        if let Some(status) = ended(&mut child) {
            return Err(format!("the daemon ended at its start ({status}); its log says why"));
        }
        rest();
    }
    Err(format!("the daemon (process {}) was not ready within {} s; its log may say why", child.id(), PATIENCE.as_secs()))
}

#[expect(clippy::disallowed_methods, reason = "this process serves nobody")]
fn rest() {
    std::thread::sleep(LOOK);
}

fn ended(child: &mut Child) -> Option<ExitStatus> {
    child.try_wait().ok().flatten()
}
