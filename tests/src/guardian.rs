//! Ends what a killed test run leaves behind: a small shell that holds the ids of our servers, and acts when we are gone, however we went.
//!
//! A test that ends in the ordinary way (or panics) stops its own servers on drop; this is for Ctrl-C, a time limit, an abort.

use std::io::Write as _;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock};

use crate::place;

/// Reads `+ PID` and `- PID`. At the end of its input (our death closes the pipe) it ends who is still on the list and removes our files.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
alive=' '
while read -r verb pid; do
  case $verb in
    +) alive="$alive$pid " ;;
    -) case $alive in
         *" $pid "*) before=${alive%% $pid *}; after=${alive#* $pid }; alive="$before $after" ;;
       esac ;;
  esac
done
for pid in $alive; do kill -QUIT "$pid" && waited=1; done 2>/dev/null
[ -z "$waited" ] || sleep 0.5
for pid in $alive; do kill -KILL "$pid"; done 2>/dev/null
rm -rf "$1"
"#;

static GUARDIAN: OnceLock<Mutex<ChildStdin>> = OnceLock::new();

/// Puts a process that we started on the list.
pub fn watch(pid: u32) {
    tell('+', pid);
}

/// Takes a process that has ended off the list.
pub fn forget(pid: u32) {
    tell('-', pid);
}

/// Begins the watch: at our end `root` is removed.
pub fn begin(root: &Path) {
    GUARDIAN.get_or_init(|| Mutex::new(start(root)));
}

fn tell(verb: char, pid: u32) {
    // It begins with our directory, so that this goes, too, when nothing was ever started.
    place::root();
    let mut pipe = GUARDIAN.get().expect("begun with the directory").lock().expect("the guardian's pipe");
    writeln!(pipe, "{verb} {pid}").expect("the guardian lives as long as we do");
}

fn start(root: &Path) -> ChildStdin {
    let mut command = Command::new("sh");
    command.args(["-c", SCRIPT, "guardian"]).arg(root).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // Never waited for: it outlives us by design.
    command.spawn().expect("sh starts").stdin.take().expect("its input is a pipe")
}
