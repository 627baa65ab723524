//! Notices that configuration files have changed: by events where the kernel gives them, by a slow look at their contents everywhere.
//!
//! It is the *directories* that are watched: a mounted ConfigMap changes by a rename of a link beside the file, which a watch on the file does
//! not survive. Of the events in them only those count that bear the name of a file or of something on the way to it: our own log may lie
//! beside it. Events only say that it is time to look; whether anything changed is decided by a hash of the contents, as time stamps lie.
//! Not here: what happens then (`app::reloading`).

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::future::pending;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, RemoveKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::clock;

/// How long after the first event the files are read: editors and mounts change them in several steps.
pub const SETTLE: Duration = Duration::from_millis(250);

/// How often the files are looked at without any event.
pub const POLL: Duration = Duration::from_secs(10);

/// The most links that are followed on the way to one file, as the kernel does it.
const MOST_LINKS: usize = 40;

/// The names of the files that are watched, and of the links and directories that lead to them.
type Names = BTreeSet<OsString>;

/// Tells when to look at the files again.
pub struct FileWatch {
    events: mpsc::Receiver<()>,
    sender: mpsc::Sender<()>,
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    names: Arc<Mutex<Names>>,
    next_poll: Instant,
    settled_at: Option<Instant>,
}

impl FileWatch {
    /// Watches the directories of these files. Without events (too many watchers on the machine, a file system that has none) it polls, and
    /// says so once.
    pub fn start<'a>(files: impl Iterator<Item = &'a Path>) -> Self {
        let (sender, events) = mpsc::channel(1);
        let mut watch = Self {
            events,
            sender,
            watcher: None,
            watched: BTreeSet::new(),
            names: Arc::default(),
            next_poll: in_time(POLL),
            settled_at: None,
        };
        watch.follow(files);
        watch
    }

    /// Watches the directories of these files from now on, if they are others than before.
    pub fn follow<'a>(&mut self, files: impl Iterator<Item = &'a Path>) {
        let (mut wanted, mut names) = (BTreeSet::new(), Names::new());
        for file in files {
            wanted.insert(directory_of(file));
            add_names(file, &mut names);
        }
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = names;
        if wanted == self.watched {
            return;
        }
        self.watcher = None;
        if !wanted.is_empty() {
            match watcher(&wanted, Arc::clone(&self.names), self.sender.clone()) {
                Ok(watcher) => self.watcher = Some(watcher),
                Err(error) => {
                    let every = POLL.as_secs();
                    tracing::warn!(%error, "no events for changed configuration files; looking at their contents every {every} s instead");
                }
            }
        }
        self.watched = wanted;
    }

    /// Waits until it is time to look at the files: for ever if there are none. May be dropped and called again: what has happened is not forgotten.
    pub async fn changed(&mut self) {
        if self.watched.is_empty() {
            return pending().await;
        }
        if self.settled_at.is_none() && timeout_at(self.next_poll, self.events.recv()).await.is_ok() {
            self.settled_at = Some(in_time(SETTLE));
        }
        if let Some(settled_at) = self.settled_at {
            sleep_until(settled_at).await;
            while self.events.try_recv().is_ok() {}
        }
        self.settled_at = None;
        self.next_poll = in_time(POLL);
    }
}

fn in_time(duration: Duration) -> Instant {
    Instant::from_std(clock::now()) + duration
}

fn watcher(directories: &BTreeSet<PathBuf>, names: Arc<Mutex<Names>>, sender: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        if event.as_ref().is_ok_and(|event| is_read_only(event) || !concerns(event, &names.lock().unwrap_or_else(PoisonError::into_inner)))
        {
            return;
        }
        // Full means that somebody is about to look already. An error (an overflow) is as good a reason to look as an event.
        let _ = sender.try_send(());
    })?;
    for directory in directories {
        watcher.watch(directory, RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}

/// Our own reading of the files must not make us read them again.
fn is_read_only(event: &Event) -> bool {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
        EventKind::Access(_) => true,
        EventKind::Any | EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_) | EventKind::Other => false,
    }
}

/// Whether the event is about one of the names, or about no file in particular: lost events, a directory that has gone.
fn concerns(event: &Event, names: &Names) -> bool {
    let about_a_directory = event.paths.is_empty() || event.need_rescan() || matches!(event.kind, EventKind::Remove(RemoveKind::Folder));
    about_a_directory || event.paths.iter().filter_map(|path| path.file_name()).any(|name| names.contains(name))
}

/// The name of the file, and of everything that its links lead through: a mounted ConfigMap has `sidepool.toml` as a link into `..data`, which
/// is a link itself, and the one that changes.
fn add_names(file: &Path, names: &mut Names) {
    names.extend(file.file_name().map(OsString::from));
    let mut to_follow = vec![file.to_owned()];
    for _ in 0..MOST_LINKS {
        let Some(path) = to_follow.pop() else { return };
        let Ok(target) = path.read_link() else { continue };
        let mut reached = directory_of(&path);
        for step in target.components() {
            reached.push(step);
            if let Component::Normal(name) = step {
                names.insert(name.to_owned());
                to_follow.push(reached.clone());
            }
        }
    }
}

fn directory_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        Some(_) | None => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use tokio::time::timeout;

    use super::*;

    #[test]
    fn names_are_those_of_the_file_and_of_all_that_leads_to_it() {
        let mount = tempfile::tempdir().unwrap();
        fs::create_dir(mount.path().join("..1")).unwrap();
        symlink("..1", mount.path().join("..data")).unwrap();
        symlink("..data/s.toml", mount.path().join("s.toml")).unwrap();
        symlink("round", mount.path().join("round")).unwrap();
        let mut names = Names::new();
        add_names(&mount.path().join("s.toml"), &mut names);
        assert_eq!(names, Names::from(["..1", "..data", "s.toml"].map(OsString::from)));
        add_names(&mount.path().join("round"), &mut names);
        add_names(Path::new("/"), &mut names);
        assert_eq!(names.len(), 4);
    }

    #[tokio::test]
    async fn a_file_beside_the_watched_one_wakes_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let (watched, log) = (directory.path().join("s.toml"), directory.path().join("log"));
        fs::write(&watched, "1").unwrap();
        let mut watch = FileWatch::start([watched.as_path()].into_iter());
        let Some(_) = watch.watcher else { return eprintln!("this machine gives no events: not tested") };
        for line in 0..20 {
            fs::write(&log, line.to_string()).unwrap();
            fs::rename(&log, directory.path().join("log.old")).unwrap();
        }
        assert!(timeout(4 * SETTLE, watch.changed()).await.is_err(), "its own log");
        fs::write(&watched, "2").unwrap();
        assert!(timeout(POLL / 2, watch.changed()).await.is_ok());
    }
}
