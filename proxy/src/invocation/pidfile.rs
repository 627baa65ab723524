//! The file with our process number: another live process in it stops us, a dead one's is removed, and ours goes when we do.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

/// What was found at the place of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// No file.
    Nothing,
    /// One of a process that is gone; it was removed.
    Stale,
}

/// Makes room for our file, or says why there is none.
pub(crate) fn check(path: &Path) -> Result<Found, String> {
    let shown = path.display();
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(format!("could not open pidfile '{shown}': {error}")),
    };
    let pid = text.trim().parse::<i32>().ok().filter(|pid| *pid > 0).and_then(Pid::from_raw);
    match pid.map(test_kill_process) {
        Some(Err(Errno::SRCH)) => match fs::remove_file(path) {
            Ok(()) => Ok(Found::Stale),
            Err(error) => Err(format!("could not remove stale pidfile: {error}")),
        },
        Some(Ok(()) | Err(_)) | None => Err(format!("pidfile '{shown}' exists, another instance running?")),
    }
}

/// Our file; removed when this is dropped, unless somebody else's has taken its place.
#[derive(Debug)]
pub struct Pidfile {
    path: PathBuf,
}

impl Pidfile {
    /// Writes it in the place of another process's.
    pub(crate) fn replace(path: &Path) -> Result<Self, String> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(format!("could not replace pidfile '{}': {error}", path.display())),
            Ok(()) | Err(_) => Self::write(path),
        }
    }

    /// Writes it where there is none.
    pub(crate) fn write(path: &Path) -> Result<Self, String> {
        let cannot = |what: &str, error| format!("could not {what} pidfile '{}': {error}", path.display());
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(path).map_err(|error| cannot("open", error))?;
        let ours = Self { path: path.to_owned() };
        writeln!(file, "{}", std::process::id()).map_err(|error| cannot("write", error))?;
        Ok(ours)
    }
}

impl Drop for Pidfile {
    fn drop(&mut self) {
        let is_ours = fs::read_to_string(&self.path).is_ok_and(|text| text.trim() == std::process::id().to_string());
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the pidfile");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_process_keeps_its_file_and_a_dead_one_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        assert_eq!(check(&path), Ok(Found::Nothing));
        let ours = Pidfile::write(&path).unwrap();
        assert_eq!(check(&path).unwrap_err(), format!("pidfile '{}' exists, another instance running?", path.display()));
        assert!(Pidfile::write(&path).unwrap_err().starts_with("could not open pidfile"));
        drop(ours);
        assert!(!path.exists());
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        fs::write(&path, format!("{}\n", child.id())).unwrap();
        assert_eq!(check(&path), Ok(Found::Stale));
        assert!(!path.exists());
        for text in ["", "what", "0", "-3"] {
            fs::write(&path, text).unwrap();
            assert!(check(&path).is_err(), "{text}: left alone");
        }
    }

    #[test]
    fn a_successors_file_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        let ours = Pidfile::write(&path).unwrap();
        fs::write(&path, "1\n").unwrap();
        drop(ours);
        assert!(path.exists());
    }
}
