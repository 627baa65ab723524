//! A real terminal (tmux) in which a program runs: keys go in, the screen comes out.

use std::path::PathBuf;
use std::process::Command;

use crate::{place, wait};

/// A terminal of its own, ended with the test.
pub struct Terminal {
    socket: PathBuf,
}

impl Terminal {
    /// Starts `command` (for a shell) in one of so many columns and lines; when it ends, its exit status stands on the screen.
    pub fn start(columns: u16, lines: u16, command: &str) -> Self {
        let terminal = Self { socket: place::directory("terminal").join("socket") };
        let size = [columns.to_string(), lines.to_string()];
        let command = format!("{command}; echo \"ended with $?\"; cat");
        let mut tmux = terminal.tmux();
        tmux.args(["-f", "/dev/null", "new-session", "-d", "-x", &size[0], "-y", &size[1], &command]);
        tmux.env("TERM", "xterm-256color").env("LC_ALL", "C.UTF-8");
        assert!(tmux.status().expect("tmux is installed").success(), "tmux starts");
        terminal
    }

    fn tmux(&self) -> Command {
        let mut tmux = Command::new("tmux");
        tmux.arg("-S").arg(&self.socket);
        tmux
    }

    /// Presses keys, by tmux' names for them.
    pub fn press(&self, keys: &[&str]) {
        assert!(self.tmux().arg("send-keys").args(keys).status().expect("tmux runs").success(), "{keys:?}");
    }

    /// What stands on the screen.
    pub fn screen(&self) -> String {
        let output = self.tmux().args(["capture-pane", "-p"]).output().expect("tmux runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Waits until the screen is as it should be, and gives it.
    pub async fn shows(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let mut last = LastScreen(String::new());
        wait::until(what, async || {
            last.0 = self.screen();
            wanted(&last.0).then(|| last.0.clone())
        })
        .await
    }

    /// Closes it, with whatever runs in it.
    pub fn close(&self) {
        assert!(self.tmux().arg("kill-server").status().expect("tmux runs").success(), "it is there");
    }

    /// The process that runs in it: the shell.
    pub fn shell(&self) -> u32 {
        let output = self.tmux().args(["list-panes", "-F", "#{pane_pid}"]).output().expect("tmux runs");
        String::from_utf8_lossy(&output.stdout).trim().parse().expect("a process")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.tmux().arg("kill-server").status();
    }
}

/// Printed when the test fails while it waits for another one.
struct LastScreen(String);

impl Drop for LastScreen {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the screen ---\n{}---", self.0);
        }
    }
}
